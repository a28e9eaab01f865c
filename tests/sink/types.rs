use std::time::Duration;

use tiberius::time::{Date, DateTime2, DateTimeOffset, Time};
use tiberius::{ColumnData, numeric::Numeric};
use uuid::Uuid;

use crate::support::World;

const MINUTE: Duration = Duration::from_secs(60);
/// Days from 0001-01-01 to 2026-11-24.
const DAY: u32 = 739_943;

/// A column of every type: its name, its type, two JSON values, and what the database is to give back for them.
fn columns() -> Vec<(&'static str, &'static str, [String; 2], [ColumnData<'static>; 2])> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let text = |value: &str| ColumnData::String(Some(value.to_owned().into()));
    let bytes = |value: &[u8]| ColumnData::Binary(Some(value.to_vec().into()));
    let decimal = |value: i128, scale| ColumnData::Numeric(Some(Numeric::new_with_scale(value, scale)));
    let date_time = |days, increments, scale| DateTime2::new(Date::new(days), Time::new(increments, scale));
    let digits = "9".repeat(38);
    let long = "ä€😀".repeat(3_000);
    vec![
        (
            "c_bit",
            "bit",
            ["true".into(), "false".into()],
            [ColumnData::Bit(Some(true)), ColumnData::Bit(Some(false))],
        ),
        (
            "c_tinyint",
            "tinyint",
            ["0".into(), "255".into()],
            [ColumnData::U8(Some(0)), ColumnData::U8(Some(255))],
        ),
        (
            "c_smallint",
            "smallint",
            ["-32768".into(), "32767".into()],
            [ColumnData::I16(Some(i16::MIN)), ColumnData::I16(Some(i16::MAX))],
        ),
        (
            "c_int",
            "int",
            ["-2147483648".into(), "2147483647".into()],
            [ColumnData::I32(Some(i32::MIN)), ColumnData::I32(Some(i32::MAX))],
        ),
        (
            "c_bigint",
            "bigint",
            [i64::MIN.to_string(), i64::MAX.to_string()],
            [ColumnData::I64(Some(i64::MIN)), ColumnData::I64(Some(i64::MAX))],
        ),
        (
            "c_real",
            "real",
            ["-1.5e30".into(), "0.1".into()],
            [ColumnData::F32(Some(-1.5e30)), ColumnData::F32(Some(0.1))],
        ),
        (
            "c_float",
            "float",
            ["1.7976931348623157e308".into(), "0.1".into()],
            [ColumnData::F64(Some(f64::MAX)), ColumnData::F64(Some(0.1))],
        ),
        (
            "c_decimal9",
            "decimal(9,2)",
            ["-1234567.89".into(), "0.01".into()],
            [decimal(-123_456_789, 2), decimal(1, 2)],
        ),
        (
            "c_decimal19",
            "decimal(19,4)",
            ["922337203685477.5807".into(), quoted("-0.0001")],
            [decimal(9_223_372_036_854_775_807, 4), decimal(-1, 4)],
        ),
        (
            "c_decimal38",
            "decimal(38,0)",
            [quoted(&digits), quoted(&format!("-{digits}"))],
            [
                decimal(digits.parse().expect("it fits"), 0),
                decimal(-digits.parse::<i128>().expect("it fits"), 0),
            ],
        ),
        (
            "c_date",
            "date",
            [quoted("0001-01-01"), quoted("9999-12-31")],
            [ColumnData::Date(Some(Date::new(0))), ColumnData::Date(Some(Date::new(3_652_058)))],
        ),
        (
            "c_time0",
            "time(0)",
            [quoted("00:00:00"), quoted("23:59:59")],
            [ColumnData::Time(Some(Time::new(0, 0))), ColumnData::Time(Some(Time::new(86_399, 0)))],
        ),
        (
            "c_time7",
            "time(7)",
            [quoted("00:00:00.0000001"), quoted("23:59:59.9999999")],
            [ColumnData::Time(Some(Time::new(1, 7))), ColumnData::Time(Some(Time::new(863_999_999_999, 7)))],
        ),
        (
            "c_datetime2_3",
            "datetime2(3)",
            [quoted("2026-11-24T03:04:05.678Z"), quoted("2026-11-24T01:00:00+01:00")],
            [
                ColumnData::DateTime2(Some(date_time(DAY, 11_045_678, 3))),
                ColumnData::DateTime2(Some(date_time(DAY, 0, 3))),
            ],
        ),
        (
            "c_datetime2_7",
            "datetime2",
            [quoted("0001-01-01T00:00:00"), quoted("9999-12-31T23:59:59.9999999Z")],
            [
                ColumnData::DateTime2(Some(date_time(0, 0, 7))),
                ColumnData::DateTime2(Some(date_time(3_652_058, 863_999_999_999, 7))),
            ],
        ),
        (
            "c_datetimeoffset",
            "datetimeoffset(7)",
            [quoted("2026-11-24T05:30:00.1234567+05:30"), quoted("2026-11-23T19:00:00-05:00")],
            [
                ColumnData::DateTimeOffset(Some(DateTimeOffset::new(date_time(DAY, 1_234_567, 7), 330))),
                ColumnData::DateTimeOffset(Some(DateTimeOffset::new(date_time(DAY, 0, 7), -300))),
            ],
        ),
        ("c_char", "char(5)", [quoted("ab"), quoted("äöü€ß")], [text("ab   "), text("äöü€ß")]),
        ("c_varchar", "varchar(40)", [quoted(""), quoted("naïve café €")], [text(""), text("naïve café €")]),
        (
            "c_varchar_max",
            "varchar(max)",
            [quoted(""), quoted(&"x".repeat(20_000))],
            [text(""), text(&"x".repeat(20_000))],
        ),
        ("c_nchar", "nchar(3)", [quoted("日本"), quoted("a😀")], [text("日本 "), text("a😀")]),
        (
            "c_nvarchar",
            "nvarchar(40)",
            [quoted("\u{1F600} \"quoted\" \\ \n\t"), quoted("Ωmega ☃ \u{1}")],
            [text("\u{1F600} \"quoted\" \\ \n\t"), text("Ωmega ☃ \u{1}")],
        ),
        ("c_nvarchar_max", "nvarchar(max)", [quoted(""), quoted(&long)], [text(""), text(&long)]),
        (
            "c_binary",
            "binary(4)",
            [quoted("AAECAw=="), quoted("/////w==")],
            [bytes(&[0, 1, 2, 3]), bytes(&[255; 4])],
        ),
        (
            "c_varbinary",
            "varbinary(16)",
            [quoted(""), quoted("AAECAw==")],
            [bytes(&[]), bytes(&[0, 1, 2, 3])],
        ),
        (
            "c_varbinary_max",
            "varbinary(max)",
            [quoted(""), quoted("AAECAw==")],
            [bytes(&[]), bytes(&[0, 1, 2, 3])],
        ),
        (
            "c_uniqueidentifier",
            "uniqueidentifier",
            [quoted("00112233-4455-6677-8899-aabbccddeeff"), quoted("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF")],
            [
                ColumnData::Guid(Some(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff))),
                ColumnData::Guid(Some(Uuid::from_u128(u128::MAX))),
            ],
        ),
    ]
}

