//! Why an event, or a default in a schema file, does not become a row: a kind, and what was expected instead.

use std::fmt;

/// The kinds of rejects. [`RejectKind::as_str`] is a label of metrics and of dead letters: it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectKind {
    /// The payload holds nothing, or nothing but blanks.
    EmptyPayload,
    /// The payload is not UTF-8.
    BadUtf8,
    /// The payload is not JSON by RFC 8259.
    NotJson,
    /// The payload is JSON, with something after it.
    TrailingData,
    /// The payload is JSON, but not an object.
    NotAnObject,
    /// Objects and arrays are nested deeper than 64 levels.
    TooDeep,
    /// A string holds one half of a surrogate pair.
    LoneSurrogate,
    /// The field that a column reads occurs twice.
    DuplicateKey,
    /// The field is of another JSON type than the column reads.
    WrongType,
    /// The field is absent or null, and the column takes no NULL and has no default.
    MissingRequired,
    /// Text or bytes longer than the column.
    TooLong,
    /// A number, date or time that the column cannot hold.
    OutOfRange,
    /// Text that is not a number by JSON's grammar.
    BadNumber,
    /// A number or a fraction of a second with more digits than the column keeps.
    ExcessDigits,
    /// Text that is not a date, a time or a timestamp of the form that is asked for.
    BadTimestamp,
    /// Text that is not Base64.
    BadBase64,
    /// Text that is not a UUID.
    BadUuid,
    /// Text with a character that the column's code page does not have.
    UnrepresentableText,
    /// The decoder does not survive it: it panics, ends its process, or does not come to an end.
    CrashesDecoder,
}

impl RejectKind {
    /// All of them, in order.
    pub const ALL: [RejectKind; 19] = [
        RejectKind::EmptyPayload,
        RejectKind::BadUtf8,
        RejectKind::NotJson,
        RejectKind::TrailingData,
        RejectKind::NotAnObject,
        RejectKind::TooDeep,
        RejectKind::LoneSurrogate,
        RejectKind::DuplicateKey,
        RejectKind::WrongType,
        RejectKind::MissingRequired,
        RejectKind::TooLong,
        RejectKind::OutOfRange,
        RejectKind::BadNumber,
        RejectKind::ExcessDigits,
        RejectKind::BadTimestamp,
        RejectKind::BadBase64,
        RejectKind::BadUuid,
        RejectKind::UnrepresentableText,
        RejectKind::CrashesDecoder,
    ];

    /// The stable label.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectKind::EmptyPayload => "empty_payload",
            RejectKind::BadUtf8 => "bad_utf8",
            RejectKind::NotJson => "not_json",
            RejectKind::TrailingData => "trailing_data",
            RejectKind::NotAnObject => "not_an_object",
            RejectKind::TooDeep => "too_deep",
            RejectKind::LoneSurrogate => "lone_surrogate",
            RejectKind::DuplicateKey => "duplicate_key",
            RejectKind::WrongType => "wrong_type",
            RejectKind::MissingRequired => "missing_required",
            RejectKind::TooLong => "too_long",
            RejectKind::OutOfRange => "out_of_range",
            RejectKind::BadNumber => "bad_number",
            RejectKind::ExcessDigits => "excess_digits",
            RejectKind::BadTimestamp => "bad_timestamp",
            RejectKind::BadBase64 => "bad_base64",
            RejectKind::BadUuid => "bad_uuid",
            RejectKind::UnrepresentableText => "unrepresentable_text",
            RejectKind::CrashesDecoder => "crashes_decoder",
        }
    }
}

impl fmt::Display for RejectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with one value: the kind, and the rule that it breaks. Both are ours; nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The kind.
    pub kind: RejectKind,
    /// The rule, as in "expected a string".
    pub rule: &'static str,
}

impl Problem {
    pub(crate) const fn new(kind: RejectKind, rule: &'static str) -> Self {
        Self { kind, rule }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.rule)
    }
}
