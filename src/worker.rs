//! One batch after another: decode, set the bad events aside, write, commit, settle.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::batcher::Cut;
use crate::bisect::{Search, Step};
use crate::config::PipelineConfig;
use crate::decode::{Decoded, Decoder};
use crate::delivery::{Batch, Claim, Durable, Event};
use crate::disposition::{Disposition, disposition, meaning};
use crate::error::{Error, Phase, Result};
use crate::metrics;
use crate::mssql::bulk::Deadlines;
use crate::mssql::commit::{self, Committed};
use crate::mssql::connect::Pool;
use crate::mssql::target::{self, Target};
use crate::nats::dead_letter::{DeadLetters, Reason};
use crate::nats::gate::Gate;
use crate::nats::settle::Settler;
use crate::schema::Schema;
use crate::shutdown::Shutdown;
use crate::status::PipelineStatus;
use crate::trouble::Trouble;

/// Everything that the batches of one pipeline need on their way.
#[derive(Debug)]
pub struct Worker {
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
    /// How long steps with the database may take.
    pub deadlines: Deadlines,
    /// Where bad events go.
    pub dead_letters: DeadLetters,
    /// Acknowledges.
    pub settler: Settler,
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
enum Wrote {
    Committed(Durable),
    /// They were taken, and rolled back, as was asked for.
    TriedOut,
    /// Every one of them is bad.
    NoneLeft,
    /// The server cannot take as many rows in one transaction.
    TooMany,
    /// A row is bad, and the server does not say which.
    Refused(Error),
    /// The process was told to give up.
    GaveUp,
}

/// What becomes of rows that the server has taken.
#[derive(Debug, Clone, Copy)]
enum Keep {
    /// They are committed.
    Yes,
    /// They are rolled back: it was a trial.
    No,
}

/// Why a row was refused. Rows that were refused with one number were refused alike.
#[derive(Debug, Clone)]
struct Refusal(Error);

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind == other.0.kind
    }
}

/// Takes batches until no more come, and returns when the last one is done with. One more batch than there are writers
/// is in work at a time, so that it can be decoded while the others are written.
pub async fn run(worker: Arc<Worker>, mut batches: mpsc::Receiver<(Batch, Cut)>) {
    let writers = Arc::new(Semaphore::new(worker.config.writers.max));
    let places = Arc::new(Semaphore::new(worker.config.writers.max + 1));
    let mut tasks = JoinSet::new();
    // Neither semaphore is ever closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await
        && let Some((batch, cut)) = batches.recv().await
    {
        metrics::batch_cut(&worker.pipeline, batch.len(), batch.bytes, cut.as_str());
        let (worker, writers) = (Arc::clone(&worker), Arc::clone(&writers));
        tasks.spawn(async move {
            worker.process(batch, &writers).await;
            drop(place);
        });
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        report(ended);
    }
}

/// A batch whose task panicked has dropped its claims, and will be delivered again.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a batch ended by a defect of this program, its events will be delivered again");
    }
}

impl Worker {
    /// Takes one batch all the way. What is not settled when this returns is given back by the claims' drop.
    async fn process(&self, mut batch: Batch, writers: &Semaphore) {
        let Some(decoded) = self.decode(&mut batch).await else { return };
        let mut claims: Vec<Option<Claim>> =
            std::mem::take(&mut batch.claims).into_iter().map(Some).collect();
        if !self.set_aside(&batch, &decoded, &mut claims).await {
            return;
        }
        let row_claims: Vec<Claim> =
            decoded.row_events.iter().filter_map(|event| claims.get_mut(*event as usize)?.take()).collect();
        self.write_all(&batch, &decoded, row_claims, writers).await;
    }

    /// Decodes the batch; `None` where that is not possible, which is a defect, or where the process gives up.
    async fn decode(&self, batch: &mut Batch) -> Option<Decoded> {
        let started = Instant::now();
        let decoded = tokio::select! {
            decoded = self.decoder.decode(std::mem::take(&mut batch.events)) => decoded,
            () = self.shutdown.forced() => return None,
        };
        match decoded {
            Ok((events, decoded)) => {
                batch.events = events;
                metrics::decoded(&self.pipeline, started.elapsed());
                Some(decoded)
            }
            Err(error) => {
                // The claims are dropped with the batch: JetStream delivers it again, after the wait that the gate
                // and the status make visible.
                let mut trouble = self.trouble();
                let next = trouble.met(&error);
                self.shutdown.sleep(next.wait).await;
                None
            }
        }
    }

