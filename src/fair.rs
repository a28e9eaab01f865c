//! Something that several share (bytes, connections), of which each is sure of a part.
//!
//! What is left beside the sure parts is common: whoever comes first has it, for as long as it wants. So one that holds on
//! to what it has, because its database does not answer, takes the common part at most, and the others go on with theirs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// What one of those that share may take. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Share {
    own: Arc<Own>,
}

/// What the clones of a share have in common.
#[derive(Debug)]
struct Own {
    shared: Arc<Shared>,
    /// Which of those that share.
    party: usize,
    /// What was taken through these clones.
    taken: AtomicUsize,
    /// Some of that was given back.
    freed: Notify,
}

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// What each is sure of.
    sure: usize,
    /// What nobody is sure of.
    common: usize,
    state: Mutex<State>,
    /// Somebody waits that did not.
    waits: Notify,
}

#[derive(Debug)]
struct State {
    /// What each has taken.
    taken: Vec<usize>,
    /// Of that, what is beyond what they are sure of: so much of the common part is taken.
    beyond: usize,
    /// Who waits, each for its turn among those of its party.
    waiting: Vec<VecDeque<Waiter>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    /// Lower ones came earlier.
    ticket: u64,
    least: usize,
    most: usize,
    share: Share,
    grant: oneshot::Sender<Permit>,
}

/// A part that was taken, given back on drop.
#[derive(Debug)]
pub struct Permit {
    amount: usize,
    share: Share,
}

/// Divides `capacity` among so many, each of which is sure of `sure` of it: of an even part at most.
pub fn divide(capacity: usize, parties: usize, sure: usize) -> Vec<Share> {
    let sure = sure.min(capacity / parties.max(1));
    let state = State {
        taken: vec![0; parties],
        beyond: 0,
        waiting: (0..parties).map(|_| VecDeque::new()).collect(),
        next_ticket: 0,
    };
    let common = capacity - sure * parties;
    let shared = Shared { capacity, sure, common, state: Mutex::new(state), waits: Notify::new() };
    let shared = Arc::new(shared);
    (0..parties).map(|party| Share::of(&shared, party)).collect()
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sure_and_free(&self, state: &State, party: usize) -> usize {
        self.sure.saturating_sub(state.taken.get(party).copied().unwrap_or_default())
    }

    /// What the party may take now, where it is its turn.
    fn free(&self, state: &State, party: usize) -> usize {
        self.sure_and_free(state, party) + (self.common - state.beyond)
    }

    fn change(&self, state: &mut State, party: usize, change: impl FnOnce(usize) -> usize) {
        if let Some(taken) = state.taken.get_mut(party) {
            let before = taken.saturating_sub(self.sure);
            *taken = change(*taken);
            state.beyond = state.beyond + taken.saturating_sub(self.sure) - before;
        }
    }

    /// Grants what can be granted to those that wait: of the common part, only to the one that came first.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<(oneshot::Sender<Permit>, Permit)> {
        let mut heads: Vec<(u64, usize, usize)> = state
            .waiting
            .iter()
            .enumerate()
            .filter_map(|(party, waiting)| waiting.front().map(|head| (head.ticket, party, head.least)))
            .collect();
        heads.sort_unstable();
        let mut is_first = true;
        for (_, party, least) in heads {
            let free = match is_first {
                true => self.free(state, party),
                false => self.sure_and_free(state, party),
            };
            if least <= free {
                let head = state.waiting.get_mut(party)?.pop_front()?;
                let amount = head.most.min(free).max(least);
                self.change(state, party, |taken| taken + amount);
                return Some((head.grant, Permit::new(amount, head.share)));
            }
            is_first = false;
        }
        None
    }

    fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.waiting.iter().all(VecDeque::is_empty) {
                return;
            }
            let granted = self.next(&mut state);
            drop(state);
            let Some((grant, permit)) = granted else { return };
            // Where nobody takes it any more it is given back by this.
            drop(grant.send(permit));
        }
    }
}

