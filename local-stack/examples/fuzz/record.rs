//! Sessions of tiberius, recorded for the corpus; `fuzz/record.py` records those of the other clients.

use std::error::Error;
use std::path::{Path, PathBuf};

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};
use tiberius::{AuthMethod, Client, ColumnData, Config, EncryptionLevel, TokenRow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::TokioAsyncWriteCompatExt;

type SqlClient = Client<tokio_util::compat::Compat<TcpStream>>;

pub(crate) fn run(folder: &Path) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(record(folder.to_owned()))
}

async fn record(folder: PathBuf) -> Result<(), Box<dyn Error>> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let server = SqlServer::start(SqlServerOptions::new(Storage::Postgres(postgres.config()))).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relay = listener.local_addr()?;
    let target = server.address();
    let recording = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let mut server = TcpStream::connect(target).await?;
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.split(), server.split());
        let mut kept = Vec::new();
        let forth = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                kept.extend_from_slice(&buffer[..count]);
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = forth => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
        Ok::<_, std::io::Error>(kept)
    });
    let mut config = Config::new();
    config.host("localhost");
    config.port(relay.port());
    config.database("sinkdb");
    config.authentication(AuthMethod::sql_server("sink", "Sink-Local-1"));
    config.encryption(EncryptionLevel::NotSupported);
    let stream = TcpStream::connect(relay).await?;
    let mut client = Box::pin(Client::connect(config, stream.compat_write())).await?;
    drive(&mut client).await?;
    client.close().await?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("tiberius"), recording.await??)?;
    Ok(())
}

async fn drive(client: &mut SqlClient) -> Result<(), Box<dyn Error>> {
    for sql in [
        "SET XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "IF OBJECT_ID(N'dbo.fuzz', N'U') IS NULL CREATE TABLE dbo.fuzz (n int NOT NULL, t nvarchar(20), d decimal(18,4), at datetime2(7))",
        "BEGIN TRANSACTION",
    ] {
        client.simple_query(sql).await?.into_results().await?;
    }
    let mut load = client.bulk_insert("dbo.fuzz").await?;
    for n in 0..3i32 {
        let amount = tiberius::numeric::Numeric::new_with_scale(i128::from(n) * 12_345, 4);
        let mut row = TokenRow::new();
        row.push(ColumnData::I32(Some(n)));
        row.push(ColumnData::String(Some("text".into())));
        row.push(ColumnData::Numeric(Some(amount)));
        row.push(ColumnData::DateTime2(None));
        load.send(row).await?;
    }
    load.finalize().await?;
    for sql in [
        "IF XACT_STATE() <> 1 THROW 50001, N'gone', 1; COMMIT TRANSACTION",
        "BEGIN TRY SELECT 1/0 END TRY BEGIN CATCH SELECT ERROR_NUMBER() END CATCH",
        "SELECT c.name, t.name FROM sys.columns AS c JOIN sys.types AS t ON t.user_type_id = c.user_type_id WHERE c.object_id = OBJECT_ID(N'dbo.fuzz')",
        "WITH x AS (SELECT n, ROW_NUMBER() OVER (PARTITION BY t ORDER BY n) AS r FROM dbo.fuzz) SELECT TOP (5) * FROM x WHERE r = 1",
    ] {
        client.simple_query(sql).await?.into_results().await?;
    }
    client
        .execute(
            "INSERT INTO dbo.fuzz (n, t, d, at) VALUES (@P1, @P2, @P3, @P4), (@P1, NULL, 1.5, SYSUTCDATETIME())",
            &[&7i32, &"parameter", &tiberius::numeric::Numeric::new_with_scale(1, 2), &None::<i64>],
        )
        .await
        .map(|_| ())
        .or_else(|error| if error.code().is_some() { Ok(()) } else { Err(error) })?;
    client
        .query("SELECT @P1 AS a, @P2 AS b", &[&1.5f64, &vec![1u8, 2, 3].as_slice()])
        .await?
        .into_results()
        .await?;
    Ok(())
}
