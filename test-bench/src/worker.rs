//! A worker: the built program as a process of its own, run with one configuration.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::counters::Counters;

/// How long an answer about itself may take.
const ANSWER: Duration = Duration::from_secs(2);

/// How to run a worker.
#[derive(Debug, Clone, Default)]
pub struct WorkerOptions {
    /// Added to the environment.
    pub environment: Vec<(String, String)>,
    /// How often its counters are read: at most so old is what is known of a process that is killed. `None` reads them
    /// when it is asked for, by [`Worker::read_counters`].
    pub look: Option<Duration>,
}

/// One worker. Killed when dropped.
#[derive(Debug)]
pub struct Worker {
    /// The configuration that it runs with.
    pub config: PathBuf,
    log: PathBuf,
    http: u16,
    options: WorkerOptions,
    process: Option<Child>,
    counters: Arc<Mutex<Counters>>,
    _observer: Option<AbortOnDropHandle<()>>,
}

/// The program that is tested: beside this one.
pub fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let program = own.with_file_name("nats-sql-sink");
    if !program.is_file() {
        bail!(
            "{} is missing: build it first, into the same folder as this program, as `make test-faults` and \
             `make load-test` do with `cargo build --release --package nats-sql-sink`",
            program.display()
        );
    }
    Ok(program)
}

/// Runs a command of the program, and gives what it prints.
///
/// # Errors
/// It fails, or is not done within `patience`.
pub async fn command(arguments: &[&str], patience: Duration) -> anyhow::Result<String> {
    let what = arguments.join(" ");
    let running = Command::new(program()?).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience, running).await;
    let output = output.with_context(|| format!("{what}: not done within {} s", patience.as_secs()))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!("{what}: {}: {}", output.status, text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

impl Worker {
    /// A worker that does not run yet.
    pub fn new(config: PathBuf, http: u16, options: WorkerOptions) -> Self {
        let counters = Arc::new(Mutex::new(Counters::default()));
        let observer = options
            .look
            .map(|look| AbortOnDropHandle::new(tokio::spawn(observe(http, look, Arc::clone(&counters)))));
        let log = config.with_extension("log");
        Self { config, log, http, options, process: None, counters, _observer: observer }
    }

    /// Starts a process, where none runs.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let process = Command::new(program()?)
            .args(["run", "--config"])
            .arg(&self.config)
            .env("NO_COLOR", "1")
            .envs(self.options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting a worker")?;
        self.process = Some(process);
        Ok(())
    }

    /// The id of its process, where one runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().and_then(Child::id)
    }

    /// Sends a signal to the process, where one runs.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if let Some(id) = self.process.as_ref().and_then(Child::id) {
            kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("sending {signal}"))?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill().await.context("killing a worker")?;
            self.lock().process_ended();
        }
        Ok(())
    }

    /// SIGTERM, and the exit within `patience`; `None` where no process runs.
    pub async fn terminate(&mut self, patience: Duration) -> anyhow::Result<Option<ExitStatus>> {
        self.read_counters().await;
        self.signal(Signal::SIGTERM)?;
        let Some(mut process) = self.process.take() else { return Ok(None) };
        let ended = tokio::time::timeout(patience, process.wait()).await;
        self.lock().process_ended();
        match ended {
            Ok(status) => Ok(Some(status.context("waiting for a worker")?)),
            Err(_) => {
                bail!(
                    "a worker did not end within {} s of SIGTERM; its log: {}",
                    patience.as_secs(),
                    self.tail()
                )
            }
        }
    }

    /// Whether the process has ended by itself: then how, and it counts as not running.
    pub fn ended_by_itself(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else { return Ok(None) };
        let status = process.try_wait().context("looking after a worker")?;
        if status.is_some() {
            self.process = None;
            self.lock().process_ended();
        }
        Ok(status)
    }

    /// What it has counted, as far as was read.
    pub fn counters(&self) -> Counters {
        self.lock().clone()
    }

    /// Reads its counters now.
    pub async fn read_counters(&self) {
        if let Ok((_, text)) = get(self.http, "/metrics").await {
            self.lock().take(&text);
        }
    }

    /// What it says about being ready.
    pub async fn readiness(&self) -> anyhow::Result<(u16, String)> {
        get(self.http, "/readyz").await
    }

    /// Its log, of all its processes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn observe(http: u16, look: Duration, counters: Arc<Mutex<Counters>>) {
    loop {
        tokio::time::sleep(look).await;
        if let Ok((200, text)) = get(http, "/metrics").await {
            counters.lock().unwrap_or_else(PoisonError::into_inner).take(&text);
        }
    }
}

/// Asks over HTTP/1.0: status and body.
async fn get(port: u16, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        let text = String::from_utf8(bytes)?;
        let (head, body) = text.split_once("\r\n\r\n").context("an answer without a body")?;
        let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
        anyhow::Ok((status, body.to_owned()))
    };
    tokio::time::timeout(ANSWER, answer).await.context("no answer in time")?
}
