//! The events: what is published, which of them are bad, and which are another version of an earlier one.

use crate::mode::PARTITIONS;

/// Why an event cannot become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It is no JSON.
    Malformed,
    /// It breaks the table's constraint.
    Constraint,
    /// It is too long for its column, and as large as NATS takes.
    Largest,
    /// The worker's test hook ends the process when it decodes it.
    Crash,
}

/// Which events are bad, by their serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRule {
    pub(crate) kind: Bad,
    pub(crate) which: Which,
}

/// A set of serial numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that this number divides.
    Every(u64),
    /// Those of a range, the last one not included.
    Range(u64, u64),
}

impl BadRule {
    pub(crate) fn every(number: u64, kind: Bad) -> Self {
        Self { kind, which: Which::Every(number) }
    }

    pub(crate) fn range(from: u64, to: u64, kind: Bad) -> Self {
        Self { kind, which: Which::Range(from, to) }
    }

    fn takes(&self, serial: u64) -> bool {
        match self.which {
            Which::Every(number) => serial.is_multiple_of(number),
            Which::Range(from, to) => (from..to).contains(&serial),
        }
    }
}

/// One event as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Counts the events of a lane from 1 on: no two events have the same.
    pub(crate) serial: u64,
    /// Its key: the serial number of the first event with that key.
    pub(crate) key: u64,
    /// Why it cannot become a row.
    pub(crate) bad: Option<Bad>,
    /// Its place in the stream, as the stream confirmed it.
    pub(crate) sequence: Option<u64>,
    /// Counts the streams of that name which were made anew.
    pub(crate) generation: u32,
    /// How often it was published again, because its stream had not confirmed it in time.
    pub(crate) again: u32,
}

/// Every so manieth event is another version of the one that was so many before it.
const VERSION_EVERY: u64 = 10;
const VERSION_OF: usize = 5;

/// The event that follows on `before`.
pub(crate) fn next(before: &[Event], rules: &[BadRule], versions: bool) -> Event {
    let serial = before.len() as u64 + 1;
    let bad = rules.iter().find(|rule| rule.takes(serial)).map(|rule| rule.kind);
    let earlier = (versions && bad.is_none() && serial.is_multiple_of(VERSION_EVERY))
        .then(|| before.iter().rev().nth(VERSION_OF - 1))
        .flatten();
    // a bad event has a key of its own: whether another version of it is written does not hang on it
    let key = earlier.filter(|earlier| earlier.bad.is_none()).map_or(serial, |earlier| earlier.key);
    Event { serial, key, bad, sequence: None, generation: 0, again: 0 }
}

impl Event {
    /// The partition that it belongs to: the same for all versions of a key.
    pub(crate) fn partition(&self) -> u64 {
        self.key % PARTITIONS
    }

    /// The subject that it is published on.
    pub(crate) fn subject(&self, mode: &str) -> String {
        format!("{mode}.{}.reading", self.partition())
    }

    /// Its payload; the largest event fills `max_payload`.
    pub(crate) fn payload(&self, max_payload: usize) -> Vec<u8> {
        self.payload_with_note(max_payload, 0)
    }

    /// The same, with so many bytes more that nobody looks at.
    pub(crate) fn payload_with_note(&self, max_payload: usize, note_bytes: usize) -> Vec<u8> {
        let (serial, key) = (self.serial, self.key);
        let begin = format!(r#"{{"serial":{serial},"event_id":{key},"#);
        let device = key % 500;
        let rest = match self.bad {
            None => format!(
                r#""temperature":{}.25,"device":"device-{device:04}","note":"{NOTE}{}"}}"#,
                serial % 40,
                "z".repeat(note_bytes)
            ),
            Some(Bad::Malformed) => r#""temperature":,"device""#.to_owned(),
            Some(Bad::Constraint) => format!(r#""temperature":5000,"device":"device-{device:04}"}}"#),
            Some(Bad::Crash) => {
                format!(r#""temperature":1,"device":"device-{device:04}","crash":"abort"}}"#)
            }
            Some(Bad::Largest) => {
                let (head, tail) = (r#""temperature":1,"device":""#, r#""}"#);
                let room = max_payload.saturating_sub(begin.len() + head.len() + tail.len());
                format!("{head}{}{tail}", "x".repeat(room))
            }
        };
        (begin + &rest).into_bytes()
    }
}

/// About as much as an event of telemetry carries beside its measurements.
const NOTE: &str =
    "all is as it should be; the next inspection is due in spring, and until then nothing is to be done here";

/// The serial number that a payload begins with, also where the payload is cut short or is no JSON.
pub(crate) fn serial_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.strip_prefix(br#"{"serial":"#)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize, rules: &[BadRule]) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(next(&events, rules, true));
        }
        events
    }

    #[test]
    fn every_tenth_event_is_another_version_of_an_earlier_one() {
        let events = many(40, &[]);
        assert_eq!(events[9].key, 5);
        assert_eq!(events[39].key, 35);
        assert_eq!(events.iter().filter(|event| event.key != event.serial).count(), 4);
        assert_eq!(events[9].partition(), events[4].partition());
    }

    #[test]
    fn a_bad_event_has_a_key_of_its_own_and_no_versions() {
        let rules = [BadRule::every(15, Bad::Malformed), BadRule::range(50, 51, Bad::Constraint)];
        let events = many(60, &rules);
        for event in &events {
            let versions = events.iter().filter(|other| other.key == event.key).count();
            assert!(event.bad.is_none() || versions == 1, "{event:?}");
        }
        assert_eq!(events.iter().filter(|event| event.bad.is_some()).count(), 5);
    }

    #[test]
    fn a_payload_tells_its_serial_number_also_when_it_is_bad() {
        for bad in [None, Some(Bad::Malformed), Some(Bad::Constraint), Some(Bad::Largest), Some(Bad::Crash)] {
            let event = Event { serial: 1234, key: 1234, bad, sequence: None, generation: 0, again: 0 };
            assert_eq!(serial_of(&event.payload(4096)), Some(1234), "{bad:?}");
        }
        assert_eq!(serial_of(b"{\"serial\":"), None);
        assert_eq!(serial_of(b"else"), None);
    }

    #[test]
    fn the_largest_event_fills_what_nats_takes() {
        let event =
            Event { serial: 7, key: 7, bad: Some(Bad::Largest), sequence: None, generation: 0, again: 0 };
        assert_eq!(event.payload(1_048_576).len(), 1_048_576);
    }
}
