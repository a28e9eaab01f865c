//! Two pipelines of one worker, of which one cannot write.

use std::time::{Duration, Instant};

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 150_000;
const BATCH: &str = "batch = { max_rows = 5_000, max_bytes = \"4MiB\" }";

/// The sink of the numbers, with another pipeline of the same events.
fn two_pipelines(world: &World, table: &str, other: &str) -> Sink {
    let top = "memory = \"32MiB\"\nretry_window = \"2s\"";
    let sink = numbers::sink(world, table, top, BATCH);
    let pipeline = format!(
        "\n[[pipeline]]\nname = \"other\"\nstream = \"{STREAM}\"\ndurable = \"other\"\nsubjects = [\"numbers.>\"]\n\
         schema = \"numbers.toml\"\ntable = \"{other}\"\ncreate_table = true\n{BATCH}\n\
         dead_letter = {{ stream = \"DEAD_LETTERS\", subject = \"dead.other\" }}\n"
    );
    let text = std::fs::read_to_string(&sink.config).expect("the configuration") + &pipeline;
    std::fs::write(&sink.config, text).expect("the configuration");
    sink
}

/// GIVEN two pipelines with as many connections as one of them could take, one of which cannot write because its table is
/// locked: it holds all the memory that it can get, and its loads hang
/// WHEN the other one has a backlog
/// THEN that is written as fast as if it were alone, and in batches as large; and what was held is there when the lock is gone.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_pipeline_that_cannot_write_does_not_hold_up_the_other() {
    let world = World::start().await;
    let (table, other) = (world.table("free"), world.table("locked"));
    world.stream(STREAM, "numbers.>").await;
    let mut sink = two_pipelines(&world, &table, &other);
    sink.start();
    sink.ready(MINUTE).await;
    let mut lock = world.sql().await;
    lock.execute("BEGIN TRANSACTION").await;
    lock.execute(&format!("ALTER TABLE {other} ADD locked int NULL")).await;

    // one event more than it can hold, many times over
    world.publish((1..=EVENTS).map(numbers::event)).await;
    let started = Instant::now();
    world.settled(STREAM, DURABLE, MINUTE).await;
    let took = started.elapsed();
    eventually("the other one holds what it can and has written nothing", MINUTE, async || {
        let held = sink.metric_where("nats_sql_sink_held_events", "other").await?;
        let written = sink.metric_where("nats_sql_sink_events_committed_total", "other").await?;
        (held > 1_000.0 && written < 1.0).then_some(())
    })
    .await;
    let batches = sink.metric_where("nats_sql_sink_batches_committed_total", "numbers").await.expect("it");
    println!("{EVENTS} events in {took:?}, {batches} batches");
    let rows_of_a_batch = f64::from(u32::try_from(EVENTS).expect("a number")) / batches;
    assert!(rows_of_a_batch > 1_000.0, "{rows_of_a_batch} rows in a batch");
    assert!(took < Duration::from_secs(25), "{took:?}");

    drop(lock);
    world.settled(STREAM, "other", 3 * MINUTE).await;
    let mut sql = world.sql().await;
    for table in [&table, &other] {
        let account = numbers::account(&mut sql, table, EVENTS).await;
        assert_eq!(account, Account { missing: 0, duplicates: 0 }, "{table}");
        sql.execute(&format!("DROP TABLE {table}")).await;
    }
}
