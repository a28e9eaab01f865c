//! The faults, as data: each with the stand that it asks for, what it does, and the evidence that it struck.

use futures_util::future::LocalBoxFuture;

use crate::evidence::Proof;
use crate::mode::Mode;
use crate::stand::{Stand, StandOptions};

mod nats;
mod rows;
mod sql;
mod streams;
mod workers;

/// Where `append` may have a row twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    /// Where a commit's outcome was unknown, and nowhere else.
    OnlyUnknown,
    /// A worker dies.
    WorkerDied,
    /// A worker is paused for longer than its events are left to it.
    WorkerPaused,
    /// Acknowledgements are lost, and another worker gets the events.
    AcksLost,
}

/// A fault.
pub(crate) struct Fault {
    /// As the command line calls it.
    pub(crate) name: &'static str,
    /// As the table calls it.
    pub(crate) title: &'static str,
    /// What is done to whom, for how long.
    pub(crate) does: &'static str,
    /// How long it takes about, in seconds: the longest begin first.
    pub(crate) takes: u32,
    pub(crate) options: fn() -> StandOptions,
    /// Whether workers and load run before it strikes; else it starts them.
    pub(crate) starts_workers: bool,
    pub(crate) strike: for<'a> fn(&'a mut Stand) -> LocalBoxFuture<'a, anyhow::Result<()>>,
    /// What has to be found beside what the fault itself has seen.
    pub(crate) proofs: fn(&Mode) -> Vec<Proof>,
    pub(crate) duplicates: Duplicates,
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fault").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All faults, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Fault> {
    [workers::FAULTS, nats::FAULTS, sql::FAULTS, rows::FAULTS, streams::FAULTS].into_iter().flatten()
}

/// Another worker, or the same one started again, has gone on with what the harmed one had.
fn taken_over(mode: &Mode) -> Vec<Proof> {
    match mode.progress_in_sql {
        true => vec![Proof::Counter("partitions_claimed_total", &[], "partitions claimed")],
        false => vec![Proof::redelivered()],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_every_fault_says_what_it_does() {
        let names: HashSet<&str> = all().map(|fault| fault.name).collect();
        assert_eq!(names.len(), all().count());
        for fault in all() {
            assert!(!fault.title.is_empty() && fault.does.ends_with('.'), "{}", fault.name);
            assert!(fault.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }
    }
}
