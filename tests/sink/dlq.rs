//! `dlq`: dead letters are seen, and their events go back.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt as _;

use crate::numbers::{self, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const BAD: &[u8] = b"canary, no json";

async fn dlq(sink: &Sink, arguments: &[&str]) -> (Option<i32>, String) {
    let (code, output, _) = dlq_with_errors(sink, arguments).await;
    (code, output)
}

async fn dlq_with_errors(sink: &Sink, arguments: &[&str]) -> (Option<i32>, String, String) {
    let (status, output, errors) = sink.command(&[&["dlq"], arguments].concat()).await;
    assert!(!errors.contains("canary"), "{errors}");
    (status.code(), output, errors)
}

/// The stream of the events, as it takes them now.
fn source(subjects: &[&str], max_message_size: i32) -> Config {
    Config {
        name: STREAM.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        duplicate_window: Duration::from_secs(3600),
        max_message_size,
        ..Config::default()
    }
}

/// GIVEN letters of three events, one with headers and one with a message id
/// WHEN they are listed, shown and replayed
/// THEN nothing of an event is shown unasked, each goes back as it was published, one that its stream still remembers is left, and
/// a letter is removed only where that was asked for and its event is in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_seen_and_their_events_go_back() {
    let world = World::start().await;
    world.jetstream.create_stream(source(&["numbers.>"], -1)).await.expect("a stream");
    let table = world.table("dlq");
    let mut sink = numbers::sink(&world, &table, "", "");
    let mut traced = HeaderMap::new();
    traced.append("Trace", "canary-1");
    traced.append("Trace", "canary-2");
    let mut known = HeaderMap::new();
    known.insert("Nats-Msg-Id", "known");
    sink.start();
    // one after the other: letters of one batch are in no order
    for event in [
        ("numbers.a".to_owned(), Some(traced), BAD.to_vec()),
        ("numbers.b".to_owned(), Some(known), BAD.to_vec()),
        ("numbers.c".to_owned(), None, b"{\"id\":null}".to_vec()),
        numbers::event(1),
    ] {
        world.publish([event]).await;
        world.settled(STREAM, DURABLE, MINUTE).await;
    }
    assert!(sink.terminate(MINUTE).await.success());
    assert_eq!(world.dead_letters().await.len(), 3);

    let (code, output) = dlq(&sink, &["list"]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("canary"), "{output}");
    assert!(output.contains("on numbers.a, 15 bytes") && output.contains("numbers: 2 "), "{output}");
    let (_, json) = dlq(&sink, &["list", "--json", "--limit", "1"]).await;
    let first: serde_json::Value = serde_json::from_str(json.trim()).expect("one object");
    assert_eq!((&first["subject"], &first["stream_sequence"]), (&"numbers.a".into(), &1.into()));
    let reason = first["reason"].as_str().expect("a reason").to_owned();
    let (_, counted) = dlq(&sink, &["list", "--count", "--reason", &reason]).await;
    assert_eq!(counted, format!("numbers: 2 {reason}\n"));
    let (_, none) = dlq(&sink, &["list", "--since", "0s", "--count"]).await;
    assert_eq!(none, "");
    let (_, shown) = dlq(&sink, &["show", "1"]).await;
    assert!(shown.contains("Orig-Trace: (not shown)") && !shown.contains("canary"), "{shown}");
    let (_, shown) = dlq(&sink, &["show", "1", "--payload"]).await;
    assert!(shown.contains("Orig-Trace: canary-1") && shown.contains("canary, no json"), "{shown}");

    assert_eq!(dlq(&sink, &["replay"]).await.0, Some(1), "which ones?");
    let (code, output) = dlq(&sink, &["replay", "--all", "--dry-run", "--delete"]).await;
    assert!(code == Some(0) && output.contains("\"replayed\":3"), "{output}");
    let mut stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    assert_eq!(stream.info().await.expect("its info").state.messages, 4, "nothing was done");

    let (code, output) = dlq(&sink, &["replay", "--all", "--delete"]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("duplicate window") && output.contains("\"left\":1,\"replayed\":2"), "{output}");
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 5 },
        ..OrderedConfig::default()
    };
    let mut again =
        stream.create_consumer(config).await.expect("a consumer").messages().await.expect("its messages");
    let again = again.next().await.expect("the first one").expect("a message");
    assert_eq!((again.subject.as_str(), &again.payload[..]), ("numbers.a", BAD));
    let headers = again.headers.as_ref().expect("headers");
    let trace: Vec<&str> = headers.get_all("Trace").map(async_nats::HeaderValue::as_str).collect();
    assert_eq!(trace, ["canary-1", "canary-2"]);
    let left: Vec<String> =
        world.dead_letters().await.iter().map(|letter| letter.subject.to_string()).collect();
    assert!(left.len() == 1 && left[0].ends_with(".2"), "{left:?}");

    // what is as bad as before comes back as another letter
    sink.start();
    eventually("two letters more", MINUTE, async || (world.dead_letters().await.len() == 3).then_some(()))
        .await;
    assert!(sink.terminate(MINUTE).await.success());
    let mut sql = world.sql().await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// A letter as nobody but its forger would write it, byte for byte.