/// GIVEN an event with a field of every column type, at the edges of each, and one of nulls
/// WHEN it has gone through the sink
/// THEN the database gives every value back as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_every_type_is_read_back_equal() {
    every_type("").await;
}

/// As above, by way of the temporary table of a merge by key.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_a_value_of_every_type_is_read_back_equal() {
    every_type("write = \"insert_if_absent\"\nkey = [\"n\", \"k\"]").await;
}

async fn every_type(write: &str) {
    let world = World::start().await;
    let table = world.table("types");
    world.stream("TYPES", "types.>").await;
    let columns = columns();
    let mut schema = "format = \"json\"\n[[column]]\nname = \"n\"\ntype = \"int\"\nnullable = false\n\
         [[column]]\nname = \"k\"\ntype = \"datetimeoffset(3)\"\nfrom = \"published_at\"\nnullable = false\n"
        .to_owned();
    for (name, sql_type, ..) in &columns {
        schema += &format!("[[column]]\nname = \"{name}\"\ntype = \"{sql_type}\"\n");
    }
    world.write("types.toml", &schema);
    let mut sink = world.config(
        "types",
        "",
        &format!(
            "stream = \"TYPES\"\ndurable = \"sink-types\"\nsubjects = [\"types.>\"]\nschema = \"types.toml\"\n\
             table = \"{table}\"\ncreate_table = true\n{write}"
        ),
    );
    let payload = |n: usize| {
        let fields: Vec<String> =
            columns.iter().map(|(name, _, values, _)| format!("\"{name}\":{}", values[n])).collect();
        format!("{{\"n\":{n},{}}}", fields.join(",")).into_bytes()
    };
    let payloads = [payload(0), payload(1), br#"{"n":2}"#.to_vec()];
    world.publish(payloads.map(|payload| ("types.all".to_owned(), None, payload))).await;
    sink.start();
    world.settled("TYPES", "sink-types", MINUTE).await;
    let letters = world.dead_letters().await;
    assert!(letters.is_empty(), "dead-lettered: {:?}", letters[0].headers);

    let mut sql = world.sql().await;
    let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    let rows = sql.rows(&format!("SELECT {} FROM {table} ORDER BY n", names.join(", "))).await;
    assert_eq!(rows.len(), 3, "{}", sink.log());
    for (n, row) in rows.into_iter().enumerate() {
        for ((name, sql_type, _, expected), cell) in columns.iter().zip(row) {
            match expected.get(n) {
                Some(expected) => assert_eq!(&cell, expected, "{name} {sql_type}"),
                None => assert!(is_null(&cell), "{name} {sql_type} is {cell:?}, not NULL"),
            }
        }
    }
    println!("{} column types, 2 values and NULL each, read back equal", columns.len());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

fn is_null(cell: &ColumnData<'_>) -> bool {
    format!("{cell:?}").ends_with("(None)")
}
