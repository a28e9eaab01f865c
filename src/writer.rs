//! What every batch needs on its way, whatever is promised for it: decoding, the dead-letter stream, and loads that are
//! tried for as long as it takes.

mod decoding;
mod search;

use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;

use crate::batcher::Limits;
use crate::config::PipelineConfig;
use crate::decode::{Decoded, Decoder};
use crate::delivery::{Batch, Durable, Event};
use crate::disposition::{Disposition, Duplicates, asks_for_less, disposition, meaning};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::bulk::Deadlines;
use crate::mssql::commit::{self, Commit, Committed, Merged, Resolved, Rows, Step as ProgressStep};
use crate::mssql::connect::Pool;
use crate::mssql::target::{self, Target, Way};
use crate::mssql::trials::Staged;
use crate::nats::dead_letter::{DeadLetters, Reason};
use crate::nats::gate::Gate;
use crate::refusals::Refusals;
use crate::schema::Schema;
use crate::shutdown::Shutdown;
use crate::sizing::FEWEST_COMPRESSED_ROWS;
use crate::status::PipelineStatus;
use crate::trouble::Trouble;
use crate::writers::Writers;
use search::OnTrial;

/// Everything that the batches of one pipeline need on their way.
#[derive(Debug)]
pub struct Writer {
    /// The pipeline's configuration.
    pub config: PipelineConfig,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// How events become rows, with the code pages of the target table.
    pub schema: Arc<Schema>,
    /// Decodes on the process' pool.
    pub decoder: Decoder,
    /// The table, as its shape was read last.
    pub target: RwLock<Arc<Target>>,
    /// Sessions with the database.
    pub pool: Pool,
    /// How large a batch may become.
    pub limits: Limits,
    /// How many loads are under way at once.
    pub writers: Writers,
    /// What it means that the table holds the key of a row already.
    pub duplicates: Duplicates,
    /// How many of the last rows were refused alike.
    pub refusals: Refusals<ErrorKind>,
    /// How long steps with the database may take.
    pub deadlines: Deadlines,
    /// Where bad events go.
    pub dead_letters: DeadLetters,
    /// Closed while the pipeline has stopped.
    pub gate: Gate,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without a commit, though there is something to commit, the pipeline is not ready.
    pub retry_window: Duration,
    /// When to give up.
    pub shutdown: Shutdown,
}

/// A batch that the server cannot take at once is not cut into smaller parts than this.
const FEWEST_ROWS: usize = 1_000;

/// What came of trying to write some rows.
#[derive(Debug)]
pub enum Wrote {
    /// They are durable.
    Committed(Durable),
    /// They were taken, and rolled back, as was asked for.
    TriedOut,
    /// Every one of them is bad.
    NoneLeft,
    /// The server cannot take as many rows in one transaction.
    TooMany,
    /// A row is bad, and the server does not say which.
    Refused(Error),
    /// The progress of the partition is not where the commit begins: what was to be written is none of this worker's.
    Superseded,
    /// The process was told to give up.
    GaveUp,
}

/// What becomes of rows that the server has taken.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// They are committed, together with this.
    Yes(&'a Commit),
    /// They are rolled back: it was a trial.
    No,
}

/// A piece of work with the database.
enum Work<'a> {
    /// Rows go into the table in one transaction.
    Load { parts: &'a [RecordBatch], keep: Keep<'a> },
    /// Some rows of a batch, those at these positions of the stream, are tried by key.
    Trial { rows: &'a RecordBatch, positions: &'a [RangeInclusive<i64>], on_trial: &'a mut OnTrial },
}

impl Work<'_> {
    fn row_count(&self) -> usize {
        match self {
            Work::Load { parts, .. } => parts.iter().map(RecordBatch::num_rows).sum(),
            Work::Trial { rows, .. } => rows.num_rows(),
        }
    }

    /// Throws away a session that it keeps.
    fn let_go(&mut self) {
        if let Work::Trial { on_trial, .. } = self {
            on_trial.staged = None;
        }
    }
}

impl Writer {
    /// Loads rows in one transaction, and commits it or rolls it back; tries for as long as it takes.
    pub async fn load(&self, parts: &[RecordBatch], keep: Keep<'_>, trouble: &mut Trouble) -> Wrote {
        self.work(Work::Load { parts, keep }, trouble).await
    }

