//! One partition in `exactly_once`: read from where the database says it is, in order, batch by batch; and each batch
//! committed together with how far it leads.
//!
//! ```text
//! reader ──chunks──▶ batcher ──batches──▶ decode ──▶ dead letters ──▶ rows and progress, one transaction
//! ```
//!
//! The condition on the progress is what makes it right: who else reads the same partition, for whatever reason, commits
//! a batch or is refused it. Whoever is refused reads the progress, and goes on from there.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::batcher::{self, Cut, Limits};
use crate::budget::Budget;
use crate::config::{Layout, OnGap};
use crate::decode::Decoded;
use crate::delivery::{Batch, Event};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::commit::{Commit, Receipt, Step};
use crate::mssql::progress::{self, Position, Progress};
use crate::nats::dead_letter::Reason;
use crate::nats::gate::Gate;
use crate::nats::reader::{Reader, Seen};
use crate::trouble::Trouble;
use crate::writer::{Keep, Writer, Wrote, refusal, undecodable};

/// Chunks of deliveries that may wait for the batcher.
const WAITING_CHUNKS: usize = 8;
/// How often the progress of a partition without events moves to what its consumer has seen of the stream, so that what
/// the stream's limits remove meanwhile does not look like a gap.
const IDLE_STEP: Duration = Duration::from_secs(5);
/// After so many idle steps the progress is read again: a failover of the database may have lost commits, which nobody
/// would notice until the next event.
const STEPS_BEFORE_LOOK: u32 = 6;
/// How often a partition at its barrier looks whether it may go on.
const AT_BARRIER: Duration = Duration::from_secs(1);

/// What the partitions of a pipeline have in common.
#[derive(Debug)]
pub struct Partitions {
    /// Decodes and writes.
    pub writer: Writer,
    /// The connection.
    pub client: Client,
    /// The stream.
    pub stream: Stream,
    /// The stream's creation: nanoseconds since 1970-01-01 UTC.
    pub stream_created: i64,
    /// How it is divided.
    pub layout: Layout,
    /// The process' byte budget.
    pub budget: Budget,
    /// Most bytes of the budget to reserve for one pull.
    pub share: usize,
    /// So many batches are written at once.
    pub writers: Arc<Semaphore>,
    /// So many are decoded, or wait to be written, or are written.
    pub places: Arc<Semaphore>,
}

/// A partition that this worker reads.
#[derive(Debug)]
pub struct Partition {
    shared: Arc<Partitions>,
    position: Arc<Position>,
    /// Asks to finish what is held, and to read no more.
    stop: CancellationToken,
}

/// A batch with its rows.
struct Ready {
    batch: Batch,
    decoded: Decoded,
    _place: OwnedSemaphorePermit,
}

/// Whether to go on with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Goes,
    /// Its progress is not where this worker thinks: it is to be read again.
    Superseded,
    GaveUp,
}

impl Partition {
    /// A partition by its number.
    pub fn new(shared: Arc<Partitions>, number: usize, stop: CancellationToken) -> Self {
        let position = Position {
            pipeline: shared.writer.pipeline.to_string(),
            partition: number,
            layout_hash: shared.layout.hash.clone(),
            stream_created: shared.stream_created,
        };
        Self { position: Arc::new(position), shared, stop }
    }

