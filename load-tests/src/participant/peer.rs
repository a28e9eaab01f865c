//! The peers as participants: other programs, which tell themselves how far they are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{Done, Participant, Task};
use crate::machine;
use crate::stand::{STREAM, Stand};

/// Where the peers are, in the project's folder.
const SCRIPTS: &str = "load-tests/peers";
/// Longer than its own time no peer takes to start, and to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the memory of a peer is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The peers, and what they are made of.
#[derive(Debug)]
pub(crate) struct Peers {
    scripts: PathBuf,
    tools: PathBuf,
}

/// What a peer prints after each commit, and at its end.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Line {
    #[serde(default)]
    done: bool,
    rows: u64,
    seconds: f64,
}

impl Peers {
    /// Those of the project that the current folder, or else this program, is in.
    ///
    /// # Errors
    /// Something of what they need is not installed.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let folders = [std::env::current_dir(), std::env::current_exe()];
        let above = folders.iter().flatten().flat_map(|folder| folder.ancestors());
        let project = above.into_iter().find(|folder| folder.join(SCRIPTS).is_dir());
        let project =
            project.with_context(|| format!("{SCRIPTS} is not here: run this in the project's folder"))?;
        Self::of(project)
    }

    fn of(project: &Path) -> anyhow::Result<Self> {
        let tools = project.join(".tools");
        for needed in ["clients", "peers/python", "peers/node/node_modules", "peers/bin/node"] {
            if !tools.join(needed).exists() {
                bail!(
                    "what the sink is compared with is not installed (.tools/{needed} is missing): `make compare` \
                     installs it"
                );
            }
        }
        Ok(Self { scripts: project.join(SCRIPTS), tools })
    }

    fn command(&self, peer: Participant) -> anyhow::Result<Command> {
        let (python, node) = (self.tools.join("peers/python"), self.tools.join("peers/node/node_modules"));
        let mut command = match peer {
            Participant::Sink => bail!("the sink is no peer"),
            Participant::BulkLoad => Command::new(self.tools.join("peers/bin/node")),
            Participant::BulkCopy | Participant::InsertMany => Command::new("python3"),
        };
        let end = if peer == Participant::BulkLoad { "mjs" } else { "py" };
        command
            .arg(self.scripts.join(format!("{}.{end}", peer.name())))
            .env("PYTHONPATH", std::env::join_paths([python, self.tools.join("clients")])?)
            // nothing is written beside what is measured
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NODE_PATH", node);
        Ok(command)
    }

    /// Runs one until it has all events, or its time is over.
    pub(super) async fn run(
        &self,
        peer: Participant,
        stand: &Stand,
        consumer: &str,
        task: &Task,
    ) -> anyhow::Result<Done> {
        let sql = stand.sql();
        let (host, port) = stand.sql_address();
        let log = stand.folder().join(format!("{}.log", peer.name()));
        let file = std::fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut process = self
            .command(peer)?
            .args(["--nats-url", stand.nats_url(), "--stream", STREAM, "--consumer", consumer])
            .args(["--sql-host", &host, "--sql-port", &port.to_string(), "--sql-user", &sql.user])
            .arg("--sql-password-file")
            .arg(stand.password_file())
            .args(["--sql-database", &sql.database, "--sql-encrypt", "trust", "--table", stand.table()])
            .args(["--events", &task.good.count.to_string()])
            .args(["--stop-after", &task.stop_after.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", peer.name()))?;
        let lines = BufReader::new(process.stdout.take().context("the peer's output")?).lines();
        let following = tokio::time::timeout(task.stop_after + PATIENCE, follow(&mut process, lines));
        let followed = following.await.with_context(|| format!("it did not end in time; {}", said(&log)))?;
        let status = process.wait().await.context("waiting for a peer")?;
        if !status.success() {
            bail!("it ended with {status}; {}", said(&log));
        }
        followed.with_context(|| said(&log))
    }
}

/// Reads what a peer prints, to the end, and looks at its memory meanwhile.
async fn follow(process: &mut Child, mut lines: Lines<BufReader<ChildStdout>>) -> anyhow::Result<Done> {
    let mut looks = tokio::time::interval(LOOK);
    let mut peak_rss_bytes = 0;
    let mut told = Vec::new();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line.context("reading what a peer prints")? else { break };
                told.push(serde_json::from_str(&line).with_context(|| format!("it printed {line:?}"))?);
            }
            _ = looks.tick() => {
                // one that has just ended has none
                if let Some(usage) = process.id().and_then(|id| machine::usage(id).ok()) {
                    peak_rss_bytes = peak_rss_bytes.max(usage.peak_rss_bytes);
                }
            }
        }
    }
    let (rows, seconds) = last_commit(&told)?;
    Ok(Done { rows, seconds, peak_rss_bytes })
}

/// The rows of the last commit, and its time since the first pull: what comes after that is the peer's end alone.
fn last_commit(told: &[Line]) -> anyhow::Result<(u64, f64)> {
    let [commits @ .., last] = told else { bail!("it printed nothing") };
    let Some(commit) = commits.last() else { bail!("nothing was committed in time") };
    if !last.done || last.rows != commit.rows || commits.iter().any(|line| line.done) {
        bail!("its last lines do not fit together: {commit:?} and {last:?}");
    }
    Ok((commit.rows, commit.seconds))
}

/// What it said last on stderr.
fn said(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("it said: {line}"),
        None => format!("it said nothing ({})", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn the_rate_is_that_of_the_last_commit_and_not_of_the_end() {
        let told = lines(
            "{\"rows\": 10, \"seconds\": 1.0}\n{\"rows\": 20, \"seconds\": 2.0}\n\
             {\"done\": true, \"rows\": 20, \"seconds\": 9.0, \"cpu_seconds\": 1.5}",
        );
        assert_eq!(last_commit(&told).unwrap(), (20, 2.0));
    }

    #[test]
    fn a_peer_that_tells_half_is_not_believed() {
        for text in [
            "{\"rows\": 10, \"seconds\": 1.0}\n{\"rows\": 20, \"seconds\": 2.0}",
            "{\"done\": true, \"rows\": 0, \"seconds\": 9.0}",
            "{\"rows\": 10, \"seconds\": 1.0}\n{\"done\": true, \"rows\": 20, \"seconds\": 2.0}",
            "",
        ] {
            assert!(last_commit(&lines(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_installed_is_named_with_the_command_that_installs_it() {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join(".tools");
        for made in ["clients", "peers/python", "peers/node/node_modules"] {
            let error = Peers::of(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!(".tools/{made} is missing")), "{error}");
            assert!(error.contains("`make compare`"), "{error}");
            std::fs::create_dir_all(tools.join(made)).unwrap();
        }
        std::fs::create_dir_all(tools.join("peers/bin")).unwrap();
        std::fs::write(tools.join("peers/bin/node"), "").unwrap();
        assert!(Peers::of(folder.path()).is_ok());
    }
}
