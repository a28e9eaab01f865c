use std::time::Duration;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::World;

const EVENTS: u64 = 400_000;
const MINUTE: Duration = Duration::from_secs(60);

/// GIVEN two workers on the same durable consumer
/// WHEN events are published
/// THEN each writes at least 30% of the rows, and together all of them once.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_two_workers_share_the_work() {
    let world = World::start().await;
    let table = world.table("scale_out");
    world.stream(STREAM, "numbers.>").await;
    let mut one = numbers::sink(
        &world,
        &table,
        "",
        "batch = { max_rows = 20_000, max_bytes = \"32MiB\", max_age = \"200ms\" }",
    );
    let mut other = one.another();
    one.start();
    other.start();
    one.ready(MINUTE).await;
    other.ready(MINUTE).await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;

    let mut sql = world.sql().await;
    let account = numbers::account(&mut sql, &table, EVENTS).await;
    let name = "nats_sql_sink_events_committed_total";
    let shares = [one.metric(name).await.expect("a count"), other.metric(name).await.expect("a count")];
    println!("rows written by each: {shares:?}");
    assert_eq!(account, Account { missing: 0, duplicates: 0 });
    #[allow(clippy::cast_precision_loss)]
    let least = 0.3 * EVENTS as f64;
    assert!(shares.iter().all(|share| *share >= least), "{shares:?}");
    sql.execute(&format!("DROP TABLE {table}")).await;
}
