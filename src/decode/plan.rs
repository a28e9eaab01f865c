//! What a schema asks of every event: worked out once, done for each.

use std::sync::Arc;

use super::keys::{KeyTree, column_names};
use super::reject::{Reject, RejectReason};
use super::rows::Rows;
use super::{Decoded, hooks, internal, json};
use crate::delivery::Event;
use crate::error::Result;
use crate::schema::{self, Cell, Column, Format, Problem, RejectKind, Scalar, Schema, Source};

const MISSING: Problem =
    Problem::new(RejectKind::MissingRequired, "absent or null, where the column takes no null");

/// A defect: a conversion gave a cell of another type than the column's.
const NOT_THE_COLUMNS_TYPE: Problem = Problem::new(RejectKind::WrongType, "not of the column's type");

/// Arrow counts the bytes of a column's text with 31 bits.
const MAX_COLUMN_BYTES: usize = i32::MAX as usize;

/// A schema, prepared for decoding.
#[derive(Debug)]
pub(super) struct Plan {
    schema: Schema,
    pub(super) keys: KeyTree,
    /// Columns that are not read from the payload's fields.
    others: Vec<usize>,
    names: Vec<Arc<str>>,
}

/// Why an event does not fit; the column is named only once it is known that somebody reads it.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) kind: RejectKind,
    pub(super) rule: &'static str,
    pub(super) column: Option<usize>,
    pub(super) offset: Option<usize>,
}

/// What one batch is worked on with.
#[derive(Debug)]
pub(super) struct Work {
    rows: Rows,
    /// Keys that the current event has had.
    seen: Vec<u64>,
    /// Room for a string without its escapes.
    pub(super) unescaped: String,
    /// Room for bytes out of Base64.
    bytes: Vec<u8>,
}

impl Plan {
    pub(super) fn new(schema: &Schema) -> Self {
        let columns = schema.columns();
        let is_other = |column: &Column| !matches!(column.source, Source::Field { .. });
        Self {
            keys: KeyTree::new(columns),
            others: (0..columns.len()).filter(|index| columns.get(*index).is_some_and(is_other)).collect(),
            names: column_names(columns),
            schema: schema.clone(),
        }
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    pub(super) fn decode(&self, events: &[Event]) -> Result<Decoded> {
        let columns = self.schema.columns();
        let mut work = Work {
            rows: Rows::with_capacity(columns, events.len()),
            seen: vec![0; self.keys.keys.div_ceil(64)],
            unescaped: String::new(),
            bytes: Vec::new(),
        };
        let mut row_events = Vec::with_capacity(events.len());
        let mut rejects = Vec::new();
        for (index, event) in events.iter().enumerate() {
            match self.decode_event(event, &mut work) {
                Ok(()) => {
                    work.rows.commit();
                    row_events.push(
                        u32::try_from(index).map_err(|_| internal("more than 2^32 events in a batch"))?,
                    );
                }
                Err(misfit) => {
                    work.rows.roll_back();
                    rejects.push(Reject { event: index, reason: self.reason(&misfit) });
                }
            }
        }
        if work.rows.largest_column_bytes() > MAX_COLUMN_BYTES {
            return Err(internal(
                "a batch has more than 2 GiB of text in one column; make `batch.max_bytes` smaller",
            ));
        }
        let rows = work
            .rows
            .finish(columns, self.schema.arrow())
            .map_err(|error| internal(format!("rows do not fit their schema: {error}")))?;
        Ok(Decoded { rows, row_events, rejects })
    }

    fn decode_event(&self, event: &Event, work: &mut Work) -> Result<(), Misfit> {
        hooks::fail(&event.payload);
        work.seen.fill(0);
        match self.schema.format() {
            Format::Json => json::decode(self, &event.payload, work)?,
        }
        for index in &self.others {
            if let Some(column) = self.schema.columns().get(*index) {
                self.set_other(*index, column, event, work).map_err(|problem| misfit(problem, *index))?;
            }
        }
        let mut next = work.rows.next_unfilled(0);
        while let Some(index) = next {
            work.set_missing(self, index).map_err(|problem| misfit(problem, index))?;
            next = work.rows.next_unfilled(index + 1);
        }
        Ok(())
    }

    /// Sets a column whose value is not a field of the payload. What is absent stays unset.
    fn set_other(
        &self,
        index: usize,
        column: &Column,
        event: &Event,
        work: &mut Work,
    ) -> Result<(), Problem> {
        let text = match &column.source {
            Source::Field { .. } => None,
            Source::StreamSequence => {
                return work.push(index, schema::sequence_cell(column, event.stream_sequence)?);
            }
            Source::PublishedAt => return work.push(index, schema::clock_cell(column, event.published_at)?),
            Source::ReceivedAt => return work.push(index, schema::clock_cell(column, event.received_at)?),
            Source::Payload => return work.push(index, payload_cell(column, &event.payload)?),
            Source::Subject => Some(event.subject.as_str()),
            Source::SubjectToken(token) => event.subject.split('.').nth(token - 1),
            Source::Header(name) => event.headers.as_ref().and_then(|headers| headers.get(name.as_str())),
        };
        match text {
            Some(text) => work.set(self, index, &Scalar::untyped(column.sql_type, text)?),
            None => Ok(()),
        }
    }

    fn reason(&self, misfit: &Misfit) -> RejectReason {
        RejectReason {
            kind: misfit.kind,
            rule: misfit.rule,
            column: misfit.column.and_then(|index| self.names.get(index)).cloned(),
            offset: misfit.offset,
        }
    }
}

fn misfit(problem: Problem, column: usize) -> Misfit {
    Misfit { kind: problem.kind, rule: problem.rule, column: Some(column), offset: None }
}

fn payload_cell<'a>(column: &Column, payload: &'a [u8]) -> Result<Cell<'a>, Problem> {
    match column.sql_type.is_binary() {
        true => schema::bytes_cell(column, payload),
        false => {
            let text =
                std::str::from_utf8(payload).map_err(|_| Problem::new(RejectKind::BadUtf8, "not UTF-8"))?;
            schema::text_cell(column, text)
        }
    }
}

