use tiberius::ColumnData;

use crate::fixture::{Fixture, batch, error_of, int, rows, run, values};

/// A value as text, its type in front of it.
fn show(value: &ColumnData<'_>) -> String {
    match value {
        ColumnData::Numeric(Some(number)) => format!("decimal {number}"),
        ColumnData::String(Some(text)) => format!("text {text}"),
        ColumnData::I32(Some(number)) => format!("int {number}"),
        ColumnData::I64(Some(number)) => format!("bigint {number}"),
        ColumnData::F64(Some(number)) => format!("float {number}"),
        ColumnData::U8(Some(number)) => format!("tinyint {number}"),
        ColumnData::Bit(Some(bit)) => format!("bit {}", u8::from(*bit)),
        other => format!("{other:?}"),
    }
}

/// What SQL Server answers, by its documentation.
const EXPRESSIONS: &[(&str, &str)] = &[
    ("7 / 2", "int 3"),
    ("-7 % 3", "int -1"),
    ("2.0 / 3", "decimal 0.666666"),
    ("1.5 + 1", "decimal 2.5"),
    ("1.10 * 2", "decimal 2.20"),
    ("1e0 / 4", "float 0.25"),
    ("'a' + 'b'", "text ab"),
    ("'1' + 1", "int 2"),
    ("N'x' + CAST(1 AS varchar(3))", "text x1"),
    ("CAST(2.9 AS int)", "int 2"),
    ("CAST(-2.9 AS int)", "int -2"),
    ("CAST(2.345 AS decimal(5,2))", "decimal 2.35"),
    ("CAST('abcdef' AS varchar(3))", "text abc"),
    ("CAST(N'ab' AS nchar(4))", "text ab  "),
    ("CAST(300 AS bigint)", "bigint 300"),
    ("CAST(7 AS bit)", "bit 1"),
    ("CONVERT(varchar(10), CAST('2013-01-02' AS date), 112)", "text 20130102"),
    (
        "CAST(CAST('2013-01-02T03:04:05.1234567' AS datetime2(7)) AS varchar(40))",
        "text 2013-01-02 03:04:05.1234567",
    ),
    (
        "CAST(CAST('2013-01-02 03:04:05.1234567' AS datetime2(3)) AS varchar(40))",
        "text 2013-01-02 03:04:05.123",
    ),
    (
        "CAST(CAST('2013-01-02 03:04:05 +02:00' AS datetimeoffset(0)) AS varchar(40))",
        "text 2013-01-02 03:04:05 +02:00",
    ),
    ("CAST(CAST('23:59:59.9999999' AS time(7)) AS varchar(20))", "text 23:59:59.9999999"),
    ("DATEDIFF(day, '2013-01-01', '2013-03-01')", "int 59"),
    ("DATEDIFF(year, '2012-12-31', '2013-01-01')", "int 1"),
    ("DATEDIFF(second, '2013-01-01', '2013-01-01T00:01:01.9')", "int 61"),
    ("CAST(DATEADD(month, 1, CAST('2013-01-31' AS date)) AS varchar(10))", "text 2013-02-28"),
    ("DATEPART(weekday, CAST('2013-01-01' AS date))", "int 3"),
    ("YEAR(CAST('2013-05-01' AS date))", "int 2013"),
    ("LEN('abc  ')", "int 3"),
    ("DATALENGTH(N'abc')", "int 6"),
    ("DATALENGTH(CAST('a' AS char(5)))", "int 5"),
    ("LEN(N'😀')", "int 2"),
    ("SUBSTRING('hello', 2, 3)", "text ell"),
    ("LEFT('hello', 2) + RIGHT('hello', 2)", "text helo"),
    ("UPPER('aé') + LOWER('ÀB')", "text AÉàb"),
    ("CHARINDEX('L', 'hello')", "int 3"),
    ("REPLACE('aXbx', 'x', '-')", "text a-b-"),
    ("ISNULL(NULL, 5)", "int 5"),
    ("ISNULL(CAST(NULL AS varchar(2)), 'abc')", "text ab"),
    ("COALESCE(NULL, 1, 2.5)", "decimal 1.0"),
    ("CASE WHEN 'A' = 'a ' THEN 1 ELSE 0 END", "int 1"),
    ("CASE WHEN N'x' LIKE N'[w-y]' THEN 1 ELSE 0 END", "int 1"),
    ("CASE WHEN 'a%b' LIKE 'a!%_' ESCAPE '!' THEN 1 ELSE 0 END", "int 1"),
    ("CASE WHEN NULL IN (1, 2) THEN 1 ELSE 0 END", "int 0"),
    ("IIF(1 = 2, 'yes', 'no')", "text no"),
    ("NULLIF('A', 'a')", "String(None)"),
    ("CONCAT('a', NULL, 1)", "text a1"),
    ("ROUND(2.567, 1)", "decimal 2.600"),
    ("FLOOR(-1.5)", "decimal -2.0"),
    ("ABS(-3)", "int 3"),
    ("CAST(0.1 AS float)", "float 0.1"),
    ("CAST(CAST(1234567.0 AS float) AS varchar(20))", "text 1.23457e+006"),
    ("CAST(CAST(0.5 AS float) AS varchar(20))", "text 0.5"),
    ("CONVERT(varchar(10), 0x01FF, 1)", "text 0x01FF"),
    (
        "CAST('6F9619FF-8B86-D011-B42D-00C04FC964FF' AS varchar(36))",
        "text 6F9619FF-8B86-D011-B42D-00C04FC964FF",
    ),
    ("SERVERPROPERTY('EngineEdition')", "int 5"),
    ("DB_NAME()", "text sinkdb"),
    ("0x01 & 3", "error"),
    ("5 & 3 | 8", "int 9"),
    ("(SELECT MAX(n) FROM (VALUES (1), (3), (2)) AS v (n))", "int 3"),
];

