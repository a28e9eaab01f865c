//! How fast events become Arrow rows on one core, beside arrow-json, which reads the same payloads by a schema that
//! is as near to ours as its types allow. `cargo bench --bench decode` prints medians; they and what they decided
//! are in `docs/adr/0002-json-parser.md`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at what it did not expect"
)]

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use async_nats::Subject;
use nats_sql_sink::decode::{DecodePool, Decoder};
use nats_sql_sink::delivery::Event;
use nats_sql_sink::schema::{Schema, Source, SqlType};

const EVENTS: usize = 100_000;
const RUNS: usize = 9;

fn main() {
    let pool = DecodePool::new(1).unwrap();
    println!("{:<10} {:<11} {:>12} {:>9} {:>6}", "events", "decoder", "events/s", "MB/s", "ratio");
    for (name, schema, payload) in [
        ("telemetry", include_str!("../schemas/telemetry.toml"), telemetry as fn(&mut u64) -> String),
        ("flights", include_str!("../schemas/flights.toml"), flight),
    ] {
        let schema = Schema::parse(schema).unwrap();
        let decoder = Decoder::new(&schema, &pool);
        let mut seed = 0x9E37_79B9_7F4A_7C15;
        let events: Vec<Event> = (0..EVENTS).map(|_| event(payload(&mut seed))).collect();
        let nearest = nearest_arrow_schema(&schema);
        let (mut baseline, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            baseline.push(seconds(|| arrow_json(&nearest, &events)));
            ours.push(seconds(|| {
                let decoded = decoder.decode_rows(&events).unwrap();
                assert_eq!(decoded.rejects, []);
                decoded.rows.num_rows()
            }));
        }
        let (baseline, ours) = (median(baseline), median(ours));
        report(name, "arrow-json", &events, baseline, baseline);
        report(name, "ours", &events, ours, baseline);
    }
}

fn report(name: &str, decoder: &str, events: &[Event], seconds: f64, baseline: f64) {
    let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let (rate, megabytes) = (events.len() as f64 / seconds, bytes as f64 / seconds / 1e6);
    println!("{name:<10} {decoder:<11} {rate:>12.0} {megabytes:>9.1} {:>6.2}", baseline / seconds);
}

/// Seconds of processor time that this thread needs for `work`: other processes do not count.
fn seconds(work: impl FnOnce() -> usize) -> f64 {
    let before = processor_seconds();
    assert_eq!(work(), EVENTS);
    processor_seconds() - before
}

fn processor_seconds() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn arrow_json(schema: &SchemaRef, events: &[Event]) -> usize {
    let mut decoder =
        ReaderBuilder::new(Arc::clone(schema)).with_batch_size(events.len()).build_decoder().unwrap();
    for event in events {
        assert_eq!(decoder.decode(&event.payload).unwrap(), event.payload.len());
    }
    decoder.flush().unwrap().unwrap().num_rows()
}

/// The columns that read the payload, one level of nesting, with the types that arrow-json can read.
fn nearest_arrow_schema(schema: &Schema) -> SchemaRef {
    let (mut fields, mut nested) = (Vec::new(), Vec::<(String, Vec<Field>)>::new());
    for column in schema.columns() {
        let Source::Field { path, .. } = &column.source else { continue };
        let data_type = match column.sql_type {
            SqlType::DateTime2 { .. } | SqlType::DateTimeOffset { .. } => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            SqlType::UniqueIdentifier => DataType::Utf8,
            sql_type => sql_type.arrow(),
        };
        let field = Field::new(path.last().unwrap(), data_type, true);
        match path.as_slice() {
            [outer, _] => match nested.iter_mut().find(|(name, _)| name == outer) {
                Some((_, inner)) => inner.push(field),
                None => nested.push((outer.clone(), vec![field])),
            },
            _ => fields.push(field),
        }
    }
    fields.extend(
        nested.into_iter().map(|(name, inner)| Field::new(name, DataType::Struct(inner.into()), true)),
    );
    Arc::new(arrow::datatypes::Schema::new(fields))
}

fn event(payload: String) -> Event {
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

/// xorshift64: the same events in every run.
fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

/// A reading of about 240 bytes, as `schemas/telemetry.toml` has it.
fn telemetry(seed: &mut u64) -> String {
    let mut next = |below| random(seed, below);
    let site = ["berlin", "oslo", "lisbon", "new york"][usize::try_from(next(4)).unwrap()];
    let mut json = format!(
        "{{\"event_id\":\"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}\",",
        next(1 << 32),
        next(1 << 16),
        next(1 << 12),
        next(1 << 12),
        next(1 << 48)
    );
    let (device, sequence) = (next(50_000), next(10_000_000));
    write!(json, "\"device\":{{\"id\":\"device-{device:05}\",\"site\":\"{site}\"}},\"sequence\":{sequence},")
        .unwrap();
    write!(
        json,
        "\"temperature\":{}.{:02},\"humidity\":{}.{:02},",
        next(60),
        next(100),
        next(100),
        next(100)
    )
    .unwrap();
    write!(json, "\"ok\":{},\"recorded_at\":\"2026-03-{:02}T", next(7) != 0, 1 + next(28)).unwrap();
    write!(json, "{:02}:{:02}:{:02}.{:03}Z\",", next(24), next(60), next(60), next(1000)).unwrap();
    let message = if next(4) == 0 { "\"battery low, 12 % left\"" } else { "null" };
    write!(json, "\"message\":{message}}}").unwrap();
    json
}

/// A flight of 19 fields, as `schemas/flights.toml` has it.
fn flight(seed: &mut u64) -> String {
    let mut next = |below| random(seed, below);
    let mut json = format!("{{\"year\":2013,\"month\":1,\"day\":{},", 1 + next(31));
    for (field, below) in
        [("dep_time", 2400), ("sched_dep_time", 2400), ("dep_delay", 300), ("arr_time", 2400)]
    {
        write!(json, "\"{field}\":{},", next(below)).unwrap();
    }
    let carrier = ["UA", "AA", "B6", "DL"][usize::try_from(next(4)).unwrap()];
    write!(
        json,
        "\"sched_arr_time\":{},\"arr_delay\":-{},\"carrier\":\"{carrier}\",",
        next(2400),
        1 + next(40)
    )
    .unwrap();
    write!(json, "\"flight\":{},\"tailnum\":\"N{:05}\",", next(6000), next(100_000)).unwrap();
    write!(
        json,
        "\"origin\":\"EWR\",\"dest\":\"IAH\",\"air_time\":{},\"distance\":{},",
        next(600),
        next(5000)
    )
    .unwrap();
    let (hour, minute) = (next(24), next(60));
    write!(json, "\"hour\":{hour},\"minute\":{minute},\"time_hour\":\"2013-01-01T{hour:02}:00:00Z\"}}")
        .unwrap();
    json
}
