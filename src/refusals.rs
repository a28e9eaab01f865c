//! How many of the last rows the database refused alike, over all batches of a pipeline.
//!
//! In a large batch the share of refused rows tells whether the table refuses or the rows are bad, and `bisect.rs` judges
//! by it. A batch of a few rows cannot tell that by itself: it is judged together with the rows that were looked at before
//! it, and with the other small batches that are being searched.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bisect::{FEWEST_TO_JUDGE, TABLE_REFUSES_ONE_IN};

/// Most rows of the last [`FEWEST_TO_JUDGE`] that may be refused alike. While there were not as many yet, the missing ones
/// count as good: a few bad events right after a start are events, and not more than this are dead-lettered before there is
/// more to judge by.
const MOST_ALIKE: usize = FEWEST_TO_JUDGE / TABLE_REFUSES_ONE_IN;

/// The account of one pipeline. `R` is why a row was refused, and equal for rows that were refused alike. Cheap to clone.
#[derive(Debug)]
pub struct Refusals<R> {
    state: Arc<Mutex<State<R>>>,
}

#[derive(Debug)]
struct State<R> {
    /// The last rows, the latest at the end: why each was refused, `None` where it was taken.
    last: VecDeque<Option<R>>,
    /// Of the small batches that are being searched: their rows, and why those were refused that are known to be bad.
    searched: HashMap<u64, (usize, Vec<R>)>,
    next_search: u64,
}

