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
    let (status, output, errors) = sink.command(&[&["dlq"], arguments].concat()).await;
    assert!(!errors.contains("canary"), "{errors}");
    (status.code(), output)
}

/// GIVEN letters of three events, one with headers and one with a message id
/// WHEN they are listed, shown and replayed
/// THEN nothing of an event is shown unasked, each goes back as it was published, one that its stream still remembers is left, and
/// a letter is removed only where that was asked for and its event is in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn letters_are_seen_and_their_events_go_back() {
    let world = World::start().await;
    let stream = Config {
        name: STREAM.to_owned(),
        subjects: vec!["numbers.>".to_owned()],
        duplicate_window: Duration::from_secs(3600),
        ..Config::default()
    };
    world.jetstream.create_stream(stream).await.expect("a stream");
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
    let mut source = world.jetstream.get_stream(STREAM).await.expect("the stream");
    assert_eq!(source.info().await.expect("its info").state.messages, 4, "nothing was done");

    let (code, output) = dlq(&sink, &["replay", "--all", "--delete"]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("duplicate window") && output.contains("\"left\":1,\"replayed\":2"), "{output}");
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 5 },
        ..OrderedConfig::default()
    };
    let mut again =
        source.create_consumer(config).await.expect("a consumer").messages().await.expect("its messages");
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
