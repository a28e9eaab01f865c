//! Partitions in `exactly_once`: who reads them, and what becomes of them when the stream or its division changes.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;

use crate::exactly_once::{MINUTE, event, out_of_order, rows, sink, table};
use crate::numbers::{self, Account, STREAM};
use crate::support::{Sink, Sql, World, eventually};

/// The owners of all partitions, as far as their lease has not expired.
async fn owners(sql: &mut Sql, pipeline: &str) -> Vec<Option<String>> {
    let sql_text = format!(
        "SELECT CASE WHEN expires_at > SYSUTCDATETIME() THEN owner ELSE NULL END AS owner FROM nats_sql_sink.leases \
         WHERE pipeline = N'{pipeline}' ORDER BY partition_id"
    );
    let rows = sql.rows(&sql_text).await;
    rows.iter().map(|row| row.get::<&str, _>(0).map(str::to_owned)).collect()
}

async fn owned(sinks: &[&Sink]) -> Option<Vec<f64>> {
    let mut counts = Vec::new();
    for sink in sinks {
        counts.push(sink.metric("nats_sql_sink_partitions_owned").await?);
    }
    Some(counts)
}

/// GIVEN 3 workers that share 12 partitions
/// WHEN one is killed, and later another one is started
/// THEN within 2 leases all partitions are served again; then the new one gets its share; and each event is in the table
/// once, and in order within its partition.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_partitions_are_taken_over_and_shared_anew() {
    const LEASE: Duration = Duration::from_secs(4);
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "taken_over").await;
    let more = "lease = \"4s\"\nbatch = { max_rows = 1000, max_age = \"50ms\" }";
    let mut first = sink(&world, "taken_over", &table, 12, more);
    let (mut second, mut third) = (first.another(), first.another());
    let mut fourth = first.another();
    for worker in [&mut first, &mut second, &mut third] {
        worker.start();
    }
    eventually("each has its share", MINUTE, async || {
        (owned(&[&first, &second, &third]).await? == [4.0; 3]).then_some(())
    })
    .await;
    // a trickle, so that something is under way all the time
    let publishing = async {
        for id in 1..=30_000 {
            world.publish([event(id, 12)]).await;
        }
    };
    let moving = async {
        let mut sql = world.sql().await;
        rows(&mut sql, &table, 500, MINUTE).await;
        third.kill().await;
        let killed = Instant::now();
        eventually("all partitions are served", 2 * LEASE, async || {
            let counts = owned(&[&first, &second]).await?;
            let all = owners(&mut sql, "taken_over").await;
            (counts == [6.0, 6.0] && all.iter().all(Option::is_some)).then_some(())
        })
        .await;
        let taken_over = killed.elapsed();
        fourth.start();
        let added = Instant::now();
        eventually("the new one has its share", MINUTE, async || {
            (owned(&[&first, &second, &fourth]).await? == [4.0; 3]).then_some(())
        })
        .await;
        println!(
            "taken over after {taken_over:?} of a lease of {LEASE:?}, shared anew {:?} after a start",
            added.elapsed()
        );
        assert!(taken_over < 2 * LEASE, "{taken_over:?}");
    };
    tokio::join!(publishing, moving);
    let mut sql = world.sql().await;
    rows(&mut sql, &table, 30_000, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, 30_000).await, Account { missing: 0, duplicates: 0 });
    assert_eq!(out_of_order(&mut sql, &table, 12).await, 0);
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'taken_over'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN two workers that read 4 partitions under load
/// WHEN the partitions are changed to 3, by command, and workers with the new configuration are started
/// THEN the old ones stop at the barrier and the new ones go on behind it: each event is in the table once.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_change_under_running_workers() {
    const EVENTS: u64 = 60_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "changed").await;
    let lists =
        "delivery = \"exactly_once\"\nlease = \"2s\"\nbatch = { max_rows = 500, max_age = \"50ms\" }\n";
    let four = "[\"numbers.0.>\"], [\"numbers.1.>\"], [\"numbers.2.>\"], [\"numbers.3.>\", \"numbers.x.>\"]";
    let three = "[\"numbers.0.>\", \"numbers.3.>\"], [\"numbers.1.>\", \"numbers.x.>\"], [\"numbers.2.>\"]";
    world.write("numbers.toml", numbers::SCHEMA);
    let config = |partitions: &str| {
        let fields = format!(
            "stream = \"{STREAM}\"\nsubjects = [\"numbers.0.>\", \"numbers.1.>\", \"numbers.2.>\", \"numbers.3.>\", \
             \"numbers.x.>\"]\nschema = \"numbers.toml\"\ntable = \"{table}\"\ncreate_table = true\n{lists}\
             partitions = {{ subjects = [{partitions}] }}"
        );
        world.config("changed", "", &fields)
    };
    let mut old = config(four);
    let mut other = old.another();
    let mut new = config(three);
    old.start();
    other.start();
    old.ready(MINUTE).await;
    let publishing = async {
        for chunk in 0..EVENTS / 100 {
            world.publish((chunk * 100 + 1..=chunk * 100 + 100).map(|id| event(id, 4))).await;
        }
    };
    let changing = async {
        let mut sql = world.sql().await;
        rows(&mut sql, &table, EVENTS / 6, MINUTE).await;
        // not by starting a worker
        new.start();
        eventually("the new one says what is to be done", MINUTE, async || {
            let (status, body) = new.get("/readyz").await?;
            (status == 503 && body.contains("partitions change")).then_some(())
        })
        .await;
        let (status, output, errors) = new.command(&["partitions", "change"]).await;
        println!("{output}");
        assert!(status.success(), "{errors}");
    };
    tokio::join!(publishing, changing);
    let mut sql = world.sql().await;
    rows(&mut sql, &table, EVENTS, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    new.ready(MINUTE).await;
    eventually("the old one says that the division is another", MINUTE, async || {
        let (status, body) = old.get("/readyz").await?;
        (status == 503 && body.contains("another division")).then_some(())
    })
    .await;
    let (status, output, errors) = new.command(&["partitions", "show"]).await;
    assert!(status.success() && output.lines().count() == 3, "{output} {errors}");
    assert!(new.terminate(MINUTE).await.success());
    assert!(old.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'changed'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a worker that has read a stream
/// WHEN the stream is deleted and made anew
/// THEN nothing of it is read before the command says so, and all of it then.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_anew_stops_the_pipeline_until_the_command() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "anew").await;
    world.publish((1..=1_000).map(|id| event(id, 2))).await;
    let mut sink = sink(&world, "anew", &table, 2, "");
    sink.start();
    let mut sql = world.sql().await;
    rows(&mut sql, &table, 1_000, MINUTE).await;
    let (status, _, errors) = sink.command(&["partitions", "new-stream"]).await;
    assert!(status.code() == Some(1) && errors.contains("nothing to do"), "it is the same stream: {errors}");

    world.jetstream.delete_stream(STREAM).await.expect("deleted");
    world.stream(STREAM, "numbers.>").await;
    world.publish((1_001..=3_000).map(|id| event(id, 2))).await;
    eventually("it says what is to be done", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("partitions new-stream")).then_some(())
    })
    .await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 1_000);
    let (status, _, errors) = sink.command(&["partitions", "new-stream"]).await;
    assert!(status.success(), "{errors}");
    rows(&mut sql, &table, 3_000, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, 3_000).await, Account { missing: 0, duplicates: 0 });
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'anew'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a stream that keeps 1,000 events, and a worker that was away while 5,000 came
/// WHEN it comes back
/// THEN it stops and says how many are missing; and with `on_gap = "continue"` it counts them once, though each partition
/// meets the gap, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_removed_unseen_is_a_gap() {
    let world = World::start().await;
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers.>".to_owned()],
        max_messages: 1_000,
        ..stream::Config::default()
    };
    world.jetstream.create_stream(config).await.expect("a stream");
    let table = table(&world, "gap").await;
    world.publish((1..=500).map(|id| event(id, 4))).await;
    let mut stopping = sink(&world, "gap", &table, 4, "");
    stopping.start();
    let mut sql = world.sql().await;
    rows(&mut sql, &table, 500, MINUTE).await;
    assert!(stopping.terminate(MINUTE).await.success());
    world.publish((501..=5_500).map(|id| event(id, 4))).await;

    stopping.start();
    eventually("it stops, and says how many", MINUTE, async || {
        let (status, body) = stopping.get("/readyz").await?;
        (status == 503 && body.contains("removed up to 400") && body.contains("on_gap")).then_some(())
    })
    .await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 500);
    assert!(stopping.terminate(MINUTE).await.success());

    let mut going_on = sink(&world, "gap", &table, 4, "on_gap = \"continue\"");
    going_on.start();
    rows(&mut sql, &table, 1_500, MINUTE).await;
    let removed = going_on.metric("nats_sql_sink_events_removed_unseen_total").await.expect("the metric");
    // a partition was read up to its last event, which is one of the last four, or up to where its consumer saw the stream end
    assert!((4_000.0..4_004.0).contains(&removed), "{removed}");
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id > 4500")).await, 1_000);
    assert!(going_on.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'gap'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN events that no partition would read, or a stream that forgets what is acknowledged
/// WHEN a worker starts
/// THEN it refuses, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_lose_events_is_refused() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "uncovered").await;
    world.publish((1..=10).map(|id| event(id, 5))).await;
    let mut sink = sink(&world, "uncovered", &table, 4, "");
    sink.start();
    eventually("it says how many nobody would read", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("2 events") && body.contains("none of the 4 partitions"))
            .then_some(())
    })
    .await;
    world.jetstream.delete_stream(STREAM).await.expect("deleted");
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..stream::Config::default()
    };
    world.jetstream.create_stream(config).await.expect("a stream");
    eventually("it says that the stream does not fit", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("limits retention")).then_some(())
    })
    .await;
    assert!(sink.terminate(MINUTE).await.success());
    world.sql().await.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN partitions without events, in a stream that goes on
