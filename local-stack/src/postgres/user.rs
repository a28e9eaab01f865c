//! PostgreSQL refuses to run as root. Started by root, it runs as another user, who must be able to enter
//! every folder it needs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, chown};
use tempfile::TempDir;

use crate::error::StackError;
use crate::process::RunAs;

/// Exists on practically every system, owns nothing, and has no password.
const SUBSTITUTE: &str = "nobody";

/// Whom PostgreSQL runs as: `None` is this process' own user.
pub(super) fn substitute() -> Result<Option<RunAs>, StackError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name(SUBSTITUTE).ok().flatten();
    let user = user.filter(|user| !user.uid.is_root());
    user.map(|user| Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() })).ok_or_else(|| {
        StackError::NoUser { reason: format!("this system has no user named {SUBSTITUTE} to run it instead") }
    })
}

/// Whether the user may enter this folder, and therefore every folder above it.
pub(super) fn may_enter(run_as: Option<RunAs>, folder: &Path) -> bool {
    let Some(run_as) = run_as else { return true };
    let Ok(folder) = folder.canonicalize() else { return false };
    folder.ancestors().all(|folder| permitted(run_as, folder, 0o1))
}

/// Whether the mode bits of one file or folder give the user these rights. Access control lists are not read:
/// at worst a folder is copied that need not have been.
fn permitted(run_as: RunAs, path: &Path, rights: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        let shift = match (metadata.uid() == run_as.uid, metadata.gid() == run_as.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        (metadata.mode() >> shift) & rights == rights
    })
}

/// Makes a temporary folder that belongs to the user and that it can enter: TMPDIR may lie in root's home.
pub(super) fn temporary_folder(run_as: Option<RunAs>) -> Result<TempDir, StackError> {
    folder_in(run_as, &[&std::env::temp_dir(), Path::new("/tmp"), Path::new("/var/tmp")])
}

fn folder_in(run_as: Option<RunAs>, parents: &[&Path]) -> Result<TempDir, StackError> {
    let parent = parents.iter().find(|parent| may_enter(run_as, parent)).ok_or_else(|| {
        StackError::NoUser { reason: format!("the user {SUBSTITUTE} can enter no temporary folder") }
    })?;
    let folder = tempfile::Builder::new().prefix("nats-sql-sink-postgres-").tempdir_in(parent);
    let folder = folder.map_err(StackError::io("make a folder in", parent))?;
    give(run_as, folder.path())?;
    Ok(folder)
}

/// Makes, or finds again, the folder that is to keep the server's files. Where the user cannot go (root's home,
/// most of all) it becomes a link to a folder below /var/tmp, which outlives a restart of the machine.
pub(super) fn lasting_folder(run_as: Option<RunAs>, folder: &Path) -> Result<PathBuf, StackError> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_symlink() && !folder.exists() {
        // what it led to was cleaned away
        std::fs::remove_file(folder).map_err(StackError::io("remove the dangling link", folder))?;
    }
    if !folder.exists() {
        std::fs::create_dir_all(parent).map_err(StackError::io("make the folder", parent))?;
        if may_enter(run_as, parent) {
            std::fs::create_dir(folder).map_err(StackError::io("make the folder", folder))?;
            give(run_as, folder)?;
        } else {
            let elsewhere = folder_in(run_as, &[Path::new("/var/tmp"), Path::new("/tmp")])?.keep();
            tracing::info!(
                link = %folder.display(), to = %elsewhere.display(), user = SUBSTITUTE,
                "the user that runs postgres cannot enter the folder: its files are elsewhere"
            );
            std::os::unix::fs::symlink(&elsewhere, folder)
                .map_err(StackError::io("make the link", folder))?;
        }
    }
    let folder = folder.canonicalize().map_err(StackError::io("find the folder", folder))?;
    match run_as {
        Some(user) if !permitted(user, &folder, 0o3) || !may_enter(run_as, &folder) => {
            Err(StackError::NoUser {
                reason: format!(
                    "the user {SUBSTITUTE}, who runs it instead, cannot use the folder {}: remove it, or choose another",
                    folder.display()
                ),
            })
        }
        _ => Ok(folder),
    }
}

