use arrow::util::display::array_value_to_string;
use async_nats::{HeaderMap, Subject};

use std::sync::Arc;

use super::*;
use crate::delivery::Headers;

fn event(payload: &[u8]) -> Event {
    Event {
        subject: Subject::from_static("events.42.sensor"),
        payload: payload.to_vec().into(),
        headers: None,
        stream_sequence: 7,
        deliveries: 1,
        published_at: 1_700_000_000_123_456_789,
        received_at: 1_700_000_001_000_000_000,
    }
}

fn decoder(columns: &str) -> Decoder {
    let schema = Schema::parse(&format!("format = 'json'\n{columns}")).expect("a schema");
    Decoder::new(&schema, &DecodePool::new(1).expect("a pool"))
}

/// The cells of the one row that `event` becomes, shown by Arrow, NULL as nothing.
fn decode(columns: &str, event: Event) -> Result<Vec<String>, RejectKind> {
    let decoded = decoder(columns).decode_rows(&[event]).expect("no defect");
    match decoded.rejects.first() {
        Some(reject) => Err(reject.reason.kind()),
        None => {
            let show = |array: &arrow::array::ArrayRef| array_value_to_string(array, 0).expect("a value");
            Ok(decoded.rows.columns().iter().map(show).collect())
        }
    }
}

/// What the field `f` becomes in a column, which is given as `type` or `type; line of the schema`.
fn field(column: &str, json: &str) -> Result<String, RejectKind> {
    let (sql_type, line) = column.split_once("; ").unwrap_or((column, ""));
    let columns = format!("[[column]]\nname = 'c'\npath = 'f'\ntype = '{sql_type}'\n{line}\n");
    decode(&columns, event(format!("{{\"f\":{json}}}").as_bytes())).map(|mut cells| cells.remove(0))
}

#[test]
fn each_json_type_fits_some_column_types_and_no_other() {
    use RejectKind::{
        BadBase64, BadNumber, BadTimestamp, BadUuid, ExcessDigits, LoneSurrogate, NotJson, OutOfRange,
        TooLong, UnrepresentableText, WrongType,
    };
    for (column, json, outcome) in [
        ("bit", "true", Ok("true")),
        ("bit", "0", Ok("false")),
        ("bit", "1.0", Ok("true")),
        ("bit", "2", Err(OutOfRange)),
        ("bit", "\"true\"", Err(WrongType)),
        ("tinyint", "255", Ok("255")),
        ("tinyint", "256", Err(OutOfRange)),
        ("tinyint", "-1", Err(OutOfRange)),
        ("int", "1e3", Ok("1000")),
        ("int", "1.5", Err(WrongType)),
        ("int", "\"1\"", Err(WrongType)),
        ("int", "true", Err(WrongType)),
        ("int", "[1]", Err(WrongType)),
        ("int", "01", Err(NotJson)),
        ("bigint", "-9223372036854775808", Ok("-9223372036854775808")),
        ("bigint", "9223372036854775808", Err(OutOfRange)),
        ("real", "0.1", Ok("0.1")),
        ("real", "1e39", Err(OutOfRange)),
        ("float", "1e39", Ok("1e39")),
        ("float", "\"NaN\"", Err(WrongType)),
        ("float", "NaN", Err(NotJson)),
        ("decimal(5,2)", "1.10", Ok("1.10")),
        ("decimal(5,2)", "\"-1.1\"", Ok("-1.10")),
        ("decimal(5,2)", "1.101", Err(ExcessDigits)),
        ("decimal(5,2); excess_digits = 'round'", "1.105", Ok("1.11")),
        ("decimal(5,2)", "1000", Err(OutOfRange)),
        ("decimal(5,2)", "\"1,10\"", Err(BadNumber)),
        ("decimal(5,2)", "\" 1\"", Err(BadNumber)),
        ("date", "\"2024-02-29\"", Ok("2024-02-29")),
        ("date", "\"2023-02-29\"", Err(BadTimestamp)),
        ("time(3)", "\"12:34:56.7895\"", Ok("12:34:56.790")),
        ("datetime2(0)", "1700000000", Err(WrongType)),
        ("datetime2(0); unit = 's'", "0", Ok("621355968000000000")),
        ("datetime2(0); unit = 's'", "\"1970-01-01T00:00:00Z\"", Ok("621355968000000000")),
        (
            "datetimeoffset",
            "\"1970-01-01T01:00:00+01:00\"",
            Ok("{ticks: 621355968000000000, offset_minutes: 60}"),
        ),
        ("datetimeoffset", "\"1970-01-01T01:00:00\"", Err(BadTimestamp)),
        ("nvarchar(2)", "\"\\ud83d\\ude00\"", Ok("😀")),
        ("nvarchar(1)", "\"😀\"", Err(TooLong)),
        ("nvarchar(9)", "\"\\ud83d\"", Err(LoneSurrogate)),
        ("nvarchar(9)", "1", Err(WrongType)),
        ("nvarchar(9)", "{}", Err(WrongType)),
        ("nvarchar(9); as_json = true", "{ \"a\": [1]}", Err(TooLong)),
        ("nvarchar(max); as_json = true", "{ \"a\": [1]}", Ok("{ \"a\": [1]}")),
        ("nvarchar(max); as_json = true", "\"a\\n\"", Ok("\"a\\n\"")),
        ("nvarchar(max); as_json = true", "null", Ok("")),
        ("varchar(2)", "\"äö\"", Ok("äö")),
        ("varchar(9)", "\"Ω\"", Err(UnrepresentableText)),
        ("binary(2)", "\"aGk=\"", Ok("6869")),
        ("binary(1)", "\"aGk=\"", Err(TooLong)),
        ("varbinary(max)", "\"a-_=\"", Err(BadBase64)),
        (
            "uniqueidentifier",
            "\"00112233-4455-6677-8899-AABBCCDDEEFF\"",
            Ok("00112233445566778899aabbccddeeff"),
        ),
        ("uniqueidentifier", "\"{00112233-4455-6677-8899-AABBCCDDEEFF}\"", Err(BadUuid)),
    ] {
        assert_eq!(field(column, json), outcome.map(str::to_owned), "{column} {json}");
    }
}