    /// Does one piece of work; tries for as long as it takes.
    async fn work(&self, mut work: Work<'_>, trouble: &mut Trouble) -> Wrote {
        let row_count = work.row_count();
        loop {
            let begun = self.writers.begin();
            let error = tokio::select! {
                outcome = self.attempt(&mut work) => match outcome {
                    Ok(Some(committed)) => {
                        if row_count > 0 {
                            begun.done(row_count, committed.took());
                        }
                        return Wrote::Committed(self.count(committed, row_count));
                    }
                    Ok(None) => return Wrote::TriedOut,
                    Err(error) => error,
                },
                () = self.shutdown.forced() => return Wrote::GaveUp,
            };
            if asks_for_less(&error) {
                begun.throttled();
            } else if error.is_late() {
                begun.timed_out();
            }
            match disposition(&error, self.duplicates) {
                Disposition::Bisect if error.phase == Phase::Load => {
                    metrics::error_met(&self.pipeline, &error, Disposition::Bisect);
                    return Wrote::Refused(error);
                }
                Disposition::StartAgain => {
                    metrics::error_met(&self.pipeline, &error, Disposition::StartAgain);
                    return Wrote::Superseded;
                }
                _ => {}
            }
            // nobody shall wait for a lock meanwhile
            work.let_go();
            let next = trouble.met(&error);
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.shutdown.forced() => return Wrote::GaveUp,
            }
            match next.disposition {
                Disposition::SmallerBatch if row_count > FEWEST_ROWS => return Wrote::TooMany,
                Disposition::OutcomeUnknown => match &work {
                    Work::Load { keep: Keep::Yes(Commit { progress: Some(made), .. }), .. } => {
                        match self.resolve(made).await {
                            Some(Resolved::NotCommitted) => {}
                            Some(Resolved::Committed(durable)) => return Wrote::Committed(durable),
                            Some(Resolved::Superseded) => return Wrote::Superseded,
                            None => return Wrote::GaveUp,
                        }
                    }
                    _ => self.unknown(row_count),
                },
                Disposition::ReloadShape | Disposition::Stop => self.reload_target().await,
                _ => {}
            }
        }
    }

    async fn attempt(&self, work: &mut Work<'_>) -> Result<Option<Committed>> {
        let target = || Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner));
        let (schema, deadlines) = (&*self.schema, self.deadlines);
        match work {
            Work::Load { parts, keep } => {
                let leased = self.pool.get().await?;
                let target = target();
                let _busy = metrics::WriterBusy::enter(&self.pipeline);
                let rows = Rows { target: &target, schema, parts, deadlines };
                match keep {
                    Keep::Yes(commit) => commit::write(leased, rows, commit).await.map(Some),
                    Keep::No => commit::try_out(leased, rows).await.map(|()| None),
                }
            }
            Work::Trial { rows, positions, on_trial } => {
                let staged = match on_trial.staged.take() {
                    Some(staged) => staged,
                    None => {
                        let leased = self.pool.get().await?;
                        let target = target();
                        on_trial.is_staging = true;
                        let parts = std::slice::from_ref(*rows);
                        Staged::load(leased, Rows { target: &target, schema, parts, deadlines }).await?
                    }
                };
                on_trial.is_staging = false;
                let _busy = metrics::WriterBusy::enter(&self.pipeline);
                let (staged, tried) = staged.attempt(positions).await;
                on_trial.staged = staged;
                tried.map(|()| None)
            }
        }
    }

    /// Counts a transaction that is in.
    fn count(&self, committed: Committed, rows: usize) -> Durable {
        let Committed { durable, load, commit, merged } = committed;
        if rows > 0 {
            metrics::committed(&self.pipeline, load, commit);
        }
        match merged {
            Some(Merged { updated, inserted, .. }) => {
                metrics::merged(&self.pipeline, updated, inserted, rows);
                // In a columnstore an update is a new row in the deltastore.
                self.count_loaded(usize::try_from(inserted).unwrap_or(usize::MAX));
                metrics::rows_loaded(&self.pipeline, updated, false);
            }
            None => self.count_loaded(rows),
        }
        durable
    }

    fn count_loaded(&self, rows: usize) {
        metrics::rows_loaded(&self.pipeline, rows as u64, rows >= FEWEST_COMPRESSED_ROWS);
    }

    /// Finds out whether a step was made, for as long as it takes. `None` where the process gave up.
    async fn resolve(&self, made: &ProgressStep) -> Option<Resolved> {
        metrics::outcome_unknown(&self.pipeline, 0);
        let resolved = self
            .persist(|| async {
                let leased = self.pool.get().await?;
                commit::resolve(leased, made, self.deadlines.statement).await
            })
            .await?;
        tracing::warn!(
            pipeline = %self.pipeline, partition = made.position.partition, to = made.to, ?resolved,
            "the outcome of a commit was unknown, the progress tells it"
        );
        Some(resolved)
    }

    /// Takes note of a commit whose rows are written again. By key that changes nothing; appended they may then be there
    /// twice.
    fn unknown(&self, row_count: usize) {
        if self.duplicates != Duplicates::Retry {
            metrics::outcome_unknown(&self.pipeline, row_count);
            tracing::warn!(
                pipeline = %self.pipeline, rows = row_count,
                "the outcome of a commit is unknown: its rows are written again and may be duplicates"
            );
        } else {
            metrics::outcome_unknown(&self.pipeline, 0);
            tracing::warn!(
                pipeline = %self.pipeline, rows = row_count,
                "the outcome of a commit is unknown: its rows are written again by their key"
            );
        }
    }

    /// Reads the table's shape again. Where that fails the next write tells why.
    async fn reload_target(&self) {
        let reload = async {
            let mut leased = self.pool.get().await?;
            let way = Way::of(&self.config, &self.schema);
            let target = target::prepare(
                leased.session()?,
                &self.config.table,
                &self.schema,
                self.config.create_table,
                &way,
            );
            let target = tokio::time::timeout(self.deadlines.statement, target)
                .await
                .map_err(|_elapsed| Error::sql_timeout(Phase::Target, "reading the table's shape"))??;
            leased.give_back();
            Ok::<_, Error>(target)
        };
        let reloaded = tokio::select! {
            reloaded = reload => reloaded,
            () = self.shutdown.forced() => return,
        };
        match reloaded {
            Ok(target) => *self.target.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(target),
            Err(error) => {
                tracing::debug!(pipeline = %self.pipeline, error = %error, "the table's shape cannot be read just now");
            }
        }
    }

    /// Publishes events to the dead-letter stream, however long that takes. `None` where the process gave up.
    pub async fn dead_letter(&self, rejected: &[(&Event, Reason)]) -> Option<Durable> {
        let durable = self.persist(|| self.dead_letters.publish(rejected)).await?;
        for (_, reason) in rejected {
            metrics::dead_lettered(&self.pipeline, reason.kind);
        }
        self.status.dead_lettered(rejected.len());
        Some(durable)
    }

    /// Tries until it is done; `None` where the process gave up.
    pub async fn persist<T, F: Future<Output = Result<T>>>(&self, mut work: impl FnMut() -> F) -> Option<T> {
        let mut trouble = self.trouble();
        loop {
            let error = tokio::select! {
                done = work() => match done {
                    Ok(done) => {
                        trouble.over();
                        return Some(done);
                    }
                    Err(error) => error,
                },
                () = self.shutdown.forced() => return None,
            };
            let next = trouble.met(&error);
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.shutdown.forced() => return None,
            }
        }
    }

    /// Counts what of a batch is in the table now.
    pub fn committed(&self, batch: &Batch, events: impl Iterator<Item = u32>, rows: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let step = rows.div_ceil(MAX_LATENCY_SAMPLES).max(1);
        let published = events.step_by(step).filter_map(|event| batch.events.get(event as usize));
        metrics::end_to_end(&self.pipeline, published.map(|event| now.saturating_sub(event.published_at)));
        metrics::rows_committed(&self.pipeline, rows);
        self.refusals.taken(rows);
        self.status.committed(rows);
    }

    /// The errors that a piece of work meets; none so far.
    pub fn trouble(&self) -> Trouble {
        Trouble::new(Arc::clone(&self.pipeline), &self.status, self.gate.clone(), self.retry_window)
            .with_duplicates(self.duplicates)
    }
}

/// The events of a batch that could not become rows, and why.
pub fn undecodable<'a>(batch: &'a Batch, decoded: &Decoded) -> Vec<(&'a Event, Reason)> {
    let rejects = decoded.rejects.iter().filter_map(|reject| {
        let reason = Reason {
            kind: reject.reason.kind().as_str(),
            detail: reject.reason.to_string(),
            phase: Phase::Decode,
            error_number: None,
        };
        Some((batch.events.get(reject.event)?, reason))
    });
    rejects.collect()
}

/// What the dead letter of a row says that the database refused.
pub fn refusal(error: &Error) -> Reason {
    let meaning = error.number().and_then(meaning).map(|meaning| format!(", {meaning}")).unwrap_or_default();
    Reason {
        kind: REFUSED_BY_DATABASE,
        detail: format!("the database refused the row: {error}{meaning}"),
        phase: error.phase,
        error_number: error.number(),
    }
}

/// The reason of a dead letter, and a metric's label.
const REFUSED_BY_DATABASE: &str = "refused_by_database";

/// Of a batch, at most so many events tell their latency: the exporter keeps every sample until it is asked.
const MAX_LATENCY_SAMPLES: usize = 1_000;
