//! Which events were settled a moment ago, while a delivery of one of them can still be on its way.

use std::collections::VecDeque;

/// Sequences that were settled, for as long as a pull is open that began before.
///
/// A delivery and the confirmation of an earlier acknowledgement come on one connection, in the order in which the server
/// sent them, but they are read by different tasks. An event can be delivered once more, then be confirmed, and only
/// then does its pull come to that delivery. Nothing of a pull that begins after the confirmation can be such a delivery.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Counts what was settled.
    moment: u64,
    recent: VecDeque<(u64, Sequences)>,
    /// For each open pull the moment at which it began.
    open: Vec<(u64, u64)>,
    last_pull: u64,
}

impl Settled {
    /// A pull begins; gives what it is ended by.
    pub(super) fn begin_pull(&mut self) -> u64 {
        self.last_pull += 1;
        self.open.push((self.last_pull, self.moment));
        self.last_pull
    }

    /// Everything that came by the pull has been looked at.
    pub(super) fn end_pull(&mut self, pull: u64) {
        self.open.retain(|(own, _)| *own != pull);
        let needed_after = self.open.iter().map(|(_, began)| *began).min().unwrap_or(u64::MAX);
        while self.recent.front().is_some_and(|(moment, _)| *moment <= needed_after) {
            self.recent.pop_front();
        }
    }

    /// Whether a pull is open.
    pub(super) fn is_pulling(&self) -> bool {
        !self.open.is_empty()
    }

    /// These were settled now.
    pub(super) fn add(&mut self, sequences: &[u64]) {
        if self.open.is_empty() || sequences.is_empty() {
            return;
        }
        self.moment += 1;
        self.recent.push_back((self.moment, Sequences::new(sequences)));
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.recent.iter().any(|(_, sequences)| sequences.contains(sequence))
    }

    pub(super) fn clear(&mut self) {
        self.recent.clear();
    }
}

/// A set of sequences in few bytes: those of one batch lie close together, also where several workers share a stream.
#[derive(Debug)]
enum Sequences {
    /// A bit for each sequence from the first on.
    Dense { first: u64, bits: Vec<u64> },
    /// In ascending order.
    Sparse(Vec<u64>),
}

impl Sequences {
    fn new(sequences: &[u64]) -> Self {
        let (first, last) =
            sequences.iter().fold((u64::MAX, 0), |(low, high), next| (low.min(*next), high.max(*next)));
        let words = usize::try_from(last.saturating_sub(first) / 64 + 1).unwrap_or(usize::MAX);
        if words > sequences.len() {
            let mut sorted = sequences.to_vec();
            sorted.sort_unstable();
            return Self::Sparse(sorted);
        }
        let mut bits = vec![0; words];
        for sequence in sequences {
            let (word, mask) = place(first, *sequence);
            bits[word] |= mask;
        }
        Self::Dense { first, bits }
    }

    fn contains(&self, sequence: u64) -> bool {
        match self {
            Self::Dense { first, .. } if sequence < *first => false,
            Self::Dense { first, bits } => {
                let (word, mask) = place(*first, sequence);
                bits.get(word).is_some_and(|bits| bits & mask != 0)
            }
            Self::Sparse(sequences) => sequences.binary_search(&sequence).is_ok(),
        }
    }
}

/// The word and the bit in it of a sequence that is not below the first.
fn place(first: u64, sequence: u64) -> (usize, u64) {
    let offset = sequence - first;
    (usize::try_from(offset / 64).unwrap_or(usize::MAX), 1 << (offset % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_settled_is_known_until_the_pulls_that_were_open_have_ended() {
        let mut settled = Settled::default();
        settled.add(&[1]);
        assert!(!settled.contains(1), "no pull was open, and nothing can be on its way");
        let first = settled.begin_pull();
        settled.add(&[2, 3]);
        let second = settled.begin_pull();
        settled.add(&[4]);
        assert!(settled.contains(2) && settled.contains(3) && settled.contains(4));
        settled.end_pull(first);
        assert!(!settled.contains(2) && settled.contains(4), "the second pull began after 2 was settled");
        let third = settled.begin_pull();
        settled.end_pull(second);
        assert!(!settled.contains(4));
        settled.end_pull(third);
        assert!(settled.recent.is_empty() && settled.open.is_empty());
    }

    proptest! {
        #[test]
        fn a_set_holds_what_it_was_made_of(sequences in prop::collection::btree_set(1u64..5_000, 1..200), far in prop::option::of(any::<u64>())) {
            let sequences: BTreeSet<u64> = sequences.into_iter().chain(far).collect();
            let set = Sequences::new(&sequences.iter().rev().copied().collect::<Vec<_>>());
            for sequence in 0..5_100 {
                prop_assert_eq!(set.contains(sequence), sequences.contains(&sequence));
            }
            prop_assert_eq!(set.contains(u64::MAX), sequences.contains(&u64::MAX));
        }
    }

    #[test]
    fn a_batch_takes_little_memory() {
        // every fourth of a stream that four workers share
        let sequences: Vec<u64> = (0..100_000u64).map(|n| 4 * n + 1_000_000).collect();
        let Sequences::Dense { bits, .. } = Sequences::new(&sequences) else { panic!("sparse") };
        assert!(bits.len() * 8 <= 50_008, "{} bytes", bits.len() * 8);
    }
}
