//! `[[pipeline]]`: from one stream into one table.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::problem::{Checks, Problem, quote};
use super::subject::{name_problem, subject_problem, subjects_overlap};
use super::{MAX_MEMORY_BYTES, units};
use crate::sql_name::{Identifier, TableName};

/// Rows of a full rowgroup of a columnstore: more in one bulk load gain nothing.
pub const MAX_BATCH_ROWS: usize = 1_048_576;

/// Rows of a batch, where neither the configuration nor the table says otherwise: enough that round trips and commits cost
/// little beside the rows, and few enough that what is held stays small (docs/adr/0014).
pub const DEFAULT_BATCH_ROWS: usize = 25_000;

/// Bytes of a batch, likewise, where the memory allows it.
const DEFAULT_BATCH_BYTES: usize = 8 << 20;

/// A batch may take this part of the memory, so that one can fill while others are decoded and written.
const BATCH_PARTS_OF_MEMORY: usize = 4;

/// One stream's events on their way into one table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// Its name in logs, metrics and dead letters: 1 to 64 of `A-Z a-z 0-9 _ -`, unique. Required.
    pub name: String,
    /// The JetStream stream. It has to exist. Required.
    pub stream: String,
    /// The durable consumer, shared by all workers of this pipeline; made where it does not exist. In `exactly_once`, where
    /// each partition has a consumer for as long as it is read, what their names begin with. Required in
    /// `at_least_once`; else the default is `name`.
    #[serde(default)]
    pub durable: String,
    /// Make the consumer, and bring its settings in line. Where false it has to exist, nothing of it is changed, and settings
    /// by which a promise could not be kept are refused. Default true.
    #[serde(default = "default_manage_consumer")]
    pub manage_consumer: bool,
    /// Which subjects of the stream: filters that do not overlap. Required.
    pub subjects: Vec<String>,
    /// The schema file. Required.
    pub schema: PathBuf,
    /// `table`, `schema.table`, with brackets where a name needs them. Required.
    pub table: TableName,
    /// Create the table where it does not exist. Default false.
    #[serde(default)]
    pub create_table: bool,
    /// What is promised. Default `at_least_once`.
    #[serde(default)]
    pub delivery: DeliveryGuarantee,
    /// What becomes of rows whose key is already there. Default `append`.
    #[serde(default)]
    pub write: WriteMode,
    /// The columns of the key, for keyed writes: 1 to 16. Default: none.
    #[serde(default)]
    pub key: Vec<Identifier>,
    /// The column that keeps a row's position in the stream, for keyed writes. Required for `upsert`. Default: none.
    #[serde(default)]
    pub sequence_column: Option<Identifier>,
    /// How the stream is divided, for `exactly_once`. Default: one partition.
    #[serde(default)]
    pub partitions: Option<PartitionsConfig>,
    /// How long a worker owns a partition without renewing, for `exactly_once`, 1 s to 1 h. Default 10 s.
    #[serde(default, with = "humantime_serde")]
    pub lease: Option<Duration>,
    /// What to do when the stream's limits removed events unseen, for `exactly_once`. Default `stop`.
    #[serde(default)]
    pub on_gap: Option<OnGap>,
    /// An event that was delivered more often is decoded in a process of its own first, and dead-lettered when it fails
    /// there alone. At least 1. Default 10.
    #[serde(default = "default_max_deliveries")]
    pub max_deliveries: u64,
    /// When a batch is cut.
    #[serde(default)]
    pub batch: BatchConfig,
    /// How many batches are written at once.
    #[serde(default)]
    pub writers: WritersConfig,
    /// How long JetStream waits for a sign of life before it delivers again. At least 1 s. Default 30 s.
    #[serde(default = "default_ack_wait", with = "humantime_serde")]
    pub ack_wait: Duration,
    /// Where events go that cannot become rows. Required.
    pub dead_letter: DeadLetterConfig,
    /// Where commits are announced. Default: nowhere.
    #[serde(default)]
    pub receipts: Option<ReceiptsConfig>,
}

fn default_manage_consumer() -> bool {
    true
}

fn default_max_deliveries() -> u64 {
    10
}

fn default_ack_wait() -> Duration {
    Duration::from_secs(30)
}

