//! Decoding: the payloads of a batch become one Arrow `RecordBatch`, on threads of their own.
//!
//! A batch is decoded by one thread from its first event to its last; batches are decoded beside each other.
//! To cut a batch into parts and to join them again would copy every row, and hold it twice meanwhile.
//!
//! An event that does not fit is set aside with a [`RejectReason`] and leaves nothing in the rows.

mod json;
mod keys;
mod plan;
mod pool;
mod reject;
mod rows;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;

pub use pool::DecodePool;
pub use reject::{Reject, RejectKind, RejectReason};

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

    /// Decodes `events` on the pool, and hands them back beside what became of them.
    ///
    /// A batch whose caller is gone before its turn comes is not decoded.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when decoding panicked, or when the rows do not fit into one `RecordBatch`:
    /// defects of this program, or of its configuration, never of an event.
    pub async fn decode(&self, events: Vec<Event>) -> Result<(Vec<Event>, Decoded)> {
        let plan = Arc::clone(&self.plan);
        self.pool
            .run(move || {
                let decoded = plan.decode(&events)?;
                Ok((events, decoded))
            })
            .await?
    }

    /// Decodes `events` on the calling thread.
    ///
    /// # Errors
    /// As with [`Decoder::decode`].
    pub fn decode_rows(&self, events: &[Event]) -> Result<Decoded> {
        self.plan.decode(events)
    }
}

fn internal(message: impl Into<String>) -> Error {
    Error::new(Phase::Decode, ErrorKind::Internal, message)
}
