//! `delivery = "exactly_once"`: each event once in the table, and in order within a partition, whatever happens.

use std::time::Duration;

use local_stack::sql_server::faults::{Effect, Fault, Faults, Moment, Occasion};
use local_stack::stack::LocalStackOptions;

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
    let lease = if more.contains("lease = ") { "" } else { "lease = \"2s\"\n" };
    format!(
        "delivery = \"exactly_once\"\npartitions = {{ count = {partitions}, subject = \"numbers.{{partition}}.>\" }}\n\
         {lease}{more}"
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
    let text = format!("SELECT COUNT_BIG(*) FROM {table}");
    eventually(&format!("{count} rows"), patience, async || (sql.number(&text).await >= count).then_some(()))
        .await;
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

async fn account_is_right(sql: &mut Sql, table: &str, events: u64, partitions: u64) {
    assert_eq!(numbers::account(sql, table, events).await, Account { missing: 0, duplicates: 0 });
    assert_eq!(out_of_order(sql, table, partitions).await, 0, "rows out of order");
}

/// GIVEN 200,000 events in 4 partitions, and two workers
/// WHEN the one or the other is killed, eight times, in the middle of the work, and started again
/// THEN each event is in the table once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_kills_neither_lose_nor_repeat() {
    const EVENTS: u64 = 200_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "once_killed").await;
    let one = sink(&world, "once_killed", &table, 4, "batch = { max_rows = 2000, max_age = \"100ms\" }");
    let mut workers = [one.another(), one];
    world.publish((1..=EVENTS).map(|id| event(id, 4))).await;
    workers.iter_mut().for_each(Sink::start);
    let mut sql = world.sql().await;
    let mut kills = Vec::new();
    for kill in 0..8 {
        let before = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
        rows(&mut sql, &table, u64::try_from(before).unwrap() + 6_000, MINUTE).await;
        workers[kill % 2].kill().await;
        kills.push(before);
        workers[kill % 2].start();
    }
    rows(&mut sql, &table, EVENTS, 2 * MINUTE).await;
    account_is_right(&mut sql, &table, EVENTS, 4).await;
    println!("killed with so many rows in the table: {kills:?}");
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once_killed'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a server that loses the connection before, during and after commits, and that refuses some with errors
/// WHEN events are written
/// THEN each is in the table once: what came of a commit is read from the progress.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcomes_are_resolved_from_the_progress() {
    const EVENTS: u64 = 60_000;
    let faults = Faults::default();
    let world =
        World::start_from(LocalStackOptions { faults: faults.clone(), ..LocalStackOptions::default() }).await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "once_unknown").await;
    world.publish((1..=EVENTS).map(|id| event(id, 2))).await;
    let mut sink =
        sink(&world, "once_unknown", &table, 2, "batch = { max_rows = 1000, max_age = \"100ms\" }");
    let mut struck = Vec::new();
    for effect in [
        Effect::Disconnect(Moment::After),
        Effect::Disconnect(Moment::Before),
        Effect::Reject(1205.into()),
        Effect::FailAfterWrite(40197.into()),
    ] {
        struck
            .push(faults.script(Fault::new(Occasion::Commit, effect).every(11).at_most(3)).expect("a fault"));
    }
    sink.start();
    let mut sql = world.sql().await;
    rows(&mut sql, &table, EVENTS, 2 * MINUTE).await;
    account_is_right(&mut sql, &table, EVENTS, 2).await;
    let strikes: Vec<_> = struck.iter().map(|fault| fault.strikes()).collect();
    assert!(strikes.iter().any(|strikes| *strikes > 0), "{strikes:?}");
    let unknown = sink.metric("nats_sql_sink_outcomes_unknown_total").await.expect("the metric");
    println!("faults struck {strikes:?} times, {unknown} outcomes were unknown");
    assert!(unknown >= 1.0);
    let repeated = sink.metric("nats_sql_sink_outcomes_unknown_events_total").await.expect("the metric");
    assert!(repeated.abs() < 0.5, "none can be there twice, and {repeated} are said to");
    assert!(sink.terminate(MINUTE).await.success());
    faults.clear();
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once_unknown'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN two workers
/// WHEN one is paused for longer than its lease, and goes on then
/// THEN the other has taken over what it had, and each event is in the table once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_paused_does_no_harm() {
    const EVENTS: u64 = 120_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "once_paused").await;
    let mut paused =
        sink(&world, "once_paused", &table, 4, "batch = { max_rows = 1000, max_age = \"50ms\" }");
    let mut other = paused.another();
    paused.start();
    other.start();
    let mut sql = world.sql().await;
    for round in 0..3_u64 {
        let (from, to) = (round * EVENTS / 3, (round + 1) * EVENTS / 3);
        world.publish((from + 1..=from + EVENTS / 6).map(|id| event(id, 4))).await;
        eventually("both read", MINUTE, async || {
            (paused.metric("nats_sql_sink_partitions_owned").await? >= 2.0).then_some(())
        })
        .await;
        paused.signal(nix::sys::signal::Signal::SIGSTOP);
        world.publish((from + EVENTS / 6 + 1..=to).map(|id| event(id, 4))).await;
        // the other comes to read all of it
        rows(&mut sql, &table, to, MINUTE).await;
        paused.signal(nix::sys::signal::Signal::SIGCONT);
    }
    account_is_right(&mut sql, &table, EVENTS, 4).await;
    let taken = other.metric("nats_sql_sink_partitions_claimed_total").await.expect("the metric");
    println!("the other worker claimed partitions {taken} times");
    assert!(taken >= 4.0 + 2.0, "{taken}");
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once_paused'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN bad events: some that cannot be decoded, some that a constraint refuses, some that repeat a key of a unique
/// index, and a batch of nothing else
/// WHEN they are read
/// THEN each is dead-lettered once, and the others are in the table once.
#[tokio::test(flavor = "multi_thread")]
async fn bad_events_are_dead_lettered_before_they_are_passed() {
    const EVENTS: u64 = 20_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("once_bad");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL, \
         CHECK (id % 1000 <> 7))"
    ))
    .await;
    sql.execute(&format!("CREATE UNIQUE INDEX one_id ON {table} (id)")).await;
    let bad = |id: u64| (format!("numbers.{}.n", id % 2), None, b"no json".to_vec());
    world.publish((1..=EVENTS).map(|id| if id % 500 == 3 { bad(id) } else { event(id, 2) })).await;
    // each repeats a key
    world.publish([5, 6, 8].map(|id| event(id, 2))).await;
    world.publish((0..50).map(bad)).await;
    let mut sink = sink(&world, "once_bad", &table, 2, "batch = { max_rows = 5000, max_age = \"200ms\" }");
    sink.start();
    let good = i64::try_from(EVENTS - EVENTS / 500 - EVENTS / 1000).unwrap();
    rows(&mut sql, &table, u64::try_from(good).unwrap(), MINUTE).await;
    let wanted = EVENTS / 500 + EVENTS / 1000 + 3 + 50;
    let letters = eventually("all bad events are dead-lettered", MINUTE, async || {
        let letters = world.dead_letters().await;
        (letters.len() as u64 >= wanted).then_some(letters)
    })
    .await;
    let mut sequences = std::collections::BTreeSet::new();
    let mut reasons = std::collections::BTreeMap::new();
    for letter in &letters {
        let headers = letter.headers.as_ref().expect("headers");
        let get = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
        assert!(sequences.insert(get("Dead-Letter-Sequence")), "an event is there twice");
        *reasons.entry((get("Dead-Letter-Reason"), get("Dead-Letter-Error-Number"))).or_insert(0_u64) += 1;
    }
    println!("{reasons:?}");
    assert_eq!(letters.len() as u64, wanted);
    assert_eq!(reasons[&("refused_by_database".to_owned(), "547".to_owned())], EVENTS / 1000);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, good);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await, good);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once_bad'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events whose headers the NATS client takes for a broken connection: between good ones, and as the last one