impl<R> Clone for Refusals<R> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<R> Default for Refusals<R> {
    fn default() -> Self {
        let state = State { last: VecDeque::new(), searched: HashMap::new(), next_search: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl<R> Refusals<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        // Whole values are put in and taken out under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Clone + PartialEq> Refusals<R> {
    /// So many rows were taken.
    pub fn taken(&self, rows: usize) {
        let mut state = self.state();
        (0..rows.min(FEWEST_TO_JUDGE)).for_each(|_| state.push(None));
    }

    /// A search through a batch of `rows` begins.
    pub fn begin(&self, rows: usize) -> Searched<R> {
        let mut state = self.state();
        state.next_search += 1;
        let number = state.next_search;
        if rows < FEWEST_TO_JUDGE {
            state.searched.insert(number, (rows, Vec::new()));
        }
        Searched { number, refusals: self.clone() }
    }
}

impl<R: Clone + PartialEq> State<R> {
    fn push(&mut self, verdict: Option<R>) {
        self.last.push_back(verdict);
        if self.last.len() > FEWEST_TO_JUDGE {
            self.last.pop_front();
        }
    }

    /// The most rows that were refused alike, where they are too many, of so many.
    fn judge(&self) -> Option<(usize, usize)> {
        let open_rows: usize = self.searched.values().map(|(rows, _)| rows).sum();
        let of_last = self.last.len().min(FEWEST_TO_JUDGE.saturating_sub(open_rows));
        let last = self.last.iter().rev().take(of_last).flatten();
        let refused: Vec<&R> = self.searched.values().flat_map(|(_, bad)| bad).chain(last).collect();
        let alike = |why: &&R| refused.iter().filter(|other| *other == why).count();
        let most = refused.iter().map(alike).max().unwrap_or(0);
        let rows = open_rows + of_last;
        (most > MOST_ALIKE.max(rows / TABLE_REFUSES_ONE_IN)).then_some((most, rows))
    }
}

/// A search that is under way. Dropped without [`Searched::over`] it has said nothing.
#[derive(Debug)]
pub struct Searched<R> {
    number: u64,
    refusals: Refusals<R>,
}

impl<R: Clone + PartialEq> Searched<R> {
    /// These rows of the batch are known to be bad by now. Where the table must be to blame for them: how many rows were
    /// refused alike, of so many. A large batch is not judged here.
    pub fn found(&self, bad: impl Iterator<Item = R>) -> Option<(usize, usize)> {
        let mut state = self.refusals.state();
        let (_, known) = state.searched.get_mut(&self.number)?;
        known.clear();
        known.extend(bad);
        state.judge()
    }

    /// These are the bad rows of the batch, and they are set aside.
    pub fn over(self, bad: impl Iterator<Item = R>) {
        let mut state = self.refusals.state();
        state.searched.remove(&self.number);
        bad.for_each(|why| state.push(Some(why)));
    }
}

impl<R> Drop for Searched<R> {
    fn drop(&mut self) {
        self.refusals.state().searched.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHECK: u32 = 547;

    /// Writes a batch of which `bad` rows are refused; `false` where the table is to blame.
    fn write(refusals: &Refusals<u32>, rows: usize, bad: usize) -> bool {
        if bad > 0 {
            let search = refusals.begin(rows);
            for known in 1..=bad {
                if search.found(std::iter::repeat_n(CHECK, known)).is_some() {
                    return false;
                }
            }
            search.over(std::iter::repeat_n(CHECK, bad));
        }
        refusals.taken(rows - bad);
        true
    }

    #[test]
    fn a_table_that_refuses_everything_is_found_in_batches_of_one() {
        let refusals = Refusals::default();
        let dead_lettered = (0..1_000).take_while(|_| write(&refusals, 1, 1)).count();
        assert_eq!(dead_lettered, 10);
        // and after many good ones too
        let refusals = Refusals::default();
        assert!((0..1_000).all(|_| write(&refusals, 7, 0)));
        assert_eq!((0..1_000).take_while(|_| write(&refusals, 1, 1)).count(), 10);
    }

    #[test]
    fn a_small_batch_right_after_a_start_may_have_a_few_bad_rows() {
        assert!(write(&Refusals::default(), 10, 10));
        assert!(!write(&Refusals::default(), 11, 11));
        assert!(!write(&Refusals::default(), 99, 11));
    }

    #[test]
    fn a_tenth_is_not_too_much_for_however_long() {
        let refusals = Refusals::default();
        assert!((0..1_000).all(|_| write(&refusals, 10, 1)));
        assert!((0..500).all(|_| write(&refusals, 20, 2)));
    }

    #[test]
    fn batches_that_are_searched_beside_each_other_count_together() {
        let refusals = Refusals::<u32>::default();
        let (one, other) = (refusals.begin(10), refusals.begin(10));
        assert_eq!(one.found(std::iter::repeat_n(CHECK, 8)), None);
        assert_eq!(other.found(std::iter::repeat_n(CHECK, 3)), Some((11, 20)));
        // who gives up takes back what it said
        drop(other);
        assert_eq!(one.found(std::iter::repeat_n(CHECK, 10)), None);
        one.over(std::iter::repeat_n(CHECK, 10));
        assert_eq!(refusals.begin(10).found(std::iter::once(CHECK)), Some((11, 20)));
    }

    #[test]
    fn rows_that_are_refused_for_different_reasons_are_not_alike() {
        let refusals = Refusals::default();
        for why in 0..100 {
            let search = refusals.begin(1);
            assert_eq!(search.found(std::iter::once(why)), None);
            search.over(std::iter::once(why));
        }
    }

    #[test]
    fn a_large_batch_is_judged_by_itself_and_remembered() {
        let refusals = Refusals::default();
        let search = refusals.begin(1_000);
        assert_eq!(search.found(std::iter::repeat_n(CHECK, 100)), None);
        search.over(std::iter::repeat_n(CHECK, 100));
        refusals.taken(20);
        assert!(!write(&refusals, 1, 1), "80 of the last 100 were refused");
        refusals.taken(900);
        assert!(write(&refusals, 1, 1));
    }

    proptest! {
        #[test]
        fn of_the_last_hundred_rows_at_most_ten_are_dead_lettered(batches in prop::collection::vec((1usize..100, 0usize..100), 1..200)) {
            let refusals = Refusals::default();
            let mut is_bad = Vec::new();
            for (rows, bad) in batches {
                let bad = bad.min(rows) / 5;
                if write(&refusals, rows, bad) {
                    is_bad.extend((0..rows).map(|row| row < bad));
                    let last = is_bad.iter().rev().take(100).filter(|is_bad| **is_bad).count();
                    prop_assert!(last <= 10);
                } else {
                    let before = is_bad.iter().rev().take(100 - rows).filter(|is_bad| **is_bad).count();
                    prop_assert!(before + bad > 10);
                }
            }
        }
    }
}
