//! What is held while a server is away, and what becomes of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, Sql, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
/// Short, so that an outage can be several times as long.
const ACK_WAIT: Duration = Duration::from_secs(2);
const PIPELINE: &str =
    "ack_wait = \"2s\"\nbatch = { max_rows = 1_000, max_bytes = \"8MiB\", max_age = \"50ms\" }";

/// A session that keeps everybody else out of a table until it is dropped, as a maintenance job would.
struct Lock {
    _sql: Sql,
}

impl Lock {
    async fn take(world: &World, table: &str) -> Self {
        let mut sql = world.sql().await;
        sql.execute("BEGIN TRANSACTION").await;
        sql.execute(&format!("ALTER TABLE {table} ADD locked int NULL")).await;
        Self { _sql: sql }
    }
}

/// A world with the stream, a sink that has written the event 0, and a lock on its table.
async fn locked(name: &str, top: &str) -> (World, String, Sink, Lock) {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table(name);
    let mut sink = numbers::sink(&world, &table, top, PIPELINE);
    sink.start();
    sink.ready(MINUTE).await;
    let lock = Lock::take(&world, &table).await;
    (world, table, sink, lock)
}

async fn holds(sink: &Sink, least: f64) {
    eventually("the sink holds events", MINUTE, async || {
        (sink.metric("nats_sql_sink_held_events").await? >= least).then_some(())
    })
    .await;
}

/// Waits until the sink has renewed what it holds for several times `ack_wait`.
async fn outlast_ack_wait() {
    let started = Instant::now();
    eventually("several times ack_wait is over", MINUTE, async || {
        (started.elapsed() > 4 * ACK_WAIT).then_some(())
    })
    .await;
}

/// GIVEN a table that cannot be written for several times `ack_wait`, and more events than one batch takes
/// WHEN it can be written again
/// THEN every event is there once, and none was delivered twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_delivers_nothing_twice() {
    const EVENTS: u64 = 40_000;
    let (world, table, sink, lock) = locked("sql_outage", "").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    holds(&sink, 10_000.0).await;
    outlast_ack_wait().await;
    drop(lock);
    world.settled(STREAM, DURABLE, MINUTE).await;
    let redelivered = sink.metric("nats_sql_sink_events_redelivered_total").await.expect("a count");
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    assert!(redelivered < 0.5, "{redelivered} events were delivered again");
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events that are held because the table cannot be written
/// WHEN the NATS server is away for longer than `ack_wait`, and comes back and delivers them again
/// THEN they are known, and written once.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_nats_writes_nothing_twice() {
    // fewer than may be held, so that there is always a pull that they can be delivered to again
    const EVENTS: u64 = 5_000;
    let (mut world, table, sink, lock) = locked("nats_gap", "").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    holds(&sink, 5_000.0).await;
    world.stack.nats().kill().await;
    outlast_ack_wait().await;
    // A sink that stands still renews nothing before the server has noticed that it is late.
    sink.signal(Signal::SIGSTOP);
    world.stack.nats().restart().await.expect("the NATS server starts again");
    outlast_ack_wait().await;
    sink.signal(Signal::SIGCONT);
    let repeated = eventually("events are delivered again", MINUTE, async || {
        sink.metric("nats_sql_sink_events_repeated_total").await.filter(|count| *count > 0.0)
    })
    .await;
    drop(lock);
    world.settled(STREAM, DURABLE, MINUTE).await;
    println!("{repeated} or more deliveries were repeats");
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events that are held
/// WHEN their consumer is deleted
/// THEN the sink makes a new one by itself, and nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_is_made_anew() {
    const EVENTS: u64 = 5_000;
    let (world, table, sink, lock) = locked("no_consumer", "").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    holds(&sink, 4_000.0).await;
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    stream.delete_consumer(DURABLE).await.expect("the consumer is deleted");
    drop(lock);
    world.settled(STREAM, DURABLE, MINUTE).await;
    sink.ready(MINUTE).await;
    let mut sql = world.sql().await;
    let Account { missing, duplicates } = numbers::account(&mut sql, &table, EVENTS).await;
    println!("{duplicates} duplicates after the consumer was deleted");
    assert_eq!(missing, 0);
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events that are held
/// WHEN their stream is deleted and made anew under the same name, with other events at the same sequences
/// THEN what is held acknowledges none of the new ones: all of those are written; and so is all that was held, also what
/// shares a batch with a bad event, as nobody else has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_anew_loses_none_of_its_events() {
    // More than the batches that are in work, so that some are decoded after the change.
    const OLD: u64 = 12_000;
    const BAD_EVERY: u64 = 500;
    const NEW: u64 = 20_000;
    let (world, table, sink, lock) = locked("new_stream", "").await;
    let old = |id: u64| match id % BAD_EVERY {
        0 => ("numbers.all".to_owned(), None, b"{}".to_vec()),
        _ => numbers::event(id),
    };
    world.publish((NEW + 1..=NEW + OLD).map(old)).await;
    holds(&sink, 11_000.0).await;
    world.jetstream.delete_stream(STREAM).await.expect("the stream is deleted");
    world.stream(STREAM, "numbers.>").await;
    world.publish((1..=NEW).map(numbers::event)).await;
    eventually("the sink sees that the consumer is gone", MINUTE, async || {
        (sink.metric("nats_sql_sink_consumers_lost_total").await? > 0.0).then_some(())
    })
    .await;
    drop(lock);
    let mut sql = world.sql().await;
    for (what, condition, count) in [
        ("all new events", format!("id <= {NEW}"), NEW),
        ("all good events that were held", format!("id > {NEW}"), OLD - OLD / BAD_EVERY),
    ] {
        eventually(&format!("{what} are in the table"), MINUTE, async || {
            let text = format!("SELECT COUNT_BIG(DISTINCT id) FROM {table} WHERE {condition}");
            (sql.number(&text).await == i64::try_from(count).expect("a count")).then_some(())
        })
        .await;
    }
    world.settled(STREAM, DURABLE, MINUTE).await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events that are held
