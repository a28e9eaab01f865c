//! The dead-letter stream: where a bad event goes, whole and with the reason, before it is acknowledged.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use sha2::{Digest, Sha256};

use crate::config::{DeadLetterConfig, PipelineConfig};
use crate::delivery::{Durable, Event, Headers};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::nats::consumer;

/// What the headers of the event are prefixed with, so that none of them acts in the dead-letter stream.
pub const ORIGINAL_PREFIX: &str = "Orig-";
/// The pipeline that rejected the event.
pub const PIPELINE: &str = "Dead-Letter-Pipeline";
/// Why, as a stable word.
pub const REASON: &str = "Dead-Letter-Reason";
/// Why, as a sentence without any value of the event.
pub const DETAIL: &str = "Dead-Letter-Detail";
/// The database's error number, where that refused the event's row.
pub const ERROR_NUMBER: &str = "Dead-Letter-Error-Number";
/// Where on its way the event was rejected.
pub const PHASE: &str = "Dead-Letter-Phase";
/// The stream that the event came from.
pub const STREAM: &str = "Dead-Letter-Stream";
/// Its sequence there.
pub const SEQUENCE: &str = "Dead-Letter-Sequence";
/// The subject that it was published on.
pub const SUBJECT: &str = "Dead-Letter-Subject";
/// How often it had been delivered.
pub const DELIVERIES: &str = "Dead-Letter-Deliveries";
/// When its stream stored it, RFC 3339.
pub const PUBLISHED_AT: &str = "Dead-Letter-Published-At";
/// `true` where the payload is only the beginning of the event's.
pub const TRUNCATED: &str = "Dead-Letter-Truncated";
/// Length of the event's whole payload in bytes, where it was truncated.
pub const PAYLOAD_BYTES: &str = "Dead-Letter-Payload-Bytes";
/// SHA-256 of the event's whole payload in hexadecimal digits, where it was truncated.
pub const PAYLOAD_SHA256: &str = "Dead-Letter-Payload-Sha256";

/// The event's headers as they stand, in base64, where they cannot be read.
pub const UNREADABLE_HEADERS: &str = "Dead-Letter-Headers-Base64";

/// Publishes that wait for their confirmation at once. Below the number at which a stream's ingest begins to drop.
const WINDOW: usize = 256;

/// Why an event is rejected, in words that hold no value of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A stable word: a metric's label and a header.
    pub kind: &'static str,
    /// A sentence for a person.
    pub detail: String,
    /// Where on its way.
    pub phase: Phase,
    /// The database's error number, where that refused the event's row.
    pub error_number: Option<u32>,
}

/// Publishes one pipeline's bad events.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    jetstream: Context,
    pipeline: Arc<str>,
    target: DeadLetterConfig,
    source: Source,
}

/// The stream that the events come from.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    /// Tells a stream from a later one of the same name: nanoseconds since 1970-01-01 UTC.
    created_at: i128,
}

impl DeadLetters {
    /// Checks that the dead-letter stream is there and takes the configured subject.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StreamSetup`] where it is missing, or another stream holds the subject.
    pub async fn prepare(
        jetstream: Context,
        pipeline: &PipelineConfig,
        source: &async_nats::jetstream::stream::Info,
    ) -> Result<Self> {
        let target = pipeline.dead_letter.clone();
        let stream = consumer::stream(&jetstream, &target.stream, Phase::DeadLetter).await?;
        let info = stream.cached_info();
        if !info.config.subjects.iter().any(|pattern| subject_matches(pattern, &target.subject)) {
            return Err(Error::new(
                Phase::DeadLetter,
                ErrorKind::StreamSetup,
                format!(
                    "the dead-letter stream {:?} does not take the subject {:?}: add it to the stream's subjects",
                    target.stream, target.subject
                ),
            ));
        }
        Ok(Self {
            jetstream,
            pipeline: Arc::from(pipeline.name.as_str()),
            target,
            source: Source {
                name: source.config.name.clone(),
                created_at: source.created.unix_timestamp_nanos(),
            },
        })
    }

    /// Publishes the rejected events, and returns when the stream has confirmed every one.
    ///
    /// # Errors
    ///
    /// One of them was not confirmed. Those that were are dropped as repeats when the call is made again, for as long
    /// as the stream's duplicate window lasts.
    pub async fn publish(&self, rejected: &[(&Event, Reason)]) -> Result<Durable> {
        let mut unconfirmed = FuturesUnordered::new();
        for (event, reason) in rejected {
            if unconfirmed.len() >= WINDOW {
                unconfirmed.try_next().await?;
            }
            unconfirmed.push(self.publish_one(event, reason, HeaderMap::new()));
        }
        while unconfirmed.try_next().await?.is_some() {}
        Ok(Durable::dead_lettered())
    }