    /// Publishes the bad events to the dead-letter stream, however long that takes, and then acknowledges them.
    /// `false` where the process gave up.
    async fn set_aside(&self, batch: &Batch, decoded: &Decoded, claims: &mut [Option<Claim>]) -> bool {
        if decoded.rejects.is_empty() {
            return true;
        }
        let rejected: Vec<(&Event, Reason)> = decoded
            .rejects
            .iter()
            .filter_map(|reject| {
                let reason = Reason {
                    kind: reject.reason.kind().as_str(),
                    detail: reject.reason.to_string(),
                    phase: Phase::Decode,
                    error_number: None,
                };
                Some((batch.events.get(reject.event)?, reason))
            })
            .collect();
        let done = decoded.rejects.iter().filter_map(|reject| claims.get_mut(reject.event)?.take()).collect();
        self.dead_letter(&rejected, done).await
    }

    /// Publishes events to the dead-letter stream, however long that takes, and then acknowledges them. `false` where
    /// the process gave up.
    async fn dead_letter(&self, rejected: &[(&Event, Reason)], claims: Vec<Claim>) -> bool {
        let Some(durable) = self.persist(|| self.dead_letters.publish(rejected)).await else {
            return false;
        };
        for (_, reason) in rejected {
            metrics::dead_lettered(&self.pipeline, reason.kind);
        }
        self.status.dead_lettered(rejected.len());
        self.acknowledge(claims, &durable).await
    }

    /// Writes all rows, in one transaction where the server takes them so, and acknowledges what is committed.
    async fn write_all(&self, batch: &Batch, decoded: &Decoded, mut claims: Vec<Claim>, writers: &Semaphore) {
        let total = decoded.rows.num_rows();
        let mut first = 0;
        let mut most = total;
        let mut trouble = None;
        // Rows that the server refuses, by their place among those at hand.
        let mut refused: Vec<(usize, Error)> = Vec::new();
        while first < total {
            let rows = decoded.rows.slice(first, most.min(total - first));
            let wrote = {
                // Never closed; and a stop that forces is noticed inside.
                let _writer = writers.acquire().await;
                let trouble = trouble.get_or_insert_with(|| self.trouble());
                let parts = [rows.clone()];
                match self.load(&parts, Keep::Yes, trouble).await {
                    Wrote::Refused(error) => self.without_bad_rows(&rows, error, trouble, &mut refused).await,
                    other => other,
                }
            };
            match wrote {
                Wrote::Committed(_) | Wrote::NoneLeft => {
                    if let Some(trouble) = trouble.take() {
                        trouble.over();
                    }
                    // What was too much may have been so for a moment only.
                    most = most.saturating_mul(2);
                    // in their order, as the search has found them
                    let is_refused = |row: usize| refused.binary_search_by_key(&row, |(bad, _)| *bad).is_ok();
                    let events = decoded.row_events.iter().skip(first).take(rows.num_rows());
                    let good =
                        events.enumerate().filter(|(row, _)| !is_refused(*row)).map(|(_, event)| *event);
                    self.committed(batch, good, rows.num_rows() - refused.len());
                    let done = claims.drain(..rows.num_rows().min(claims.len())).enumerate();
                    let (bad, done): (Vec<_>, Vec<_>) = done.partition(|(row, _)| is_refused(*row));
                    let without_row =
                        |claims: Vec<(usize, Claim)>| claims.into_iter().map(|(_, claim)| claim).collect();
                    if let Wrote::Committed(durable) = &wrote
                        && !self.acknowledge(without_row(done), durable).await
                    {
                        return;
                    }
                    let rejected: Vec<(&Event, Reason)> = refused
                        .drain(..)
                        .filter_map(|(row, why)| {
                            let event = *decoded.row_events.get(first + row)?;
                            Some((batch.events.get(event as usize)?, refusal(&why)))
                        })
                        .collect();
                    if !rejected.is_empty() && !self.dead_letter(&rejected, without_row(bad)).await {
                        return;
                    }
                    first += rows.num_rows();
                }
                Wrote::TooMany => most = rows.num_rows().div_ceil(2),
                // what was found of such rows is found again
                Wrote::Refused(_) | Wrote::TriedOut => refused.clear(),
                Wrote::GaveUp => return,
            }
        }
    }

