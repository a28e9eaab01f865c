//! One pipeline: what it needs before it can start, the tasks it is made of, and the channels between them.
//!
//! ```text
//! 2 pullers ──chunks──▶ batcher ──batches──▶ worker
//! ```
//!
//! Each channel has a bound, and what is in them is charged to the budget. A stop closes them from the left.

mod once;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::batcher;
use crate::budget::Budget;
use crate::config::{Config, DeliveryGuarantee, PipelineConfig};
use crate::decode::{DecodePool, Decoder};
use crate::delivery::{Delivery, Ledger};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::bulk::Deadlines;
use crate::mssql::connect::{Pool, Session};
use crate::mssql::progress;
use crate::mssql::target::{self, Target, Way};
use crate::nats::dead_letter::DeadLetters;
use crate::nats::gate::{Gate, Pause};
use crate::nats::intake::Puller;
use crate::nats::settle::Settler;
use crate::nats::unreadable::Unreadable;
use crate::nats::watch::{self, Watch};
use crate::nats::{consumer, lease};
use crate::receipts::Receipts;
use crate::refusals::Refusals;
use crate::rights::sql::own_tables;
use crate::schema::Schema;
use crate::shutdown::Shutdown;
use crate::sizing;
use crate::status::PipelineStatus;
use crate::telemetry;
use crate::trouble::Trouble;
use crate::worker::{self, Worker};
use crate::writer::Writer;
use crate::writers::Writers;

/// Pulls that are open at once: while one is answered the next is on its way.
const PULLERS: usize = 2;
/// Batches that are held beside those that are written: one that is decoded, one that fills, and one that is on its way.
const BATCHES_BESIDE: usize = 3;
/// Chunks of deliveries that may wait for the batcher.
const WAITING_CHUNKS: usize = 8;

/// What the pipelines of a process share; of sessions and bytes each has a share of its own.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The configuration, all of it.
    pub config: Arc<Config>,
    /// The connection to NATS.
    pub client: async_nats::Client,
    /// Sessions with the database.
    pub pool: Pool,
    /// Threads that decode.
    pub decode_pool: DecodePool,
    /// The byte budget.
    pub budget: Budget,
    /// While the connection to NATS is made anew.
    pub pause: Pause,
    /// When to stop.
    pub shutdown: Shutdown,
}

/// A pipeline that is about to run.
#[derive(Debug)]
pub struct Pipeline {
    /// What it shares with the others.
    pub shared: Shared,
    /// Its configuration.
    pub config: PipelineConfig,
    /// Its schema, as `keyed::plan` returned it.
    pub schema: Schema,
    /// What it says of itself.
    pub status: PipelineStatus,
}

/// The tasks of a pipeline that runs, and what they have in common.
struct Running {
    name: Arc<str>,
    worker: Arc<Worker>,
    ledger: Arc<Ledger>,
    gate: Gate,
    settler: Settler,
}

impl Pipeline {
    /// Runs until a stop: prepares for as long as that takes, then moves events, and begins again where the consumer is
    /// not the one any more that it began with. Returns when everything in flight is settled or given back.
    pub async fn run(self) {
        let name: Arc<str> = Arc::from(self.config.name.as_str());
        let gate = Gate::below(&self.shared.pause);
        if self.config.delivery == DeliveryGuarantee::ExactlyOnce {
            return Box::pin(self.run_once(&name, &gate)).await;
        }
        while !self.shared.shutdown.is_stopping() {
            self.status.not_started("starting");
            let prepared = self.until_done(&name, &gate, || self.prepare(&name, &gate)).await;
            let Some((consumer, worker)) = prepared else { return };
            self.status.started();
            let running = Running {
                name: Arc::clone(&name),
                settler: worker.settler.clone(),
                worker: Arc::new(worker),
                ledger: Arc::new(Ledger::default()),
                gate: gate.clone(),
            };
            Box::pin(self.move_events(&running, consumer)).await;
        }
    }

    async fn move_events(&self, running: &Running, consumer: PullConsumer) {
        let (chunks, chunks_in) = mpsc::channel(WAITING_CHUNKS);
        let (batches, batches_in) = mpsc::channel(1);
        let mut background = JoinSet::new();
        background.spawn(lease::run(
            self.shared.client.clone(),
            Arc::clone(&running.ledger),
            self.config.ack_wait,
            self.shared.shutdown.clone(),
        ));
        let (intake_ended, ended) = (CancellationToken::new(), CancellationToken::new());
        let giving_back = tokio::spawn(running.settler.clone().give_back_returned(
            Arc::clone(&running.ledger),
            intake_ended.clone(),
            ended.clone(),
        ));
        background.spawn(count_held(Arc::clone(&running.name), Arc::clone(&running.ledger)));
        let announcing = self.announce(&running.name);
        let limits = running.worker.writer.limits;
        tokio::join!(
            async {
                self.take_in(running, consumer, chunks).await;
                intake_ended.cancel();
            },
            batcher::run(limits, self.shared.budget.clone(), chunks_in, batches),
            worker::run(Arc::clone(&running.worker), batches_in),
        );
        background.shutdown().await;
        announcing.end().await;
        // Whatever was dropped without a verdict up to here goes back at once, not after `ack_wait`.
        ended.cancel();
        if let Err(error) = giving_back.await {
            tracing::error!(pipeline = %running.name, %error, "giving back ended by a defect of this program");
        }
    }

