//! What bulk loads have brought, and INSERTs whose rows are not kept, for whoever measures: where no row is kept there is
//! no table to ask.

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
    /// Rows of INSERTs that are committed and, as the storage keeps none, in no table. They are no bulk load's.
    pub rows_inserted_and_discarded: u64,
}

/// The sums, shared by all sessions.
#[derive(Debug, Default)]
pub(super) struct Loads {
    loads_begun: AtomicU64,
    loads_committed: AtomicU64,
    rows_committed: AtomicU64,
    rows_committed_in_large_loads: AtomicU64,
    rows_inserted_and_discarded: AtomicU64,
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
            rows_inserted_and_discarded: self.rows_inserted_and_discarded.load(Ordering::Relaxed),
        }
    }
}

/// The loads of a session's open transaction.
#[derive(Debug, Default)]
pub(super) struct OpenLoads {
    loads: Vec<u64>,
    discarded: u64,
}

impl OpenLoads {
    /// A load has been read to its end.
    pub(super) fn add(&mut self, rows: u64) {
        self.loads.push(rows);
    }

    /// An INSERT was right, and its rows are not kept.
    pub(super) fn add_discarded(&mut self, rows: u64) {
        self.discarded += rows;
    }

    /// They are committed.
    pub(super) fn commit(&mut self, loads: &Loads) {
        loads.rows_inserted_and_discarded.fetch_add(std::mem::take(&mut self.discarded), Ordering::Relaxed);
        for rows in self.loads.drain(..) {
            loads.loads_committed.fetch_add(1, Ordering::Relaxed);
            loads.rows_committed.fetch_add(rows, Ordering::Relaxed);
            if rows >= ROWS_OF_A_LARGE_LOAD {
                loads.rows_committed_in_large_loads.fetch_add(rows, Ordering::Relaxed);
            }
        }
    }

    /// They are rolled back.
    pub(super) fn roll_back(&mut self) {
        self.loads.clear();
        self.discarded = 0;
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
        open.add_discarded(5);
        open.commit(&loads);
        open.add(7);
        open.add_discarded(7);
        open.roll_back();
        open.commit(&loads);
        let expected = LoadCounts {
            loads_begun: 4,
            loads_committed: 2,
            rows_committed: 204_799,
            rows_committed_in_large_loads: 102_400,
            rows_inserted_and_discarded: 5,
        };
        assert_eq!(loads.counts(), expected);
    }
}
