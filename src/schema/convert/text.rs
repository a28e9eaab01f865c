//! Whether text fits a column: by its length as the server counts it, and by its code page.

use encoding_rs::{EncoderResult, Encoding, UTF_8};

use crate::schema::reject::{Problem, RejectKind};
use crate::schema::sql_type::SqlType;

const TOO_MANY_UNITS: Problem = Problem::new(RejectKind::TooLong, "more UTF-16 units than the column takes");
const TOO_MANY_BYTES: Problem =
    Problem::new(RejectKind::TooLong, "more bytes of the column's code page than the column takes");
const UNREPRESENTABLE: Problem =
    Problem::new(RejectKind::UnrepresentableText, "a character that the column's code page does not have");

/// `Ok` where `text` fits.
#[inline]
pub(super) fn check(sql_type: SqlType, encoding: &'static Encoding, text: &str) -> Result<(), Problem> {
    let limit = sql_type.longest_value().unwrap_or(usize::MAX);
    match sql_type.is_code_page_text() {
        // There are never more UTF-16 units than bytes of UTF-8.
        false if text.len() <= limit || text.encode_utf16().count() <= limit => Ok(()),
        false => Err(TOO_MANY_UNITS),
        true if encoding == UTF_8 || text.is_ascii() => match text.len() <= limit {
            true => Ok(()),
            false => Err(TOO_MANY_BYTES),
        },
        true => match encoded_length(encoding, text)? <= limit {
            true => Ok(()),
            false => Err(TOO_MANY_BYTES),
        },
    }
}

/// Bytes of `text` in a code page.
fn encoded_length(encoding: &'static Encoding, text: &str) -> Result<usize, Problem> {
    let mut encoder = encoding.new_encoder();
    let mut buffer = [0; 512];
    let (mut rest, mut length) = (text, 0);
    loop {
        // Never `encode`, which writes what a code page lacks as `&#…;`.
        let (result, read, written) = encoder.encode_from_utf8_without_replacement(rest, &mut buffer, true);
        length += written;
        rest = rest.get(read..).unwrap_or_default();
        match result {
            EncoderResult::InputEmpty => return Ok(length),
            EncoderResult::OutputFull => {}
            EncoderResult::Unmappable(_) => return Err(UNREPRESENTABLE),
        }
    }
}

#[cfg(test)]
mod tests {
    use encoding_rs::{SHIFT_JIS, WINDOWS_1252};

    use super::*;
    use crate::schema::sql_type::Length;

    #[test]
    fn max_ends_where_the_driver_does() {
        for (sql_type, longest) in
            [(SqlType::NVarChar(Length::Max), 32_767), (SqlType::VarChar(Length::Max), 65_535)]
        {
            assert_eq!(check(sql_type, WINDOWS_1252, &"x".repeat(longest)), Ok(()));
            assert!(check(sql_type, WINDOWS_1252, &"x".repeat(longest + 1)).is_err());
        }
    }

    #[test]
    fn units_of_utf_16_are_counted() {
        let three = SqlType::NVarChar(Length::Limit(3));
        for (text, fits) in
            [("abc", true), ("abcd", false), ("äöü", true), ("😀a", true), ("😀😀", false), ("語語語", true)]
        {
            assert_eq!(check(three, WINDOWS_1252, text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn bytes_of_the_code_page_are_counted() {
        let three = SqlType::VarChar(Length::Limit(3));
        for (encoding, text, outcome) in [
            (WINDOWS_1252, "äö€", Ok(())),
            (WINDOWS_1252, "äöü€", Err(TOO_MANY_BYTES)),
            (WINDOWS_1252, "Ω", Err(UNREPRESENTABLE)),
            (WINDOWS_1252, "😀", Err(UNREPRESENTABLE)),
            // Windows' own table maps the holes of its code page to the C1 controls, and back.
            (WINDOWS_1252, "\u{81}\u{8d}\u{9d}", Ok(())),
            (WINDOWS_1252, "\u{80}", Err(UNREPRESENTABLE)),
            (UTF_8, "ä", Ok(())),
            (UTF_8, "äö", Err(TOO_MANY_BYTES)),
            (SHIFT_JIS, "語a", Ok(())),
            (SHIFT_JIS, "語語", Err(TOO_MANY_BYTES)),
        ] {
            assert_eq!(check(three, encoding, text), outcome, "{} {text:?}", encoding.name());
        }
    }

    #[test]
    fn long_text_is_encoded_in_pieces() {
        assert_eq!(encoded_length(WINDOWS_1252, &"ä".repeat(5_000)), Ok(5_000));
        assert_eq!(encoded_length(WINDOWS_1252, &format!("{}Ω", "ä".repeat(5_000))), Err(UNREPRESENTABLE));
    }
}
