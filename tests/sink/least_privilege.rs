//! The sink with no more rights than it needs, and by way of a gateway.

use std::time::Duration;

use local_stack::stack::{LocalStack, LocalStackOptions};
use nats_sql_sink::config::Config;
use nats_sql_sink::mssql::connect::Connector;

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const USER: &str = "least_privilege";
const PASSWORD: &str = "Least-Privilege-1";

/// The sink's configuration, with another login.
pub fn log_in_as(world: &World, sink: &Sink, user: &str, password: &str) {
    world.write("least.password", password);
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    let auth =
        format!("auth = {{ method = \"sql_login\", user = \"{user}\", password_file = \"least.password\" }}");
    let lines = text.lines().map(|line| if line.starts_with("auth = ") { auth.as_str() } else { line });
    let text: Vec<&str> = lines.collect();
    std::fs::write(&sink.config, text.join("\n")).expect("a configuration");
}

async fn not_ready(sink: &Sink, number: &str) {
    eventually(&format!("not ready because of error {number}"), MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains(number)).then_some(())
    })
    .await;
}

/// GIVEN a user who may do nothing, and then what the sink needs
/// WHEN rights come and go while it runs
/// THEN it says which error keeps it, goes on by itself, and every event is in the table once.
#[tokio::test(flavor = "multi_thread")]
async fn the_sink_needs_no_more_than_select_and_insert_on_its_table() {
    const EVENTS: u64 = 2_000;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("least");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sql.execute(&format!("CREATE USER {USER} WITH PASSWORD = '{PASSWORD}'")).await;
    let mut sink = numbers::sink(&world, &table, "", "");
    log_in_as(&world, &sink, USER, PASSWORD);
    sink.start();
    // it does not see the table, and would make it
    not_ready(&sink, "262").await;

    sql.execute(&format!("GRANT SELECT, INSERT ON {table} TO {USER}")).await;
    world.publish((1..=EVENTS).map(numbers::event)).await;
    sink.ready(MINUTE).await;
    world.settled(STREAM, DURABLE, MINUTE).await;

    sql.execute(&format!("REVOKE INSERT ON {table} FROM {USER}")).await;
    world.publish((EVENTS + 1..=2 * EVENTS).map(numbers::event)).await;
    not_ready(&sink, "229").await;
    assert_eq!(world.dead_letters().await.len(), 0);

    sql.execute(&format!("GRANT INSERT ON {table} TO {USER}")).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    sink.ready(MINUTE).await;
    let account = numbers::account(&mut sql, &table, 2 * EVENTS).await;
    assert_eq!(account, Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}; DROP USER {USER}")).await;
}

/// GIVEN a user who may SELECT and INSERT
/// WHEN rows are written by key, and some replace others
/// THEN UPDATE is missing, and with it nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_writing_needs_update_as_well() {
    const EVENTS: u64 = 500;
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("least_keyed");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sql.execute(&format!("CREATE USER {USER} WITH PASSWORD = '{PASSWORD}'")).await;
    sql.execute(&format!("GRANT SELECT, INSERT ON {table} TO {USER}")).await;
    let by_key = "write = \"upsert\"\nkey = [\"id\"]\nsequence_column = \"stream_sequence\"";
    let mut sink = numbers::sink(&world, &table, "", by_key);
    log_in_as(&world, &sink, USER, PASSWORD);
    world.publish((1..=EVENTS).map(numbers::event)).await;
    sink.start();
    not_ready(&sink, "229").await;

    sql.execute(&format!("GRANT UPDATE ON {table} TO {USER}")).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    sink.ready(MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}; DROP USER {USER}")).await;
}

/// GIVEN a gateway in front of the database, as Azure SQL's
/// WHEN the sink logs in there
/// THEN it follows the redirect, and its session is with the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_follows_its_redirect() {
    let options = LocalStackOptions { sql_gateway_port: Some(0), ..LocalStackOptions::default() };
    let stack = LocalStack::start(options).await.expect("the local stack starts");
    let gateway = stack.sql_server().gateway_address().expect("a gateway");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("sql.password"), stack.sql_password()).expect("a password");
    std::fs::write(folder.path().join("numbers.toml"), numbers::SCHEMA).expect("a schema");
    let file = folder.path().join("sink.toml");
    let text = format!(
        r#"[nats]
servers = ["{nats}"]
[sql]
server = "127.0.0.1,{port}"
database = "{database}"
ca_file = "{ca}"
auth = {{ method = "sql_login", user = "{user}", password_file = "sql.password" }}
[[pipeline]]
name = "numbers"
stream = "{STREAM}"
durable = "{DURABLE}"
subjects = ["numbers.>"]
schema = "numbers.toml"
table = "dbo.numbers"
dead_letter = {{ stream = "DEAD_LETTERS", subject = "dead.numbers" }}
"#,
        nats = stack.nats_url(),
        port = gateway.port(),
        database = stack.sql_database(),
        ca = stack.sql_ca_file().display(),
        user = stack.sql_user(),
    );
    std::fs::write(&file, text).expect("a configuration");
    let config = Config::load(&file).expect("a good configuration");
    let mut session = Connector::new(config.sql).open().await.expect("a session");
    let answer = session.simple_query("SELECT DB_NAME()").await.expect("an answer");
    let row = answer.into_row().await.expect("a result").expect("a row");
    assert_eq!(row.get::<&str, _>(0), Some(stack.sql_database()));
    assert_eq!(stack.sql_server().faults().connections(), 1);
}
