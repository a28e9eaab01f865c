//! What a dead letter looks like: what is known of the event in headers, and as much of it as the stream takes.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Reason;
use crate::delivery::{Event, Headers};

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
/// How many of the event's headers are missing, where not all of them fit.
pub const HEADERS_LEFT_OUT: &str = "Dead-Letter-Headers-Left-Out";
/// The event's headers as they stand, in base64, where they cannot be read.
pub const UNREADABLE_HEADERS: &str = "Dead-Letter-Headers-Base64";
/// Length in bytes of all headers that cannot be read, where only their beginning is there.
pub const UNREADABLE_HEADERS_BYTES: &str = "Dead-Letter-Headers-Bytes";

/// Room for what is added to a letter after its headers were counted: the first line, the message id (a pipeline's name
/// of at most 64 bytes, a stream's of at most 255, and two numbers), the expected stream (at most 255 bytes), the expected
/// sequence, and what is said of a truncated payload and of headers that are left out.
const RESERVED_BYTES: usize = 1_536;

/// Most bytes of headers that JetStream takes, the first line and the empty one included. Source: nats-server, error 10097.
const MAX_HEADER_BYTES: usize = 65_535;

/// Whose letter it is, and how large it may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) pipeline: &'a str,
    pub(super) stream: &'a str,
    /// Most bytes of headers and payload that the server and the stream take.
    pub(super) max_bytes: usize,
}

impl Frame<'_> {
    /// The letter of an event. Its headers go before its payload: what does not fit is left out from the end, and the
    /// letter says so. `unreadable` are headers that cannot be taken apart.
    pub(super) fn letter(
        &self,
        event: &Event,
        reason: &Reason,
        unreadable: Option<&[u8]>,
    ) -> (HeaderMap, Bytes) {
        let limit = self.max_bytes.saturating_sub(RESERVED_BYTES);
        let mut headers = self.own_headers(event, reason);
        let own_bytes = wire_bytes(&headers);
        let mut room = limit.min(MAX_HEADER_BYTES - RESERVED_BYTES).saturating_sub(own_bytes);
        if let Some(unreadable) = unreadable {
            room = room.saturating_sub(insert_unreadable(&mut headers, unreadable, room));
        }
        let mut left_out = 0;
        for (name, value) in event.headers.iter().flat_map(Headers::iter) {
            // A name with the prefix is made of the same characters as one that the client could read.
            let name = format!("{ORIGINAL_PREFIX}{name}").parse::<HeaderName>();
            let bytes = name.as_ref().map_or(0, |name| line_bytes(name.as_ref(), value));
            match (name, value.parse::<HeaderValue>()) {
                (Ok(name), Ok(value)) if bytes <= room => {
                    headers.append(name, value);
                    room -= bytes;
                }
                _ => left_out += 1,
            }
        }
        if left_out > 0 {
            headers.insert(HEADERS_LEFT_OUT, left_out.to_string());
        }
        let room = limit.saturating_sub(wire_bytes(&headers));
        if event.payload.len() <= room {
            return (headers, event.payload.clone());
        }
        headers.insert(TRUNCATED, "true");
        headers.insert(PAYLOAD_BYTES, event.payload.len().to_string());
        headers.insert(PAYLOAD_SHA256, hexadecimal(&Sha256::digest(&event.payload)));
        (headers, event.payload.slice(..room))
    }

    fn own_headers(&self, event: &Event, reason: &Reason) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(PIPELINE, self.pipeline);
        headers.insert(REASON, reason.kind);
        headers.insert(DETAIL, reason.detail.as_str());
        headers.insert(PHASE, reason.phase.as_str());
        if let Some(number) = reason.error_number {
            headers.insert(ERROR_NUMBER, number.to_string());
        }
        headers.insert(STREAM, self.stream);
        headers.insert(SEQUENCE, event.stream_sequence.to_string());
        headers.insert(SUBJECT, event.subject.as_str());
        headers.insert(DELIVERIES, event.deliveries.to_string());
        headers.insert(PUBLISHED_AT, rfc3339(event.published_at));
        headers
    }
}

/// Inserts as much of the headers as there is room for; gives the bytes that it takes.
fn insert_unreadable(headers: &mut HeaderMap, unreadable: &[u8], room: usize) -> usize {
    let digits = room.saturating_sub(line_bytes(UNREADABLE_HEADERS, ""));
    // base64 makes four digits of three bytes
    let kept = unreadable.len().min(digits / 4 * 3);
    if kept < unreadable.len() {
        headers.insert(UNREADABLE_HEADERS_BYTES, unreadable.len().to_string());
    }
    let text = STANDARD.encode(unreadable.get(..kept).unwrap_or_default());
    let bytes = line_bytes(UNREADABLE_HEADERS, &text);
    headers.insert(UNREADABLE_HEADERS, text);
    bytes
}

/// Bytes of `name: value` and a line break.
fn line_bytes(name: &str, value: &str) -> usize {
    name.len() + value.len() + 4
}

