use std::process::{Command, Output};
use std::time::Duration;

use crate::numbers;
use crate::support::{World, eventually};

const MINUTE: Duration = Duration::from_secs(60);

fn binary(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nats-sql-sink")).args(arguments).output().expect("the binary runs")
}

fn refused(name: &str, config: &str, schema: &str, expected: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sink.toml");
    std::fs::write(&path, config).expect("a file");
    std::fs::write(folder.path().join("schema.toml"), schema).expect("a file");
    for command in ["run", "ddl"] {
        let output = binary(&[command, "--config", path.to_str().expect("a path")]);
        let stderr = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
        assert!(output.stdout.is_empty(), "{name}: results on stdout");
        for text in expected {
            assert!(stderr.contains(text), "{name}: {stderr:?} lacks {text:?}");
        }
        assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{name}: {stderr}");
    }
}

const CONFIG: &str = r#"
[sql]
server = "127.0.0.1"
database = "d"
auth = { method = "sql_login", user = "u", password_file = "p" }
[[pipeline]]
name = "p"
stream = "S"
durable = "d"
subjects = ["a.>"]
schema = "schema.toml"
table = "dbo.t"
dead_letter = { stream = "D", subject = "dead.p" }
"#;
const SCHEMA: &str = "format = \"json\"\n[[column]]\nname = \"a\"\ntype = \"int\"\n";

/// GIVEN a configuration or a schema file that is wrong
/// WHEN a command reads it
/// THEN it exits with 2 and one message that names the field and what is wrong with it.
#[test]
fn wrong_files_are_refused_with_the_field() {
    refused("no toml", "][", SCHEMA, &["sink.toml"]);
    refused("unknown field", &format!("memroy = \"1GiB\"\n{CONFIG}"), SCHEMA, &["memroy", "memory"]);
    refused("out of range", &format!("memory = \"1MiB\"\n{CONFIG}"), SCHEMA, &["memory", "16"]);
    refused("missing schema", &CONFIG.replace("schema.toml", "nowhere.toml"), SCHEMA, &["nowhere.toml"]);
    refused("unknown type", CONFIG, &SCHEMA.replace("int", "itn"), &["column[0].type", "itn", "int"]);
    refused("unknown schema field", CONFIG, &format!("{SCHEMA}nulable = true\n"), &["nulable", "nullable"]);
    refused("no subjects", &CONFIG.replace("[\"a.>\"]", "[]"), SCHEMA, &["pipeline[0].subjects"]);
    let keyed = |lines: &str| CONFIG.replace("table =", &format!("{lines}\ntable ="));
    refused("no key", &keyed("write = \"insert_if_absent\""), SCHEMA, &["pipeline[0].key", "1 to 16"]);
    refused(
        "no sequence",
        &keyed("write = \"upsert\"\nkey = [\"a\"]"),
        SCHEMA,
        &["pipeline[0].sequence_column", "required"],
    );
    refused(
        "a key that may be null",
        &keyed("write = \"insert_if_absent\"\nkey = [\"a\"]"),
        SCHEMA,
        &["pipeline[0].key[0]", "\"a\"", "nullable = false"],
    );
    refused(
        "password in the file",
        &CONFIG.replace("password_file = \"p\"", "password = \"hunter2\""),
        SCHEMA,
        &["sql.auth.password"],
    );
}

