//! Events that the decoder does not survive. Only the tests' binary has such: it fails on request, see the cargo feature
//! `test-hooks`.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, Sql, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const FAIL_ON_REQUEST: &[(&str, &str)] = &[("NATS_SQL_SINK_TEST_CRASH", "1")];
const EVENTS: u64 = 300;
const POISON: u64 = 111;
const PIPELINE: &str =
    "ack_wait = \"1s\"\nmax_deliveries = 2\nbatch = { max_rows = 1_000, max_age = \"200ms\" }";

fn poisoned(crash: &str) -> impl Iterator<Item = (String, Option<HeaderMap>, Vec<u8>)> {
    let poison = format!(r#"{{"id":{POISON},"crash":"{crash}"}}"#);
    (1..=EVENTS).map(move |id| match id {
        POISON => ("numbers.all".to_owned(), None, poison.clone().into_bytes()),
        _ => numbers::event(id),
    })
}

/// A world with a poisoned stream, and a sink that was not started.
async fn world(name: &str, crash: &str) -> (World, String, Sink) {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table(name);
    let sink = numbers::sink(&world, &table, "", PIPELINE);
    world.publish(poisoned(crash)).await;
    (world, table, sink)
}

/// The poison is the only dead letter, with these words in its detail; and all other events are in the table.
async fn only_the_poison_is_set_aside(world: &World, sql: &mut Sql, table: &str, detail: &str) {
    let letters = world.dead_letters().await;
    let header = |name: &str| {
        let headers = letters[0].headers.as_ref().expect("headers");
        headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_string()
    };
    assert_eq!(letters.len(), 1);
    assert_eq!(header("Dead-Letter-Sequence"), POISON.to_string());
    assert_eq!(header("Dead-Letter-Reason"), "crashes_decoder");
    assert!(header("Dead-Letter-Detail").contains(detail), "{}", header("Dead-Letter-Detail"));
    let others = format!("SELECT COUNT_BIG(DISTINCT id) FROM {table} WHERE id <> {POISON}");
    assert_eq!(sql.number(&others).await, i64::try_from(EVENTS).expect("small") - 1);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id = {POISON}")).await, 0);
}

/// GIVEN an event that ends the worker which decodes it, among good ones
/// WHEN the worker is started again each time, as a supervisor does
/// THEN the event is found after a few times and dead-lettered, alone, and the worker lives on.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_its_worker_is_found() {
    let (world, table, mut sink) = world("kills", "abort").await;
    let mut deaths = 0;
    sink.start_with(FAIL_ON_REQUEST);
    eventually("all events are settled", 2 * MINUTE, async || {
        if sink.ended().is_some() {
            deaths += 1;
            sink.start_with(FAIL_ON_REQUEST);
        }
        (world.unsettled(STREAM, DURABLE).await? == (0, 0)).then_some(())
    })
    .await;
    println!("the worker died {deaths} times");
    assert!((1..=4).contains(&deaths), "{deaths}");
    let mut sql = world.sql().await;
    only_the_poison_is_set_aside(&world, &mut sql, &table, "SIGABRT").await;
    assert!(sink.terminate(MINUTE).await.success(), "{}", sink.log());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN an event at which the decoder panics
/// WHEN it comes in a batch
/// THEN it is found at once and dead-lettered, alone, in the same worker.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_which_the_decoder_panics_is_found() {
    let (world, table, mut sink) = world("panics", "panic").await;
    sink.start_with(FAIL_ON_REQUEST);
    world.settled(STREAM, DURABLE, MINUTE).await;
    let mut sql = world.sql().await;
    only_the_poison_is_set_aside(&world, &mut sql, &table, "panicked").await;
    assert_eq!(
        numbers::account(&mut sql, &table, EVENTS).await,
        Account { missing: 1, duplicates: 0 },
        "the poison alone is missing"
    );
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN an event at which the decoder does not come to an end
/// WHEN it comes in a batch
/// THEN it is found and dead-lettered, alone; and the worker says that a thread is missing.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_which_the_decoder_hangs_is_found() {
    let (world, table, mut sink) = world("hangs", "hang").await;
    sink.start_with(FAIL_ON_REQUEST);
    world.settled(STREAM, DURABLE, 2 * MINUTE).await;
    let mut sql = world.sql().await;
    only_the_poison_is_set_aside(&world, &mut sql, &table, "did not come to an end").await;
    let (status, body) = sink.get("/readyz").await.expect("an answer");
    assert!(status == 503 && body.contains("one thread fewer"), "{body}");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN good events that were given back more often than `max_deliveries`, as by workers that were stopped
/// WHEN they are delivered once more
/// THEN they are tried out in a process of their own, which survives, and are written; none is dead-lettered.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_given_back_often_are_written() {
    const TIMES: usize = 3;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("given_back");
    let mut sink = numbers::sink(&world, &table, "", PIPELINE);
    sink.start();
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    let consumer: PullConsumer = stream.get_consumer(DURABLE).await.expect("the consumer");
    let count = usize::try_from(EVENTS).expect("small");
    for _ in 0..TIMES {
        // one pull may end before all of them have come
        let mut given_back = 0;
        while given_back < count {
            let pull = consumer.batch().max_messages(count - given_back).expires(Duration::from_secs(1));
            let mut delivered = pull.messages().await.expect("a pull");
            while let Some(message) = delivered.next().await {
                message.expect("an event").ack_with(AckKind::Nak(None)).await.expect("it is given back");
                given_back += 1;
            }
        }
        eventually("all are given back", MINUTE, async || {
            (world.unsettled(STREAM, DURABLE).await?.1 == EVENTS).then_some(())
        })
        .await;
    }
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    let trials = sink.metric("nats_sql_sink_decode_trials_total").await.expect("the metric");
    println!("{trials} trials");
    assert!(trials >= 1.0);
    assert_eq!(world.dead_letters().await.len(), 0);
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a partition with an event that ends the worker which decodes it
/// WHEN the worker is started again each time
/// THEN the event is found after a few times and dead-lettered, alone; the others are in the table once, and the worker
/// lives on.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_its_worker_is_found_in_exactly_once() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("once_kills");
    world.publish(poisoned("abort")).await;
    let pipeline = format!("{PIPELINE}\ndelivery = \"exactly_once\"\nlease = \"1s\"");
    let mut sink = numbers::sink(&world, &table, "", &pipeline);
    let mut deaths = 0;
    sink.start_with(FAIL_ON_REQUEST);
    let mut sql = world.sql().await;
    eventually("the progress has passed all events", 2 * MINUTE, async || {
        if sink.ended().is_some() {
            deaths += 1;
            sink.start_with(FAIL_ON_REQUEST);
        }
        if sink.get("/readyz").await?.0 != 200 {
            return None;
        }
        let passed =
            format!("SELECT COUNT_BIG(*) FROM nats_sql_sink.progress WHERE stream_sequence >= {EVENTS}");
        (sql.number(&passed).await == 1).then_some(())
    })
    .await;
    println!("the worker died {deaths} times");
    assert!((1..=4).contains(&deaths), "{deaths}");
    only_the_poison_is_set_aside(&world, &mut sql, &table, "SIGABRT").await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 1, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success(), "{}", sink.log());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'numbers'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
