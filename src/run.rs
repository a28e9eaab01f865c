//! `run`: the worker process. Starts whatever the outside world is like; what is missing is said and waited for.

mod rotation;

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use tokio::task::JoinSet;

use self::rotation::Rotations;
use crate::budget::Budget;
use crate::config::{Config, PipelineConfig};
use crate::decode::DecodePool;
use crate::delivery::MAX_SETTLED_BYTES;
use crate::error::{Error, ErrorKind};
use crate::http;
use crate::identity::nats::NatsIdentity;
use crate::keyed;
use crate::metrics;
use crate::mssql::connect::Pool;
use crate::nats::gate::Pause;
use crate::nats::{self, denied::Denials};
use crate::pipeline::{Pipeline, Shared};
use crate::retry::Backoff;
use crate::rights;
use crate::schema::{Schema, SchemaError};
use crate::shutdown::Shutdown;
use crate::status::StatusBoard;
use crate::telemetry;

/// A pipeline's configuration with the schema that it names, and, after [`plan_keyed`], what writing by key adds to it.
pub type Planned = (PipelineConfig, Schema);

/// Reads the schema files of all pipelines.
///
/// # Errors
///
/// The first file that cannot be read or is not valid, with its path.
pub fn load_schemas(config: &Config) -> Result<Vec<Planned>, (std::path::PathBuf, SchemaError)> {
    config
        .pipelines
        .iter()
        .map(|pipeline| match Schema::load(&pipeline.schema) {
            Ok(schema) => Ok((pipeline.clone(), schema)),
            Err(error) => Err((pipeline.schema.clone(), error)),
        })
        .collect()
}

/// Holds what the configuration says of writing by key against the schemas.
///
/// # Errors
///
/// All that does not go together, a line each, with the field, the value and what it must be.
pub fn plan_keyed(planned: Vec<Planned>) -> Result<Vec<Planned>, String> {
    let (mut plan, mut problems) = (Vec::new(), Vec::new());
    for (index, (pipeline, schema)) in planned.into_iter().enumerate() {
        match keyed::plan(&pipeline, schema) {
            Ok(schema) => plan.push((pipeline, schema)),
            Err(found) => {
                problems.extend(found.into_iter().map(|mut problem| {
                    problem.field = format!("pipeline[{index}].{}", problem.field);
                    problem.to_string()
                }));
            }
        }
    }
    if problems.is_empty() { Ok(plan) } else { Err(problems.join("\n")) }
}

/// Bytes that the batches in work take by themselves, whatever is in them, and the memory of what was settled: they are
/// part of `memory`, and no event is charged for them.
fn batch_bytes(planned: &[Planned]) -> usize {
    let of = |(pipeline, schema): &Planned| {
        (pipeline.writers.max + 1) * schema.arrow_batch_bytes() + MAX_SETTLED_BYTES
    };
    planned.iter().map(of).sum()
}

/// What `memory` leaves for events.
pub(crate) fn event_bytes(config: &Config, planned: &[Planned]) -> usize {
    config.memory_bytes().saturating_sub(batch_bytes(planned))
}

/// Whether `memory` leaves enough for events beside the batches themselves.
///
/// # Errors
///
/// It does not; the text names the field, the value and what it must be.
pub fn check_memory(config: &Config, planned: &[Planned]) -> Result<(), String> {
    let (memory, taken) = (config.memory_bytes(), batch_bytes(planned));
    if taken <= memory / 2 {
        return Ok(());
    }
    let (memory, taken) = (ByteSize::b(memory as u64), ByteSize::b(taken as u64));
    Err(format!(
        "memory = {memory}: the batches of these schemas take {taken} by themselves, it must be at least twice that"
    ))
}

