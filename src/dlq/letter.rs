//! A dead letter as it is stored, and the event that it was.

use async_nats::HeaderMap;
use async_nats::jetstream::message::PublishMessage;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Result;
use crate::nats::dead_letter::{
    DETAIL, HEADERS_LEFT_OUT, ORIGINAL_PREFIX, PIPELINE, REASON, SEQUENCE, STREAM, SUBJECT, TRUNCATED,
    UNREADABLE_HEADERS,
};
use crate::nats::stored::Stored;

/// By which a stream knows a message that it has already.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Headers that the server acts on, in any spelling.
const OF_SERVER: &str = "nats-";

#[derive(Debug)]
pub(super) struct Letter {
    sequence: u64,
    time: OffsetDateTime,
    /// In their order; a name may come several times.
    headers: Vec<(String, String)>,
    payload: Bytes,
}

impl Letter {
    pub(super) fn new(stored: &Stored) -> Result<Self> {
        let headers = stored.headers()?;
        let headers = String::from_utf8_lossy(&headers);
        let lines = headers.lines().skip(1).filter_map(|line| line.split_once(':'));
        Ok(Self {
            sequence: stored.sequence,
            time: stored.time,
            headers: lines.map(|(name, value)| (name.to_owned(), value.trim_start().to_owned())).collect(),
            payload: Bytes::from(stored.payload()?),
        })
    }

    /// Whether it is one at all.
    pub(super) fn is_one(&self) -> bool {
        self.header(REASON).is_some() && self.header(SUBJECT).is_some()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn stored_at(&self) -> OffsetDateTime {
        self.time
    }

    pub(super) fn reason(&self) -> &str {
        self.header(REASON).unwrap_or_default()
    }

    /// Of the event.
    pub(super) fn subject(&self) -> &str {
        self.header(SUBJECT).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Where it is, and what it is about: no value of its event but the subject.
    pub(super) fn line(&self) -> String {
        let text = |name: &str| self.header(name).unwrap_or("?");
        format!(
            "{} {} {} {} from {} {} on {}, {} bytes",
            self.sequence,
            self.time(),
            text(PIPELINE),
            text(REASON),
            text(STREAM),
            text(SEQUENCE),
            text(SUBJECT),
            self.payload.len()
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "sequence": self.sequence,
            "stored_at": self.time(),
            "pipeline": self.header(PIPELINE),
            "reason": self.header(REASON),
            "detail": self.header(DETAIL),
            "stream": self.header(STREAM),
            "stream_sequence": self.header(SEQUENCE).and_then(|text| text.parse::<u64>().ok()),
            "subject": self.header(SUBJECT),
            "payload_bytes": self.payload.len(),
            "can_be_replayed": self.message().is_ok(),
        })
    }

    fn time(&self) -> String {
        self.time.format(&Rfc3339).unwrap_or_default()
    }

    /// All headers; the event's own with their values, and its payload, only `with_payload`: as text where it is, else in
    /// base64.
    pub(super) fn details(&self, with_payload: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, value) in &self.headers {
            let is_events = name.starts_with(ORIGINAL_PREFIX) || name == UNREADABLE_HEADERS;
            let shown = if is_events && !with_payload { "(not shown)" } else { value };
            lines.push(format!("{name}: {}", shown.escape_debug()));
        }
        if with_payload {
            lines.push(String::new());
            lines.push(match std::str::from_utf8(&self.payload) {
                Ok(text) => text.to_owned(),
                Err(_) => format!("base64: {}", STANDARD.encode(&self.payload)),
            });
        }
        lines
    }

