//! The number of writers follows what the database makes of it.

use std::time::{Duration, Instant};

use local_stack::sql_server::faults::{Effect, Fault, Occasion};

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const LIMIT: &str = "nats_sql_sink_writers_limit";
const COMMITTED: &str = "nats_sql_sink_events_committed_total";

async fn committed(sink: &Sink, least: f64) {
    eventually("rows are being written", MINUTE, async || {
        (sink.metric(COMMITTED).await? >= least).then_some(())
    })
    .await;
}

/// Waits until the number of writers is as asked for, and tells it.
async fn writers(sink: &Sink, what: &str, is_so: impl Fn(f64) -> bool) -> f64 {
    let waited = Instant::now();
    let writers =
        eventually(what, MINUTE, async || sink.metric(LIMIT).await.filter(|limit| is_so(*limit))).await;
    println!("{what}: {writers} after {:?}", waited.elapsed());
    writers
}

async fn decreases(sink: &Sink, reason: &str) -> f64 {
    let name = "nats_sql_sink_writers_decreases_total";
    sink.metric_where(name, &format!("reason=\"{reason}\"")).await.expect("the metrics")
}

async fn holds_all(world: &World, table: &str, events: u64) {
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, table, events).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a backlog that several writers are working on
/// WHEN the database refuses loads because it is busy, and after a while no more
/// THEN there are as few writers as allowed, and then more again; and nothing is lost or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_refusals_lower_the_number_of_writers_until_they_end() {
    const EVENTS: u64 = 600_000;
    let world = World::start_with_faults().await;
    let table = world.table("refused");
    world.stream(STREAM, "numbers.>").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    // so that more writers bring in more, and the backlog lasts on any machine
    let faults = world.stack.sql_server().faults();
    faults.limit_rows_per_second_of_a_load(Some(10_000));
    let pipeline = "batch = { max_rows = 2_000 }\nwriters = { min = 1, max = 4 }";
    let mut sink = numbers::sink(&world, &table, "", pipeline);
    sink.start();
    writers(&sink, "there are more than at the start", |limit| limit >= 3.0).await;
    let busy = Fault::new(Occasion::BulkLoad, Effect::Reject(40501.into())).fraction(0.5, 1);
    let fault = faults.script(busy).expect("a fault");
    writers(&sink, "there are as few as allowed", |limit| limit <= 1.0).await;
    assert!(decreases(&sink, "throttled").await >= 1.0);
    fault.remove();
    writers(&sink, "there are more again", |limit| limit >= 3.0).await;
    println!("{} loads were refused", fault.strikes());
    faults.limit_rows_per_second_of_a_load(None);
    holds_all(&world, &table, EVENTS).await;
}

/// GIVEN a backlog that several writers are working on
/// WHEN the database takes fewer rows a second, without a word, and after a while as many as before
/// THEN there are fewer writers, which bring in what it takes; then there are more again; and nothing is lost or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_limited_rate_lowers_the_number_of_writers_until_it_is_lifted() {
    const EVENTS: u64 = 900_000;
    const RATE: u32 = 10_000;
    let world = World::start_with_faults().await;
    let table = world.table("governed");
    world.stream(STREAM, "numbers.>").await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let pipeline = "batch = { max_rows = 2_000 }\nwriters = { min = 1, max = 4 }";
    let mut sink = numbers::sink(&world, &table, "", pipeline);
    sink.start();
    writers(&sink, "there are more than at the start", |limit| limit >= 3.0).await;
    committed(&sink, 100_000.0).await;
    let faults = world.stack.sql_server().faults();
    faults.limit_rows_per_second(Some(RATE.into()));
    writers(&sink, "there are fewer", |limit| limit <= 2.0).await;
    assert!(decreases(&sink, "latency").await >= 1.0);
    let (started, before) = (Instant::now(), sink.metric(COMMITTED).await.expect("the metric"));
    eventually("some seconds are over", MINUTE, async || {
        (started.elapsed() > Duration::from_secs(10)).then_some(())
    })
    .await;
    let rows = sink.metric(COMMITTED).await.expect("the metric") - before;
    let rate = rows / started.elapsed().as_secs_f64();
    println!("{rate:.0} rows a second of {RATE}");
    assert!(rate >= 0.85 * f64::from(RATE), "{rate} rows a second of {RATE}");
    assert_eq!(decreases(&sink, "throttled").await, 0.0);
    faults.limit_rows_per_second(None);
    // more than one that is only tried
    writers(&sink, "there are more again", |limit| limit >= 4.0).await;
    holds_all(&world, &table, EVENTS).await;
}