    /// Announces commits in the background, where that is asked for.
    fn announce(&self, name: &Arc<str>) -> Announcing {
        let ended = CancellationToken::new();
        let task = self.config.receipts.as_ref().map(|config| {
            let receipts = Receipts {
                client: self.shared.client.clone(),
                connector: self.shared.pool.connector().clone(),
                pipeline: Arc::clone(name),
                subject: config.subject.clone(),
                status: self.status.clone(),
                retry_window: self.shared.config.retry_window,
                shutdown: self.shared.shutdown.clone(),
            };
            tokio::spawn(receipts.run(ended.clone().cancelled_owned()))
        });
        Announcing { ended, task }
    }

    /// Keeps the pullers running until a stop, or until the consumer is gone: then nothing is settled by it any more.
    async fn take_in(&self, running: &Running, consumer: PullConsumer, chunks: mpsc::Sender<Vec<Delivery>>) {
        let shutdown = &self.shared.shutdown;
        let stalled = Arc::new(Notify::new());
        let watch = Watch {
            stalled: Arc::clone(&stalled),
            consumer: consumer.clone(),
            pipeline: Arc::clone(&running.name),
            status: self.status.clone(),
            retry_window: self.shared.config.retry_window,
            ack_wait: self.config.ack_wait,
            unreadable: Unreadable {
                client: self.shared.client.clone(),
                pipeline: Arc::clone(&running.name),
                dead_letters: running.worker.writer.dead_letters.clone(),
                settler: running.settler.clone(),
                ledger: Arc::clone(&running.ledger),
                status: self.status.clone(),
            },
        };
        let pulling = async {
            while !shutdown.is_stopping() {
                let failure = tokio::select! {
                    failure = self.pull(running, &consumer, &chunks) => failure,
                    // What the pullers have received and not handed on goes back with their claims.
                    () = stalled.notified() => {
                        metrics::pull_restarted(&running.name, "stalled");
                        tracing::warn!(
                            pipeline = %running.name,
                            "the consumer has events and delivers none: pulling anew"
                        );
                        continue;
                    }
                };
                let Some(error) = failure else { return };
                let mut trouble = self.trouble(&running.name, &running.gate);
                let next = trouble.met(&error);
                shutdown.sleep(next.wait).await;
            }
        };
        tokio::select! {
            () = pulling => {}
            gone = watch.until_gone() => {
                running.ledger.retire();
                metrics::consumer_lost(&running.name);
                tracing::error!(
                    pipeline = %running.name, durable = %self.config.durable, held = running.ledger.held(),
                    "the consumer was {gone}: what is held cannot be acknowledged, starting again"
                );
            }
        }
    }

    /// Pulls until a stop, or until one of the pullers fails.
    async fn pull(
        &self,
        running: &Running,
        consumer: &PullConsumer,
        chunks: &mpsc::Sender<Vec<Delivery>>,
    ) -> Option<Error> {
        let mut pullers = JoinSet::new();
        for _ in 0..PULLERS {
            pullers.spawn(self.puller(running, consumer.clone(), chunks.clone()).run());
        }
        let mut failure = None;
        while let Some(ended) = pullers.join_next().await {
            let ended = ended.unwrap_or_else(|panic| {
                Err(Error::new(
                    Phase::Pull,
                    ErrorKind::Internal,
                    format!("a puller ended by a defect: {panic}"),
                ))
            });
            if let Err(error) = ended {
                // What the others have pulled and not handed on goes back with their claims.
                pullers.abort_all();
                failure.get_or_insert(error);
            }
        }
        failure
    }

    fn puller(&self, running: &Running, consumer: PullConsumer, out: mpsc::Sender<Vec<Delivery>>) -> Puller {
        let Writer { schema, limits, writers, .. } = &running.worker.writer;
        Puller {
            client: self.shared.client.clone(),
            consumer,
            pipeline: Arc::clone(&running.name),
            schema: Arc::clone(schema),
            budget: self.shared.budget.clone(),
            // All pullers together reserve what the pipeline is sure of, and no more, for what has not arrived yet.
            share: self.shared.budget.sure() / PULLERS,
            held: limits.held(schema, writers.limit(), BATCHES_BESIDE),
            ledger: Arc::clone(&running.ledger),
            gate: running.gate.clone(),
            status: self.status.clone(),
            retry_window: self.shared.config.retry_window,
            out,
            shutdown: self.shared.shutdown.clone(),
        }
    }

