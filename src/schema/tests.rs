use arrow::datatypes::{DataType, TimeUnit};
use encoding_rs::{UTF_8, WINDOWS_1252};

use super::*;

/// A schema of one column, the lines of which are given.
fn one_column(lines: &str) -> Result<Schema, SchemaError> {
    Schema::parse(&format!("format = 'json'\n[[column]]\n{lines}"))
}

fn message(result: Result<Schema, SchemaError>) -> String {
    result.expect_err("it is refused").to_string()
}

#[test]
fn a_column_is_what_its_lines_say() {
    let schema = one_column("name = 'device'\ntype = 'nvarchar(64)'\npath = 'device.id'\nnullable = false")
        .expect("fits");
    let column = &schema.columns()[0];
    assert_eq!(column.sql_type, SqlType::NVarChar(Length::Limit(64)));
    assert_eq!(column.source, Source::Field { path: vec!["device".into(), "id".into()], as_json: false });
    assert!(!column.nullable);
    let schema = one_column("name = 'a.b'\ntype = 'int'").expect("fits");
    assert_eq!(schema.columns()[0].source, Source::Field { path: vec!["a.b".into()], as_json: false });
    let schema = one_column("name = 'c'\ntype = 'int'\npath = ['a.b', '']").expect("fits");
    assert_eq!(
        schema.columns()[0].source,
        Source::Field { path: vec!["a.b".into(), String::new()], as_json: false }
    );
}

#[test]
fn values_come_from_where_from_says() {
    for (from, sql_type, source) in [
        ("stream_sequence", "bigint", Source::StreamSequence),
        ("stream_sequence", "decimal(20,0)", Source::StreamSequence),
        ("subject", "nvarchar(256)", Source::Subject),
        ("subject_token(2)", "int", Source::SubjectToken(2)),
        ("published_at", "datetime2(3)", Source::PublishedAt),
        ("received_at", "datetimeoffset", Source::ReceivedAt),
        ("header(Nats-Msg-Id)", "uniqueidentifier", Source::Header("Nats-Msg-Id".into())),
        ("payload", "varbinary(max)", Source::Payload),
    ] {
        let schema = one_column(&format!("name = 'c'\ntype = '{sql_type}'\nfrom = '{from}'")).expect(from);
        assert_eq!(schema.columns()[0].source, source);
    }
}

#[test]
fn errors_name_the_field_the_value_and_the_constraint() {
    let column =
        |lines: &str| format!("format = 'json'\n[[column]]\nname = 'a'\ntype = 'int'\n[[column]]\n{lines}");
    for (text, parts) in [
        ("".to_owned(), &["format: is missing"][..]),
        ("format = 'avro'".to_owned(), &["format", "`avro`", "`json`"]),
        ("format = 'json'".to_owned(), &["column: is missing", "[[column]]"]),
        ("format = 'json'\ncolumn = 3".to_owned(), &["column: is `3`"]),
        ("format = 'json'\nfields = 1".to_owned(), &["fields: unknown field"]),
        ("format = ".to_owned(), &["not a TOML file"]),
        (column("type = 'int'"), &["column[1].name: is missing"]),
        (column("name = ''\ntype = 'int'"), &["column[1].name", "empty"]),
        (column("name = 'b'"), &["column[1].type: is missing", "nvarchar(64)"]),
        (
            column("name = 'b'\ntype = 'nvarchr(9)'"),
            &["column[1].type: `nvarchr(9)`", "did you mean `nvarchar`"],
        ),
        (column("name = 'b'\ntype = 7"), &["column[1].type: is `7`", "text in quotes"]),
        (column("name = 'A'\ntype = 'int'"), &["column[1].name: `A`", "column[0]", "case"]),
        (
            column("name = 'b'\ntype = 'int'\npth = 'x'"),
            &["column[1].pth: unknown field", "did you mean `path`"],
        ),
        (column("name = 'b'\ntype = 'int'\nnullable = 'no'"), &["column[1].nullable", "`true` or `false`"]),
        (column("name = 'b'\ntype = 'int'\npath = 'a..b'"), &["column[1].path", "empty key"]),
        (column("name = 'b'\ntype = 'int'\npath = 3"), &["column[1].path: `3`"]),
        (
            column("name = 'b'\ntype = 'bigint'\npath = 'x'\nfrom = 'subject'"),
            &["column[1].path", "beside `from`"],
        ),
        (
            column("name = 'b'\ntype = 'bigint'\nfrom = 'subjct'"),
            &["column[1].from", "did you mean `subject`"],
        ),
        (
            column("name = 'b'\ntype = 'int'\nfrom = 'stream_sequence'"),
            &["column[1].from", "`int`", "`bigint`"],
        ),
        (
            column("name = 'b'\ntype = 'int'\nfrom = 'subject_token(0)'"),
            &["column[1].from", "counted from 1"],
        ),
        (column("name = 'b'\ntype = 'char(9)'\nfrom = 'header(a b)'"), &["column[1].from", "without blanks"]),
        (column("name = 'b'\ntype = 'int'\nunit = 's'"), &["column[1].unit", "`datetime2`", "`int`"]),
        (column("name = 'b'\ntype = 'datetime2'\nunit = 'm'"), &["column[1].unit: `m`", "`ms`"]),
        (
            column("name = 'b'\ntype = 'int'\nexcess_digits = 'round'"),
            &["column[1].excess_digits", "`decimal`"],
        ),
        (
            column("name = 'b'\ntype = 'time'\nexcess_digits = 'cut'"),
            &["column[1].excess_digits: `cut`", "`round`"],
        ),
        (column("name = 'b'\ntype = 'int'\nas_json = true"), &["column[1].as_json", "text column"]),
        (
            column("name = 'b'\ntype = 'tinyint'\ndefault = 256"),
            &["column[1].default: 256", "`tinyint`", "range"],
        ),
        (
            column("name = 'b'\ntype = 'char(2)'\ndefault = 'abc'"),
            &["column[1].default: \"abc\"", "too_long"],
        ),
        (column("name = 'b'\ntype = 'date'\ndefault = 2024-02-30"), &["not a TOML file"]),
        (column("name = 'b'\ntype = 'decimal(9,2)'\ndefault = 0.1"), &["column[1].default: 0.1", "as text"]),
        (column("name = 'b'\ntype = 'int'\ndefault = [1]"), &["column[1].default: an array"]),
        (
            column("name = 'b'\ntype = 'bigint'\nfrom = 'stream_sequence'\ndefault = 1"),
            &["column[1].default", "every event"],
        ),
    ] {
        let message = message(Schema::parse(&text));
        for part in parts {
            assert!(message.contains(part), "{text}\n{message}\nlacks {part}");
        }
    }
}