    /// Finds the rows that the server refuses, of which there is one at least, and writes the others in one
    /// transaction. [`Wrote::Refused`] where the rows are not to blame, or not alone, and it was waited for a while.
    async fn without_bad_rows(
        &self,
        rows: &RecordBatch,
        error: Error,
        trouble: &mut Trouble,
        refused: &mut Vec<(usize, Error)>,
    ) -> Wrote {
        let started = Instant::now();
        let mut search = Search::new(rows.num_rows(), Refusal(error));
        let mut loads = 0;
        loop {
            let step = search.step();
            let (ranges, keep) = match &step {
                Step::Try(ranges) => (ranges, Keep::No),
                Step::Write(ranges) => (ranges, Keep::Yes),
                Step::GiveUp { refused, of } => {
                    let error =
                        Error::rows_refused(search.last_reason().map(|Refusal(why)| why), *refused, *of);
                    let next = trouble.met(&error);
                    tokio::select! {
                        () = tokio::time::sleep(next.wait) => {}
                        () = self.shutdown.forced() => return Wrote::GaveUp,
                    }
                    self.reload_target().await;
                    return Wrote::Refused(error);
                }
            };
            let parts: Vec<RecordBatch> =
                ranges.iter().map(|range| rows.slice(range.start, range.len())).collect();
            loads += 1;
            let wrote =
                if parts.is_empty() { Wrote::NoneLeft } else { self.load(&parts, keep, trouble).await };
            match wrote {
                Wrote::Refused(error) => search.refused(Refusal(error)),
                Wrote::TriedOut => {
                    search.accepted();
                }
                Wrote::Committed(_) | Wrote::NoneLeft => {
                    let bad = search.bad().iter().map(|(row, Refusal(why))| (*row, why.clone()));
                    refused.extend(bad);
                    metrics::bisected(&self.pipeline, loads, started.elapsed());
                    tracing::warn!(
                        pipeline = %self.pipeline, batch_rows = rows.num_rows(), refused = refused.len(), loads,
                        "the database refused rows, which go to the dead-letter stream: the others are written"
                    );
                    return wrote;
                }
                Wrote::TooMany | Wrote::GaveUp => return wrote,
            }
        }
    }

    /// Loads rows in one transaction, and commits it or rolls it back; tries for as long as it takes.
    async fn load(&self, parts: &[RecordBatch], keep: Keep, trouble: &mut Trouble) -> Wrote {
        let row_count: usize = parts.iter().map(RecordBatch::num_rows).sum();
        loop {
            let attempt = async {
                let leased = self.pool.get().await?;
                let target = Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner));
                let _busy = metrics::WriterBusy::enter(&self.pipeline);
                match keep {
                    Keep::Yes => {
                        commit::write(leased, &target, &self.schema, parts, self.deadlines).await.map(Some)
                    }
                    Keep::No => commit::try_out(leased, &target, &self.schema, parts, self.deadlines)
                        .await
                        .map(|()| None),
                }
            };
            let error = tokio::select! {
                outcome = attempt => match outcome {
                    Ok(Some(Committed { durable, load, commit })) => {
                        metrics::committed(&self.pipeline, load, commit);
                        return Wrote::Committed(durable);
                    }
                    Ok(None) => return Wrote::TriedOut,
                    Err(error) => error,
                },
                () = self.shutdown.forced() => return Wrote::GaveUp,
            };
            if error.phase == Phase::Load && disposition(&error) == Disposition::Bisect {
                metrics::error_met(&self.pipeline, &error, Disposition::Bisect);
                return Wrote::Refused(error);
            }
            let next = trouble.met(&error);
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.shutdown.forced() => return Wrote::GaveUp,
            }
            match next.disposition {
                Disposition::SmallerBatch if row_count > FEWEST_ROWS => return Wrote::TooMany,
                Disposition::OutcomeUnknown => {
                    // At least once: the rows are written again, and may then be there twice.
                    metrics::outcome_unknown(&self.pipeline, row_count);
                    tracing::warn!(
                        pipeline = %self.pipeline, rows = row_count,
                        "the outcome of a commit is unknown: its rows are written again and may be duplicates"
                    );
                }
                Disposition::ReloadShape | Disposition::Stop => self.reload_target().await,
                _ => {}
            }
        }
    }

    /// Reads the table's shape again. Where that fails the next write tells why.
    async fn reload_target(&self) {
        let reload = async {
            let mut leased = self.pool.get().await?;
            let target = target::prepare(
                leased.session()?,
                &self.config.table,
                &self.schema,
                self.config.create_table,
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

    /// Tries until it is done; `None` where the process gave up.
    async fn persist<T, F: Future<Output = Result<T>>>(&self, mut work: impl FnMut() -> F) -> Option<T> {
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

    /// `false` where the process gave up before the server confirmed. Where the consumer is gone instead, the rest of the
    /// batch goes on: nobody else has it.
    async fn acknowledge(&self, claims: Vec<Claim>, durable: &Durable) -> bool {
        match self.settler.acknowledge(claims, durable).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline, %error, "durable events are not acknowledged");
                !self.shutdown.is_forced()
            }
        }
    }

    fn committed(&self, batch: &Batch, events: impl Iterator<Item = u32>, rows: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let step = rows.div_ceil(MAX_LATENCY_SAMPLES).max(1);
        let published = events.step_by(step).filter_map(|event| batch.events.get(event as usize));
        metrics::end_to_end(&self.pipeline, published.map(|event| now.saturating_sub(event.published_at)));
        metrics::rows_committed(&self.pipeline, rows);
        self.status.committed(rows);
    }

    fn trouble(&self) -> Trouble {
        Trouble::new(Arc::clone(&self.pipeline), &self.status, self.gate.clone(), self.retry_window)
    }
}

/// What the dead letter of a row says that the database refused.
fn refusal(error: &Error) -> Reason {
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
