//! The byte budget: everything held for events by this process, reserved before it is asked for.
//!
//! Intake reserves a permit, pulls no more than the permit covers, gives each event its part, and returns the
//! rest. An event's part is released when the batch that it went into is dropped: there is no release to forget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The byte budget of a process, shared by its pipelines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    capacity: usize,
    waiting: AtomicUsize,
    starved: Notify,
}

/// Bytes of the budget, given back on drop.
#[derive(Debug)]
pub struct Permit {
    permit: OwnedSemaphorePermit,
}

/// The largest budget: tokio's semaphore hands out at most this many permits at once.
pub const MAX_BUDGET_BYTES: usize = u32::MAX as usize;

impl Budget {
    /// A budget of `capacity` bytes, at most [`MAX_BUDGET_BYTES`].
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.min(MAX_BUDGET_BYTES);
        Self {
            shared: Arc::new(Shared {
                semaphore: Arc::new(Semaphore::new(capacity)),
                capacity,
                waiting: AtomicUsize::new(0),
                starved: Notify::new(),
            }),
        }
    }

    /// Bytes in all.
    pub fn capacity(&self) -> usize {
        self.shared.capacity
    }

    /// Bytes that are reserved now.
    pub fn reserved(&self) -> usize {
        self.shared.capacity - self.shared.semaphore.available_permits()
    }

    /// Reserves `most` bytes if they are free now, else what is free, else waits for `least`.
    ///
    /// Who waits is served in turn. While somebody waits, [`Budget::starved`] tells the batchers to flush: what
    /// they hold is what is waited for. A wish above the capacity is cut to it, so that the wait can end.
    pub async fn reserve(&self, least: usize, most: usize) -> Permit {
        let least = least.min(self.shared.capacity);
        let most = most.clamp(least, self.shared.capacity);
        for wish in [most, self.shared.semaphore.available_permits().min(most)] {
            if wish >= least
                && let Some(permit) = self.try_reserve(wish)
            {
                return permit;
            }
        }
        let _waiting = Waiting::enter(&self.shared);
        let permit = Arc::clone(&self.shared.semaphore).acquire_many_owned(to_permits(least)).await;
        match permit {
            Ok(permit) => Permit { permit },
            // The semaphore is never closed: its only handle that could is private to this file.
            Err(_closed) => std::future::pending().await,
        }
    }

    fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let permit = Arc::clone(&self.shared.semaphore).try_acquire_many_owned(to_permits(bytes)).ok()?;
        Some(Permit { permit })
    }

    /// Resolves when a reservation has to wait for what a batcher may be holding.
    pub async fn starved(&self) {
        loop {
            let notified = self.shared.starved.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.shared.waiting.load(Ordering::Acquire) > 0 {
                return;
            }
            notified.await;
        }
    }
}

/// `bytes` is at most the capacity, which is at most [`MAX_BUDGET_BYTES`].
fn to_permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Counts one waiting reservation for as long as it waits, also when its future is dropped.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn enter(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::AcqRel);
        shared.starved.notify_waiters();
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Permit {
    /// Bytes that it covers.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Cuts `bytes` off; `None`, and nothing changed, where it covers less.
    pub fn split(&mut self, bytes: usize) -> Option<Permit> {
        self.permit.split(bytes).map(|permit| Permit { permit })
    }

    /// Adds the bytes of another permit of the same budget.
    pub fn merge(&mut self, other: Permit) {
        self.permit.merge(other.permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_dropped_is_free_again() {
        let budget = Budget::new(100);
        let mut permit = budget.reserve(10, 80).await;
        let part = permit.split(30).expect("it covers 80");
        assert_eq!((permit.bytes(), part.bytes(), budget.reserved()), (50, 30, 80));
        drop(permit);
        assert_eq!(budget.reserved(), 30);
        assert!(permit_is_refused(part));
        assert_eq!(budget.reserved(), 0);
    }

    fn permit_is_refused(mut part: Permit) -> bool {
        part.split(31).is_none()
    }

    #[tokio::test]
    async fn takes_what_is_free_rather_than_waiting_for_all_it_wishes() {
        let budget = Budget::new(100);
        let _held = budget.reserve(70, 70).await;
        assert_eq!(budget.reserve(10, 80).await.bytes(), 30);
    }

    #[tokio::test]
    async fn who_has_to_wait_starves_the_batchers_until_served() {
        let budget = Budget::new(100);
        let held = budget.reserve(95, 95).await;
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(10, 80).await.bytes() }
        });
        budget.starved().await;
        drop(held);
        assert_eq!(waiter.await.expect("the waiter lives"), 10);
    }

    #[tokio::test]
    async fn a_wish_above_the_capacity_is_cut_to_it() {
        assert_eq!(Budget::new(100).reserve(1000, 2000).await.bytes(), 100);
    }
}
