//! What this process holds of one consumer, and what it owes for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Subject;
use tokio::sync::Notify;

use super::Durable;
use super::settled::Settled;

/// A delivery of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The event's position in the stream.
    pub sequence: u64,
    /// How often it has been delivered, as far as the server knows, this time included.
    pub deliveries: u64,
    /// When the stream stored it: nanoseconds since 1970-01-01 UTC.
    pub stored_at: i64,
    /// How often the client had connected when it came.
    pub connects: u64,
}

/// Every delivery that is held, by its stream sequence: what it is settled by, since when it is held, and which were
/// dropped without a verdict and are to be given back.
///
/// An event that is delivered once more while it is held, or while its acknowledgement is not confirmed, is the same
/// event: the ledger takes note of the new delivery, and hands out no second claim. It never holds more than the claims
/// that exist, and those are bounded by the byte budget.
///
/// It is of one generation of its consumer. Where that is deleted, or made anew, sequences no longer mean what they
/// did: after [`Ledger::retire`] nothing is settled by it any more.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<u64, Held, BuildHasherDefault<SequenceHasher>>,
    returned: Vec<Subject>,
    again: Vec<Subject>,
    settled: Settled,
    tick: u32,
    received: u64,
    open_pulls: usize,
    is_retired: bool,
}

#[derive(Debug)]
struct Held {
    /// Of the last delivery.
    reply: Subject,
    stored_at: i64,
    connects: u64,
    since_tick: u32,
}

impl Ledger {
    /// Enters a delivery of the event at `sequence`, which is settled by publishing to `reply`. `None` where that event
    /// is held already, and the earlier claim stands for this delivery too; where it was settled before, and its
    /// acknowledgement is lost or was on its way: then it is acknowledged again; or where the consumer is gone.
    pub fn claim(self: &Arc<Self>, arrival: Arrival, reply: Subject) -> Option<Claim> {
        let Arrival { sequence, stored_at, connects, .. } = arrival;
        let mut state = self.state();
        state.received += 1;
        if state.is_retired {
            return None;
        }
        if state.settled.contains(&arrival) {
            state.again.push(reply);
            drop(state);
            self.returned.notify_one();
            return None;
        }
        let since_tick = state.tick;
        match state.held.entry(sequence) {
            Entry::Occupied(mut held) => {
                held.get_mut().reply = reply;
                None
            }
            Entry::Vacant(place) => {
                place.insert(Held { reply, stored_at, connects, since_tick });
                Some(Claim { sequence: Some(sequence), ledger: Some(Arc::clone(self)) })
            }
        }
    }

    /// Takes note that a pull begins. It has ended when what is returned is dropped.
    pub fn begin_pull(self: &Arc<Self>) -> OpenPull {
        self.state().open_pulls += 1;
        OpenPull { ledger: Arc::clone(self) }
    }

    /// Deliveries that were received so far, those included that got no claim.
    pub fn received(&self) -> u64 {
        self.state().received
    }

    /// Whether a pull is open.
    pub fn is_pulling(&self) -> bool {
        self.state().open_pulls > 0
    }

    /// Whether the event at `sequence` is held.
    pub fn holds(&self, sequence: u64) -> bool {
        self.state().held.contains_key(&sequence)
    }

    /// Number of events held, those included whose acknowledgement is not confirmed.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Takes what was dropped without a verdict since the last call.
    pub fn take_returned(&self) -> Vec<Subject> {
        std::mem::take(&mut self.state().returned)
    }

    /// Takes what was delivered again since the last call though it was settled: it is to be acknowledged again.
    pub fn take_again(&self) -> Vec<Subject> {
        std::mem::take(&mut self.state().again)
    }

    /// Resolves when something was delivered again though it was settled, or was dropped without a verdict since this resolved last.
    pub async fn returned(&self) {
        self.returned.notified().await;
    }

    /// Begins a new tick, and tells what has been held since before the last one began: at least one whole tick.
    /// Deliveries that pass through quickly are never listed, and cost nothing.
    pub fn held_for_a_tick(&self) -> Vec<Subject> {
        let mut state = self.state();
        state.tick = state.tick.wrapping_add(1);
        let now = state.tick;
        state
            .held
            .values()
            .filter(|held| now.wrapping_sub(held.since_tick) > 1)
            .map(|held| held.reply.clone())
            .collect()
    }

