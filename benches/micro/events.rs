//! Synthetic events, the same in every run.

use std::fmt::Write as _;

use async_nats::Subject;
use nats_sql_sink::delivery::Event;
use nats_sql_sink::schema::Schema;

/// Events of one iteration: about a fifth of a full batch.
pub(crate) const EVENTS: usize = 20_000;

/// Those of `schemas/telemetry.toml`.
pub(crate) fn telemetry() -> (Schema, Vec<Event>) {
    of(include_str!("../../schemas/telemetry.toml"), reading)
}

/// Those of `schemas/flights.toml`.
pub(crate) fn flights() -> (Schema, Vec<Event>) {
    of(include_str!("../../schemas/flights.toml"), flight)
}

fn of(schema: &str, payload: fn(&mut u64) -> String) -> (Schema, Vec<Event>) {
    let mut seed = 0x9E37_79B9_7F4A_7C15;
    let events = (1..).take(EVENTS).map(|sequence| event(payload(&mut seed), sequence)).collect();
    (Schema::parse(schema).unwrap(), events)
}

fn event(payload: String, stream_sequence: u64) -> Event {
    Event {
        subject: Subject::from_static("events.eu.sensor"),
        payload: payload.into(),
        headers: None,
        stream_sequence,
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
fn reading(seed: &mut u64) -> String {
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
