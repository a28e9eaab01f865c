//! Writing by key: each key is one row, and it is the right one, whatever comes twice, late or at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use local_stack::sql_server::faults::{Effect, Fault, Faults, Moment, Occasion};
use local_stack::stack::LocalStackOptions;

use crate::numbers::{self, DURABLE, STREAM};
use crate::support::{Sink, Sql, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const UPSERT: &str = "write = \"upsert\"\nkey = [\"id\"]\nsequence_column = \"stream_sequence\"";
const INSERT_IF_ABSENT: &str = "write = \"insert_if_absent\"\nkey = [\"id\"]";
const GUARDED_INSERT_IF_ABSENT: &str =
    "write = \"insert_if_absent\"\nkey = [\"id\"]\nsequence_column = \"stream_sequence\"";
const SMALL_BATCHES: &str = "ack_wait = \"3s\"\nbatch = { max_rows = 1_000, max_age = \"100ms\" }";

type Published = (String, Option<HeaderMap>, Vec<u8>);
/// By key: name and position in the stream.
type Table = BTreeMap<i64, (String, i64)>;

fn event(subject: &str, id: u64, name: &str) -> Published {
    (format!("numbers.{subject}"), None, format!(r#"{{"id":{id},"name":"{name}"}}"#).into_bytes())
}

/// Version `n` of `count` keys in turn: the event at position `n` in the stream, from 1.
fn versions(count: u64, from: u64, to: u64) -> impl Iterator<Item = Published> {
    (from..=to).map(move |position| event("all", position % count, &format!("v{position}")))
}

/// What [`versions`] leaves behind, of `count` keys and `events` events.
fn reference(mode: &str, count: u64, events: u64) -> Table {
    let mut table = Table::new();
    for position in 1..=events {
        let (key, position) = (i64::try_from(position % count).unwrap(), i64::try_from(position).unwrap());
        if mode == UPSERT || !table.contains_key(&key) {
            table.insert(key, (format!("v{position}"), position));
        }
    }
    table
}

async fn table(sql: &mut Sql, table: &str) -> Table {
    let rows = sql.rows(&format!("SELECT id, name, stream_sequence FROM {table}")).await;
    let found: Table = rows
        .iter()
        .map(|row| (row.get(0).unwrap(), (row.get::<&str, _>(1).unwrap().to_owned(), row.get(2).unwrap())))
        .collect();
    assert_eq!(found.len(), rows.len(), "a key is there twice");
    found
}

/// The table is what [`versions`] leaves behind. Without a guard the first that was committed stays, which need not be the
/// first in the stream: several pulls and writers are under way at once.
fn holds(found: &Table, mode: &str, count: u64, events: u64) {
    let reference = reference(mode, count, events);
    if mode != INSERT_IF_ABSENT {
        assert_eq!(found, &reference, "{mode}");
        return;
    }
    assert!(found.keys().eq(reference.keys()), "{mode}: other keys");
    let count = i64::try_from(count).unwrap();
    for (key, (name, position)) in found {
        assert_eq!((name, position % count), (&format!("v{position}"), *key), "{mode}: a row of two events");
    }
}

/// A sink of some subjects of the stream, with a consumer of its own.
fn sink_of(world: &World, subject: &str, table: &str, pipeline: &str) -> Sink {
    world.write("numbers.toml", numbers::SCHEMA);
    let pipeline = format!(
        "stream = \"{STREAM}\"\ndurable = \"{DURABLE}-{subject}\"\nsubjects = [\"numbers.{subject}\"]\n\
         schema = \"numbers.toml\"\ntable = \"{table}\"\ncreate_table = true\n{pipeline}"
    );
    world.config(subject, "", &pipeline)
}

/// GIVEN events of which each is published twice, with several versions of a key in one batch
/// WHEN they are written by key, and then once more by another consumer, which repeats all of them
/// THEN each key is one row, from its last event or from its first, and the repeats changed nothing.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_repeated_event_changes_nothing() {
    const KEYS: u64 = 50;
    const EVENTS: u64 = 2_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.publish(versions(KEYS, 1, EVENTS)).await;
    let mut sql = world.sql().await;
    for mode in [UPSERT, INSERT_IF_ABSENT, GUARDED_INSERT_IF_ABSENT] {
        let name = world.table("repeated");
        let mut before = None;
        for _ in 0..2 {
            let mut sink = sink_of(&world, "all", &name, &format!("{mode}\nbatch = {{ max_rows = 300 }}"));
            sink.start();
            world.settled(STREAM, &format!("{DURABLE}-all"), MINUTE).await;
            let found = table(&mut sql, &name).await;
            holds(&found, mode, KEYS, EVENTS);
            assert_eq!(before.get_or_insert(found.clone()), &found, "the repeats changed something: {mode}");
            let kept = sink.metric("nats_sql_sink_keyed_rows_total").await.expect("the metric");
            assert!((kept - 2_000.0).abs() < 0.5, "{kept} rows are counted");
            assert!(sink.terminate(MINUTE).await.success());
            // all of them are delivered again, to a consumer that knows of none
            let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
            stream.delete_consumer(&format!("{DURABLE}-all")).await.expect("the consumer is deleted");
        }
        sql.execute(&format!("DROP TABLE {name}")).await;
    }
}

/// GIVEN a key whose newer event was written first
/// WHEN the older one comes, in a later batch
/// THEN upsert keeps the newer; insert_if_absent keeps the first that was committed, and with a sequence column the older.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_an_older_event_may_come_late() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.publish([event("late", 1, "old"), event("late", 2, "only"), event("early", 1, "new")]).await;
    let mut sql = world.sql().await;
    for (mode, name_kept, sequence) in
        [(UPSERT, "new", 3), (INSERT_IF_ABSENT, "new", 3), (GUARDED_INSERT_IF_ABSENT, "old", 1)]
    {
        let name = world.table("late");
        for subject in ["early", "late"] {
            let mut sink = sink_of(&world, subject, &name, mode);
            sink.start();
            world.settled(STREAM, &format!("{DURABLE}-{subject}"), MINUTE).await;
            assert!(sink.terminate(MINUTE).await.success());
            let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
            stream.delete_consumer(&format!("{DURABLE}-{subject}")).await.expect("deleted");
        }
        let expected = Table::from([(1, (name_kept.to_owned(), sequence)), (2, ("only".to_owned(), 2))]);
        assert_eq!(table(&mut sql, &name).await, expected, "{mode}");
        sql.execute(&format!("DROP TABLE {name}")).await;
    }
}

/// GIVEN a row whose guard is null, as from before there was one
/// WHEN an event of its key comes
/// THEN upsert takes the row for older, and so does insert_if_absent, which keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_row_without_a_position_is_older() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.publish([event("all", 1, "event")]).await;
    let mut sql = world.sql().await;
    for (mode, kept) in [(UPSERT, "event"), (GUARDED_INSERT_IF_ABSENT, "before")] {
        let name = world.table("unguarded");
        sql.execute(&format!(
            "CREATE TABLE {name} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NULL, other int NULL); \
             CREATE UNIQUE INDEX by_id ON {name} (id); INSERT INTO {name} (id, name, other) VALUES (1, N'before', 7)"
        ))
        .await;
        let mut sink = sink_of(&world, "all", &name, mode);
        sink.start();
        world.settled(STREAM, &format!("{DURABLE}-all"), MINUTE).await;
        let rows = sql.rows(&format!("SELECT name, other FROM {name}")).await;
        let found: Vec<_> = rows.iter().map(|row| (row.get::<&str, _>(0), row.get::<i32, _>(1))).collect();
        assert_eq!(found, [(Some(kept), Some(7))], "{mode}");
        assert!(sink.terminate(MINUTE).await.success());
        let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
        stream.delete_consumer(&format!("{DURABLE}-all")).await.expect("deleted");
        sql.execute(&format!("DROP TABLE {name}")).await;
    }
}

