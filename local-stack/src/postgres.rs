//! A real PostgreSQL, on a port and in a folder of its own.
//!
//! # What survives a crash
//!
//! The process may be killed at any moment and must not lose a committed transaction; the machine's power may
//! not fail. That decides the settings:
//!
//! - `fsync = off` is safe. A commit is answered after its write-ahead log was handed to the kernel by
//!   `write`, and what the kernel holds outlives every process. `fsync` guards against the kernel's own end.
//! - `synchronous_commit` stays **on**. Off, a commit is answered while its log is still in the server's shared
//!   memory, and that is gone with the process.
//! - `full_page_writes` stays **on**. A SIGKILL may end a `write` between the two kernel pages of one page of
//!   the database, and only the full page in the log can mend that. Pages that a load fills from empty are not
//!   logged twice, so it costs a bulk load nothing.
//! - `wal_level = minimal` is safe: a table made and loaded in one transaction is written to its file, instead
//!   of the log, before the commit is answered.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::error::StackError;
use crate::password;
use crate::port::free_port;
use crate::process::{Process, ProcessOptions, RunAs, log_tail};
use crate::tools::Tools;

mod user;

/// The name used in errors and logs.
const NAME: &str = "postgres";
/// The role that owns everything.
const SUPERUSER: &str = "postgres";
/// Holds the superuser's password: a superuser may run programs.
const PASSWORD_FILE: &str = "password";
/// A crash recovery on a slow disk included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A fast shutdown writes a checkpoint first.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// Another process may take a free port before the server does.
const PORT_TRIES: usize = 5;

/// How to start a PostgreSQL.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Where the programs are.
    pub tools: Tools,
    /// The port on 127.0.0.1; `None` takes a free one.
    pub port: Option<u16>,
    /// The folder that keeps the server's files, made when it is missing; `None` makes a temporary one, which is
    /// gone after the drop.
    pub data_dir: Option<PathBuf>,
    /// Connections that the server takes at a time.
    pub max_connections: u16,
    /// More of the server's own settings, as in `postgresql.conf`; they win over ours.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            tools: Tools::from_environment(),
            port: None,
            data_dir: None,
            max_connections: 200,
            settings: Vec::new(),
        }
    }
}

/// A running PostgreSQL. Dropping it stops it; so does the end of this process, however it ends.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    programs: PathBuf,
    folder: PathBuf,
    run_as: Option<RunAs>,
    port: u16,
    password: String,
    settings: Vec<(String, String)>,
    /// Last, so that it is removed after the process is gone.
    temporary: Option<TempDir>,
    /// Holds the copied programs, where a copy was needed and the data is not temporary itself.
    _scratch: Option<TempDir>,
}

impl Postgres {
    /// Makes the database when its folder is new, starts the server and waits until it takes connections.
    pub async fn start(options: PostgresOptions) -> Result<Self, StackError> {
        let PostgresOptions { tools, port, data_dir, max_connections, settings } = options;
        let programs = tools.postgres_folder()?;
        let run_as = user::substitute()?;

        let (temporary, folder) = match data_dir {
            Some(folder) => (None, user::lasting_folder(run_as, &folder)?),
            None => {
                let temporary = user::temporary_folder(run_as)?;
                let folder = temporary.path().canonicalize();
                let folder = folder.map_err(StackError::io("find the folder", temporary.path()))?;
                (Some(temporary), folder)
            }
        };
        let scratch = match &temporary {
            None if run_as.is_some() => Some(user::temporary_folder(run_as)?),
            _ => None,
        };
        let scratch_path = scratch.as_ref().map_or(folder.as_path(), TempDir::path);
        let programs = user::runnable(run_as, &programs, scratch_path)?;

        // initdb reads it, as the user that it runs as
        let password_file = folder.join(PASSWORD_FILE);
        let password = password::kept_in(&password_file)?;
        user::give(run_as, &password_file)?;
        let mut all_settings = vec![("max_connections".to_owned(), max_connections.to_string())];
        all_settings.extend(settings);
        let mut server = Self {
            process: None,
            programs,
            password,
            folder,
            run_as,
            port: 0,
            settings: all_settings,
            temporary,
            _scratch: scratch,
        };
        if !server.data().exists() {
            server.initialise().await?;
        }
        server.start_on(port).await?;
        tracing::debug!(port = server.port, folder = %server.folder.display(), "postgres is ready");
        Ok(server)
    }

