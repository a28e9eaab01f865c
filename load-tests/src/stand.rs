//! What a run needs: a NATS server, a SQL server, streams, and workers. The servers are started for the run, or named by
//! whoever runs it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream::context::{ContextBuilder, DeleteStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, stream};
use local_stack::nats_server::{NatsServer, NatsServerOptions};
use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::proxy::Proxy;
use tempfile::TempDir;
use test_bench::sql_client::{SqlAccess, SqlClient};
use test_bench::worker::{Worker, WorkerOptions};

mod config;
pub(crate) mod external;
pub(crate) mod sql_process;

use crate::events::SUBJECT;
use crate::machine;
use crate::scenario::{Scenario, SinkSettings, TableKind};
use external::External;
use sql_process::{Counts, Request, SqlProcess};

/// The stream that events are published to.
pub(crate) const STREAM: &str = "LOAD_TEST";
/// The stream of what cannot become a row.
const DEAD_STREAM: &str = "LOAD_TEST_DEAD";
/// What dead letters' subjects begin with.
const DEAD_SUBJECT: &str = "load_test_dead";
/// The table.
const TABLE: &str = "dbo.load_test";
/// How long a statement may take that counts some million rows.
const COUNTING: Duration = Duration::from_secs(600);
/// How long the program may take to tell its statements.
const STATEMENTS: Duration = Duration::from_secs(60);
/// How long a worker that was told to stop may take: its grace, and the time of a busy machine.
const STOP: Duration = Duration::from_secs(45);

/// A running stand. Dropping it ends everything.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) workers: Vec<Worker>,
    /// Stands before the SQL server where something is to go wrong on the wire.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    nats_url: String,
    sql: SqlAccess,
    sql_process: Option<SqlProcess>,
    postgres: Option<Postgres>,
    nats: Option<NatsServer>,
    /// Told from those of other runs on the same servers.
    pipeline: String,
    folder: PathBuf,
    temporary: TempDir,
}

/// Processor time of the servers, where they were started for the run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServersCpu {
    pub(crate) nats_seconds: Option<f64>,
    /// The SQL server's, and PostgreSQL's.
    pub(crate) sql_seconds: Option<f64>,
}

