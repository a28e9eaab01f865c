use std::time::{Duration, Instant};

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{World, eventually};

const EVENTS: u64 = 500_000;
const MINUTE: Duration = Duration::from_secs(60);

/// GIVEN 500,000 events and a worker in the middle of them
/// WHEN it is told to stop
/// THEN it exits with 0 within its grace, and after a restart every event is in the table exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_stop_loses_nothing_and_doubles_nothing() {
    let world = World::start().await;
    let table = world.table("stop");
    world.stream(STREAM, "numbers.>").await;
    let mut sink = numbers::sink(
        &world,
        &table,
        "shutdown_grace = \"25s\"",
        "batch = { max_rows = 20_000, max_bytes = \"32MiB\", max_age = \"200ms\" }",
    );
    world.publish((1..=EVENTS).map(numbers::event)).await;

    sink.start();
    eventually("some are committed, and more are under way", MINUTE, async || {
        let committed = sink.metric("nats_sql_sink_events_committed_total").await?;
        let busy = sink.metric("nats_sql_sink_writers_busy").await?;
        (committed >= 60_000.0 && busy >= 1.0).then_some(())
    })
    .await;
    let asked = Instant::now();
    let status = sink.terminate(Duration::from_secs(25)).await;
    println!("stopped in {:?}", asked.elapsed());
    assert!(status.success(), "{status}: {}", sink.log());

    let mut sql = world.sql().await;
    let before = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
    let all = i64::try_from(EVENTS).expect("a count");
    assert!((1..all).contains(&before), "the stop came in the middle, not at {before} rows");
    // Everything delivered is settled: acknowledged, or given back and not pending any more.
    let (_, pending) = world.unsettled(STREAM, DURABLE).await.expect("the consumer");
    println!("{before} rows at the stop, {pending} deliveries pending");

    // What was given back is delivered again at once: had anything been left to `ack_wait`, this would take 30 s.
    let restarted = Instant::now();
    sink.start();
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;
    println!("the rest was settled in {:?}", restarted.elapsed());
    assert!(restarted.elapsed() < Duration::from_secs(25), "something was not given back: {}", sink.log());
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}
