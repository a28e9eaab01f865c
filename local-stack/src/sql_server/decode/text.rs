//! Text: UTF-16, Windows-1252 or UTF-8 on the wire, always UTF-8 in PostgreSQL.

use encoding_rs::WINDOWS_1252;

use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::{ColumnDecoder, MAX_VALUE_BYTES, ValueError};

/// How long a text may be, and in which unit its column counts.
#[derive(Clone, Copy)]
enum Unit {
    Utf16,
    /// A character is a byte; what Windows-1252 has not becomes a question mark, as in SQL Server.
    SingleByte,
    Utf8,
}

fn limit_of(column: SqlType) -> (Unit, usize, bool) {
    let length = |length: Length| match length {
        Length::Limited(n) => usize::from(n),
        Length::Max => MAX_VALUE_BYTES,
    };
    let unit = |collation: Collation| if collation.is_utf8() { Unit::Utf8 } else { Unit::SingleByte };
    match column {
        SqlType::NChar(n, _) => (Unit::Utf16, usize::from(n), true),
        SqlType::NVarChar(n, _) => (Unit::Utf16, length(n), false),
        SqlType::Char(n, collation) => (unit(collation), usize::from(n), true),
        SqlType::VarChar(n, collation) => (unit(collation), length(n), false),
        _ => (Unit::Utf8, MAX_VALUE_BYTES, false),
    }
}

pub(super) fn from_utf16(decoder: &ColumnDecoder, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
    if !bytes.len().is_multiple_of(2) {
        return Err(decoder.invalid());
    }
    if decoder.column == SqlType::Xml {
        return from_text(decoder, &read_utf16(bytes)?, out);
    }
    let (_, limit, padded) = limit_of(decoder.column);
    let units = bytes.len() / 2;
    if units <= limit && is_ascii_utf16(bytes) {
        let padding = if padded { limit - units } else { 0 };
        out.extend_from_slice(&u32::try_from(units + padding).unwrap_or(0).to_be_bytes());
        out.extend(bytes.chunks_exact(2).map(|pair| pair[0]));
        out.resize(out.len() + padding, b' ');
        return Ok(());
    }
    from_text(decoder, &read_utf16(bytes)?, out)
}

fn read_utf16(bytes: &[u8]) -> Result<String, ValueError> {
    char::decode_utf16(bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])))
        .collect::<Result<String, _>>()
        .map_err(|_| ValueError::Refused(SqlError::unsupported("a lone surrogate in text")))
}

/// Neither a character beyond ASCII nor a NUL.
#[inline]
fn is_ascii_utf16(bytes: &[u8]) -> bool {
    let mut high = 0u8;
    let mut zeros = 0u8;
    for pair in bytes.chunks_exact(2) {
        high |= pair[1] | (pair[0] & 0x80);
        zeros |= u8::from(pair[0] == 0);
    }
    high == 0 && zeros == 0
}

pub(super) fn from_bytes(
    decoder: &ColumnDecoder,
    bytes: &[u8],
    collation: Collation,
    out: &mut Vec<u8>,
) -> Result<(), ValueError> {
    if collation.is_utf8() {
        let text = std::str::from_utf8(bytes).map_err(|_| decoder.invalid())?;
        return from_text(decoder, text, out);
    }
    let (_, limit, padded) = limit_of(decoder.column);
    if bytes.is_ascii() && bytes.len() <= limit && !bytes.contains(&0) && decoder.column != SqlType::Xml {
        let padding = if padded { limit - bytes.len() } else { 0 };
        out.extend_from_slice(&u32::try_from(bytes.len() + padding).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(bytes);
        out.resize(out.len() + padding, b' ');
        return Ok(());
    }
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(bytes);
    from_text(decoder, &text, out)
}

/// The slow way, for what is not plain ASCII that fits.
fn from_text(decoder: &ColumnDecoder, text: &str, out: &mut Vec<u8>) -> Result<(), ValueError> {
    let (unit, limit, padded) = limit_of(decoder.column);
    if text.contains('\0') {
        return Err(ValueError::Refused(SqlError::unsupported("the character U+0000 in text")));
    }
    let replaced;
    let text = match unit {
        _ if decoder.column == SqlType::Xml => {
            replaced = super::super::xml::normalize(text)?;
            replaced.as_str()
        }
        Unit::SingleByte => {
            replaced = to_windows_1252(text);
            replaced.as_str()
        }
        _ => text,
    };
    let mut used = 0;
    let mut end = text.len();
    for (index, character) in text.char_indices() {
        let length = match unit {
            Unit::Utf16 => character.len_utf16(),
            Unit::SingleByte => 1,
            Unit::Utf8 => character.len_utf8(),
        };
        if used + length > limit {
            end = index;
            break;
        }
        used += length;
    }
    let (fitting, surplus) = text.split_at(end);
    // blanks that do not fit are cut off without a word
    if surplus.bytes().any(|byte| byte != b' ') {
        return Err(decoder.truncation(fitting));
    }
    let padding = if padded { limit - used } else { 0 };
    out.extend_from_slice(&u32::try_from(fitting.len() + padding).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(fitting.as_bytes());
    out.resize(out.len() + padding, b' ');
    Ok(())
}

/// With a question mark for each character that Windows-1252 has not.
pub(in super::super) fn to_windows_1252(text: &str) -> String {
    let mut buffer = [0u8; 4];
    text.chars()
        .map(|character| {
            let (_, _, unmappable) = WINDOWS_1252.encode(character.encode_utf8(&mut buffer));
            if unmappable { '?' } else { character }
        })
        .collect()
}
