use tiberius::numeric::Numeric;
use tiberius::time::{Date, DateTime, DateTime2, DateTimeOffset, SmallDateTime, Time};
use tiberius::{ColumnData, ToSql, TokenRow, Uuid};

use crate::fixture::{Fixture, rows, run, values};

const LAST_DAY: u32 = 3_652_058;

fn text(text: &str) -> ColumnData<'static> {
    ColumnData::String(Some(text.to_owned().into()))
}

fn bytes(bytes: &[u8]) -> ColumnData<'static> {
    ColumnData::Binary(Some(bytes.to_vec().into()))
}

fn decimal(value: i128, scale: u8) -> ColumnData<'static> {
    ColumnData::Numeric(Some(Numeric::new_with_scale(value, scale)))
}

fn moment(days: u32, increments: u64, scale: u8) -> DateTime2 {
    DateTime2::new(Date::new(days), Time::new(increments, scale))
}

struct Moment(DateTime2);

impl ToSql for Moment {
    fn to_sql(&self) -> ColumnData<'_> {
        ColumnData::DateTime2(Some(self.0))
    }
}

fn guid(digits: u128) -> ColumnData<'static> {
    ColumnData::Guid(Some(Uuid::from_u128(digits)))
}

/// Types with values at their edges, and what a NULL of each looks like.
fn matrix() -> Vec<(&'static str, Vec<ColumnData<'static>>, ColumnData<'static>)> {
    let end_of_day = |scale: u8| 864 * 10u64.pow(u32::from(scale) + 2) - 1;
    let time = |increments, scale| ColumnData::Time(Some(Time::new(increments, scale)));
    let datetime2 = |days, increments, scale| ColumnData::DateTime2(Some(moment(days, increments, scale)));
    let offset = |days, increments, scale, minutes| {
        ColumnData::DateTimeOffset(Some(DateTimeOffset::new(moment(days, increments, scale), minutes)))
    };
    let none = ColumnData::String(None);
    let blob = ColumnData::Binary(None);
    vec![
        ("bit", vec![ColumnData::Bit(Some(false)), ColumnData::Bit(Some(true))], ColumnData::Bit(None)),
        ("tinyint", vec![ColumnData::U8(Some(0)), ColumnData::U8(Some(255))], ColumnData::U8(None)),
        (
            "smallint",
            vec![ColumnData::I16(Some(i16::MIN)), ColumnData::I16(Some(i16::MAX))],
            ColumnData::I16(None),
        ),
        (
            "int",
            vec![ColumnData::I32(Some(i32::MIN)), ColumnData::I32(Some(i32::MAX))],
            ColumnData::I32(None),
        ),
        (
            "bigint",
            vec![ColumnData::I64(Some(i64::MIN)), ColumnData::I64(Some(i64::MAX))],
            ColumnData::I64(None),
        ),
        (
            "real",
            vec![ColumnData::F32(Some(f32::MIN)), ColumnData::F32(Some(1.5e-30))],
            ColumnData::F32(None),
        ),
        ("float", vec![ColumnData::F64(Some(f64::MAX)), ColumnData::F64(Some(-0.1))], ColumnData::F64(None)),
        ("decimal(9,2)", vec![decimal(-999_999_999, 2), decimal(1, 2)], ColumnData::Numeric(None)),
        (
            "decimal(18,6)",
            vec![decimal(999_999_999_999_999_999, 6), decimal(0, 6)],
            ColumnData::Numeric(None),
        ),
        (
            "decimal(38,0)",
            vec![decimal(10i128.pow(38) - 1, 0), decimal(-(10i128.pow(38) - 1), 0)],
            ColumnData::Numeric(None),
        ),
        (
            "decimal(38,10)",
            vec![decimal(12_345_678_901_234_567_890, 10), decimal(-1, 10)],
            ColumnData::Numeric(None),
        ),
        (
            "money",
            vec![ColumnData::F64(Some(-922_337_203_685_477.5)), ColumnData::F64(Some(1.0001))],
            ColumnData::F64(None),
        ),
        (
            "smallmoney",
            vec![ColumnData::F64(Some(-214_748.364_8)), ColumnData::F64(Some(0.0001))],
            ColumnData::F64(None),
        ),
        (
            "datetime",
            vec![
                ColumnData::DateTime(Some(DateTime::new(-53_690, 0))),
                ColumnData::DateTime(Some(DateTime::new(2_958_463, 25_919_999))),
            ],
            ColumnData::DateTime(None),
        ),
        (
            "smalldatetime",
            vec![
                ColumnData::SmallDateTime(Some(SmallDateTime::new(0, 0))),
                ColumnData::SmallDateTime(Some(SmallDateTime::new(65_535, 1439))),
            ],
            ColumnData::SmallDateTime(None),
        ),
        (
            "date",
            vec![ColumnData::Date(Some(Date::new(0))), ColumnData::Date(Some(Date::new(LAST_DAY)))],
            ColumnData::Date(None),
        ),
        ("time(0)", vec![time(0, 0), time(end_of_day(0), 0)], ColumnData::Time(None)),
        ("time(3)", vec![time(1, 3), time(end_of_day(3), 3)], ColumnData::Time(None)),
        ("time(7)", vec![time(1, 7), time(end_of_day(7), 7)], ColumnData::Time(None)),
        (
            "datetime2(0)",
            vec![datetime2(0, 0, 0), datetime2(LAST_DAY, end_of_day(0), 0)],
            ColumnData::DateTime2(None),
        ),
        (
            "datetime2(5)",
            vec![datetime2(1, 1, 5), datetime2(LAST_DAY, end_of_day(5), 5)],
            ColumnData::DateTime2(None),
        ),
        (
            "datetime2(7)",
            vec![datetime2(0, 1, 7), datetime2(LAST_DAY, end_of_day(7), 7)],
            ColumnData::DateTime2(None),
        ),
        (
            "datetimeoffset(7)",
            vec![offset(10, 1, 7, 840), offset(738_000, end_of_day(7), 7, -840)],
            ColumnData::DateTimeOffset(None),
        ),
        (
            "datetimeoffset(0)",
            vec![offset(0, 0, 0, 0), offset(LAST_DAY, end_of_day(0), 0, 0)],
            ColumnData::DateTimeOffset(None),
        ),
        ("char(3)", vec![text("abc"), text("é€ ")], none.clone()),
        ("varchar(5)", vec![text(""), text("é€ßÿ ")], none.clone()),
        ("varchar(max)", vec![text(""), text("long enough")], none.clone()),
        ("nchar(4)", vec![text("abcd"), text("a😀b")], none.clone()),
        ("nvarchar(4)", vec![text(""), text("😀 ß")], none.clone()),
        ("nvarchar(max)", vec![text(""), text("Ω😀")], none),
        ("binary(2)", vec![bytes(&[0, 0]), bytes(&[255, 1])], blob.clone()),
        ("varbinary(3)", vec![bytes(&[]), bytes(&[0, 255, 0])], blob.clone()),
        ("varbinary(max)", vec![bytes(&[]), bytes(&[1, 2, 3])], blob),
        (
            "uniqueidentifier",
            vec![guid(0), guid(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)],
            ColumnData::Guid(None),
        ),
    ]
}