/// `delivery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryGuarantee {
    /// Every event arrives; a few may arrive twice after a crash.
    #[default]
    AtLeastOnce,
    /// Every event is in the table once: SQL keeps, in the same transaction, how far the stream is read.
    ExactlyOnce,
}

/// `write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Every event is a new row.
    #[default]
    Append,
    /// Of the rows of a key the first in the stream stays.
    InsertIfAbsent,
    /// Of the rows of a key the last in the stream wins.
    Upsert,
}

/// `on_gap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnGap {
    /// The pipeline stops, and says what is missing.
    #[default]
    Stop,
    /// The gap is counted and reported, and the pipeline goes on behind it.
    Continue,
}

/// `partitions`: lists of subjects, or a count with a pattern.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionsConfig {
    /// The filters of each partition. Default: none.
    #[serde(default)]
    pub subjects: Option<Vec<Vec<String>>>,
    /// The number of partitions. Default: none.
    #[serde(default)]
    pub count: Option<usize>,
    /// A filter with `{partition}` in the place of the partition's number. Default: none.
    #[serde(default)]
    pub subject: Option<String>,
}

/// `batch`: cut at a number of rows, a number of bytes or an age, whichever comes first.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Rows, 1 to 1,048,576. Default 25,000; for a columnstore, which compresses 102,400 at once and no fewer, somewhat
    /// more.
    pub max_rows: Option<usize>,
    /// Bytes of subjects, headers and payloads: at most a quarter of `memory`. One event always fits. Default
    /// 8 MiB, or a quarter of `memory` where that is less, or the table is a columnstore.
    #[serde(deserialize_with = "units::optional_bytes")]
    pub max_bytes: Option<usize>,
    /// Counted from the first event of the batch. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_rows: None, max_bytes: None, max_age: Duration::from_secs(1) }
    }
}

/// The most bytes that a batch can have.
pub fn largest_batch_bytes(memory: usize) -> usize {
    memory / BATCH_PARTS_OF_MEMORY
}

/// The most bytes of a batch where the configuration does not say.
pub fn default_batch_bytes(memory: usize) -> usize {
    DEFAULT_BATCH_BYTES.min(largest_batch_bytes(memory))
}

/// `writers`: how many batches are written at once, which follows what the database makes of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WritersConfig {
    /// At least. Default 1.
    pub min: usize,
    /// At most, and at most `sql.max_connections`. Default 4.
    pub max: usize,
}

impl Default for WritersConfig {
    fn default() -> Self {
        Self { min: 1, max: 4 }
    }
}

/// `dead_letter`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// The stream that keeps them. It has to exist. Required.
    pub stream: String,
    /// What their subjects begin with: pipeline, stream, time and sequence follow. The stream has to listen on all
    /// subjects below it. Required.
    pub subject: String,
}

/// `receipts`: each commit is announced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsConfig {
    /// The subject that they are published on. A stream has to take it. Required.
    pub subject: String,
}

impl PipelineConfig {
    /// `memory` and `max_connections` are those of the process.
    pub(super) fn validate(&self, checks: &mut Checks<'_>, memory: usize, max_connections: usize) {
        self.validate_names(checks);
        self.validate_delivery(checks);
        self.validate_keyed(checks);
        if self.max_deliveries == 0 {
            checks.refuse(Problem::new("max_deliveries", "must be at least 1").with_value(0));
        }
        let hour = Duration::from_secs(3600);
        checks.duration("ack_wait", self.ack_wait, &(Duration::from_secs(1)..=hour));
        self.validate_batch(&mut checks.table("batch"), memory);
        self.validate_writers(&mut checks.table("writers"), max_connections);
        self.validate_dead_letter(&mut checks.table("dead_letter"));
        self.validate_receipts(&mut checks.table("receipts"));
    }