    /// The consumer is gone: nothing that was delivered by it can be settled.
    pub fn retire(&self) {
        let mut state = self.state();
        state.is_retired = true;
        state.held.clear();
        state.returned.clear();
        state.again.clear();
        state.settled.clear();
    }

    /// Whether the consumer is gone.
    pub fn is_retired(&self) -> bool {
        self.state().is_retired
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock leaves a map and a list that are right by themselves: a panic cannot leave it
        // half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull that is open.
#[derive(Debug)]
pub struct OpenPull {
    ledger: Arc<Ledger>,
}

impl Drop for OpenPull {
    fn drop(&mut self) {
        self.ledger.state().open_pulls -= 1;
    }
}

/// The obligation to settle one delivery. Dropped without a verdict it asks for redelivery.
#[derive(Debug)]
pub struct Claim {
    sequence: Option<u64>,
    ledger: Option<Arc<Ledger>>,
}

impl Claim {
    /// Nothing is owed to JetStream: the database keeps how far the stream is read.
    pub fn none() -> Self {
        Self { sequence: None, ledger: None }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (Some(sequence), Some(ledger)) = (self.sequence.take(), &self.ledger) else { return };
        let mut state = ledger.state();
        if let Some(held) = state.held.remove(&sequence) {
            state.returned.push(held.reply);
            drop(state);
            ledger.returned.notify_one();
        }
    }
}

/// Events that are durable, and whose acknowledgement is not confirmed yet. Until it is, a redelivery of one of them is
/// acknowledged and not written again.
#[derive(Debug)]
pub struct Unconfirmed {
    sequences: Vec<u64>,
    ledger: Option<Arc<Ledger>>,
}

impl Unconfirmed {
    /// Ends claims that have their verdict. All are of one ledger.
    pub fn new(claims: Vec<Claim>, _evidence: &Durable) -> Self {
        let ledger = claims.first().and_then(|claim| claim.ledger.clone());
        let sequences = claims.into_iter().filter_map(|mut claim| claim.sequence.take()).collect();
        Self { sequences, ledger }
    }

    /// The subjects on which they are acknowledged now. Fewer than there are events where the consumer is gone.
    pub fn replies(&self) -> Vec<Subject> {
        let Some(ledger) = &self.ledger else { return Vec::new() };
        let state = ledger.state();
        self.sequences.iter().filter_map(|sequence| Some(state.held.get(sequence)?.reply.clone())).collect()
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Whether their consumer is gone, and with it all that could be acknowledged.
    pub fn is_void(&self) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.is_retired())
    }
}

/// Confirmed, or given up at a stop: either way they are durable, and not to be given back.
impl Drop for Unconfirmed {
    fn drop(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let mut state = ledger.state();
        let (mut stored_at, mut connects) = (i64::MIN, 0);
        for sequence in &self.sequences {
            if let Some(held) = state.held.remove(sequence) {
                stored_at = stored_at.max(held.stored_at);
                connects = connects.max(held.connects);
            }
        }
        state.settled.add(&self.sequences, stored_at, connects);
    }
}

/// Spreads sequences, which come one after the other, over the table. Nobody outside chooses them.
#[derive(Debug, Default)]
struct SequenceHasher(u64);

impl Hasher for SequenceHasher {
    fn finish(&self) -> u64 {
        // The lower bits, which say where an entry stands, are the sequence's own: events that follow each other stand
        // beside each other, as they come and as they go. The upper ones, by which entries are told apart, are mixed.
        const UPPER: u64 = !(u64::MAX >> 7);
        // 2^64 divided by the golden ratio reaches them
        (self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) & UPPER) | (self.0 & !UPPER)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = self.0.rotate_left(5) ^ value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(n: u32) -> Subject {
        Subject::from(format!("reply.{n}"))
    }

    fn arrival(sequence: u64, deliveries: u64) -> Arrival {
        Arrival { sequence, deliveries, stored_at: 0, connects: 1 }
    }

