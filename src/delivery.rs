//! What travels through a pipeline: an [`Event`], the [`Claim`] on it, and the [`Batch`] they are gathered in.
//!
//! An event is only data. The claim beside it is the obligation to tell JetStream what became of it, and
//! there are two ways to part with one: [`Claim::durable`], which takes a [`Durable`] as evidence, or a drop,
//! which means "deliver it again". Nothing is acknowledged by forgetting to say something.

mod headers;
mod ledger;
mod settled;

use async_nats::Subject;
use bytes::Bytes;

pub use headers::Headers;
pub use ledger::{Arrival, Claim, Ledger, OpenPull, Unconfirmed};
pub use settled::MAX_SETTLED_BYTES;

use crate::budget::Permit;

/// One message as JetStream delivered it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The subject it was published on.
    pub subject: Subject,
    /// The payload: a slice of the buffer it was received in, or a copy where it is large.
    pub payload: Bytes,
    /// Its headers, where it has any.
    pub headers: Option<Headers>,
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
        self.subject.len() + self.payload.len() + self.headers.as_ref().map_or(0, Headers::bytes)
    }
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
    use async_nats::HeaderMap;

    use super::*;

    #[test]
    fn wire_bytes_count_subject_headers_and_payload() {
        let mut headers = HeaderMap::new();
        headers.insert("Name", "value");
        let event = Event {
            subject: Subject::from_static("a.b"),
            payload: Bytes::from_static(b"12345"),
            headers: Some(Headers::from(&headers)),
            stream_sequence: 1,
            deliveries: 1,
            published_at: 0,
            received_at: 0,
        };
        assert_eq!(event.wire_bytes(), 3 + 5 + (4 + 5 + 3));
    }
}
