//! The real `nats-server` with JetStream, on a port and in a folder of its own.
//!
//! A publish is acknowledged after the message was handed to the kernel, so a killed server loses none that was
//! acknowledged. The server's own `sync_interval` only matters when the machine fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use crate::error::StackError;
use crate::port::free_port;
use crate::process::{Process, ProcessOptions, log_tail};
use crate::tools::Tools;

/// The name used in errors and logs.
const NAME: &str = "nats-server";
/// The recovery of a large store included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// For the store to be written out.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// Another process may take a free port before the server does.
const PORT_TRIES: usize = 5;

/// How to start a nats-server.
#[derive(Debug, Clone)]
pub struct NatsServerOptions {
    /// Where the program is.
    pub tools: Tools,
    /// The port on 127.0.0.1; `None` takes a free one.
    pub port: Option<u16>,
    /// The folder that keeps the streams, the written configuration and the log, made when it is missing; `None`
    /// makes a temporary one, which is gone after the drop.
    pub store_dir: Option<PathBuf>,
    /// The largest message, headers included, in bytes.
    pub max_payload: u32,
    /// More lines for the configuration file, in nats-server's own syntax.
    pub extra_config: Option<String>,
    /// Whether the server says who it is before a client has said anything. With `handshake_first` it does not, and its
    /// log tells when it is ready.
    pub speaks_first: bool,
    /// Keeps the streams on a small disk of this size, in bytes, which only this server sees: a tmpfs in a mount
    /// namespace of its own. It ends with the server, unless [`NatsServer::move_to_larger_disk`] moves them. Linux
    /// alone, and only where namespaces may be made.
    pub disk_bytes: Option<u64>,
}

impl Default for NatsServerOptions {
    fn default() -> Self {
        Self {
            tools: Tools::from_environment(),
            port: None,
            store_dir: None,
            max_payload: 8 * 1024 * 1024,
            extra_config: None,
            speaks_first: true,
            disk_bytes: None,
        }
    }
}

/// Mounts the small disk, and becomes the program that is asked for: its arguments are the size, the folder, and that
/// program with its own.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o "size=$1" none "$2" || exit 1; shift 2; exec "$@""#;

/// A running nats-server. Dropping it stops it; so does the end of this process, however it ends.
#[derive(Debug)]
pub struct NatsServer {
    process: Option<Process>,
    program: PathBuf,
    /// Tells this server from a stranger's on the same port.
    name: String,
    folder: PathBuf,
    port: u16,
    max_payload: u32,
    extra_config: String,
    speaks_first: bool,
    disk_bytes: Option<u64>,
    /// Last, so that it is removed after the process is gone.
    temporary: Option<TempDir>,
}

impl NatsServer {
    /// Starts the server and waits until it takes connections, with JetStream.
    pub async fn start(options: NatsServerOptions) -> Result<Self, StackError> {
        let NatsServerOptions { tools, port, store_dir, max_payload, extra_config, speaks_first, disk_bytes } =
            options;
        let program = tools.nats_server()?;
        let (temporary, folder) = match store_dir {
            Some(folder) => {
                std::fs::create_dir_all(&folder).map_err(StackError::io("make the folder", &folder))?;
                (None, folder.canonicalize().map_err(StackError::io("find the folder", &folder))?)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("nats-sql-sink-nats-").tempdir();
                let temporary =
                    temporary.map_err(StackError::io("make a folder in", &std::env::temp_dir()))?;
                let folder = temporary.path().to_path_buf();
                (Some(temporary), folder)
            }
        };
        let extra_config = extra_config.unwrap_or_default();
        let name = format!("local-stack-{}", uuid::Uuid::new_v4().simple());
        let mut server = Self {
            process: None,
            program,
            name,
            folder,
            port: 0,
            max_payload,
            extra_config,
            speaks_first,
            disk_bytes,
            temporary,
        };
        server.start_on(port).await?;
        tracing::debug!(port = server.port, folder = %server.folder.display(), "nats-server is ready");
        Ok(server)
    }