impl Work {
    /// Marks a key as seen; true where it had been before.
    #[inline]
    pub(super) fn see(&mut self, key: usize) -> bool {
        let Some(word) = self.seen.get_mut(key / 64) else { return false };
        let bit = 1 << (key % 64);
        let was_seen = *word & bit != 0;
        *word |= bit;
        was_seen
    }

    /// Sets a column of the current row, once.
    #[inline]
    pub(super) fn set(&mut self, plan: &Plan, index: usize, scalar: &Scalar<'_>) -> Result<(), Problem> {
        let Some(column) = plan.schema.columns().get(index) else { return Err(NOT_THE_COLUMNS_TYPE) };
        let cell = schema::cell(column, scalar, &mut self.bytes)?;
        match self.rows.push(index, &cell) {
            true => Ok(()),
            false => Err(NOT_THE_COLUMNS_TYPE),
        }
    }

    /// Sets a text column of the current row, once.
    pub(super) fn set_text(&mut self, plan: &Plan, index: usize, text: &str) -> Result<(), Problem> {
        let Some(column) = plan.schema.columns().get(index) else { return Err(NOT_THE_COLUMNS_TYPE) };
        self.push(index, schema::text_cell(column, text)?)
    }

    fn push(&mut self, index: usize, cell: Cell<'_>) -> Result<(), Problem> {
        match self.rows.push(index, &cell) {
            true => Ok(()),
            false => Err(NOT_THE_COLUMNS_TYPE),
        }
    }

    /// Sets a column that the event has nothing for: to its default, else to NULL.
    fn set_missing(&mut self, plan: &Plan, index: usize) -> Result<(), Problem> {
        let Some(column) = plan.schema.columns().get(index) else { return Err(NOT_THE_COLUMNS_TYPE) };
        let is_set = match column.default_cell(&mut self.bytes) {
            Some(cell) => self.rows.push(index, &cell),
            None => self.rows.push_null(index),
        };
        match is_set {
            true => Ok(()),
            false => Err(MISSING),
        }
    }
}