#[test]
fn a_table_has_no_more_columns_than_sql_server_allows() {
    let columns = |count| {
        (0..count).map(|index| format!("[[column]]\nname = 'c{index}'\ntype = 'bit'\n")).collect::<String>()
    };
    assert!(Schema::parse(&format!("format = 'json'\n{}", columns(1_024))).is_ok());
    assert!(message(Schema::parse(&format!("format = 'json'\n{}", columns(1_025)))).contains("1024"));
}

#[test]
fn defaults_fit_their_types() {
    for (sql_type, default) in [
        ("bit", "true"),
        ("bit", "1"),
        ("int", "-5"),
        ("float", "1e-3"),
        ("decimal(9,2)", "'0.10'"),
        ("decimal(9,2)", "3"),
        ("date", "2024-02-29"),
        ("time(0)", "07:32:00"),
        ("datetime2", "2024-02-29T07:32:00Z"),
        ("datetimeoffset", "2024-02-29T07:32:00+02:00"),
        ("nvarchar(9)", "'n/a'"),
        ("varbinary(9)", "'aGk='"),
        ("uniqueidentifier", "'00000000-0000-0000-0000-000000000000'"),
    ] {
        let lines = format!("name = 'c'\ntype = '{sql_type}'\ndefault = {default}");
        assert!(one_column(&lines).is_ok(), "{lines}: {:?}", one_column(&lines));
    }
}

#[test]
fn arrow_types_follow_from_t_sql_types() {
    let types = [
        ("bit", DataType::Boolean),
        ("tinyint", DataType::UInt8),
        ("smallint", DataType::Int16),
        ("int", DataType::Int32),
        ("bigint", DataType::Int64),
        ("real", DataType::Float32),
        ("float", DataType::Float64),
        ("decimal(38,38)", DataType::Decimal128(38, 38)),
        ("date", DataType::Date32),
        ("time(0)", DataType::Time64(TimeUnit::Nanosecond)),
        ("datetime2(3)", DataType::Int64),
        ("datetimeoffset(3)", DataType::Struct(date_time_offset_fields())),
        ("varchar(9)", DataType::Utf8),
        ("nvarchar(max)", DataType::Utf8),
        ("binary(9)", DataType::Binary),
        ("uniqueidentifier", DataType::FixedSizeBinary(16)),
    ];
    for (sql_type, arrow) in types {
        let schema = one_column(&format!("name = 'c'\ntype = '{sql_type}'\nnullable = false"))
            .expect(sql_type)
            .arrow();
        assert_eq!((schema.field(0).data_type(), schema.field(0).is_nullable()), (&arrow, false));
        assert_eq!(
            schema.field(0).metadata().contains_key(EXTENSION_NAME),
            sql_type.contains("datetime") || sql_type.contains("unique")
        );
    }
}

#[test]
fn a_default_has_to_fit_the_code_page_that_the_table_has_in_truth() {
    let schema =
        one_column("name = 'c'\ntype = 'varchar(1)'\ndefault = 'ä'").expect("one byte of Windows-1252");
    assert_eq!(schema.columns()[0].text_encoding, WINDOWS_1252);
    assert!(message(schema.with_text_encodings(|_| Some(UTF_8))).contains("column[0].default"));
    let schema = one_column("name = 'c'\ntype = 'varchar(2)'\ndefault = 'ä'").expect("fits");
    assert_eq!(
        schema.with_text_encodings(|_| Some(UTF_8)).expect("two bytes").columns()[0].text_encoding,
        UTF_8
    );
}

#[test]
fn what_is_reserved_follows_the_schema() {
    // GIVEN text that its type bounds, THEN the event's size does not matter beyond that
    let bounded = one_column("name = 'c'\ntype = 'nvarchar(10)'").expect("fits");
    assert_eq!(bounded.arrow_bytes_upper_bound(1_000), bounded.arrow_bytes_upper_bound(1_000_000));
    // GIVEN two columns that copy the same field, THEN twice as much is reserved as for two that cannot
    let twice = "format = 'json'\n[[column]]\nname = 'a'\ntype = 'nvarchar(max)'\npath = 'x'\n[[column]]\nname = 'b'\ntype = 'nvarchar(max)'\npath = ";
    let same = Schema::parse(&format!("{twice}'x'")).expect("fits").arrow_bytes_upper_bound(10_000);
    let other = Schema::parse(&format!("{twice}'y'")).expect("fits").arrow_bytes_upper_bound(10_000);
    assert!(same > other * 19 / 10 && same <= other * 2, "{same} {other}");
}
