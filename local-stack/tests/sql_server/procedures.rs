use std::time::{Duration, Instant};

use tiberius::{ColumnData, Command};

use crate::fixture::{Fixture, SqlClient, error_of, int, number_of, rows, run, values};

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

/// What `sp_describe_undeclared_parameters` says of each parameter: its name, its type, and the type's number in TDS.
async fn undeclared(
    client: &mut SqlClient,
    sql: &'static str,
) -> tiberius::Result<Vec<(String, String, i32)>> {
    let mut command = Command::new("sp_describe_undeclared_parameters");
    command.bind_param("@tsql", sql);
    let result = command.exec(client).await?.into_command_result().await?;
    let rows = result.to_query_result(0).map(Vec::as_slice).unwrap_or_default();
    let text = |row: &tiberius::Row, name| row.get::<&str, _>(name).unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| {
            let token = row.get("suggested_tds_type_id").unwrap_or_default();
            (text(row, "name"), text(row, "suggested_system_type_name"), token)
        })
        .collect())
}

#[tokio::test]
async fn the_types_of_an_inserts_parameters_are_those_of_its_columns() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL, d decimal(9, 2) NULL, s nvarchar(7) NULL, b varbinary(max) NULL)").await;
    let described = |name: &str, sql_type: &str, token| (name.to_owned(), sql_type.to_owned(), token);
    let all = undeclared(&mut client, "INSERT INTO dbo.t VALUES (@P1, @P2, @P3, @P4)").await.unwrap();
    let expected = [
        described("@P1", "int", 0x26),
        described("@P2", "decimal(9,2)", 0x6A),
        described("@P3", "nvarchar(7)", 0xE7),
        described("@P4", "varbinary(max)", 0xA5),
    ];
    assert_eq!(all, expected);
    let some = undeclared(&mut client, "INSERT INTO dbo.t (s, n) VALUES (@a, 1), (N'x', @b)").await.unwrap();
    assert_eq!(some, [described("@a", "nvarchar(7)", 0xE7), described("@b", "int", 0x26)]);
    let refused = undeclared(&mut client, "SELECT n FROM dbo.t WHERE n = @P1").await.unwrap_err();
    assert_eq!(number_of(&refused), 40517);
}

#[tokio::test]
async fn a_batch_waits_as_long_as_it_says() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    let started = Instant::now();
    assert_eq!(int(&mut client, "WAITFOR DELAY '00:00:00.400'; SELECT 1").await, 1);
    assert!((Duration::from_millis(400)..Duration::from_secs(20)).contains(&started.elapsed()));
    for wrong in ["'x'", "'24:00:00'", "'00:60:00'", "'00:00:60'", "'-1:00'"] {
        assert_eq!(error_of(&mut client, &format!("WAITFOR DELAY {wrong}")).await, 148, "{wrong}");
    }
    assert_eq!(error_of(&mut client, "WAITFOR TIME '10:00'").await, 40517);
}
