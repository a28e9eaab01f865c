//! The ways in which a pipeline may write, as data: what its configuration and its table have, and what must then be
//! true of the table.

/// Which events of the stream must have a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Each event has one.
    EachEvent,
    /// Each key has one: the event of the key that is the first in the stream.
    FirstOfKey,
    /// Each key has one: the event of the key that is the last in the stream.
    LastOfKey,
}

/// One mode. Each has a pipeline, a stream, a dead-letter stream and a table of its own, named after it.
#[derive(Debug)]
pub(crate) struct Mode {
    /// As the report and the command line call it; also the pipeline's name.
    pub(crate) name: &'static str,
    /// Which events must have a row.
    pub(crate) rows: Rows,
    /// Whether an event may have several rows where a worker died, a commit's outcome was unknown or an
    /// acknowledgement was lost.
    pub(crate) may_duplicate: bool,
    /// Whether progress is kept in the database: then there is no consumer to be looked at, and rows of a partition are
    /// in the order of the stream.
    pub(crate) progress_in_sql: bool,
    /// The fields of the pipeline that make it this mode.
    pub(crate) pipeline: &'static str,
}

/// Partitions that subjects are spread over, in every mode.
pub(crate) const PARTITIONS: u64 = 4;

/// All modes, in the order of the report's columns.
pub(crate) const MODES: [Mode; 4] = [
    Mode {
        name: "append",
        rows: Rows::EachEvent,
        may_duplicate: true,
        progress_in_sql: false,
        pipeline: r#"
durable = "sink-append"
write = "append"
"#,
    },
    Mode {
        name: "insert_if_absent",
        rows: Rows::FirstOfKey,
        may_duplicate: false,
        progress_in_sql: false,
        pipeline: r#"
durable = "sink-insert_if_absent"
write = "insert_if_absent"
key = ["event_id"]
sequence_column = "stream_sequence"
"#,
    },
    Mode {
        name: "upsert",
        rows: Rows::LastOfKey,
        may_duplicate: false,
        progress_in_sql: false,
        pipeline: r#"
durable = "sink-upsert"
write = "upsert"
key = ["event_id"]
sequence_column = "stream_sequence"
"#,
    },
    Mode {
        name: "exactly_once",
        rows: Rows::EachEvent,
        may_duplicate: false,
        progress_in_sql: true,
        pipeline: r#"
delivery = "exactly_once"
partitions = { count = 4, subject = "exactly_once.{partition}.>" }
lease = "3s"
on_gap = "continue"
"#,
    },
];

/// The mode of this name.
pub(crate) fn named(name: &str) -> Option<&'static Mode> {
    MODES.iter().find(|mode| mode.name == name)
}

impl Mode {
    /// The stream that its events are published to.
    pub(crate) fn stream(&self) -> String {
        self.name.to_uppercase()
    }

    /// The durable consumer of its workers, where there is one.
    pub(crate) fn durable(&self) -> Option<String> {
        (!self.progress_in_sql).then(|| format!("sink-{}", self.name))
    }

    /// Whether the table has one row for each key.
    pub(crate) fn is_keyed(&self) -> bool {
        self.rows != Rows::EachEvent
    }

    /// The table, with the name of its schema.
    pub(crate) fn table(&self) -> String {
        format!("dbo.{}", self.name)
    }

    /// The statements that make the table. `row_id` tells in which order rows came.
    pub(crate) fn ddl(&self) -> Vec<String> {
        let (name, table) = (self.name, self.table());
        let mut statements = vec![format!(
            "CREATE TABLE {table} (row_id bigint IDENTITY NOT NULL, event_id bigint NOT NULL, serial bigint NOT NULL, \
             stream_sequence bigint NOT NULL, temperature float NOT NULL, device nvarchar(32) NOT NULL, \
             CONSTRAINT {name}_temperature CHECK (temperature < 1000))"
        )];
        if self.is_keyed() {
            statements.push(format!("CREATE UNIQUE INDEX {name}_key ON {table} (event_id)"));
        }
        statements
    }
}

/// How an event becomes a row, in every mode.
pub(crate) const SCHEMA: &str = r#"
format = "json"

[[column]]
name = "event_id"
type = "bigint"
nullable = false

[[column]]
name = "serial"
type = "bigint"
nullable = false

[[column]]
name = "stream_sequence"
type = "bigint"
from = "stream_sequence"
nullable = false

[[column]]
name = "temperature"
type = "float"
nullable = false

[[column]]
name = "device"
type = "nvarchar(32)"
nullable = false
"#;
