//! What each pipeline says of itself: the state that `/readyz` and the status page show.
//!
//! A reason is a text made by [`crate::telemetry::describe`] or a literal: never a row's value.

mod credentials;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use self::credentials::{CredentialStatus, Credentials};
use crate::metrics;

/// The pipelines of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard {
    pipelines: Arc<Mutex<Vec<PipelineStatus>>>,
    /// What is known of the secrets.
    pub credentials: Credentials,
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

    /// Takes note of what has changed by nothing but time. To be called about every second: the metric of readiness
    /// follows it.
    pub fn refresh(&self) {
        self.pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(PipelineStatus::refresh);
    }

    /// What all pipelines say now, in the order in which they were added.
    pub fn snapshot(&self) -> Vec<PipelineSnapshot> {
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.iter().map(PipelineStatus::snapshot).collect()
    }
}

/// The handle with which a pipeline says how it is. Cheap to clone.
///
/// It is ready when it has started and nobody complains. Each part of it that cannot go on holds a [`Complaint`] of
/// its own, so that one which works again does not speak for the others.
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

#[derive(Debug)]
struct State {
    /// Why it has not started yet; `None` where it has.
    starting: Option<String>,
    /// In the order in which they were made.
    complaints: BTreeMap<u64, Entry>,
    next_complaint: u64,
    was_ready: bool,
    since: SystemTime,
}

#[derive(Debug)]
struct Entry {
    text: String,
    /// From when on it counts.
    from: Instant,
}

impl State {
    fn is_ready(&self) -> bool {
        let now = Instant::now();
        self.starting.is_none() && self.complaints.values().all(|entry| entry.from > now)
    }

    /// What counts now, each text once: several writers meet the same error.
    fn reason(&self) -> Option<String> {
        let now = Instant::now();
        let complaints = self.complaints.values().filter(|entry| entry.from <= now);
        let mut texts: Vec<&str> = self.starting.as_deref().into_iter().collect();
        for entry in complaints {
            if !texts.contains(&entry.text.as_str()) {
                texts.push(&entry.text);
            }
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// That a part of a pipeline cannot go on, for as long as this is held.
#[derive(Debug)]
pub struct Complaint {
    number: u64,
    status: PipelineStatus,
}

impl Complaint {
    /// Says it in other words.
    pub fn say(&self, text: impl Into<String>) {
        self.change(|entry| entry.text = text.into());
    }

    /// Counts from now on, however much later it was to.
    pub fn now(&self) {
        self.change(|entry| entry.from = entry.from.min(Instant::now()));
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        self.status.change(|state| {
            if let Some(entry) = state.complaints.get_mut(&self.number) {
                change(entry);
            }
        });
    }
}

impl Drop for Complaint {
    fn drop(&mut self) {
        self.status.change(|state| {
            state.complaints.remove(&self.number);
        });
    }
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
        let state = State {
            starting: Some("starting".to_owned()),
            complaints: BTreeMap::new(),
            next_complaint: 0,
            was_ready: false,
            since: SystemTime::now(),
        };
        Self {
            shared: Arc::new(Shared {
                name: Arc::from(name),
                state: Mutex::new(state),
                committed: AtomicU64::new(0),
                dead_lettered: AtomicU64::new(0),
            }),
        }
    }

    /// It has what it needs to move events.
    pub fn started(&self) {
        self.change(|state| state.starting = None);
    }

    /// It cannot start, and why; or has to start again. No row's value may be in `reason`.
    pub fn not_started(&self, reason: impl Into<String>) {
        self.change(|state| state.starting = Some(reason.into()));
    }

    /// Something cannot go on, from `wait` from now on unless the complaint is dropped before. No row's value may be
    /// in `text`.
    pub fn complain_after(&self, wait: Duration, text: impl Into<String>) -> Complaint {
        let number = self.change(|state| {
            let number = state.next_complaint;
            state.next_complaint += 1;
            state.complaints.insert(number, Entry { text: text.into(), from: Instant::now() + wait });
            number
        });
        Complaint { number, status: self.clone() }
    }

    /// Takes note of complaints that have begun to count.
    fn refresh(&self) {
        self.change(|_| ());
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        let is_ready = state.is_ready();
        // The time changes only with the answer, not with the reason: it is how long an outage lasts.
        if is_ready != state.was_ready {
            state.was_ready = is_ready;
            state.since = SystemTime::now();
            metrics::pipeline_ready(&self.shared.name, is_ready);
        }
        changed
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
        let (reason, since) = self.change(|state| (state.reason(), state.since));
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

    const LATER: Duration = Duration::from_secs(3600);

    #[test]
    fn a_pipeline_is_not_ready_until_it_says_so() {
        let board = StatusBoard::new();
        let status = board.pipeline("a");
        assert_eq!(status.snapshot().reason.as_deref(), Some("starting"));
        status.started();
        assert!(board.snapshot()[0].is_ready());
    }

    #[test]
    fn a_name_has_one_status() {
        let board = StatusBoard::new();
        board.pipeline("a").committed(2);
        board.pipeline("a").dead_lettered(1);
        board.pipeline("b").not_started("no table");
        let snapshot = board.snapshot();
        assert_eq!(snapshot.len(), 2);
        assert_eq!((snapshot[0].committed, snapshot[0].dead_lettered), (2, 1));
        assert_eq!(snapshot[1].reason.as_deref(), Some("no table"));
    }

    #[test]
    fn another_reason_does_not_begin_the_outage_anew() {
        let status = StatusBoard::new().pipeline("a");
        let since = status.snapshot().since;
        status.not_started("one");
        status.not_started("two");
        assert_eq!((status.snapshot().since, status.snapshot().reason), (since, Some("two".to_owned())));
        status.started();
        let ready_since = status.snapshot().since;
        status.started();
        assert_eq!(status.snapshot().since, ready_since);
        assert!(ready_since >= since);
    }

    #[test]
    fn who_works_again_does_not_speak_for_the_others() {
        let status = StatusBoard::new().pipeline("a");
        status.started();
        let one = status.complain_after(Duration::ZERO, "one");
        let other = status.complain_after(Duration::ZERO, "other");
        let again = status.complain_after(Duration::ZERO, "one");
        assert_eq!(status.snapshot().reason.as_deref(), Some("one; other"));
        drop((one, again));
        assert_eq!(status.snapshot().reason.as_deref(), Some("other"));
        drop(other);
        assert!(status.snapshot().is_ready());
    }

    #[test]
    fn a_complaint_counts_when_its_time_has_come() {
        let status = StatusBoard::new().pipeline("a");
        status.started();
        let complaint = status.complain_after(LATER, "slow");
        assert!(status.snapshot().is_ready());
        complaint.say("stopped");
        complaint.now();
        assert_eq!(status.snapshot().reason.as_deref(), Some("stopped"));
    }
}
