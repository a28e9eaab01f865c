//! Events whose headers the NATS client cannot read: text that is not UTF-8, a name that is none, a line without a
//! colon. The server takes them; the client takes each for a broken connection, drops what it had read, and connects
//! again, so that such an event, delivered again and again, stops everything behind it.
//!
//! They are found where they must be: right behind the consumer's ack floor, after a reconnect. The stream itself is asked
//! for what is there, in an answer without headers; what cannot be read is dead-lettered and acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::header::HeaderName;
use async_nats::jetstream;
use async_nats::jetstream::consumer::Info;
use async_nats::{Client, StatusCode, Subject};
use bytes::Bytes;

use crate::delivery::{Arrival, Claim, Event, Ledger};
use crate::error::{Phase, Result};
use crate::metrics;
use crate::nats::dead_letter::{DeadLetters, Reason};
use crate::nats::settle::Settler;
use crate::nats::stored::{self, Stored};
use crate::status::PipelineStatus;

/// How many positions behind the ack floor are looked at. What stands before a bad event is settled soon, and then the
/// floor is right before it.
const LOOK_AHEAD: u64 = 64;

const KIND: &str = "unreadable_headers";
const DETAIL: &str = "the headers are not UTF-8 lines of a name, a colon and a value";

/// Finds and sets aside what cannot be received.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// The connection.
    pub client: Client,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// Where such events go.
    pub dead_letters: DeadLetters,
    /// Acknowledges them.
    pub settler: Settler,
    /// What is held.
    pub ledger: Arc<Ledger>,
    /// Counts them.
    pub status: PipelineStatus,
}

impl Stored {
    /// As it would have been received, without its headers.
    fn event(&self) -> Result<Event> {
        let published_at = i64::try_from(self.time.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        Ok(Event {
            subject: Subject::from(self.subject.as_str()),
            payload: Bytes::from(self.payload()?),
            headers: None,
            stream_sequence: self.sequence,
            // Nobody has received it, so nobody knows.
            deliveries: 0,
            published_at,
            received_at: published_at,
        })
    }
}

impl Unreadable {
    /// Looks behind the ack floor, and sets aside what cannot be read there.
    ///
    /// # Errors
    ///
    /// The stream cannot be asked, or the dead-letter stream does not confirm: it is to be tried again.
    pub async fn set_aside(&self, info: &Info) -> Result<()> {
        let jetstream = jetstream::new(self.client.clone());
        let first = info.ack_floor.stream_sequence + 1;
        let last = info.delivered.stream_sequence.min(info.ack_floor.stream_sequence + LOOK_AHEAD);
        for sequence in first..=last {
            if self.ledger.holds(sequence) {
                continue;
            }
            let Some(stored) = stored::at(&jetstream, &info.stream_name, sequence).await? else { continue };
            let headers = stored.headers()?;
            if !is_readable(&headers) {
                self.dead_letter(info, sequence, &stored, &headers).await?;
            }
        }
        Ok(())
    }

    async fn dead_letter(&self, info: &Info, sequence: u64, stored: &Stored, headers: &[u8]) -> Result<()> {
        let event = stored.event()?;
        let published_at = event.published_at;
        let reason = Reason { kind: KIND, detail: DETAIL.to_owned(), phase: Phase::Pull, error_number: None };
        let durable = self.dead_letters.publish_unreadable(&event, &reason, headers).await?;
        // Not before: a claim that is dropped asks for the event, which would break the connection again.
        let Some(claim) = self.claim(info, sequence, published_at) else { return Ok(()) };
        metrics::dead_lettered(&self.pipeline, KIND);
        self.status.dead_lettered(1);
        tracing::warn!(pipeline = %self.pipeline, sequence, "an event whose headers cannot be read is dead-lettered");
        self.settler.acknowledge(vec![claim], &durable).await
    }