#[test]
fn a_literal_password_is_refused_without_being_repeated() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("sink.toml");
    let config = CONFIG.replace("password_file = \"p\"", "password = \"hunter2\"");
    std::fs::write(&path, config).expect("a file");
    let output = binary(&["run", "--config", path.to_str().expect("a path")]);
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn arguments_that_are_wrong_exit_with_2() {
    for arguments in
        [&["run"][..], &["nonsense"], &["run", "--config"], &["run", "--config", "/nonexistent/sink.toml"]]
    {
        assert_eq!(binary(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = binary(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

/// What the sink says while it is not ready.
async fn reason(sink: &crate::support::Sink, expected: &[&str]) {
    eventually(&format!("not ready because of {expected:?}"), MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && expected.iter().all(|text| body.contains(text))).then_some(())
    })
    .await;
    assert_eq!(sink.get("/livez").await.expect("an answer").0, 200);
}

/// GIVEN a worker whose stream does not exist, and then whose table does not fit
/// WHEN it is started
/// THEN it runs, is not ready, says why, and goes on by itself when that is mended.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_outside_can_mend_is_waited_for() {
    let world = World::start().await;
    let table = world.table("mended");
    let mut sink = numbers::sink(&world, &table, "", "");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id int NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sink.start();
    reason(&sink, &["NUMBERS", "does not exist"]).await;

    world.stream(numbers::STREAM, "numbers.>").await;
    reason(&sink, &["bigint in the schema", "int in the table"]).await;

    sql.execute(&format!("DROP TABLE {table}")).await;
    world.publish((1..=100).map(numbers::event)).await;
    sink.ready(MINUTE).await;
    world.settled(numbers::STREAM, numbers::DURABLE, MINUTE).await;
    let account = numbers::account(&mut sql, &table, 100).await;
    assert_eq!(account, numbers::Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a table with a constraint that cannot convert a row's value, which the server's error text quotes
/// WHEN such a row comes
/// THEN it is dead-lettered and the other is written, or, on a server with another number for it that nobody here knows,
/// the pipeline stops; either way nothing quotes the value.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_database_quotes_is_quoted_nowhere() {
    const CANARY: &str = "canary-4711";
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = world.table("refused");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL, \
         CHECK (CONVERT(int, name) >= 0))"
    ))
    .await;
    let mut sink = numbers::sink(&world, &table, "", "");
    let named = |id: u64, name: &str| {
        ("numbers.all".to_owned(), None, format!(r#"{{"id":{id},"name":"{name}"}}"#).into_bytes())
    };
    world.publish([named(1, "1"), named(2, CANARY)]).await;
    sink.start();
    let stopped = eventually("the row is set aside, or the pipeline stops", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        match (world.dead_letters().await.len(), status) {
            (1, 200) => Some(false),
            (0, 503) if body.contains("server error") => Some(true),
            _ => None,
        }
    })
    .await;

    let (_, body) = sink.get("/readyz").await.expect("an answer");
    let (_, page) = sink.get("/").await.expect("an answer");
    for (place, text) in [("/readyz", body), ("/", page), ("the log", sink.log())] {
        assert!(!text.contains(CANARY), "{place} quotes a value: {text}");
    }
    for letter in world.dead_letters().await {
        let headers = letter.headers.as_ref().expect("a dead letter has headers");
        let detail = headers.get("Dead-Letter-Detail").expect("a detail").as_str();
        assert!(!detail.contains(CANARY), "the dead letter quotes a value: {detail}");
        assert_eq!(headers.get("Dead-Letter-Sequence").expect("a sequence").as_str(), "2");
    }
    let written = if stopped { 0 } else { 1 };
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, written);
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a table with a unique index, which would refuse an event that is delivered again
/// WHEN a worker is to append to it
/// THEN it is not ready before anything is written, says what to do, and goes on by itself when the index is gone; a
/// primary key that is an identity column, of which every row gets another value, is no reason.
#[tokio::test(flavor = "multi_thread")]
async fn appending_to_a_table_with_a_unique_index_is_refused() {
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = world.table("keyed");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (row_id bigint IDENTITY(1,1) NOT NULL PRIMARY KEY, id bigint NOT NULL, \
         name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sql.execute(&format!("CREATE UNIQUE INDEX one_id ON {table} (id)")).await;
    let mut sink = numbers::sink(&world, &table, "", "");
    world.publish((1..=100).map(numbers::event)).await;
    sink.start();
    reason(&sink, &["unique index", "one_id", "drop the index", "insert_if_absent"]).await;
    assert_eq!(sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await, 0);

    sql.execute(&format!("DROP INDEX one_id ON {table}")).await;
    sink.ready(MINUTE).await;
    world.settled(numbers::STREAM, numbers::DURABLE, MINUTE).await;
    let account = numbers::account(&mut sql, &table, 100).await;
    assert_eq!(account, numbers::Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a password that is wrong, or servers that are not there
/// WHEN the worker is started
/// THEN it says so, keeps trying, and stops at once when told to.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_there_are_waited_for() {
    let world = World::start().await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = world.table("away");
    let with = |from: &str, to: &str| {
        let sink = numbers::sink(&world, &table, "", "");
        let text = std::fs::read_to_string(&sink.config).expect("the configuration");
        let line = text.lines().find(|line| line.starts_with(from)).expect("the line").to_owned();
        std::fs::write(&sink.config, text.replace(&line, to)).expect("the configuration");
        sink
    };

    let closed = local_stack::free_port().expect("a free port");
    let mut no_nats = with("servers", &format!("servers = [\"nats://127.0.0.1:{closed}\"]"));
    no_nats.start();
    reason(&no_nats, &["cannot connect", &closed.to_string()]).await;
    assert!(no_nats.terminate(Duration::from_secs(5)).await.success());

    let mut no_sql = with("server =", &format!("server = \"127.0.0.1,{closed}\""));
    no_sql.start();
    reason(&no_sql, &["cannot reach", &closed.to_string()]).await;
    assert!(no_sql.terminate(Duration::from_secs(5)).await.success());

    world.write("wrong.password", "wrong");
    let user = world.stack.sql_user();
    let auth =
        format!("auth = {{ method = \"sql_login\", user = \"{user}\", password_file = \"wrong.password\" }}");
    let mut no_login = with("auth", &auth);
    no_login.start();
    reason(&no_login, &["18456"]).await;
    assert!(no_login.terminate(Duration::from_secs(5)).await.success());
}