#[test]
fn what_is_no_event_at_all() {
    use RejectKind::{
        BadUtf8, DuplicateKey, EmptyPayload, LoneSurrogate, NotAnObject, NotJson, TooDeep, TrailingData,
        WrongType,
    };
    let nested = |levels: usize| format!("{{\"x\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let column = "[[column]]\nname = 'f'\ntype = 'int'\n[[column]]\nname = 'd'\ntype = 'int'\npath = 'o.d'\n";
    for (payload, outcome) in [
        (&b""[..], Err(EmptyPayload)),
        (b" \r\n\t", Err(EmptyPayload)),
        (b"{}", Ok(())),
        (b" {\"f\" : 1 } \n", Ok(())),
        (b"\xEF\xBB\xBF{}", Err(NotJson)),
        (b"{\"x\":\"\xff\"}", Err(BadUtf8)),
        (b"{\"x\":\"\xed\xa0\x80\"}", Err(BadUtf8)),
        (b"{\"f\":1", Err(NotJson)),
        (b"{\"f\":1,}", Err(NotJson)),
        (b"{f:1}", Err(NotJson)),
        (b"{'f':1}", Err(NotJson)),
        (b"{\"f\":1}/**/", Err(TrailingData)),
        (b"{}{}", Err(TrailingData)),
        (b"[]", Err(NotAnObject)),
        (b"\"text\"", Err(NotAnObject)),
        (b"null", Err(NotAnObject)),
        (b"text", Err(NotJson)),
        (b"{\"x\":\"\n\"}", Err(NotJson)),
        (b"{\"x\":\"\\x\"}", Err(NotJson)),
        (b"{\"x\":\"\\udc00\"}", Err(LoneSurrogate)),
        (b"{\"x\":[1,2,]}", Err(NotJson)),
        (b"{\"x\":[}", Err(NotJson)),
        (b"{\"x\":tru}", Err(NotJson)),
        (b"{\"x\":1.}", Err(NotJson)),
        (b"{\"f\":1,\"f\":1}", Err(DuplicateKey)),
        (b"{\"f\":null,\"\\u0066\":1}", Err(DuplicateKey)),
        (b"{\"o\":{},\"o\":{\"d\":1}}", Err(DuplicateKey)),
        (b"{\"x\":1,\"x\":2}", Ok(())),
        (b"{\"o\":null}", Ok(())),
        (b"{\"o\":1}", Err(WrongType)),
        (b"{\"o\":[]}", Err(WrongType)),
        (nested(64).as_bytes(), Ok(())),
        (nested(65).as_bytes(), Err(TooDeep)),
        (nested(1_000_000).as_bytes(), Err(TooDeep)),
        ("{\"o\":".repeat(70).as_bytes(), Err(TooDeep)),
    ] {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(80)]);
        assert_eq!(decode(column, event(payload)).map(|_| ()), outcome, "{shown}");
    }
}

#[test]
fn an_absent_or_null_field_is_its_default_else_null_else_a_reject() {
    let column = |more: &str| format!("[[column]]\nname = 'f'\ntype = 'int'\n{more}");
    for payload in [&b"{}"[..], b"{\"f\":null}"] {
        assert_eq!(decode(&column(""), event(payload)), Ok(vec![String::new()]));
        assert_eq!(decode(&column("default = 5"), event(payload)), Ok(vec!["5".to_owned()]));
        assert_eq!(
            decode(&column("default = 5\nnullable = false"), event(payload)),
            Ok(vec!["5".to_owned()])
        );
        assert_eq!(decode(&column("nullable = false"), event(payload)), Err(RejectKind::MissingRequired));
    }
}

