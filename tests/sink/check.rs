//! `check`: what it finds, and that it leaves everything as it is.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};

use crate::numbers::{self, DURABLE, STREAM};
use crate::support::{Sink, World};

const MINUTE: Duration = Duration::from_secs(60);

/// Its exit code and what it printed.
async fn check(sink: &Sink) -> (Option<i32>, String) {
    let (status, output, errors) = sink.command(&["check"]).await;
    assert!(!errors.contains("panicked"), "{errors}");
    (status.code(), output)
}

fn assert_lines(output: &str, expected: &[(&str, &str)]) {
    for (level, text) in expected {
        let found = output.lines().any(|line| line.starts_with(level) && line.contains(text));
        assert!(found, "{level} {text:?} is not in\n{output}");
    }
}

/// GIVEN a configuration, and servers on which little of it is there
/// WHEN it is checked, each time with one thing more
/// THEN it says what is missing and changes nothing, until everything is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_would_need_is_looked_at_and_left_as_it_is() {
    let world = World::start().await;
    let table = world.table("check");
    let mut sink = numbers::sink(&world, &table, "", "");
    let theirs = numbers::sink(&world, &table, "", "manage_consumer = false");

    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(1), "{output}");
    assert_lines(&output, &[("ok", "nats: connected"), ("ok", "sql: logged in"), ("FAILED", "create it")]);

    world.stream(STREAM, "numbers.>").await;
    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(0), "{output}");
    assert_lines(
        &output,
        &[
            ("ok", "holds 0 events"),
            ("ok", "dead letters: the stream \"DEAD_LETTERS\" takes"),
            ("ok", "does not exist, a worker makes it"),
        ],
    );
    let (code, output) = check(&theirs).await;
    assert_eq!(code, Some(1), "{output}");
    assert_lines(&output, &[("FAILED", "manage_consumer = true")]);
    let mut sql = world.sql().await;
    let mut exists = async || sql.number(&format!("SELECT COUNT_BIG(OBJECT_ID(N'{table}'))")).await;
    assert_eq!(exists().await, 0, "no table is made");
    let stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    assert!(stream.consumer_info(DURABLE).await.is_err(), "no consumer is made");

    sink.start();
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    assert_eq!(exists().await, 1);
    for checked in [&sink, &theirs] {
        let (code, output) = check(checked).await;
        assert_eq!(code, Some(0), "{output}");
        assert_lines(
            &output,
            &[
                ("ok", "exists, as it must be"),
                ("ok", "takes the rows of the schema"),
                ("note", "written at once"),
            ],
        );
    }

    let limited = pull::Config {
        durable_name: Some(DURABLE.to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: "numbers.>".to_owned(),
        max_deliver: 5,
        max_ack_pending: 90_000,
        ..pull::Config::default()
    };
    stream.update_consumer(limited).await.expect("it is changed");
    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(0), "{output}");
    assert_lines(&output, &[("ok", "brings it in line")]);
    // that the tests' identities may do everything is told, of the rights
    let is_concern = |line: &&str| line.starts_with("warning") && !line.contains(" rights: ");
    assert_eq!(output.lines().find(is_concern), None, "what a worker changes is no concern: {output}");
    let (code, output) = check(&theirs).await;
    assert_eq!(code, Some(1), "{output}");
    assert_lines(&output, &[("FAILED", "max_deliver is 5")]);
    let config = stream.consumer_info(DURABLE).await.expect("the consumer").config;
    assert_eq!((config.max_deliver, config.max_ack_pending), (5, 90_000), "it is as it was");

    sql.execute(&format!("DROP TABLE {table}; CREATE TABLE {table} (id int NOT NULL)")).await;
    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(1), "{output}");
    assert_lines(&output, &[("FAILED", "does not fit the schema")]);
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a pipeline in exactly_once
/// WHEN it is checked before it has run, and with another division of the stream after it has
/// THEN the sink's own tables are looked for, and the division is held against the progress that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn the_progress_that_is_kept_is_looked_at() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("check_once");
    let once = |count: usize| {
        let partitions = "delivery = \"exactly_once\"\npartitions = { subjects = [";
        let lists = match count {
            1 => "[\"numbers.>\"]",
            _ => "[\"numbers.0.>\"], [\"numbers.1.>\"]",
        };
        let subjects = match count {
            1 => "\"numbers.>\"",
            _ => "\"numbers.0.>\", \"numbers.1.>\"",
        };
        world.write("numbers.toml", numbers::SCHEMA);
        let fields = format!(
            "stream = \"{STREAM}\"\nsubjects = [{subjects}]\nschema = \"numbers.toml\"\ntable = \"{table}\"\n\
             create_table = true\n{partitions}{lists}] }}"
        );
        world.config("check_once", "", &fields)
    };
    let mut sink = once(1);
    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(0), "{output}");
    assert_lines(&output, &[("ok", "partitions: 1, and each event is in one of them")]);
    sink.start();
    sink.ready(MINUTE).await;
    assert!(sink.terminate(MINUTE).await.success());
    let (code, output) = check(&sink).await;
    assert_eq!(code, Some(0), "{output}");
    assert_lines(&output, &[("ok", "nats_sql_sink are there"), ("ok", "progress: kept of 1 partitions")]);
    let (code, output) = check(&once(2)).await;
    assert_eq!(code, Some(1), "{output}");
    assert_lines(&output, &[("FAILED", "partitions change")]);
    let mut sql = world.sql().await;
    sql.execute("DELETE FROM nats_sql_sink.progress WHERE pipeline = N'check_once'").await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN servers that are not there
/// WHEN the configuration is checked
/// THEN both are said, and the exit code is 1.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_away_are_both_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = [local_stack::free_port(), local_stack::free_port()].map(|port| port.expect("a free port"));
    let config = format!(
        "[nats]\nservers = [\"nats://127.0.0.1:{}\"]\n[sql]\nserver = \"127.0.0.1,{}\"\ndatabase = \"d\"\n\
         auth = {{ method = \"sql_login\", user = \"u\", password_file = \"password\" }}\n[[pipeline]]\nname = \"p\"\n\
         stream = \"S\"\ndurable = \"d\"\nsubjects = [\"a.>\"]\nschema = \"schema.toml\"\ntable = \"dbo.t\"\n\
         dead_letter = {{ stream = \"D\", subject = \"dead.p\" }}\n",
        ports[0], ports[1]
    );
    let path = folder.path().join("sink.toml");
    for (name, text) in
        [("sink.toml", config.as_str()), ("schema.toml", numbers::SCHEMA), ("password", "secret")]
    {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_nats-sql-sink"))
        .args(["check", "--config", path.to_str().expect("a path")])
        .output()
        .await
        .expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_lines(
        &text,
        &[("FAILED", "nats: "), ("FAILED", "sql: "), ("2 of these", "keep `run` from working")],
    );
}