fn wire_bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    lines.map(|(name, value)| line_bytes(name.as_ref(), value.as_str())).sum()
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

#[cfg(test)]
mod tests {
    use async_nats::Subject;

    use super::*;
    use crate::error::Phase;

    const FRAME: Frame<'static> = Frame { pipeline: "p", stream: "S", max_bytes: 10_000 };

    #[test]
    fn headers_keep_to_the_limit_of_jetstream_also_where_messages_may_be_larger() {
        let mut map = HeaderMap::new();
        for number in 0..1_000 {
            map.insert(format!("H{number}").as_str(), "v".repeat(50));
        }
        let mut event = event(Some(Headers::from(&map)), 100_000);
        event.subject = Subject::from("s".repeat(3_000));
        let frame = Frame { max_bytes: 1 << 20, ..FRAME };
        let (headers, payload) = frame.letter(&event, &reason(), None);
        assert_eq!(payload.len(), 100_000);
        assert!(get(&headers, HEADERS_LEFT_OUT).is_some());
        assert!(wire_bytes(&headers) + RESERVED_BYTES < MAX_HEADER_BYTES + 100);
    }

    fn event(headers: Option<Headers>, payload: usize) -> Event {
        Event {
            subject: Subject::from_static("events.a"),
            payload: Bytes::from(vec![b'x'; payload]),
            headers,
            stream_sequence: 7,
            deliveries: 1,
            published_at: 0,
            received_at: 0,
        }
    }

    fn reason() -> Reason {
        Reason { kind: "not_json", detail: String::new(), phase: Phase::Decode, error_number: None }
    }

    fn letter(
        headers: &[(&str, &str)],
        payload: usize,
        unreadable: Option<&[u8]>,
    ) -> (HeaderMap, Bytes, usize) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let event = event((!headers.is_empty()).then(|| Headers::from(&map)), payload);
        let (headers, payload) = FRAME.letter(&event, &reason(), unreadable);
        let bytes = wire_bytes(&headers) + payload.len();
        (headers, payload, bytes)
    }

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(HeaderValue::as_str)
    }

    #[test]
    fn what_fits_is_whole() {
        let (headers, payload, _) = letter(&[("A", "one"), ("A", "two")], 5_000, None);
        assert_eq!(payload.len(), 5_000);
        assert_eq!((get(&headers, TRUNCATED), get(&headers, HEADERS_LEFT_OUT)), (None, None));
        assert_eq!(headers.get_all("Orig-A").count(), 2);
    }

    #[test]
    fn headers_that_fill_most_of_the_space_leave_the_beginning_of_the_payload() {
        let long = "v".repeat(7_000);
        let (headers, payload, bytes) = letter(&[("A", &long)], 5_000, None);
        assert_eq!(get(&headers, "Orig-A"), Some(long.as_str()));
        assert_eq!((get(&headers, TRUNCATED), get(&headers, PAYLOAD_BYTES)), (Some("true"), Some("5000")));
        let digest = hexadecimal(&Sha256::digest(vec![b'x'; 5_000]));
        assert_eq!(get(&headers, PAYLOAD_SHA256), Some(digest.as_str()));
        assert!(!payload.is_empty() && payload.len() < 2_000);
        assert!(bytes < FRAME.max_bytes - 500, "{bytes}");
    }

    #[test]
    fn headers_that_do_not_fit_are_left_out_and_counted() {
        let long = "v".repeat(4_000);
        let all = [("A", long.as_str()), ("B", &long), ("C", &long), ("D", "short")];
        let (headers, payload, bytes) = letter(&all, 5_000, None);
        assert_eq!(get(&headers, HEADERS_LEFT_OUT), Some("1"));
        assert!(get(&headers, "Orig-D").is_some());
        assert_eq!(get(&headers, PAYLOAD_BYTES), Some("5000"));
        assert!(payload.len() < 5_000 && bytes < FRAME.max_bytes - 500, "{bytes}");
    }

    #[test]
    fn unreadable_headers_that_do_not_fit_are_cut_and_their_length_is_told() {
        let (headers, _, _) = letter(&[], 0, Some(b"NATS/1.0\r\nA: \xe9\r\n\r\n"));
        assert_eq!(get(&headers, UNREADABLE_HEADERS_BYTES), None);
        let unreadable = [0xe9; 9_000];
        let (headers, payload, bytes) = letter(&[], 100, Some(&unreadable));
        assert_eq!(get(&headers, UNREADABLE_HEADERS_BYTES), Some("9000"));
        let kept = STANDARD.decode(get(&headers, UNREADABLE_HEADERS).expect("it")).expect("base64");
        assert!(kept.len() > 5_000 && unreadable.starts_with(&kept), "{}", kept.len());
        assert!(payload.len() < 100 && bytes < FRAME.max_bytes - 500, "{bytes}");
    }

    #[test]
    fn a_digest_is_written_in_hexadecimal() {
        assert!(hexadecimal(&Sha256::digest(b"")).starts_with("e3b0c44298fc1c149afb"));
    }
}