/// WHEN a partition is read
/// THEN each is dead-lettered once, and the progress passes it.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_break_the_connection_do_not_stop_a_partition() {
    const HEADERS: &[u8] = b"NATS/1.0\r\nWho: \xe9t\xe9\r\n\r\n";
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "once_headers").await;
    world.publish((1..=100).map(|id| event(id, 1))).await;
    world.publish_raw("numbers.0.bad", HEADERS, b"{}", STREAM, 101).await;
    world.publish((101..=200).map(|id| event(id, 1))).await;
    world.publish_raw("numbers.0.bad", HEADERS, b"{}", STREAM, 202).await;
    let mut sink = sink(&world, "once_headers", &table, 1, "");
    sink.start();
    sink.ready(MINUTE).await;
    let mut sql = world.sql().await;
    let passed = "SELECT COUNT_BIG(*) FROM nats_sql_sink.progress WHERE pipeline = N'once_headers' AND stream_sequence >= 202";
    eventually("all is passed", MINUTE, async || (sql.number(passed).await == 1).then_some(())).await;
    assert_eq!(numbers::account(&mut sql, &table, 200).await, Account { missing: 0, duplicates: 0 });
    let letters = world.dead_letters().await;
    let sequences: Vec<_> = letters
        .iter()
        .map(|letter| {
            letter.headers.as_ref().expect("headers").get("Dead-Letter-Sequence").expect("one").to_string()
        })
        .collect();
    assert_eq!(sequences, ["101", "202"]);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'once_headers'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