#[tokio::test]
async fn expressions_have_sql_servers_types_and_values() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    for (expression, expected) in EXPRESSIONS {
        let result = batch(&mut client, &format!("SELECT {expression} AS x")).await;
        let got = match result {
            Ok(results) => show(&results[0][0].clone_values()[0]),
            Err(error) if *expected == "error" => {
                assert!(error.code().is_some());
                continue;
            }
            Err(error) => format!("{error}"),
        };
        assert_eq!(got, *expected, "{expression}");
    }
}

trait CloneValues {
    fn clone_values(&self) -> Vec<ColumnData<'static>>;
}

impl CloneValues for tiberius::Row {
    fn clone_values(&self) -> Vec<ColumnData<'static>> {
        self.cells().map(|(_, value)| value.clone()).collect()
    }
}

const ERRORS: &[(&str, u32)] = &[
    ("SELECT CAST(300 AS tinyint)", 220),
    ("SELECT CAST(3000000000 AS int)", 8115),
    ("SELECT 2147483647 + 1", 8115),
    ("SELECT CAST('x' AS int)", 245),
    ("SELECT CAST('x' AS decimal(5,2))", 8114),
    ("SELECT CAST('x' AS date)", 241),
    ("SELECT CAST('2013-02-30' AS date)", 241),
    ("SELECT CAST('x' AS uniqueidentifier)", 8169),
    ("SELECT 1 FROM dbo.missing", 208),
    ("SELECT missing FROM dbo.t", 207),
    ("SELECT x.a FROM dbo.t", 4104),
    ("SELECT a, COUNT(*) FROM dbo.t", 8120),
    ("SELECT SUM(c) FROM dbo.t", 8117),
    ("SELECT @missing", 137),
    ("SELECT nothing_like_it(1)", 195),
    ("SELECT a FROM dbo.t WHERE a", 4145),
    ("SELECT ) FROM", 102),
    ("SELECT TOP 10 PERCENT a FROM dbo.t", 40517),
    ("SELECT a FROM #t", 208),
    ("MERGE INTO dbo.t USING dbo.t AS s ON 1 = 1 WHEN MATCHED THEN DELETE;", 40517),
    ("CREATE TABLE dbo.t (a int)", 2714),
    ("CREATE TABLE dbo.x (a int, A int)", 2705),
    ("CREATE TABLE nowhere.x (a int)", 2760),
    ("CREATE TABLE dbo.x (a sql_variant)", 40517),
    ("DROP TABLE dbo.missing", 3701),
    ("INSERT INTO dbo.t (a) VALUES (1, 2)", 213),
    ("INSERT INTO dbo.t (b) VALUES (N'too long by far')", 2628),
    ("UPDATE sys.tables SET name = 'x'", 259),
    ("SET ROWCOUNT 5", 40517),
    ("EXEC missing", 2812),
];

#[tokio::test]
async fn long_chains_are_bound_and_deep_ones_refused() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    assert_eq!(int(&mut client, &format!("SELECT 1{}", " + 1".repeat(500))).await, 501);
    assert_eq!(
        int(&mut client, &format!("SELECT CASE WHEN 1 = 2{} THEN 1 ELSE 0 END", " OR 1 = 1".repeat(500)))
            .await,
        1
    );
    let union = "UNION ALL SELECT 'a' ".repeat(1000);
    assert_eq!(error_of(&mut client, &format!("SELECT 'a' {union}")).await, 191);
    assert_eq!(error_of(&mut client, &format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500))).await, 191);
    assert_eq!(int(&mut client, "SELECT 1").await, 1);
}