    /// A claim as a delivery of it would have made. The server reads nothing of the subject but the sequence.
    fn claim(&self, info: &Info, sequence: u64, published_at: i64) -> Option<Claim> {
        let (stream, consumer) = (&info.stream_name, &info.name);
        let reply = format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.1.{published_at}.0");
        // Once by the stream, and how often by the consumer nobody knows.
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        let arrival = Arrival { sequence, deliveries: 2, stored_at: published_at, connects };
        self.ledger.claim(arrival, Subject::from(reply))
    }
}

/// Where no consumer with acknowledgements is asked: finds what comes next, and dead-letters it where it cannot be received.
#[derive(Debug, Clone)]
pub struct NextUnreadable {
    /// The connection.
    pub client: Client,
    /// The stream's name.
    pub stream: String,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// Where such events go.
    pub dead_letters: DeadLetters,
    /// Counts them.
    pub status: PipelineStatus,
}

impl NextUnreadable {
    /// Where the first event that one of `filters` matches, from `sequence` on, cannot be received, it is dead-lettered:
    /// its sequence. `None` where it can be received, or there is none.
    ///
    /// # Errors
    ///
    /// The stream cannot be asked, or the dead-letter stream does not confirm: it is to be tried again.
    pub async fn set_aside(&self, sequence: u64, filters: &[String]) -> Result<Option<u64>> {
        let jetstream = jetstream::new(self.client.clone());
        let mut first: Option<Stored> = None;
        for filter in filters {
            if let Some(next) = stored::next(&jetstream, &self.stream, sequence, filter).await?
                && first.as_ref().is_none_or(|first| next.sequence < first.sequence)
            {
                first = Some(next);
            }
        }
        let Some(stored) = first else { return Ok(None) };
        let headers = stored.headers()?;
        if is_readable(&headers) {
            return Ok(None);
        }
        let reason = Reason { kind: KIND, detail: DETAIL.to_owned(), phase: Phase::Pull, error_number: None };
        self.dead_letters.publish_unreadable(&stored.event()?, &reason, &headers).await?;
        metrics::dead_lettered(&self.pipeline, KIND);
        self.status.dead_lettered(1);
        tracing::warn!(
            pipeline = %self.pipeline, sequence = stored.sequence,
            "an event whose headers cannot be read is dead-lettered"
        );
        Ok(Some(stored.sequence))
    }
}

/// Whether the client can read these headers: `NATS/1.0`, then lines of a name, a colon and a value. Source: NATS ADR-4,
/// and what async-nats takes.
fn is_readable(headers: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(headers) else { return false };
    let mut lines = text.lines();
    let Some(version) = lines.next() else { return true };
    let is_line = |line: &str| {
        // Empty, or what belongs to the line before.
        line.is_empty()
            || line.starts_with(char::is_whitespace)
            || line
                .split_once(':')
                .is_some_and(|(name, value)| name.parse::<HeaderName>().is_ok() && !value.contains('\r'))
    };
    // A status is a message's own where somebody stored one.
    let is_status = |text: &str| {
        let status = text.trim().split(' ').next().unwrap_or_default();
        status.is_empty() || status.parse::<StatusCode>().is_ok()
    };
    version.strip_prefix("NATS/1.0").is_some_and(is_status) && lines.all(is_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_reads_is_readable() {
        for headers in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0 503 No Responders\r\n\r\n",
            "NATS/1.0\r\nA: b\r\nA:\r\nB: c: d\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n c\r\n\r\n",
        ] {
            assert!(is_readable(headers.as_bytes()), "{headers:?}");
        }
    }

    #[test]
    fn what_breaks_the_client_is_not() {
        for headers in [
            &b"NATS/1.0\r\nWho: \xe9t\xe9\r\n\r\n"[..],
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nbl ank: x\r\n\r\n",
            b"NATS/1.0\r\nA: x\ry\r\n\r\n",
            b"NATS/2.0\r\nA: x\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
        ] {
            assert!(!is_readable(headers), "{headers:?}");
        }
    }
}
