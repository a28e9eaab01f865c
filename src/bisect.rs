//! Which rows of a batch the server refuses, found with few loads.
//!
//! A load is refused as a whole, and the server does not say for which row. So parts of the batch are loaded on trial,
//! and rolled back: where a part is refused, halves of it tell which row was the first to be refused. How large a part
//! is tried next follows from how far apart the bad rows were so far, so that one bad row costs its logarithm, and many
//! cost little more than a few small trials each (generalised binary splitting, Hwang 1972).
//!
//! This module only decides what to try; `writer/search.rs` does it.

use std::ops::Range;

/// Below this many rows a batch does not tell by itself whether the table refuses the rows or the rows are bad.
pub const FEWEST_TO_JUDGE: usize = 100;
/// The table refuses, and the rows are not to blame, where more than one in so many is refused for one reason.
pub const TABLE_REFUSES_ONE_IN: usize = 10;
/// Rows, spread over the batch, that are tried to tell the two apart before all bad ones are found.
const SAMPLE_ROWS: usize = 400;
/// More than so many of them have to be refused: chance makes that of a tenth once in two thousand times.
const SAMPLE_JUDGES: usize = 60;
/// In a batch of fewer rows all bad ones are found sooner than a sample tells.
const FEWEST_TO_SAMPLE: usize = 4_000;
/// Bad rows after which that is done, where they are many for how far the search has come.
const BAD_ROWS_BEFORE_SAMPLE: usize = 10;
/// The distance to the next bad row is expected to be that of the last few.
const GAPS: usize = 8;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load these rows on trial, and roll back.
    Try(Vec<Range<usize>>),
    /// Load these rows, and keep them.
    Write(Vec<Range<usize>>),
    /// The table refuses too many rows: it is not the rows.
    GiveUp {
        /// Rows that were refused for one reason.
        refused: usize,
        /// Of so many that were looked at.
        of: usize,
    },
}

/// The search through one batch. `R` is why a row was refused, and equal for rows that were refused alike.
#[derive(Debug)]
pub struct Search<R> {
    rows: usize,
    /// Of every row before this one it is known whether it is bad.
    next: usize,
    bad: Vec<(usize, R)>,
    /// A bad row is among those from `next` on and before this one.
    within: Option<usize>,
    /// Why a load of exactly the rows that are within was refused.
    why: Option<R>,
    /// Parts that were good one after another since the last bad row.
    good_parts: u32,
    pending: Pending,
    sample: Option<Sample<R>>,
    was_sampled: bool,
    /// Rows are tried together with the good ones before them: a row can be bad only beside another.
    beside_good: bool,
    outcome: Option<(usize, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// Rows from `next` on and before this one are on trial.
    Part(usize),
    Write,
    Sample(usize),
}

#[derive(Debug)]
struct Sample<R> {
    tried: usize,
    refused: Vec<R>,
}

impl<R: Clone + PartialEq> Search<R> {
    /// A load of all `rows` was refused because of `why`.
    pub fn new(rows: usize, why: R) -> Self {
        let mut search = Self {
            rows,
            next: 0,
            bad: Vec::new(),
            within: None,
            why: None,
            good_parts: 0,
            pending: Pending::Nothing,
            sample: None,
            was_sampled: false,
            beside_good: false,
            outcome: None,
        };
        search.must_be_before(rows, why);
        search
    }

    /// The rows that are known to be bad, in their order, and why.
    pub fn bad(&self) -> &[(usize, R)] {
        &self.bad
    }

    /// Why the last of them was refused.
    pub fn last_reason(&self) -> Option<&R> {
        self.bad.last().map(|(_, why)| why)
    }

    /// What to do next. The same, until [`Search::accepted`] or [`Search::refused`] tells what came of it.
    pub fn step(&mut self) -> Step {
        if let Some((refused, of)) = self.outcome {
            return Step::GiveUp { refused, of };
        }
        if self.pending == Pending::Nothing {
            self.pending = self.decide();
        }
        match self.pending {
            Pending::Sample(row) => Step::Try(only(row..row + 1)),
            Pending::Part(end) if self.beside_good => Step::Try(self.good_and(end)),
            Pending::Part(end) => Step::Try(only(self.next..end)),
            Pending::Write | Pending::Nothing => Step::Write(self.good_and(self.rows)),
        }
    }

    fn decide(&mut self) -> Pending {
        if let Some(sample) = &self.sample {
            if sample.tried < SAMPLE_ROWS {
                return Pending::Sample(sampled_row(sample.tried, self.rows));
            }
            self.sample = None;
        }
        if let Some(end) = self.within {
            let count = end - self.next;
            // one that must be bad needs no trial of its own: it was refused when nothing else was left to blame
            return Pending::Part(self.next + (count / 2).max(1));
        }
        let rest = self.rows - self.next;
        let part = self.expected_gap().saturating_mul(1 << self.good_parts.min(20));
        if rest == 0 || self.bad.len() <= 1 || part >= rest {
            Pending::Write
        } else {
            Pending::Part(self.next + part)
        }
    }

