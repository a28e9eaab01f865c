use std::time::Duration;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{World, eventually};

const EVENTS: u64 = 500_000;
const MINUTE: Duration = Duration::from_secs(60);

/// GIVEN 500,000 events and a worker
/// WHEN it is killed three times, each time while rows are uncommitted and acknowledgements are pending
/// THEN nothing is missing in the table; what is there twice is counted and said.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_nothing_is_missing_after_three_kills() {
    let world = World::start().await;
    let table = world.table("crash");
    world.stream(STREAM, "numbers.>").await;
    // Short, so that what a killed worker held comes back soon; batches small enough for several to be under way.
    let mut sink = numbers::sink(
        &world,
        &table,
        "",
        "ack_wait = \"3s\"\nbatch = { max_rows = 20_000, max_bytes = \"32MiB\", max_age = \"200ms\" }\nwriters = { min = 1, max = 2 }",
    );
    assert_eq!(world.publish((1..=EVENTS).map(numbers::event)).await, EVENTS);

    let mut kills = Vec::new();
    for _ in 0..3 {
        sink.start();
        let (committed, pending) = eventually("rows are being written", MINUTE, async || {
            let busy = sink.metric("nats_sql_sink_writers_busy").await?;
            let committed = sink.metric("nats_sql_sink_events_committed_total").await?;
            let (_, pending) = world.unsettled(STREAM, DURABLE).await?;
            (busy >= 1.0 && committed >= 40_000.0 && pending > 0).then_some((committed, pending))
        })
        .await;
        sink.kill().await;
        kills.push((committed, pending));
    }
    sink.start();
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;

    let mut sql = world.sql().await;
    let account = numbers::account(&mut sql, &table, EVENTS).await;
    println!("killed with (committed by this process, acknowledgements pending): {kills:?}");
    println!("missing {}, duplicates {}", account.missing, account.duplicates);
    assert_eq!(account, Account { missing: 0, duplicates: account.duplicates });
    // Only what a killed worker held can be there twice.
    let held: u64 = kills.iter().map(|(_, pending)| pending).sum();
    assert!(account.duplicates <= i64::try_from(held).expect("a count") + 60_000, "{account:?} of {kills:?}");
    sql.execute(&format!("DROP TABLE {table}")).await;
}
