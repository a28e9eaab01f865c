//! The stack as the demo starts it: three servers, one folder.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use local_stack::stack::{LocalStack, LocalStackOptions, SqlStorage};
use tiberius::{AuthMethod, Client, Config};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

/// Connects as a user of the demo would: by the login, the database and the authority that the stack tells.
async fn sql(stack: &LocalStack) -> Client<Compat<TcpStream>> {
    let mut config = Config::new();
    config.host("127.0.0.1");
    config.port(stack.sql_address().port());
    config.database(stack.sql_database());
    config.authentication(AuthMethod::sql_server(stack.sql_user(), stack.sql_password()));
    config.trust_cert_ca(stack.sql_ca_file().to_str().unwrap());
    let stream = TcpStream::connect(config.get_addr()).await.unwrap();
    Box::pin(Client::connect(config, stream.compat_write())).await.unwrap()
}

async fn rows(client: &mut Client<Compat<TcpStream>>) -> i32 {
    let result = client.simple_query("SELECT COUNT(*) FROM dbo.numbers").await.unwrap();
    result.into_row().await.unwrap().unwrap().get(0).unwrap()
}

#[tokio::test]
async fn a_stack_serves_nats_and_sql_and_finds_its_data_again_under_the_same_password() {
    let folder = tempfile::tempdir().unwrap();
    let options = LocalStackOptions { data_dir: Some(folder.path().join("data")), ..Default::default() };

    let stack = LocalStack::start(options.clone()).await.unwrap();
    async_nats::connect(stack.nats_url()).await.unwrap();
    let mut client = sql(&stack).await;
    client
        .simple_query("CREATE TABLE dbo.numbers (n bigint NOT NULL)")
        .await
        .unwrap()
        .into_results()
        .await
        .unwrap();
    client
        .simple_query("INSERT INTO dbo.numbers (n) VALUES (1), (2)")
        .await
        .unwrap()
        .into_results()
        .await
        .unwrap();
    assert_eq!(rows(&mut client).await, 2);
    let password = stack.sql_password().to_owned();
    stack.stop().await;

    let stack = LocalStack::start(options).await.unwrap();
    assert_eq!(stack.sql_password(), password);
    assert_eq!(rows(&mut sql(&stack).await).await, 2);
    // as root, the files of PostgreSQL are where its own user can go
    let mut stack = stack;
    let files = stack.postgres().data_dir().to_path_buf();
    drop(stack);
    std::fs::remove_dir_all(files).unwrap();
}

#[tokio::test]
async fn a_stack_comes_back_after_its_database_crashed() {
    let mut stack = LocalStack::start(LocalStackOptions::default()).await.unwrap();
    let mut client = sql(&stack).await;
    client
        .simple_query("CREATE TABLE dbo.numbers (n bigint NOT NULL)")
        .await
        .unwrap()
        .into_results()
        .await
        .unwrap();

    stack.postgres().kill().await;
    assert!(client.simple_query("SELECT COUNT(*) FROM dbo.numbers").await.is_err());
    stack.postgres().restart().await.unwrap();

    assert_eq!(rows(&mut sql(&stack).await).await, 0);
}

#[tokio::test]
async fn a_stack_that_keeps_no_rows_starts_too() {
    let options = LocalStackOptions { storage: SqlStorage::Discard, ..Default::default() };
    let stack = LocalStack::start(options).await.unwrap();
    sql(&stack).await;
}

#[tokio::test]
async fn a_stack_on_given_ports_is_found_there() {
    let (nats_port, sql_port) = (local_stack::free_port().unwrap(), local_stack::free_port().unwrap());
    let options =
        LocalStackOptions { nats_port: Some(nats_port), sql_port: Some(sql_port), ..Default::default() };
    let stack = LocalStack::start(options).await.unwrap();
    assert_eq!(stack.nats_url(), format!("nats://127.0.0.1:{nats_port}"));
    assert_eq!(stack.sql_address().port(), sql_port);
}