const TEXT_KEY: &str = r#"
format = "json"
[[column]]
name = "region"
type = "nvarchar(10)"
nullable = false
[[column]]
name = "code"
type = "varchar(10)"
nullable = false
[[column]]
name = "value"
type = "int"
[[column]]
name = "position"
type = "bigint"
from = "stream_sequence"
nullable = false
"#;

/// GIVEN keys of two texts that differ in case and in trailing blanks
/// WHEN they are written by key into a table whose collation ignores case, and into one whose collation does not
/// THEN rows are one exactly where the table's own collation takes their keys for equal.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_keys_are_equal_where_the_table_says_so() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.write("text.toml", TEXT_KEY);
    // the last two are one key under both: blanks at the end never count
    let keys =
        [("EU", "a"), ("eu ", "A"), ("Eu", "a  "), ("EU", "b"), ("eu", "a"), ("us", "a"), ("us ", "a ")];
    let events = keys.iter().enumerate().map(|(value, (region, code))| {
        let payload = format!(r#"{{"region":"{region}","code":"{code}","value":{value}}}"#);
        ("numbers.text".to_owned(), None, payload.into_bytes())
    });
    world.publish(events).await;
    let mut sql = world.sql().await;
    let (ignoring, exact) = (world.table("ignores_case"), world.table("exact"));
    let text = "COLLATE Latin1_General_100_BIN2 NOT NULL";
    sql.execute(&format!(
        "CREATE TABLE {exact} (value int NULL, code varchar(10) {text}, region nvarchar(10) {text}, position bigint NOT NULL, \
         CONSTRAINT pk_{} PRIMARY KEY (code, region))",
        exact.trim_start_matches("dbo.")
    ))
    .await;
    // one worker for both: their batches share the sessions
    let pipeline = |name: &str, table: &str, batch: &str| {
        format!(
            "stream = \"{STREAM}\"\ndurable = \"{name}\"\nsubjects = [\"numbers.text\"]\nschema = \"text.toml\"\n\
             table = \"{table}\"\ncreate_table = true\nwrite = \"upsert\"\nkey = [\"region\", \"code\"]\n\
             sequence_column = \"position\"\n{batch}"
        )
    };
    let second = format!(
        "{}\n[[pipeline]]\nname = \"exact\"\ndead_letter = {{ stream = \"DEAD_LETTERS\", subject = \"dead.exact\" }}\n{}",
        pipeline("ignoring", &ignoring, "batch = { max_rows = 2 }"),
        pipeline("exact", &exact, "")
    );
    let mut sink = world.config("ignoring", "", &second);
    sink.start();
    for durable in ["ignoring", "exact"] {
        world.settled(STREAM, durable, MINUTE).await;
    }
    for (table, expected) in [(&ignoring, vec![3, 4, 6]), (&exact, vec![0, 1, 2, 3, 4, 6])] {
        let rows = sql.rows(&format!("SELECT value FROM {table} ORDER BY value")).await;
        let values: Vec<i32> = rows.iter().map(|row| row.get(0).unwrap()).collect();
        assert_eq!(values, expected, "{table}");
        sql.execute(&format!("DROP TABLE {table}")).await;
    }
    assert_eq!(world.dead_letters().await.len(), 0);
    assert!(sink.terminate(MINUTE).await.success());
}

