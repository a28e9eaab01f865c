//! A dead letter as it is stored, and the event that it was.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::message::PublishMessage;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{PipelineConfig, covers, subject_problem};
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
/// What the subjects begin with that are not for events: what the server listens to itself, and replies.
const NOT_FOR_EVENTS: [&str; 2] = ["$", "_INBOX."];
/// Where a header is none that a client sends.
const NOT_A_HEADER: &str = "a header of its event has a name or a value that no header can have";

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

    /// Of the event, in the stream that it came from.
    pub(super) fn event_sequence(&self) -> Option<u64> {
        self.header(SEQUENCE).and_then(|text| text.parse().ok())
    }

    /// Of the event, as far as it is there.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
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

    /// As a letter of this pipeline.
    pub(super) fn json(&self, pipeline: &PipelineConfig) -> Value {
        json!({
            "sequence": self.sequence,
            "stored_at": self.time(),
            "pipeline": self.header(PIPELINE),
            "reason": self.header(REASON),
            "detail": self.header(DETAIL),
            "stream": self.header(STREAM),
            "stream_sequence": self.event_sequence(),
            "subject": self.header(SUBJECT),
            "payload_bytes": self.payload.len(),
            "can_be_replayed": self.message(pipeline).is_ok(),
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

    /// The event as it was published, for the stream that its pipeline reads, or why it cannot be had.
    ///
    /// Of the headers that the server acts on only the message id is kept: the others (conditions, a rollup) were about the
    /// moment at which it was first published. Without one it gets one, so that a replay which is repeated at once doubles
    /// nothing.
    pub(super) fn message(&self, pipeline: &PipelineConfig) -> Result<PublishMessage, &'static str> {
        if !self.is_one() {
            return Err("it is no dead letter");
        }
        self.check_place(pipeline)?;
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
            // what is no header makes the client panic, where it is not asked before
            let (false, Ok(name), Ok(value)) =
                (original.is_empty(), original.parse::<HeaderName>(), value.parse::<HeaderValue>())
            else {
                return Err(NOT_A_HEADER);
            };
            if original.eq_ignore_ascii_case(MESSAGE_ID) {
                id = Some(value).filter(|value| !value.as_str().is_empty());
            } else if !original.to_ascii_lowercase().starts_with(OF_SERVER) {
                headers.append(name, value);
            }
        }
        let id = match id {
            Some(id) => id,
            None => self.own_id()?,
        };
        headers.insert(NATS_MESSAGE_ID, id);
        Ok(PublishMessage::build()
            .headers(headers)
            .payload(self.payload.clone())
            .expected_stream(&pipeline.stream))
    }

    /// Whether the event is one of those that its pipeline reads. A letter says what whoever published it wanted it to say, and
    /// nobody is to be led by it to publish anywhere else.
    fn check_place(&self, pipeline: &PipelineConfig) -> Result<(), &'static str> {
        let subject = self.subject();
        if pipeline.partitions.as_ref().and_then(|own| own.count).is_some() {
            return Err("its stream makes other subjects of those that are published on: partitions.count");
        }
        if self.header(STREAM) != Some(pipeline.stream.as_str()) {
            return Err("its event is of another stream than its pipeline reads");
        }
        if self.event_sequence().is_none() {
            return Err("it does not say where in the stream its event stands");
        }
        if subject_problem(subject, false).is_some() {
            return Err("nothing can be published on its event's subject");
        }
        if NOT_FOR_EVENTS.iter().any(|start| subject.starts_with(start)) {
            return Err("its event's subject is not for events");
        }
        if !covers(&pipeline.subjects, subject) {
            return Err("its event's subject is none that its pipeline reads");
        }
        Ok(())
    }

    /// For an event without a message id: that of the letter, which no other letter has.
    fn own_id(&self) -> Result<HeaderValue, &'static str> {
        let own = self.header(MESSAGE_ID).filter(|id| !id.is_empty());
        let own = own.ok_or("neither it nor its event has a message id, which would tell a repetition")?;
        format!("replay:{own}").parse().map_err(|_| NOT_A_HEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::tests::{letter, pipeline};

    fn reading(subjects: &str) -> PipelineConfig {
        pipeline(&format!("durable = \"c\"\nsubjects = [{subjects}]"))
    }

    fn refused(letter: &Letter, pipeline: &PipelineConfig) -> &'static str {
        assert_eq!(letter.json(pipeline)["can_be_replayed"], false);
        letter.message(pipeline).expect_err("a refusal")
    }

    /// What is published: the message has no other way to be looked at.
    fn published(letter: &Letter) -> HeaderMap {
        let message = letter.message(&reading("\"a.>\"")).expect("it holds all of the event");
        let message = message.outbound_message("a.b");
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
        assert_eq!(id(&letter(&[("Orig-Nats-Msg-Id", "")])), Some("replay:p:S:1:7".to_owned()));
        let none = letter(&[(MESSAGE_ID, "")]);
        assert!(refused(&none, &reading("\"a.>\"")).contains("message id"));
    }

    #[test]
    fn what_is_not_the_whole_event_stays() {
        for name in [TRUNCATED, HEADERS_LEFT_OUT, UNREADABLE_HEADERS] {
            refused(&letter(&[(name, "1")]), &reading("\"a.>\""));
        }
    }

    #[test]
    fn an_event_goes_nowhere_but_where_its_pipeline_reads() {
        let all = reading("\">\"");
        for (header, value, why) in [
            (STREAM, "T", "another stream"),
            (STREAM, "", "another stream"),
            (SEQUENCE, "x", "where in the stream"),
            (SUBJECT, "$JS.API.STREAM.DELETE.EVENTS", "not for events"),
            (SUBJECT, "_INBOX.a", "not for events"),
            (SUBJECT, "a.*", "nothing can be published"),
            (SUBJECT, "a.>", "nothing can be published"),
            (SUBJECT, "a b", "nothing can be published"),
            (SUBJECT, "a\rb", "nothing can be published"),
            (SUBJECT, "a..b", "nothing can be published"),
            (SUBJECT, "", "nothing can be published"),
        ] {
            let said = refused(&letter(&[(header, value)]), &all);
            assert!(said.contains(why), "{header} {value:?}: {said}");
        }
        assert!(letter(&[]).message(&all).is_ok());
        assert!(letter(&[]).message(&reading("\"b\", \"a.*\"")).is_ok());
        let said = refused(&letter(&[]), &reading("\"b\", \"a.*.>\""));
        assert!(said.contains("none that its pipeline reads"), "{said}");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (name, value) in [
            ("Orig-a b", "1"),
            ("Orig-\u{e9}", "1"),
            ("Orig-", "1"),
            ("Orig-Trace", "1\r2"),
            ("Orig-Nats-Msg-Id", "1\r2"),
            (MESSAGE_ID, "1\r2"),
        ] {
            let said = refused(&letter(&[(name, value)]), &reading("\"a.>\""));
            assert_eq!(said, NOT_A_HEADER, "{name:?} {value:?}");
        }
    }

    #[test]
    fn an_event_whose_subject_was_made_by_its_stream_stays() {
        let once = "delivery = \"exactly_once\"\nsubjects = [\"a.*\"]\n";
        let listed = format!("{once}partitions = {{ subjects = [[\"a.*\"]] }}");
        assert!(letter(&[]).message(&pipeline(&listed)).is_ok());
        let counted = format!("{once}partitions = {{ count = 2, subject = \"a.{{partition}}\" }}");
        let said = refused(&letter(&[(SUBJECT, "a.0")]), &pipeline(&counted));
        assert!(said.contains("partitions.count"), "{said}");
    }

    #[test]
    fn values_of_the_event_are_shown_on_demand_alone() {
        let letter = letter(&[("Orig-Secret", "canary"), (UNREADABLE_HEADERS, "Y2FuYXJ5")]);
        let quiet = format!(
            "{} {} {}",
            letter.line(),
            letter.json(&reading("\"a.>\"")),
            letter.details(false).join("\n")
        );
        assert!(!quiet.contains("canary") && !quiet.contains("Y2FuYXJ5"), "{quiet}");
        assert!(quiet.contains("Orig-Secret: (not shown)"), "{quiet}");
        let full = letter.details(true).join("\n");
        assert_eq!(full.matches("canary").count(), 2, "{full}");
    }
}
