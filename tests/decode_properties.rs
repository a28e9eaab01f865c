//! What decoding promises for every input, checked with inputs that nobody thought of.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use arrow::array::AsArray;
use arrow::datatypes::{Decimal128Type, Int64Type};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use nats_sql_sink::decode::{DecodePool, Decoded, Decoder, RejectKind};
use nats_sql_sink::delivery::{Event, Headers};
use nats_sql_sink::schema::Schema;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

fn event(payload: impl Into<Bytes>) -> Event {
    Event {
        subject: Subject::from_static("events.eu.sensor"),
        payload: payload.into(),
        headers: None,
        stream_sequence: 1,
        deliveries: 1,
        published_at: 0,
        received_at: 0,
    }
}

fn decode(schema: &str, events: &[Event]) -> Decoded {
    let pool = DecodePool::new(1).unwrap();
    let schema = Schema::parse(&format!("format = \"json\"\n{schema}")).unwrap();
    let decoded = Decoder::new(&schema, &pool).decode_rows(events).unwrap();
    // THEN every event is one row or one reject, in order
    assert_eq!(decoded.rows.num_rows(), decoded.row_events.len());
    let mut seen: Vec<usize> = decoded.row_events.iter().map(|event| *event as usize).collect();
    assert!(seen.is_sorted() && decoded.rejects.iter().map(|reject| reject.event).is_sorted());
    seen.extend(decoded.rejects.iter().map(|reject| reject.event));
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..events.len()));
    decoded
}

fn decode_one(schema: &str, payload: &str) -> Result<Decoded, RejectKind> {
    let decoded = decode(schema, &[event(payload.to_owned())]);
    match decoded.rejects.first() {
        Some(reject) => Err(reject.reason.kind()),
        None => Ok(decoded),
    }
}

/// One column of each type, `c0` to `c18`.
fn all_types() -> String {
    let types = [
        "bit",
        "tinyint",
        "smallint",
        "int",
        "bigint",
        "real",
        "float",
        "decimal(20,4)",
        "date",
        "time(3)",
        "datetime2(3)",
        "datetimeoffset(7)",
        "char(5)",
        "varchar(8)",
        "nchar(5)",
        "nvarchar(max)",
        "binary(4)",
        "varbinary(max)",
        "uniqueidentifier",
    ];
    let columns =
        types.iter().enumerate().map(|(index, name)| format!("[[column]]\nname='c{index}'\ntype='{name}'\n"));
    columns.collect::<String>() + "[[column]]\nname='raw'\ntype='nvarchar(max)'\npath='c1'\nas_json=true\n"
}

/// Values of every JSON type, among them such as some column takes.
fn json_value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        select(vec![
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "255",
            "1e3",
            "1.50",
            "2147483648",
            "9223372036854775808",
            "\"2024-02-29\"",
            "\"23:59:59.9999\"",
            "\"2024-02-29T12:00:00.123456Z\"",
            "\"2024-02-29 12:00:00+01:00\"",
            "\"00112233-4455-6677-8899-aabbccddeeff\"",
            "\"aGk=\"",
            "\"\\u00e4\\ud83d\\ude00\"",
            "\"\\ud800\"",
            "\"1.25\"",
            "\"\"",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| Value::from(value).to_string()),
        any::<String>().prop_map(|text| Value::from(text).to_string()),
    ];
    scalar.prop_recursive(6, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec((key(), inner), 0..4).prop_map(|fields| object(&fields)),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![(0..19).prop_map(|index| format!("c{index}")), "[a-z\"\\\\é\u{0}]{0,12}"]
}

fn object(fields: &[(String, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(key, value)| format!("{} :\n{value}", Value::from(key.as_str()))).collect();
    format!("{{ {} }}", fields.join("\t, "))
}

fn json_object() -> impl Strategy<Value = String> {
    vec((key(), json_value()), 0..8).prop_map(|fields| object(&fields))
}

/// Bytes put in, taken out or replaced.
fn mutations() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    let bytes = select(b"{}[]\",:\\ue0-+.1 tfn\x00\x1f\x7f\x80\xc3\xff".to_vec());
    vec((any::<Index>(), 0..3_u8, prop_oneof![bytes, any::<u8>()]), 0..4)
}

