//! What bulk loads have brought, for whoever measures: where no row is kept there is no table to ask.

use std::sync::atomic::{AtomicU64, Ordering};

/// Rows of one load from which on a clustered columnstore index would compress it at once.
const ROWS_OF_A_LARGE_LOAD: u64 = 102_400;

/// Sums over all bulk loads of a server since its start. Loads into temporary tables count as any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadCounts {
    /// Loads that were sent, whatever became of them.
    pub loads_begun: u64,
    /// Loads that are committed.
    pub loads_committed: u64,
    /// Rows that are committed. What was taken back to a savepoint is among them.
    pub rows_committed: u64,
    /// Those of them that came in loads of at least 102,400 rows.
    pub rows_committed_in_large_loads: u64,
}

/// The sums, shared by all sessions.
#[derive(Debug, Default)]
pub(super) struct Loads {
    loads_begun: AtomicU64,
    loads_committed: AtomicU64,
    rows_committed: AtomicU64,
    rows_committed_in_large_loads: AtomicU64,
}

impl Loads {
    /// A load is about to be read.
    pub(super) fn begin(&self) {
        self.loads_begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> LoadCounts {
        LoadCounts {
            loads_begun: self.loads_begun.load(Ordering::Relaxed),
            loads_committed: self.loads_committed.load(Ordering::Relaxed),
            rows_committed: self.rows_committed.load(Ordering::Relaxed),
            rows_committed_in_large_loads: self.rows_committed_in_large_loads.load(Ordering::Relaxed),
        }
    }
}

/// The loads of a session's open transaction.
#[derive(Debug, Default)]
pub(super) struct OpenLoads(Vec<u64>);

impl OpenLoads {
    /// A load has been read to its end.
    pub(super) fn add(&mut self, rows: u64) {
        self.0.push(rows);
    }

    /// They are committed.
    pub(super) fn commit(&mut self, loads: &Loads) {
        for rows in self.0.drain(..) {
            loads.loads_committed.fetch_add(1, Ordering::Relaxed);
            loads.rows_committed.fetch_add(rows, Ordering::Relaxed);
            if rows >= ROWS_OF_A_LARGE_LOAD {
                loads.rows_committed_in_large_loads.fetch_add(rows, Ordering::Relaxed);
            }
        }
    }

    /// They are rolled back.
    pub(super) fn roll_back(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_committed_counts_as_committed_and_large_loads_apart() {
        let (loads, mut open) = (Loads::default(), OpenLoads::default());
        (0..4).for_each(|_| loads.begin());
        open.add(102_400);
        open.add(102_399);
        open.commit(&loads);
        open.add(7);
        open.roll_back();
        open.commit(&loads);
        let expected = LoadCounts {
            loads_begun: 4,
            loads_committed: 2,
            rows_committed: 204_799,
            rows_committed_in_large_loads: 102_400,
        };
        assert_eq!(loads.counts(), expected);
    }
}
