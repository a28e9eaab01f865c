use tiberius::ColumnData;

use crate::fixture::{Fixture, error_of, int, rows, run, values};

#[tokio::test]
async fn a_statement_hands_a_value_back() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    let sql = "DECLARE @r int = 1; EXEC sp_executesql N'SET @x = @x + @y', N'@x int OUTPUT, @y int', @x = @r OUTPUT, @y = 4; SELECT @r";
    assert_eq!(int(&mut client, sql).await, 5);
    let not_declared = "DECLARE @r int; EXEC sp_executesql N'SET @x = 1', N'@x int', @x = @r OUTPUT";
    assert_eq!(error_of(&mut client, not_declared).await, 8162);
    assert_eq!(
        error_of(&mut client, "EXEC sp_executesql N'SET @x = 1', N'@x int OUTPUT', @x = 1 OUTPUT").await,
        179
    );
}

#[tokio::test]
async fn a_variable_collects_what_the_rows_have() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(
        &mut client,
        "CREATE TABLE dbo.t (n int, s varchar(9)); INSERT INTO dbo.t VALUES (2, 'b'), (1, 'a]'), (3, NULL)",
    )
    .await;
    let sql = "DECLARE @all nvarchar(max); SELECT @all = COALESCE(@all + ', ', '') + QUOTENAME(s) FROM dbo.t WHERE s IS NOT NULL ORDER BY n; SELECT @all, @@ROWCOUNT";
    assert_eq!(
        values(&mut client, sql).await,
        [ColumnData::String(Some("[a]]], [b]".into())), ColumnData::I32(Some(2))]
    );
    assert_eq!(int(&mut client, "DECLARE @n int = 0; SELECT @n = @n + n FROM dbo.t; SELECT @n").await, 6);
}

#[tokio::test]
async fn the_question_before_a_bulk_copy_of_microsofts_clients_is_answered() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(
        &mut client,
        "CREATE TABLE dbo.t (n int, s varchar(9), u varchar(9) COLLATE Latin1_General_100_CI_AS_SC_UTF8)",
    )
    .await;
    let collations = rows(&mut client, "EXEC ..sp_tablecollations_100 N'[dbo].[t]'").await;
    let names: Vec<Option<&str>> = collations.iter().map(|row| row.get(3)).collect();
    assert_eq!(names, [None, Some("SQL_Latin1_General_CP1_CI_AS"), Some("Latin1_General_100_CI_AS_SC_UTF8")]);
    assert_eq!(error_of(&mut client, "EXEC sp_who").await, 40517);
}