    /// Where clients connect: `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The server's own name, by which others know it.
    pub fn name(&self) -> &str {
        &self.name
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
    pub fn store_dir(&self) -> &Path {
        &self.folder
    }

    /// Kills the server by SIGKILL, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.crash();
            process.ended().await;
        }
    }

    /// Stops the server in order.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop(Signal::SIGTERM, STOP_GRACE).await;
        }
    }

    /// Starts it again on the same port and store, after a `kill` or a `stop`; what still runs is stopped first.
    pub async fn restart(&mut self) -> Result<(), StackError> {
        self.stop().await;
        self.start_on(Some(self.port)).await
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log_file())
    }

    async fn start_on(&mut self, port: Option<u16>) -> Result<(), StackError> {
        let mut tries = if port.is_some() { 1 } else { PORT_TRIES };
        loop {
            tries -= 1;
            self.port = match port {
                Some(port) => port,
                None => free_port().map_err(StackError::io("find a port for", Path::new(NAME)))?,
            };
            match self.start_once().await {
                Err(StackError::Start { log, .. }) if tries > 0 && log.contains("address already in use") => {
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
        let config = self.config_file();
        let starts = self.starts();
        std::fs::write(&config, self.config_text()).map_err(StackError::io("write", &config))?;
        let own = ["--config".to_owned(), config.display().to_string()];
        let (program, arguments) = match self.disk_bytes {
            None => (self.program.as_path(), own.to_vec()),
            Some(bytes) => {
                let store = self.store();
                std::fs::create_dir_all(&store).map_err(StackError::io("make the folder", &store))?;
                (Path::new("/usr/bin/unshare"), self.on_a_small_disk(bytes, &store, own))
            }
        };
        let process = Process::spawn(ProcessOptions {
            name: NAME,
            program,
            arguments,
            environment: Vec::new(),
            folder: &self.folder,
            run_as: None,
            log: self.log_file(),
            signal_when_orphaned: Signal::SIGTERM,
        })
        .await?;
        if self.speaks_first {
            process.wait_ready(START_LIMIT, || greets(self.port, &self.name)).await?;
        } else {
            process.wait_ready(START_LIMIT, || self.logs_more_starts_than(starts)).await?;
        }
        Ok(process)
    }

    async fn logs_more_starts_than(&self, before: usize) -> Result<(), String> {
        if self.starts() > before { Ok(()) } else { Err("its log does not say that it is ready".to_owned()) }
    }

    /// How often its log says that it became ready.
    fn starts(&self) -> usize {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        log.matches("Server is ready").count()
    }

    /// Changes the lines that were given with the options, and lets the server read them without a restart: its
    /// certificates among them.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn reload(&mut self, extra_config: String) -> Result<(), StackError> {
        self.extra_config = extra_config;
        let config = self.config_file();
        std::fs::write(&config, self.config_text()).map_err(StackError::io("write", &config))?;
        if let Some(process) = &self.process {
            process.signal(Signal::SIGHUP);
        }
        Ok(())
    }

    fn config_file(&self) -> PathBuf {
        self.folder.join("nats-server.conf")
    }

    fn config_text(&self) -> String {
        let Self { port, name, max_payload, extra_config, .. } = self;
        // JSON text is a quoted string of nats-server's syntax too
        let store = serde_json::Value::from(self.store().display().to_string());
        format!(
            "listen: \"127.0.0.1:{port}\"\n\
             server_name: \"{name}\"\n\
             max_payload: {max_payload}\n\
             jetstream {{\n  store_dir: {store}\n}}\n\
             {extra_config}\n"
        )
    }

    fn on_a_small_disk(&self, bytes: u64, store: &Path, own: [String; 2]) -> Vec<String> {
        let mut arguments = vec!["--mount".to_owned()];
        if !nix::unistd::geteuid().is_root() {
            arguments.push("--map-root-user".to_owned());
        }
        let shell = ["sh", "-c", ON_A_SMALL_DISK, "sh"].map(str::to_owned);
        let paths = [bytes.to_string(), store.display().to_string(), self.program.display().to_string()];
        arguments.extend(shell.into_iter().chain(paths).chain(own));
        arguments
    }

    /// The streams' folder as the server sees it; on a small disk nobody else does.
    pub fn visible_store(&self) -> PathBuf {
        let store = self.store();
        match (self.disk_bytes, self.pid()) {
            (Some(_), Some(pid)) => {
                let inside = store.strip_prefix("/").unwrap_or(&store);
                Path::new("/proc").join(pid.to_string()).join("root").join(inside)
            }
            _ => store,
        }
    }

    /// Stops the server as a crash would, copies what was on its small disk to where there is room, and starts it again.
    ///
    /// # Errors
    /// Where the files cannot be copied, or the server does not start on them.
    pub async fn move_to_larger_disk(&mut self) -> Result<(), StackError> {
        if let Some(process) = &self.process {
            process.signal(Signal::SIGSTOP);
        }
        let (from, to) = (self.visible_store(), self.folder.join("larger"));
        copy_folder(&from, &to).map_err(StackError::io("copy the streams to", &to))?;
        self.kill().await;
        self.disk_bytes = None;
        let store = self.store();
        // the folder that the small disk was mounted on is empty again
        std::fs::remove_dir(&store).map_err(StackError::io("remove", &store))?;
        std::fs::rename(&to, &store).map_err(StackError::io("rename", &to))?;
        self.start_on(Some(self.port)).await
    }

    fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        // nobody will read a temporary store again
        let signal = if self.temporary.is_some() { Signal::SIGKILL } else { Signal::SIGTERM };
        process.stop_blocking(signal, STOP_GRACE);
    }
}

/// A NATS server speaks first: one INFO line, which says who it is and whether JetStream is on.
async fn greets(port: u16, name: &str) -> Result<(), String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.map_err(|error| error.to_string())?;
    let info = line.strip_prefix("INFO ").ok_or("what listens there is no NATS server")?;
    let info: serde_json::Value = serde_json::from_str(info).map_err(|error| error.to_string())?;
    match (info["server_name"] == name, info["jetstream"] == true) {
        (true, true) => Ok(()),
        (true, false) => Err("JetStream is not on".to_owned()),
        (false, _) => Err("another nats-server listens there".to_owned()),
    }
}