#[test]
fn values_from_around_the_payload() {
    let columns = [
        ("bigint", "stream_sequence", "7"),
        ("decimal(22,2)", "stream_sequence", "7.00"),
        ("nvarchar(99)", "subject", "events.42.sensor"),
        ("int", "subject_token(2)", "42"),
        ("varchar(9)", "subject_token(4)", ""),
        ("datetime2(3)", "published_at", "638355968001230000"),
        ("datetimeoffset(0)", "received_at", "{ticks: 638355968010000000, offset_minutes: 0}"),
        ("uniqueidentifier", "header(Id)", "00112233445566778899aabbccddeeff"),
        ("bit", "header(Flag)", "true"),
        ("float", "header(Absent)", ""),
        ("nvarchar(max)", "payload", "{ }"),
        ("varbinary(3)", "payload", "7b207d"),
    ];
    let text: String = columns
        .iter()
        .enumerate()
        .map(|(index, (sql_type, from, _))| {
            format!("[[column]]\nname = 'c{index}'\ntype = '{sql_type}'\nfrom = '{from}'\n")
        })
        .collect();
    let mut headers = HeaderMap::new();
    headers.insert("Id", "00112233-4455-6677-8899-aabbccddeeff");
    headers.insert("Flag", "true");
    let event = Event { headers: Some(Headers::from(&headers)), ..event(b"{ }") };
    assert_eq!(decode(&text, event), Ok(columns.map(|(_, _, shown)| shown.to_owned()).to_vec()));
}

#[test]
fn text_of_a_header_has_to_be_what_the_column_takes() {
    let headers = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("N", value);
        Event { headers: Some(Headers::from(&headers)), ..event(b"{}") }
    };
    let column = "[[column]]\nname = 'n'\ntype = 'smallint'\nfrom = 'header(N)'\n";
    assert_eq!(decode(column, headers("-5")), Ok(vec!["-5".to_owned()]));
    assert_eq!(decode(column, headers("five")), Err(RejectKind::BadNumber));
    assert_eq!(decode(column, headers("40000")), Err(RejectKind::OutOfRange));
    // A sequence beyond bigint does not wrap.
    let sequence = "[[column]]\nname = 'n'\ntype = 'bigint'\nfrom = 'stream_sequence'\n";
    assert_eq!(
        decode(sequence, Event { stream_sequence: u64::MAX, ..event(b"{}") }),
        Err(RejectKind::OutOfRange)
    );
}

#[test]
fn keys_are_found_in_any_order_and_spelling() {
    let columns = "[[column]]\nname = 'a'\ntype = 'int'\n[[column]]\nname = 'b'\ntype = 'int'\npath = ['o', 'b.c']\n\
        [[column]]\nname = 'q'\ntype = 'int'\npath = ['a\"b']\n[[column]]\nname = 'j'\ntype = 'nvarchar(max)'\npath = 'o'\nas_json = true\n\
        [[column]]\nname = 'again'\ntype = 'float'\npath = 'a'\n";
    let expected: Vec<String> = ["1", "2", "3", "{\"b.c\":2}", "1.0"].map(str::to_owned).to_vec();
    for payload in [
        r#"{"a":1,"o":{"b.c":2},"a\"b":3}"#,
        r#"{"z":{"a":9,"o":[{}]},"a\u0022b":3,"o":{"b.c":2},"":0,"\u0061":1}"#,
        r#"{"ab":0,"o":{"b.c":2},"A":7,"a":1,"a\"b":3,"a\"":8}"#,
    ] {
        assert_eq!(decode(columns, event(payload.as_bytes())), Ok(expected.clone()), "{payload}");
    }
}

#[test]
fn a_reject_names_the_column_and_the_place() {
    let decoder = decoder("[[column]]\nname = 'size'\ntype = 'tinyint'\n");
    let events = [event(b"{\"size\":1}"), event(b"{\"size\": 300}"), event(b"{\"size\":2}")];
    let decoded = decoder.decode_rows(&events).expect("no defect");
    assert_eq!(decoded.row_events, [0, 2]);
    let [reject] = decoded.rejects.as_slice() else { panic!("one reject") };
    assert_eq!((reject.event, reject.reason.column(), reject.reason.offset()), (1, Some("size"), Some(9)));
    assert_eq!(
        reject.reason.to_string(),
        "out_of_range: outside of the column's range, column `size`, at byte 9"
    );
}

#[test]
fn labels_are_snake_case_and_differ() {
    let labels: std::collections::HashSet<&str> = RejectKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(labels.len(), RejectKind::ALL.len());
    assert!(labels.iter().all(|label| {
        label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    }));
}

#[tokio::test]
async fn events_come_back_with_what_became_of_them() {
    let decoder = decoder("[[column]]\nname = 'f'\ntype = 'int'\n");
    let events = Arc::new(vec![event(b"{}"), event(b"")]);
    let decoded = decoder.decode(Arc::clone(&events)).await.expect("no defect");
    assert_eq!((events.len(), decoded.rows.num_rows(), decoded.rejects.len()), (2, 1, 1));
    let events = Arc::new(Vec::new());
    let decoded = decoder.decode(Arc::clone(&events)).await.expect("no defect");
    assert_eq!((events.len(), decoded.rows.num_rows()), (0, 0));
}
