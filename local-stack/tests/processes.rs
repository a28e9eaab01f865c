//! The real processes of the stack: they start, serve, crash, and come back with what was committed.
//!
//! GIVEN / WHEN / THEN against a real nats-server and a real PostgreSQL; a missing one fails the test.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::time::{Duration, Instant};

use async_nats::jetstream;
use local_stack::error::StackError;
use local_stack::nats_cluster::NatsCluster;
use local_stack::nats_server::{NatsServer, NatsServerOptions};
use local_stack::postgres::{Postgres, PostgresOptions};
use tokio_postgres::NoTls;

async fn sql(server: &Postgres) -> tokio_postgres::Client {
    let (client, connection) = server.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn stream(server: &NatsServer) -> (jetstream::Context, jetstream::stream::Stream) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        ..Default::default()
    };
    let stream = context.get_or_create_stream(config).await.unwrap();
    (context, stream)
}

async fn count(client: &tokio_postgres::Client) -> i64 {
    client.query_one("SELECT count(*) FROM numbers", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_and_nothing_else_over_a_crash() {
    let mut server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let port = server.port();
    let client = sql(&server).await;
    client.batch_execute("CREATE TABLE numbers (n bigint NOT NULL)").await.unwrap();
    client.batch_execute("INSERT INTO numbers SELECT generate_series(1, 100000)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO numbers SELECT generate_series(1, 5000)").await.unwrap();

    server.kill().await;
    assert!(server.pid().is_none());
    server.restart().await.unwrap();

    assert_eq!(server.port(), port);
    assert_eq!(count(&sql(&server).await).await, 100_000);
}

/// The claim behind `fsync = off`: a commit that was answered is in the kernel's hands.
#[tokio::test]
async fn no_answered_commit_is_lost_when_postgres_is_killed_in_the_middle_of_many() {
    let mut server = Postgres::start(PostgresOptions::default()).await.unwrap();
    sql(&server).await.batch_execute("CREATE TABLE numbers (n bigint NOT NULL)").await.unwrap();
    let mut answered = 0;
    for round in 1..=3 {
        let enough = answered + 300;
        let (sender, mut progress) = tokio::sync::watch::channel(answered);
        let client = sql(&server).await;
        let writer = tokio::spawn(async move {
            while client.execute("INSERT INTO numbers VALUES (1)", &[]).await.is_ok() {
                sender.send_modify(|answered| *answered += 1);
            }
            sender.borrow().to_owned()
        });
        progress.wait_for(|answered| *answered >= enough).await.unwrap();
        server.kill().await;
        answered = writer.await.unwrap();
        server.restart().await.unwrap();
        let stored = count(&sql(&server).await).await;
        // one commit each round may have been under way when the server was killed
        assert!(
            (answered..=answered + 1).contains(&stored),
            "round {round}: {answered} answered, {stored} stored"
        );
        answered = stored;
    }
}

#[tokio::test]
async fn postgres_takes_many_connections_and_refuses_a_wrong_password() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(sql(&server).await);
    }
    let row = clients[99].query_one("SELECT current_setting('server_encoding')", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "UTF8");

    let mut config = server.config();
    config.password("guessed");
    assert!(config.connect(NoTls).await.is_err());
}

#[tokio::test]
async fn a_postgres_folder_that_was_named_outlives_the_server() {
    let folder = open_folder();
    let options = PostgresOptions { data_dir: Some(folder.path().join("sql")), ..Default::default() };

    let server = Postgres::start(options.clone()).await.unwrap();
    sql(&server).await.batch_execute("CREATE TABLE numbers AS SELECT 1::bigint AS n").await.unwrap();
    drop(server);

    let server = Postgres::start(options).await.unwrap();
    assert_eq!(count(&sql(&server).await).await, 1);
}

/// As it is when root tries the demo in its own home: the user that runs PostgreSQL cannot go there.
#[tokio::test]
async fn a_folder_closed_to_others_keeps_the_data_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let options = PostgresOptions { data_dir: Some(folder.path().join("a/sql")), ..Default::default() };

    let server = Postgres::start(options.clone()).await.unwrap();
    let files = server.data_dir().to_path_buf();
    sql(&server).await.batch_execute("CREATE TABLE numbers AS SELECT 1::bigint AS n").await.unwrap();
    drop(server);

    let server = Postgres::start(options).await.unwrap();
    assert_eq!(server.data_dir(), files);
    assert_eq!(count(&sql(&server).await).await, 1);
    drop(server);
    std::fs::remove_dir_all(files).unwrap();
}

