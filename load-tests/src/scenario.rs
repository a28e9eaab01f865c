//! Scenarios as data: what is published, how the sink is set, what goes wrong, and which figures are expected.
//!
//! A file may have variants. Each is the file itself with some fields in the place of its own, and is validated as a
//! whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

mod library;
mod parse;
mod sink;

pub(crate) use library::names;
pub(crate) use sink::{Delivery, PARTITIONS, SinkSettings, Write};

use crate::report::Range;

/// A scenario, or one of its variants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// What it is for, for whoever reads its report.
    pub(crate) description: String,
    /// What becomes of the rows.
    #[serde(default)]
    pub(crate) storage: StorageKind,
    /// What the table is.
    #[serde(default)]
    pub(crate) table: TableKind,
    /// How many workers; of a list one after the other.
    #[serde(default)]
    pub(crate) workers: Workers,
    /// Measures in the same run what the machine can do, and how near the sink comes to it.
    #[serde(default)]
    pub(crate) baselines: bool,
    #[serde(default)]
    pub(crate) events: EventsSettings,
    pub(crate) publish: Publish,
    #[serde(default)]
    pub(crate) sink: SinkSettings,
    /// Each bulk load by itself takes so many rows a second, faults or not: several at once bring in more.
    #[serde(default)]
    pub(crate) sql_rows_per_second_of_a_load: Option<u64>,
    /// What goes wrong, and when.
    #[serde(default)]
    pub(crate) fault: Vec<FaultEntry>,
    /// The figures that are looked at, by name.
    #[serde(default)]
    pub(crate) expect: BTreeMap<String, Range>,
}

/// What becomes of the rows of a bulk load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StorageKind {
    /// They are stored in a real PostgreSQL.
    #[default]
    Postgres,
    /// They are parsed, checked and counted, and none is kept.
    Discard,
}

/// How a table keeps its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TableKind {
    /// As the sink makes it.
    #[default]
    Heap,
    /// In a clustered columnstore index.
    Columnstore,
}

/// One number of workers, or several to be tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a number of workers, or a list of such numbers")]
pub(crate) enum Workers {
    One(usize),
    Several(Vec<usize>),
}

impl Default for Workers {
    fn default() -> Self {
        Self::One(1)
    }
}

impl Workers {
    /// In the order in which they are run.
    pub(crate) fn counts(&self) -> &[usize] {
        match self {
            Self::One(count) => std::slice::from_ref(count),
            Self::Several(counts) => counts,
        }
    }
}

/// What an event is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EventsSettings {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    /// The size of an event of the shape `large`.
    pub(crate) bytes: Option<usize>,
    /// How many of the events are no JSON; 1 is all.
    pub(crate) bad_share: f64,
}

impl Default for EventsSettings {
    fn default() -> Self {
        Self { format: Format::Json, shape: Shape::Telemetry, bytes: None, bad_share: 0.0 }
    }
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    Json,
}

/// Its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// A reading of a device, about 240 bytes: the demo's events.
    Telemetry,
    /// 60 columns of numbers, texts and times.
    Wide,
    /// Text of a given size, in two columns.
    Large,
    /// Three numbers, about 40 bytes.
    Tiny,
}

/// How events are published: some before the first worker starts, and then in one way at most.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    /// Events that wait in the stream before the first worker starts.
    #[serde(default)]
    pub(crate) waiting: u64,
    #[serde(default)]
    pub(crate) steady: Option<Steady>,
    #[serde(default)]
    pub(crate) burst: Option<Burst>,
    #[serde(default)]
    pub(crate) fastest: Option<Fastest>,
}

/// So many events a second, for so long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Steady {
    pub(crate) events_per_second: u64,
    pub(crate) seconds: f64,
}

/// So many events at once, again and again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Burst {
    pub(crate) events: u64,
    #[serde(with = "humantime_serde")]
    pub(crate) every: Duration,
    pub(crate) times: u64,
}

/// As fast as the stream takes them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fastest {
    pub(crate) events: u64,
}

/// Something that goes wrong for a while. Exactly one of its two beginnings is given, and exactly one of its effects.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultEntry {
    /// It begins so long after the workers' start …
    #[serde(default, with = "humantime_serde")]
    pub(crate) from: Option<Duration>,
    /// … or when this share of all events is settled, however fast the machine is.
    #[serde(default)]
    pub(crate) after_settled: Option<f64>,
    #[serde(with = "humantime_serde")]
    pub(crate) lasts: Duration,
    /// No connection is possible, and none stays.
    #[serde(default)]
    pub(crate) sql_away: bool,
    /// The database refuses bulk loads by error numbers.
    #[serde(default)]
    pub(crate) sql_errors: Option<SqlErrors>,
    /// Added to each round trip with the database.
    #[serde(default, with = "humantime_serde")]
    pub(crate) round_trip: Option<Duration>,
    /// All bulk loads together take so many rows.
    #[serde(default)]
    pub(crate) sql_rows_per_second: Option<u64>,
    /// Bulk loads beyond so many at once are refused.
    #[serde(default)]
    pub(crate) sql_load_limit: Option<LoadLimit>,
}

