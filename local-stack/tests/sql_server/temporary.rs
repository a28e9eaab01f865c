//! Temporary tables: of the session, or of the procedure that made them, and within transactions.

use tiberius::{ColumnData, IntoRow, SqlBulkCopyOption};

use crate::fixture::{Fixture, SqlClient, error_of, int, rows, run, values};

async fn load(client: &mut SqlClient, table: &str, rows: &[(i64, &'static str, i64)]) -> u64 {
    let options = SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints;
    let mut request = client.bulk_insert_with_options(table, &["*"], options, &[]).await.unwrap();
    for (id, name, sequence) in rows {
        request.send((*id, Some(*name), *sequence).into_row()).await.unwrap();
    }
    request.finalize().await.unwrap().total()
}

#[tokio::test]
async fn a_temporary_table_is_seen_by_its_own_session_alone() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "CREATE TABLE #t (id int NOT NULL PRIMARY KEY, name nvarchar(20) COLLATE DATABASE_DEFAULT); INSERT INTO #t VALUES (1, N'a')").await;
    assert_eq!(error_of(&mut second, "SELECT * FROM #t").await, 208);
    run(&mut second, "CREATE TABLE #t (other bigint)").await;
    assert_eq!(int(&mut first, "SELECT COUNT(*) FROM tempdb..#t").await, 1);
    assert_eq!(int(&mut second, "SELECT COUNT(*) FROM dbo.#t").await, 0);
    assert_eq!(error_of(&mut first, "CREATE TABLE #T (id int)").await, 2714);
    assert_eq!(error_of(&mut first, "INSERT INTO #t VALUES (1, N'b')").await, 2627);
    assert_eq!(error_of(&mut first, "INSERT INTO #t VALUES (NULL, N'b')").await, 515);
    assert_eq!(error_of(&mut first, "CREATE TABLE ##t (id int)").await, 40517);
    // the database's own catalogue does not know it, tempdb's does
    assert_eq!(int(&mut first, "SELECT COUNT(*) FROM sys.tables").await, 0);
    let count = "SELECT COUNT(*) FROM tempdb.sys.columns WHERE object_id = OBJECT_ID('tempdb..#t')";
    assert_eq!(int(&mut first, count).await, 2);
    assert_eq!(int(&mut second, count).await, 1);
    assert_eq!(int(&mut first, "SELECT CASE WHEN OBJECT_ID('#t') IS NULL THEN 1 ELSE 0 END").await, 1);
    run(&mut first, "IF OBJECT_ID(N'tempdb..#t', N'U') IS NOT NULL DROP TABLE #t").await;
    assert_eq!(error_of(&mut first, "SELECT * FROM #t").await, 208);
    assert_eq!(error_of(&mut first, "DROP TABLE #t").await, 3701);
    run(&mut first, "DROP TABLE IF EXISTS #t").await;
}

#[tokio::test]
async fn a_rollback_takes_a_temporary_table_back() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "BEGIN TRANSACTION; CREATE TABLE #t (id int); INSERT INTO #t VALUES (1); ROLLBACK")
        .await;
    assert_eq!(error_of(&mut client, "SELECT * FROM #t").await, 208);
    run(&mut client, "CREATE TABLE #t (id int)").await;
    run(&mut client, "BEGIN TRANSACTION; INSERT INTO #t VALUES (1); ROLLBACK").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM #t").await, 0);
}

#[tokio::test]
async fn a_procedures_temporary_table_ends_with_it_and_hides_the_one_outside() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    // sp_executesql over the wire
    client.execute("CREATE TABLE #t (id int)", &[]).await.unwrap();
    assert_eq!(error_of(&mut client, "SELECT * FROM #t").await, 208);
    run(&mut client, "CREATE TABLE #t (id int); INSERT INTO #t VALUES (1)").await;
    let inside = "EXEC sp_executesql N'INSERT INTO #t VALUES (2); CREATE TABLE #t (id int); INSERT INTO #t VALUES (7); SELECT SUM(id) FROM #t'";
    assert_eq!(int(&mut client, inside).await, 7);
    assert_eq!(int(&mut client, "SELECT SUM(id) FROM #t").await, 3);
    run(&mut client, "EXEC (N'CREATE TABLE #inner (id int)')").await;
    assert_eq!(error_of(&mut client, "SELECT * FROM #inner").await, 208);
}

