//! The consumer's settings, and what the stream does behind its back.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, PullConsumer, pull};
use async_nats::jetstream::stream;
use time::OffsetDateTime;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);

async fn world(name: &str) -> (World, String) {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table(name);
    (world, table)
}

fn theirs() -> pull::Config {
    pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        description: Some("theirs".to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "numbers.>".to_owned(),
        max_deliver: -1,
        max_ack_pending: -1,
        ..pull::Config::default()
    }
}

async fn consumer(world: &World, config: pull::Config) -> PullConsumer {
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    stream.create_consumer(config).await.expect("the consumer")
}

async fn settings(world: &World) -> Config {
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    stream.consumer_info(DURABLE).await.expect("the consumer").config
}

async fn not_ready(sink: &Sink, expected: &str) {
    eventually(&format!("not ready because of {expected}"), MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains(expected)).then_some(())
    })
    .await;
}

/// GIVEN a consumer with limits that would lose events, or that would be deleted in an outage
/// WHEN the sink starts
/// THEN these are brought in line, and what is not the sink's to say stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_brought_in_line() {
    let (world, table) = world("in_line").await;
    let second = Duration::from_secs(1);
    consumer(
        &world,
        pull::Config {
            ack_wait: second,
            max_deliver: 5,
            max_ack_pending: 10,
            backoff: vec![second, 2 * second],
            inactive_threshold: 600 * second,
            max_batch: 10,
            max_bytes: 10_000,
            max_expires: 3 * second,
            ..theirs()
        },
    )
    .await;
    let mut sink = numbers::sink(&world, &table, "", "");
    world.publish((1..=100).map(numbers::event)).await;
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    let config = settings(&world).await;
    assert_eq!((config.max_deliver, config.max_ack_pending), (-1, -1));
    assert_eq!((config.ack_wait, config.backoff), (30 * second, Vec::new()));
    assert_eq!(config.inactive_threshold, Duration::ZERO);
    assert_eq!((config.max_batch, config.max_bytes, config.max_expires), (0, 0, Duration::ZERO));
    assert_eq!(config.description.as_deref(), Some("theirs"));
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, 100).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a pipeline that is not to manage its consumer
/// WHEN there is none, then one with a limit on deliveries, then a good one that lets pulls ask for little
/// THEN it says what is missing or wrong, makes and changes nothing, and then moves the events.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_somebody_else_is_checked_and_not_changed() {
    let (world, table) = world("theirs").await;
    let mut sink = numbers::sink(&world, &table, "", "manage_consumer = false");
    world.publish((1..=1_000).map(numbers::event)).await;
    sink.start();
    not_ready(&sink, "create it").await;
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    assert!(stream.consumer_info(DURABLE).await.is_err(), "nothing is made");

    consumer(&world, pull::Config { max_deliver: 5, ..theirs() }).await;
    not_ready(&sink, "max_deliver is 5").await;
    assert_eq!(settings(&world).await.max_deliver, 5);

    let good = pull::Config { max_batch: 10, max_bytes: 4_000, ..theirs() };
    stream.update_consumer(good).await.expect("the consumer is changed");
    sink.ready(MINUTE).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    let config = settings(&world).await;
    assert_eq!((config.max_batch, config.max_bytes), (10, 4_000));
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, 1_000).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events and a consumer whose limit of bytes for a pull is a multiple of what an event counts for
/// WHEN the sink pulls them
/// THEN it knows that a pull has ended whose last message took the last byte, of which the server says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_ends_with_its_last_byte_is_not_waited_for() {
    // with their positions all numbers of four digits between, of the event and of those that are pending
    const EVENTS: u64 = 10_999;
    let (world, table) = world("last_byte").await;
    let (subject, _, payload) = numbers::event(1_000);
    let reply = format!("$JS.ACK.{STREAM}.{DURABLE}.1.1000.1000.1700000000000000000.9999");
    let length = subject.len() + reply.len() + payload.len();
    let max_bytes = i64::try_from(100 * length).expect("a small number");
    consumer(&world, pull::Config { max_bytes, ..theirs() }).await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let mut sink = numbers::sink(&world, &table, "", "manage_consumer = false");
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert_eq!(sink.metric("nats_sql_sink_pull_restarts_total").await, Some(0.0));
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a consumer that somebody pauses
/// WHEN the sink looks at it
/// THEN it is not ready and says so, until the consumer is resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_is_said() {
    let (world, table) = world("paused").await;
    let mut sink = numbers::sink(&world, &table, "", "");
    sink.start();
    sink.ready(MINUTE).await;
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    let later = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    stream.pause_consumer(DURABLE, later).await.expect("it is paused");
    not_ready(&sink, "paused").await;
    stream.resume_consumer(DURABLE).await.expect("it is resumed");
    sink.ready(MINUTE).await;
    world.sql().await.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a stream that keeps 100 events, and no worker
/// WHEN 1,000 are published
/// THEN the worker that starts then says how many were removed unseen, once, and writes the others.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_were_removed_unseen_are_counted() {
    let world = World::start().await;
    let table = world.table("removed");
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers.>".to_owned()],
        max_messages: 100,
        ..stream::Config::default()
    };
    world.jetstream.create_stream(config).await.expect("a stream");
    let mut sink = numbers::sink(&world, &table, "", "");
    world.publish((1..=50).map(numbers::event)).await;
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    world.publish((51..=1_000).map(numbers::event)).await;
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    let removed = sink.metric("nats_sql_sink_events_removed_unseen_total").await.expect("the metric");
    assert!((removed - 850.0).abs() < 0.5, "{removed}");
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, 1_000).await, Account { missing: 850, duplicates: 0 });
    // and what is removed after it was seen is not counted
    world.publish((1_001..=1_500).map(numbers::event)).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert!(sink.log().contains("at_most=850"), "{}", sink.log());
    sql.execute(&format!("DROP TABLE {table}")).await;
}
