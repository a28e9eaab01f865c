//! Which events were settled of late: what is delivered again of them is acknowledged again, and not written again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Arrival;

/// For so long a settled event is remembered. An acknowledgement that the server has confirmed is lost with a server that
/// dies before it has written it down, which nats-server does within seconds, and the event is delivered again after
/// `ack_wait`, which is at most an hour and usually half a minute.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most bytes that the memory takes, of one pipeline: 8 million events that follow one another in the stream. What is older
/// is forgotten then. It is part of the process' `memory`.
pub const MAX_SETTLED_BYTES: usize = 1 << 20;

/// Sequences that were settled.
#[derive(Debug, Default)]
pub(super) struct Settled {
    recent: VecDeque<Entry>,
    bytes: usize,
    /// The highest sequence of all.
    highest: u64,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    /// When the last of these events was stored. An event of the same sequence that was stored later is one of a stream
    /// that was made anew.
    stored_at: i64,
    /// How often the client had connected when the last of them came.
    connects: u64,
    sequences: Sequences,
}

impl Settled {
    /// These were settled now. The last of them was stored at `stored_at`, nanoseconds since 1970-01-01 UTC, and came when
    /// the client had connected so often.
    pub(super) fn add(&mut self, sequences: &[u64], stored_at: i64, connects: u64) {
        if sequences.is_empty() {
            return;
        }
        self.highest = sequences.iter().copied().fold(self.highest, u64::max);
        let sequences = Sequences::new(sequences);
        self.bytes += sequences.bytes();
        self.recent.push_back(Entry { at: Instant::now(), stored_at, connects, sequences });
        while self
            .recent
            .front()
            .is_some_and(|oldest| self.bytes > MAX_SETTLED_BYTES || oldest.at.elapsed() > REMEMBERED)
        {
            if let Some(oldest) = self.recent.pop_front() {
                self.bytes -= oldest.sequences.bytes();
            }
        }
    }

    /// Whether what is delivered was settled. A delivery that the server counts as the first is asked for only where the
    /// client has connected since: a server that was killed may have forgotten that it had delivered the event at all.
    pub(super) fn contains(&self, arrival: &Arrival) -> bool {
        // nearly all are, of those that are delivered for the first time
        if arrival.sequence > self.highest {
            return false;
        }
        self.recent.iter().any(|entry| {
            let may_be = arrival.deliveries > 1 || arrival.connects > entry.connects;
            may_be && arrival.stored_at <= entry.stored_at && entry.sequences.contains(arrival.sequence)
        })
    }

    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.bytes = 0;
        self.highest = 0;
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

    /// Bytes that it takes, with what stands beside it.
    fn bytes(&self) -> usize {
        let own = match self {
            Self::Dense { bits, .. } => bits.len(),
            Self::Sparse(sequences) => sequences.len(),
        };
        size_of::<Entry>() + own * size_of::<u64>()
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

    fn arrival(sequence: u64, stored_at: i64) -> Arrival {
        Arrival { sequence, deliveries: 2, stored_at, connects: 1 }
    }

    #[test]
    fn what_was_settled_is_known_unless_it_was_stored_later() {
        let mut settled = Settled::default();
        settled.add(&[1, 2, 3], 100, 1);
        settled.add(&[9], 200, 1);
        assert!(settled.contains(&arrival(2, 100)) && settled.contains(&arrival(9, 150)));
        assert!(!settled.contains(&arrival(4, 100)), "it was never there");
        assert!(!settled.contains(&arrival(2, 101)), "the stream was made anew");
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_is_forgotten() {
        let mut settled = Settled::default();
        for batch in 0..2_000_u64 {
            // far apart, so that each sequence takes eight bytes
            let sequences: Vec<u64> = (0..100).map(|n| (batch * 100 + n) * 1_000).collect();
            settled.add(&sequences, 0, 1);
            assert!(settled.bytes <= MAX_SETTLED_BYTES, "{}", settled.bytes);
        }
        assert_eq!(settled.bytes, settled.recent.iter().map(|entry| entry.sequences.bytes()).sum::<usize>());
        assert!(!settled.contains(&arrival(0, 0)) && settled.contains(&arrival(199_999_000, 0)));
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