    /// Moves events until it is stopped, and begins again after whatever error.
    pub async fn run(self) {
        let writer = &self.shared.writer;
        let mut trouble = None;
        while !self.stop.is_cancelled() {
            let error = tokio::select! {
                ended = self.go_on(&mut trouble) => match ended {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                () = writer.shutdown.forced() => return,
            };
            let trouble = trouble.get_or_insert_with(|| self.trouble());
            let next = trouble.met(&error);
            tokio::select! {
                () = tokio::time::sleep(next.wait) => {}
                () = self.stop.cancelled() => return,
                () = writer.shutdown.forced() => return,
            }
        }
    }

    /// What stops a partition does not stop the others.
    fn trouble(&self) -> Trouble {
        let writer = &self.shared.writer;
        Trouble::new(Arc::clone(&writer.pipeline), &writer.status, Gate::default(), writer.retry_window)
    }

    /// Reads from the progress on, until something makes it necessary to look at that again.
    async fn go_on(&self, trouble: &mut Option<Trouble>) -> Result<()> {
        let progress = self.attempt().await?;
        self.check(&progress)?;
        if let Some(trouble) = trouble.take() {
            trouble.over();
        }
        if progress.barrier.is_some_and(|barrier| progress.sequence >= barrier) {
            let waiting = self.shared.writer.status.complain_after(
                self.shared.writer.retry_window,
                format!(
                    "partition {} is at the barrier of a change of the partitions",
                    self.position.partition
                ),
            );
            tokio::select! {
                () = tokio::time::sleep(AT_BARRIER) => {}
                () = self.stop.cancelled() => {}
            }
            drop(waiting);
            return Ok(());
        }
        tracing::info!(
            pipeline = %self.position.pipeline, partition = self.position.partition, sequence = progress.sequence,
            attempts = progress.attempts, "reading the partition from its progress on"
        );
        self.read(&progress).await
    }

    async fn attempt(&self) -> Result<Progress> {
        let writer = &self.shared.writer;
        let attempt = async {
            let mut leased = writer.pool.get().await?;
            let progress = progress::attempt(leased.session()?, &self.position).await?;
            leased.give_back();
            Ok::<_, Error>(progress)
        };
        let progress =
            tokio::time::timeout(writer.deadlines.statement, attempt).await.map_err(|_elapsed| {
                Error::sql_timeout(Phase::Progress, "reading the progress of a partition")
            })??;
        progress.ok_or_else(|| {
            setup(
                "the progress of the partition is gone: the partitions were changed, or somebody deleted it",
            )
        })
    }

    fn check(&self, progress: &Progress) -> Result<()> {
        if progress.layout_hash != self.position.layout_hash {
            return Err(setup(
                "the progress is of another division of the stream: the partitions were changed since this worker \
                 was started; start it with the configuration that they were changed to",
            ));
        }
        if progress.stream_created != self.position.stream_created {
            return Err(setup(
                "the progress is of another stream: this one was made anew under its name \
                 (`nats-sql-sink partitions new-stream` begins with it)",
            ));
        }
        Ok(())
    }

    async fn read(&self, progress: &Progress) -> Result<()> {
        let shared = &self.shared;
        let writer = &shared.writer;
        let (chunks, chunks_in) = mpsc::channel(WAITING_CHUNKS);
        let (batches, batches_in) = mpsc::channel(1);
        let (ready, ready_in) = mpsc::channel(1);
        let (seen, seen_in) = watch::channel(Seen { last: progress.sequence, until: progress.sequence });
        let stop = self.stop.child_token();
        let reader = Reader {
            client: shared.client.clone(),
            stream: shared.stream.clone(),
            stream_created: shared.stream_created,
            filters: shared.layout.partitions.get(self.position.partition).cloned().unwrap_or_default(),
            name: writer.config.consumer_name().to_owned(),
            pipeline: Arc::clone(&writer.pipeline),
            partition: self.position.partition,
            on_gap: writer.config.on_gap.unwrap_or(OnGap::Stop),
            barrier: progress.barrier,
            schema: Arc::clone(&writer.schema),
            budget: shared.budget.clone(),
            share: shared.share,
            gate: writer.gate.clone(),
            status: writer.status.clone(),
            retry_window: writer.retry_window,
            out: chunks,
            seen,
            stop: stop.clone(),
        };
        let limits = Limits::from(&writer.config.batch);
        let (read, (), (), flow) = tokio::join!(
            reader.run(progress.sequence),
            batcher::run(limits, shared.budget.clone(), chunks_in, batches),
            self.decode(batches_in, ready),
            async {
                let flow = self.write(ready_in, seen_in, progress.sequence).await;
                // What is held beyond is read again.
                stop.cancel();
                flow
            },
        );
        if flow == Flow::Superseded {
            metrics::partition_restarted(&writer.pipeline);
            tracing::warn!(
                pipeline = %writer.pipeline, partition = self.position.partition,
                "the partition's progress was moved by another worker, or may not move: reading it again"
            );
        }
        read
    }

    /// Decodes one batch ahead of what is written.
    async fn decode(&self, mut batches: mpsc::Receiver<(Batch, Cut)>, ready: mpsc::Sender<Ready>) {
        let writer = &self.shared.writer;
        // The semaphore is never closed.
        while let Some((mut batch, cut)) = batches.recv().await
            && let Ok(place) = Arc::clone(&self.shared.places).acquire_owned().await
        {
            metrics::batch_cut(&writer.pipeline, batch.len(), batch.bytes, cut.as_str());
            let Some(decoded) = writer.decode(&mut batch).await else { return };
            if ready.send(Ready { batch, decoded, _place: place }).await.is_err() {
                return;
            }
        }
    }

    /// Writes batch after batch, and moves the progress also where none comes.
    async fn write(
        &self,
        mut ready: mpsc::Receiver<Ready>,
        seen: watch::Receiver<Seen>,
        mut at: u64,
    ) -> Flow {
        let mut idle = tokio::time::interval(IDLE_STEP);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        idle.reset();
        let mut steps = 0;
        loop {
            let flow = tokio::select! {
                biased;
                next = ready.recv() => match next {
                    Some(next) => {
                        steps = 0;
                        self.write_batch(&next.batch, &next.decoded, &mut at).await
                    }
                    // the reader has ended: at a barrier there is nothing before it any more
                    None => {
                        let seen = *seen.borrow();
                        return self.idle_step(seen, &mut at).await;
                    }
                },
                _ = idle.tick() => {
                    steps += 1;
                    let seen = *seen.borrow();
                    match self.idle_step(seen, &mut at).await {
                        Flow::Goes if steps % STEPS_BEFORE_LOOK == 0 => self.is_still_at(at).await,
                        flow => flow,
                    }
                }
            };
            if flow != Flow::Goes {
                return flow;
            }
        }
    }

    /// Moves the progress behind all that is not of this partition.
    async fn idle_step(&self, seen: Seen, at: &mut u64) -> Flow {
        // What was read before is not written yet.
        if *at < seen.last || seen.until <= *at {
            return Flow::Goes;
        }
        let commit = Commit { progress: Some(self.step(*at, seen.until, None)), receipt: None };
        let mut trouble = self.shared.writer.trouble();
        loop {
            match self.shared.writer.load(&[], Keep::Yes(&commit), &mut trouble).await {
                Wrote::Committed(_) => {
                    trouble.over();
                    *at = seen.until;
                    return Flow::Goes;
                }
                Wrote::Superseded => return Flow::Superseded,
                Wrote::GaveUp => return Flow::GaveUp,
                // There are no rows to be refused, or to be too many.
                Wrote::NoneLeft | Wrote::TriedOut | Wrote::TooMany | Wrote::Refused(_) => {}
            }
        }
    }

    /// Whether the progress is where this worker has left it.
    async fn is_still_at(&self, at: u64) -> Flow {
        let writer = &self.shared.writer;
        let found = writer
            .persist(|| async {
                let mut leased = writer.pool.get().await?;
                let reading = progress::settled(leased.session()?, &self.position);
                let found = tokio::time::timeout(writer.deadlines.statement, reading).await.map_err(
                    |_elapsed| Error::sql_timeout(Phase::Progress, "reading the progress of a partition"),
                )??;
                leased.give_back();
                Ok(found)
            })
            .await;
        match found {
            None => Flow::GaveUp,
            Some(Some(found)) if found.sequence == at && self.check(&found).is_ok() => Flow::Goes,
            Some(_) => Flow::Superseded,
        }
    }

    /// Writes a batch, in one transaction where the server takes it so.
    async fn write_batch(&self, batch: &Batch, decoded: &Decoded, at: &mut u64) -> Flow {
        let writer = &self.shared.writer;
        let Some(end) = batch.events.last().map(|event| event.stream_sequence) else { return Flow::Goes };
        // Before anything passes them: what is not confirmed is not passed.
        let rejected = undecodable(batch, decoded);
        if !rejected.is_empty() && writer.dead_letter(&rejected).await.is_none() {
            return Flow::GaveUp;
        }
        let total = decoded.rows.num_rows();
        let (mut first, mut most) = (0, total.max(1));
        loop {
            let rows = first..total.min(first + most);
            let to = match row_event(batch, decoded, rows.end.wrapping_sub(1)) {
                Some(event) if rows.end < total => event.stream_sequence,
                _ => end,
            };
            let mut trouble = writer.trouble();
            let mut refused = Vec::new();
            let part = Part { batch, decoded, rows: rows.clone(), from: *at, to };
            match self.write_part(&part, &mut refused, &mut trouble).await {
                Wrote::Committed(_) => {
                    trouble.over();
                    *at = to;
                    let is_refused = |row: &usize| refused.binary_search_by_key(row, |(bad, _)| *bad).is_ok();
                    let good = rows.clone().filter(|row| !is_refused(&(row - first)));
                    let events = good.filter_map(|row| decoded.row_events.get(row).copied());
                    writer.committed(batch, events, rows.len() - refused.len());
                    first = rows.end;
                    most = most.saturating_mul(2);
                    if first >= total {
                        return Flow::Goes;
                    }
                }
                Wrote::TooMany => most = rows.len().div_ceil(2).max(1),
                // what was found of such rows is found again
                Wrote::Refused(_) | Wrote::TriedOut | Wrote::NoneLeft => {}
                Wrote::Superseded => return Flow::Superseded,
                Wrote::GaveUp => return Flow::GaveUp,
            }
        }
    }

    /// Commits rows with the progress that they lead to. Where the server refuses some, those are confirmed by the
    /// dead-letter stream first, and the others are committed then.
    async fn write_part(
        &self,
        part: &Part<'_>,
        refused: &mut Vec<(usize, Error)>,
        trouble: &mut Trouble,
    ) -> Wrote {
        let writer = &self.shared.writer;
        // Never closed; and a stop that forces is noticed inside.
        let _writer = self.shared.writers.acquire().await;
        let rows = part.decoded.rows.slice(part.rows.start, part.rows.len());
        let commit = self.commit(part);
        let error = match writer.load(std::slice::from_ref(&rows), Keep::Yes(&commit), trouble).await {
            Wrote::Refused(error) => error,
            other => return other,
        };
        match writer.without_bad_rows(&rows, error, Keep::No, trouble, refused).await {
            Wrote::TriedOut | Wrote::NoneLeft => {}
            other => return other,
        }
        let rejected: Vec<(&Event, Reason)> = refused
            .iter()
            .filter_map(|(row, why)| {
                Some((row_event(part.batch, part.decoded, part.rows.start + row)?, refusal(why)))
            })
            .collect();
        if writer.dead_letter(&rejected).await.is_none() {
            return Wrote::GaveUp;
        }
        let commit = self.commit(part);
        writer.load(&without(&rows, refused), Keep::Yes(&commit), trouble).await
    }

    fn commit(&self, part: &Part<'_>) -> Commit {
        let last = part.last_event();
        let step = self.step(part.from, part.to, last.map(|event| event.published_at));
        let receipt = self.shared.writer.config.receipts.as_ref().and_then(|_| {
            let first = part.first_event()?;
            Some(Receipt {
                pipeline: Arc::clone(&self.shared.writer.pipeline),
                table: self.shared.writer.config.table.quoted(),
                partition: Some(self.position.partition),
                batch: step.batch,
                previous: Some(part.from),
                sequences: (first.stream_sequence, part.to),
                published_at: (first.published_at, last?.published_at),
            })
        });
        Commit { progress: Some(step), receipt }
    }

    fn step(&self, from: u64, to: u64, published_at: Option<i64>) -> Step {
        Step { position: Arc::clone(&self.position), from, to, published_at, batch: Uuid::new_v4() }
    }
}

/// Some rows of a batch that are committed together.
struct Part<'a> {
    batch: &'a Batch,
    decoded: &'a Decoded,
    rows: Range<usize>,
    from: u64,
    to: u64,
}

