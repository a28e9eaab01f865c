//! The sink as a process of its own, as it would run anywhere else, and what it tells of itself over HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::metrics;

/// How long an answer about itself may take.
const ANSWER: Duration = Duration::from_secs(2);

/// A running `nats-sql-sink run`. Killed when dropped.
#[derive(Debug)]
pub(super) struct Sink {
    process: Child,
    http: SocketAddr,
    peak_rss_bytes: u64,
}

/// What the sink has done so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) committed: u64,
    pub(super) dead_lettered: u64,
    pub(super) batches: u64,
}

impl Sink {
    /// Starts it, with its log in `log`.
    pub(super) fn start(config: &Path, log: &Path, http: SocketAddr) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let log = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let process = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the sink")?;
        Ok(Self { process, http, peak_rss_bytes: 0 })
    }

    /// Fails where the process has ended by itself.
    pub(super) fn check_running(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait().context("looking after the sink")? {
            Some(status) => bail!("the sink has ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// What it has done so far; nothing where it does not listen yet.
    pub(super) async fn progress(&mut self) -> Progress {
        self.note_memory();
        let Ok(text) = self.get("/metrics").await else { return Progress::default() };
        Progress {
            committed: sum(&text, metrics::EVENTS_COMMITTED_TOTAL.name),
            dead_lettered: sum(&text, metrics::EVENTS_DEAD_LETTERED_TOTAL.name),
            batches: sum(&text, metrics::BATCHES_COMMITTED_TOTAL.name),
        }
    }

    /// What it says about being ready, as it says it.
    pub(super) async fn readiness(&self) -> String {
        self.get("/readyz").await.unwrap_or_else(|error| format!("no answer: {error:#}"))
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let answer = async {
            let stream = TcpStream::connect(self.http).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let request =
                Request::get(path).header("host", self.http.to_string()).body(Empty::<Bytes>::new())?;
            let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
            connection.abort();
            anyhow::Ok(String::from_utf8(body.to_vec())?)
        };
        tokio::time::timeout(ANSWER, answer).await.context("no answer in time")?
    }

    /// Asks for a stop, and waits for it.
    pub(super) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.note_memory();
        if let Some(id) = self.process.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM).context("asking the sink to stop")?;
        }
        self.process.wait().await.context("waiting for the sink to stop")
    }

    /// The most memory that it has had resident, as far as it was looked at.
    pub(super) fn peak_rss_bytes(&self) -> u64 {
        self.peak_rss_bytes
    }

    fn note_memory(&mut self) {
        let status =
            self.process.id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/status")).ok());
        let peak_kibibytes = status.as_deref().and_then(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok())
        });
        self.peak_rss_bytes = self.peak_rss_bytes.max(1024 * peak_kibibytes.unwrap_or_default());
    }
}

/// The sum of all samples of a counter in Prometheus' text format.
fn sum(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_sample = rest.starts_with(['{', ' ']);
            is_sample.then(|| rest.rsplit(' ').next()?.parse::<u64>().ok()).flatten()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_samples_of_one_counter() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{p=\"1\"} 2\na_total{p=\"2\"} 3\na_total_more 9\n";
        assert_eq!(sum(text, "a_total"), 5);
        assert_eq!(sum(text, "b_total"), 0);
    }
}