/// How many bulk loads the database takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadLimit {
    pub(crate) at_once: usize,
    /// The number that the others are refused by.
    pub(crate) error: i32,
}

/// Errors of bulk loads.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SqlErrors {
    pub(crate) numbers: Vec<i32>,
    /// How many of the bulk loads are refused, by all numbers together; 1 is all.
    pub(crate) share: f64,
}

impl FaultEntry {
    /// What a chart says of it.
    pub(crate) fn label(&self) -> String {
        if self.sql_away {
            return "SQL away".to_owned();
        }
        if let Some(SqlErrors { numbers, share }) = &self.sql_errors {
            let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
            return format!("{:.0}% of loads refused by {}", share * 100.0, numbers.join(", "));
        }
        if let Some(round_trip) = self.round_trip {
            return format!("SQL {} ms farther away", round_trip.as_millis());
        }
        if let Some(LoadLimit { at_once, error }) = self.sql_load_limit {
            return format!("loads beyond {at_once} refused by {error}");
        }
        let rows = self.sql_rows_per_second.unwrap_or_default();
        format!("SQL takes {rows} rows a second")
    }

    /// Whether it is done by a proxy before the database.
    pub(crate) fn needs_proxy(&self) -> bool {
        self.sql_away || self.round_trip.is_some()
    }
}

/// A scenario with its name, and its variants with theirs; one without a title where there are none.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) variants: Vec<(Option<String>, Scenario)>,
}

impl Plan {
    /// The scenario of this name, or the one in this file.
    pub(crate) fn load(name: &str) -> anyhow::Result<Self> {
        let (name, text) = match library::text(name) {
            Some(text) => (name.to_owned(), text.to_owned()),
            None => {
                let path = Path::new(name);
                if !path.is_file() {
                    bail!(
                        "there is no scenario {name:?}, neither of that name nor as a file; there are {}",
                        names().collect::<Vec<_>>().join(", ")
                    );
                }
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {name}"))?;
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (stem, text)
            }
        };
        let variants = parse::variants(&text).with_context(|| format!("scenario {name}"))?;
        Ok(Self { name, variants })
    }
}

impl Scenario {
    /// How many events are published in all, as far as that is known before.
    pub(crate) fn events_in_all(&self) -> u64 {
        let Publish { waiting, steady, burst, fastest } = &self.publish;
        let steady = steady.as_ref().map_or(0, Steady::events);
        let burst = burst.as_ref().map_or(0, |burst| burst.events * burst.times);
        waiting + steady + burst + fastest.as_ref().map_or(0, |fastest| fastest.events)
    }

    /// The same with another number of events. What waits, or else what is published as fast as possible, takes the
    /// number; bursts become larger or smaller, and a steady load longer or shorter.
    pub(crate) fn set_events(&mut self, events: u64) {
        let publish = &mut self.publish;
        if publish.waiting > 0 {
            publish.waiting = events;
        } else if let Some(fastest) = &mut publish.fastest {
            fastest.events = events;
        } else if let Some(burst) = &mut publish.burst {
            burst.events = (events / burst.times).max(1);
        } else if let Some(steady) = &mut publish.steady {
            #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
            let seconds = events as f64 / steady.events_per_second as f64;
            steady.seconds = seconds;
        }
    }

    /// The same for another time.
    ///
    /// # Errors
    /// Where nothing in it takes a time.
    pub(crate) fn set_seconds(&mut self, seconds: f64) -> anyhow::Result<()> {
        let publish = &mut self.publish;
        if let Some(steady) = &mut publish.steady {
            steady.seconds = seconds;
        } else if let Some(burst) = &mut publish.burst {
            let times = (seconds / burst.every.as_secs_f64()).ceil().max(1.0);
            // a number of bursts within a test's time
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let times = times as u64;
            burst.times = times;
        } else {
            bail!(
                "--seconds is for a steady load or for bursts, and this scenario has neither: use --events"
            );
        }
        Ok(())
    }
}

impl Steady {
    /// How many events that makes.
    pub(crate) fn events(&self) -> u64 {
        // numbers of events are far below 2^53
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let events = (self.events_per_second as f64 * self.seconds).round() as u64;
        events
    }
}
