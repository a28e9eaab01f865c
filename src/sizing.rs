//! How large a batch may become: what the configuration says, and where it leaves that open, what the table is best served
//! with and the memory allows.

use std::time::Duration;

use bytesize::ByteSize;

use crate::batcher::Limits;
use crate::config::{DEFAULT_BATCH_ROWS, PipelineConfig, default_batch_bytes, largest_batch_bytes};
use crate::mssql::target::Shape;
use crate::nats::charge::charge;
use crate::schema::Schema;

/// The fewest rows of one bulk load that a columnstore compresses at once; fewer go to its deltastore, and are compressed
/// later in the background (Microsoft's "Columnstore indexes: data loading guidance").
pub const FEWEST_COMPRESSED_ROWS: usize = 102_400;
/// A batch for a columnstore has more events than that, so that a few bad ones, or repeats of a key, do not keep it from being
/// compressed.
const COLUMNSTORE_BATCH_ROWS: usize = 131_072;
/// What is assumed of the size of an event, to tell how many fit into the memory.
const ASSUMED_WIRE_BYTES: usize = 256;

/// What was decided, and why.
#[derive(Debug)]
pub struct Sizes {
    /// What a batch may become.
    pub limits: Limits,
    /// For the log and for `check`.
    pub decisions: Vec<String>,
    /// Where the configuration keeps the table from being served best.
    pub warnings: Vec<String>,
}

/// Decides for a pipeline that may hold `budget` of the process' `memory`.
pub fn decide(config: &PipelineConfig, schema: &Schema, shape: Shape, memory: usize, budget: usize) -> Sizes {
    let batch = &config.batch;
    let is_columnstore = shape == Shape::Columnstore;
    let (usual_rows, usual_bytes) = match is_columnstore {
        true => (COLUMNSTORE_BATCH_ROWS, largest_batch_bytes(memory)),
        false => (DEFAULT_BATCH_ROWS, default_batch_bytes(memory)),
    };
    let (max_rows, max_bytes) =
        (batch.max_rows.unwrap_or(usual_rows), batch.max_bytes.unwrap_or(usual_bytes));
    let mut decisions = vec![
        format!(
            "batches of up to {max_rows} rows and {}, cut after {} at the latest",
            ByteSize::b(max_bytes as u64),
            humantime::format_duration(batch.max_age)
        ),
        format!("{} to {} of them written at once", config.writers.min, config.writers.max),
    ];
    let mut warnings = Vec::new();
    if is_columnstore {
        decisions.push(format!(
            "a columnstore compresses a load of {FEWEST_COMPRESSED_ROWS} rows or more at once: with fewer than {} events a \
             second, or of more than {} bytes, loads are smaller and go to its deltastore",
            per_second(FEWEST_COMPRESSED_ROWS, batch.max_age),
            max_bytes / FEWEST_COMPRESSED_ROWS
        ));
        if max_rows < FEWEST_COMPRESSED_ROWS {
            warnings.push(format!(
                "batch.max_rows = {max_rows}: every load goes to the deltastore of the columnstore; leave it out, or write \
                 at least {FEWEST_COMPRESSED_ROWS}"
            ));
        }
        let held = budget / charge(schema, ASSUMED_WIRE_BYTES);
        if held < FEWEST_COMPRESSED_ROWS {
            warnings.push(format!(
                "memory holds about {held} events of {ASSUMED_WIRE_BYTES} bytes at once, fewer than the \
                 {FEWEST_COMPRESSED_ROWS} that a columnstore compresses: raise it"
            ));
        }
    }
    Sizes { limits: Limits::new(config, max_rows, max_bytes), decisions, warnings }
}

fn per_second(rows: usize, time: Duration) -> u64 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    (rows as u64).saturating_mul(1_000) / milliseconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const MEMORY: usize = 256 << 20;

    fn sizes(batch: &str, shape: Shape, budget: usize) -> Sizes {
        let text = format!(
            "[sql]\nserver = \"a\"\ndatabase = \"a\"\n\
             auth = {{ method = \"sql_login\", user = \"a\", password_file = \"a\" }}\n\
             [[pipeline]]\nname = \"a\"\nstream = \"A\"\ndurable = \"a\"\nsubjects = [\"a\"]\nschema = \"a\"\ntable = \"a\"\n\
             dead_letter = {{ stream = \"D\", subject = \"d\" }}\n{batch}\n"
        );
        let config = Config::from_toml(&text, "a.toml".as_ref(), &|_| None).expect("it is valid");
        let schema = Schema::parse("format = \"json\"\n[[column]]\nname = \"a\"\ntype = \"int\"\n")
            .expect("it is valid");
        decide(&config.pipelines[0], &schema, shape, MEMORY, budget)
    }

    #[test]
    fn a_columnstore_gets_batches_that_it_compresses_where_nothing_else_is_said() {
        for shape in [Shape::Heap, Shape::HeapWithIndexes, Shape::Clustered] {
            let usual = sizes("", shape, MEMORY);
            assert_eq!((usual.limits.max_rows(), usual.limits.max_bytes()), (25_000, 8 << 20), "{shape:?}");
            assert!(usual.warnings.is_empty());
        }
        let columnstore = sizes("", Shape::Columnstore, MEMORY);
        assert_eq!((columnstore.limits.max_rows(), columnstore.limits.max_bytes()), (131_072, 64 << 20));
        assert!(columnstore.warnings.is_empty(), "{:?}", columnstore.warnings);
        let says = |part: &str| columnstore.decisions.iter().any(|decision| decision.contains(part));
        assert!(says("fewer than 102400 events a second, or of more than 655 bytes"), "{columnstore:?}");
    }

    #[test]
    fn what_is_configured_stays_and_is_warned_of_where_a_columnstore_wants_more() {
        let batch = "batch = { max_rows = 50_000, max_bytes = \"1MiB\", max_age = \"4s\" }";
        let small = sizes(batch, Shape::Columnstore, MEMORY);
        assert_eq!((small.limits.max_rows(), small.limits.max_bytes()), (50_000, 1 << 20));
        assert_eq!(small.warnings.len(), 1, "{:?}", small.warnings);
        assert!(small.warnings[0].contains("max_rows = 50000"), "{:?}", small.warnings);
        assert!(small.decisions.iter().any(|decision| decision.contains("fewer than 25600 events")));
        assert!(sizes(batch, Shape::Heap, MEMORY).warnings.is_empty());
        // little memory is said, too
        let starved = sizes("", Shape::Columnstore, MEMORY / 8);
        assert!(starved.warnings.iter().any(|warning| warning.starts_with("memory holds")), "{starved:?}");
    }
}
