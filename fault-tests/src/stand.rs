//! A stand: servers, proxies, workers, and a lane for each mode, all of its own. A fault happens to a stand.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream::{self, stream};
use local_stack::proxy::Proxy;
use tempfile::TempDir;
use test_bench::counters::Counters;
use test_bench::sql_client::SqlClient;
use test_bench::wait::{self, PATIENCE};
use test_bench::worker::{self, Worker, WorkerOptions};

pub(crate) mod config;
pub(crate) mod nats;
pub(crate) mod sql;

use crate::events::{Bad, BadRule};
use crate::mode::{Mode, SCHEMA};
use crate::publisher::{Load, Publisher};
use crate::reader::{self, Letter};
use nats::{Nats, NatsOptions};
use sql::Sql;

/// How long a worker that was told to stop may take: its grace, and the time of a busy machine.
const STOP: Duration = Duration::from_secs(20);
/// How often a worker's counters are read.
const WORKER_LOOK: Duration = Duration::from_millis(200);

/// What a fault asks of its stand. Times are short where that changes nothing about the fault.
#[derive(Debug, Clone)]
pub(crate) struct StandOptions {
    pub(crate) workers: usize,
    pub(crate) nats: NatsOptions,
    /// The SQL server is a process of its own, which can be killed.
    pub(crate) sql_process: bool,
    /// Workers log in as a user who may be refused something; else as the database's owner.
    pub(crate) limited_user: bool,
    /// All modes have one dead-letter stream.
    pub(crate) shared_dead_letters: bool,
    /// Whether there are dead-letter streams from the start.
    pub(crate) with_dead_letters: bool,
    pub(crate) duplicate_window: Duration,
    pub(crate) ack_wait_seconds: u64,
    pub(crate) max_rows: u64,
    pub(crate) max_age: &'static str,
    /// Further fields of every pipeline.
    pub(crate) pipeline: &'static str,
    pub(crate) events_per_second: u64,
    pub(crate) bad: Vec<BadRule>,
    pub(crate) versions: bool,
    /// Bytes of each good event that nobody looks at.
    pub(crate) note_bytes: usize,
    /// Events that wait in the streams before the first worker starts.
    pub(crate) before_start: u64,
}

impl Default for StandOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            nats: NatsOptions { max_payload: 1024 * 1024, ..NatsOptions::default() },
            sql_process: false,
            limited_user: false,
            shared_dead_letters: false,
            with_dead_letters: true,
            duplicate_window: Duration::from_secs(120),
            ack_wait_seconds: 5,
            max_rows: 2_000,
            max_age: "200ms",
            pipeline: "",
            events_per_second: 500,
            bad: vec![BadRule::every(487, Bad::Malformed)],
            versions: true,
            note_bytes: 0,
            before_start: 0,
        }
    }
}

/// The events of one mode: where they go, and who publishes them.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) mode: &'static Mode,
    pub(crate) publisher: Publisher,
    /// Its published events when the fault was lifted: recovered when they are settled.
    pub(crate) watermark: u64,
    /// Evidence that the fault itself has seen.
    pub(crate) seen: Vec<String>,
    /// How far NATS went back behind what it had confirmed as acknowledged.
    pub(crate) acks_forgotten: u64,
}

/// A running stand. Dropping it ends everything.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) options: StandOptions,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) nats_proxy: Option<Proxy>,
    pub(crate) sql_proxy: Proxy,
    pub(crate) nats: Nats,
    pub(crate) sql: Sql,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) folder: TempDir,
    pub(crate) lifted: Option<Instant>,
    /// The user and password that workers log in with.
    pub(crate) worker_login: (String, String),
}

/// Who workers log in as when they may be refused something.
pub(crate) const LIMITED_USER: &str = "worker";
const LIMITED_PASSWORD: &str = "Limited-Worker-1";

