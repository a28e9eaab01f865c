//! Scripted faults: on which occasion, and on which of many.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::super::error::SqlError;
use super::Effect;

/// When in a connection's life a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A login with the right password, before it is answered.
    Login,
    /// The rows of a bulk load.
    BulkLoad,
    /// A COMMIT that ends a transaction, in a batch or as a request of the transaction manager.
    Commit,
}

/// When a connection is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before anything is done.
    Before,
    /// With rows of the load on their way to the table. Of a bulk load only.
    During,
    /// After it was done, and before the answer. Not of a login.
    After,
}

/// On which of its occasions a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// On each.
    Always,
    /// On the nth alone, counted from 1.
    Nth(u64),
    /// On every nth.
    Every(u64),
    /// On this share of them, from 0 to 1, by chance; the same seed strikes the same ones.
    Fraction {
        /// How many of them, 1 being all.
        share: f64,
        /// Where the sequence of chances begins.
        seed: u64,
    },
}

/// A fault to be scripted.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it may strike.
    pub occasion: Occasion,
    /// On which of these occasions it does.
    pub schedule: Schedule,
    /// What happens then.
    pub effect: Effect,
    /// Strikes at most so often.
    pub at_most: Option<u64>,
}

impl Fault {
    /// A fault that strikes always.
    pub fn new(occasion: Occasion, effect: Effect) -> Self {
        Self { occasion, schedule: Schedule::Always, effect, at_most: None }
    }

    /// The same, on the nth occasion alone.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { schedule: Schedule::Nth(nth), ..self }
    }

    /// The same, on every nth occasion.
    #[must_use]
    pub fn every(self, nth: u64) -> Self {
        Self { schedule: Schedule::Every(nth), ..self }
    }

    /// The same, on a share of the occasions.
    #[must_use]
    pub fn fraction(self, share: f64, seed: u64) -> Self {
        Self { schedule: Schedule::Fraction { share, seed }, ..self }
    }

    /// The same, so many times and then no more.
    #[must_use]
    pub fn at_most(self, times: u64) -> Self {
        Self { at_most: Some(times), ..self }
    }

    fn validate(&self) -> Result<(), FaultError> {
        match self.schedule {
            Schedule::Nth(0) | Schedule::Every(0) => return Err(FaultError::CountsFromOne),
            Schedule::Fraction { share, .. } if !(0.0..=1.0).contains(&share) => {
                return Err(FaultError::ShareOutOfRange(share));
            }
            _ => {}
        }
        let possible = match (&self.effect, self.occasion) {
            (Effect::Disconnect(Moment::During), occasion) => occasion == Occasion::BulkLoad,
            (Effect::Disconnect(Moment::After) | Effect::FailAfterWrite(_), occasion) => {
                occasion != Occasion::Login
            }
            _ => true,
        };
        if possible { Ok(()) } else { Err(FaultError::Impossible(self.occasion)) }
    }
}

/// Why a fault could never strike as it is written.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum FaultError {
    /// Occasions are counted from 1.
    #[error("occasions are counted from 1")]
    CountsFromOne,
    /// A share is not between 0 and 1.
    #[error("{0} is no share from 0 to 1")]
    ShareOutOfRange(f64),
    /// The effect has no meaning on this occasion.
    #[error("this effect cannot happen on {}", .0.name())]
    Impossible(Occasion),
}

impl Occasion {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::BulkLoad => "bulk_load",
            Self::Commit => "commit",
        }
    }
}

/// A scripted fault, and how often it struck.
#[derive(Debug)]
pub(super) struct Entry {
    fault: Fault,
    state: Mutex<EntryState>,
    strikes: watch::Sender<u64>,
    release: Notify,
}

#[derive(Debug)]
struct EntryState {
    occasions: u64,
    chosen: u64,
    chance: u64,
    is_retired: bool,
}

impl Entry {
    pub(super) fn new(fault: Fault) -> Result<Arc<Self>, FaultError> {
        fault.validate()?;
        let chance = match fault.schedule {
            Schedule::Fraction { seed, .. } => seed,
            _ => 0,
        };
        let state = EntryState { occasions: 0, chosen: 0, chance, is_retired: false };
        let strikes = watch::Sender::new(0);
        Ok(Arc::new(Self { fault, state: Mutex::new(state), strikes, release: Notify::new() }))
    }

    /// Counts an occasion, and says whether the fault strikes; never where it `may` not.
    pub(super) fn occurs(&self, occasion: Occasion, may: bool) -> bool {
        if self.fault.occasion != occasion {
            return false;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.occasions += 1;
        let chosen = match self.fault.schedule {
            Schedule::Always => true,
            Schedule::Nth(nth) => state.occasions == nth,
            Schedule::Every(nth) => state.occasions.is_multiple_of(nth),
            Schedule::Fraction { share, .. } => next_chance(&mut state.chance) < share,
        };
        let strikes = chosen && may && self.fault.at_most.is_none_or(|most| state.chosen < most);
        state.chosen += u64::from(strikes);
        strikes
    }

    pub(super) fn is_retired(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_retired
    }

    pub(super) fn retire(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_retired = true;
        self.release.notify_waiters();
    }
}

/// The next of a sequence of numbers from 0 to 1 (splitmix64).
fn next_chance(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    // 32 bits are a number that an f64 holds exactly
    f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / 4_294_967_296.0
}

/// The handle of a scripted fault. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct ScriptedFault {
    entry: Arc<Entry>,
}

