//! `check`: everything that `run` would need, looked at and left as it is. One line a finding.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, Context};

use crate::budget::Budget;
use crate::config::{Config, DeliveryGuarantee, PipelineConfig};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::identity;
use crate::mssql::connect::{Connector, Session};
use crate::mssql::progress;
use crate::mssql::target::{self, Way};
use crate::nats::dead_letter::DeadLetters;
use crate::nats::{self, consumer, coverage};
use crate::output;
use crate::run::{self, Planned};
use crate::schema::Schema;
use crate::sharing;
use crate::sizing;
use crate::telemetry;

/// How long NATS may take to answer to a ping.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What was found. Each finding is printed when it is made.
#[derive(Debug, Default)]
struct Findings {
    failed: usize,
}

impl Findings {
    fn print(level: &str, about: &str, text: &str) {
        output::line(&format!("{level:<7}  {about}: {text}"));
    }

    fn good(about: &str, text: &str) {
        Self::print("ok", about, text);
    }

    /// What was decided, and why.
    fn note(about: &str, text: &str) {
        Self::print("note", about, text);
    }

    fn warning(about: &str, text: &str) {
        Self::print("warning", about, text);
    }

    /// Prints the error, or hands on what was found.
    fn of<T>(&mut self, about: &str, found: Result<T>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                self.failed += 1;
                Self::print("FAILED", about, &telemetry::describe(&error));
                None
            }
        }
    }
}

/// What has to be right is looked at; `true` where it is.
///
/// Nothing is created or changed, but for a consumer of a few milliseconds that counts the events of the partitions of a
/// pipeline in `exactly_once`.
pub(crate) async fn check(config: &Config, planned: &[Planned]) -> bool {
    let mut findings = Findings::default();
    let pipelines = planned.len();
    let tables =
        planned.iter().map(|(pipeline, _)| pipeline.table.to_string()).collect::<Vec<_>>().join(", ");
    Findings::good("configuration", &format!("can be run, into {tables}"));
    let client = findings.of("nats", connect(config).await);
    if let Some(client) = &client {
        let info = client.server_info();
        let text = format!("connected to {}:{}, nats-server {}", info.host, info.port, info.version);
        Findings::good("nats", &text);
    }
    let connector = Connector::new(config.sql.clone());
    let mut session = findings.of("sql", Box::pin(connector.open()).await);
    if session.is_some() {
        let text = format!("logged in to {}, database {:?}", config.sql.server, config.sql.database);
        Findings::good("sql", &text);
    }
    let budgets = Budget::divide(run::event_bytes(config, planned), pipelines);
    for ((pipeline, schema), budget) in planned.iter().zip(budgets) {
        if let Some(client) = &client {
            check_nats(&mut findings, client, pipeline, session.as_mut(), config).await;
        }
        if let Some(session) = &mut session {
            let checking = check_table(&mut findings, session, config, (pipeline, schema), budget.capacity());
            let late = |_elapsed| Error::sql_timeout(Phase::Target, "reading the table's shape");
            let done = tokio::time::timeout(config.sql.command_timeout, checking).await.map_err(late);
            findings.of(&pipeline.name, done);
        }
    }
    match findings.failed {
        0 => output::line("everything that `run` needs is there"),
        failed => output::line(&format!("{failed} of these keep `run` from working")),
    }
    findings.failed == 0
}

async fn connect(config: &Config) -> Result<Client> {
    let options = identity::nats_options(&config.nats)
        .await
        .map_err(|error| Error::new(Phase::Nats, ErrorKind::Credential, error.to_string()))?;
    nats::connect(&config.nats.servers, options, PING_INTERVAL).await
}

