//! Receipts: a downstream consumer that sees nothing else can tell what is in the table.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use futures_util::StreamExt as _;
use local_stack::sql_server::faults::Faults;
use local_stack::stack::LocalStackOptions;
use serde_json::Value;

use crate::exactly_once::{MINUTE, event, rows, sink, table};
use crate::numbers::{self, Account, STREAM};
use crate::support::{Sink, World, eventually};

/// All receipts that the stream holds, each message id once as the stream has it.
async fn receipts(world: &World) -> Vec<Value> {
    let mut stream = world.jetstream.get_stream("RECEIPTS").await.expect("the stream");
    let count = usize::try_from(stream.info().await.expect("its info").state.messages).expect("a count");
    let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..OrderedConfig::default() };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = consumer.messages().await.expect("its messages").take(count);
    let bodies =
        messages.map(|message| serde_json::from_slice(&message.expect("a message").payload).expect("JSON"));
    bodies.collect().await
}

fn number(receipt: &Value, field: &str) -> i64 {
    receipt[field].as_i64().unwrap_or_else(|| panic!("no {field} in {receipt}"))
}

/// GIVEN a pipeline with receipts, and a downstream consumer that sees nothing but them
/// WHEN its worker is killed at 20 points
/// THEN the receipts of each partition make one chain from the first event to the last, and tell the rows of each part
/// of it as the table has them.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_receipts_reproduce_the_table_across_kills() {
    const EVENTS: u64 = 200_000;
    const KILLS: u64 = 20;
    let faults = Faults::default();
    // slow enough that there is something to be killed in
    faults.limit_rows_per_second(Some(10_000));
    let world =
        World::start_from(LocalStackOptions { faults: faults.clone(), ..LocalStackOptions::default() }).await;
    world.stream(STREAM, "numbers.>").await;
    world.stream("RECEIPTS", "receipts.>").await;
    let table = table(&world, "announced").await;
    let more =
        "batch = { max_rows = 1000, max_age = \"50ms\" }\nreceipts = { subject = \"receipts.announced\" }";
    let mut worker = sink(&world, "announced", &table, 2, more);
    world.publish((1..=EVENTS).map(|id| event(id, 2))).await;
    let mut sql = world.sql().await;
    for _ in 0..KILLS {
        worker.start();
        let before = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
        rows(&mut sql, &table, u64::try_from(before).unwrap() + 3_000, MINUTE).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        worker.kill().await;
    }
    faults.limit_rows_per_second(None);
    worker.start();
    rows(&mut sql, &table, EVENTS, 2 * MINUTE).await;
    let waiting = "SELECT COUNT_BIG(*) FROM nats_sql_sink.receipts WHERE pipeline = N'announced'";
    eventually("all receipts are published", MINUTE, async || (sql.number(waiting).await == 0).then_some(()))
        .await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });

    let mut chains: BTreeMap<i64, BTreeMap<i64, Value>> = BTreeMap::new();
    let mut repeated = 0;
    for receipt in receipts(&world).await {
        let chain = chains.entry(number(&receipt, "partition")).or_default();
        if let Some(former) = chain.insert(number(&receipt, "previous_stream_sequence"), receipt.clone()) {
            assert_eq!(former["batch_id"], receipt["batch_id"], "two commits from one position");
            repeated += 1;
        }
    }
    let mut told = 0;
    for (partition, chain) in &chains {
        let mut at = 0;
        for (previous, receipt) in chain {
            let (first, last) =
                (number(receipt, "first_stream_sequence"), number(receipt, "last_stream_sequence"));
            // idle steps are not announced: nothing is in between
            let between = sql
                .number(&format!(
                    "SELECT COUNT_BIG(*) FROM {table} WHERE id % 2 = {partition} AND stream_sequence > {at} \
                     AND stream_sequence <= {previous}"
                ))
                .await;
            assert_eq!(between, 0, "a commit without a receipt before {receipt}");
            assert!(first > *previous && last >= first, "{receipt}");
            assert!(receipt["committed_at"].as_str() > receipt["first_published_at"].as_str(), "{receipt}");
            told += number(receipt, "rows");
            at = last;
        }
        println!("partition {partition}: {} receipts", chain.len());
    }
    println!("{told} rows told, {repeated} receipts came twice");
    assert_eq!(u64::try_from(told).unwrap(), EVENTS);
    assert!(worker.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'announced'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a shared consumer, receipts, and two workers
/// WHEN events are written
/// THEN the receipts tell as many rows as there are in the table, and none came before its rows.
#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_has_receipts_too() {
    const EVENTS: u64 = 40_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "announced_shared").await;
    let more =
        "batch = { max_rows = 1000, max_age = \"50ms\" }\nreceipts = { subject = \"receipts.shared\" }";
    let mut one = numbers::sink(&world, &table, "", more);
    let mut other = one.another();
    one.start();
    other.start();
    world.publish((1..=EVENTS).map(numbers::event)).await;
    world.settled(STREAM, numbers::DURABLE, MINUTE).await;
    // the stream comes late: what was committed before is announced then
    world.stream("RECEIPTS", "receipts.>").await;
    let mut sql = world.sql().await;
    let waiting = "SELECT COUNT_BIG(*) FROM nats_sql_sink.receipts WHERE pipeline = N'numbers'";
    eventually("all receipts are published", MINUTE, async || (sql.number(waiting).await == 0).then_some(()))
        .await;
    let all = receipts(&world).await;
    let told: i64 = all.iter().map(|receipt| number(receipt, "rows")).sum();
    assert_eq!(u64::try_from(told).unwrap(), EVENTS);
    let first = all.iter().map(|receipt| number(receipt, "first_stream_sequence")).min();
    let last = all.iter().map(|receipt| number(receipt, "last_stream_sequence")).max();
    assert_eq!((first, last), (Some(1), Some(i64::try_from(EVENTS).unwrap())));
    let published: f64 = published(&[&one, &other]).await;
    println!("{} receipts, {published} published by the workers", all.len());
    assert!(one.terminate(MINUTE).await.success());
    assert!(other.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

async fn published(sinks: &[&Sink]) -> f64 {
    let mut sum = 0.0;
    for sink in sinks {
        sum += sink.metric("nats_sql_sink_receipts_published_total").await.unwrap_or_default();
    }
    sum
}
