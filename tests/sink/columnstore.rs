//! A table with a clustered columnstore index, which compresses a load of 102,400 rows or more at once.

use std::time::Duration;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 300_000;
const LOADED: &str = "nats_sql_sink_rows_loaded_total";

/// GIVEN a table with a clustered columnstore index, a configuration that says nothing of the size of a batch, and enough memory
/// WHEN there is a backlog with a bad event in each hundred thousand
/// THEN most rows come in loads that are compressed at once; and what was decided is logged, with a warning where `max_rows` rules
/// it out.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_backlog_comes_in_loads_that_a_columnstore_compresses() {
    let world = World::start().await;
    let table = world.table("columns");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL, \
         INDEX columns_of_it CLUSTERED COLUMNSTORE)"
    ))
    .await;
    world.stream(STREAM, "numbers.>").await;
    let event = |id: u64| match id % 100_000 {
        0 => ("numbers.all".to_owned(), None, b"{}".to_vec()),
        _ => numbers::event(id),
    };
    world.publish((1..=EVENTS).map(event)).await;
    let mut sink = numbers::sink(&world, &table, "memory = \"1GiB\"", "batch = { max_age = \"5s\" }");
    sink.start();
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;
    let large = sink.metric_where(LOADED, "load=\"large\"").await.expect("the metrics");
    let small = sink.metric_where(LOADED, "load=\"small\"").await.expect("the metrics");
    let bad = EVENTS / 100_000;
    println!("{large} rows in large loads, {small} in small ones");
    let rows = f64::from(u32::try_from(EVENTS - bad).expect("a number"));
    assert!((large + small - rows).abs() < 0.5, "{large} and {small} of {rows}");
    assert!(large >= 0.6 * rows, "{large} of {rows}");
    let account = numbers::account(&mut sql, &table, EVENTS).await;
    assert_eq!(account, Account { missing: i64::try_from(bad).expect("a number"), duplicates: 0 });
    let log = sink.log();
    for part in [
        "no TABLOCK: a columnstore",
        "batches of up to 131072 rows",
        "a columnstore compresses a load of 102400",
    ] {
        assert!(log.contains(part), "{part}");
    }

    let mut small = numbers::sink(&world, &table, "", "batch = { max_rows = 50_000 }");
    small.start();
    eventually("it is said that batches are too small", MINUTE, async || {
        small.log().contains("batch.max_rows = 50000: every load goes to the deltastore").then_some(())
    })
    .await;
    drop(small);
    sql.execute(&format!("DROP TABLE {table}")).await;
}