/// Runs all pipelines until `shutdown`, and returns when everything in flight is settled or given back.
///
/// # Errors
///
/// The process itself cannot work: the HTTP listener cannot be bound, no thread can be started.
pub async fn run(config: Config, planned: Vec<Planned>, shutdown: Shutdown) -> anyhow::Result<()> {
    let recorder = metrics::install()?;
    let hangups = rotation::listen()?;
    let board = StatusBoard::new();
    let statuses: Vec<_> = planned.iter().map(|(pipeline, _)| board.pipeline(&pipeline.name)).collect();
    let listener = http::bind(config.http.listen).await?;
    // The listener outlives the pipelines: it is asked how the stop goes on.
    let http_stop = Shutdown::new();
    let server = tokio::spawn({
        let (board, http_stop) = (board.clone(), http_stop.clone());
        async move { http::serve(listener, board, recorder, async move { http_stop.stopping().await }).await }
    });

    let budgets = Budget::divide(event_bytes(&config, &planned), planned.len());
    let config = Arc::new(config);
    let pools = Pool::divide(config.sql.clone(), planned.len())?;
    let decode_pool = DecodePool::new(decode_threads())?;
    let concerned = planned.iter().zip(&statuses);
    let concerned =
        concerned.map(|((pipeline, _), status)| (status.clone(), rights::nats::loader_of(pipeline)));
    let denials = Denials::of(concerned.collect(), rights::nats::loader_common(&config));
    let Some((client, identity)) = connect(&config, &statuses, &denials, &shutdown).await else {
        http_stop.stop();
        return Ok(());
    };
    let pause = Pause::default();
    let rotations = Rotations {
        config: Arc::clone(&config),
        hangups,
        credentials: board.credentials.clone(),
        shutdown: shutdown.clone(),
    };
    let _rotating = rotations.start(&identity, &client, &pause, pools.first());
    let fresh = pools.first().map(|pool| Arc::clone(pool.connector().identity()));
    let nats_identity = Arc::clone(&identity);
    let fresh = tokio::spawn(async move {
        let of_sql = async {
            if let Some(identity) = fresh {
                identity.keep_fresh().await;
            }
        };
        tokio::join!(of_sql, nats_identity.keep_fresh());
    });
    let observer = tokio::spawn(observe(budgets.first().cloned(), board.clone(), denials));
    let mut pipelines = JoinSet::new();
    let shares = pools.into_iter().zip(budgets);
    for (((pipeline, schema), status), (pool, budget)) in planned.into_iter().zip(statuses).zip(shares) {
        let shared = Shared {
            config: Arc::clone(&config),
            client: client.clone(),
            pool,
            decode_pool: decode_pool.clone(),
            budget,
            pause: pause.clone(),
            shutdown: shutdown.clone(),
        };
        pipelines.spawn(Pipeline { shared, config: pipeline, schema, status }.run());
    }
    while let Some(ended) = pipelines.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a pipeline ended by a defect of this program");
        }
    }
    observer.abort();
    fresh.abort();
    // What was given back counts only when the server has read it.
    let last_word = async { nats::is_connected(&client) && nats::round_trip(&client).await.is_ok() };
    if !matches!(tokio::time::timeout(LAST_WORD, last_word).await, Ok(true)) {
        tracing::warn!(
            "nats did not take the last messages, what they give back is delivered again after ack_wait"
        );
    }
    http_stop.stop();
    if let Ok(Err(error)) = server.await {
        tracing::warn!(%error, "the http listener ended with an error");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Tells every second how much of the budget is reserved, and which pipelines are ready, and forgets refusals that are over.
async fn observe(budget: Option<Budget>, board: StatusBoard, denials: Denials) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        // all pipelines see the same total
        if let Some(budget) = &budget {
            metrics::budget(budget.total(), budget.total_reserved());
        }
        denials.refresh();
        board.refresh();
    }
}

/// How long the last messages may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Threads that move data between the sockets: half as many as there are processors, and one at least. The other half is left to
/// the threads that decode. With one for each processor the tasks of a flow wake each other across threads, which took a
/// sixth more processor time and moved no more events, and two fifths more with four workers (docs/adr/0015).
/// `None` where `TOKIO_WORKER_THREADS` says how many.
pub(crate) fn runtime_threads() -> Option<usize> {
    let half = |cores: std::num::NonZero<usize>| (cores.get() / 2).max(1);
    match std::env::var_os("TOKIO_WORKER_THREADS") {
        Some(_) => None,
        None => Some(std::thread::available_parallelism().map_or(1, half)),
    }
}

/// One thread for each processor, and one more than none where a decode never ends.
fn decode_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).max(2)
}

/// The server is asked for a sign of life so often that a broken connection is noticed, and made again, before
/// JetStream delivers again what is held.
fn ping_interval(config: &Config) -> Duration {
    const MOST: Duration = Duration::from_secs(30);
    let shortest = config.pipelines.iter().map(|pipeline| pipeline.ack_wait).min();
    shortest.map_or(MOST, |ack_wait| (ack_wait / 4).clamp(Duration::from_secs(1), MOST))
}

/// Connects to NATS, however long that takes; `None` at a stop.
async fn connect(
    config: &Config,
    statuses: &[crate::status::PipelineStatus],
    denials: &Denials,
    shutdown: &Shutdown,
) -> Option<(async_nats::Client, Arc<NatsIdentity>)> {
    let (mut backoff, mut stopped) = (Backoff::transient(), Backoff::stopped());
    // kept from one try to the next, with the token that it has: each connect reads anew what may have changed
    let mut kept: Option<Arc<NatsIdentity>> = None;
    loop {
        let attempt = async {
            let identity = match &kept {
                Some(identity) => Arc::clone(identity),
                None => Arc::clone(kept.insert(nats::identity(&config.nats).await?)),
            };
            let client = nats::connect(&identity, ping_interval(config), denials).await?;
            Ok::<_, Error>((client, identity))
        };
        let error = tokio::select! {
            connected = attempt => match connected {
                Ok(connected) => return Some(connected),
                Err(error) => error,
            },
            () = shutdown.stopping() => return None,
        };
        let text = telemetry::describe(&error);
        for status in statuses {
            status.not_started(text.clone());
        }
        // somebody has to mend a secret, or whoever gives tokens out: it is not asked all the time
        let wait = match error.kind {
            ErrorKind::Credential => stopped.next_wait(),
            _ => backoff.next_wait(),
        };
        tracing::warn!(error = %text, wait_seconds = wait.as_secs_f64(), "cannot connect to nats, trying again");
        if !shutdown.sleep(wait).await {
            return None;
        }
    }
}
