//! One partition in `exactly_once`: read from where the database says it is, in order, batch by batch; and each batch
//! committed together with how far it leads.
//!
//! ```text
//! reader ──chunks──▶ batcher ──batches──▶ decode ──▶ dead letters ──▶ rows and progress, one transaction
//! ```
//!
//! The condition on the progress is what makes it right: who else reads the same partition, for whatever reason, commits
//! a batch or is refused it. Whoever is refused reads the progress, and goes on from there.

mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::batcher::{self, Cut};
use crate::budget::Budget;
use crate::config::{Layout, OnGap};
use crate::decode::Decoded;
use crate::delivery::Batch;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::commit::Commit;
use crate::mssql::connect::Session;
use crate::mssql::progress::{self, Position, Progress};
use crate::nats::gate::Gate;
use crate::nats::reader::{Gaps, Reader, Seen};
use crate::nats::unreadable::NextUnreadable;
use crate::trouble::Trouble;
use crate::writer::{Keep, Writer, Wrote};

/// Chunks of deliveries that may wait for the batcher.
const WAITING_CHUNKS: usize = 8;
/// Batches that a partition holds beside the one that is written: one that is decoded, and one that fills.
const BATCHES_BESIDE: usize = 2;
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
    /// What the stream's limits removed unseen.
    pub gaps: Gaps,
    /// The process' byte budget.
    pub budget: Budget,
    /// Most bytes of the budget to reserve for one pull.
    pub share: usize,
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
        self.wait_at_barrier().await?;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let progress =
            self.statement(async |session| progress::attempt(session, &self.position).await).await?;
        self.check(&progress)?;
        tracing::info!(
            pipeline = %self.position.pipeline, partition = self.position.partition, sequence = progress.sequence,
            attempts = progress.attempts, "reading the partition from its progress on"
        );
        Box::pin(self.read(&progress, trouble)).await
    }

    /// Where the partition is at the barrier of a change of the partitions, waits until that is over.
    async fn wait_at_barrier(&self) -> Result<()> {
        let writer = &self.shared.writer;
        let mut complaint = None;
        loop {
            let progress = self.settled().await?;
            self.check(&progress)?;
            if progress.barrier.is_none_or(|barrier| progress.sequence < barrier) {
                return Ok(());
            }
            complaint.get_or_insert_with(|| {
                let text = format!(
                    "partition {} is at the barrier of a change of the partitions (`partitions change` goes on with \
                     it, or takes it away)",
                    self.position.partition
                );
                tracing::warn!(pipeline = %writer.pipeline, sequence = progress.sequence, "{text}");
                writer.status.complain_after(writer.retry_window, text)
            });
            tokio::select! {
                () = tokio::time::sleep(AT_BARRIER) => {}
                () = self.stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn settled(&self) -> Result<Progress> {
        self.statement(async |session| progress::settled(session, &self.position).await).await
    }

    /// Reads the progress by a statement.
    async fn statement(
        &self,
        statement: impl AsyncFnOnce(&mut Session) -> Result<Option<Progress>>,
    ) -> Result<Progress> {
        let writer = &self.shared.writer;
        let reading = async {
            let mut leased = writer.pool.get().await?;
            let progress = statement(leased.session()?).await?;
            leased.give_back();
            Ok::<_, Error>(progress)
        };
        let late = |_elapsed| Error::sql_timeout(Phase::Progress, "reading the progress of a partition");
        let progress = tokio::time::timeout(writer.deadlines.statement, reading).await.map_err(late)??;
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

    async fn read(&self, progress: &Progress, trouble: &mut Option<Trouble>) -> Result<()> {
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
            gaps: shared.gaps.clone(),
            is_new: progress.batch.is_none() && progress.attempts == 1,
            barrier: progress.barrier,
            schema: Arc::clone(&writer.schema),
            // what the others hold of the stream is not this partition's
            budget: shared.budget.apart(),
            share: shared.share,
            held: writer.limits.held(&writer.schema, Arc::new(AtomicUsize::new(1)), BATCHES_BESIDE),
            gate: writer.gate.clone(),
            status: writer.status.clone(),
            retry_window: writer.retry_window,
            unreadable: NextUnreadable {
                client: shared.client.clone(),
                stream: shared.stream.cached_info().config.name.clone(),
                pipeline: Arc::clone(&writer.pipeline),
                dead_letters: writer.dead_letters.clone(),
                status: writer.status.clone(),
            },
            out: chunks,
            seen,
            stop: stop.clone(),
        };
        // An event that ends workers stands somewhere behind the position at which they ended.
        let suspects = match progress.attempts > writer.config.max_deliveries {
            true => 2 * writer.limits.max_rows(),
            false => 0,
        };
        let (read, (), (), flow) = tokio::join!(
            reader.run(progress.sequence),
            batcher::run(writer.limits, shared.budget.clone(), chunks_in, batches),
            self.decode(batches_in, ready, suspects),
            async {
                let flow = self.write(ready_in, seen_in, progress.sequence, trouble).await;
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

    /// Decodes one batch ahead of what is written; the first `suspects` events in a process of their own before.
    async fn decode(
        &self,
        mut batches: mpsc::Receiver<(Batch, Cut)>,
        ready: mpsc::Sender<Ready>,
        mut suspects: usize,
    ) {
        let writer = &self.shared.writer;
        // The semaphore is never closed.
        while let Some((mut batch, cut)) = batches.recv().await
            && let Ok(place) = Arc::clone(&self.shared.places).acquire_owned().await
        {
            metrics::batch_cut(&writer.pipeline, batch.len(), batch.bytes, cut.as_str());
            let decoded = match suspects {
                0 => writer.decode(&mut batch).await,
                _ => writer.decode_suspects(&mut batch).await,
            };
            let Some(decoded) = decoded else { return };
            suspects = suspects.saturating_sub(batch.len());
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
        trouble: &mut Option<Trouble>,
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
            // A batch is in, or the reader has not given up for a while.
            if let Some(trouble) = trouble.take() {
                trouble.over();
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
                match self.settled().await {
                    Err(error) if error.kind == ErrorKind::StreamSetup => Ok(None),
                    found => found.map(Some),
                }
            })
            .await;
        match found {
            None => Flow::GaveUp,
            Some(Some(found)) if found.sequence == at && self.check(&found).is_ok() => Flow::Goes,
            Some(_) => Flow::Superseded,
        }
    }
}

fn setup(message: &str) -> Error {
    Error::new(Phase::Progress, ErrorKind::StreamSetup, message)
}