impl Stand {
    /// Starts servers, makes streams and tables, and writes configurations; no worker runs yet.
    pub(crate) async fn start(options: StandOptions, modes: &[&'static Mode]) -> anyhow::Result<Self> {
        let (nats, sql) =
            tokio::try_join!(Nats::start(options.nats.clone()), Sql::start(options.sql_process))?;
        let jetstream = nats.connect().await?;
        let nats_proxy = match nats.single_address() {
            Some(address) => Some(Proxy::start(address).await.context("starting a proxy")?),
            None => None,
        };
        let sql_proxy = Proxy::start(sql.address()).await.context("starting a proxy")?;
        let (user, password) = sql.login();
        let worker_login = match options.limited_user {
            true => (LIMITED_USER.to_owned(), LIMITED_PASSWORD.to_owned()),
            false => (user.to_owned(), password.to_owned()),
        };
        let load = Load {
            events_per_second: options.events_per_second,
            bad: options.bad.clone(),
            versions: options.versions,
            max_payload: options.nats.max_payload as usize,
            note_bytes: options.note_bytes,
        };
        let lanes = modes.iter().map(|mode| Lane {
            mode,
            publisher: Publisher::new(jetstream.clone(), mode, load.clone()),
            watermark: 0,
            seen: Vec::new(),
            acks_forgotten: 0,
        });
        let mut stand = Self {
            lanes: lanes.collect(),
            workers: Vec::new(),
            nats_proxy,
            sql_proxy,
            nats,
            sql,
            jetstream,
            folder: tempfile::Builder::new().prefix("fault-tests-").tempdir().context("making a folder")?,
            lifted: None,
            worker_login,
            options,
        };
        stand.make_tables().await?;
        for mode in modes {
            stand.make_stream(&mode.stream(), vec![format!("{}.>", mode.name)]).await?;
        }
        if stand.options.with_dead_letters {
            stand.make_dead_letter_streams().await?;
        }
        stand.write("schema.toml", SCHEMA)?;
        stand.write("sql.password", &stand.worker_login.1)?;
        for _ in 0..stand.options.workers {
            stand.add_worker()?;
        }
        stand.make_state_tables().await?;
        Ok(stand)
    }

    /// Makes the sink's own tables, as an operator does whose tables the sink may not make: by what `ddl` prints.
    async fn make_state_tables(&self) -> anyhow::Result<()> {
        if !self.lanes.iter().any(|lane| lane.mode.progress_in_sql) {
            return Ok(());
        }
        let config = &self.workers.first().context("a worker")?.config.display().to_string();
        let ddl = worker::command(&["ddl", "--config", config], PATIENCE).await?;
        let mut client = self.sql_client().await?;
        for statement in ddl.split(";\n").filter(|statement| statement.contains("nats_sql_sink")) {
            client.execute(statement.trim().trim_end_matches(';')).await?;
        }
        Ok(())
    }

    async fn make_tables(&mut self) -> anyhow::Result<()> {
        let mut client = self.sql_client().await?;
        if self.options.limited_user {
            let (user, password) = &self.worker_login;
            client.execute(&format!("CREATE USER {user} WITH PASSWORD = '{password}'")).await?;
            client.execute(&format!("ALTER ROLE db_owner ADD MEMBER {user}")).await?;
        }
        for lane in &self.lanes {
            for statement in lane.mode.ddl() {
                client.execute(&statement).await?;
            }
        }
        Ok(())
    }

    /// Makes a stream; of a cluster that may still be electing its leader.
    pub(crate) async fn make_stream(&self, name: &str, subjects: Vec<String>) -> anyhow::Result<()> {
        let is_dead_letters = name.starts_with("DEAD_");
        let config = stream::Config {
            name: name.to_owned(),
            subjects,
            num_replicas: self.nats.replicas(),
            duplicate_window: match is_dead_letters {
                true => self.options.duplicate_window,
                false => Duration::from_secs(120),
            },
            ..stream::Config::default()
        };
        wait::until(&format!("the stream {name} is made"), PATIENCE, async || {
            Ok(self.jetstream.create_stream(config.clone()).await.ok().map(|_| ()))
        })
        .await
    }

    /// Makes the dead-letter streams of all lanes.
    pub(crate) async fn make_dead_letter_streams(&self) -> anyhow::Result<()> {
        for lane in &self.lanes {
            let subjects = match self.options.shared_dead_letters {
                true => vec!["dead.>".to_owned()],
                false => vec![format!("dead.{0}", lane.mode.name), format!("dead.{0}.>", lane.mode.name)],
            };
            self.make_stream(&self.dead_letter_stream(lane.mode), subjects).await?;
        }
        Ok(())
    }

    /// The dead-letter stream of a mode.
    pub(crate) fn dead_letter_stream(&self, mode: &Mode) -> String {
        match self.options.shared_dead_letters {
            true => "DEAD_LETTERS".to_owned(),
            false => format!("DEAD_{}", mode.stream()),
        }
    }

    /// A worker more, which does not run yet.
    pub(crate) fn add_worker(&mut self) -> anyhow::Result<()> {
        let http = local_stack::free_port()?;
        let text = config::text(self, http);
        let file = self.write(&format!("worker-{}.toml", self.workers.len() + 1), &text)?;
        let options = WorkerOptions {
            environment: vec![("NATS_SQL_SINK_TEST_CRASH".to_owned(), "1".to_owned())],
            look: Some(WORKER_LOOK),
        };
        self.workers.push(Worker::new(file, http, options));
        Ok(())
    }

    /// Writes a file beside the configurations.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    /// Starts the workers that do not run.
    pub(crate) fn start_workers(&mut self) -> anyhow::Result<()> {
        self.workers.iter_mut().try_for_each(Worker::start)
    }

    /// Begins, or goes on, with the load of all lanes.
    pub(crate) fn start_load(&self) {
        for lane in &self.lanes {
            lane.publisher.resume();
        }
    }

    /// Publishes no more, and returns when all is confirmed.
    pub(crate) async fn pause_load(&self) -> anyhow::Result<()> {
        for lane in &self.lanes {
            lane.publisher.pause().await.with_context(|| lane.mode.name)?;
        }
        Ok(())
    }

    /// The fault is over from now on: the time to recover begins.
    pub(crate) fn lift(&mut self) {
        self.lifted = Some(Instant::now());
        for lane in &mut self.lanes {
            lane.watermark = lane.publisher.published();
        }
    }

    /// A SQL client that no proxy stands before.
    pub(crate) async fn sql_client(&self) -> anyhow::Result<SqlClient> {
        SqlClient::connect(&self.sql.access()).await
    }

    /// The counters of all workers.
    pub(crate) fn counters(&self) -> Vec<Counters> {
        self.workers.iter().map(Worker::counters).collect()
    }

    /// The sum of a metric's samples over all workers.
    pub(crate) fn count(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        self.counters().iter().map(|counters| counters.sum(metric, labels)).sum()
    }

    /// The same, of one mode's pipeline.
    pub(crate) fn count_of(&self, mode: &Mode, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let mut all = vec![("pipeline", mode.name)];
        all.extend_from_slice(labels);
        self.count(metric, &all)
    }

    /// Waits until something holds for every lane.
    pub(crate) async fn every_lane(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&Self, &Mode) -> bool,
    ) -> anyhow::Result<()> {
        for lane in &self.lanes {
            let what = format!("{}: {what}", lane.mode.name);
            wait::until(&what, patience, async || Ok(condition(self, lane.mode).then_some(())))
                .await
                .with_context(|| format!("the workers say: {}", self.trouble()))?;
        }
        Ok(())
    }

