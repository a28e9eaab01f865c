//! Places for the loads of a pipeline: as many as [`Controller`] says, which is told here how each load went.
//!
//! A place is a guard. Where there are to be fewer, those that are taken go when their loads end; nobody who waits for one
//! loses more than its turn when it stops waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::concurrency::{Change, Controller, Load, Outcome};
use crate::config::WritersConfig;
use crate::metrics;

/// After so long with as few writers as the controller goes down to, that is worth a line in the log.
const LONG: Duration = Duration::from_secs(60);

/// The places of one pipeline. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pipeline: Arc<str>,
    semaphore: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// How many there may be, for those who only want to know.
    limit: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    /// Places that are taken.
    taken: usize,
    /// So many of them go when they are given back.
    surplus: usize,
    /// Since when there have been few because of the database, and whether that was said.
    few: Option<(Instant, bool)>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for one load.
#[derive(Debug)]
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.shared.state();
        state.taken -= 1;
        if state.surplus > 0 {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

/// A load that has begun, in a place or, where it only moves the progress of a partition, in none.
#[derive(Debug)]
pub struct Attempt<'a> {
    shared: &'a Shared,
    started: Instant,
    under_way: usize,
}

impl Writers {
    /// For a pipeline, between the bounds that are configured.
    pub fn new(pipeline: Arc<str>, config: &WritersConfig) -> Self {
        let controller = Controller::new(config.min, config.max);
        metrics::writers_limit(&pipeline, controller.limit());
        let shared = Shared {
            pipeline,
            semaphore: Arc::new(Semaphore::new(controller.limit())),
            waiting: AtomicUsize::new(0),
            limit: Arc::new(AtomicUsize::new(controller.limit())),
            state: Mutex::new(State { controller, taken: 0, surplus: 0, few: None }),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a place, in turn.
    pub async fn place(&self) -> Place {
        let acquired = {
            let _waiting = Waiting::enter(&self.shared.waiting);
            Arc::clone(&self.shared.semaphore).acquire_owned().await
        };
        match acquired {
            Ok(permit) => {
                self.shared.state().taken += 1;
                Place { permit: Some(permit), shared: Arc::clone(&self.shared) }
            }
            // The semaphore is never closed: its only handle that could is private to this file.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// How many there may be at once, as that changes.
    pub fn limit(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.limit)
    }

    /// A load begins.
    pub fn begin(&self) -> Attempt<'_> {
        let under_way = self.shared.state().taken;
        Attempt { shared: &self.shared, started: Instant::now(), under_way }
    }
}

/// Counts one that waits for as long as it waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::AcqRel);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Attempt<'_> {
    /// So many rows are in, and the database took so long for them.
    pub fn done(self, rows: usize, took: Duration) {
        self.ended(rows, took, Outcome::Done);
    }

    /// The database asked for less.
    pub fn throttled(self) {
        self.ended(0, Duration::ZERO, Outcome::Throttled);
    }

    /// There was no answer in time.
    pub fn timed_out(self) {
        self.ended(0, Duration::ZERO, Outcome::TimedOut);
    }

    fn ended(self, rows: usize, took: Duration, outcome: Outcome) {
        let ended = Instant::now();
        let contended = self.shared.waiting.load(Ordering::Acquire) > 0;
        let under_way = self.under_way;
        let mut state = self.shared.state();
        let before = state.controller.limit();
        let load = Load { started: self.started, ended, rows, took, outcome, under_way, contended };
        let change = state.controller.ended(&load);
        let limit = state.controller.limit();
        self.shared.limit.store(limit, Ordering::Relaxed);
        match limit.checked_sub(before) {
            Some(more) => {
                let kept = more.min(state.surplus);
                state.surplus -= kept;
                self.shared.semaphore.add_permits(more - kept);
            }
            None => {
                let fewer = before - limit;
                state.surplus += fewer - self.shared.semaphore.forget_permits(fewer);
            }
        }
        self.shared.tell(&mut state, change, ended);
    }
}

impl Shared {
    fn tell(&self, state: &mut State, change: Option<Change>, now: Instant) {
        let pipeline = &self.pipeline;
        match change {
            Some(Change::Tried(limit)) => {
                metrics::writers_limit(pipeline, limit);
                tracing::debug!(%pipeline, limit, "the number of writers is changed");
            }
            Some(Change::Decreased(limit, reason)) => {
                metrics::writers_limit(pipeline, limit);
                metrics::writers_decreased(pipeline, reason.as_str());
                tracing::debug!(%pipeline, limit, reason = reason.as_str(), "there are fewer writers");
            }
            None => {}
        }
        if !state.controller.is_low() {
            state.few = None;
        } else if matches!(change, Some(Change::Decreased(..))) {
            state.few.get_or_insert((now, false));
        }
        let Some((since, said)) = &mut state.few else { return };
        if !*said && now.saturating_duration_since(*since) >= LONG {
            *said = true;
            tracing::info!(
                %pipeline, writers = state.controller.limit(), for_seconds = LONG.as_secs(),
                "the database takes no more than few writers bring in"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    fn writers(min: usize, max: usize) -> Writers {
        Writers::new(Arc::from("p"), &WritersConfig { min, max })
    }

    async fn take(writers: &Writers, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(writers.place().await);
        }
        places
    }

    #[tokio::test]
    async fn fewer_places_take_effect_when_loads_end() {
        let writers = writers(1, 2);
        let mut places = take(&writers, 2).await;
        // WHEN the database asks for less
        writers.begin().throttled();
        // THEN the first place that is given back goes to nobody, and the second to who waits
        let mut waiting = Box::pin(writers.place());
        assert!(poll!(&mut waiting).is_pending());
        places.pop();
        assert!(poll!(&mut waiting).is_pending());
        places.pop();
        assert!(poll!(&mut waiting).is_ready());
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_no_place_with_it() {
        let writers = writers(2, 2);
        let mut places = take(&writers, 2).await;
        let mut waiting = Box::pin(writers.place());
        assert!(poll!(&mut waiting).is_pending());
        // one that was handed its place, and never looked
        places.clear();
        drop(waiting);
        assert_eq!(writers.shared.waiting.load(Ordering::Acquire), 0);
        assert_eq!(take(&writers, 2).await.len(), 2);
    }

    #[tokio::test]
    async fn what_is_taken_is_never_more_than_the_limit_where_that_has_not_fallen() {
        let writers = writers(1, 8);
        let limit = || writers.shared.state().controller.limit();
        for round in 0..2_000_usize {
            let free = writers.shared.semaphore.available_permits();
            assert_eq!(free, limit(), "round {round}");
            let places = take(&writers, free).await;
            let mut waiting = Box::pin(writers.place());
            assert!(poll!(&mut waiting).is_pending());
            let attempt = writers.begin();
            match round % 97 {
                0 => attempt.throttled(),
                1 => attempt.timed_out(),
                _ => attempt.done(10_000, Duration::from_millis(10)),
            }
            let given = matches!(poll!(&mut waiting), Poll::Ready(_));
            assert_eq!(given, limit() > free, "round {round}");
            drop((places, waiting));
        }
    }
}
