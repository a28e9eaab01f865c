use tiberius::{ColumnData, IntoRow, SqlBulkCopyOption, TokenRow};

use crate::fixture::{Fixture, SqlClient, error_of, int, number_of, rows, run};

/// Loads `ids` into `dbo.t (id bigint, name nvarchar(20))`.
async fn load(client: &mut SqlClient, ids: impl IntoIterator<Item = i64>) -> tiberius::Result<u64> {
    let options = SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints;
    let mut request = client.bulk_insert_with_options("dbo.t", &["*"], options, &[]).await?;
    for id in ids {
        request.send((id, Some("name")).into_row()).await?;
    }
    Ok(request.finalize().await?.total())
}

#[tokio::test]
async fn the_server_counts_what_it_took_and_names_what_it_refuses() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL CONSTRAINT pk_t PRIMARY KEY, name nvarchar(20), CONSTRAINT low CHECK (id < 1000000))").await;
    assert_eq!(load(&mut client, 0..100_000).await.unwrap(), 100_000);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 100_000);
    assert_eq!(load(&mut client, []).await.unwrap(), 0);

    let mut client = fixture.connect().await;
    assert_eq!(number_of(&load(&mut client, [200_000, 5]).await.unwrap_err()), 2627);
    let mut client = fixture.connect().await;
    assert_eq!(number_of(&load(&mut client, [200_000, 2_000_000]).await.unwrap_err()), 547);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 100_000);
    run(&mut client, "CREATE UNIQUE NONCLUSTERED INDEX by_name ON dbo.t (id, name)").await;
    run(&mut client, "DROP TABLE dbo.t").await;
    assert_eq!(number_of(&load(&mut client, [1]).await.unwrap_err()), 208);

    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20) NOT NULL); CREATE UNIQUE INDEX by_name ON dbo.t (name)").await;
    assert_eq!(number_of(&load(&mut client, [1, 2]).await.unwrap_err()), 2601);
}

#[tokio::test]
async fn a_load_in_a_transaction_comes_and_goes_with_it() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL PRIMARY KEY, name nvarchar(20))").await;
    let mut other = fixture.connect().await;

    run(&mut client, "BEGIN TRAN").await;
    load(&mut client, 0..1000).await.unwrap();
    assert_eq!(int(&mut other, "SELECT COUNT(*) FROM dbo.t").await, 0, "what is not committed is seen");
    run(&mut client, "ROLLBACK").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);

    run(&mut client, "BEGIN TRAN").await;
    load(&mut client, 0..1000).await.unwrap();
    // without XACT_ABORT a failed load leaves the transaction as it was before it
    assert_eq!(number_of(&load(&mut client, [5000, 1]).await.unwrap_err()), 2627);
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 1);
    run(&mut client, "COMMIT").await;
    assert_eq!(int(&mut other, "SELECT COUNT(*) FROM dbo.t").await, 1000);

    run(&mut client, "SET XACT_ABORT ON; BEGIN TRAN").await;
    load(&mut client, 2000..3000).await.unwrap();
    assert_eq!(number_of(&load(&mut client, [1]).await.unwrap_err()), 2627);
    assert_eq!(
        int(&mut client, "SELECT @@TRANCOUNT").await,
        0,
        "the transaction outlives an error under XACT_ABORT"
    );
    assert_eq!(int(&mut other, "SELECT COUNT(*) FROM dbo.t").await, 1000);
    assert_eq!(error_of(&mut client, "COMMIT").await, 3902);
}

#[tokio::test]
async fn a_client_that_vanishes_within_its_load_leaves_nothing() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20))").await;
    let mut leaving = fixture.connect().await;
    run(&mut leaving, "BEGIN TRAN; INSERT INTO dbo.t VALUES (1, N'a')").await;
    {
        let mut request = leaving.bulk_insert("dbo.t").await.unwrap();
        for id in 0..100_000i64 {
            request.send((id, Some("name")).into_row()).await.unwrap();
        }
    }
    drop(leaving);
    // waits for the other session's locks to go
    run(&mut client, "SET LOCK_TIMEOUT 20000; DROP TABLE dbo.t").await;
}

#[tokio::test]
async fn several_connections_load_into_one_table_at_once() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL PRIMARY KEY, name nvarchar(20))").await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "BEGIN TRAN").await;
    run(&mut second, "BEGIN TRAN").await;
    let (a, b) = tokio::join!(load(&mut first, 0..50_000), load(&mut second, 50_000..100_000));
    assert_eq!((a.unwrap(), b.unwrap()), (50_000, 50_000));
    run(&mut first, "COMMIT").await;
    run(&mut second, "COMMIT").await;
    assert_eq!(int(&mut client, "SELECT COUNT(DISTINCT id) FROM dbo.t").await, 100_000);
}

