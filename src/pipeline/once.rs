//! A pipeline in `exactly_once`: what it needs before it can start, and that it begins again where that has changed.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self};
use tokio::sync::Semaphore;

use super::Pipeline;
use crate::error::{ErrorKind, Phase, Result};
use crate::mssql::leases;
use crate::mssql::progress::{self, Position};
use crate::nats::consumer;
use crate::nats::coverage;
use crate::nats::dead_letter::DeadLetters;
use crate::nats::gate::Gate;
use crate::nats::reader::Gaps;
use crate::partition::Partitions;
use crate::rights::sql::own_tables;
use crate::sharing::{self, Sharing};
use crate::telemetry;
use crate::trouble::Trouble;

/// How often it is looked whether events come that no partition reads.
const COVERAGE: Duration = Duration::from_secs(300);

impl Pipeline {
    /// Runs until a stop: prepares for as long as that takes, then reads its share of the partitions, and begins again
    /// where what was prepared is not valid any more.
    pub(super) async fn run_once(&self, name: &Arc<str>, gate: &Gate) {
        let worker = sharing::worker_name();
        let mut trouble: Option<Trouble> = None;
        while !self.shared.shutdown.is_stopping() {
            self.status.not_started("starting");
            let prepared = self.until_done(name, gate, || self.prepare_once(name, gate)).await;
            let Some(shared) = prepared else { return };
            self.status.started();
            let sharing = Sharing {
                shared: Arc::new(shared),
                connector: self.shared.pool.connector().clone(),
                worker: worker.clone(),
                lease: self.config.lease(),
            };
            let announcing = self.announce(name);
            let stream = sharing.shared.stream.clone();
            let ended = tokio::select! {
                ended = sharing.run() => ended,
                // never ends
                () = self.watch_coverage(&stream) => Ok(()),
            };
            announcing.end().await;
            match ended {
                Ok(()) => return,
                Err(error) => {
                    let next =
                        trouble.get_or_insert_with(|| self.trouble(name, &Gate::default())).met(&error);
                    self.shared.shutdown.sleep(next.wait).await;
                    trouble = None;
                }
            }
        }
    }

    async fn prepare_once(&self, name: &Arc<str>, gate: &Gate) -> Result<Partitions> {
        let jetstream = jetstream::new(self.shared.client.clone());
        let stream = consumer::stream(&jetstream, &self.config.stream, Phase::Nats).await?;
        let info = stream.cached_info().clone();
        coverage::refuse_other_retention(&info)?;
        if info.config.max_messages_per_subject > 0 {
            tracing::warn!(
                pipeline = %name, max_messages_per_subject = info.config.max_messages_per_subject,
                "the stream removes older events of a subject for newer ones: those that are not read by then are \
                 missing in the table, and are not counted as a gap"
            );
        }
        let layout = self.config.layout();
        coverage::check(&stream, &self.config, &layout).await?;
        let dead_letters = DeadLetters::prepare(jetstream, &self.config, &info).await?;
        let stream_created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        let position = Position {
            pipeline: self.config.name.clone(),
            partition: 0,
            layout_hash: layout.hash.clone(),
            stream_created,
        };
        let mut leased = self.shared.pool.get().await?;
        let preparing = async {
            let session = leased.session()?;
            progress::prepare(session, &own_tables(&self.config), self.config.create_table).await?;
            // What the stream has removed before anybody asked for it is no gap.
            let first = info.state.first_sequence.saturating_sub(1);
            let kept = progress::enter(session, &position, layout.partitions.len(), first).await?;
            sharing::check_kept(&kept, &layout.hash, layout.partitions.len(), stream_created)?;
            leases::enter(session, &self.config.name, layout.partitions.len()).await?;
            self.target(session).await
        };
        let target = self.within(preparing, "reading the table's shape").await?;
        leased.give_back();
        let writer = self.writer(name, gate, target, dead_letters)?;
        let budget = self.shared.budget.clone();
        Ok(Partitions {
            gaps: Gaps::default(),
            writer,
            client: self.shared.client.clone(),
            stream,
            stream_created,
            // A worker may come to read all partitions; together they reserve what the pipeline is sure of, and no more, for
            // what has not arrived yet.
            share: budget.sure() / layout.partitions.len().max(1),
            layout,
            budget,
            places: Arc::new(Semaphore::new(self.config.writers.max + 1)),
        })
    }

    /// Says from time to time whether events have come that no partition reads. Never ends.
    async fn watch_coverage(&self, stream: &Stream) {
        let layout = self.config.layout();
        let mut _said = None;
        loop {
            tokio::time::sleep(COVERAGE).await;
            match coverage::check(stream, &self.config, &layout).await {
                Ok(()) => _said = None,
                Err(error) if error.kind == ErrorKind::StreamSetup => {
                    let text = telemetry::describe(&error);
                    tracing::error!(pipeline = %self.config.name, error = %text, "events are not read");
                    _said = Some(self.status.complain_after(Duration::ZERO, text));
                }
                // It is tried again, and what else there is to say of NATS others say.
                Err(error) => {
                    tracing::debug!(pipeline = %self.config.name, %error, "partitions are not counted");
                }
            }
        }
    }
}