    /// As [`DeadLetters::publish`], of one event with headers that cannot be read.
    ///
    /// # Errors
    ///
    /// As of [`DeadLetters::publish`].
    pub async fn publish_unreadable(
        &self,
        event: &Event,
        reason: &Reason,
        headers: &[u8],
    ) -> Result<Durable> {
        let mut unreadable = HeaderMap::new();
        unreadable.insert(UNREADABLE_HEADERS, STANDARD.encode(headers));
        self.publish_one(event, reason, unreadable).await?;
        Ok(Durable::dead_lettered())
    }

    async fn publish_one(&self, event: &Event, reason: &Reason, headers: HeaderMap) -> Result<()> {
        let (headers, payload) = self.letter(event, reason, headers);
        let id = format!(
            "{}:{}:{}:{}",
            self.pipeline, self.source.name, self.source.created_at, event.stream_sequence
        );
        let message = PublishMessage::build()
            .headers(headers)
            .payload(payload)
            .message_id(id)
            .expected_stream(&self.target.stream);
        let confirmed = match self.jetstream.send_publish(self.target.subject.clone(), message).await {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        confirmed.map(|_ack| ()).map_err(|error| {
            let kind = match error.kind() {
                PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending => ErrorKind::NatsUnavailable,
                _ => ErrorKind::StreamSetup,
            };
            Error::new(
                Phase::DeadLetter,
                kind,
                format!("the dead-letter stream {:?} did not confirm: {error}", self.target.stream),
            )
        })
    }

    /// The letter: what is known of the event in headers, and as much of its payload as the server takes.
    fn letter(&self, event: &Event, reason: &Reason, mut headers: HeaderMap) -> (HeaderMap, Bytes) {
        headers.insert(PIPELINE, &*self.pipeline);
        headers.insert(REASON, reason.kind);
        headers.insert(DETAIL, reason.detail.as_str());
        headers.insert(PHASE, reason.phase.as_str());
        if let Some(number) = reason.error_number {
            headers.insert(ERROR_NUMBER, number.to_string());
        }
        headers.insert(STREAM, self.source.name.as_str());
        headers.insert(SEQUENCE, event.stream_sequence.to_string());
        headers.insert(SUBJECT, event.subject.as_str());
        headers.insert(DELIVERIES, event.deliveries.to_string());
        headers.insert(PUBLISHED_AT, rfc3339(event.published_at));
        for (name, value) in event.headers.iter().flat_map(Headers::iter) {
            // A name with the prefix is made of the same characters as one that the client could read.
            if let (Ok(name), Ok(value)) =
                (format!("{ORIGINAL_PREFIX}{name}").parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                headers.append(name, value);
            }
        }

        let room =
            self.jetstream.client().max_payload().saturating_sub(wire_bytes(&headers) + RESERVED_BYTES);
        if event.payload.len() <= room {
            return (headers, event.payload.clone());
        }
        headers.insert(TRUNCATED, "true");
        headers.insert(PAYLOAD_BYTES, event.payload.len().to_string());
        headers.insert(PAYLOAD_SHA256, hexadecimal(&Sha256::digest(&event.payload)));
        let kept = event.payload.slice(..room.min(event.payload.len()));
        (headers, kept)
    }
}

/// Room for what is added to a letter after its headers were counted: message id, expected stream, the headers of a
/// truncated payload, and the first line.
const RESERVED_BYTES: usize = 1024;

fn wire_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(|value: &HeaderValue| name.len() + value.as_str().len() + 4).sum::<usize>()
        })
        .sum()
}

fn rfc3339(nanoseconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanoseconds))
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| nanoseconds.to_string())
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a stream's subject pattern takes a subject.
fn subject_matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_nats_says_they_take() {
        for (pattern, subject, takes) in [
            ("dead.>", "dead.telemetry", true),
            ("dead.*", "dead.telemetry", true),
            ("dead.*", "dead.a.b", false),
            ("dead.>", "dead", false),
            ("dead.telemetry", "dead.telemetry", true),
            ("dead.telemetry", "dead.flights", false),
            (">", "anything", true),
        ] {
            assert_eq!(subject_matches(pattern, subject), takes, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_digest_is_written_in_hexadecimal() {
        assert!(hexadecimal(&Sha256::digest(b"")).starts_with("e3b0c44298fc1c149afb"));
    }
}