/// GIVEN versions of keys under load
/// WHEN the worker is killed three times, each time while it writes
/// THEN the table holds exactly what the stream says, row for row.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_keyed_three_kills_leave_no_trace() {
    const KEYS: u64 = 30_000;
    const EVENTS: u64 = 200_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.publish(versions(KEYS, 1, EVENTS)).await;
    let mut sql = world.sql().await;
    for mode in [UPSERT, GUARDED_INSERT_IF_ABSENT] {
        let name = world.table("killed");
        let batch =
            "ack_wait = \"3s\"\nbatch = { max_rows = 5_000, max_age = \"100ms\" }\nwriters = { max = 2 }";
        let mut sink = sink_of(&world, "all", &name, &format!("{mode}\n{batch}"));
        for _ in 0..3 {
            sink.start();
            eventually("rows are being written", MINUTE, async || {
                let busy = sink.metric("nats_sql_sink_writers_busy").await?;
                let committed = sink.metric("nats_sql_sink_events_committed_total").await?;
                (busy >= 1.0 && committed >= 15_000.0).then_some(())
            })
            .await;
            sink.kill().await;
        }
        sink.start();
        world.settled(STREAM, &format!("{DURABLE}-all"), 3 * MINUTE).await;
        assert!(
            table(&mut sql, &name).await == reference(mode, KEYS, EVENTS),
            "{mode}: other rows than in the stream"
        );
        assert!(sink.terminate(MINUTE).await.success());
        let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
        stream.delete_consumer(&format!("{DURABLE}-all")).await.expect("deleted");
        sql.execute(&format!("DROP TABLE {name}")).await;
    }
}

