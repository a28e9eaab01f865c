//! `money`, `datetime`, `smalldatetime` and `xml` in expressions.

use crate::fixture::{Fixture, error_of, rows, run};

/// Expressions of a text, and what SQL Server gives for them.
const VALUES: &[(&str, &str)] = &[
    ("CAST(CAST('$1,234.56789' AS money) AS varchar(30))", "1234.57"),
    ("CONVERT(varchar(30), CAST(-922337203685477.5808 AS money), 2)", "-922337203685477.5808"),
    ("CAST(CAST(CAST(2.5 AS smallmoney) AS int) AS varchar(9))", "3"),
    ("CAST(CAST('2024-02-29 13:05:59.998' AS datetime) AS varchar(30))", "Feb 29 2024  1:05PM"),
    ("CONVERT(varchar(30), CAST('2024-02-29 13:05:59.998' AS datetime), 121)", "2024-02-29 13:05:59.997"),
    ("CONVERT(varchar(30), CAST('2024-02-29 13:05:59.999' AS datetime), 126)", "2024-02-29T13:06:00"),
    ("CONVERT(varchar(30), CAST('2024-02-29 13:05:29.998' AS smalldatetime), 120)", "2024-02-29 13:05:00"),
    ("CONVERT(varchar(30), CAST('2024-02-29 13:05:29.999' AS smalldatetime), 120)", "2024-02-29 13:06:00"),
    (
        "CAST(CAST(CAST('2024-01-01 00:00:00.003' AS datetime) AS datetime2(7)) AS varchar(30))",
        "2024-01-01 00:00:00.0033333",
    ),
    (
        "CAST(DATEDIFF(minute, CAST('2024-01-01' AS smalldatetime), CAST('2024-01-02' AS datetime)) AS varchar(9))",
        "1440",
    ),
    ("CONVERT(varchar(30), DATEADD(month, 1, CAST('2024-01-31' AS datetime)), 23)", "2024-02-29"),
    ("CAST(CAST(N'<?xml version=\"1.0\"?><a  x=''1''></a>' AS xml) AS nvarchar(max))", "<a x=\"1\"/>"),
];

const ERRORS: &[(&str, u32)] = &[
    ("SELECT CAST(922337203685477.5808 AS money)", 8115),
    ("SELECT CAST('x' AS money)", 235),
    ("SELECT CAST('1752-12-31' AS datetime)", 242),
    ("SELECT CAST('2079-06-07' AS smalldatetime)", 242),
    ("SELECT CAST('2024-01-01 00:00:00.1234' AS datetime)", 241),
    ("SELECT CAST('<a>' AS xml)", 9400),
    ("SELECT x FROM dbo.t ORDER BY x", 305),
    ("SELECT m * 2 FROM dbo.t", 40517),
    ("SELECT CAST(n AS xml) FROM dbo.t", 40517),
    ("INSERT INTO dbo.t (n) VALUES (CAST(1 AS money))", 257),
];

#[tokio::test]
async fn older_types_are_converted_as_sql_server_does() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    for (expression, expected) in VALUES {
        let rows = rows(&mut client, &format!("SELECT {expression}")).await;
        assert_eq!(rows[0].get::<&str, _>(0), Some(*expected), "{expression}");
    }
    run(
        &mut client,
        "CREATE TABLE dbo.t (m money, x xml, n nvarchar(9)); INSERT INTO dbo.t VALUES (1, N'<a/>', N'')",
    )
    .await;
    for (sql, number) in ERRORS {
        assert_eq!(error_of(&mut client, sql).await, *number, "{sql}");
    }
}
