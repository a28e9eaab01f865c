//! Events that the limits of their stream removed before anybody received them.

use async_nats::jetstream::{consumer, stream};

use crate::metrics;

/// What of a stream was counted as removed.
#[derive(Debug)]
pub(super) struct Removed {
    /// Nothing up to here is counted any more.
    counted_to: u64,
}

impl Removed {
    /// From where the consumer stands.
    fn since(delivered: u64) -> Self {
        Self { counted_to: delivered }
    }

    /// From what is in the stream now.
    pub(super) fn from_now(first_sequence: u64) -> Self {
        Self { counted_to: first_sequence.saturating_sub(1) }
    }

    /// How many sequences are gone that were not counted yet, where the stream begins at `first_sequence` and the consumer has
    /// delivered up to `delivered`. An upper bound of the events: a consumer with filters would not have wanted all of them, and some
    /// may have been deleted one by one.
    pub(super) fn count(&mut self, first_sequence: u64, delivered: u64) -> u64 {
        let last_removed = first_sequence.saturating_sub(1);
        let from = delivered.max(self.counted_to);
        self.counted_to = self.counted_to.max(last_removed);
        last_removed.saturating_sub(from)
    }
}

/// Counts what was removed while no worker was there. `stream` was asked for before `consumer`, so that nothing counts that was
/// delivered in between.
pub fn count_before_start(pipeline: &str, stream: &stream::Info, consumer: &consumer::Info) {
    let delivered = consumer.delivered.stream_sequence;
    report(pipeline, Removed::since(delivered).count(stream.state.first_sequence, delivered));
}

pub(super) fn report(pipeline: &str, events: u64) {
    if events == 0 {
        return;
    }
    metrics::removed_unseen(pipeline, events);
    tracing::error!(
        pipeline,
        at_most = events,
        "the stream has removed events that nobody has received: its limits are too small for how long they wait"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_counted_once() {
        let mut removed = Removed::since(10);
        assert_eq!(removed.count(1, 10), 0);
        assert_eq!(removed.count(11, 10), 0, "the next one is still there");
        assert_eq!(removed.count(16, 10), 5);
        assert_eq!(removed.count(16, 10), 0);
        assert_eq!(removed.count(21, 15), 5);
        assert_eq!(removed.count(31, 25), 5);
        assert_eq!(removed.count(31, 100), 0);
        assert_eq!(removed.count(0, 0), 0);
    }

    #[test]
    fn what_was_gone_before_is_not_counted_again() {
        let mut removed = Removed::from_now(16);
        assert_eq!(removed.count(16, 10), 0);
        assert_eq!(removed.count(18, 10), 2);
    }
}