/// WHEN some time passes
/// THEN their progress goes on too, so that what the stream removes is no gap for them.
#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_an_idle_partition_goes_on() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = table(&world, "idle").await;
    let mut sink = sink(&world, "idle", &table, 3, "");
    sink.start();
    sink.ready(MINUTE).await;
    // all of them in partition 0
    world.publish((1..=3_000).map(|id| event(3 * id, 3))).await;
    let mut sql = world.sql().await;
    let least = "SELECT MIN(stream_sequence) FROM nats_sql_sink.progress WHERE pipeline = N'idle'";
    let started = Instant::now();
    eventually("all are at the stream's end", MINUTE, async || {
        (sql.number(least).await == 3_000).then_some(())
    })
    .await;
    println!("after {:?}", started.elapsed());
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'idle'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a stream that keeps 2,000 events, and a worker that cannot hold more because its table is locked
/// WHEN more events come than are kept, and the table can be written again
/// THEN the pipeline stops, says that events are missing, and has passed none of them: what is in the table ends before.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_is_met_while_reading_is_not_passed() {
    const EVENTS: u64 = 12_000;
    let world = World::start().await;
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers.>".to_owned()],
        max_messages: 2_000,
        ..stream::Config::default()
    };
    world.jetstream.create_stream(config).await.expect("a stream");
    let table = table(&world, "gap_reading").await;
    world.write("numbers.toml", numbers::SCHEMA);
    let fields = format!(
        "stream = \"{STREAM}\"\nsubjects = [\"numbers.>\"]\nschema = \"numbers.toml\"\ntable = \"{table}\"\n\
         create_table = true\ndelivery = \"exactly_once\"\nlease = \"5s\"\nwriters = {{ min = 1, max = 1 }}\n\
         batch = {{ max_rows = 500, max_bytes = \"1MiB\", max_age = \"50ms\" }}"
    );
    let mut sink = world.config("gap_reading", "memory = \"16MiB\"", &fields);
    let large = |id: u64| {
        let payload = format!(r#"{{"id":{id},"name":"n","padding":"{}"}}"#, "x".repeat(8_000));
        ("numbers.0.n".to_owned(), None, payload.into_bytes())
    };
    sink.start();
    sink.ready(MINUTE).await;
    let mut sql = world.sql().await;
    let mut locking = world.sql().await;
    locking.execute("BEGIN TRANSACTION").await;
    locking.execute(&format!("ALTER TABLE {table} ADD locked int NULL")).await;
    world.publish((1..=EVENTS).map(large)).await;
    locking.execute("ROLLBACK TRANSACTION").await;
    eventually("it stops, and says that events are missing", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("removed up to")).then_some(())
    })
    .await;
    // it goes on trying, and passes nothing
    tokio::time::sleep(Duration::from_secs(5)).await;
    let last = sql.number(&format!("SELECT MAX(id) FROM {table}")).await;
    let rows = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
    let at = "SELECT stream_sequence FROM nats_sql_sink.progress WHERE pipeline = N'gap_reading'";
    println!("{rows} rows, the last is {last}, of {EVENTS}");
    assert_eq!((rows, sql.number(at).await), (last, last), "what is in the table ends before the gap");
    assert!(u64::try_from(last).unwrap() < EVENTS - 2_000);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'gap_reading'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