#[tokio::test]
async fn every_type_is_loaded_and_read_back_as_it_was() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    let matrix = matrix();
    let columns: Vec<String> = matrix
        .iter()
        .enumerate()
        .map(|(n, (name, ..))| format!("r{n} {name} NOT NULL, o{n} {name} NULL"))
        .collect();
    run(&mut client, &format!("CREATE TABLE dbo.t (n int NOT NULL, {})", columns.join(", "))).await;
    let row = |n: i32| -> Vec<ColumnData<'static>> {
        let mut row = vec![ColumnData::I32(Some(n))];
        for (_, edges, null) in &matrix {
            row.push(edges[usize::try_from(n).unwrap() % 2].clone());
            row.push(if n < 2 { edges[usize::try_from(n).unwrap() % 2].clone() } else { null.clone() });
        }
        row
    };
    let mut request = client.bulk_insert("dbo.t").await.unwrap();
    for n in 0..3 {
        let mut sent = TokenRow::new();
        row(n).into_iter().for_each(|value| sent.push(value));
        request.send(sent).await.unwrap();
    }
    assert_eq!(request.finalize().await.unwrap().total(), 3);

    for (n, got) in rows(&mut client, "SELECT * FROM dbo.t ORDER BY n").await.into_iter().enumerate() {
        let expected = row(i32::try_from(n).unwrap());
        for (index, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            assert_eq!(
                got,
                expected,
                "row {n}, column {index}: {}",
                matrix.get((index.max(1) - 1) / 2).map_or("", |(name, ..)| name)
            );
        }
    }
    // and through a copy that the server makes itself
    run(
        &mut client,
        &format!(
            "CREATE TABLE dbo.u (n int NOT NULL, {}); INSERT INTO dbo.u SELECT * FROM dbo.t",
            columns.join(", ")
        ),
    )
    .await;
    assert_eq!(rows(&mut client, "SELECT * FROM dbo.u").await.len(), 3);
}

