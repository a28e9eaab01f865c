//! What the client can do beside writing and reading values: each is a cell of the matrix.

use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::json;
use tiberius::{ColumnData, EncryptionLevel, IntoRow, SqlBulkCopyOption};

use super::{Answer, Connection, Server, batch, clients_folder};

pub(super) async fn run(server: &Server) -> Answer<()> {
    for (name, encryption) in [
        ("on", EncryptionLevel::Required),
        ("login only", EncryptionLevel::Off),
        ("off", EncryptionLevel::NotSupported),
        ("strict", EncryptionLevel::Strict),
    ] {
        cell(&format!("login, TLS {name}"), login(server, encryption)).await;
    }
    cell("login refused (18456, 4060)", refused_logins(server)).await;
    cell("SQL batch, two results", two_results(server)).await;
    cell("parameters", parameters(server)).await;
    cell("a statement run again and again", again_and_again(server)).await;
    cell("bulk load", bulk_load(server)).await;
    cell("commit and rollback", transactions(server)).await;
    cell("savepoint", savepoint(server)).await;
    cell("error numbers", error_numbers(server)).await;
    cell("attention", attention(server)).await;
    cell("reconnect", reconnect(server)).await;
    Ok(())
}

async fn cell(name: &str, action: impl Future<Output = Answer<()>>) {
    let line = match Box::pin(action).await {
        Ok(()) => json!({"cell": name, "ok": true}),
        Err(error) => json!({"cell": name, "ok": false, "detail": error.to_string()}),
    };
    println!("{line}");
}