async fn check_nats(
    findings: &mut Findings,
    client: &Client,
    pipeline: &PipelineConfig,
    session: Option<&mut Session>,
    config: &Config,
) {
    let about = |what: &str| format!("{}: {what}", pipeline.name);
    let jetstream = jetstream::new(client.clone());
    let stream = consumer::stream(&jetstream, &pipeline.stream, Phase::Nats).await;
    let Some(stream) = findings.of(&about("stream"), stream) else { return };
    let info = stream.cached_info();
    let text = format!(
        "{:?} holds {} events, the last is {}",
        pipeline.stream, info.state.messages, info.state.last_sequence
    );
    Findings::good(&about("stream"), &text);
    check_dead_letters(findings, jetstream, pipeline, info).await;
    if pipeline.delivery == DeliveryGuarantee::AtLeastOnce {
        if let Some(looked) = findings.of(&about("consumer"), consumer::look(&stream, pipeline).await) {
            Findings::good(&about("consumer"), &format!("{:?} {}", pipeline.durable, looked.would));
            for warning in looked.warnings {
                Findings::warning(&about("consumer"), &warning);
            }
        }
        return;
    }
    let layout = pipeline.layout();
    let partitions = layout.partitions.len();
    let covered = async {
        coverage::refuse_other_retention(info)?;
        coverage::check(&stream, pipeline, &layout).await
    };
    if findings.of(&about("partitions"), covered.await).is_some() {
        Findings::good(&about("partitions"), &format!("{partitions}, and each event is in one of them"));
    }
    let Some(session) = session else { return };
    let created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX);
    let kept = async {
        if !progress::are_there(session).await? {
            return Ok(None);
        }
        let kept = progress::kept(session, &pipeline.name).await?;
        if kept.partitions > 0 {
            sharing::check_kept(&kept, &layout.hash, partitions, created)?;
        }
        Ok(Some(kept.partitions))
    };
    let late = |_elapsed| Err(Error::sql_timeout(Phase::Progress, "reading the progress"));
    let kept = tokio::time::timeout(config.sql.command_timeout, kept).await.unwrap_or_else(late);
    match findings.of(&about("progress"), kept) {
        // that its tables are missing is said of the table
        None | Some(None) => {}
        Some(Some(0)) => {
            Findings::good(&about("progress"), "none yet, a worker begins with the stream's first event");
        }
        Some(Some(kept)) => {
            Findings::good(&about("progress"), &format!("kept of {kept} partitions, of this stream"));
        }
    }
}

async fn check_dead_letters(
    findings: &mut Findings,
    jetstream: Context,
    pipeline: &PipelineConfig,
    info: &jetstream::stream::Info,
) {
    let about = format!("{}: dead letters", pipeline.name);
    let looked = DeadLetters::look(jetstream, pipeline, info).await;
    if let Some((_, warnings)) = findings.of(&about, looked) {
        let target = &pipeline.dead_letter;
        Findings::good(&about, &format!("the stream {:?} takes {}.>", target.stream, target.subject));
        for warning in warnings {
            Findings::warning(&about, &warning);
        }
    }
}

async fn check_table(
    findings: &mut Findings,
    session: &mut Session,
    config: &Config,
    (pipeline, schema): (&PipelineConfig, &Schema),
    budget: usize,
) {
    let about = |what: &str| format!("{}: {what}", pipeline.name);
    let keeps_state = pipeline.delivery == DeliveryGuarantee::ExactlyOnce || pipeline.receipts.is_some();
    let state = async {
        progress::refuse_delayed_durability(session).await?;
        Ok(match keeps_state {
            false => None,
            true => Some(progress::are_there(session).await?),
        })
    };
    let state = state.await;
    match (findings.of(&about("database"), state), pipeline.create_table) {
        (Some(Some(true)), _) => {
            Findings::good(&about("database"), "the tables of the schema nats_sql_sink are there");
        }
        (Some(Some(false)), true) => {
            Findings::good(
                &about("database"),
                "the tables of the schema nats_sql_sink are missing, a worker makes them",
            );
        }
        (Some(Some(false)), false) => {
            let missing: Result<()> = Err(progress::missing());
            findings.of(&about("database"), missing);
        }
        (Some(None) | None, _) => {}
    }
    let table = &pipeline.table;
    let found = async {
        if pipeline.create_table && !target::exists(session, table).await? {
            return Ok(None);
        }
        target::prepare(session, table, schema, false, &Way::of(pipeline, schema)).await.map(Some)
    };
    let found = found.await;
    match findings.of(&about("table"), found) {
        None => {}
        Some(None) => Findings::good(&about("table"), &format!("{table} does not exist, a worker makes it")),
        Some(Some(target)) => {
            Findings::good(&about("table"), &format!("{table} takes the rows of the schema"));
            let sizes = sizing::decide(pipeline, schema, target.shape, config.memory_bytes(), budget);
            for decision in target.decisions.iter().chain(&sizes.decisions) {
                Findings::note(&about("table"), decision);
            }
            for warning in &sizes.warnings {
                Findings::warning(&about("table"), warning);
            }
        }
    }
}
