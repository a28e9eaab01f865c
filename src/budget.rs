//! The byte budget: everything held for events by this process, reserved before it is asked for.
//!
//! Intake reserves a permit, pulls no more than the permit covers, gives each event its part, and returns the
//! rest. An event's part is released when the batch that it went into is dropped: there is no release to forget.
//!
//! Half of it is divided evenly, so that a pipeline which holds its events for hours leaves the others enough to go on with;
//! the other half is for whoever needs it.

use crate::fair::{self, Share};

/// What a pipeline may hold of the byte budget of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget {
    share: Share,
}

/// Bytes of the budget, given back on drop.
#[derive(Debug)]
pub struct Permit {
    permit: fair::Permit,
}

impl Budget {
    /// A budget of `capacity` bytes, for so many pipelines.
    pub fn divide(capacity: usize, pipelines: usize) -> Vec<Self> {
        let sure = capacity / (2 * pipelines.max(1));
        fair::divide(capacity, pipelines, sure).into_iter().map(|share| Self { share }).collect()
    }

    /// The most bytes that the pipeline can hold.
    pub fn capacity(&self) -> usize {
        self.share.most()
    }

    /// The bytes that it is sure of.
    pub fn sure(&self) -> usize {
        self.share.sure()
    }

    /// Bytes in all, for all pipelines.
    pub fn total(&self) -> usize {
        self.share.total()
    }

    /// Bytes that all pipelines have reserved now.
    pub fn total_reserved(&self) -> usize {
        self.share.total_taken()
    }

    /// Reserves `most` bytes if they are free now, else what is free, else waits for `least`.
    ///
    /// Who waits is served in turn. While somebody waits, [`Budget::starved`] tells the batchers to flush: what
    /// they hold is what is waited for. A wish above the capacity is cut to it, so that the wait can end.
    pub async fn reserve(&self, least: usize, most: usize) -> Permit {
        Permit { permit: self.share.take(least, most).await }
    }

    /// As [`Budget::reserve`], but waits first until all that was reserved through the clones of this budget leaves room for
    /// `most` within `within()`, or until nothing of it is left. That wait starves no batcher: `within` has to leave
    /// room for what they may be waiting with.
    pub async fn reserve_within(&self, least: usize, most: usize, within: impl Fn() -> usize) -> Permit {
        Permit { permit: self.share.take_within(least, most, within).await }
    }

    /// The same budget, for one who keeps an account of his own of what he reserved: [`Budget::reserve_within`].
    pub fn apart(&self) -> Self {
        Self { share: self.share.apart() }
    }

    /// Resolves when a reservation has to wait for what a batcher of this pipeline may be holding.
    pub async fn starved(&self) {
        self.share.starved().await;
    }
}

impl Permit {
    /// Bytes that it covers.
    pub fn bytes(&self) -> usize {
        self.permit.amount()
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

    fn budget(capacity: usize) -> Budget {
        Budget::divide(capacity, 1).remove(0)
    }

    #[tokio::test]
    async fn what_is_dropped_is_free_again() {
        let budget = budget(100);
        let mut permit = budget.reserve(10, 80).await;
        let part = permit.split(30).expect("it covers 80");
        assert_eq!((permit.bytes(), part.bytes(), budget.total_reserved()), (50, 30, 80));
        drop(permit);
        assert_eq!(budget.total_reserved(), 30);
        assert!(permit_is_refused(part));
        assert_eq!(budget.total_reserved(), 0);
    }

    fn permit_is_refused(mut part: Permit) -> bool {
        part.split(31).is_none()
    }

    #[tokio::test]
    async fn takes_what_is_free_rather_than_waiting_for_all_it_wishes() {
        let budget = budget(100);
        let _held = budget.reserve(70, 70).await;
        assert_eq!(budget.reserve(10, 80).await.bytes(), 30);
    }

    #[tokio::test]
    async fn who_has_to_wait_starves_the_batchers_until_served() {
        let budget = budget(100);
        let held = budget.reserve(95, 95).await;
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.reserve(10, 80).await.bytes() }
        });
        budget.starved().await;
        drop(held);
        assert_eq!(waiter.await.expect("the waiter lives"), 80);
    }

    #[tokio::test]
    async fn a_wish_above_the_capacity_is_cut_to_it() {
        assert_eq!(budget(100).reserve(1000, 2000).await.bytes(), 100);
    }
}