    fn claim(ledger: &Arc<Ledger>, sequence: u64) -> Claim {
        let number = u32::try_from(sequence).expect("a small one");
        ledger.claim(arrival(sequence, 1), reply(number)).expect("it is not held")
    }

    fn unconfirmed(claims: Vec<Claim>) -> Unconfirmed {
        Unconfirmed::new(claims, &Durable::committed())
    }

    #[test]
    fn a_claim_dropped_without_a_verdict_asks_for_redelivery() {
        let ledger = Arc::new(Ledger::default());
        drop(claim(&ledger, 1));
        assert_eq!((ledger.take_returned(), ledger.held()), (vec![reply(1)], 0));
    }

    #[test]
    fn a_durable_claim_is_not_returned() {
        let ledger = Arc::new(Ledger::default());
        let durable = unconfirmed(vec![claim(&ledger, 1), claim(&ledger, 2)]);
        assert_eq!((durable.replies(), ledger.held()), (vec![reply(1), reply(2)], 2));
        drop(durable);
        assert_eq!((ledger.take_returned(), ledger.held()), (vec![], 0));
    }

    #[test]
    fn an_event_that_is_held_is_claimed_once_and_settled_by_its_last_delivery() {
        let ledger = Arc::new(Ledger::default());
        let held = claim(&ledger, 1);
        assert!(ledger.claim(arrival(1, 2), reply(11)).is_none());
        // also while its acknowledgement is on its way
        let durable = unconfirmed(vec![held]);
        assert_eq!(durable.replies(), [reply(11)]);
        assert!(ledger.claim(arrival(1, 3), reply(21)).is_none());
        assert_eq!(durable.replies(), [reply(21)]);
        drop(durable);
        // and afterwards: a redelivery means that the acknowledgement was lost
        assert!(ledger.take_again().is_empty());
        assert!(ledger.claim(arrival(1, 4), reply(31)).is_none());
        assert_eq!((ledger.take_again(), ledger.held()), (vec![reply(31)], 0));
    }

    #[test]
    fn a_settled_sequence_of_a_stream_that_was_made_anew_is_another_event() {
        let ledger = Arc::new(Ledger::default());
        drop(unconfirmed(vec![claim(&ledger, 1)]));
        assert!(ledger.claim(arrival(1, 2), reply(11)).is_none());
        assert!(
            ledger.claim(Arrival { stored_at: 1, ..arrival(1, 2) }, reply(21)).is_some(),
            "it was stored after the other one was settled"
        );
    }

    #[test]
    fn a_first_delivery_is_a_repeat_only_of_a_server_that_may_have_forgotten() {
        let ledger = Arc::new(Ledger::default());
        drop(unconfirmed(vec![claim(&ledger, 1)]));
        let again = ledger.claim(arrival(1, 1), reply(11));
        assert!(again.is_some(), "somebody made the consumer anew, to have all events written once more");
        drop(unconfirmed(again.into_iter().collect()));
        assert!(ledger.claim(Arrival { connects: 2, ..arrival(1, 1) }, reply(21)).is_none());
        assert_eq!(ledger.take_again(), [reply(21)]);
    }

    #[test]
    fn only_what_is_held_for_a_whole_tick_is_listed() {
        let ledger = Arc::new(Ledger::default());
        let _old = claim(&ledger, 1);
        assert!(ledger.held_for_a_tick().is_empty());
        let _young = claim(&ledger, 2);
        assert_eq!(ledger.held_for_a_tick(), [reply(1)]);
        let mut held = ledger.held_for_a_tick();
        held.sort_unstable_by_key(Subject::to_string);
        assert_eq!(held, [reply(1), reply(2)]);
    }

    #[test]
    fn nothing_is_settled_by_a_consumer_that_is_gone() {
        let ledger = Arc::new(Ledger::default());
        let dropped = claim(&ledger, 1);
        let durable = unconfirmed(vec![claim(&ledger, 2)]);
        assert!(!durable.is_void());
        ledger.retire();
        drop(dropped);
        assert_eq!((ledger.take_returned(), ledger.held()), (vec![], 0));
        assert_eq!((durable.replies(), durable.is_void()), (vec![], true));
    }
}
