//! The events: what they look like, which of them are bad, and the schema and table that take them.

use std::fmt::Write as _;

use nats_sql_sink::demo::events::Events as Telemetry;
use time::OffsetDateTime;

use crate::scenario::{EventsSettings, PARTITIONS, Shape, Write as Way};

mod wide;

/// The column that has an event's number, in every shape.
pub(crate) const NUMBER: &str = "sequence";

/// Makes the events of one run, in order, numbered from 1.
#[derive(Debug)]
pub(crate) struct Events {
    settings: EventsSettings,
    telemetry: Telemetry,
    random: fastrand::Rng,
    /// What large events are filled from.
    filling: String,
    next: u64,
    /// The sum of the numbers of good events, and how many those are.
    good: (u128, u64),
}

/// One event, ready to be published.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) subject: String,
    pub(crate) payload: String,
}

impl Events {
    pub(crate) fn new(settings: &EventsSettings) -> Self {
        let mut random = fastrand::Rng::with_seed(0x6c6f_6164);
        let filling = std::iter::repeat_with(|| random.alphanumeric()).take(2 * LARGEST_TEXT).collect();
        Self {
            settings: settings.clone(),
            telemetry: Telemetry::new(OffsetDateTime::now_utc()),
            random,
            filling,
            next: 1,
            good: (0, 0),
        }
    }

    /// The next event.
    pub(crate) fn next_event(&mut self) -> Event {
        let number = self.next;
        self.next += 1;
        let subject = format!("{SUBJECT}.{}.{}", number % PARTITIONS, self.settings.shape.name());
        let mut payload = match self.settings.shape {
            Shape::Telemetry => self.telemetry.event(number).1,
            Shape::Wide => wide::payload(number, &mut self.random),
            Shape::Large => self.large(number),
            Shape::Tiny => self.tiny(number),
        };
        if is_bad(number, self.settings.bad_share) {
            // no JSON any more
            payload.truncate(payload.len() / 2);
        } else {
            self.good.0 += u128::from(number);
            self.good.1 += 1;
        }
        Event { subject, payload }
    }

    /// What the table must hold when all events so far are in it: how many, and the sum of their numbers.
    pub(crate) fn good(&self) -> Good {
        Good { count: self.good.1, sum: self.good.0, last: self.next - 1 }
    }

    fn tiny(&mut self, number: u64) -> String {
        let value = self.random.u32(..10_000);
        let state = value % 7;
        format!(r#"{{"{NUMBER}":{number},"value":{}.{:02},"state":{state}}}"#, value / 100, value % 100)
    }

    fn large(&mut self, number: u64) -> String {
        let bytes = self.settings.bytes.unwrap_or_default();
        let mut text = String::with_capacity(bytes + 64);
        let _ = write!(text, r#"{{"{NUMBER}":{number},"head":""#);
        let room = bytes.saturating_sub(text.len() + r#"","tail":""}"#.len());
        let (head, tail) = (room / 2, room - room / 2);
        // other text in each event, so that nothing is measured of a compression that real text would not have
        let start = self.random.usize(..self.filling.len() / 2);
        let part = |length: usize| &self.filling[start..start + length.min(LARGEST_TEXT)];
        let _ = write!(text, r#"{}","tail":"{}"}}"#, part(head), part(tail));
        text
    }
}

/// What a table must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Good {
    pub(crate) count: u64,
    pub(crate) sum: u128,
    /// The number of the last event, good or not.
    pub(crate) last: u64,
}

/// The driver loads no value of more bytes in bulk: what is larger is dead-lettered.
const LARGEST_TEXT: usize = 65_535;

/// What all subjects begin with.
pub(crate) const SUBJECT: &str = "load_test";

/// Whether the event of this number is one of a share of bad ones, spread evenly.
pub(crate) fn is_bad(number: u64, share: f64) -> bool {
    #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
    let passed = |number: u64| (number as f64 * share).floor();
    passed(number) > passed(number.saturating_sub(1))
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Wide => "wide",
            Self::Large => "large",
            Self::Tiny => "tiny",
        }
    }

    /// How an event becomes a row.
    pub(crate) fn schema(self) -> String {
        match self {
            Self::Telemetry => include_str!("../../schemas/telemetry.toml").to_owned(),
            Self::Wide => wide::schema(),
            Self::Large => format!(
                "format = \"json\"\n{}{}{}{}",
                column(NUMBER, "bigint", ""),
                column("head", "varchar(max)", ""),
                column("tail", "varchar(max)", ""),
                column("stream_sequence", "bigint", "from = \"stream_sequence\"\n"),
            ),
            Self::Tiny => format!(
                "format = \"json\"\n{}{}{}{}",
                column(NUMBER, "bigint", ""),
                column("value", "float", ""),
                column("state", "tinyint", ""),
                column("stream_sequence", "bigint", "from = \"stream_sequence\"\n"),
            ),
        }
    }

    /// The fields of a pipeline that say how rows are written.
    pub(crate) fn write_fields(self, way: Way) -> String {
        let key = if self == Self::Telemetry { "event_id" } else { NUMBER };
        match way {
            Way::Append => "write = \"append\"\n".to_owned(),
            Way::InsertIfAbsent | Way::Upsert => format!(
                "write = \"{}\"\nkey = [\"{key}\"]\nsequence_column = \"stream_sequence\"\n",
                way.name()
            ),
        }
    }
}

fn column(name: &str, sql_type: &str, more: &str) -> String {
    format!("\n[[column]]\nname = \"{name}\"\ntype = \"{sql_type}\"\nnullable = false\n{more}")
}

#[cfg(test)]
mod tests {
    use nats_sql_sink::schema::Schema;

    use super::*;

    fn settings(shape: Shape, bytes: Option<usize>) -> EventsSettings {
        EventsSettings { shape, bytes, ..EventsSettings::default() }
    }

    #[test]
    fn events_are_json_of_their_size_with_a_value_for_each_column() {
        for (shape, bytes, sizes) in [
            (Shape::Telemetry, None, 200..320),
            (Shape::Wide, None, 1_000..3_000),
            (Shape::Large, Some(10_240), 10_240..10_241),
            (Shape::Large, Some(102_400), 102_400..102_401),
            (Shape::Tiny, None, 35..45),
        ] {
            let mut events = Events::new(&settings(shape, bytes));
            let schema = Schema::parse(&shape.schema()).unwrap();
            for number in 1..=50_u64 {
                let Event { subject, payload } = events.next_event();
                assert!(sizes.contains(&payload.len()), "{shape:?}: {} bytes", payload.len());
                assert!(subject.starts_with(&format!("{SUBJECT}.{}.", number % PARTITIONS)));
                let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
                assert_eq!(value[NUMBER], number);
            }
            assert!(schema.columns().iter().any(|column| column.name.as_str() == NUMBER));
            assert_eq!(events.good(), Good { count: 50, sum: 1275, last: 50 });
        }
        assert_eq!(Schema::parse(&Shape::Wide.schema()).unwrap().columns().len(), 60);
    }

    #[test]
    fn bad_events_are_the_share_that_was_asked_for_and_are_no_json() {
        let mut events = Events::new(&EventsSettings { bad_share: 0.01, ..settings(Shape::Telemetry, None) });
        let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        let bad = (0..10_000).filter(|_| !is_json(&events.next_event().payload)).count();
        assert_eq!(bad, 100);
        assert_eq!(events.good().count, 9_900);
        assert!((1..=1000).all(|number| !is_bad(number, 0.0)));
        assert!((1..=1000).all(|number| is_bad(number, 1.0)));
    }
}