#[tokio::test]
async fn a_postgres_that_cannot_start_shows_its_log() {
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = Postgres::start(PostgresOptions { settings, ..Default::default() }).await.unwrap_err();
    assert!(matches!(&error, StackError::Start { program: "postgres", .. }), "{error}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn nats_server_keeps_every_acknowledged_message_over_a_crash() {
    let mut server = NatsServer::start(NatsServerOptions::default()).await.unwrap();
    let url = server.url();
    let (context, _) = stream(&server).await;
    for number in 0..500 {
        context.publish("events.a", format!("{number}").into()).await.unwrap().await.unwrap();
    }

    server.kill().await;
    assert!(server.pid().is_none());
    server.restart().await.unwrap();

    assert_eq!(server.url(), url);
    let (_, mut events) = stream(&server).await;
    assert_eq!(events.info().await.unwrap().state.messages, 500);
}

#[tokio::test]
async fn nats_server_keeps_its_messages_in_a_named_store_and_takes_more_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let options = NatsServerOptions {
        store_dir: Some(folder.path().join("nats \"quoted\"")),
        max_payload: 2 * 1024 * 1024,
        extra_config: Some("authorization { token: \"open\" }".to_owned()),
        ..Default::default()
    };
    let mut server = NatsServer::start(options).await.unwrap();
    assert!(async_nats::connect(server.url()).await.is_err());
    let connect = || async_nats::ConnectOptions::with_token("open".to_owned()).connect(server.url());
    let client = connect().await.unwrap();
    assert_eq!(client.server_info().max_payload, 2 * 1024 * 1024);

    let context = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.>".to_owned()],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    context.publish("events.a", vec![b'x'; 1_500_000].into()).await.unwrap().await.unwrap();
    server.stop().await;
    server.restart().await.unwrap();
    let client =
        async_nats::ConnectOptions::with_token("open".to_owned()).connect(server.url()).await.unwrap();
    let mut events = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    assert_eq!(events.info().await.unwrap().state.messages, 1);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_so() {
    let first = NatsServer::start(NatsServerOptions::default()).await.unwrap();
    let options = NatsServerOptions { port: Some(first.port()), ..Default::default() };
    let error = NatsServer::start(options).await.unwrap_err();
    assert!(error.to_string().contains("address already in use"), "{error}");
}

#[tokio::test]
async fn a_wrong_configuration_is_an_error_that_shows_the_log() {
    let options = NatsServerOptions { extra_config: Some("jetstream {".to_owned()), ..Default::default() };
    let error = NatsServer::start(options).await.unwrap_err();
    assert!(matches!(&error, StackError::Start { program: "nats-server", .. }), "{error}");
    assert!(error.to_string().contains("Parse error"), "{error}");
}

#[tokio::test]
async fn a_drop_stops_the_servers_and_removes_temporary_folders() {
    let nats = NatsServer::start(NatsServerOptions::default()).await.unwrap();
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let folders = [nats.store_dir().to_path_buf(), postgres.data_dir().to_path_buf()];
    let ports = [nats.port(), postgres.port()];
    drop((nats, postgres));
    for (folder, port) in folders.iter().zip(ports) {
        assert!(!folder.exists(), "{} is still there", folder.display());
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is still served");
    }
}

/// Only where util-linux' `setpriv` is (every Linux distribution): the kernel is asked to end orphans.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn servers_do_not_outlive_an_owner_that_was_killed() {
    const OWNER: &str = "NATS_SQL_SINK_TEST_OWNER";
    if let Some(file) = std::env::var_os(OWNER) {
        // the owner: this very test, started again below
        let nats = NatsServer::start(NatsServerOptions::default()).await.unwrap();
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let line = format!("{} {}\n", nats.port(), postgres.port());
        std::fs::write(file, line).unwrap();
        std::future::pending::<()>().await;
    }
    let folder = open_folder();
    let file = folder.path().join("ports");
    let mut owner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers_do_not_outlive_an_owner_that_was_killed"])
        .env(OWNER, &file)
        // its temporary folders stay behind: they are removed with ours
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ports = wait_for(|| {
        assert!(owner.try_wait().unwrap().is_none(), "the owner could not start its servers");
        let text = std::fs::read_to_string(&file).ok()?;
        let ports = text.strip_suffix('\n')?.split(' ').map(|port| port.parse().unwrap());
        Some(ports.collect::<Vec<u16>>())
    });
    let ports = ports.await;
    assert_eq!(ports.len(), 2);

    owner.kill().await.unwrap();

    for port in ports {
        wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).err()).await;
    }
}

/// A folder that every user can enter and write to, whatever TMPDIR says: started by root, PostgreSQL runs as
/// another.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), permissions).unwrap();
    folder
}

async fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// GIVEN a cluster of three servers
/// WHEN the leader of a stream with three copies is killed
/// THEN another leads it, and what was confirmed is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_outlives_the_leader_of_a_stream() {
    let mut cluster = NatsCluster::start(3, NatsServerOptions::default()).await.unwrap();
    let client = async_nats::connect(cluster.urls()).await.unwrap();
    let context = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s".to_owned()],
        num_replicas: 3,
        ..Default::default()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // until the servers have elected who makes streams
    while context.create_stream(config.clone()).await.is_err() {
        assert!(Instant::now() < deadline, "no stream can be made");
    }
    context.publish("s", "x".into()).await.unwrap().await.unwrap();
    let leader = async || {
        let stream = context.get_stream("S").await.ok()?;
        let info = stream.cached_info();
        Some((info.cluster.as_ref()?.leader.clone()?, info.state.messages))
    };
    let (first, _) = leader().await.unwrap();
    cluster.node(&first).unwrap().kill().await;
    loop {
        if let Some((second, messages)) = leader().await.filter(|(name, _)| *name != first) {
            assert_eq!(messages, 1, "{second} has the event");
            break;
        }
        assert!(Instant::now() < deadline, "no other leader");
    }
}