    /// How far the next bad row is expected to be.
    fn expected_gap(&self) -> usize {
        let last = self.bad.len().saturating_sub(GAPS + 1);
        let from = if self.bad.len() > GAPS { self.bad.get(last).map_or(0, |(row, _)| *row) } else { 0 };
        let gaps = self.bad.len().clamp(1, GAPS);
        ((self.next - from) / gaps).max(1)
    }

    /// What was to be done is done.
    ///
    /// Returns `true` where that was the write, and the search is over.
    pub fn accepted(&mut self) -> bool {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Write => return true,
            Pending::Sample(_) => self.sampled(None),
            Pending::Part(end) => {
                self.next = end;
                match self.within {
                    // the rest of what was refused is to blame
                    Some(within) if within - end == 1 => self.found(),
                    Some(_) => {}
                    None => self.good_parts += 1,
                }
            }
            Pending::Nothing => {}
        }
        false
    }

    /// What was to be done was refused because of `why`.
    pub fn refused(&mut self, why: R) {
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Sample(_) => self.sampled(Some(why)),
            Pending::Part(end) => self.must_be_before(end, why),
            Pending::Write if self.next < self.rows => self.must_be_before(self.rows, why),
            // All are known, and yet they are refused together.
            Pending::Write => {
                if self.beside_good {
                    self.outcome = Some((self.bad.len(), self.rows));
                    return;
                }
                self.beside_good = true;
                self.bad.clear();
                self.next = 0;
                self.good_parts = 0;
                self.must_be_before(self.rows, why);
            }
            Pending::Nothing => {}
        }
    }

    fn must_be_before(&mut self, end: usize, why: R) {
        self.within = Some(end);
        self.why = Some(why);
        if end - self.next == 1 {
            self.found();
        }
    }

    /// The row at `next` is bad.
    fn found(&mut self) {
        self.within = None;
        let Some(why) = self.why.take() else { return };
        self.bad.push((self.next, why.clone()));
        self.next += 1;
        self.good_parts = 0;
        if self.rows < FEWEST_TO_JUDGE {
            return;
        }
        let alike = self.bad.iter().filter(|(_, other)| *other == why).count();
        if alike * TABLE_REFUSES_ONE_IN > self.rows {
            self.outcome = Some((alike, self.rows));
        } else if self.rows >= FEWEST_TO_SAMPLE
            && !self.was_sampled
            && self.bad.len() >= BAD_ROWS_BEFORE_SAMPLE
            && self.bad.len() * TABLE_REFUSES_ONE_IN > self.next
        {
            self.was_sampled = true;
            self.sample = Some(Sample { tried: 0, refused: Vec::new() });
        }
    }

    fn sampled(&mut self, refused: Option<R>) {
        let Some(sample) = &mut self.sample else { return };
        sample.tried += 1;
        sample.refused.extend(refused);
        if sample.tried < SAMPLE_ROWS {
            return;
        }
        let alike = |why: &R| sample.refused.iter().filter(|other| *other == why).count();
        let most = sample.refused.iter().map(alike).max().unwrap_or(0);
        if most > SAMPLE_JUDGES {
            self.outcome = Some((most, SAMPLE_ROWS));
        }
    }

    /// The rows before `end` that are not known to be bad.
    fn good_and(&self, end: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::with_capacity(self.bad.len() + 1);
        let mut first = 0;
        for (row, _) in &self.bad {
            if first < *row {
                ranges.push(first..*row);
            }
            first = row + 1;
        }
        if first < end {
            ranges.push(first..end);
        }
        ranges
    }
}

fn only(rows: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(rows).collect()
}

