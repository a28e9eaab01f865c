//! Rows that the database refuses: found in their batch, and set aside, while the others are written.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::numbers;
use crate::support::{World, eventually};

const MINUTE: Duration = Duration::from_secs(60);

/// One batch, so that what one costs can be counted.
const ONE_BATCH: &str = "batch = { max_rows = 102400, max_age = \"5s\" }";

/// The numbers of the events in the dead-letter stream, all of which the database refused with `number`.
async fn refused(world: &World, number: &str) -> BTreeSet<u64> {
    let mut refused = BTreeSet::new();
    for letter in world.dead_letters().await {
        let headers = letter.headers.as_ref().expect("a dead letter has headers");
        let header = |name: &str| headers.get(name).unwrap_or_else(|| panic!("no {name}")).as_str();
        assert_eq!(header("Dead-Letter-Reason"), "refused_by_database");
        assert_eq!(header("Dead-Letter-Error-Number"), number);
        assert_eq!(header("Dead-Letter-Phase"), "load");
        let event: serde_json::Value = serde_json::from_slice(&letter.payload).expect("the event");
        assert!(refused.insert(event["id"].as_u64().expect("an id")), "an event is there twice");
    }
    refused
}

async fn table(world: &World, name: &str, check: &str) -> String {
    let table = world.table(name);
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL, CHECK ({check}))"
    ))
    .await;
    table
}

/// GIVEN a batch of 100,000 rows of which the database refuses one
/// WHEN it is written
/// THEN the one is dead-lettered with the server's number, the others are in the table, and it took at most 20 loads more.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_one_bad_row_of_a_hundred_thousand_is_found_with_twenty_loads() {
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = table(&world, "one_bad", "id <> 61803").await;
    world.publish((1..=100_000).map(numbers::event)).await;
    let mut sink = numbers::sink(&world, &table, "", ONE_BATCH);
    sink.start();
    world.settled(numbers::STREAM, numbers::DURABLE, 3 * MINUTE).await;

    assert_eq!(refused(&world, "547").await, BTreeSet::from([61_803]));
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await, 99_999);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 99_999);
    let loads = sink.metric("nats_sql_sink_bisection_loads_total").await.expect("the metric");
    println!("1 bad row of 100,000: {loads} loads more");
    assert!(loads <= 20.0, "{loads} loads");
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN 102,400 rows of which the database refuses a hundredth, scattered
/// WHEN they are written
/// THEN exactly those are dead-lettered, the others are in the table, with few loads for each, and in bearable time: on two cores
/// that have nothing else to do about half a minute, by key twice that. Most of it is the local stack's.
async fn a_hundredth(name: &str, write: &str) {
    const EVENTS: u64 = 102_400;
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = table(&world, name, "id % 100 <> 37").await;
    let mut sql = world.sql().await;
    if !write.is_empty() {
        sql.execute(&format!("CREATE UNIQUE INDEX {name}_key ON {table} (id)")).await;
    }
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let mut sink = numbers::sink(&world, &table, "", &format!("{ONE_BATCH}\n{write}"));
    let started = Instant::now();
    sink.start();
    world.settled(numbers::STREAM, numbers::DURABLE, 3 * MINUTE).await;
    let seconds = started.elapsed().as_secs_f64();

    let bad: BTreeSet<u64> = (1..=EVENTS).filter(|id| id % 100 == 37).collect();
    assert_eq!(refused(&world, "547").await, bad);
    let good = i64::try_from(EVENTS).expect("small") - i64::try_from(bad.len()).expect("small");
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await, good);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, good);
    let loads = sink.metric("nats_sql_sink_bisection_loads_total").await.expect("the metric");
    println!("{} bad rows of {EVENTS}: {seconds:.1} s, {loads} loads more", bad.len());
    assert!(loads <= 9.0 * bad.len() as f64, "{loads} loads");
    assert!(seconds < 150.0, "{seconds} s");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_hundredth_of_bad_rows_is_found_with_few_loads_each() {
    a_hundredth("scattered", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_hundredth_of_bad_rows_is_found_with_few_loads_each_by_key() {
    let upsert = "write = \"upsert\"\nkey = [\"id\"]\nsequence_column = \"stream_sequence\"";
    a_hundredth("scattered_by_key", upsert).await;
}

/// GIVEN a table that refuses most rows alike
/// WHEN a batch comes
/// THEN the pipeline stops and says so, and nothing is dead-lettered; and goes on by itself when the table takes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_most_rows_stops_the_pipeline() {
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = table(&world, "refuses", "id % 3 = 0").await;
    world.publish((1..=3_000).map(numbers::event)).await;
    let mut sink = numbers::sink(&world, &table, "", ONE_BATCH);
    sink.start();
    eventually("not ready, because it is not the events", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("refused alike") && body.contains("547")).then_some(())
    })
    .await;
    assert_eq!(world.dead_letters().await.len(), 0);
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 0);

    sql.execute(&format!("DROP TABLE {table}")).await;
    world.settled(numbers::STREAM, numbers::DURABLE, 2 * MINUTE).await;
    assert_eq!(
        numbers::account(&mut sql, &table, 3_000).await,
        numbers::Account { missing: 0, duplicates: 0 }
    );
    assert_eq!(world.dead_letters().await.len(), 0);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a table that begins to refuse every row, and batches of ten rows, which are too few to tell that by themselves
/// WHEN events come
/// THEN no more than ten of them are dead-lettered before the pipeline stops and says so; and it goes on by itself when the
/// table takes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_small_batches_stops_the_pipeline() {
    const GOOD: u64 = 300;
    const EVENTS: u64 = 600;
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = table(&world, "refuses_small", &format!("id <= {GOOD}")).await;
    let batch = "batch = { max_rows = 10, max_age = \"100ms\" }";
    let mut sink = numbers::sink(&world, &table, "", batch);
    sink.start();
    world.publish((1..=GOOD).map(numbers::event)).await;
    world.settled(numbers::STREAM, numbers::DURABLE, MINUTE).await;
    world.publish((GOOD + 1..=EVENTS).map(numbers::event)).await;
    eventually("not ready, because it is not the events", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("refused alike") && body.contains("547")).then_some(())
    })
    .await;
    // one more round of what waits, to see that it goes on to refuse
    eventually("it tries again", MINUTE, async || {
        (sink.log().matches("refused alike").count() > 8).then_some(())
    })
    .await;
    let dead_lettered = refused(&world, "547").await.len() as u64;
    println!("{dead_lettered} events were dead-lettered before the pipeline stopped");
    assert!(dead_lettered <= 10, "{dead_lettered}");
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id > {GOOD}")).await, 0);

    sql.execute(&format!("DROP TABLE {table}")).await;
    world.settled(numbers::STREAM, numbers::DURABLE, 2 * MINUTE).await;
    let written = sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await;
    assert_eq!(u64::try_from(written).expect("a count") + dead_lettered, EVENTS - GOOD);
    assert_eq!(world.dead_letters().await.len() as u64, dead_lettered);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}