impl ScriptedFault {
    pub(super) fn new(entry: Arc<Entry>) -> Self {
        Self { entry }
    }

    /// How often it struck.
    pub fn strikes(&self) -> u64 {
        *self.entry.strikes.borrow()
    }

    /// Waits until it has struck so often. A held answer counts when it is held.
    pub async fn wait_for_strikes(&self, strikes: u64) {
        // the sender lives as long as `self`
        let _ = self.entry.strikes.subscribe().wait_for(|struck| *struck >= strikes).await;
    }

    /// Lets the answers go that it holds now.
    pub fn release(&self) {
        self.entry.release.notify_waiters();
    }

    /// It strikes no more, and lets go what it holds.
    pub fn remove(&self) {
        self.entry.retire();
    }
}

/// A fault that is about to strike.
#[derive(Clone, Debug)]
pub(in super::super) struct Strike {
    entry: Arc<Entry>,
}

impl Strike {
    pub(super) fn new(entry: Arc<Entry>) -> Self {
        Self { entry }
    }

    pub(in super::super) fn effect(&self) -> &Effect {
        &self.entry.fault.effect
    }

    /// It happens now.
    pub(in super::super) fn count(&self) {
        self.entry.strikes.send_modify(|strikes| *strikes += 1);
    }

    /// The error with which it refuses, counted.
    pub(in super::super) fn rejects(&self, database: &str) -> Option<SqlError> {
        match self.effect() {
            Effect::Reject(error) => {
                self.count();
                Some(error.to_sql_error(database))
            }
            _ => None,
        }
    }

    /// The error with which it answers what was done, counted.
    pub(in super::super) fn fails_after_write(&self, database: &str) -> Option<SqlError> {
        match self.effect() {
            Effect::FailAfterWrite(error) => {
                self.count();
                Some(error.to_sql_error(database))
            }
            _ => None,
        }
    }

    /// Whether the connection is dropped at this moment; counted where it is.
    pub(in super::super) fn disconnects(&self, moment: Moment) -> bool {
        let disconnects = *self.effect() == Effect::Disconnect(moment);
        if disconnects {
            self.count();
        }
        disconnects
    }

    /// Waits as long as the answer is held or delayed.
    pub(in super::super) async fn hold(&self) {
        match self.effect() {
            Effect::HoldAnswer => {
                let released = self.entry.release.notified();
                tokio::pin!(released);
                // from here on no release is missed, also of a test that waits for the strike to count
                released.as_mut().enable();
                self.count();
                if !self.entry.is_retired() {
                    released.await;
                }
            }
            Effect::DelayAnswer(delay) => {
                self.count();
                tokio::time::sleep(*delay).await;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(fault: Fault, occasions: usize) -> Vec<usize> {
        let entry = Entry::new(fault).unwrap();
        (1..=occasions).filter(|_| entry.occurs(Occasion::Commit, true)).collect()
    }

    fn commit() -> Fault {
        Fault::new(Occasion::Commit, Effect::Reject(1205.into()))
    }

    #[test]
    fn a_fault_strikes_when_it_is_scheduled() {
        assert_eq!(strikes(commit().nth(3), 6), [3]);
        assert_eq!(strikes(commit().every(2), 6), [2, 4, 6]);
        assert_eq!(strikes(commit().every(2).at_most(2), 9), [2, 4]);
        assert_eq!(strikes(commit(), 2), [1, 2]);
        assert!(strikes(Fault::new(Occasion::Login, Effect::HoldAnswer), 3).is_empty());
    }

    #[test]
    fn a_fraction_is_about_as_large_as_asked_and_repeats_itself() {
        let tenth = strikes(commit().fraction(0.1, 7), 10_000);
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert_eq!(tenth, strikes(commit().fraction(0.1, 7), 10_000));
        assert_ne!(tenth, strikes(commit().fraction(0.1, 8), 10_000));
        assert_eq!(strikes(commit().fraction(1.0, 1), 100).len(), 100);
        assert!(strikes(commit().fraction(0.0, 1), 100).is_empty());
    }

    #[test]
    fn what_could_never_strike_is_refused() {
        let error = |fault| Entry::new(fault).unwrap_err();
        assert_eq!(error(commit().nth(0)), FaultError::CountsFromOne);
        assert_eq!(error(commit().fraction(1.5, 0)), FaultError::ShareOutOfRange(1.5));
        let during = Fault::new(Occasion::Commit, Effect::Disconnect(Moment::During));
        assert_eq!(error(during), FaultError::Impossible(Occasion::Commit));
        let after = Fault::new(Occasion::Login, Effect::FailAfterWrite(1205.into()));
        assert_eq!(error(after), FaultError::Impossible(Occasion::Login));
    }
}
