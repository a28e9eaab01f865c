use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Sink, World, eventually};

const EVENTS: u64 = 200_000;
const MINUTE: Duration = Duration::from_secs(60);
const STREAM: &str = "READINGS";
const DURABLE: &str = "sink-readings";

const SCHEMA: &str = r#"
format = "json"
[[column]]
name = "id"
type = "int"
nullable = false
[[column]]
name = "name"
type = "nvarchar(10)"
[[column]]
name = "level"
type = "tinyint"
[[column]]
name = "price"
type = "decimal(9,2)"
[[column]]
name = "at"
type = "datetime2(3)"
[[column]]
name = "stream_sequence"
type = "bigint"
from = "stream_sequence"
nullable = false
"#;

/// A secret-looking value that every malformed event carries: no reason may repeat it.
const CANARY: &str = "canary-4711";

fn sink(world: &World, table: &str) -> Sink {
    sink_with(world, table, "")
}

/// A sink with further fields of its pipeline.
fn sink_with(world: &World, table: &str, pipeline: &str) -> Sink {
    world.write("readings.toml", SCHEMA);
    world.config(
        "readings",
        "",
        &format!(
            "stream = \"{STREAM}\"\ndurable = \"{DURABLE}\"\nsubjects = [\"readings.>\"]\nschema = \"readings.toml\"\n\
             table = \"{table}\"\ncreate_table = true\n{pipeline}"
        ),
    )
}

