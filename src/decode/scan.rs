//! A cursor over JSON text: tokens by RFC 8259, and nothing remembered but the place.
//!
//! Values that no column wants are checked like the others, without recursion.

use crate::schema::{MAX_DEPTH, Number, RejectKind};

/// What is wrong, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: RejectKind,
    pub(super) rule: &'static str,
    pub(super) offset: usize,
}

/// A string as it stands between its quotes, its escapes already checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawString<'a> {
    pub(super) text: &'a str,
    pub(super) is_escaped: bool,
}

/// A place in a JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// The text between two offsets that this cursor has been at.
    #[inline]
    pub(super) fn between(&self, start: usize, end: usize) -> Result<&'a str, Fault> {
        self.text.get(start..end).ok_or(self.fault("not a JSON value"))
    }

    #[cold]
    pub(super) fn fault(&self, rule: &'static str) -> Fault {
        self.fault_of(RejectKind::NotJson, rule)
    }

    #[cold]
    pub(super) fn fault_of(&self, kind: RejectKind, rule: &'static str) -> Fault {
        Fault { kind, rule, offset: self.at }
    }

    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Skips blanks, and looks at what follows.
    #[inline]
    pub(super) fn peek_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Skips blanks and one byte, which has to be `byte`.
    #[inline]
    pub(super) fn expect(&mut self, byte: u8, rule: &'static str) -> Result<(), Fault> {
        match self.peek_token() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.fault(rule)),
        }
    }

    /// Takes `literal`, of which the first letter has been seen.
    #[inline]
    pub(super) fn literal(&mut self, literal: &'static [u8]) -> Result<(), Fault> {
        match self.rest().starts_with(literal) {
            true => {
                self.at += literal.len();
                Ok(())
            }
            false => Err(self.fault("not a JSON value")),
        }
    }

    /// Takes a number, of which the first character has been seen.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Number<'a>, Fault> {
        match Number::scan(self.text, self.at) {
            Ok((number, end)) => {
                self.at = end;
                Ok(number)
            }
            Err(offset) => {
                self.at = offset;
                Err(self.fault("not a number by JSON's grammar"))
            }
        }
    }

    /// Takes a string, after its opening quote.
    #[inline]
    pub(super) fn string(&mut self) -> Result<RawString<'a>, Fault> {
        let start = self.at;
        let mut is_escaped = false;
        loop {
            match self.skip_plain() {
                Some(b'"') => {
                    let text = self.between(start, self.at)?;
                    self.at += 1;
                    return Ok(RawString { text, is_escaped });
                }
                Some(b'\\') => {
                    is_escaped = true;
                    self.skip_escape()?;
                }
                Some(_) => return Err(self.fault("a control character in a string is not escaped")),
                None => return Err(self.fault("a string is not closed")),
            }
        }
    }

    /// Goes to the next quote, backslash or control character.
    #[inline]
    fn skip_plain(&mut self) -> Option<u8> {
        let bytes = self.rest();
        let (words, rest) = bytes.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            let found = special(u64::from_le_bytes(*word));
            if found != 0 {
                self.at += index * 8 + (found.trailing_zeros() / 8) as usize;
                return self.peek();
            }
        }
        let plain = rest.iter().take_while(|byte| !matches!(**byte, b'"' | b'\\' | ..b' ')).count();
        self.at += words.len() * 8 + plain;
        self.peek()
    }

    /// Checks and skips an escape, at its backslash.
    #[cold]
    fn skip_escape(&mut self) -> Result<(), Fault> {
        match self.rest() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => {
                self.at += 2;
                Ok(())
            }
            [_, b'u', after @ ..] => match hex4(after) {
                Some(0xD800..=0xDBFF) => {
                    let low = after.get(4..).and_then(|after| after.strip_prefix(b"\\u")).and_then(hex4);
                    match low {
                        Some(0xDC00..=0xDFFF) => {
                            self.at += 12;
                            Ok(())
                        }
                        _ => Err(self.fault_of(RejectKind::LoneSurrogate, "one half of a surrogate pair")),
                    }
                }
                Some(0xDC00..=0xDFFF) => {
                    Err(self.fault_of(RejectKind::LoneSurrogate, "one half of a surrogate pair"))
                }
                Some(_) => {
                    self.at += 6;
                    Ok(())
                }
                None => Err(self.fault("an escape of other than four hexadecimal digits")),
            },
            _ => Err(self.fault("no such escape")),
        }
    }

    /// Skips a value that lies within `depth` objects and arrays.
    pub(super) fn skip_value(&mut self, depth: usize) -> Result<(), Fault> {
        // One bit a level, the innermost the lowest: set for an object. There are at most 64.
        let mut is_object = 0_u64;
        let mut open = 0;
        loop {
            match self.peek_token() {
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(bracket @ (b'{' | b'[')) => {
                    open += 1;
                    if depth + open > MAX_DEPTH {
                        return Err(self.too_deep());
                    }
                    self.at += 1;
                    is_object = is_object << 1 | u64::from(bracket == b'{');
                    // An empty one is closed below, like any other after its last value.
                    let is_empty = self.peek_token() == Some(if bracket == b'{' { b'}' } else { b']' });
                    if !is_empty {
                        if bracket == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                _ => return Err(self.fault("not a JSON value")),
            }
            // A value has ended: close what ends with it, and go to the next.
            loop {
                if open == 0 {
                    return Ok(());
                }
                let in_object = is_object & 1 == 1;
                match (self.peek_token(), in_object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.peek_token();
                        self.skip_key()?;
                        break;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        is_object >>= 1;
                        open -= 1;
                    }
                    (_, true) => return Err(self.fault("expected a comma or the end of an object")),
                    (_, false) => return Err(self.fault("expected a comma or the end of an array")),
                }
            }
        }
    }

    /// Skips a key and its colon.
    fn skip_key(&mut self) -> Result<(), Fault> {
        self.expect(b'"', "expected a key")?;
        self.string()?;
        self.expect(b':', "expected a colon")
    }

    #[cold]
    pub(super) fn too_deep(&self) -> Fault {
        self.fault_of(RejectKind::TooDeep, "nested deeper than 64 levels")
    }
}

