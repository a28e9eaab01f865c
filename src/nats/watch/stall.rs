//! Pulls that stall silently: the server has events, says that it is there, and delivers none.

/// After so many looks in a row the pulls are begun anew.
const LOOKS: u32 = 3;

/// What is seen at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Events that the consumer has still to deliver, to whichever worker.
    pub(super) pending: u64,
    /// Whether the consumer may deliver: it is not paused, and has no limit that is reached.
    pub(super) may_deliver: bool,
    /// Whether this worker has a pull open at the server: its gate is open, and it has memory for what comes.
    pub(super) is_pulling: bool,
    /// Deliveries that this worker has received since it started.
    pub(super) received: u64,
}

/// What the last looks have seen.
#[derive(Debug, Default)]
pub(super) struct Stall {
    received: u64,
    looks: u32,
}

impl Stall {
    /// Whether the pulls are to be begun anew.
    pub(super) fn look(&mut self, sight: Sight) -> bool {
        let has_received = std::mem::replace(&mut self.received, sight.received) != sight.received;
        let is_silent = sight.pending > 0 && sight.may_deliver && sight.is_pulling && !has_received;
        self.looks = if is_silent { self.looks + 1 } else { 0 };
        if self.looks < LOOKS {
            return false;
        }
        self.looks = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Sight = Sight { pending: 5, may_deliver: true, is_pulling: true, received: 0 };

    fn looks(sights: impl IntoIterator<Item = Sight>) -> Vec<bool> {
        let mut stall = Stall::default();
        sights.into_iter().map(|sight| stall.look(sight)).collect()
    }

    #[test]
    fn three_silent_looks_begin_the_pulls_anew_and_so_do_three_more() {
        let expected = [false, false, true, false, false, true];
        assert_eq!(looks([SILENT; 6]), expected);
    }

    #[test]
    fn what_explains_the_silence_is_no_stall() {
        for sight in [
            Sight { pending: 0, ..SILENT },
            Sight { may_deliver: false, ..SILENT },
            Sight { is_pulling: false, ..SILENT },
        ] {
            assert_eq!(looks([sight; 9]), [false; 9], "{sight:?}");
            // and what was silent before counts from the start again
            assert_eq!(looks([SILENT, SILENT, sight, SILENT, SILENT]), [false; 5]);
        }
    }

    #[test]
    fn a_worker_that_receives_a_little_is_not_stalled() {
        assert_eq!(looks((0..9).map(|received| Sight { received, ..SILENT })), [false; 9]);
        let rare = [0, 0, 1, 1, 1, 2, 2, 2].map(|received| Sight { received, ..SILENT });
        assert_eq!(looks(rare), [false; 8]);
    }
}
