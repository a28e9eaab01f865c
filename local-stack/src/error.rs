//! What can go wrong while the processes of the stack are started, stopped and started again.

use std::path::{Path, PathBuf};

use crate::sql_server::SqlServerError;

/// Why a process of the stack is not there.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A program that the stack needs was found nowhere.
    #[error(
        "{program} was found neither in a .tools folder nor on PATH: \
         run `make tools` in the project's folder, or name its tools folder in NATS_SQL_SINK_TOOLS"
    )]
    ToolMissing {
        /// The program's name.
        program: &'static str,
    },
    /// A program ended, or was not ready in time, instead of serving.
    #[error("{program} did not start: {reason}{}", tail(.log))]
    Start {
        /// The program's name.
        program: &'static str,
        /// What was seen of it.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The operating system refused something on the way.
    #[error("cannot {action}")]
    Io {
        /// What was tried, with the path.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// PostgreSQL never runs as root, and no other user could be used in its place.
    #[error("postgres refuses to run as root, and {reason}")]
    NoUser {
        /// Why no other user can run it.
        reason: String,
    },
    /// The TDS server in front of PostgreSQL did not start.
    #[error("the SQL server did not start")]
    SqlServer(#[from] SqlServerError),
}

impl StackError {
    /// For `map_err`: what was being done with `path` when the operating system refused.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = PathBuf::from(path);
        move |source| Self::Io { action: format!("{action} {}", path.display()), source }
    }
}

fn tail(log: &str) -> String {
    if log.trim().is_empty() { String::new() } else { format!("; its log ends with:\n{}", log.trim_end()) }
}