/// The kinds of malformed events, each with the reason that it is to be rejected for.
fn malformed(id: u64) -> Vec<(&'static str, Vec<u8>)> {
    let with = |fields: &str| format!(r#"{{"id":{id},"note":"{CANARY}",{fields}}}"#).into_bytes();
    let mut not_utf8 = with(r#""name":"?""#);
    let position = not_utf8.iter().position(|byte| *byte == b'?').expect("a question mark");
    not_utf8[position] = 0xff;
    vec![
        ("not_json", format!("{{\"id\":{id},\"note\":\"{CANARY}\"").into_bytes()),
        ("wrong_type", with(r#""name":17"#)),
        ("missing_required", format!(r#"{{"note":"{CANARY}","name":"a"}}"#).into_bytes()),
        ("too_long", with(&format!(r#""name":"{CANARY}""#))),
        ("out_of_range", with(r#""level":256"#)),
        ("out_of_range", with(r#""price":"12345678.00""#)),
        ("excess_digits", with(r#""price":"1.005""#)),
        ("bad_timestamp", with(&format!(r#""at":"{CANARY}""#))),
        ("bad_utf8", not_utf8),
        ("too_deep", with(&format!(r#""deep":{}{}"#, "[".repeat(100), "]".repeat(100)))),
        ("empty_payload", Vec::new()),
        ("not_an_object", format!("[\"{CANARY}\"]").into_bytes()),
        ("trailing_data", format!("{{\"id\":{id}}} {CANARY}").into_bytes()),
    ]
}

/// GIVEN 200,000 events of which 1% are malformed, in a dozen ways
/// WHEN the sink has settled all of them
/// THEN the dead-letter stream holds exactly those, whole and with the reason, and the table exactly the others.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_bad_events_are_set_aside_and_the_others_are_written() {
    let world = World::start().await;
    let table = world.table("readings");
    world.stream(STREAM, "readings.>").await;
    let mut sink = sink(&world, &table);
    sink.start();

    let mut expected: BTreeMap<u64, (&'static str, Vec<u8>)> = BTreeMap::new();
    let mut events = Vec::new();
    for sequence in 1..=EVENTS {
        let payload = if sequence % 100 == 0 {
            let kinds = malformed(sequence);
            let (reason, payload) =
                kinds[usize::try_from(sequence / 100).expect("small") % kinds.len()].clone();
            expected.insert(sequence, (reason, payload.clone()));
            payload
        } else {
            format!(
                r#"{{"id":{sequence},"name":"n{}","level":{},"price":"{}.25","at":"2026-01-02T03:04:05.678Z"}}"#,
                sequence % 1000,
                sequence % 256,
                sequence % 10_000
            )
            .into_bytes()
        };
        let mut headers = HeaderMap::new();
        headers.insert("Trace", format!("trace-{sequence}"));
        headers.insert("Nats-Expected-Stream", STREAM);
        events.push((format!("readings.site{}", sequence % 7), Some(headers), payload));
    }
    world.publish(events).await;
    world.settled(STREAM, DURABLE, 3 * MINUTE).await;

    let letters = world.dead_letters().await;
    let mut kinds = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for letter in &letters {
        let headers = letter.headers.as_ref().expect("a dead letter has headers");
        let header = |name: &str| headers.get(name).unwrap_or_else(|| panic!("no {name}")).as_str();
        let sequence: u64 = header("Dead-Letter-Sequence").parse().expect("a sequence");
        let (reason, payload) = &expected[&sequence];
        assert_eq!(
            header("Dead-Letter-Reason"),
            *reason,
            "event {sequence}: {}",
            header("Dead-Letter-Detail")
        );
        assert_eq!(letter.payload.as_ref(), payload.as_slice());
        assert_eq!(header("Dead-Letter-Pipeline"), "readings");
        assert_eq!(header("Dead-Letter-Stream"), STREAM);
        assert_eq!(header("Dead-Letter-Subject"), format!("readings.site{}", sequence % 7));
        assert_eq!(header("Dead-Letter-Deliveries"), "1");
        assert_eq!(header("Orig-Trace"), format!("trace-{sequence}"));
        // A header that would act in the dead-letter stream is kept, and does not act.
        assert_eq!(header("Orig-Nats-Expected-Stream"), STREAM);
        assert!(!header("Dead-Letter-Detail").contains(CANARY), "{}", header("Dead-Letter-Detail"));
        kinds.insert(*reason);
        assert!(seen.insert(sequence), "event {sequence} is there twice");
    }
    assert_eq!(seen, expected.keys().copied().collect());
    println!("{} dead letters of {} kinds: {kinds:?}", letters.len(), kinds.len());
    assert!(kinds.len() >= 8);

    let mut sql = world.sql().await;
    let good = EVENTS - EVENTS / 100;
    let count = |sql: i64| u64::try_from(sql).expect("a count");
    assert_eq!(count(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await), good);
    assert_eq!(count(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await), good);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id % 100 = 0")).await, 0);
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id <> stream_sequence")).await, 0);
    assert!(!sink.log().contains(CANARY), "a value of an event is in the log");
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN payloads that nobody should publish: of 1 MB, nested a million levels deep, without any byte
/// WHEN the sink meets them
/// THEN each is dead-lettered, what does not fit a message beside its headers is cut and says so, and the good event
/// behind them is written.
#[tokio::test(flavor = "multi_thread")]
async fn odd_payloads_are_dead_lettered() {
    let world = World::start().await;
    let table = world.table("odd");
    world.stream(STREAM, "readings.>").await;
    let mut sink = sink(&world, &table);
    let max_payload = world.jetstream.client().max_payload();
    let payloads = [
        vec![b'x'; max_payload],
        "[".repeat(500_000).into_bytes(),
        Vec::new(),
        vec![0xff, 0xfe, 0x00],
        b"{\"id\":\"\\ud800\"}".to_vec(),
        br#"{"id":1}"#.to_vec(),
    ];
    let lengths: Vec<usize> = payloads.iter().map(Vec::len).collect();
    world.publish(payloads.map(|payload| ("readings.odd".to_owned(), None, payload))).await;
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;

    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 5, "{}", sink.log());
    for letter in &letters {
        let headers = letter.headers.as_ref().expect("headers");
        let sequence: usize =
            headers.get("Dead-Letter-Sequence").expect("it").as_str().parse().expect("a number");
        let whole = lengths[sequence - 1];
        match headers.get("Dead-Letter-Truncated") {
            Some(_) => {
                assert_eq!(sequence, 1);
                assert_eq!(headers.get("Dead-Letter-Payload-Bytes").expect("it").as_str(), whole.to_string());
                assert_eq!(headers.get("Dead-Letter-Payload-Sha256").expect("it").as_str().len(), 64);
                assert!(letter.payload.len() < whole && letter.payload.len() > whole - 4096);
            }
            None => assert_eq!(letter.payload.len(), whole),
        }
    }
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 1);
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN an event whose headers the NATS client takes for a broken connection, between good ones
/// WHEN the sink meets it
/// THEN it is dead-lettered with its headers as they stand, and nothing is kept from passing it.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_cannot_be_read_do_not_stop_what_is_behind_them() {
    const HEADERS: &[u8] = b"NATS/1.0\r\nWho: \xe9t\xe9\r\n\r\n";
    const PAYLOAD: &[u8] = br#"{"id":101}"#;
    let world = World::start().await;
    let table = world.table("headers");
    world.stream(STREAM, "readings.>").await;
    let good = |id: u64| ("readings.good".to_owned(), None, format!(r#"{{"id":{id}}}"#).into_bytes());
    world.publish((1..=100).map(good)).await;
    world.publish_raw("readings.bad", HEADERS, PAYLOAD, STREAM, 101).await;
    world.publish((102..=300).map(good)).await;
    let mut sink = sink_with(&world, &table, "ack_wait = \"2s\"");
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;

    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1, "{}", sink.log());
    let headers = letters[0].headers.as_ref().expect("headers");
    let header = |name: &str| headers.get(name).unwrap_or_else(|| panic!("no {name}")).as_str();
    assert_eq!((header("Dead-Letter-Sequence"), header("Dead-Letter-Subject")), ("101", "readings.bad"));
    assert_eq!(header("Dead-Letter-Reason"), "unreadable_headers");
    assert_eq!(STANDARD.decode(header("Dead-Letter-Headers-Base64")).expect("base64"), HEADERS);
    assert_eq!(letters[0].payload.as_ref(), PAYLOAD);
    let mut sql = world.sql().await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await, 299);
    sink.ready(MINUTE).await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a dead-letter stream with the shortest duplicate window, and events that are dead-lettered
/// WHEN they are delivered and dead-lettered once more after the window, as after a worker that died before it acknowledged
/// THEN each has one letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_kept_once_also_beyond_the_duplicate_window() {
    const BAD: u64 = 20;
    let world = World::start().await;
    let table = world.table("window");
    world.stream(STREAM, "readings.>").await;
    let config = stream::Config {
        name: "DEAD_LETTERS".to_owned(),
        subjects: vec!["dead.>".to_owned()],
        duplicate_window: Duration::from_millis(100),
        ..stream::Config::default()
    };
    world.jetstream.update_stream(config).await.expect("the window is shortened");
    let bad = |id: u64| ("readings.bad".to_owned(), None, format!("{{\"id\":{id}").into_bytes());
    world.publish((1..=BAD).map(bad)).await;
    let mut sink = sink(&world, &table);
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert_eq!(world.dead_letters().await.len() as u64, BAD);

    // A worker that is gone and a consumer that begins again: everything is dead-lettered a second time.
    sink.kill().await;
    let source = world.jetstream.get_stream(STREAM).await.expect("the stream");
    source.delete_consumer(DURABLE).await.expect("the consumer is deleted");
    sink.start();
    eventually("all are dead-lettered again", MINUTE, async || {
        let count = sink.metric("nats_sql_sink_events_dead_lettered_total").await?;
        (count >= 20.0).then_some(())
    })
    .await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    let letters = world.dead_letters().await;
    assert_eq!(letters.len() as u64, BAD, "{}", sink.log());
    let subject = letters[0].subject.as_str();
    assert!(subject.starts_with(&format!("dead.readings.readings.{STREAM}.")), "{subject}");
    world.sql().await.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN two pipelines that read one stream, and share a dead-letter stream and even the beginning of its subjects
/// WHEN both dead-letter the same event
/// THEN both letters are there.
#[tokio::test(flavor = "multi_thread")]
async fn pipelines_that_share_a_subject_keep_their_letters_apart() {
    let world = World::start().await;
    world.stream(STREAM, "readings.>").await;
    world.write("readings.toml", SCHEMA);
    world.publish([("readings.bad".to_owned(), None, b"{".to_vec())]).await;
    let mut tables = Vec::new();
    let mut sinks = Vec::new();
    for name in ["one", "other"] {
        let table = world.table(name);
        let mut sink = world.config(
            name,
            "",
            &format!(
                "stream = \"{STREAM}\"\ndurable = \"{name}\"\nsubjects = [\"readings.>\"]\nschema = \"readings.toml\"\n\
                 table = \"{table}\"\ncreate_table = true"
            ),
        );
        let text = std::fs::read_to_string(&sink.config).expect("the configuration");
        let text = text.replace(&format!("dead.{name}"), "dead.shared");
        std::fs::write(&sink.config, text).expect("the configuration");
        sink.start();
        world.settled(STREAM, name, MINUTE).await;
        sinks.push(sink);
        tables.push(table);
    }
    let pipelines: BTreeSet<String> = world
        .dead_letters()
        .await
        .iter()
        .filter_map(|letter| Some(letter.headers.as_ref()?.get("Dead-Letter-Pipeline")?.to_string()))
        .collect();
    assert_eq!(pipelines, BTreeSet::from(["one".to_owned(), "other".to_owned()]));
    let mut sql = world.sql().await;
    for table in tables {
        sql.execute(&format!("DROP TABLE {table}")).await;
    }
}

/// GIVEN an event with as many headers as the server takes
/// WHEN it is dead-lettered, which adds to every header
/// THEN its letter has fewer headers, and says how many are missing and how long the payload was.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_mostly_headers_is_dead_lettered() {
    const PAYLOAD: usize = 1_000;
    const MAX_HEADERS: usize = 65_535;
    let world = World::start().await;
    let table = world.table("headers");
    world.stream(STREAM, "readings.>").await;
    let mut headers = HeaderMap::new();
    let mut left = MAX_HEADERS - "NATS/1.0\r\n\r\n".len();
    for number in 0.. {
        let name = format!("H{number}");
        let line = name.len() + 4;
        if left < 2 * line {
            break;
        }
        let value = "v".repeat((left - line).min(100));
        left -= line + value.len();
        headers.insert(name.as_str(), value);
    }
    let count = headers.len();
    world.publish([("readings.wide".to_owned(), Some(headers), vec![b'x'; PAYLOAD])]).await;
    let mut sink = sink(&world, &table);
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    let letters = world.dead_letters().await;
    assert_eq!(letters.len(), 1, "{}", sink.log());
    let headers = letters[0].headers.as_ref().expect("headers");
    let number =
        |name: &str| headers.get(name).map(|value| value.as_str().parse::<usize>().expect("a number"));
    let left_out = number("Dead-Letter-Headers-Left-Out").expect("some are left out");
    let kept = headers.iter().filter(|(name, _)| name.to_string().starts_with("Orig-")).count();
    println!("{kept} of {count} headers are kept");
    assert_eq!(kept + left_out, count);
    assert!(left_out > 0 && left_out < count / 5);
    assert_eq!(number("Dead-Letter-Payload-Bytes").unwrap_or(letters[0].payload.len()), PAYLOAD);
    world.sql().await.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a dead-letter stream that does not take the subjects, or would lose what it confirms
/// WHEN the sink starts
/// THEN it is not ready, and says what to change; and starts by itself when that is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_stream_that_would_lose_letters_is_refused() {
    let world = World::start().await;
    let table = world.table("refused");
    world.stream(STREAM, "readings.>").await;
    let config = |subjects: &str, retention| stream::Config {
        name: "DEAD_LETTERS".to_owned(),
        subjects: vec![subjects.to_owned()],
        retention,
        ..stream::Config::default()
    };
    let mut sink = sink(&world, &table);
    for (subjects, retention, expected) in [
        ("dead.readings", stream::RetentionPolicy::Limits, "dead.readings.>"),
        ("dead.>", stream::RetentionPolicy::Interest, "has no consumer"),
    ] {
        world.jetstream.delete_stream("DEAD_LETTERS").await.expect("it is deleted");
        world.jetstream.create_stream(config(subjects, retention)).await.expect("a stream");
        sink.start();
        eventually(expected, MINUTE, async || {
            let (status, body) = sink.get("/readyz").await?;
            (status == 503 && body.contains(expected)).then_some(())
        })
        .await;
        sink.kill().await;
    }
    sink.start();
    world.jetstream.delete_stream("DEAD_LETTERS").await.expect("it is deleted");
    world.stream("DEAD_LETTERS", "dead.>").await;
    sink.ready(MINUTE).await;
    world.sql().await.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN two pipelines of one worker, one of which has a dead-letter stream that is missing, or goes away later
/// WHEN events come, bad ones among them
/// THEN that pipeline stops and says so, the other one goes on; and when the stream is there both have written all, and no letter
/// is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dead_letter_stream_stops_its_pipeline_alone() {
    let world = World::start().await;
    world.stream(STREAM, "readings.>").await;
    let tables = [world.table("well"), world.table("ill")];
    let mut sink = sink(&world, &tables[0]);
    let ill = format!(
        "\n[[pipeline]]\nname = \"ill\"\nstream = \"{STREAM}\"\ndurable = \"ill\"\nsubjects = [\"readings.>\"]\n\
         schema = \"readings.toml\"\ntable = \"{}\"\ncreate_table = true\n\
         dead_letter = {{ stream = \"LETTERS_OF_ILL\", subject = \"ill\" }}\n",
        tables[1]
    );
    let text = std::fs::read_to_string(&sink.config).expect("the configuration") + &ill;
    std::fs::write(&sink.config, text).expect("the configuration");
    let events = |ids: std::ops::RangeInclusive<u64>| {
        ids.map(|id| match id % 10 {
            0 => ("readings.bad".to_owned(), None, b"{".to_vec()),
            _ => ("readings.good".to_owned(), None, format!(r#"{{"id":{id}}}"#).into_bytes()),
        })
    };
    let stopped = async |sink: &Sink| {
        eventually("the stream is missed", MINUTE, async || {
            let (status, body) = sink.get("/readyz").await?;
            let says_so = body.contains("LETTERS_OF_ILL") && body.contains("does not exist");
            (status == 503 && says_so).then_some(())
        })
        .await;
    };
    world.publish(events(1..=100)).await;
    sink.start();
    world.settled(STREAM, DURABLE, MINUTE).await;
    stopped(&sink).await;
    world.stream("LETTERS_OF_ILL", "ill.>").await;
    world.settled(STREAM, "ill", MINUTE).await;
    sink.ready(MINUTE).await;

    world.jetstream.delete_stream("LETTERS_OF_ILL").await.expect("it is deleted");
    world.publish(events(101..=200)).await;
    stopped(&sink).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert_eq!(world.dead_letters().await.len(), 20);
    world.stream("LETTERS_OF_ILL", "ill.>").await;
    world.settled(STREAM, "ill", MINUTE).await;
    sink.ready(MINUTE).await;
    let mut stream = world.jetstream.get_stream("LETTERS_OF_ILL").await.expect("the stream");
    assert_eq!(stream.info().await.expect("its info").state.messages, 10);
    let mut sql = world.sql().await;
    for table in tables {
        assert_eq!(sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await, 180);
        sql.execute(&format!("DROP TABLE {table}")).await;
    }
}