async fn forge(world: &World, sequence: u64, subject: &str, more: &str) {
    let headers = format!(
        "NATS/1.0\r\nNats-Msg-Id: forged-{sequence}\r\nDead-Letter-Pipeline: numbers\r\nDead-Letter-Reason: not_json\r\n\
         Dead-Letter-Stream: {STREAM}\r\nDead-Letter-Sequence: 1\r\nDead-Letter-Subject: {subject}\r\n{more}\r\n"
    );
    let own = format!("dead.numbers.numbers.{STREAM}.1.{sequence}");
    world.publish_raw(&own, headers.as_bytes(), BAD, "DEAD_LETTERS", sequence).await;
}

/// GIVEN two forged letters, and those of four events of which one has no stream any more, and one is too large for it now
/// WHEN they are replayed, once more, and when the stream does not answer
/// THEN the forged ones go nowhere; what cannot go back does not keep the others from it; what was published is not published
/// again, and its letter removed; a sequence that is not there is named; and what was done is told also where an error ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_behind_what_cannot_go_back_and_is_repeated_without_doubling() {
    let world = World::start().await;
    world.jetstream.create_stream(source(&["numbers.>"], -1)).await.expect("a stream");
    let table = world.table("dlq_again");
    let mut sink = numbers::sink(&world, &table, "", "");
    forge(&world, 1, "$JS.API.STREAM.DELETE.DEAD_LETTERS", "").await;
    forge(&world, 2, "numbers.a", "Orig-no header: 1\r\nOrig-A: 1\r2\r\n").await;
    sink.start();
    let large = [BAD, &[b' '; 5_000]].concat();
    // one after the other: letters of one batch are in no order
    for (subject, payload) in
        [("numbers.a", BAD), ("numbers.b", BAD), ("numbers.c", large.as_slice()), ("numbers.d", BAD)]
    {
        world.publish([(subject.to_owned(), None, payload.to_vec())]).await;
        world.settled(STREAM, DURABLE, MINUTE).await;
    }
    assert!(sink.terminate(MINUTE).await.success());
    let count = async |name: &str| {
        let mut stream = world.jetstream.get_stream(name).await.expect("a stream");
        stream.info().await.expect("its info").state.messages
    };
    assert_eq!((count(STREAM).await, count("DEAD_LETTERS").await), (4, 6));
    let (code, json) = dlq(&sink, &["list", "--json"]).await;
    let can_be_replayed: Vec<bool> =
        json.lines().map(|line| line.contains("\"can_be_replayed\":true")).collect();
    assert_eq!((code, can_be_replayed), (Some(0), vec![false, false, true, true, true, true]), "{json}");

    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    stream.delete_consumer(DURABLE).await.expect("nobody reads it any more");
    let narrow = source(&["numbers.a", "numbers.c", "numbers.d"], 2_000);
    world.jetstream.update_stream(narrow).await.expect("another configuration");
    let (code, output) = dlq(&sink, &["replay", "--all"]).await;
    assert_eq!(code, Some(1), "{output}");
    let said: Vec<&str> = output.lines().collect();
    for (line, expected) in [
        "its event's subject is not for events",
        "no header can have",
        "published again, at 5 of NUMBERS",
        "no stream takes its subject",
        "the stream refuses it: ",
        "published again, at 6 of NUMBERS",
        "{\"left\":4,\"replayed\":2}",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(said[line].contains(expected), "{expected}\n{output}");
    }

    // as after a confirmation that was lost, or a letter that could not be removed
    world.jetstream.update_stream(source(&["numbers.>"], -1)).await.expect("as it was");
    let again = ["replay", "--delete", "--sequence", "3", "--sequence", "4", "--sequence", "5"];
    let (code, output) = dlq(&sink, &again).await;
    assert!(code == Some(0) && output.contains("{\"left\":0,\"replayed\":3}"), "{output}");
    assert!(output.contains("was published again before, at 5 of NUMBERS"), "{output}");
    assert!(output.contains("published again, at 8 of NUMBERS"), "{output}");
    assert_eq!((count(STREAM).await, count("DEAD_LETTERS").await), (8, 3), "{output}");

    let (code, output, errors) = dlq_with_errors(&sink, &["replay", "--sequence", "3", "--delete"]).await;
    assert!(code == Some(1) && output.contains("{\"left\":0,\"replayed\":0}"), "{output}");
    assert!(errors.contains("has the sequence 3"), "{errors}");
    let (code, _, errors) = dlq_with_errors(&sink, &["list", "--sequence", "99"]).await;
    assert!(code == Some(1) && errors.contains("has the sequence 99"), "{errors}");

    // somebody hears what is published, and no stream answers
    world.jetstream.delete_stream(STREAM).await.expect("it is gone");
    let client = world.jetstream.client();
    let _listener = client.subscribe("numbers.>").await.expect("a subscription");
    client.flush().await.expect("the server knows of it");
    let (code, output, errors) = dlq_with_errors(&sink, &["replay", "--all", "--delete"]).await;
    assert!(code == Some(1) && output.contains("{\"left\":2,\"replayed\":0}"), "{output}");
    assert!(errors.contains("publishing the event of the letter 6"), "{errors}");
    assert_eq!(count("DEAD_LETTERS").await, 3);
    let mut sql = world.sql().await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
