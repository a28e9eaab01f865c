//! `write`, `key` and `sequence_column`: what is wrong with them can be said without the schema, or not (`crate::keyed`).

use super::pipeline::{PipelineConfig, WriteMode};
use super::problem::{Checks, Problem, quote};

/// As many columns as the key of an index has had in every version of SQL Server.
pub const MAX_KEY_COLUMNS: usize = 16;

impl WriteMode {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            WriteMode::Append => "append",
            WriteMode::InsertIfAbsent => "insert_if_absent",
            WriteMode::Upsert => "upsert",
        }
    }

    /// Whether rows are found by their key.
    pub fn is_keyed(self) -> bool {
        self != WriteMode::Append
    }
}

impl PipelineConfig {
    pub(super) fn validate_keyed(&self, checks: &mut Checks<'_>) {
        if !self.write.is_keyed() {
            for (field, is_given) in
                [("key", !self.key.is_empty()), ("sequence_column", self.sequence_column.is_some())]
            {
                if is_given {
                    let message = "has a meaning only with `write = \"insert_if_absent\"` or `\"upsert\"`";
                    checks.refuse(Problem::new(field, message));
                }
            }
            return;
        }
        if self.key.is_empty() || self.key.len() > MAX_KEY_COLUMNS {
            let message = format!(
                "must name 1 to {MAX_KEY_COLUMNS} columns with `write = {}`: those of the table's unique index",
                quote(self.write.as_str())
            );
            let value =
                if self.key.is_empty() { "[]".to_owned() } else { format!("{} columns", self.key.len()) };
            checks.refuse(Problem::new("key", message).with_value(value));
        }
        for (index, name) in self.key.iter().enumerate() {
            let is_same = |other: &&crate::sql_name::Identifier| {
                other.as_str().to_lowercase() == name.as_str().to_lowercase()
            };
            let refusal = if self.key[..index].iter().any(|earlier| is_same(&earlier)) {
                "is in the key already; case does not tell names apart"
            } else if self.sequence_column.iter().any(|column| is_same(&column)) {
                "is the sequence column, which differs from event to event"
            } else {
                continue;
            };
            let problem = Problem::new(format!("key[{index}]"), refusal);
            checks.refuse(problem.with_value(quote(name.as_str())));
        }
        if self.write == WriteMode::Upsert && self.sequence_column.is_none() {
            let message =
                "is required with `write = \"upsert\"`: without it an older event that comes late would win";
            let hint = "name a `bigint` column of the schema with `from = \"stream_sequence\"`";
            checks.refuse(Problem::new("sequence_column", message).with_hint(hint));
        }
    }
}