    fn validate_names(&self, checks: &mut Checks<'_>) {
        let is_label_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_label_safe) {
            let message = "must be 1 to 64 of A-Z, a-z, 0-9, `_` and `-`: it becomes a metric's label";
            checks.refuse(Problem::new("name", message).with_value(quote(&self.name)));
        }
        let is_named = self.delivery == DeliveryGuarantee::AtLeastOnce || !self.durable.is_empty();
        for (field, name) in [("stream", &self.stream), ("durable", &self.durable)] {
            if (field != "durable" || is_named)
                && let Some(message) = name_problem(name)
            {
                checks.refuse(Problem::new(field, message).with_value(quote(name)));
            }
        }
        if self.subjects.is_empty() {
            let hint = "write `subjects = [\">\"]` for all subjects of the stream";
            let problem = Problem::new("subjects", "must hold at least one filter");
            checks.refuse(problem.with_value("[]").with_hint(hint));
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            let field = format!("subjects[{index}]");
            if let Some(message) = subject_problem(subject, true) {
                checks.refuse(Problem::new(field, message).with_value(quote(subject)));
            } else if let Some(earlier) = self.subjects[..index].iter().find(|e| subjects_overlap(e, subject))
            {
                let message = format!("must not overlap with {}: JetStream refuses it", quote(earlier));
                checks.refuse(Problem::new(field, message).with_value(quote(subject)));
            }
        }
        if self.schema.as_os_str().is_empty() {
            checks.refuse(Problem::new("schema", "must name a file").with_value("\"\""));
        }
    }

    fn validate_batch(&self, checks: &mut Checks<'_>, memory: usize) {
        let batch = &self.batch;
        checks.range("max_rows", batch.max_rows.unwrap_or(DEFAULT_BATCH_ROWS), &(1..=MAX_BATCH_ROWS));
        let most = largest_batch_bytes(memory);
        if let Some(max_bytes) = batch.max_bytes.filter(|bytes| *bytes == 0 || *bytes > most) {
            let (shown, most) = (units::show_bytes(max_bytes), units::show_bytes(most));
            let message = format!(
                "must be from 1B to {most}, a quarter of `memory`, so that one batch can fill while others are \
                 decoded and written"
            );
            let needed = max_bytes.saturating_mul(BATCH_PARTS_OF_MEMORY);
            let problem = Problem::new("max_bytes", message).with_value(quote(&shown));
            checks.refuse(match needed {
                0 => problem,
                1..=MAX_MEMORY_BYTES => problem
                    .with_hint(format!("write {most:?}, or `memory = {:?}`", units::show_bytes(needed))),
                _ => problem.with_hint(format!("write {most:?}")),
            });
        }
        let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(3600));
        checks.duration("max_age", batch.max_age, &(shortest..=longest));
    }

    fn validate_writers(&self, checks: &mut Checks<'_>, max_connections: usize) {
        let WritersConfig { min, max } = self.writers;
        if min == 0 {
            checks.refuse(Problem::new("min", "must be at least 1").with_value(min));
        }
        if max < min {
            checks.refuse(Problem::new("max", format!("must be at least `min`, {min}")).with_value(max));
        }
        if max > max_connections {
            let message = format!("must be at most `sql.max_connections`, {max_connections}");
            checks.refuse(Problem::new("max", message).with_value(max));
        }
    }

    fn validate_dead_letter(&self, checks: &mut Checks<'_>) {
        let DeadLetterConfig { stream, subject } = &self.dead_letter;
        if let Some(message) = name_problem(stream) {
            checks.refuse(Problem::new("stream", message).with_value(quote(stream)));
        }
        if let Some(message) = subject_problem(subject, false) {
            checks.refuse(Problem::new("subject", message).with_value(quote(subject)));
            return;
        }
        let below = format!("{subject}.>");
        let is_own = |filter: &String| subjects_overlap(filter, subject) || subjects_overlap(filter, &below);
        if *stream == self.stream
            && let Some(filter) = self.subjects.iter().find(|filter| is_own(filter))
        {
            let message =
                format!("must not be received by the pipeline itself, which subscribes to {}", quote(filter));
            checks.refuse(Problem::new("subject", message).with_value(quote(subject)));
        }
    }

    fn validate_receipts(&self, checks: &mut Checks<'_>) {
        let Some(ReceiptsConfig { subject }) = &self.receipts else { return };
        if let Some(message) = subject_problem(subject, false) {
            checks.refuse(Problem::new("subject", message).with_value(quote(subject)));
        } else if let Some(filter) = self.subjects.iter().find(|filter| subjects_overlap(filter, subject)) {
            let message =
                format!("must not be among the pipeline's own `subjects`, which have {}", quote(filter));
            checks.refuse(Problem::new("subject", message).with_value(quote(subject)));
        }
    }
}