    /// How to connect, as the superuser, to the database `postgres`.
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user(SUPERUSER)
            .password(&self.password)
            .dbname("postgres")
            .application_name("local-stack")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// The port on 127.0.0.1; a restart keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id; `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The folder that holds its files.
    pub fn data_dir(&self) -> &Path {
        &self.folder
    }

    /// Kills every process of the server at once by SIGKILL, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.crash();
            process.ended().await;
        }
    }

    /// Ends every session and stops the server in order.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(Signal::SIGINT, STOP_GRACE).await;
        }
    }

    /// Starts it again on the same port and folder, after a `kill` or a `stop`; what still runs is stopped first.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        self.stop().await;
        self.start_on(Some(self.port)).await
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    async fn initialise(&self) -> Result<(), StackError> {
        // made under another name, so that half a database is never taken for one
        let unfinished = self.folder.join("data.unfinished");
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished).map_err(StackError::io("remove", &unfinished))?;
        }
        let arguments = vec![
            format!("--pgdata={}", unfinished.display()),
            format!("--username={SUPERUSER}"),
            format!("--pwfile={}", self.folder.join(PASSWORD_FILE).display()),
            "--auth=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
            "--no-sync".to_owned(),
            "--no-instructions".to_owned(),
        ];
        let initdb = self.spawn("initdb", arguments, Signal::SIGKILL).await?;
        initdb.succeed(START_LIMIT).await?;
        let data = self.data();
        std::fs::rename(&unfinished, &data).map_err(StackError::io("make", &data))
    }

    async fn start_on(&mut self, port: Option<u16>) -> Result<(), StackError> {
        let mut tries = if port.is_some() { 1 } else { PORT_TRIES };
        let started = Instant::now();
        loop {
            tries = tries.saturating_sub(1);
            self.port = match port {
                Some(port) => port,
                None => free_port().map_err(StackError::io("find a port for", Path::new(NAME)))?,
            };
            match self.start_once().await {
                Err(StackError::Start { log, .. }) if tries > 0 && log.contains("Address already in use") => {
                }
                // A session that was killed is not gone at once, and holds the memory that it shares until it is.
                Err(StackError::Start { log, .. })
                    if started.elapsed() < START_LIMIT
                        && log.contains("pre-existing shared memory block") =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
                Ok(process) => {
                    self.process = Some(process);
                    return Ok(());
                }
            }
        }
    }

    async fn start_once(&self) -> Result<Process, StackError> {
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("fsync", "off"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
            ("shared_buffers", "256MB"),
            ("max_wal_size", "4GB"),
            ("checkpoint_timeout", "30min"),
            ("max_parallel_workers_per_gather", "0"),
            ("jit", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
        ];
        let mut arguments = vec!["-D".to_owned(), self.data().display().to_string()];
        arguments.extend(["-p".to_owned(), self.port.to_string()]);
        let fixed = fixed.map(|(name, value)| format!("{name}={value}")).into_iter();
        let given = self.settings.iter().map(|(name, value)| format!("{name}={value}"));
        for setting in fixed.chain(given) {
            arguments.extend(["-c".to_owned(), setting]);
        }
        // an owner that dies leaves no sessions behind, and files that need no recovery
        let process = self.spawn(NAME, arguments, Signal::SIGINT).await?;
        let config = self.config();
        process
            .wait_ready(START_LIMIT, || async {
                let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
                drop(client);
                connection.await.map_err(|error| error.to_string())
            })
            .await?;
        Ok(process)
    }

    async fn spawn(
        &self,
        name: &'static str,
        arguments: Vec<String>,
        signal_when_orphaned: Signal,
    ) -> Result<Process, StackError> {
        Process::spawn(ProcessOptions {
            name,
            program: &self.programs.join(name),
            arguments,
            environment: vec![("LD_LIBRARY_PATH", self.library_path())],
            folder: &self.folder,
            run_as: self.run_as,
            log: self.log_file(),
            signal_when_orphaned,
        })
        .await
    }

    /// `lib` beside `bin` first: an installation that was moved, as a wheel's is, finds its own libraries there.
    fn library_path(&self) -> OsString {
        let own = self.programs.parent().map(|installation| installation.join("lib"));
        let inherited = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = own.into_iter().chain(std::env::split_paths(&inherited));
        std::env::join_paths(folders).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log_file())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        // nobody will read a temporary folder again: no checkpoint (SIGQUIT is PostgreSQL's immediate shutdown)
        let signal = if self.temporary.is_some() { Signal::SIGQUIT } else { Signal::SIGINT };
        process.stop_blocking(signal, STOP_GRACE);
    }
}
