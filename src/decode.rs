//! Decoding: the payloads of a batch become one Arrow `RecordBatch`, on threads of their own.
//!
//! A batch is decoded by one thread from its first event to its last; batches are decoded beside each other.
//! To cut a batch into parts and to join them again would copy every row, and hold it twice meanwhile.
//!
//! An event that does not fit is set aside with a [`RejectReason`] and leaves nothing in the rows.

mod hooks;
mod json;
mod keys;
mod plan;
mod pool;
mod reject;
mod rows;
mod scan;
mod suspects;
#[cfg(test)]
mod tests;
pub mod trial;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

pub use pool::DecodePool;
pub use reject::{Reject, RejectKind, RejectReason};
pub use trial::Ended;

use crate::delivery::Event;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::schema::Schema;

/// Turns the events of one pipeline into rows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Decoder {
    plan: Arc<plan::Plan>,
    pool: DecodePool,
}

/// What became of the events of a batch: each is either a row or a reject.
#[derive(Debug)]
pub struct Decoded {
    /// The rows, in the order of their events.
    pub rows: RecordBatch,
    /// For each row the index of its event.
    pub row_events: Vec<u32>,
    /// The events that became no row, in their order.
    pub rejects: Vec<Reject>,
}

impl Decoder {
    /// A decoder for `schema`, which works on `pool`.
    pub fn new(schema: &Schema, pool: &DecodePool) -> Self {
        Self { plan: Arc::new(plan::Plan::new(schema)), pool: pool.clone() }
    }

    /// Decodes `events` on the pool.
    ///
    /// A batch whose caller is gone before its turn comes is not decoded.
    ///
    /// # Errors
    /// [`ErrorKind::DecoderFailed`] when decoding panicked, [`ErrorKind::Internal`] when the rows do not fit into one
    /// `RecordBatch`: a defect of this program, or of its configuration.
    pub async fn decode(&self, events: Arc<Vec<Event>>) -> Result<Decoded> {
        let plan = Arc::clone(&self.plan);
        self.pool.run(move || plan.decode(&events)).await?
    }

    /// How long a decode may take before it is taken for one that never ends.
    pub fn patience(&self) -> Duration {
        hooks::patience()
    }

    /// Finds the events that the decoder does not survive, in processes of their own; `observe` is told how each of these
    /// ended.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where no process can be started, or where so many events fail that it is not the events.
    pub async fn find_fatal(&self, events: &[Event], observe: impl Fn(Ended)) -> Result<Vec<Reject>> {
        let mut search = suspects::Search::new(events.len());
        while let Some(part) = search.next() {
            let ended = trial::run(self.plan.schema(), events.get(part).unwrap_or_default()).await?;
            observe(ended);
            if ended == Ended::Interrupted {
                tokio::time::sleep(AFTER_AN_INTERRUPTION).await;
            }
            search.ended(ended);
            let found = search.found().len();
            if found > MOST_FATAL.max(events.len() / FATAL_ONE_IN) {
                return Err(internal(format!(
                    "{found} of {} events end the decoder, for which they are not to blame",
                    events.len()
                )));
            }
        }
        let reject = |(event, rule): &(usize, &'static str)| Reject {
            event: *event,
            reason: RejectReason { kind: RejectKind::CrashesDecoder, rule, column: None, offset: None },
        };
        Ok(search.found().iter().map(reject).collect())
    }

    /// Decodes `events` on the calling thread.
    ///
    /// # Errors
    /// As with [`Decoder::decode`].
    pub fn decode_rows(&self, events: &[Event]) -> Result<Decoded> {
        self.plan.decode(events)
    }
}

/// As with rows that the database refuses, more than this and more than one in ten are not the events' doing.
const MOST_FATAL: usize = 10;
const FATAL_ONE_IN: usize = 10;

/// Before a trial that somebody has ended is made again.
const AFTER_AN_INTERRUPTION: Duration = Duration::from_secs(1);

fn internal(message: impl Into<String>) -> Error {
    Error::new(Phase::Decode, ErrorKind::Internal, message)
}