impl Stand {
    /// Starts what is not there already, makes streams, and writes configurations into `folder`; no worker runs yet.
    pub(crate) async fn start(
        scenario: &Scenario,
        workers: usize,
        external: &External,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let temporary =
            tempfile::Builder::new().prefix("load-tests-").tempdir().context("making a folder")?;
        let nats = match &external.nats_url {
            Some(_) => None,
            None => {
                let server = NatsServer::start(NatsServerOptions::default()).await;
                Some(server.context("starting nats-server")?)
            }
        };
        let (postgres, sql_process) = match &external.sql {
            Some(_) => (None, None),
            None => {
                let postgres = Postgres::start(PostgresOptions::default()).await;
                let postgres = postgres.context("starting PostgreSQL")?;
                let process = SqlProcess::start(
                    &postgres,
                    temporary.path(),
                    scenario.storage,
                    scenario.sql_rows_per_second_of_a_load,
                )
                .await?;
                (Some(postgres), Some(process))
            }
        };
        let nats_url = external.nats_url.clone().or_else(|| nats.as_ref().map(NatsServer::url));
        let nats_url = nats_url.context("a NATS server")?;
        let sql = external.sql.clone().or_else(|| sql_process.as_ref().map(|sql| sql.access().clone()));
        let sql = sql.context("a SQL server")?;
        let proxy = match scenario.fault.iter().any(crate::scenario::FaultEntry::needs_proxy) {
            true => Some(start_proxy(&sql).await?),
            false => None,
        };
        let client = async_nats::connect(&nats_url).await.context("connecting to NATS")?;
        let jetstream = ContextBuilder::new().timeout(Duration::from_secs(30)).build(client.clone());
        let pipeline = format!("load-test-{:08x}", fastrand::u32(..));
        let mut stand = Self {
            workers: Vec::new(),
            proxy,
            client,
            jetstream,
            nats_url,
            sql,
            sql_process,
            postgres,
            nats,
            pipeline,
            folder: folder.to_path_buf(),
            temporary,
        };
        stand.make_streams().await?;
        if external.sql.is_some() {
            stand.sql_client().await?.execute(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
        }
        stand.write_files(scenario, workers)?;
        if scenario.table == TableKind::Columnstore {
            stand.make_table().await?;
            let index = format!("CREATE CLUSTERED COLUMNSTORE INDEX columns_of_it ON {TABLE}");
            stand.sql_client().await?.execute(&index).await.context("making the columnstore index")?;
        }
        Ok(stand)
    }

    async fn make_streams(&self) -> anyhow::Result<()> {
        for (name, subject) in [(STREAM, SUBJECT), (DEAD_STREAM, DEAD_SUBJECT)] {
            self.remove_stream(name).await?;
            let config = stream::Config {
                name: name.to_owned(),
                subjects: vec![format!("{subject}.>")],
                ..stream::Config::default()
            };
            self.jetstream
                .create_stream(config)
                .await
                .with_context(|| format!("making the stream {name}"))?;
        }
        Ok(())
    }

    /// Removes a stream of an earlier run on the same server; there is none on a new one.
    async fn remove_stream(&self, name: &str) -> anyhow::Result<()> {
        match self.jetstream.delete_stream(name).await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                DeleteStreamErrorKind::JetStream(said)
                    if said.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(())
                }
                _ => Err(error).with_context(|| format!("removing the stream {name}")),
            },
        }
    }

    fn write_files(&mut self, scenario: &Scenario, workers: usize) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("making the folder {}", self.folder.display()))?;
        self.write("schema.toml", &scenario.events.shape.schema())?;
        // the password is no part of what is kept of a run
        let password_file = self.password_file();
        write_private(&password_file, &self.sql.password)?;
        for number in 1..=workers {
            let http = local_stack::free_port()?;
            let text = config::text(&config::Wiring {
                nats_url: &self.nats_url,
                sql: &self.sql,
                sql_port: self.proxy.as_ref().map_or(self.sql.port, |proxy| proxy.address().port()),
                password_file: &password_file,
                http,
                pipeline: &self.pipeline,
                scenario,
            });
            let file = self.write(&format!("worker-{number}.toml"), &text)?;
            // a worker adds to its log, and that of an earlier run into the same folder is not this one's
            let log = file.with_extension("log");
            if log.exists() {
                std::fs::remove_file(&log).with_context(|| format!("removing {}", log.display()))?;
            }
            self.workers.push(Worker::new(file, http, worker_options(&scenario.sink)));
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Where NATS clients connect.
    pub(crate) fn nats_url(&self) -> &str {
        &self.nats_url
    }

    /// How to reach the SQL server, with no proxy between.
    pub(crate) fn sql(&self) -> &SqlAccess {
        &self.sql
    }

    /// Where clients reach it that are to be measured: the proxy, where one stands before it.
    pub(crate) fn sql_address(&self) -> (String, u16) {
        match &self.proxy {
            Some(proxy) => (proxy.address().ip().to_string(), proxy.address().port()),
            None => (self.sql.host.clone(), self.sql.port),
        }
    }

    /// The name of the pipeline, and of its consumer.
    pub(crate) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// What takes configurations and logs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the table anew, empty and as the sink would make it.
    pub(crate) async fn make_table(&self) -> anyhow::Result<()> {
        let config = &self.workers.first().context("a worker")?.config;
        let arguments = ["ddl", "--config", &config.display().to_string()];
        let statement = test_bench::worker::command(&arguments, STATEMENTS).await?;
        let mut client = self.sql_client().await?;
        client.execute(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
        client.execute(&statement).await.context("making the table")
    }

    /// The file with its password.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.temporary.path().join("sql.password")
    }

    /// A SQL client that is not the sink's.
    pub(crate) async fn sql_client(&self) -> anyhow::Result<SqlClient> {
        Ok(SqlClient::connect(&self.sql).await?.with_patience(COUNTING))
    }

    /// The table's name.
    pub(crate) fn table(&self) -> &'static str {
        TABLE
    }

    /// Asks the SQL server's process; `None` where it was not started for the run.
    pub(crate) async fn ask_sql(&mut self, request: &Request) -> anyhow::Result<Option<Counts>> {
        match &mut self.sql_process {
            Some(process) => process.ask(request).await.map(Some),
            None => Ok(None),
        }
    }

    /// What the servers have used so far.
    pub(crate) fn servers_cpu(&self) -> anyhow::Result<ServersCpu> {
        let nats = self.nats.as_ref().and_then(NatsServer::pid);
        let nats_seconds = nats.map(|id| machine::usage(id).map(|usage| usage.cpu_seconds)).transpose()?;
        let sql_seconds = match (&self.sql_process, self.postgres.as_ref().and_then(Postgres::pid)) {
            (Some(process), Some(postgres)) => {
                let own = machine::usage(process.id()?)?.cpu_seconds;
                Some(own + machine::cpu_seconds_with_children(postgres)?)
            }
            _ => None,
        };
        Ok(ServersCpu { nats_seconds, sql_seconds })
    }

    /// Letters in the dead-letter stream.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<u64> {
        let mut stream = self.jetstream.get_stream(DEAD_STREAM).await.context("asking for dead letters")?;
        Ok(stream.info().await.context("asking for dead letters")?.state.messages)
    }

    /// Fails where a worker has ended by itself.
    pub(crate) fn check_running(&mut self) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            if let Some(status) = worker.ended_by_itself()? {
                bail!(
                    "a worker has ended by itself: {status}; its log is beside {}",
                    worker.config.display()
                );
            }
        }
        Ok(())
    }

    /// What workers say that are not ready.
    pub(crate) async fn trouble(&self) -> String {
        let mut said = Vec::new();
        for worker in &self.workers {
            match worker.readiness().await {
                Ok((200, _)) => {}
                Ok((_, text)) => said.push(text.trim().to_owned()),
                Err(error) => said.push(format!("no answer: {error:#}")),
            }
        }
        if said.is_empty() { "all of them are ready".to_owned() } else { said.join("; ") }
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
}

async fn start_proxy(sql: &SqlAccess) -> anyhow::Result<Proxy> {
    let mut addresses = tokio::net::lookup_host((sql.host.as_str(), sql.port)).await?;
    let address = addresses.next().context("the SQL server's address")?;
    Proxy::start(address).await.context("starting a proxy")
}

fn worker_options(settings: &SinkSettings) -> WorkerOptions {
    let threads = settings.tokio_threads;
    let environment = threads.map(|threads| ("TOKIO_WORKER_THREADS".to_owned(), threads.to_string()));
    WorkerOptions { environment: environment.into_iter().collect(), look: None }
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restricting who may read {}", path.display()))
}