fn check(condition: bool, what: impl Into<String>) -> Answer<()> {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

async fn connect(server: &Server) -> tiberius::Result<Connection> {
    server.connect(EncryptionLevel::Required).await
}

/// The one number that a query is about.
async fn int(connection: &mut Connection, sql: &str) -> Answer<i32> {
    let rows = batch(connection, sql).await?;
    Ok(rows.first().and_then(|row| row.get(0)).ok_or_else(|| format!("{sql}: no number"))?)
}

fn number<T>(result: tiberius::Result<T>) -> Option<u32> {
    result.err().and_then(|error| error.code())
}

async fn login(server: &Server, encryption: EncryptionLevel) -> Answer<()> {
    let mut connection = server.connect(encryption).await?;
    check(int(&mut connection, "SELECT 1").await? == 1, "SELECT 1")
}

async fn refused_logins(server: &Server) -> Answer<()> {
    let wrong = Server { password: "wrong".into(), ..server.clone() };
    let nobody = Server { user: "nobody".into(), ..server.clone() };
    let missing = Server { database: "missing".into(), ..server.clone() };
    for (changed, expected) in [(wrong, 18456), (nobody, 18456), (missing, 4060)] {
        let told = number(connect(&changed).await);
        check(told == Some(expected), format!("{told:?} and not {expected}"))?;
    }
    Ok(())
}

async fn two_results(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    let sql = "DECLARE @n int = 1; SELECT @n AS a; SET @n = @n + 1; SELECT @n AS b, N'Ω' AS c";
    let results = connection.simple_query(sql).await?.into_results().await?;
    let [first, second] = results.as_slice() else { return Err(format!("{} results", results.len()).into()) };
    check(first.len() == 1 && first[0].get(0) == Some(1i32), "first result")?;
    check(second[0].get(0) == Some(2i32) && second[0].get(1) == Some("Ω"), "second result")
}

async fn parameters(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    let values = connection.query("SELECT @P1, @P2, @P3", &[&7i32, &"it's Ω😀", &None::<i32>]).await?;
    let row: Vec<ColumnData<'static>> = values.into_row().await?.ok_or("no row")?.into_iter().collect();
    let expected =
        [ColumnData::I32(Some(7)), ColumnData::String(Some("it's Ω😀".into())), ColumnData::I32(None)];
    check(row == expected, format!("{row:?}"))
}

async fn again_and_again(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    batch(&mut connection, "CREATE TABLE dbo.again_rust (n int NOT NULL, s nvarchar(20) NULL)").await?;
    for n in 0..20i32 {
        let text = (n % 3 != 0).then(|| format!("text {n}"));
        connection.execute("INSERT INTO dbo.again_rust VALUES (@P1, @P2)", &[&n, &text]).await?;
    }
    check(int(&mut connection, "SELECT COUNT(s) FROM dbo.again_rust").await? == 13, "rows")?;
    batch(&mut connection, "DROP TABLE dbo.again_rust").await?;
    Ok(())
}

async fn load(
    connection: &mut Connection,
    rows: impl Iterator<Item = (i32, Option<String>)>,
) -> tiberius::Result<u64> {
    let options =
        SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints | SqlBulkCopyOption::TableLock;
    let mut request = connection.bulk_insert_with_options("dbo.bulk_rust", &["*"], options, &[]).await?;
    for row in rows {
        request.send(row.into_row()).await?;
    }
    Ok(request.finalize().await?.total())
}

async fn bulk_load(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    batch(&mut connection, "CREATE TABLE dbo.bulk_rust (n int NOT NULL PRIMARY KEY, o nvarchar(40) NULL)")
        .await?;
    let rows = (0..20_000).map(|n| (n, (n % 7 != 0).then(|| format!("row {n} Ω"))));
    check(load(&mut connection, rows).await? == 20_000, "count")?;
    let again = [(90_000, Some("new".to_owned())), (5, None)];
    let told = number(load(&mut connection, again.into_iter()).await);
    check(told == Some(2627), format!("{told:?} for a duplicate key"))?;
    let mut other = connect(server).await?;
    check(int(&mut other, "SELECT COUNT(*) FROM dbo.bulk_rust").await? == 20_000, "a failed load left rows")?;
    check(int(&mut other, "SELECT COUNT(o) FROM dbo.bulk_rust").await? == 17_142, "NULLs")?;
    batch(&mut other, "DROP TABLE dbo.bulk_rust").await?;
    Ok(())
}

async fn transactions(server: &Server) -> Answer<()> {
    let (mut one, mut other) = (connect(server).await?, connect(server).await?);
    let count = "SELECT COUNT(*) FROM dbo.kept_rust";
    batch(&mut one, "CREATE TABLE dbo.kept_rust (n int)").await?;
    one.begin_transaction().await?;
    batch(&mut one, "INSERT INTO dbo.kept_rust VALUES (1)").await?;
    check(int(&mut other, count).await? == 0, "seen before its commit")?;
    one.rollback_transaction().await?;
    one.begin_transaction().await?;
    batch(&mut one, "INSERT INTO dbo.kept_rust VALUES (2)").await?;
    one.commit_transaction().await?;
    check(int(&mut other, count).await? == 1, "not seen after its commit")?;
    batch(&mut one, "DROP TABLE dbo.kept_rust").await?;
    Ok(())
}

async fn savepoint(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    connection.begin_transaction().await?;
    batch(&mut connection, "CREATE TABLE dbo.saved_rust (n int); INSERT INTO dbo.saved_rust VALUES (1)")
        .await?;
    connection.save_transaction("here").await?;
    // the client has no request that rolls back to one
    batch(&mut connection, "INSERT INTO dbo.saved_rust VALUES (2); ROLLBACK TRANSACTION here").await?;
    connection.commit_transaction().await?;
    check(int(&mut connection, "SELECT SUM(n) FROM dbo.saved_rust").await? == 1, "rows")?;
    batch(&mut connection, "DROP TABLE dbo.saved_rust").await?;
    Ok(())
}

async fn error_numbers(server: &Server) -> Answer<()> {
    let expected: Vec<(u32, String, String)> =
        serde_json::from_str(&std::fs::read_to_string(clients_folder().join("errors.json"))?)?;
    let mut connection = connect(server).await?;
    batch(
        &mut connection,
        "CREATE TABLE dbo.errors (id int NOT NULL PRIMARY KEY, u int NULL, s varchar(3) NULL, c int NULL CHECK (c > 0)); \
         CREATE UNIQUE INDEX one_u ON dbo.errors (u); INSERT INTO dbo.errors VALUES (1, 1, 'a', 1)",
    )
    .await?;
    for (expected, sql, text) in expected {
        let Err(error) = batch(&mut connection, &sql).await else {
            return Err(format!("{sql}: no error").into());
        };
        check(error.code() == Some(expected), format!("{sql}: {error}, and not {expected}"))?;
        check(error.to_string().contains(&text), format!("{sql}: {error}"))?;
    }
    batch(&mut connection, "DROP TABLE dbo.errors").await?;
    Ok(())
}

async fn attention(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    let started = Instant::now();
    {
        let wait = connection.simple_query("WAITFOR DELAY '00:00:10'");
        let ended = tokio::time::timeout(Duration::from_millis(500), wait).await.is_ok();
        check(!ended, "it did not wait")?;
    }
    connection.cancel_query().await?;
    check(started.elapsed() < Duration::from_secs(8), "it ran to its end")?;
    check(int(&mut connection, "SELECT 1").await? == 1, "the connection is of no more use")
}

async fn reconnect(server: &Server) -> Answer<()> {
    let mut connection = connect(server).await?;
    batch(&mut connection, "SET LOCK_TIMEOUT 5; BEGIN TRANSACTION").await?;
    connection.close().await?;
    let mut again = connect(server).await?;
    check(int(&mut again, "SELECT @@TRANCOUNT").await? == 0, "@@TRANCOUNT")
}