/// The highest bit of every byte that is a quote, a backslash or a control character; exact for the lowest of
/// them, which is the only one looked at. Bytes of 128 and more are none.
#[inline]
fn special(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * 0x22));
    let backslash = zero(word ^ (ONES * 0x5C));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// The value of four hexadecimal digits.
fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// Appends what a string means. Its escapes have been checked.
pub(super) fn unescape(raw: &str, text: &mut String) {
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (unescaped, length) = match escape.as_bytes() {
            [b'u', after @ ..] => match hex4(after) {
                Some(high @ 0xD800..=0xDBFF) => {
                    let low = after.get(6..).and_then(hex4).unwrap_or(0xDC00);
                    (char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low & 0x3FF)), 11)
                }
                value => (value.and_then(char::from_u32), 5),
            },
            [b'b', ..] => (Some('\u{8}'), 1),
            [b'f', ..] => (Some('\u{c}'), 1),
            [b'n', ..] => (Some('\n'), 1),
            [b'r', ..] => (Some('\r'), 1),
            [b't', ..] => (Some('\t'), 1),
            [other, ..] => (Some(char::from(*other)), 1),
            [] => (None, 0),
        };
        text.extend(unescaped);
        rest = escape.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_special_byte_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                for filler in [b'a', 0x21, 0x7f, 0x80, 0xff, b'#', b'[', b']'] {
                    let mut word = [filler; 8];
                    word[place] = byte;
                    let found = special(u64::from_le_bytes(word));
                    match byte < 0x20 || byte == b'"' || byte == b'\\' {
                        true => assert_eq!(found.trailing_zeros() / 8, u32::try_from(place).expect("small")),
                        false => assert_eq!(found, 0, "{byte:#x} {place} {filler:#x}"),
                    }
                }
            }
        }
    }

    #[test]
    fn unescapes_what_rfc_8259_escapes() {
        for (raw, text) in [
            (r"plain", "plain"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"\u00e4\u20AC\ud83d\uDE00x", "ä€😀x"),
            (r"a\u0000b", "a\0b"),
            (r"ä\\u0041", "ä\\u0041"),
        ] {
            let mut unescaped = String::new();
            unescape(raw, &mut unescaped);
            assert_eq!(unescaped, text);
        }
    }
}