#[tokio::test]
async fn parameters_keep_their_types() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    let result = client
        .query(
            "SELECT @P1, @P2, @P3, @P4, @P5, @P6, @P7, @P8",
            &[
                &1i32,
                &i64::MAX,
                &"ä😀'",
                &true,
                &1.25f64,
                &Uuid::from_u128(7),
                &[1u8, 2].as_slice(),
                &Numeric::new_with_scale(-12_345, 3),
            ],
        )
        .await
        .unwrap();
    let row: Vec<ColumnData<'static>> = result.into_row().await.unwrap().unwrap().into_iter().collect();
    assert_eq!(
        row,
        [
            ColumnData::I32(Some(1)),
            ColumnData::I64(Some(i64::MAX)),
            text("ä😀'"),
            ColumnData::Bit(Some(true)),
            ColumnData::F64(Some(1.25)),
            guid(7),
            bytes(&[1, 2]),
            decimal(-12_345, 3),
        ]
    );
    run(&mut client, "CREATE TABLE dbo.t (a int, b nvarchar(10), c datetime2(7))").await;
    let when = moment(738_000, 1_234_567, 7);
    let done = client
        .execute(
            "INSERT INTO dbo.t VALUES (@P1, @P2, @P3)",
            &[&Some(1i32), &Option::<&str>::None, &Moment(when)],
        )
        .await
        .unwrap();
    assert_eq!(done.total(), 1);
    assert_eq!(
        values(&mut client, "SELECT a, b, c FROM dbo.t").await,
        [ColumnData::I32(Some(1)), ColumnData::String(None), ColumnData::DateTime2(Some(when))]
    );
}

#[tokio::test]
async fn metadata_says_what_the_columns_are() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (i int IDENTITY, a decimal(10,3) NOT NULL, b nvarchar(7) NULL, [odd ]] name] varchar(max))").await;
    let columns = client.column_metadata("dbo.t", &["*"]).await.unwrap();
    let names: Vec<&str> = columns.iter().map(tiberius::MetaDataColumn::col_name).collect();
    assert_eq!(names, ["i", "a", "b", "odd ] name"]);
    assert!(columns[0].base().is_identity() && !columns[0].base().is_updateable());
    assert!(!columns[1].base().is_nullable() && columns[1].base().is_updateable());
    assert!(columns[2].base().is_nullable());
    assert_eq!(columns[1].to_string(), "[a] decimal(10,3)");
    assert_eq!(columns[2].to_string(), "[b] nvarchar(14)", "tiberius takes bytes for characters");
}

#[tokio::test]
async fn a_constant_and_a_conversion_make_a_subnormal_number_zero_and_a_parameter_keeps_it() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    assert_eq!(
        values(&mut client, "SELECT 4.7E-309, CAST(9.2E-39 AS real), CAST('9.2E-39' AS real), CAST(1E-300 AS real), CAST(1.2E-38 AS real)").await,
        [
            ColumnData::F64(Some(0.0)),
            ColumnData::F32(Some(0.0)),
            ColumnData::F32(Some(0.0)),
            ColumnData::F32(Some(0.0)),
            ColumnData::F32(Some(1.2e-38)),
        ]
    );
    let row = client.query("SELECT @P1, @P2", &[&5e-324f64, &1e-45f32]).await.unwrap();
    let row: Vec<ColumnData<'static>> = row.into_row().await.unwrap().unwrap().into_iter().collect();
    assert_eq!(row, [ColumnData::F64(Some(5e-324)), ColumnData::F32(Some(1e-45))]);
}