impl Share {
    fn of(shared: &Arc<Shared>, party: usize) -> Self {
        let (shared, taken, freed) = (Arc::clone(shared), AtomicUsize::new(0), Notify::new());
        Self { own: Arc::new(Own { shared, party, taken, freed }) }
    }

    /// The same part, for one who keeps an account of his own of what he took: [`Share::take_within`].
    pub fn apart(&self) -> Self {
        Self::of(&self.own.shared, self.own.party)
    }

    /// All that there is, for all.
    pub fn total(&self) -> usize {
        self.own.shared.capacity
    }

    /// What all have taken.
    pub fn total_taken(&self) -> usize {
        self.own.shared.state().taken.iter().sum()
    }

    /// What this one is sure of.
    pub fn sure(&self) -> usize {
        self.own.shared.sure
    }

    /// The most that this one can take.
    pub fn most(&self) -> usize {
        self.own.shared.sure + self.own.shared.common
    }

    /// Takes `most` if that is free now, else what is free, else waits for `least`. A wish above what it can ever take is cut
    /// to that, so that the wait can end.
    pub async fn take(&self, least: usize, most: usize) -> Permit {
        let least = least.min(self.most());
        let most = most.clamp(least, self.most());
        if let Some(permit) = self.take_now(least, most) {
            return permit;
        }
        let (grant, granted) = oneshot::channel();
        let _waiting = self.enqueue(least, most, grant);
        match granted.await {
            // By now more of it may have been given back.
            Ok(mut permit) => {
                if let Some(more) = self.take_now(1, most.saturating_sub(permit.amount)) {
                    permit.merge(more);
                }
                permit
            }
            // Nobody drops a waiter but the one that waits.
            Err(_dropped) => std::future::pending().await,
        }
    }

    /// As [`Share::take`], but waits first until all that was taken through the clones of this share, and has not been given
    /// back, leaves room for `most` within `within()`: or until nothing of it is left, so that the wait can end. That is asked
    /// anew whenever some is given back. Nobody is starved by this wait.
    pub async fn take_within(&self, least: usize, most: usize, within: impl Fn() -> usize) -> Permit {
        loop {
            let freed = self.own.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let taken = self.own.taken.load(Ordering::Acquire);
            if taken == 0 || taken.saturating_add(most) <= within() {
                return self.take(least, most).await;
            }
            freed.await;
        }
    }

    fn take_now(&self, least: usize, most: usize) -> Option<Permit> {
        let (shared, party) = (&self.own.shared, self.own.party);
        let mut state = shared.state();
        if state.waiting.get(party).is_none_or(|waiting| !waiting.is_empty()) {
            return None;
        }
        // What is common is for those that came earlier.
        let free = match state.waiting.iter().all(VecDeque::is_empty) {
            true => shared.free(&state, party),
            false => shared.sure_and_free(&state, party),
        };
        let amount = most.min(free);
        if amount < least {
            return None;
        }
        shared.change(&mut state, party, |taken| taken + amount);
        Some(Permit::new(amount, self.clone()))
    }

    fn enqueue(&self, least: usize, most: usize, grant: oneshot::Sender<Permit>) -> Waiting<'_> {
        let shared = &self.own.shared;
        let mut state = shared.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        if let Some(waiting) = state.waiting.get_mut(self.own.party) {
            waiting.push_back(Waiter { ticket, least, most, share: self.clone(), grant });
        }
        drop(state);
        shared.waits.notify_waiters();
        // What was given back since it was asked for.
        shared.serve();
        Waiting { share: self, ticket }
    }

    /// Resolves when this one holds what somebody waits for: itself, or another where this one has more than it is sure of.
    pub async fn starved(&self) {
        loop {
            let notified = self.own.shared.waits.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_starved() {
                return;
            }
            notified.await;
        }
    }

    fn is_starved(&self) -> bool {
        let party = self.own.party;
        let state = self.own.shared.state();
        let has_more = state.taken.get(party).is_some_and(|taken| *taken > self.own.shared.sure);
        let mut waiting = state.waiting.iter().enumerate().filter(|(_, waiting)| !waiting.is_empty());
        waiting.any(|(other, _)| other == party || has_more)
    }
}

