//! Synthetic telemetry: events that look like those of a fleet of devices, the same ones at every run.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

const SITES: [&str; 6] = ["rotterdam", "gdansk", "porto", "tallinn", "genoa", "bergen"];
const MESSAGES: [&str; 4] = ["door open", "filter change due", "battery low", "\"restart\" after 12 s – ok"];

/// Makes the events of one run.
#[derive(Debug)]
pub struct Events {
    random: fastrand::Rng,
    start: OffsetDateTime,
}

impl Events {
    /// Events as if recorded from `start` on, a millisecond apart.
    pub fn new(start: OffsetDateTime) -> Self {
        Self { random: fastrand::Rng::with_seed(0x6e61_7473), start }
    }

    /// The subject and the payload of the event with this number.
    pub fn event(&mut self, sequence: u64) -> (String, String) {
        let random = &mut self.random;
        let id = uuid::Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid();
        let site = SITES[random.usize(..SITES.len())];
        let device = random.u32(..5_000);
        let payload = self.payload(sequence, id, site, device);
        (format!("events.{site}.telemetry"), payload)
    }

    fn payload(&mut self, sequence: u64, id: Uuid, site: &str, device: u32) -> String {
        let random = &mut self.random;
        let milliseconds = i64::try_from(sequence).unwrap_or(i64::MAX);
        let recorded_at = self.start.saturating_add(time::Duration::milliseconds(milliseconds));
        let recorded_at = recorded_at.format(&Rfc3339).unwrap_or_default();
        let temperature = f64::from(random.u32(..6_000)) / 100.0 - 20.0;
        let humidity = random.u32(..10_000);
        let ok = random.u32(..100) != 0;
        let mut text = String::with_capacity(256);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"{{"event_id":"{id}","device":{{"id":"device-{device:04}","site":"{site}","firmware":"3.1.{}"}},"sequence":{sequence},"temperature":{temperature:.2},"humidity":"{}.{:02}","ok":{ok},"recorded_at":"{recorded_at}","message":"#,
            device % 10,
            humidity / 100,
            humidity % 100,
        );
        match random.usize(..20) {
            index if index < MESSAGES.len() => {
                let _ = write!(text, "{}}}", serde_json::Value::from(MESSAGES[index]));
            }
            _ => text.push_str("null}"),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_a_telemetry_size_and_repeat() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let (mut one, mut other) = (Events::new(start), Events::new(start));
        for sequence in 1..=1000 {
            let (subject, payload) = one.event(sequence);
            assert_eq!((subject.clone(), payload.clone()), other.event(sequence));
            let value: serde_json::Value = serde_json::from_str(&payload).expect("it is json");
            assert_eq!(value["sequence"], sequence);
            assert!((200..320).contains(&payload.len()), "{} bytes: {payload}", payload.len());
        }
    }
}
