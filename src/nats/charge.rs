//! What an event is charged for while it is held, what a pull may ask for, and how much is held at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::Subject;

use crate::budget::Permit;
use crate::delivery::{Claim, Event};
use crate::schema::Schema;

/// Most messages in one pull. Below the capacity of a subscription, so that the client never drops one.
pub const MAX_PULL_MESSAGES: usize = 16_384;
/// All that may be held is asked for in so many pulls at least, and in pulls of one batch at most.
const PULLS: usize = 4;

/// What an event costs beyond its wire bytes and its row: the structures that hold it, the reply subject and its
/// entry in the ledger (a table of which less than half may be filled), and the acknowledgement on its way out.
const BOOKKEEPING_BYTES: usize =
    size_of::<Event>() + size_of::<Claim>() + size_of::<Permit>() + 4 * size_of::<Subject>() + 344;

/// Bytes that one event is charged for while it is held: its message, its share of the Arrow buffers at most, and
/// the bookkeeping.
pub fn charge(schema: &Schema, wire_bytes: usize) -> usize {
    BOOKKEEPING_BYTES + wire_bytes + schema.arrow_bytes_upper_bound(wire_bytes)
}

/// How many messages, and how many wire bytes of them, `reserved` bytes cover whatever sizes they come in, where
/// `average` is what a message is expected to have.
///
/// Together the events cost at most `messages` times what an event without a byte costs, and what their wire bytes cost
/// at most.
pub(super) fn covered(schema: &Schema, reserved: usize, average: usize) -> (usize, usize) {
    let each = charge(schema, 0) + 1;
    let thousand_bytes = 1_000 + schema.arrow_bytes_per_thousand_wire_bytes();
    let average_cost = each + average.saturating_mul(thousand_bytes) / 1_000;
    let messages = (reserved / average_cost).clamp(1, MAX_PULL_MESSAGES);
    let left = reserved.saturating_sub(messages * each);
    (messages, (left.saturating_mul(1_000) / thousand_bytes).max(1))
}

/// How much a pipeline, or a partition, holds, however much memory there is: what its writers can use, and not much more than
/// that when their number falls or events change their size. More would make nothing faster. It would wait here instead of in
/// the stream, outside of the processor's caches; and with acknowledgements it would be listed in the state of the consumer, all
/// of which nats-server writes down several times a second.
#[derive(Debug, Clone)]
pub struct Held {
    /// Decides what an event is charged for.
    pub schema: Arc<Schema>,
    /// The most rows of a batch.
    pub max_rows: usize,
    /// The most wire bytes of a batch.
    pub max_bytes: usize,
    /// Batches that are written at once.
    pub writers: Arc<AtomicUsize>,
    /// Batches beside those: what is decoded, what fills, and what is on its way.
    pub beside: usize,
}

impl Held {
    /// What the events of a full batch are charged for, where each is expected to have `average` wire bytes.
    fn batch(&self, average: usize) -> usize {
        let rows = self.max_rows.min(self.max_bytes / average.max(1)).max(1);
        charge(&self.schema, average).saturating_mul(rows)
    }

    /// Bytes that may be charged for in all, pulls that are open included.
    fn most(&self, average: usize) -> usize {
        let batches = self.writers.load(Ordering::Relaxed).saturating_add(self.beside);
        self.batch(average).saturating_mul(batches)
    }

    /// The same, with room for a pull of so many bytes beside a batch that is not full, whatever sizes its events have: else that
    /// batch would wait for more of them, and the pull for the batch.
    pub(super) fn within(&self, average: usize, pull: usize) -> usize {
        let thousand_bytes = 1_000 + self.schema.arrow_bytes_per_thousand_wire_bytes();
        let of_bytes = self.max_bytes.saturating_mul(thousand_bytes) / 1_000;
        let not_full = self.max_rows.saturating_mul(charge(&self.schema, 0) + 1).saturating_add(of_bytes);
        self.most(average).max(not_full.saturating_add(pull))
    }

    /// Bytes to reserve for one pull.
    pub(super) fn pull(&self, average: usize) -> usize {
        let largest = charge(&self.schema, average).saturating_mul(MAX_PULL_MESSAGES);
        (self.most(average) / PULLS).min(self.batch(average)).min(largest)
    }
}

/// What an open pull still asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Left {
    /// A message came. `length` is what the server counts of it: its subject, its reply subject, its headers and its payload
    /// (NATS ADR-37).
    pub(super) fn take(&mut self, length: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }

    /// Whether the server has ended the pull. Where a message takes the last byte it does so without a word.
    pub(super) fn is_nothing(self) -> bool {
        self.messages == 0 || self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry() -> Schema {
        Schema::parse(include_str!("../../schemas/telemetry.toml")).expect("a valid schema")
    }

    #[test]
    fn as_many_batches_are_held_as_are_written_and_some_more() {
        let writers = Arc::new(AtomicUsize::new(2));
        let schema = Arc::new(telemetry());
        let held = Held {
            schema: Arc::clone(&schema),
            max_rows: 1_000,
            max_bytes: 1 << 20,
            writers: Arc::clone(&writers),
            beside: 3,
        };
        assert_eq!(held.most(240), 5_000 * charge(&schema, 240));
        writers.store(7, Ordering::Relaxed);
        assert_eq!(held.most(240), 10_000 * charge(&schema, 240));
        // of large ones fewer make a batch, and one always does
        assert_eq!(held.most(1 << 16), 160 * charge(&schema, 1 << 16));
        assert_eq!(held.most(2 << 20), 10 * charge(&schema, 2 << 20));
        // and no pull is for more than one of them
        assert_eq!(held.pull(240), 1_000 * charge(&schema, 240));
        writers.store(0, Ordering::Relaxed);
        assert_eq!(held.pull(240), 750 * charge(&schema, 240));
    }

    #[test]
    fn a_pull_never_waits_for_a_batch_that_is_not_full() {
        let schema = Arc::new(telemetry());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let (max_rows, max_bytes) = (random.usize(1..5_000), random.usize(1..20_000_000));
            let writers = Arc::new(AtomicUsize::new(random.usize(1..8)));
            let held = Held { schema: Arc::clone(&schema), max_rows, max_bytes, writers, beside: 2 };
            // a batch that takes one event more in neither way
            let (mut charged, mut bytes) = (0, 0);
            for _ in 1..max_rows {
                let wire_bytes = random.usize(0..2 * max_bytes / max_rows + 2);
                if bytes + wire_bytes >= max_bytes {
                    break;
                }
                bytes += wire_bytes;
                charged += charge(&schema, wire_bytes);
            }
            let pull = random.usize(1..4_000_000);
            assert!(charged + pull <= held.within(random.usize(1..100_000), pull));
        }
    }

    #[test]
    fn a_reservation_covers_its_pull_in_whatever_sizes_it_comes() {
        let schema = telemetry();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let reserved = random.usize(50_000..50_000_000);
            let (messages, bytes) = covered(&schema, reserved, random.usize(1..20_000));
            let (mut cost, mut left) = (0, bytes);
            for _ in 0..messages {
                let largest = if random.bool() { 3 * bytes / messages + 2 } else { 100 };
                let wire_bytes = random.usize(..largest).min(left);
                left -= wire_bytes;
                cost += charge(&schema, wire_bytes);
            }
            cost += charge(&schema, left) - charge(&schema, 0);
            assert!(cost <= reserved, "{messages} messages of {bytes} bytes cost {cost} of {reserved}");
        }
    }
}