/// GIVEN two workers, and few keys of which every batch holds all
/// WHEN both write them at once
/// THEN each key is one row with its last event's values, and no error stopped anybody.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_two_workers_write_the_same_keys() {
    const KEYS: u64 = 500;
    const EVENTS: u64 = 40_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let name = world.table("overlap");
    let mut one = sink_of(&world, "all", &name, &format!("{UPSERT}\n{SMALL_BATCHES}"));
    let mut other = one.another();
    one.start();
    other.start();
    one.ready(MINUTE).await;
    other.ready(MINUTE).await;
    world.publish(versions(KEYS, 1, EVENTS)).await;
    world.settled(STREAM, &format!("{DURABLE}-all"), 2 * MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(table(&mut sql, &name).await, reference(UPSERT, KEYS, EVENTS));
    for sink in [&mut one, &mut other] {
        assert!(sink.metric("nats_sql_sink_events_committed_total").await.expect("a count") > 0.0);
        assert!(sink.terminate(MINUTE).await.success());
    }
    sql.execute(&format!("DROP TABLE {name}")).await;
}

/// GIVEN a database that loses connections before, during and after what it does, and answers a commit with nothing
/// WHEN rows are written by key
/// THEN there are neither duplicates nor values of an older event, and the outcome of some commits was unknown.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_an_unknown_outcome_is_no_duplicate() {
    const KEYS: u64 = 700;
    const EVENTS: u64 = 12_000;
    let faults = Faults::default();
    let world =
        World::start_from(LocalStackOptions { faults: faults.clone(), ..LocalStackOptions::default() }).await;
    world.stream(STREAM, "numbers.>").await;
    world.publish(versions(KEYS, 1, EVENTS)).await;
    let mut sql = world.sql().await;
    for mode in [UPSERT, INSERT_IF_ABSENT] {
        let name = world.table("unknown");
        let mut sink = sink_of(&world, "all", &name, &format!("{mode}\n{SMALL_BATCHES}"));
        let after = faults
            .script(Fault::new(Occasion::Commit, Effect::Disconnect(Moment::After)).every(3).at_most(3));
        let before = faults
            .script(Fault::new(Occasion::Commit, Effect::Disconnect(Moment::Before)).every(4).at_most(2));
        let during = faults
            .script(Fault::new(Occasion::BulkLoad, Effect::Disconnect(Moment::During)).every(5).at_most(2));
        let failed = faults.script(Fault::new(Occasion::Commit, Effect::FailAfterWrite(40197.into())).nth(5));
        // as if somebody else had inserted a key in between
        let duplicate = faults.script(Fault::new(Occasion::BulkLoad, Effect::Reject(2627.into())).nth(2));
        let scripted = [after, before, during, failed, duplicate].map(|fault| fault.expect("a fault"));
        sink.start();
        world.settled(STREAM, &format!("{DURABLE}-all"), 2 * MINUTE).await;
        for fault in &scripted {
            assert!(fault.strikes() > 0, "a fault did not strike");
        }
        assert!(sink.metric("nats_sql_sink_outcomes_unknown_total").await.expect("a count") >= 3.0);
        let (_, metrics) = sink.get("/metrics").await.expect("an answer");
        assert!(
            metrics.contains("number=\"2627\",disposition=\"retry\""),
            "a duplicate key was not tried again"
        );
        assert_eq!(world.dead_letters().await.len(), 0);
        holds(&table(&mut sql, &name).await, mode, KEYS, EVENTS);
        faults.clear();
        assert!(sink.terminate(MINUTE).await.success());
        let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
        stream.delete_consumer(&format!("{DURABLE}-all")).await.expect("deleted");
        sql.execute(&format!("DROP TABLE {name}")).await;
    }
}