    /// The event as it was published, for the stream that it came from, or why it cannot be had.
    ///
    /// Of the headers that the server acts on only the message id is kept: the others (conditions, a rollup) were about the
    /// moment at which it was first published. Without one it gets one, so that a replay which is repeated at once doubles
    /// nothing.
    pub(super) fn message(&self) -> Result<PublishMessage, &'static str> {
        if !self.is_one() {
            return Err("it is no dead letter");
        }
        for (name, why) in [
            (TRUNCATED, "it holds only the beginning of the event's payload"),
            (HEADERS_LEFT_OUT, "it holds not all of the event's headers"),
            (UNREADABLE_HEADERS, "the event's headers cannot be read, so that it would be refused again"),
        ] {
            if self.header(name).is_some() {
                return Err(why);
            }
        }
        let (mut headers, mut id) = (HeaderMap::new(), None);
        for (name, value) in &self.headers {
            let Some(original) = name.strip_prefix(ORIGINAL_PREFIX) else { continue };
            if original.eq_ignore_ascii_case(MESSAGE_ID) {
                id = Some(value.clone());
            } else if !original.to_ascii_lowercase().starts_with(OF_SERVER) {
                headers.append(original, value.as_str());
            }
        }
        let own_id = || format!("replay:{}", self.header(MESSAGE_ID).unwrap_or_default());
        Ok(PublishMessage::build()
            .headers(headers)
            .payload(self.payload.clone())
            .message_id(id.unwrap_or_else(own_id))
            .expected_stream(self.header(STREAM).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(more: &[(&str, &str)]) -> Letter {
        let own = [
            (PIPELINE, "p"),
            (REASON, "not_json"),
            (DETAIL, "the payload is no JSON"),
            (STREAM, "S"),
            (SEQUENCE, "7"),
            (SUBJECT, "a.b"),
            (MESSAGE_ID, "p:S:1:7"),
        ];
        let lines: Vec<String> =
            own.iter().chain(more).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let stored = serde_json::json!({
            "seq": 3,
            "subject": "dead.p.S.1.7",
            "hdrs": STANDARD.encode(format!("NATS/1.0\r\n{}\r\n", lines.concat())),
            "data": STANDARD.encode("canary"),
            "time": "1970-01-01T00:00:00Z",
        });
        Letter::new(&serde_json::from_value(stored).expect("a message")).expect("a letter")
    }

    /// What is published: the message has no other way to be looked at.
    fn published(letter: &Letter) -> HeaderMap {
        let message = letter.message().expect("it holds all of the event").outbound_message("a.b");
        assert_eq!(message.payload, "canary");
        message.headers.expect("headers")
    }

    #[test]
    fn an_event_goes_back_with_its_own_headers() {
        let letter = letter(&[
            ("Orig-Trace", "one"),
            ("Orig-Trace", "two"),
            ("Orig-Nats-Msg-Id", "id-1"),
            ("Orig-Nats-Rollup", "all"),
            ("Orig-Nats-Expected-Last-Sequence", "3"),
        ]);
        let headers = published(&letter);
        let all: Vec<&str> = headers.get_all("Trace").map(async_nats::HeaderValue::as_str).collect();
        assert_eq!(all, ["one", "two"]);
        assert_eq!(headers.get(MESSAGE_ID).map(async_nats::HeaderValue::as_str), Some("id-1"));
        assert_eq!(headers.get("Nats-Expected-Stream").map(async_nats::HeaderValue::as_str), Some("S"));
        for name in ["Nats-Rollup", "Nats-Expected-Last-Sequence", REASON, SUBJECT] {
            assert!(headers.get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn an_event_without_an_id_gets_one_that_is_always_the_same() {
        let id = |letter: &Letter| published(letter).get(MESSAGE_ID).map(ToString::to_string);
        assert_eq!(id(&letter(&[])), Some("replay:p:S:1:7".to_owned()));
    }

    #[test]
    fn what_is_not_the_whole_event_stays() {
        for name in [TRUNCATED, HEADERS_LEFT_OUT, UNREADABLE_HEADERS] {
            assert!(letter(&[(name, "1")]).message().is_err(), "{name}");
        }
    }

    #[test]
    fn values_of_the_event_are_shown_on_demand_alone() {
        let letter = letter(&[("Orig-Secret", "canary"), (UNREADABLE_HEADERS, "Y2FuYXJ5")]);
        let quiet = format!("{} {} {}", letter.line(), letter.json(), letter.details(false).join("\n"));
        assert!(!quiet.contains("canary") && !quiet.contains("Y2FuYXJ5"), "{quiet}");
        assert!(quiet.contains("Orig-Secret: (not shown)"), "{quiet}");
        let full = letter.details(true).join("\n");
        assert_eq!(full.matches("canary").count(), 2, "{full}");
    }
}
