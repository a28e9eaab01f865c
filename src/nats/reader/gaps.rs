//! What a stream's limits removed before it was read, counted once for all partitions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// So many gaps are remembered, and the lowest is forgotten first: whoever meets it later counts it again.
const MOST_GAPS: usize = 1_024;

/// The sequences of one stream that were counted as removed unseen, by whichever partition met them first: each of
/// them sees the same hole in the stream, from its own position on.
#[derive(Debug, Clone, Default)]
pub struct Gaps(Arc<Mutex<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    /// Ranges that do not touch each other: their first sequence, and their last.
    ranges: BTreeMap<u64, u64>,
}

impl Gaps {
    /// How many of these sequences were not counted yet. They are now.
    pub(super) fn count(&self, removed: RangeInclusive<u64>) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count(removed)
    }
}

impl Counted {
    fn count(&mut self, removed: RangeInclusive<u64>) -> u64 {
        let (mut first, mut last) = removed.into_inner();
        if first > last {
            return 0;
        }
        let mut new = last - first + 1;
        // from behind: each range that touches these becomes part of them
        while let Some((&from, &to)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if to < first.saturating_sub(1) {
                break;
            }
            let shared = to.min(last).saturating_add(1).saturating_sub(from.max(first));
            new -= shared;
            (first, last) = (first.min(from), last.max(to));
            self.ranges.remove(&from);
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > MOST_GAPS {
            self.ranges.pop_first();
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn partitions_that_see_one_hole_count_it_once() {
        let gaps = Gaps::default();
        assert_eq!(gaps.count(503..=4_500), 3_998);
        assert_eq!(gaps.count(501..=4_500), 2);
        assert_eq!(gaps.count(504..=4_502), 2);
        assert_eq!(gaps.count(501..=4_502), 0);
        assert_eq!(gaps.count(4_503..=4_503), 1);
        assert_eq!(gaps.0.lock().expect("not poisoned").ranges, BTreeMap::from([(501, 4_503)]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let gaps = Gaps::default();
        for gap in 0..3_000 {
            assert_eq!(gaps.count(10 * gap + 1..=10 * gap + 5), 5);
        }
        assert_eq!(gaps.0.lock().expect("not poisoned").ranges.len(), MOST_GAPS);
        assert_eq!(gaps.count(29_991..=29_999), 4);
        assert_eq!(gaps.count(1..=5), 5, "too much, not too little");
    }

    proptest! {
        #[test]
        fn it_counts_as_a_set_does(ranges in prop::collection::vec((1u64..300, 0u64..40), 1..60)) {
            let (mut gaps, mut set) = (Counted::default(), BTreeSet::new());
            for (from, length) in ranges {
                let new = (from..=from + length).filter(|sequence| set.insert(*sequence)).count() as u64;
                prop_assert_eq!(gaps.count(from..=from + length), new);
                let held: u64 = gaps.ranges.iter().map(|(from, to)| to - from + 1).sum();
                prop_assert_eq!(held, set.len() as u64);
            }
        }
    }
}