/// WHEN NATS goes away
/// THEN the sink says after `retry_window` that it is not ready; told to stop it ends within the grace, with exit code
/// 0; and started again with NATS back, nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn without_nats_it_is_not_ready_and_a_stop_ends_within_the_grace() {
    const EVENTS: u64 = 20_000;
    let (mut world, table, mut sink, lock) =
        locked("no_nats", "retry_window = \"1s\"\nshutdown_grace = \"2s\"").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    holds(&sink, 15_000.0).await;
    world.stack.nats().kill().await;
    eventually("the sink says that NATS is away", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("answer")).then_some(())
    })
    .await;
    let stopped = Instant::now();
    assert!(sink.terminate(Duration::from_secs(10)).await.success(), "{}", sink.log());
    println!("stopped in {:?}", stopped.elapsed());
    // a grace of 2 s, and the time that a process takes to end on a busy machine
    assert!(stopped.elapsed() < Duration::from_secs(4), "{}", sink.log());

    world.stack.nats().restart().await.expect("the NATS server starts again");
    drop(lock);
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    sink.ready(MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await.missing, 0);
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// Of a process, at its most, in bytes.
fn peak_memory(sink: &Sink) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sink.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// GIVEN a backlog of 1,000,000 events, and a sink that is writing it
/// WHEN the database is away for 5 minutes
/// THEN nothing is delivered again and nothing dead-lettered, the sink stays within its memory, and goes on by itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes six minutes: make test-outage"]
async fn long_an_outage_of_five_minutes_redelivers_nothing() {
    const EVENTS: u64 = 1_000_000;
    const OUTAGE: Duration = Duration::from_secs(300);
    const MEMORY: usize = 64 << 20;
    // what the program takes without any event, its threads' stacks and the allocator's slack
    const BASE: usize = 96 << 20;
    let mut world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("long_outage");
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let top = "memory = \"64MiB\"\nretry_window = \"10s\"";
    let pipeline = "batch = { max_rows = 10_000, max_bytes = \"8MiB\", max_age = \"200ms\" }";
    let mut sink = numbers::sink(&world, &table, top, pipeline);
    sink.start();
    eventually("rows are being written", MINUTE, async || {
        (sink.metric("nats_sql_sink_events_committed_total").await? >= 50_000.0).then_some(())
    })
    .await;
    world.stack.postgres().kill().await;
    let away = Instant::now();
    let mut most_reserved: f64 = 0.0;
    let mut was_not_ready = false;
    while away.elapsed() < OUTAGE {
        tokio::time::sleep(Duration::from_secs(1)).await;
        most_reserved =
            most_reserved.max(sink.metric("nats_sql_sink_budget_reserved_bytes").await.expect("the metric"));
        was_not_ready |= sink.get("/readyz").await.is_some_and(|(status, _)| status == 503);
    }
    world.stack.postgres().restart().await.expect("it starts again");
    let back = Instant::now();
    let mut recovered = None;
    let before = sink.metric("nats_sql_sink_events_committed_total").await.expect("the metric");
    while recovered.is_none() {
        let now = sink.metric("nats_sql_sink_events_committed_total").await.expect("the metric");
        recovered = (now > before).then(|| back.elapsed());
        assert!(back.elapsed() < MINUTE, "it does not go on by itself");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.settled(STREAM, DURABLE, 5 * MINUTE).await;

    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    let delivered = stream.consumer_info(DURABLE).await.expect("its info").delivered.consumer_sequence;
    let mut sql = world.sql().await;
    let account = numbers::account(&mut sql, &table, EVENTS).await;
    let peak = peak_memory(&sink);
    println!(
        "published {EVENTS}, delivered.consumer_seq {delivered}, {account:?}, dead letters {}, away {OUTAGE:?}, first \
         commit {:?} after the return, reserved at most {most_reserved} of {MEMORY} bytes, peak of the process {peak} bytes",
        world.dead_letters().await.len(),
        recovered.unwrap_or_default(),
    );
    assert_eq!(delivered, EVENTS);
    assert_eq!(account, Account { missing: 0, duplicates: 0 });
    assert_eq!(world.dead_letters().await.len(), 0);
    assert!(was_not_ready, "it was ready all the time");
    #[allow(clippy::cast_precision_loss)]
    let budget = MEMORY as f64;
    assert!(most_reserved <= budget, "{most_reserved}");
    assert!(peak <= MEMORY + BASE, "{peak}");
    sink.ready(MINUTE).await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
