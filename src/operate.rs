//! `partitions`: what an operator does about the progress of pipelines in `exactly_once`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use clap::{Args, Subcommand};

use crate::config::{Config, DeliveryGuarantee, Layout, PipelineConfig};
use crate::error::Phase;
use crate::mssql::connect::{Connector, Session};
use crate::mssql::layout;
use crate::mssql::progress::{self, Position, Progress};
use crate::nats::{self, consumer, denied::Denials};
use crate::output;
use crate::rights;

/// How often it is looked whether all partitions are at the barrier.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Partitions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print where each partition of the pipelines in exactly_once is
    Show(Which),
    /// Lead from the division that the database has to the one of the configuration
    ///
    /// Sets a barrier that all partitions go up to, waits until the running workers, which have the former
    /// configuration, are there, and puts the new division in the place of the old. Workers with the new configuration
    /// go on from the barrier: start them before or after. Where it is interrupted, run it again.
    Change {
        #[command(flatten)]
        which: Which,
        /// Give up after this long; the barrier stays, and the command can be run again
        #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
        timeout: Duration,
        /// Take the barrier of an earlier change away, and change nothing
        #[arg(long)]
        cancel: bool,
    },
    /// Begin with the first event of the stream that has the configured name now
    ///
    /// For a stream that was deleted and made anew. What was not read of the former one is lost with it. Refused where
    /// it is still the same stream.
    NewStream(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "NATS_SQL_SINK_CONFIG")]
    config: std::path::PathBuf,
    /// Only this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
}

impl Partitions {
    pub(crate) fn config_file(&self) -> &std::path::Path {
        match &self.command {
            Command::Show(which) | Command::NewStream(which) | Command::Change { which, .. } => &which.config,
        }
    }

    /// Does it, for all pipelines that are meant.
    pub(crate) async fn run(&self, config: &Config) -> anyhow::Result<()> {
        let (Command::Show(which) | Command::NewStream(which) | Command::Change { which, .. }) =
            &self.command;
        let pipelines: Vec<&PipelineConfig> = config
            .pipelines
            .iter()
            .filter(|own| own.delivery == DeliveryGuarantee::ExactlyOnce)
            .filter(|own| which.pipeline.as_ref().is_none_or(|name| *name == own.name))
            .collect();
        if pipelines.is_empty() {
            bail!("the configuration has no such pipeline with delivery = \"exactly_once\"");
        }
        let mut session = Box::pin(Connector::new(config.sql.clone()).open()).await?;
        for pipeline in pipelines {
            match &self.command {
                Command::Show(_) => show(&mut session, pipeline).await,
                Command::Change { cancel: true, .. } => cancel(&mut session, pipeline).await,
                Command::Change { timeout, .. } => change(&mut session, config, pipeline, *timeout).await,
                Command::NewStream(_) => new_stream(&mut session, config, pipeline).await,
            }
            .with_context(|| format!("pipeline {:?}", pipeline.name))?;
        }
        Ok(())
    }
}

async fn show(session: &mut Session, pipeline: &PipelineConfig) -> anyhow::Result<()> {
    let layout = pipeline.layout();
    for at in progress::all(session, &pipeline.name).await? {
        let is_own = at.layout_hash == layout.hash;
        let filters = layout.partitions.get(at.partition).filter(|_| is_own);
        let filters = filters.map_or_else(|| "of another layout".to_owned(), |filters| filters.join(" "));
        let barrier = at.barrier.map(|barrier| format!(" barrier {barrier}")).unwrap_or_default();
        output::line(&format!(
            "{} partition {} sequence {} attempts {}{barrier} ({filters})",
            pipeline.name, at.partition, at.sequence, at.attempts
        ));
    }
    Ok(())
}

async fn cancel(session: &mut Session, pipeline: &PipelineConfig) -> anyhow::Result<()> {
    layout::clear_barrier(session, &pipeline.name).await?;
    output::line(&format!("{}: no barrier", pipeline.name));
    Ok(())
}

/// The stream as it is now.
struct Found {
    created: i64,
    first: u64,
    last: u64,
}

async fn find(config: &Config, pipeline: &PipelineConfig) -> anyhow::Result<Found> {
    let denials = Denials::of(Vec::new(), rights::nats::loader(config));
    let client = nats::connect_as(&config.nats, Duration::from_secs(30), &denials).await?;
    let stream = consumer::stream(&jetstream::new(client), &pipeline.stream, Phase::Nats).await?;
    let info = stream.cached_info();
    Ok(Found {
        created: i64::try_from(info.created.unix_timestamp_nanos())?,
        first: info.state.first_sequence,
        last: info.state.last_sequence,
    })
}

fn position(pipeline: &PipelineConfig, layout: &Layout, stream_created: i64) -> Position {
    Position {
        pipeline: pipeline.name.clone(),
        partition: 0,
        layout_hash: layout.hash.clone(),
        stream_created,
    }
}

async fn change(
    session: &mut Session,
    config: &Config,
    pipeline: &PipelineConfig,
    timeout: Duration,
) -> anyhow::Result<()> {
    let (name, layout) = (&pipeline.name, pipeline.layout());
    let kept = progress::kept(session, name).await?;
    if kept.partitions == 0 {
        bail!("the database keeps no progress of it: there is nothing to change, start a worker");
    }
    if kept.layout_hash.as_ref() == Some(&layout.hash) {
        output::line(&format!("{name}: has {} partitions as configured, nothing to change", kept.partitions));
        return Ok(());
    }
    let stream = find(config, pipeline).await?;
    if kept.stream_created != Some(stream.created) {
        bail!("the stream {:?} was made anew: `partitions new-stream` begins with it", pipeline.stream);
    }
    let barrier = layout::set_barrier(session, name, stream.last).await?;
    output::line(&format!("{name}: {} partitions go up to sequence {barrier}", kept.partitions));
    let started = Instant::now();
    loop {
        let all = progress::all(session, name).await?;
        let behind: Vec<&Progress> = all.iter().filter(|at| at.sequence < barrier).collect();
        if behind.is_empty() {
            break;
        }
        if started.elapsed() > timeout {
            let numbers: Vec<String> = behind.iter().map(|at| at.partition.to_string()).collect();
            bail!(
                "partitions {} are not at the barrier after {}: workers with the former configuration have to run. The \
                 barrier stays; run the command again, or take it away with --cancel",
                numbers.join(", "),
                humantime::format_duration(timeout)
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    let to = position(pipeline, &layout, stream.created);
    layout::change(session, &to, layout.partitions.len(), barrier).await?;
    output::line(&format!(
        "{name}: {} partitions from sequence {barrier} on; subjects that are new are read from there",
        layout.partitions.len()
    ));
    Ok(())
}

async fn new_stream(session: &mut Session, config: &Config, pipeline: &PipelineConfig) -> anyhow::Result<()> {
    let (name, layout) = (&pipeline.name, pipeline.layout());
    let stream = find(config, pipeline).await?;
    let kept = progress::kept(session, name).await?;
    if kept.stream_created == Some(stream.created) {
        bail!("the progress is of the stream {:?} as it is now: nothing to do", pipeline.stream);
    }
    let before = stream.first.saturating_sub(1);
    let to = position(pipeline, &layout, stream.created);
    layout::new_stream(session, &to, layout.partitions.len(), before).await?;
    output::line(&format!(
        "{name}: {} partitions from sequence {before} of the stream {:?} on",
        layout.partitions.len(),
        pipeline.stream
    ));
    Ok(())
}