impl Part<'_> {
    /// The first event behind where the part begins: one that became no row belongs to the part that passes it.
    fn first_event(&self) -> Option<&Event> {
        let behind = self.batch.events.partition_point(|event| event.stream_sequence <= self.from);
        self.batch.events.get(behind)
    }

    fn last_event(&self) -> Option<&Event> {
        let behind = self.batch.events.partition_point(|event| event.stream_sequence <= self.to);
        self.batch.events.get(behind.checked_sub(1)?)
    }
}

fn row_event<'a>(batch: &'a Batch, decoded: &Decoded, row: usize) -> Option<&'a Event> {
    batch.events.get(*decoded.row_events.get(row)? as usize)
}

/// The rows between those that are refused, which are in their order.
fn without(rows: &RecordBatch, refused: &[(usize, Error)]) -> Vec<RecordBatch> {
    let mut parts = Vec::with_capacity(refused.len() + 1);
    let mut from = 0;
    for bad in refused.iter().map(|(row, _)| *row).chain([rows.num_rows()]) {
        if bad > from {
            parts.push(rows.slice(from, bad - from));
        }
        from = bad + 1;
    }
    parts
}

fn setup(message: &str) -> Error {
    Error::new(Phase::Progress, ErrorKind::StreamSetup, message)
}
