//! Finding the events of a batch that the decoder does not survive: parts of the batch are decoded on trial, each in a process
//! of its own, and halved until a single event fails alone.

use std::ops::Range;

use super::trial::Ended;

/// A single event has to fail so often, one time after the other: a trial can also be overdue, or be killed, because the machine is
/// short of something.
const TRIALS_OF_ONE: u32 = 2;

/// The search through one batch.
#[derive(Debug)]
pub(super) struct Search {
    /// Parts that are to be tried, the next at the end.
    parts: Vec<Range<usize>>,
    failures_of_one: u32,
    found: Vec<(usize, &'static str)>,
}

impl Search {
    /// Nothing is known of `events` events.
    pub(super) fn new(events: usize) -> Self {
        let all = 0..events;
        let parts = if events == 0 { Vec::new() } else { Vec::from([all]) };
        Self { parts, failures_of_one: 0, found: Vec::new() }
    }

    /// What to try next; `None` where the search is over.
    pub(super) fn next(&self) -> Option<Range<usize>> {
        self.parts.last().cloned()
    }

    /// That was tried, and ended so.
    pub(super) fn ended(&mut self, how: Ended) {
        let Some(part) = self.parts.last().cloned() else { return };
        match how.verdict() {
            None if how == Ended::Interrupted => {}
            None => {
                self.parts.pop();
                self.failures_of_one = 0;
            }
            Some(why) if part.len() == 1 => {
                self.failures_of_one += 1;
                if self.failures_of_one >= TRIALS_OF_ONE {
                    self.parts.pop();
                    self.failures_of_one = 0;
                    self.found.push((part.start, why));
                }
            }
            Some(_) => {
                let middle = part.start + part.len() / 2;
                self.parts.pop();
                self.parts.extend([middle..part.end, part.start..middle]);
            }
        }
    }

    /// The events that failed alone, in their order, and how.
    pub(super) fn found(&self) -> &[(usize, &'static str)] {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What is found, and with how many trials.
    fn search(events: usize, mut trial: impl FnMut(Range<usize>) -> Ended) -> (Vec<usize>, usize) {
        let mut search = Search::new(events);
        let mut trials = 0;
        while let Some(part) = search.next() {
            trials += 1;
            search.ended(trial(part));
        }
        (search.found().iter().map(|(event, _)| *event).collect(), trials)
    }

    #[test]
    fn one_that_fails_alone_is_found() {
        let (found, trials) =
            search(100_000, |part| if part.contains(&61_803) { Ended::Killed(6) } else { Ended::Survived });
        assert_eq!(found, [61_803]);
        assert!(trials <= 36, "{trials}");
    }

    #[test]
    fn what_fails_once_or_only_together_is_not_blamed() {
        let mut first = true;
        let (found, _) =
            search(1, |_| if std::mem::take(&mut first) { Ended::Overdue } else { Ended::Survived });
        assert!(found.is_empty());
        let (found, _) =
            search(100, |part| if part.len() == 100 { Ended::Panicked } else { Ended::Survived });
        assert!(found.is_empty());
    }

    #[test]
    fn a_trial_that_was_interrupted_is_repeated() {
        let mut interruptions = 0;
        let (found, trials) = search(1, |_| {
            interruptions += 1;
            if interruptions <= 5 { Ended::Interrupted } else { Ended::Panicked }
        });
        assert_eq!((found, trials), (vec![0], 7));
    }

    proptest! {
        #[test]
        fn all_that_fail_are_found_and_no_other(events in 0usize..500, bad in prop::collection::btree_set(0usize..500, 0..20)) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|event| *event < events).collect();
            let (found, _) = search(events, |part| {
                if bad.range(part).next().is_some() { Ended::Panicked } else { Ended::Survived }
            });
            prop_assert_eq!(found, bad.into_iter().collect::<Vec<_>>());
        }
    }
}