/// The folder of PostgreSQL's programs as the user can run them: the given one, or a copy in `scratch` when
/// it lies where only root can go.
pub(super) fn runnable(
    run_as: Option<RunAs>,
    programs: &Path,
    scratch: &Path,
) -> Result<PathBuf, StackError> {
    let Some(user) = run_as else { return Ok(programs.to_path_buf()) };
    let installation = programs.parent().unwrap_or(programs);
    // programs find `lib` and `share` relative to themselves; distributions keep them elsewhere, open to all
    let parts = ["lib", "share"].map(|part| installation.join(part));
    let usable = may_enter(run_as, programs)
        && ["postgres", "initdb"].iter().all(|name| permitted(user, &programs.join(name), 0o5))
        && parts.iter().all(|part| !part.exists() || permitted(user, part, 0o5));
    if usable {
        return Ok(programs.to_path_buf());
    }
    let copy = scratch.join("pgsql");
    tracing::debug!(from = %installation.display(), to = %copy.display(), "copying postgres to where it may run");
    for part in ["lib", "share"] {
        if installation.join(part).is_dir() {
            copy_tree(run_as, &installation.join(part), &copy.join(part))?;
        }
    }
    for name in ["postgres", "initdb"] {
        copy_file(run_as, &programs.join(name), &copy.join("bin").join(name))?;
    }
    give(run_as, &copy)?;
    give(run_as, &copy.join("bin"))?;
    Ok(copy.join("bin"))
}

/// Makes the user the owner.
pub(super) fn give(run_as: Option<RunAs>, path: &Path) -> Result<(), StackError> {
    let Some(RunAs { uid, gid }) = run_as else { return Ok(()) };
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(std::io::Error::from)
        .map_err(StackError::io("change the owner of", path))
}

fn copy_tree(run_as: Option<RunAs>, from: &Path, to: &Path) -> Result<(), StackError> {
    std::fs::create_dir_all(to).map_err(StackError::io("make the folder", to))?;
    for entry in std::fs::read_dir(from).map_err(StackError::io("read the folder", from))? {
        let source = entry.map_err(StackError::io("read the folder", from))?.path();
        let Some(name) = source.file_name() else { continue };
        if source.is_dir() {
            copy_tree(run_as, &source, &to.join(name))?;
        } else {
            copy_file(run_as, &source, &to.join(name))?;
        }
    }
    give(run_as, to)
}

fn copy_file(run_as: Option<RunAs>, from: &Path, to: &Path) -> Result<(), StackError> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(StackError::io("make the folder", parent))?;
    }
    std::fs::copy(from, to).map_err(StackError::io("copy", from))?;
    give(run_as, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const STRANGER: RunAs = RunAs { uid: 54_321, gid: 54_321 };

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_below_a_closed_one_cannot_be_entered() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        set_mode(&inner, 0o755);
        set_mode(root.path(), 0o755);
        assert!(may_enter(Some(STRANGER), &inner));
        set_mode(root.path(), 0o700);
        assert!(!may_enter(Some(STRANGER), &inner));
        assert!(may_enter(None, &inner));
    }

    #[test]
    fn programs_in_a_closed_folder_are_copied_with_their_libraries() {
        let root = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        for file in ["bin/postgres", "bin/initdb", "lib/a/libpq.so", "share/postgres.bki"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, file).unwrap();
            set_mode(&path, 0o755);
        }
        set_mode(root.path(), 0o700);
        let programs = root.path().join("bin");
        assert_eq!(runnable(None, &programs, scratch.path()).unwrap(), programs);
        // to change an owner takes root; to find out that a copy is needed does not
        if let Some(user) = substitute().unwrap() {
            let copy = runnable(Some(user), &programs, scratch.path()).unwrap();
            assert_eq!(copy, scratch.path().join("pgsql/bin"));
            assert_eq!(std::fs::read_to_string(copy.join("../lib/a/libpq.so")).unwrap(), "lib/a/libpq.so");
            assert!(permitted(user, &copy.join("postgres"), 0o5));
        }
    }
}
