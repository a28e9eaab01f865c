//! Finds the programs that the stack runs: `nats-server`, and PostgreSQL's `postgres` and `initdb`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::StackError;

/// Names a tools folder: one that holds `bin/nats-server` and `pgsql/bin/postgres`.
pub const TOOLS_VARIABLE: &str = "NATS_SQL_SINK_TOOLS";

/// The tools folder that `make tools` fills, in the project's folder.
const TOOLS_FOLDER: &str = ".tools";

/// Where to look for programs.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    /// Tools folders, in the order in which they are tried.
    folders: Vec<PathBuf>,
    /// The folders of PATH: tried last, so that what the project pinned wins.
    path: Vec<PathBuf>,
}

impl Tools {
    /// Looks where a user may have put them: the folder named by [`TOOLS_VARIABLE`], then `.tools` in the
    /// current folder or above it, then `.tools` beside or above the running program, then PATH.
    pub fn from_environment() -> Self {
        let current = std::env::current_dir().ok();
        let program = std::env::current_exe().ok();
        Self::new(
            std::env::var_os(TOOLS_VARIABLE).filter(|folder| !folder.is_empty()).as_deref(),
            current.as_deref(),
            program.as_deref(),
            std::env::var_os("PATH").as_deref(),
        )
    }

    fn new(
        named: Option<&OsStr>,
        current: Option<&Path>,
        program: Option<&Path>,
        path: Option<&OsStr>,
    ) -> Self {
        let above = |start: Option<&Path>| {
            let ancestors = start.into_iter().flat_map(Path::ancestors);
            ancestors.map(|folder| folder.join(TOOLS_FOLDER)).collect::<Vec<_>>()
        };
        let mut folders: Vec<PathBuf> = named.map(PathBuf::from).into_iter().collect();
        folders.extend(above(current));
        folders.extend(above(program));
        Self { folders, path: path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default() }
    }

    /// The `nats-server` program.
    pub fn nats_server(&self) -> Result<PathBuf, StackError> {
        let installed = self.folders.iter().map(|folder| folder.join("bin"));
        installed
            .chain(self.path.iter().cloned())
            .map(|folder| folder.join("nats-server"))
            .find(|program| program.is_file())
            .and_then(|program| program.canonicalize().ok())
            .ok_or(StackError::ToolMissing { program: "nats-server" })
    }

    /// The folder that holds both `postgres` and `initdb`.
    pub fn postgres_folder(&self) -> Result<PathBuf, StackError> {
        let installed = self.folders.iter().map(|folder| folder.join("pgsql").join("bin"));
        installed
            .chain(self.path.iter().cloned())
            // distributions link `postgres` alone into PATH: `initdb` is where the link points
            .filter_map(|folder| folder.join("postgres").canonicalize().ok())
            .filter_map(|program| program.parent().map(Path::to_path_buf))
            .find(|folder| folder.join("postgres").is_file() && folder.join("initdb").is_file())
            .ok_or(StackError::ToolMissing { program: "postgres" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    fn fixture() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        (folder, root)
    }

    #[test]
    fn the_named_folder_wins_over_the_project_and_the_project_over_path() {
        let (_keep, root) = fixture();
        let (named, project, path) = (root.join("named"), root.join("project"), root.join("usr"));
        let tools =
            || Tools::new(Some(named.as_os_str()), Some(&project.join("a/b")), None, Some(path.as_os_str()));

        touch(&path.join("nats-server"));
        assert_eq!(tools().nats_server().unwrap(), path.join("nats-server"));
        touch(&project.join(".tools/bin/nats-server"));
        assert_eq!(tools().nats_server().unwrap(), project.join(".tools/bin/nats-server"));
        touch(&named.join("bin/nats-server"));
        assert_eq!(tools().nats_server().unwrap(), named.join("bin/nats-server"));
    }

    #[test]
    fn tools_are_found_above_the_running_program() {
        let (_keep, root) = fixture();
        touch(&root.join(".tools/pgsql/bin/postgres"));
        touch(&root.join(".tools/pgsql/bin/initdb"));
        let tools = Tools::new(None, None, Some(&root.join("target/release/nats-sql-sink")), None);
        assert_eq!(tools.postgres_folder().unwrap(), root.join(".tools/pgsql/bin"));
    }

    #[test]
    fn postgres_without_initdb_is_passed_over_and_links_are_followed() {
        let (_keep, root) = fixture();
        touch(&root.join("half/postgres"));
        touch(&root.join("lib/postgres"));
        touch(&root.join("lib/initdb"));
        std::fs::create_dir(root.join("bin")).unwrap();
        std::os::unix::fs::symlink(root.join("lib/postgres"), root.join("bin/postgres")).unwrap();
        let path = std::env::join_paths([root.join("half"), root.join("bin")]).unwrap();
        let tools = Tools::new(None, None, None, Some(&path));
        assert_eq!(tools.postgres_folder().unwrap(), root.join("lib"));
    }

    #[test]
    fn what_is_missing_is_an_error_that_says_what_to_type() {
        let error = Tools::default().nats_server().unwrap_err();
        assert!(matches!(error, StackError::ToolMissing { program: "nats-server" }));
        assert!(error.to_string().contains("make tools"));
        assert!(Tools::default().postgres_folder().is_err());
    }
}
