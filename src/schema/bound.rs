//! How much memory decoded events can take: known before they are decoded, so that it can be reserved.
//!
//! Fixed-width parts are allocated exactly. Text and bytes grow by a quarter at a time ([`grown`]), so their
//! buffers are never more than a quarter larger than what is in them. What can be in them is bounded twice: by
//! the declared lengths, and by the bytes of the event, times the number of columns that can copy the same byte.

use std::collections::HashMap;

use super::column::{Cell, Column, Source};
use super::sql_type::SqlType;

/// The first allocation of a buffer of text or bytes.
pub(crate) const FIRST_ALLOCATION: usize = 4_096;

/// Bytes that an Arrow array takes for itself, generously: its structure, its data type, and what allocations
/// are rounded up by.
const ARRAY_OVERHEAD: usize = 1_024;

/// The capacity of a buffer of text or bytes that has to hold `needed` bytes and holds `capacity`.
pub(crate) fn grown(capacity: usize, needed: usize) -> usize {
    needed.max(capacity.saturating_add(capacity / 4)).max(FIRST_ALLOCATION)
}

/// The most that [`grown`] makes of `bytes`, its first allocation left to the batch's constant.
fn with_spare_capacity(bytes: usize) -> usize {
    bytes.saturating_add(bytes / 4).saturating_add(1)
}

/// The bounds of a schema.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    fixed_row_bytes: usize,
    /// How many columns can copy one and the same byte of an event.
    copies: usize,
    /// For each column of text or bytes the most bytes of one value, where its type limits them.
    limits: Vec<Option<usize>>,
    /// Bytes of all defaults together.
    default_bytes: usize,
    batch_bytes: usize,
}

impl Bound {
    pub(super) fn of(columns: &[Column]) -> Self {
        let variable = columns.iter().filter(|column| is_variable(column.sql_type));
        let limits: Vec<Option<usize>> = variable.clone().map(value_limit).collect();
        let fixed_bits: usize = columns.iter().map(|column| column.sql_type.fixed_bits()).sum();
        Self {
            fixed_row_bytes: fixed_bits.div_ceil(8),
            copies: copies(&variable.clone().collect::<Vec<_>>()),
            default_bytes: variable.map(default_bytes).sum(),
            batch_bytes: columns.len() * ARRAY_OVERHEAD + limits.len() * FIRST_ALLOCATION + ARRAY_OVERHEAD,
            limits,
        }
    }

    pub(super) fn fixed_row_bytes(&self) -> usize {
        self.fixed_row_bytes
    }

    pub(super) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    pub(super) fn event_bytes(&self, wire_bytes: usize) -> usize {
        let by_type = self
            .limits
            .iter()
            .fold(0_usize, |sum, limit| sum.saturating_add(limit.unwrap_or(usize::MAX).min(wire_bytes)));
        let by_event = self.copies.saturating_mul(wire_bytes);
        let variable = by_type.min(by_event).saturating_add(self.default_bytes);
        self.fixed_row_bytes.saturating_add(with_spare_capacity(variable))
    }
}

impl Bound {
    /// `event_bytes(w)` is never above `event_bytes(0) + 1 + w * this / 1000`, for any `w`.
    pub(super) fn per_thousand_wire_bytes(&self) -> usize {
        self.copies.saturating_mul(1_250)
    }
}

fn is_variable(sql_type: SqlType) -> bool {
    sql_type.is_text() || sql_type.is_binary()
}

/// The most bytes that Arrow holds for one value: text is UTF-8 there, where a UTF-16 unit, and a byte of a
/// code page, takes three bytes at most.
fn value_limit(column: &Column) -> Option<usize> {
    let limit = column.sql_type.longest_value()?;
    match column.sql_type.is_binary()
        || column.text_encoding == encoding_rs::UTF_8 && column.sql_type.is_code_page_text()
    {
        true => Some(limit),
        false => Some(limit * 3),
    }
}

fn default_bytes(column: &Column) -> usize {
    match column.default_cell(&mut Vec::new()) {
        Some(Cell::Text(text)) => text.len(),
        Some(Cell::Bytes(bytes)) => bytes.len(),
        _ => 0,
    }
}

/// Subject, headers and payload are different bytes, so the part that is copied most often decides.
fn copies(columns: &[&Column]) -> usize {
    let mut subjects = 0;
    let mut payloads = 0;
    let mut tokens: HashMap<usize, usize> = HashMap::new();
    let mut headers: HashMap<&str, usize> = HashMap::new();
    let mut paths: Vec<(&[String], bool)> = Vec::new();
    for column in columns {
        match &column.source {
            Source::Subject => subjects += 1,
            Source::Payload => payloads += 1,
            Source::SubjectToken(token) => *tokens.entry(*token).or_default() += 1,
            Source::Header(name) => *headers.entry(name).or_default() += 1,
            Source::Field { path, as_json } => paths.push((path, *as_json)),
            Source::StreamSequence | Source::PublishedAt | Source::ReceivedAt => {}
        }
    }
    let of_subject = subjects + tokens.into_values().max().unwrap_or(0);
    let of_headers = headers.into_values().max().unwrap_or(0);
    // A byte is copied by the columns that read its field, and by those that take an object around it as JSON.
    let of_field = |path: &[String]| {
        paths.iter().filter(|(other, as_json)| path == *other || *as_json && path.starts_with(other)).count()
    };
    let of_fields = paths.iter().map(|(path, _)| of_field(path)).max().unwrap_or(0);
    of_subject.max(of_headers).max(payloads + of_fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_capacity_never_exceeds_what_is_reserved_for_it() {
        // GIVEN buffers that are filled by values of any size
        for step in [1, 7, 100, 5_000, 1_000_000] {
            let (mut capacity, mut length) = (0, 0);
            for _ in 0..2_000 {
                length += step;
                if length > capacity {
                    capacity = grown(capacity, length);
                }
                // THEN the capacity stays within the sum of the values' bounds and the first allocation
                assert!(
                    capacity <= with_spare_capacity(length) + FIRST_ALLOCATION,
                    "{step} {length} {capacity}"
                );
            }
        }
    }
}
