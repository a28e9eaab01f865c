//! What travels through a pipeline: an [`Event`], the [`Claim`] on it, and the [`Batch`] they are gathered in.
//!
//! An event is only data. The claim beside it is the obligation to tell JetStream what became of it, and
//! there are two ways to part with one: [`Claim::durable`], which takes a [`Durable`] as evidence, or a drop,
//! which means "deliver it again". Nothing is acknowledged by forgetting to say something.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use slab::Slab;
use tokio::sync::Notify;

use crate::budget::Permit;

/// One message as JetStream delivered it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The subject it was published on.
    pub subject: Subject,
    /// The payload, a slice of the buffer it was received in.
    pub payload: Bytes,
    /// Its headers, where it has any.
    pub headers: Option<HeaderMap>,
    /// Its position in the stream. Unique in one stream for as long as that exists.
    pub stream_sequence: u64,
    /// How often JetStream has delivered it, this time included.
    pub deliveries: u64,
    /// When the stream stored it: nanoseconds since 1970-01-01 UTC, by the server's clock.
    pub published_at: i64,
    /// When this process received it: nanoseconds since 1970-01-01 UTC.
    pub received_at: i64,
}

impl Event {
    /// Bytes that the message itself takes: subject, headers and payload.
    pub fn wire_bytes(&self) -> usize {
        self.subject.len() + self.payload.len() + self.headers.as_ref().map_or(0, header_bytes)
    }
}

/// Bytes that headers take on the wire, near enough: names, values, and four for each line.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
        })
        .sum()
}

/// Evidence that what a claim stands for will survive this process: its row was committed, or the dead-letter
/// stream confirmed it. `tests/layering.rs` holds the list of the files that may issue one.
#[derive(Debug)]
pub struct Durable(());

impl Durable {
    /// Issued after a commit that the database confirmed.
    pub(crate) fn committed() -> Self {
        Self(())
    }

    /// Issued after a publish that the dead-letter stream confirmed.
    pub(crate) fn dead_lettered() -> Self {
        Self(())
    }
}

/// Every delivery that this process holds of one consumer: what a held one is acknowledged by, since when it is
/// held, and which were dropped without a verdict and are to be given back.
///
/// It never holds more than the claims that exist, and those are bounded by the byte budget.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<LedgerState>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct LedgerState {
    held: Slab<Held>,
    returned: Vec<Subject>,
    tick: u32,
}

#[derive(Debug)]
struct Held {
    reply: Subject,
    since_tick: u32,
}

impl Ledger {
    /// Enters a delivery that is settled by publishing to `reply`.
    pub fn claim(self: &Arc<Self>, reply: Subject) -> Claim {
        let mut state = self.state();
        let since_tick = state.tick;
        let key = state.held.insert(Held { reply, since_tick });
        Claim { key: Some(key), ledger: Arc::clone(self) }
    }

    /// Number of deliveries held.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Takes what was dropped without a verdict since the last call.
    pub fn take_returned(&self) -> Vec<Subject> {
        std::mem::take(&mut self.state().returned)
    }

    /// Resolves when something was dropped without a verdict since this resolved last.
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
            .iter()
            .filter(|(_, held)| now.wrapping_sub(held.since_tick) > 1)
            .map(|(_, held)| held.reply.clone())
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        // Every change under this lock is a single insert, remove or take: a panic cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The obligation to settle one delivery. Dropped without a verdict it asks for redelivery.
#[derive(Debug)]
pub struct Claim {
    key: Option<usize>,
    ledger: Arc<Ledger>,
}

impl Claim {
    /// Ends the claim: the subject on which the delivery may now be acknowledged.
    pub fn durable(mut self, _evidence: &Durable) -> Option<Subject> {
        let key = self.key.take()?;
        self.ledger.state().held.try_remove(key).map(|held| held.reply)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let mut state = self.ledger.state();
        if let Some(held) = state.held.try_remove(key) {
            state.returned.push(held.reply);
            drop(state);
            self.ledger.returned.notify_one();
        }
    }
}

/// An event on its way into a batch.
#[derive(Debug)]
pub struct Delivery {
    /// What was delivered.
    pub event: Event,
    /// What is owed for it.
    pub claim: Claim,
    /// The part of the byte budget that it occupies.
    pub permit: Permit,
}

/// Events that are decoded, written, committed and settled together. `claims[i]` is the claim on `events[i]`.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events in the order of their arrival.
    pub events: Vec<Event>,
    /// The claims, by the same index.
    pub claims: Vec<Claim>,
    /// Wire bytes of all the events.
    pub bytes: usize,
    permit: Option<Permit>,
}

impl Batch {
    /// Adds a delivery. Its permit becomes part of the batch's.
    pub fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.event.wire_bytes();
        self.events.push(delivery.event);
        self.claims.push(delivery.claim);
        match &mut self.permit {
            Some(permit) => permit.merge(delivery.permit),
            None => self.permit = Some(delivery.permit),
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(n: u32) -> Subject {
        Subject::from(format!("reply.{n}"))
    }

    #[test]
    fn a_claim_dropped_without_a_verdict_asks_for_redelivery() {
        let ledger = Arc::new(Ledger::default());
        drop(ledger.claim(reply(1)));
        assert_eq!((ledger.take_returned(), ledger.held()), (vec![reply(1)], 0));
    }

    #[test]
    fn a_durable_claim_is_not_returned() {
        let ledger = Arc::new(Ledger::default());
        let claim = ledger.claim(reply(1));
        assert_eq!(claim.durable(&Durable::committed()), Some(reply(1)));
        assert_eq!((ledger.take_returned(), ledger.held()), (vec![], 0));
    }

    #[test]
    fn only_what_is_held_for_a_whole_tick_is_listed() {
        let ledger = Arc::new(Ledger::default());
        let _old = ledger.claim(reply(1));
        assert!(ledger.held_for_a_tick().is_empty());
        let _young = ledger.claim(reply(2));
        assert_eq!(ledger.held_for_a_tick(), [reply(1)]);
        assert_eq!(ledger.held_for_a_tick(), [reply(1), reply(2)]);
    }

    #[test]
    fn wire_bytes_count_subject_headers_and_payload() {
        let mut headers = HeaderMap::new();
        headers.insert("Name", "value");
        let event = Event {
            subject: Subject::from_static("a.b"),
            payload: Bytes::from_static(b"12345"),
            headers: Some(headers),
            stream_sequence: 1,
            deliveries: 1,
            published_at: 0,
            received_at: 0,
        };
        assert_eq!(event.wire_bytes(), 3 + 5 + (4 + 5 + 4));
    }
}
