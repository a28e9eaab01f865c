//! `delivery = "exactly_once"`: each event once in the table, and in order within a partition, whatever happens.

use std::time::Duration;

use crate::numbers::{self, Account, STREAM};
use crate::support::{Sink, Sql, World, eventually};

pub const MINUTE: Duration = Duration::from_secs(60);

/// Where an event belongs is part of its subject.
pub fn event(id: u64, partitions: u64) -> (String, Option<async_nats::HeaderMap>, Vec<u8>) {
    let (_, headers, payload) = numbers::event(id);
    (format!("numbers.{}.n", id % partitions), headers, payload)
}

/// A table that shows in which order its rows came.
pub async fn table(world: &World, name: &str) -> String {
    let table = world.table(name);
    world
        .sql()
        .await
        .execute(&format!(
            "CREATE TABLE {table} (place bigint IDENTITY NOT NULL, id bigint NOT NULL, name nvarchar(40) NULL, \
             stream_sequence bigint NOT NULL)"
        ))
        .await;
    table
}

pub fn pipeline(partitions: u64, more: &str) -> String {
    format!(
        "delivery = \"exactly_once\"\npartitions = {{ count = {partitions}, subject = \"numbers.{{partition}}.>\" }}\n\
         lease = \"2s\"\n{more}"
    )
}

/// A pipeline's progress is kept under its name: each test has a name of its own.
pub fn sink(world: &World, name: &str, table: &str, partitions: u64, more: &str) -> Sink {
    world.write("numbers.toml", numbers::SCHEMA);
    let fields = format!(
        "stream = \"{STREAM}\"\nsubjects = [\"numbers.>\"]\nschema = \"numbers.toml\"\ntable = \"{table}\"\n\
         create_table = true\n{}",
        pipeline(partitions, more)
    );
    world.config(name, "", &fields)
}

/// Waits until the table has so many rows.
pub async fn rows(sql: &mut Sql, table: &str, count: u64, patience: Duration) {
    let count = i64::try_from(count).expect("a count");
    let started = std::time::Instant::now();
    loop {
        let found = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
        if found >= count {
            return;
        }
        assert!(started.elapsed() < patience, "{found} of {count} rows after {patience:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Rows of one partition that came after one of a later event.
pub async fn out_of_order(sql: &mut Sql, table: &str, partitions: u64) -> i64 {
    sql.number(&format!(
        "WITH ordered AS (SELECT stream_sequence, LAG(stream_sequence) OVER (PARTITION BY id % {partitions} \
         ORDER BY place) AS before FROM {table}) SELECT COUNT_BIG(*) FROM ordered WHERE before >= stream_sequence"
    ))
    .await
}

/// GIVEN 100,000 events in 4 partitions
/// WHEN a worker reads them
/// THEN each is in the table once, in order, JetStream keeps no acknowledgement, and the progress is at the stream's end.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_in_the_table_once_and_in_order() {
    const EVENTS: u64 = 100_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "once").await;
    world.publish((1..=EVENTS / 2).map(|id| event(id, 4))).await;
    let mut sink = sink(&world, "once", &table, 4, "batch = { max_rows = 5000, max_age = \"200ms\" }");
    sink.start();
    world.publish((EVENTS / 2 + 1..=EVENTS).map(|id| event(id, 4))).await;
    let mut sql = world.sql().await;
    rows(&mut sql, &table, EVENTS, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    assert_eq!(out_of_order(&mut sql, &table, 4).await, 0);
    sink.ready(MINUTE).await;
    // each partition's last event is one of the last four, and the others are behind it in the stream
    let behind = "SELECT COUNT_BIG(*) FROM nats_sql_sink.progress WHERE pipeline = N'once' AND stream_sequence < 100000";
    eventually("the progress is at the stream's end", MINUTE, async || {
        (sql.number(behind).await == 0).then_some(())
    })
    .await;
    assert!(sink.terminate(MINUTE).await.success());
    let owned =
        "SELECT COUNT_BIG(*) FROM nats_sql_sink.leases WHERE pipeline = N'once' AND owner IS NOT NULL";
    assert_eq!(sql.number(owned).await, 0, "a stop gives the leases back");
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