#[tokio::test]
async fn select_into_makes_a_table_of_a_querys_columns() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name varchar(20) COLLATE Latin1_General_100_BIN2, price decimal(9,2) NOT NULL, own int IDENTITY)").await;
    run(
        &mut client,
        "INSERT INTO dbo.t (id, name, price) VALUES (1, 'a', 1.25), (2, 'b', 2.5), (3, NULL, 0)",
    )
    .await;
    assert_eq!(
        int(&mut client, "SELECT id, name, price INTO #copy FROM dbo.t WHERE id < 3; SELECT @@ROWCOUNT")
            .await,
        2
    );
    let shape = "SELECT c.name, t.name, c.is_nullable, c.collation_name FROM tempdb.sys.columns c JOIN sys.types t ON t.user_type_id = c.user_type_id \
        WHERE c.object_id = OBJECT_ID('tempdb..#copy') ORDER BY c.column_id";
    let shape: Vec<(String, String, bool, Option<String>)> = rows(&mut client, shape)
        .await
        .iter()
        .map(|row| {
            let text = |index| row.get::<&str, _>(index).map(str::to_owned);
            (text(0).unwrap(), text(1).unwrap(), row.get(2).unwrap(), text(3))
        })
        .collect();
    let column = |name: &str, sql_type: &str, nullable, collation: Option<&str>| {
        (name.to_owned(), sql_type.to_owned(), nullable, collation.map(str::to_owned))
    };
    assert_eq!(
        shape,
        [
            column("id", "bigint", false, None),
            column("name", "varchar", true, Some("Latin1_General_100_BIN2")),
            column("price", "decimal", false, None),
        ]
    );
    run(&mut client, "SELECT TOP 0 * INTO dbo.empty FROM #copy").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.empty").await, 0);
    assert_eq!(error_of(&mut client, "SELECT 1 AS a INTO dbo.empty").await, 2714);
    assert_eq!(error_of(&mut client, "SELECT 1 INTO #unnamed").await, 1038);
    assert_eq!(error_of(&mut client, "SELECT own INTO #own FROM dbo.t").await, 40517);
    // nothing is left of one that fails in the middle
    assert_eq!(error_of(&mut client, "SELECT 1 / (id - 1) AS a INTO #broken FROM dbo.t").await, 8134);
    assert_eq!(error_of(&mut client, "SELECT * FROM #broken").await, 208);
}

#[tokio::test]
async fn a_keyed_batch_is_staged_and_applied_in_one_transaction() {
    // GIVEN a table with two keys, that differ from what is staged in case and trailing blanks
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20) NOT NULL, seq bigint NOT NULL, CONSTRAINT pk_t PRIMARY KEY (id, name))").await;
    run(&mut client, "INSERT INTO dbo.t VALUES (1, N'KEY', 5), (2, N'key', 5)").await;
    // WHEN a batch is staged and merged
    run(&mut client, "SET XACT_ABORT ON; BEGIN TRANSACTION").await;
    run(&mut client, "DECLARE @r int; EXEC @r = sp_getapplock @Resource = N'dbo.t', @LockMode = N'Exclusive'; IF @r < 0 THROW 50000, N'lock', 1").await;
    run(&mut client, "SELECT TOP 0 id, name, seq INTO #stage FROM dbo.t").await;
    let staged = [(1, "key  ", 9), (1, "Key", 7), (2, "KEY", 3), (3, "new", 1), (3, "NEW", 2)];
    assert_eq!(load(&mut client, "#stage", &staged).await, 5);
    let duplicates = "WITH ranked AS (SELECT seq, ROW_NUMBER() OVER (PARTITION BY id, name ORDER BY seq DESC) AS place FROM #stage) \
        DELETE FROM ranked WHERE place > 1; SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, duplicates).await, 2);
    let update = "UPDATE t SET seq = s.seq FROM dbo.t AS t WITH (UPDLOCK, HOLDLOCK) JOIN #stage AS s ON s.id = t.id AND s.name = t.name \
        WHERE s.seq > t.seq; SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, update).await, 1);
    let insert = "INSERT INTO dbo.t (id, name, seq) SELECT s.id, s.name, s.seq FROM #stage AS s \
        WHERE NOT EXISTS (SELECT 1 FROM dbo.t AS t WITH (UPDLOCK, HOLDLOCK) WHERE t.id = s.id AND t.name = s.name); SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, insert).await, 1);
    run(&mut client, "COMMIT; DROP TABLE #stage").await;
    // THEN each key is there once, with its highest sequence
    let found: Vec<(i64, i64)> = rows(&mut client, "SELECT id, seq FROM dbo.t ORDER BY id")
        .await
        .iter()
        .map(|row| (row.get(0).unwrap(), row.get(1).unwrap()))
        .collect();
    assert_eq!(found, [(1, 9), (2, 5), (3, 2)]);
}