/// Takes its place in the line with it when it is dropped.
struct Waiting<'a> {
    share: &'a Share,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let shared = &self.share.own.shared;
        let mut state = shared.state();
        let Some(waiting) = state.waiting.get_mut(self.share.own.party) else { return };
        let before = waiting.len();
        waiting.retain(|waiter| waiter.ticket != self.ticket);
        let has_left = waiting.len() < before;
        drop(state);
        if has_left {
            shared.serve();
        }
    }
}

impl Permit {
    fn new(amount: usize, share: Share) -> Self {
        share.own.taken.fetch_add(amount, Ordering::AcqRel);
        Self { amount, share }
    }

    /// How much it is.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Cuts `amount` off; `None`, and nothing changed, where it is less.
    pub fn split(&mut self, amount: usize) -> Option<Permit> {
        self.amount = self.amount.checked_sub(amount)?;
        Some(Permit { amount, share: self.share.clone() })
    }

    /// Adds what another permit of the same share has.
    pub fn merge(&mut self, mut other: Permit) {
        debug_assert!(Arc::ptr_eq(&self.share.own, &other.share.own), "they are of one account");
        self.amount += std::mem::take(&mut other.amount);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let Own { shared, party, taken, freed } = &*self.share.own;
        let amount = self.amount;
        shared.change(&mut shared.state(), *party, |taken| taken - amount);
        taken.fetch_sub(amount, Ordering::AcqRel);
        freed.notify_waiters();
        shared.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Poll;

    use futures_util::poll;
    use proptest::prelude::*;

    use super::*;

    type Taking<'a> = Pin<Box<dyn Future<Output = Permit> + 'a>>;

    #[tokio::test]
    async fn each_is_sure_of_its_part_whatever_the_others_hold() {
        let shares = divide(100, 2, 25);
        let held = shares[0].take(1, 1000).await;
        assert_eq!((held.amount(), shares[0].most()), (75, 75));
        // and it wants more
        let mut more = Box::pin(shares[0].take(1, 10));
        assert!(poll!(&mut more).is_pending());
        for _ in 0..3 {
            assert_eq!(shares[1].take(1, 1000).await.amount(), 25);
        }
        assert!(poll!(&mut more).is_pending());
        drop(held);
        assert!(poll!(&mut more).is_ready());
    }

    #[tokio::test]
    async fn what_is_common_goes_to_who_came_first() {
        let shares = divide(100, 2, 25);
        let (one, mut two) = (shares[0].take(50, 50).await, shares[1].take(50, 50).await);
        let mut first = Box::pin(shares[0].take(20, 20));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(shares[1].take(5, 5));
        assert!(poll!(&mut second).is_pending());
        let part = two.split(10).expect("it has 50");
        drop(part);
        // 10 of the common part are free, and kept for the first
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        drop(two.split(10));
        let given = poll!(&mut first);
        assert!(given.is_ready() && poll!(&mut second).is_pending());
        drop(given);
        assert!(poll!(&mut second).is_ready());
        drop((one, two));
        assert_eq!(shares[0].total_taken(), 0);
    }

    #[tokio::test]
    async fn who_stops_waiting_holds_nobody_up() {
        let shares = divide(100, 2, 0);
        let held = shares[0].take(90, 90).await;
        let mut large = Box::pin(shares[0].take(100, 100));
        assert!(poll!(&mut large).is_pending());
        let mut small = Box::pin(shares[1].take(5, 5));
        assert!(poll!(&mut small).is_pending());
        drop(large);
        assert!(poll!(&mut small).is_ready());
        // one that is granted what it waits for, and does not look any more
        let mut late = Box::pin(shares[0].take(50, 50));
        assert!(poll!(&mut late).is_pending());
        drop((held, small, late));
        assert_eq!(shares[0].total_taken(), 0);
    }

    #[tokio::test]
    async fn who_keeps_an_account_waits_for_what_is_his_own() {
        let shares = divide(100, 1, 0);
        let (one, other) = (shares[0].apart(), shares[0].apart());
        let first = one.take_within(1, 20, || 40).await;
        let second = one.clone().take_within(1, 20, || 40).await;
        let mut third = Box::pin(one.take_within(1, 20, || 40));
        assert!(poll!(&mut third).is_pending());
        // the other has taken nothing, and there is enough for all: nobody is starved
        assert_eq!(other.take_within(1, 20, || 40).await.amount(), 20);
        assert!(poll!(Box::pin(one.starved())).is_pending());
        drop(first);
        assert!(poll!(&mut third).is_ready());
        drop(second);
        // one whose wish is above all that it may have gets it when it has nothing
        assert_eq!(one.take_within(50, 50, || 40).await.amount(), 50);
        assert_eq!(shares[0].total_taken(), 0);
    }

    #[tokio::test]
    async fn only_who_holds_what_is_waited_for_is_starved() {
        let shares = divide(100, 2, 25);
        let _held = shares[0].take(75, 75).await;
        let within = shares[1].take(25, 25).await;
        let mut waiting = Box::pin(shares[0].take(10, 10));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(poll!(Box::pin(shares[0].starved())), Poll::Ready(()));
        assert!(poll!(Box::pin(shares[1].starved())).is_pending());
        // WHEN it has more than it is sure of, and somebody wants that
        drop((waiting, within, _held));
        let _beyond = shares[1].take(75, 75).await;
        let mut waiting = Box::pin(shares[0].take(50, 50));
        assert!(poll!(&mut waiting).is_pending());
        assert_eq!(poll!(Box::pin(shares[1].starved())), Poll::Ready(()));
    }

    proptest! {
        /// Whatever they take, give back and wait for: there is never more taken than there is, who keeps within its sure part
        /// never waits, and in the end everything is free.
        #[test]
        fn nobody_takes_what_another_is_sure_of(
            parties in 1..4_usize,
            steps in prop::collection::vec((0..4_usize, 0..4_u8, 1..60_usize, 1..60_usize), 0..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let shares = divide(100, parties, 20);
                let mut held: Vec<Vec<Permit>> = (0..parties).map(|_| Vec::new()).collect();
                let mut waiting: Vec<(usize, Taking<'_>)> = Vec::new();
                for (party, step, least, most) in steps {
                    let party = party % parties;
                    let is_waiting = waiting.iter().any(|(other, _)| *other == party);
                    match step {
                        0 if !held[party].is_empty() => {
                            let index = least % held[party].len();
                            drop(held[party].swap_remove(index));
                        }
                        1 if !waiting.is_empty() => {
                            let index = least % waiting.len();
                            drop(waiting.swap_remove(index));
                        }
                        _ => {
                            let taken: usize = held[party].iter().map(Permit::amount).sum();
                            let mut take: Taking<'_> = Box::pin(shares[party].take(least, least.max(most)));
                            match poll!(&mut take) {
                                Poll::Ready(permit) => held[party].push(permit),
                                Poll::Pending => {
                                    assert!(is_waiting || taken + least > 20, "{taken} and {least}");
                                    waiting.push((party, take));
                                }
                            }
                        }
                    }
                    let mut still = Vec::new();
                    for (party, mut take) in waiting {
                        match poll!(&mut take) {
                            Poll::Ready(permit) => held[party].push(permit),
                            Poll::Pending => still.push((party, take)),
                        }
                    }
                    waiting = still;
                    let taken: usize = held.iter().flatten().map(Permit::amount).sum();
                    assert_eq!(taken, shares[0].total_taken());
                    assert!(taken <= 100);
                }
                drop((waiting, held));
                assert_eq!(shares[0].total_taken(), 0);
            });
        }
    }
}