#[tokio::test]
async fn errors_have_sql_servers_numbers() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (a int, b nvarchar(5), c bit)").await;
    for (sql, expected) in ERRORS {
        assert_eq!(error_of(&mut client, sql).await, *expected, "{sql}");
    }
}

#[tokio::test]
async fn queries_group_sort_join_and_page() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(
        &mut client,
        "CREATE TABLE dbo.Flights (Id int NOT NULL PRIMARY KEY, Carrier varchar(2) NOT NULL, Delay int NULL, At datetimeoffset(0) NULL); \
         CREATE TABLE dbo.carriers (code varchar(2) NOT NULL, name nvarchar(20)); \
         INSERT INTO dbo.flights VALUES (1, 'UA', 5, '2013-01-01 10:00 +00:00'), (2, 'ua', NULL, '2013-01-01 11:00 +01:00'), (3, 'AA', -3, NULL), (4, 'B6', 10, NULL); \
         INSERT INTO dbo.carriers VALUES ('UA', N'United'), ('AA', N'American')",
    )
    .await;
    let table = |rows: Vec<tiberius::Row>| -> Vec<String> {
        rows.iter().map(|row| row.clone_values().iter().map(show).collect::<Vec<_>>().join(", ")).collect()
    };
    let cases: &[(&str, &[&str])] = &[
        (
            "SELECT [carrier], COUNT(*) AS n, SUM(delay) AS total FROM FLIGHTS GROUP BY carrier HAVING COUNT(*) > 0 ORDER BY n DESC, carrier",
            &["text UA, int 2, int 5", "text AA, int 1, int -3", "text B6, int 1, int 10"],
        ),
        (
            "SELECT COUNT(*), COUNT(delay), COUNT_BIG(DISTINCT carrier), COUNT(DISTINCT at), AVG(delay), MIN(carrier) FROM dbo.flights",
            &["int 4, int 3, bigint 3, int 1, int 4, text AA"],
        ),
        ("SELECT TOP (2) id FROM dbo.flights ORDER BY delay", &["int 2", "int 3"]),
        ("SELECT id FROM dbo.flights ORDER BY id OFFSET 1 ROWS FETCH NEXT 2 ROWS ONLY", &["int 2", "int 3"]),
        (
            "SELECT f.id, c.name FROM dbo.flights AS f LEFT JOIN dbo.carriers c ON c.code = f.carrier WHERE f.id > 2 ORDER BY 1",
            &["int 3, text American", "int 4, String(None)"],
        ),
        (
            "SELECT DISTINCT carrier FROM dbo.flights ORDER BY carrier DESC",
            &["text UA", "text B6", "text AA"],
        ),
        (
            "WITH d AS (SELECT carrier AS c, delay FROM dbo.flights WHERE delay IS NOT NULL) SELECT c, MAX(delay) FROM d GROUP BY c ORDER BY c",
            &["text AA, int -3", "text B6, int 10", "text UA, int 5"],
        ),
        (
            "SELECT id FROM dbo.flights WHERE carrier IN (SELECT code FROM dbo.carriers) AND EXISTS (SELECT 1 FROM dbo.carriers WHERE code = carrier AND name LIKE N'un%') ORDER BY id",
            &["int 1", "int 2"],
        ),
        (
            "SELECT CASE WHEN delay > 0 THEN 'late' ELSE 'not' END AS k, COUNT(*) FROM dbo.flights GROUP BY CASE WHEN delay > 0 THEN 'late' ELSE 'not' END ORDER BY k",
            &["text late, int 2", "text not, int 2"],
        ),
        (
            "SELECT id, ROW_NUMBER() OVER (PARTITION BY carrier ORDER BY id DESC) AS r FROM dbo.flights ORDER BY id",
            &["int 1, bigint 2", "int 2, bigint 1", "int 3, bigint 1", "int 4, bigint 1"],
        ),
        ("SELECT 'a' AS x UNION SELECT 'A' UNION ALL SELECT 'b' ORDER BY x", &["text a", "text b"]),
        ("DECLARE @n int = 2; SET @n = @n + 1; SELECT id FROM dbo.flights WHERE id = @n", &["int 3"]),
        (
            "SELECT UPPER(carrier) + '!' FROM dbo.flights GROUP BY UPPER(carrier) ORDER BY UPPER(carrier)",
            &["text AA!", "text B6!", "text UA!"],
        ),
    ];
    for (sql, expected) in cases {
        assert_eq!(table(rows(&mut client, sql).await), *expected, "{sql}");
    }
}