#[tokio::test]
async fn identity_defaults_and_column_subsets_are_filled_in() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int IDENTITY(10, 5), a int NOT NULL, b varchar(10) DEFAULT 'none', c bit NOT NULL DEFAULT 1)").await;
    let mut request = client
        .bulk_insert_with_options("dbo.t", &["a", "b"], SqlBulkCopyOption::KeepNulls.into(), &[])
        .await
        .unwrap();
    request.send((1i32, Option::<&str>::None).into_row()).await.unwrap();
    request.finalize().await.unwrap();
    // without KEEP_NULLS a NULL becomes the column's default
    let mut request = client.bulk_insert_columns("dbo.t", &["a", "b"]).await.unwrap();
    request.send((2i32, Option::<&str>::None).into_row()).await.unwrap();
    request.finalize().await.unwrap();
    let rows = rows(&mut client, "SELECT n, a, b, c FROM dbo.t ORDER BY a").await;
    let got: Vec<(i32, i32, Option<&str>, bool)> = rows
        .iter()
        .map(|row| (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2), row.get(3).unwrap()))
        .collect();
    assert_eq!(got, [(10, 1, None, true), (15, 2, Some("none"), true)]);
}

#[tokio::test]
async fn without_check_constraints_a_load_skips_them_as_sql_server_does() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (a int CHECK (a > 0))").await;
    let mut request = client.bulk_insert("dbo.t").await.unwrap();
    request.send(Some(-1i32).into_row()).await.unwrap();
    assert_eq!(request.finalize().await.unwrap().total(), 1);
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t VALUES (-1)").await, 547);
}

#[tokio::test]
async fn discard_checks_and_counts_and_keeps_nothing() {
    let fixture = Fixture::discarding().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20))").await;
    assert_eq!(load(&mut client, 0..10_000).await.unwrap(), 10_000);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
}

#[tokio::test]
async fn a_long_value_arrives_whole() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int, a nvarchar(max), b varbinary(max))").await;
    // tiberius' bulk load takes no more than 65,535 bytes of a value, and its parameters do
    for (n, repeat) in [(0i32, 8_000usize), (1, 300_000)] {
        let text = "äb😀".repeat(repeat);
        let bytes = vec![7u8; repeat * 8];
        if n == 0 {
            let mut request = client.bulk_insert("dbo.t").await.unwrap();
            let mut row = TokenRow::new();
            row.push(tiberius::ColumnData::I32(Some(n)));
            row.push(tiberius::ColumnData::String(Some(text.as_str().into())));
            row.push(tiberius::ColumnData::Binary(Some(bytes.as_slice().into())));
            request.send(row).await.unwrap();
            request.finalize().await.unwrap();
        } else {
            let sql = "INSERT INTO dbo.t VALUES (@P1, @P2, @P3)";
            client.execute(sql, &[&n, &text.as_str(), &bytes.as_slice()]).await.unwrap();
        }
        let rows = rows(&mut client, &format!("SELECT a, b FROM dbo.t WHERE n = {n}")).await;
        assert_eq!(rows[0].get::<&str, _>(0), Some(text.as_str()));
        assert_eq!(rows[0].get::<&[u8], _>(1), Some(bytes.as_slice()));
    }
}

#[tokio::test]
async fn a_load_has_no_xml_and_sends_what_it_announced() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    // the client sends xml as such, and nvarchar of more than 2,000 characters otherwise than it announces it
    for (sql_type, refused) in [
        ("xml", true),
        ("nvarchar(2001)", true),
        ("nvarchar(2000)", false),
        ("nvarchar(max)", false),
        ("varchar(8000)", false),
    ] {
        run(&mut client, &format!("DROP TABLE IF EXISTS dbo.t; CREATE TABLE dbo.t (v {sql_type})")).await;
        let mut request = client.bulk_insert("dbo.t").await.unwrap();
        let value =
            if sql_type == "xml" { ColumnData::Xml(None) } else { ColumnData::String(Some("a".into())) };
        let mut row = TokenRow::new();
        row.push(value);
        request.send(row).await.unwrap();
        let loaded = request.finalize().await;
        assert_eq!(loaded.as_ref().err().map(number_of), refused.then_some(4816), "{sql_type}");
    }
}
