//! An event that was set aside, and why.

use std::fmt;
use std::sync::Arc;

pub use crate::schema::RejectKind;

/// An event of the batch that becomes no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Its index in the batch.
    pub event: usize,
    /// Why.
    pub reason: RejectReason,
}

/// Why an event becomes no row. Nothing of the event is in it: no value, and no key that the event brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectReason {
    pub(super) kind: RejectKind,
    pub(super) rule: &'static str,
    pub(super) column: Option<Arc<str>>,
    pub(super) offset: Option<usize>,
}

impl RejectReason {
    /// The kind, for metrics.
    pub fn kind(&self) -> RejectKind {
        self.kind
    }

    /// The column, by the name that the schema gives it, where one is concerned.
    pub fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// The byte of the payload, counted from 0, at or before which it went wrong.
    pub fn offset(&self) -> Option<usize> {
        self.offset
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.rule)?;
        if let Some(column) = &self.column {
            write!(f, ", column `{column}`")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", at byte {offset}")?;
        }
        Ok(())
    }
}