#[tokio::test]
async fn rows_are_changed_and_counted() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (a int NOT NULL, b varchar(10)); INSERT INTO dbo.t WITH (TABLOCK) (a, b) VALUES (1, 'x'), (2, 'y'), (3, NULL)").await;
    assert_eq!(int(&mut client, "UPDATE dbo.t SET b = b + '!' WHERE a < 3; SELECT @@ROWCOUNT").await, 2);
    assert_eq!(int(&mut client, "UPDATE t SET b = s.name FROM dbo.t AS t JOIN (SELECT 1 AS id, 'one' AS name) AS s ON s.id = t.a; SELECT @@ROWCOUNT").await, 1);
    assert_eq!(int(&mut client, "DELETE FROM dbo.t WHERE b IS NULL; SELECT @@ROWCOUNT").await, 1);
    assert_eq!(int(&mut client, "INSERT INTO dbo.t (a) SELECT a + 10 FROM dbo.t AS s WITH (UPDLOCK, HOLDLOCK) WHERE NOT EXISTS (SELECT 1 FROM dbo.t x WHERE x.a = s.a + 10); SELECT @@ROWCOUNT").await, 2);
    assert_eq!(show(&values(&mut client, "SELECT b FROM dbo.t WHERE a = 1").await[0]), "text one");
    run(&mut client, "TRUNCATE TABLE dbo.t").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
}

#[tokio::test]
async fn the_catalogue_tells_the_shape_of_a_table() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE SCHEMA Sales").await;
    run(
        &mut client,
        "IF OBJECT_ID(N'[Sales].[Orders]', N'U') IS NULL CREATE TABLE [Sales].[Orders] (Id bigint NOT NULL, Region varchar(10) COLLATE Latin1_General_100_CI_AS_SC_UTF8 NULL, \
         Amount decimal(12,2) NOT NULL CONSTRAINT df_amount DEFAULT (0), INDEX cci CLUSTERED COLUMNSTORE, CONSTRAINT pk PRIMARY KEY NONCLUSTERED (Id), CONSTRAINT positive CHECK (Amount >= 0))",
    )
    .await;
    run(&mut client, "IF OBJECT_ID(N'sales.orders', N'U') IS NULL CREATE TABLE sales.orders (x int)").await;
    let columns = rows(
        &mut client,
        "SELECT c.name, t.name, c.max_length, c.is_nullable, c.collation_name FROM sys.columns c JOIN sys.types t ON t.user_type_id = c.user_type_id \
         JOIN sys.tables o ON o.object_id = c.object_id JOIN sys.schemas s ON s.schema_id = o.schema_id WHERE s.name = 'sales' AND o.name = 'ORDERS' ORDER BY c.column_id",
    )
    .await;
    let names: Vec<(Option<&str>, Option<&str>)> =
        columns.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(
        names,
        [(Some("Id"), Some("bigint")), (Some("Region"), Some("varchar")), (Some("Amount"), Some("decimal"))]
    );
    assert_eq!(columns[1].get::<&str, _>(4), Some("Latin1_General_100_CI_AS_SC_UTF8"));
    let indexes = rows(&mut client, "SELECT name, type_desc, is_primary_key FROM sys.indexes WHERE object_id = OBJECT_ID('Sales.Orders') ORDER BY index_id").await;
    let indexes: Vec<(Option<&str>, Option<&str>, Option<bool>)> =
        indexes.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(
        indexes,
        [
            (Some("cci"), Some("CLUSTERED COLUMNSTORE"), Some(false)),
            (Some("pk"), Some("NONCLUSTERED"), Some(true))
        ]
    );
    assert_eq!(
        int(
            &mut client,
            "SELECT COUNT(*) FROM sys.check_constraints WHERE parent_object_id = OBJECT_ID('Sales.Orders')"
        )
        .await,
        1
    );
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM sys.triggers").await, 0);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'Orders' AND IS_NULLABLE = 'NO'").await, 2);
    // a rollback takes the table and its rows in the catalogue back
    run(&mut client, "BEGIN TRAN; CREATE TABLE dbo.gone (a int); ROLLBACK").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM sys.tables WHERE name = 'gone'").await, 0);
    run(
        &mut client,
        "ALTER TABLE Sales.Orders ADD Note nvarchar(20) NULL; DROP TABLE Sales.Orders; DROP SCHEMA Sales",
    )
    .await;
}

#[tokio::test]
async fn an_error_is_caught_and_thrown_again() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    assert_eq!(
        int(&mut client, "BEGIN TRY SELECT 1/0 AS x END TRY BEGIN CATCH SELECT ERROR_NUMBER() END CATCH")
            .await,
        8134
    );
    assert_eq!(
        error_of(&mut client, "BEGIN TRY THROW 50005, N'mine', 3; END TRY BEGIN CATCH THROW; END CATCH")
            .await,
        50005
    );
}
