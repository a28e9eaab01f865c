//! How the sink is set in a scenario.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The sink's own settings, as text where its configuration has text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SinkSettings {
    pub(crate) delivery: Delivery,
    pub(crate) write: Write,
    /// Of exactly_once. Subjects have the number of one of four partitions in them; so many are read.
    pub(crate) partitions: u64,
    /// What the sink decides by the table where it is not given, as the next one.
    pub(crate) max_rows: Option<u64>,
    pub(crate) max_bytes: Option<String>,
    pub(crate) max_age: String,
    pub(crate) writers: Writers,
    pub(crate) memory: String,
    pub(crate) ack_wait: String,
    /// Threads of tokio's runtime; half the cores where none are given. The threads that decode follow the cores.
    pub(crate) tokio_threads: Option<u64>,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            delivery: Delivery::AtLeastOnce,
            write: Write::Append,
            partitions: PARTITIONS,
            max_rows: None,
            max_bytes: None,
            max_age: "1s".to_owned(),
            writers: Writers::default(),
            memory: "256MiB".to_owned(),
            ack_wait: "30s".to_owned(),
            tokio_threads: None,
        }
    }
}

/// Partitions that subjects are spread over.
pub(crate) const PARTITIONS: u64 = 4;

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

impl Delivery {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::ExactlyOnce => "exactly_once",
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Write {
    Append,
    InsertIfAbsent,
    Upsert,
}

impl Write {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::InsertIfAbsent => "insert_if_absent",
            Self::Upsert => "upsert",
        }
    }
}

/// How many batches are written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Writers {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Default for Writers {
    fn default() -> Self {
        Self { min: 1, max: 4 }
    }
}

impl SinkSettings {
    /// For a report, by the names that the sink's configuration has.
    pub(crate) fn table(&self) -> BTreeMap<String, String> {
        let mut table = BTreeMap::from([
            ("delivery".to_owned(), self.delivery.name().to_owned()),
            ("write".to_owned(), self.write.name().to_owned()),
            ("batch.max_age".to_owned(), self.max_age.clone()),
            ("writers.min".to_owned(), self.writers.min.to_string()),
            ("writers.max".to_owned(), self.writers.max.to_string()),
            ("memory".to_owned(), self.memory.clone()),
            ("ack_wait".to_owned(), self.ack_wait.clone()),
        ]);
        if self.delivery == Delivery::ExactlyOnce {
            table.insert("partitions".to_owned(), self.partitions.to_string());
        }
        if let Some(rows) = self.max_rows {
            table.insert("batch.max_rows".to_owned(), rows.to_string());
        }
        if let Some(bytes) = &self.max_bytes {
            table.insert("batch.max_bytes".to_owned(), bytes.clone());
        }
        if let Some(threads) = self.tokio_threads {
            table.insert("TOKIO_WORKER_THREADS".to_owned(), threads.to_string());
        }
        table
    }
}