    /// Finds everything that the first batch will need, so that nothing is pulled in vain.
    async fn prepare(&self, name: &Arc<str>, gate: &Gate) -> Result<(PullConsumer, Worker)> {
        let jetstream = jetstream::new(self.shared.client.clone());
        let stream = consumer::stream(&jetstream, &self.config.stream, Phase::Nats).await?;
        let dead_letters = DeadLetters::prepare(jetstream, &self.config, stream.cached_info()).await?;
        let consumer = consumer::ensure(&stream, &self.config).await?;
        let mut leased = self.shared.pool.get().await?;
        let preparing = async {
            let session = leased.session()?;
            if self.config.receipts.is_some() {
                progress::prepare(session, &own_tables(&self.config), self.config.create_table).await?;
            } else {
                progress::refuse_delayed_durability(session).await?;
            }
            self.target(session).await
        };
        let target = self.within(preparing, "reading the table's shape").await?;
        leased.give_back();
        let writer = self.writer(name, gate, target, dead_letters)?;
        let settler = Settler {
            client: self.shared.client.clone(),
            pipeline: Arc::clone(name),
            status: self.status.clone(),
            retry_window: self.shared.config.retry_window,
            shutdown: self.shared.shutdown.clone(),
        };
        // Last, so that a start which fails, and is tried again, counts nothing twice.
        watch::count_before_start(name, stream.cached_info(), consumer.cached_info());
        Ok((consumer, Worker { writer, settler }))
    }

    async fn target(&self, session: &mut Session) -> Result<Target> {
        let way = Way::of(&self.config, &self.schema);
        target::prepare(session, &self.config.table, &self.schema, self.config.create_table, &way).await
    }

    /// Runs statements for no longer than one may take.
    async fn within<T>(&self, statements: impl Future<Output = Result<T>>, what: &str) -> Result<T> {
        tokio::time::timeout(self.shared.config.sql.command_timeout, statements)
            .await
            .map_err(|_elapsed| Error::sql_timeout(Phase::Target, what))?
    }

    /// What decodes and writes, for a table as it is now.
    fn writer(
        &self,
        name: &Arc<str>,
        gate: &Gate,
        target: Target,
        dead_letters: DeadLetters,
    ) -> Result<Writer> {
        let sql = &self.shared.config.sql;
        let memory = self.shared.config.memory_bytes();
        let capacity = self.shared.budget.capacity();
        let sizes = sizing::decide(&self.config, &self.schema, target.shape, memory, capacity);
        for decision in target.decisions.iter().chain(&sizes.decisions) {
            tracing::info!(pipeline = %name, table = %self.config.table, decision = %decision, "target table");
        }
        for warning in &sizes.warnings {
            tracing::warn!(pipeline = %name, table = %self.config.table, "{warning}");
        }
        let schema = target
            .with_encodings(&self.schema)
            .map_err(|error| Error::new(Phase::Target, ErrorKind::TableShape, error.to_string()))?;
        Ok(Writer {
            pipeline: Arc::clone(name),
            decoder: Decoder::new(&schema, &self.shared.decode_pool),
            schema: Arc::new(schema),
            target: RwLock::new(Arc::new(target)),
            pool: self.shared.pool.clone(),
            limits: sizes.limits,
            writers: Writers::new(Arc::clone(name), &self.config.writers),
            duplicates: Way::of(&self.config, &self.schema).duplicates(),
            refusals: Refusals::default(),
            deadlines: Deadlines { statement: sql.command_timeout, commit: sql.commit_timeout },
            dead_letters,
            gate: gate.clone(),
            status: self.status.clone(),
            retry_window: self.shared.config.retry_window,
            shutdown: self.shared.shutdown.clone(),
            config: self.config.clone(),
        })
    }

    /// Tries until it is done; `None` at a stop. While it is not, the pipeline is not ready.
    async fn until_done<T, F: Future<Output = Result<T>>>(
        &self,
        name: &Arc<str>,
        gate: &Gate,
        mut work: impl FnMut() -> F,
    ) -> Option<T> {
        let mut trouble = self.trouble(name, gate);
        loop {
            let error = tokio::select! {
                done = work() => match done {
                    Ok(done) => {
                        trouble.over();
                        return Some(done);
                    }
                    Err(error) => error,
                },
                () = self.shared.shutdown.stopping() => return None,
            };
            let next = trouble.met(&error);
            self.status.not_started(telemetry::describe(&error));
            if !self.shared.shutdown.sleep(next.wait).await {
                return None;
            }
        }
    }

    fn trouble(&self, name: &Arc<str>, gate: &Gate) -> Trouble {
        Trouble::new(Arc::clone(name), &self.status, gate.clone(), self.shared.config.retry_window)
    }
}

/// Commits are being announced, or nobody wants that.
struct Announcing {
    ended: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Announcing {
    /// Nothing more is committed: waits until what was is announced, or a while has passed.
    async fn end(self) {
        self.ended.cancel();
        if let Some(task) = self.task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "announcing commits ended by a defect of this program");
        }
    }
}

/// Tells every second how many events are held.
async fn count_held(name: Arc<str>, ledger: Arc<Ledger>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        metrics::held(&name, ledger.held());
    }
}