/// One row in each part of the batch, at no fixed distance, which bad rows may have as well.
fn sampled_row(index: usize, rows: usize) -> usize {
    let (first, end) = (index * rows / SAMPLE_ROWS, (index + 1) * rows / SAMPLE_ROWS);
    // the golden ratio's fraction spreads evenly, and has no period
    let offset = index.wrapping_mul(0x9E37_79B9) >> 8;
    first + offset % (end - first).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What a search came to, and the loads that it took beyond the first.
    struct Found {
        bad: Vec<usize>,
        loads: usize,
        loaded_rows: usize,
        gave_up: Option<(usize, usize)>,
    }

    fn search(rows: usize, is_bad: impl Fn(usize) -> bool) -> Found {
        let mut search = Search::new(rows, 547);
        let (mut loads, mut loaded_rows) = (0, 0);
        loop {
            let (ranges, is_write) = match search.step() {
                Step::Try(ranges) => (ranges, false),
                Step::Write(ranges) => (ranges, true),
                Step::GiveUp { refused, of } => {
                    let bad = search.bad().iter().map(|(row, _)| *row).collect();
                    return Found { bad, loads, loaded_rows, gave_up: Some((refused, of)) };
                }
            };
            assert_eq!(
                search.step(),
                if is_write { Step::Write(ranges.clone()) } else { Step::Try(ranges.clone()) }
            );
            assert!(is_write || ranges.iter().any(|range| !range.is_empty()), "an empty trial");
            loads += 1;
            loaded_rows += ranges.iter().map(Range::len).sum::<usize>();
            if ranges.into_iter().flatten().any(&is_bad) {
                search.refused(547);
            } else if search.accepted() {
                let bad = search.bad().iter().map(|(row, _)| *row).collect();
                return Found { bad, loads, loaded_rows, gave_up: None };
            }
        }
    }

    #[test]
    fn one_bad_row_of_a_hundred_thousand_costs_at_most_twenty_loads() {
        for bad in [0, 1, 2, 49_999, 50_000, 50_001, 65_535, 65_536, 99_998, 99_999, 12_345] {
            let found = search(100_000, |row| row == bad);
            assert_eq!(found.bad, [bad]);
            assert!(found.loads <= 20, "{bad}: {} loads", found.loads);
        }
    }

    #[test]
    fn fifty_scattered_bad_rows_cost_at_most_eighteen_loads_each() {
        for seed in 0..20usize {
            let bad: BTreeSet<usize> =
                (0..50).map(|n| (n * 1_999 + seed * 7_919 + n * n * 13) % 100_000).collect();
            let found = search(100_000, |row| bad.contains(&row));
            assert_eq!(found.bad, bad.iter().copied().collect::<Vec<_>>());
            assert!(found.loads <= bad.len() * 18, "{} loads", found.loads);
        }
    }

    #[test]
    fn a_hundredth_scattered_costs_few_small_loads_each() {
        let found = search(102_400, |row| row % 100 == 37);
        assert_eq!(found.bad.len(), 1_024);
        assert!(found.loads < 1_024 * 11, "{} loads", found.loads);
        assert!(found.loaded_rows < 102_400 * 8, "{} rows", found.loaded_rows);
        // and so it does where they are in one place
        let found = search(102_400, |row| (50_000..51_024).contains(&row));
        assert_eq!(found.bad.len(), 1_024);
        assert!(found.loads < 1_024 * 3, "{} loads", found.loads);
    }

    #[test]
    fn where_more_than_a_tenth_is_refused_it_is_the_table() {
        let found = search(102_400, |_| true);
        assert!(found.gave_up.is_some());
        assert!(found.loads < 450, "{} loads", found.loads);
        let found = search(102_400, |row| row % 5 == 0);
        assert!(found.gave_up.is_some());
        assert!(found.loads < 600, "{} loads", found.loads);
        // a tenth is not more than a tenth, and of fewer than a hundred rows nothing is concluded
        assert_eq!(search(1_000, |row| row % 10 == 0).bad.len(), 100);
        assert_eq!(search(50_000, |row| row % 10 == 0).bad.len(), 5_000);
        assert_eq!(search(99, |_| true).bad.len(), 99);
    }

    #[test]
    fn rows_that_are_bad_beside_each_other_are_found_too() {
        // the second of two alike is bad, and is refused only beside the first
        let mut search = Search::new(1_000, 2627);
        let mut loads = 0;
        loop {
            let (Step::Try(ranges) | Step::Write(ranges)) = search.step() else { panic!("given up") };
            loads += 1;
            let rows: BTreeSet<usize> = ranges.into_iter().flatten().collect();
            if rows.contains(&10) && rows.contains(&900) {
                search.refused(2627);
            } else if search.accepted() {
                break;
            }
        }
        assert_eq!(search.bad(), [(900, 2627)]);
        assert!(loads < 40, "{loads}");
    }

    proptest! {
        #[test]
        fn every_bad_row_is_found_and_no_other(rows in 1usize..3_000, seed in prop::collection::btree_set(0usize..3_000, 1..40)) {
            let bad: BTreeSet<usize> = seed.into_iter().map(|row| row % rows).collect();
            let found = search(rows, |row| bad.contains(&row));
            let many = rows >= FEWEST_TO_JUDGE && bad.len() * TABLE_REFUSES_ONE_IN > rows;
            if let Some((refused, of)) = found.gave_up {
                prop_assert!(many || (of == SAMPLE_ROWS && refused > SAMPLE_JUDGES));
            } else {
                prop_assert!(!many);
                prop_assert_eq!(found.bad, bad.into_iter().collect::<Vec<_>>());
            }
            prop_assert!(found.loads < 2 * rows + 30 * 40);
        }
    }
}