    /// Waits until each lane has committed something.
    pub(crate) async fn warm(&self) -> anyhow::Result<()> {
        self.every_lane("a row is committed", 2 * PATIENCE, |stand, mode| {
            stand.count_of(mode, "events_committed_total", &[]) > 0.0
        })
        .await
    }

    /// Events of a mode's consumer that are not settled: `None` where there is no such consumer.
    pub(crate) async fn unsettled(&self, mode: &Mode) -> Option<(u64, u64)> {
        let stream = self.jetstream.get_stream(mode.stream()).await.ok()?;
        let info = stream.consumer_info(&mode.durable()?).await.ok()?;
        Some((info.num_pending, info.num_ack_pending as u64))
    }

    /// For each lane the sequence up to which its consumer has all acknowledgements; 0 where there is no consumer.
    pub(crate) async fn ack_floors(&self) -> anyhow::Result<Vec<u64>> {
        let mut floors = Vec::new();
        for lane in &self.lanes {
            let Some(durable) = lane.mode.durable() else {
                floors.push(0);
                continue;
            };
            let what = format!("the consumer {durable} answers");
            let floor = wait::until(&what, PATIENCE, async || {
                let Ok(stream) = self.jetstream.get_stream(lane.mode.stream()).await else { return Ok(None) };
                let info = stream.consumer_info(&durable).await;
                Ok(info.ok().map(|info| info.ack_floor.stream_sequence))
            });
            floors.push(floor.await?);
        }
        Ok(floors)
    }

    /// NATS was started again: where it went back behind `before`, it has forgotten what it had confirmed.
    pub(crate) async fn note_forgotten_acks(&mut self, before: &[u64]) -> anyhow::Result<()> {
        let after = self.ack_floors().await?;
        for (lane, (before, after)) in self.lanes.iter_mut().zip(before.iter().zip(after)) {
            lane.acks_forgotten = lane.acks_forgotten.max(before.saturating_sub(after));
        }
        Ok(())
    }

    /// The letters of one mode.
    pub(crate) async fn letters(&self, mode: &Mode) -> anyhow::Result<Vec<Letter>> {
        let mut letters = reader::letters(&self.jetstream, &self.dead_letter_stream(mode)).await?;
        letters.retain(|letter| letter.pipeline == mode.name);
        Ok(letters)
    }

    /// SIGTERM for every worker; each has to end with 0 within its grace.
    pub(crate) async fn stop_workers(&mut self) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            if let Some(status) = worker.terminate(STOP).await?
                && !status.success()
            {
                bail!("a worker ended with {status} after SIGTERM");
            }
        }
        Ok(())
    }

    /// The last warning or error that each worker has logged.
    pub(crate) fn trouble(&self) -> String {
        let last = |worker: &Worker| {
            let log = worker.log();
            let mut lines = log.lines().rev();
            lines.find(|line| line.contains("WARN") || line.contains("ERROR")).unwrap_or("nothing").to_owned()
        };
        self.workers.iter().map(last).collect::<Vec<_>>().join(" | ")
    }

    /// Copies configurations, logs and counters to where they outlive the stand.
    pub(crate) fn keep(&self, to: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        for (number, worker) in (1..).zip(&self.workers) {
            std::fs::write(to.join(format!("worker-{number}.counters")), worker.counters().text())?;
        }
        for entry in std::fs::read_dir(self.folder.path())? {
            let entry = entry?;
            if entry.file_name() != "sql.password" {
                std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }
}