#[tokio::test]
async fn a_common_table_expression_stands_before_a_change() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id int NOT NULL, name nvarchar(20)); INSERT INTO dbo.t VALUES (1, N'a'), (2, N'b'), (3, N'c')").await;
    let insert = "WITH next AS (SELECT MAX(id) + 1 AS id FROM dbo.t) INSERT INTO dbo.t (id, name) SELECT id, N'd' FROM next; SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, insert).await, 1);
    let update = "WITH odd AS (SELECT id AS number, name FROM dbo.t WHERE id % 2 = 1) UPDATE odd SET name = name + N'!' WHERE number > 1; SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, update).await, 1);
    let read = "WITH large AS (SELECT id FROM dbo.t WHERE id > 3) UPDATE t SET name = N'z' FROM dbo.t AS t JOIN large AS l ON l.id = t.id; SELECT @@ROWCOUNT";
    assert_eq!(int(&mut client, read).await, 1);
    assert_eq!(
        int(
            &mut client,
            "WITH x AS (SELECT TOP (1) id FROM dbo.t ORDER BY id) DELETE FROM x; SELECT @@ROWCOUNT"
        )
        .await,
        1
    );
    let names: Vec<String> = rows(&mut client, "SELECT name FROM dbo.t ORDER BY id")
        .await
        .iter()
        .map(|row| row.get::<&str, _>(0).unwrap().to_owned())
        .collect();
    assert_eq!(names, ["b", "c!", "z"]);
    run(&mut client, "INSERT INTO dbo.t VALUES (7, N'x'), (8, N'x'), (9, N'x')").await;
    assert_eq!(int(&mut client, "DELETE s FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS place FROM dbo.t WHERE name = N'x') AS s WHERE place = 2; SELECT @@ROWCOUNT").await, 1);
    assert_eq!(int(&mut client, "DELETE TOP (1) FROM dbo.t WHERE name = N'x'; SELECT @@ROWCOUNT").await, 1);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t WHERE id IN (7, 9)").await, 1);
    assert_eq!(error_of(&mut client, "DELETE FROM dbo.t LIMIT 1").await, 102);
    assert_eq!(error_of(&mut client, "UPDATE TOP (1) dbo.t SET name = N''").await, 40517);
    // a group has no row of its own that could be changed
    assert_eq!(
        error_of(
            &mut client,
            "WITH g AS (SELECT name, COUNT(*) AS n FROM dbo.t GROUP BY name) DELETE FROM g"
        )
        .await,
        4403
    );
}

#[tokio::test]
async fn a_computed_column_follows_from_the_others() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (twice AS (amount * 2), amount int NOT NULL, label AS (name + N'-' + CONVERT(nvarchar(10), amount)) PERSISTED, name nvarchar(10))").await;
    run(&mut client, "INSERT INTO dbo.t VALUES (4, N'x'); INSERT INTO dbo.t (name, amount) VALUES (N'y', 5)")
        .await;
    let found = values(&mut client, "SELECT twice, label FROM dbo.t WHERE amount = 4").await;
    assert_eq!(found, [ColumnData::I32(Some(8)), ColumnData::String(Some("x-4".into()))]);
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t (twice) VALUES (1)").await, 271);
    assert_eq!(error_of(&mut client, "UPDATE dbo.t SET twice = 1").await, 271);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM sys.computed_columns WHERE is_persisted = 1").await, 1);
    run(&mut client, "ALTER TABLE dbo.t ADD thrice AS amount * 3").await;
    assert_eq!(int(&mut client, "SELECT thrice FROM dbo.t WHERE amount = 5").await, 15);
    // a load leaves them out
    let mut request = client.bulk_insert("dbo.t").await.unwrap();
    request.send((6, Some("z")).into_row()).await.unwrap();
    assert_eq!(request.finalize().await.unwrap().total(), 1);
    assert_eq!(int(&mut client, "SELECT thrice FROM dbo.t WHERE amount = 6").await, 18);
    assert_eq!(error_of(&mut client, "CREATE TABLE dbo.u (a int, b AS SYSUTCDATETIME())").await, 40517);
}
