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
}

impl Default for NatsServerOptions {
    fn default() -> Self {
        Self {
            tools: Tools::from_environment(),
            port: None,
            store_dir: None,
            max_payload: 8 * 1024 * 1024,
            extra_config: None,
        }
    }
}

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
    /// Last, so that it is removed after the process is gone.
    temporary: Option<TempDir>,
}

impl NatsServer {
    /// Starts the server and waits until it takes connections, with JetStream.
    pub async fn start(options: NatsServerOptions) -> Result<Self, StackError> {
        let NatsServerOptions { tools, port, store_dir, max_payload, extra_config } = options;
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
        let mut server =
            Self { process: None, program, name, folder, port: 0, max_payload, extra_config, temporary };
        server.start_on(port).await?;
        tracing::debug!(port = server.port, folder = %server.folder.display(), "nats-server is ready");
        Ok(server)
    }

    /// Where clients connect: `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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
        let config = self.folder.join("nats-server.conf");
        std::fs::write(&config, self.config_text()).map_err(StackError::io("write", &config))?;
        let process = Process::spawn(ProcessOptions {
            name: NAME,
            program: &self.program,
            arguments: vec!["--config".to_owned(), config.display().to_string()],
            environment: Vec::new(),
            folder: &self.folder,
            run_as: None,
            log: self.log_file(),
            signal_when_orphaned: Signal::SIGTERM,
        })
        .await?;
        process.wait_ready(START_LIMIT, || greets(self.port, &self.name)).await?;
        Ok(process)
    }

    fn config_text(&self) -> String {
        let Self { port, name, max_payload, extra_config, folder, .. } = self;
        // JSON text is a quoted string of nats-server's syntax too
        let store = serde_json::Value::from(folder.join("store").display().to_string());
        format!(
            "listen: \"127.0.0.1:{port}\"\n\
             server_name: \"{name}\"\n\
             max_payload: {max_payload}\n\
             jetstream {{\n  store_dir: {store}\n}}\n\
             {extra_config}\n"
        )
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }
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