fn mutate(text: String, mutations: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    for (index, how, byte) in mutations {
        if bytes.is_empty() {
            break;
        }
        let at = index.index(bytes.len());
        match how {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            _ => _ = bytes.remove(at),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_a_row_or_a_reject(payloads in vec(vec(any::<u8>(), 0..200), 0..8)) {
        let events: Vec<Event> = payloads.into_iter().map(event).collect();
        decode(&all_types(), &events);
    }

    #[test]
    fn a_bad_event_leaves_nothing_in_the_rows_of_its_neighbours(
        payloads in vec((json_object(), mutations()), 1..8)
    ) {
        let events: Vec<Event> =
            payloads.into_iter().map(|(text, mutations)| event(mutate(text, &mutations))).collect();
        let together = decode(&all_types(), &events);
        // WHEN each is decoded alone, THEN the row is the same
        for (row, index) in together.row_events.iter().enumerate() {
            let alone = decode(&all_types(), &events[*index as usize..=*index as usize]);
            prop_assert_eq!(&alone.rows, &together.rows.slice(row, 1));
        }
        for reject in &together.rejects {
            let alone = decode(&all_types(), &events[reject.event..=reject.event]);
            prop_assert_eq!(&alone.rejects[0].reason, &reject.reason);
        }
    }

    #[test]
    fn what_is_json_is_what_serde_json_says(text in json_object(), mutations in mutations()) {
        let payload = mutate(text, &mutations);
        let decoded = decode("[[column]]\nname='absent'\ntype='int'\npath='not there'", &[event(payload.clone())]);
        let kind = decoded.rejects.first().map(|reject| reject.reason.kind());
        match serde_json::from_slice::<Value>(&payload) {
            Ok(Value::Object(_)) => prop_assert_eq!(kind, None),
            Ok(_) => prop_assert_eq!(kind, Some(RejectKind::NotAnObject)),
            // The one deliberate difference: a number beyond a double is JSON all the same.
            Err(error) if error.to_string().contains("number out of range") => {}
            Err(_) => prop_assert!(matches!(kind, Some(
                RejectKind::NotJson | RejectKind::TrailingData | RejectKind::BadUtf8 | RejectKind::LoneSurrogate
                | RejectKind::EmptyPayload)), "{:?}", kind),
        }
    }

    #[test]
    fn text_arrives_as_serde_json_reads_it(text in any::<String>(), escaped in any::<bool>()) {
        let mut json = Value::from(text.as_str()).to_string();
        if escaped {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            json = format!("\"{units}\"");
        }
        let decoded = decode_one("[[column]]\nname='t'\ntype='nvarchar(max)'", &format!("{{\"t\":{json}}}"));
        let rows = decoded.unwrap().rows;
        prop_assert_eq!(rows.column(0).as_string::<i32>().value(0), text);
    }

    #[test]
    fn decimals_are_exact_in_every_spelling(
        digits in "[0-9]{1,38}", negative in any::<bool>(), scale in 0_usize..=38, point in 0_usize..60, quoted in any::<bool>()
    ) {
        // GIVEN an integer, spelled with its point anywhere and the exponent that makes up for it
        let unscaled: i128 = digits.parse::<i128>().unwrap() * if negative { -1 } else { 1 };
        let padded = format!("{digits:0>width$}", width = point + 1);
        let (whole, fraction) = padded.split_at(padded.len() - point);
        let whole = match whole.trim_start_matches('0') { "" => "0", whole => whole };
        let fraction = if point == 0 { String::new() } else { format!(".{fraction}") };
        let exponent = i64::try_from(point).unwrap() - i64::try_from(scale).unwrap();
        let sign = if negative { "-" } else { "" };
        let mut json = format!("{sign}{whole}{fraction}e{exponent}");
        if quoted {
            json = format!("\"{json}\"");
        }
        let schema = format!("[[column]]\nname='d'\ntype='decimal(38,{scale})'");
        let decoded = decode_one(&schema, &format!("{{\"d\":{json}}}")).unwrap();
        prop_assert_eq!(decoded.rows.column(0).as_primitive::<Decimal128Type>().value(0), unscaled);
    }

    #[test]
    fn decimals_round_half_away_from_zero(unscaled in -10_i128.pow(30)..10_i128.pow(30), cut in 1_u32..20) {
        let power = 10_i128.pow(cut);
        let expected = (unscaled.abs() + power / 2) / power * unscaled.signum();
        let json = format!("{{\"d\":{unscaled}e-{cut}}}");
        let rounded = decode_one("[[column]]\nname='d'\ntype='decimal(38)'\nexcess_digits='round'", &json).unwrap();
        prop_assert_eq!(rounded.rows.column(0).as_primitive::<Decimal128Type>().value(0), expected);
        let strict = decode_one("[[column]]\nname='d'\ntype='decimal(38)'", &json).map(|_| ()).err();
        prop_assert_eq!(strict, (unscaled % power != 0).then_some(RejectKind::ExcessDigits));
    }

    #[test]
    fn timestamps_agree_with_the_time_crate(
        seconds in -62_135_596_800_i64 + 86_400..253_402_300_799 - 86_400, nanos in 0_u32..1_000_000_000,
        offset_minutes in -840_i16..=840, scale in 0_u32..=7
    ) {
        let offset = time::UtcOffset::from_whole_seconds(i32::from(offset_minutes) * 60).unwrap();
        let instant = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap().replace_nanosecond(nanos).unwrap();
        let text = instant.to_offset(offset).format(&time::format_description::well_known::Rfc3339).unwrap();
        let unit = 10_i128.pow(9 - scale);
        let rounded = (instant.unix_timestamp_nanos() + unit / 2).div_euclid(unit) * unit;
        let ticks = i64::try_from(rounded / 100).unwrap() + 621_355_968_000_000_000;

        let schema = format!(
            "[[column]]\nname='a'\ntype='datetime2({scale})'\npath='t'\n[[column]]\nname='b'\ntype='datetimeoffset({scale})'\npath='t'\n\
             [[column]]\nname='c'\ntype='datetime2({scale})'\nunit='ns'\npath='n'\n"
        );
        let payload = format!("{{\"t\":\"{text}\",\"n\":{}}}", instant.unix_timestamp_nanos());
        let decoded = decode_one(&schema, &payload).unwrap();
        prop_assert_eq!(decoded.rows.column(0).as_primitive::<Int64Type>().value(0), ticks);
        prop_assert_eq!(decoded.rows.column(1).as_struct().column(0).as_primitive::<Int64Type>().value(0), ticks);
        prop_assert_eq!(decoded.rows.column(2).as_primitive::<Int64Type>().value(0), ticks);
        let minutes = decoded.rows.column(1).as_struct().column(1).as_primitive::<arrow::datatypes::Int16Type>().value(0);
        prop_assert_eq!(minutes, offset_minutes);
    }

    #[test]
    fn no_reject_repeats_anything_of_its_event(marker in "[A-Z]{12}", field in 0..19, shape in 0..5) {
        let payload = match shape {
            0 => format!("{{\"c{field}\":\"{marker}\"}}"),
            1 => format!("{{\"c{field}\":{{\"{marker}\":1}}}}"),
            2 => format!("{{\"{marker}\":1}} {marker}"),
            3 => format!("{{\"c{field}\":[\"{marker}\"]}}"),
            _ => format!("{{\"c{field}\":{marker}}}"),
        };
        for reject in decode(&all_types(), &[event(payload)]).rejects {
            let shown = format!("{} {reject:?}", reject.reason);
            prop_assert!(!shown.contains(&marker), "{}", shown);
        }
    }

    #[test]
    fn memory_stays_within_what_is_reserved_for_it(
        columns in vec((0..TYPES.len(), 0..SOURCES.len()), 1..12), payloads in vec((json_object(), mutations()), 0..40),
        subject in "[a-z]{1,200}", header in "[ -~]{0,400}", copies in 1..60_usize
    ) {
        let columns = columns.into_iter().enumerate().map(|(index, (sql_type, source))| {
            format!("[[column]]\nname='x{index}'\ntype='{}'\n{}\n", TYPES[sql_type], SOURCES[source])
        });
        // Not all types fit all sources: such columns are refused, which is not what this is about.
        let fits = |column: &String| Schema::parse(&format!("format = \"json\"\n{column}")).is_ok();
        let text: String = columns.filter(fits).collect();
        prop_assume!(!text.is_empty());
        let schema = Schema::parse(&format!("format = \"json\"\n{text}")).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("Name", header.as_str());
        let mut events: Vec<Event> = Vec::new();
        for _ in 0..copies {
            events.extend(payloads.iter().map(|(text, mutations)| Event {
                subject: Subject::from(subject.as_str()),
                headers: Some(Headers::from(&headers)),
                ..event(mutate(text.clone(), mutations))
            }));
        }
        let decoded = Decoder::new(&schema, &DecodePool::new(1).unwrap()).decode_rows(&events).unwrap();
        let reserved: usize = events.iter().map(|event| schema.arrow_bytes_upper_bound(event.wire_bytes())).sum();
        let taken = decoded.rows.get_array_memory_size();
        prop_assert!(taken <= reserved + schema.arrow_batch_bytes(), "{} > {} + {}", taken, reserved, schema.arrow_batch_bytes());
    }
}

const TYPES: [&str; 14] = [
    "nvarchar(max)",
    "nvarchar(20)",
    "varchar(max)",
    "varchar(20)",
    "nchar(10)",
    "varbinary(max)",
    "bit",
    "int",
    "bigint",
    "decimal(38,10)",
    "datetimeoffset",
    "datetime2",
    "uniqueidentifier",
    "float",
];

const SOURCES: [&str; 10] = [
    "path='c1'",
    "path='c2'",
    "path='c1.c2'",
    "path='c1'\nas_json=true",
    "path='c2'\ndefault='a default of some length, longer than most of what there is'",
    "from='payload'",
    "from='subject'",
    "from='subject_token(1)'",
    "from='header(Name)'",
    "from='header(Absent)'\ndefault='what is absent becomes this'",
];

#[test]
fn memory_stays_within_what_is_reserved_also_with_large_batches() {
    // GIVEN 20,000 events, of which several columns copy everything
    let text = "format = \"json\"\n\
        [[column]]\nname='a'\ntype='nvarchar(max)'\nfrom='payload'\n[[column]]\nname='b'\ntype='varbinary(max)'\nfrom='payload'\n\
        [[column]]\nname='c'\ntype='nvarchar(max)'\npath='t'\n[[column]]\nname='d'\ntype='nvarchar(max)'\npath='t'\nas_json=true\n\
        [[column]]\nname='e'\ntype='datetimeoffset'\nnullable=false\ndefault='2024-01-01T00:00:00Z'\n\
        [[column]]\nname='f'\ntype='uniqueidentifier'\n[[column]]\nname='g'\ntype='bit'\n";
    let schema = Schema::parse(text).unwrap();
    let payload = Bytes::from(format!("{{\"t\":\"{}\"}}", "x".repeat(600)));
    let events: Vec<Event> = (0..20_000).map(|_| event(payload.clone())).collect();
    let decoded = Decoder::new(&schema, &DecodePool::new(1).unwrap()).decode_rows(&events).unwrap();
    let reserved: usize = events.iter().map(|event| schema.arrow_bytes_upper_bound(event.wire_bytes())).sum();
    let taken = decoded.rows.get_array_memory_size();
    assert_eq!(decoded.rows.num_rows(), 20_000);
    assert!(taken <= reserved + schema.arrow_batch_bytes(), "{taken} > {reserved}");
    // THEN the bound is not far off either
    assert!(reserved < taken * 3 / 2, "{taken} {reserved}");
}
