//! What JetStream tells about a delivery in the subject on which it is to be settled.

/// The position of a delivery: part of `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.<consumer
/// sequence>.<stored at>.<pending>`, with a domain and an account hash after `ACK` where the server uses them.
/// Source: NATS ADR-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// Its sequence among this consumer's deliveries.
    pub consumer_sequence: u64,
    /// When the stream stored it: nanoseconds since 1970-01-01 UTC.
    pub stored_at: i64,
    /// How many more messages wait for this consumer.
    pub pending: u64,
}

impl Position {
    /// Reads a reply subject; `None` where it is not one of a JetStream delivery.
    pub fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        // Without a domain 7 tokens follow the prefix; with domain and account hash 9, or 10 with a random one.
        let names = match rest.bytes().filter(|byte| *byte == b'.').count() + 1 {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        // Bytes, and no search for a separator: tokens are short, and this is done for every message.
        let mut tokens = rest.as_bytes().split(|byte| *byte == b'.').skip(names);
        Some(Self {
            deliveries: number(tokens.next()?)?,
            stream_sequence: number(tokens.next()?)?,
            consumer_sequence: number(tokens.next()?)?,
            stored_at: i64::try_from(number(tokens.next()?)?).ok()?,
            pending: number(tokens.next()?)?,
        })
    }
}

/// A number in decimal digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let position = Position {
            deliveries: 1,
            stream_sequence: 22,
            consumer_sequence: 21,
            stored_at: 1_700_000_000_000_000_000,
            pending: 5,
        };
        for reply in [
            "$JS.ACK.EVENTS.sink.1.22.21.1700000000000000000.5",
            "$JS.ACK.hub.ACCOUNT.EVENTS.sink.1.22.21.1700000000000000000.5",
            "$JS.ACK._.ACCOUNT.EVENTS.sink.1.22.21.1700000000000000000.5.random",
        ] {
            assert_eq!(Position::parse(reply), Some(position), "{reply}");
        }
    }

    #[test]
    fn refuses_what_is_no_delivery() {
        for reply in [
            "",
            "_INBOX.a",
            "$JS.ACK.EVENTS.sink.1.22.21.5",
            "$JS.ACK.EVENTS.sink.x.22.21.1.5",
            "$JS.ACK.EVENTS.sink.+1.22.21.1.5",
            "$JS.ACK.EVENTS.sink.1..21.1.5",
            "$JS.ACK.EVENTS.sink.1.18446744073709551616.21.1.5",
        ] {
            assert_eq!(Position::parse(reply), None, "{reply}");
        }
        let most = Position::parse("$JS.ACK.EVENTS.sink.1.18446744073709551615.21.1.5");
        assert_eq!(most.map(|position| position.stream_sequence), Some(u64::MAX));
    }
}
