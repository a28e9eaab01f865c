//! What each pipeline says of itself: the state that `/readyz` and the status page show.
//!
//! A reason is a text made by [`crate::telemetry::describe`] or a literal: never a row's value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::metrics;

/// The pipelines of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard {
    pipelines: Arc<Mutex<Vec<PipelineStatus>>>,
}

impl StatusBoard {
    /// A board without pipelines.
    pub fn new() -> Self {
        Self::default()
    }

    /// The status of the pipeline of this name; not ready until it says so.
    pub fn pipeline(&self, name: &str) -> PipelineStatus {
        let mut pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = pipelines.iter().find(|status| &*status.shared.name == name) {
            return status.clone();
        }
        let status = PipelineStatus::new(name);
        pipelines.push(status.clone());
        status
    }

    /// What all pipelines say now, in the order in which they were added.
    pub fn snapshot(&self) -> Vec<PipelineSnapshot> {
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.iter().map(PipelineStatus::snapshot).collect()
    }
}

/// The handle with which a pipeline says how it is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PipelineStatus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    state: Mutex<State>,
    committed: AtomicU64,
    dead_lettered: AtomicU64,
}

#[derive(Debug, Clone)]
struct State {
    /// `None` where it is ready.
    reason: Option<String>,
    since: SystemTime,
}

/// What a pipeline said at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// Why it is not ready; `None` where it is.
    pub reason: Option<String>,
    /// Since when it has been ready, or not ready.
    pub since: SystemTime,
    /// Events committed since this process started.
    pub committed: u64,
    /// Events dead-lettered since this process started.
    pub dead_lettered: u64,
}

impl PipelineSnapshot {
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.reason.is_none()
    }
}

impl PipelineStatus {
    fn new(name: &str) -> Self {
        metrics::pipeline_added(name);
        let state = State { reason: Some("starting".to_owned()), since: SystemTime::now() };
        Self {
            shared: Arc::new(Shared {
                name: Arc::from(name),
                state: Mutex::new(state),
                committed: AtomicU64::new(0),
                dead_lettered: AtomicU64::new(0),
            }),
        }
    }

    /// It moves events, or would if there were any.
    pub fn ready(&self) {
        self.set(None);
    }

    /// It cannot move events, and why. No row's value may be in `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    /// The time changes only with the answer, not with the reason: it is how long an outage lasts.
    fn set(&self, reason: Option<String>) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reason.is_some() != reason.is_some() {
            state.since = SystemTime::now();
        }
        metrics::pipeline_ready(&self.shared.name, reason.is_none());
        state.reason = reason;
    }

    /// Counts events that were committed.
    pub fn committed(&self, events: usize) {
        self.shared.committed.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Counts events that the dead-letter stream confirmed.
    pub fn dead_lettered(&self, events: usize) {
        self.shared.dead_lettered.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// What it says now.
    pub fn snapshot(&self) -> PipelineSnapshot {
        let State { reason, since } =
            self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PipelineSnapshot {
            name: Arc::clone(&self.shared.name),
            reason,
            since,
            committed: self.shared.committed.load(Ordering::Relaxed),
            dead_lettered: self.shared.dead_lettered.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_not_ready_until_it_says_so() {
        let board = StatusBoard::new();
        let status = board.pipeline("a");
        assert_eq!(status.snapshot().reason.as_deref(), Some("starting"));
        status.ready();
        assert!(board.snapshot()[0].is_ready());
    }

    #[test]
    fn a_name_has_one_status() {
        let board = StatusBoard::new();
        board.pipeline("a").committed(2);
        board.pipeline("a").dead_lettered(1);
        board.pipeline("b").not_ready("no table");
        let snapshot = board.snapshot();
        assert_eq!(snapshot.len(), 2);
        assert_eq!((snapshot[0].committed, snapshot[0].dead_lettered), (2, 1));
        assert_eq!(snapshot[1].reason.as_deref(), Some("no table"));
    }

    #[test]
    fn another_reason_does_not_begin_the_outage_anew() {
        let status = StatusBoard::new().pipeline("a");
        let since = status.snapshot().since;
        status.not_ready("one");
        status.not_ready("two");
        assert_eq!((status.snapshot().since, status.snapshot().reason), (since, Some("two".to_owned())));
        status.ready();
        let ready_since = status.snapshot().since;
        status.ready();
        assert_eq!(status.snapshot().since, ready_since);
        assert!(ready_since >= since);
    }
}
