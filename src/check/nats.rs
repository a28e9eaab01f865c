//! Streams, consumers, dead letters, and how a stream is divided.

use async_nats::Client;
use async_nats::jetstream::{self, Context};

use super::findings::Findings;
use crate::config::{Config, DeliveryGuarantee, PipelineConfig};
use crate::error::{Error, Phase};
use crate::mssql::connect::Session;
use crate::mssql::progress;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::{consumer, coverage};
use crate::rights::sql::own_tables;
use crate::sharing;

/// Looks at what a pipeline has to do with NATS.
pub(super) async fn check(
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
        if !progress::are_there(session, &own_tables(pipeline)).await? {
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