/// GIVEN a table with a CHECK constraint
/// WHEN batches hold rows that break it, as a key's new row and as another version of one that is there
/// THEN those are dead-lettered with the server's number, and all others are written by key.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_bad_row_is_dead_lettered_and_the_others_are_written() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let name = world.table("bad");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {name} (id bigint NOT NULL PRIMARY KEY, name nvarchar(40) NULL, stream_sequence bigint NOT NULL, \
         CHECK (name <> N'bad')); INSERT INTO {name} VALUES (1, N'before', 0)"
    ))
    .await;
    let good = (10..400).map(|id| event("all", id, "good"));
    let others =
        [event("all", 1, "bad"), event("all", 2, "bad"), event("all", 3, "good"), event("all", 3, "better")];
    world.publish(good.chain(others)).await;
    let mut sink = sink_of(&world, "all", &name, UPSERT);
    sink.start();
    world.settled(STREAM, &format!("{DURABLE}-all"), MINUTE).await;

    let mut refused = BTreeSet::new();
    for letter in world.dead_letters().await {
        let headers = letter.headers.as_ref().expect("a dead letter has headers");
        assert_eq!(headers.get("Dead-Letter-Error-Number").expect("a number").as_str(), "547");
        assert_eq!(headers.get("Dead-Letter-Phase").expect("a phase").as_str(), "load");
        refused.insert(headers.get("Dead-Letter-Sequence").expect("a sequence").as_str().to_owned());
    }
    assert_eq!(refused, BTreeSet::from(["391".to_owned(), "392".to_owned()]));
    let found = table(&mut sql, &name).await;
    assert_eq!(found.len(), 392);
    assert_eq!((&found[&1].0[..], &found[&3].0[..], &found[&399].0[..]), ("before", "better", "good"));
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {name}")).await;
}

/// GIVEN tables that cannot be written by key
/// WHEN a worker is to do it
/// THEN it is not ready, says what is missing, in words that can be run, and goes on by itself when that is done.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_table_without_its_index_is_refused() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    world.publish(versions(10, 1, 100)).await;
    let name = world.table("refused");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {name} (id bigint NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sql.execute(&format!("CREATE UNIQUE INDEX by_name ON {name} (name)")).await;
    let mut sink = sink_of(&world, "all", &name, UPSERT);
    sink.start();
    let refusal = async |expected: &[&str]| {
        eventually(&format!("not ready because of {expected:?}"), MINUTE, async || {
            let (status, body) = sink.get("/readyz").await?;
            (status == 503 && expected.iter().all(|text| body.contains(text))).then_some(body)
        })
        .await
    };
    let table_text = format!("[dbo].[{}]", name.trim_start_matches("dbo."));
    let create = format!("CREATE UNIQUE INDEX [nats_sql_sink_key] ON {table_text} ([id])");
    refusal(&[
        "takes nulls in the table",
        "by_name",
        "is not on the key",
        "no unique index on exactly the key",
    ])
    .await;
    sql.execute(&format!("DROP INDEX by_name ON {name}")).await;
    sql.execute(&format!("ALTER TABLE {name} ALTER COLUMN id bigint NOT NULL")).await;
    sql.execute(&create).await;
    sink.ready(MINUTE).await;
    world.settled(STREAM, &format!("{DURABLE}-all"), MINUTE).await;
    assert_eq!(table(&mut sql, &name).await, reference(UPSERT, 10, 100));
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {name}")).await;
}

/// GIVEN somebody who holds the table's turn for longer than a merge waits for it
/// WHEN rows are to be written by key
/// THEN the merge gives up with an error of its own and is tried again, and all is written when the turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_merge_waits_for_its_turn() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let name = world.table("turn");
    let mut sink = sink_of(&world, "all", &name, UPSERT);
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    std::fs::write(&sink.config, text.replace("auth = {", "commit_timeout = \"1s\"\nauth = {"))
        .expect("a configuration");
    sink.start();
    sink.ready(MINUTE).await;
    let mut holder = world.sql().await;
    holder
        .execute(&format!(
            "BEGIN TRANSACTION; DECLARE @lock int; \
             DECLARE @resource nvarchar(255) = CONCAT(N'nats_sql_sink.merge.', OBJECT_ID(N'{name}')); \
             EXEC @lock = sp_getapplock @Resource = @resource, @LockMode = N'Exclusive'; \
             IF @lock < 0 THROW 50000, N'not the first', 1"
        ))
        .await;
    world.publish(versions(10, 1, 100)).await;
    eventually("the merge gives up waiting", MINUTE, async || {
        let (_, text) = sink.get("/metrics").await?;
        text.contains("number=\"51318\",disposition=\"retry\"").then_some(())
    })
    .await;
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {name}")).await, 0);
    holder.execute("ROLLBACK TRANSACTION").await;
    world.settled(STREAM, &format!("{DURABLE}-all"), MINUTE).await;
    assert_eq!(table(&mut sql, &name).await, reference(UPSERT, 10, 100));
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {name}")).await;
}
