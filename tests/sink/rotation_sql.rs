//! The password of the database, exchanged while events flow.

use std::time::Duration;

use crate::least_privilege::log_in_as;
use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
const USER: &str = "rotated";

/// GIVEN events that flow into a table
/// WHEN the password in the file is a wrong one, and then both the file and the database get a new one
/// THEN the sink goes on with the former one and says so, and then with the new one in new sessions, and nothing is lost
/// or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_exchanged_under_load() {
    let world = World::start().await;
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("rotated");
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    sql.execute(&format!("CREATE USER {USER} WITH PASSWORD = 'First-1-password'")).await;
    sql.execute(&format!("GRANT SELECT, INSERT ON {table} TO {USER}")).await;
    let pipeline = "batch = { max_rows = 500, max_bytes = \"8MiB\", max_age = \"50ms\" }";
    let mut sink = numbers::sink(&world, &table, "", pipeline);
    log_in_as(&world, &sink, USER, "First-1-password");
    sink.start();
    sink.ready(MINUTE).await;
    let mut published = 0;
    let mut publish = async |count: u64| {
        world.publish((published + 1..=published + count).map(numbers::event)).await;
        published += count;
    };
    publish(2_000).await;

    world.write("least.password", "Wrong-1-canary");
    eventually("the sink says that the new one cannot be used", MINUTE, async || {
        publish(200).await;
        sink.log().contains("a new secret cannot be used").then_some(())
    })
    .await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert_eq!(sink.get("/readyz").await.map(|(status, _)| status), Some(200));

    sql.execute(&format!("ALTER USER {USER} WITH PASSWORD = 'Second-2-password'")).await;
    world.write("least.password", "Second-2-password");
    eventually("the sink goes over to the new one", MINUTE, async || {
        publish(200).await;
        sink.log().contains("the secrets were exchanged").then_some(())
    })
    .await;
    publish(2_000).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, published).await, Account { missing: 0, duplicates: 0 });
    let errors = sink.metric("nats_sql_sink_sql_errors_total").await.expect("a count");
    assert!(errors < 0.5, "{errors} errors of the database");
    let log = sink.log();
    assert!(!log.contains("canary") && !log.contains("-password"), "{log}");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}; DROP USER {USER}")).await;
}
