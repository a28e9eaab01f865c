//! What can happen in a state: the world and the database here, the workers in `worker.rs`.

use std::mem::{Discriminant, discriminant};

use super::action::{Action, What, Whose};
use super::design::{Compare, Design, Event, World};
use super::search::{Model, Step};
use super::state::{Batch, Orphan, Session, State, Work, Worker};

/// Whether it happens to a transaction that nobody is connected to, and what.
pub type Kind = (bool, Discriminant<What>);

/// One design in one world.
pub struct Partition {
    pub design: Design,
    pub world: World,
    /// Workers keep their names, which makes traces readable and the search twice as long.
    pub named: bool,
}

/// What is held against every step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// No event is in the table twice.
    NotTwice,
    /// Each of the partition's events up to progress is in the table or has a dead letter.
    NothingLost,
    /// What is after progress is not in the table: table and progress tell the same.
    NothingAhead,
    /// Only good events are in the table, and only of this partition.
    NothingBad,
    /// Progress does not go back, unless the database itself does.
    OnlyForward,
    /// No event has two dead letters.
    OneLetter,
    /// No good event has a dead letter.
    NoGoodLetter,
    /// Nothing of a stream that was made anew is in the table.
    NothingForeign,
    /// No event is both in the table and a dead letter. Kept only where the verdict on an event never changes.
    NotBoth,
}

pub const PROMISES: &[Promise] = &[
    Promise::NotTwice,
    Promise::NothingLost,
    Promise::NothingAhead,
    Promise::NothingBad,
    Promise::OnlyForward,
    Promise::OneLetter,
    Promise::NoGoodLetter,
    Promise::NothingForeign,
];

/// The steps out of one state, while they are collected.
pub struct Steps<'a> {
    pub state: &'a State,
    pub list: Vec<Step<Partition>>,
}

impl Steps<'_> {
    pub fn add(&mut self, whose: Whose, what: What, fault: bool, change: impl FnOnce(&mut State)) {
        let mut after = self.state.clone();
        change(&mut after);
        self.list.push(Step { action: Action { whose, what }, fault, after });
    }
}

impl Partition {
    pub fn event(&self, sequence: u8) -> Event {
        self.world.stream[usize::from(sequence) - 1]
    }

    /// The sequences of the partition's own events.
    pub fn ours(&self) -> impl Iterator<Item = u8> {
        (1..=self.length()).filter(|sequence| self.event(*sequence).is_ours())
    }

    fn length(&self) -> u8 {
        u8::try_from(self.world.stream.len()).expect("a short stream")
    }

    fn world_steps(&self, steps: &mut Steps<'_>) {
        let state = steps.state;
        if state.published < self.length() {
            let next = state.published + 1;
            steps.add(Whose::World, What::Published(next), false, |state| state.published = next);
        }
        if self.world.recreated && !state.second_life {
            steps.add(Whose::World, What::StreamMadeAnew, true, |state| {
                state.second_life = true;
                state.published = 0;
            });
        }
        if self.world.loses_commits {
            for back_to in 0..state.progress {
                steps.add(Whose::World, What::CommitsLost { back_to }, true, |state| {
                    lose_commits(state, back_to);
                });
            }
        }
    }

    /// The server goes on with a transaction. `set` puts the session into a state, or its end.
    fn session_steps(
        &self,
        steps: &mut Steps<'_>,
        whose: Whose,
        (batch, session): (Batch, Session),
        set: impl Fn(&mut State, Session) + Copy,
    ) {
        let state = steps.state;
        let matches = self.matches(batch, state.progress);
        match session {
            Session::Sent { open: true } => {
                // Under READ_COMMITTED_SNAPSHOT with optimised locking a row that does not match is passed over
                // without waiting for its lock. A row that matches is locked first and compared again.
                if !matches {
                    steps.add(whose, What::CompareRefused, false, |state| set(state, Session::Refused));
                } else if !state.is_locked() {
                    steps.add(whose, What::ProgressLocked, false, |state| set(state, Session::Locked));
                }
                steps.add(whose, What::RolledBack, true, |state| set(state, Session::RolledBack));
            }
            Session::Sent { open: false } if self.design.transaction_checked || !matches => {
                steps.add(whose, What::RolledBack, false, |state| set(state, Session::RolledBack));
            }
            Session::Sent { open: false } if !state.is_locked() => {
                steps.add(whose, What::ProgressMovedAlone, false, |state| {
                    state.progress = batch.last;
                    set(state, Session::Committed);
                });
            }
            Session::Locked => {
                let what = What::CommitDone { from: state.progress, to: batch.last };
                steps.add(whose, what, false, |state| {
                    state.progress = batch.last;
                    if self.design.one_transaction {
                        state.insert(batch);
                    }
                    set(state, Session::Committed);
                });
                steps.add(whose, What::RolledBack, true, |state| set(state, Session::RolledBack));
            }
            _ => {}
        }
    }

    /// Whether the row of progress is one that the update is for.
    fn matches(&self, batch: Batch, progress: u8) -> bool {
        match self.design.compare {
            Compare::Exact => progress == batch.previous && batch.last > progress,
            Compare::OnlyForward => batch.last > progress,
            Compare::Nothing => true,
        }
    }
}

/// A database that fails over to a copy that is behind: rows and progress go back together, and no session outlives it.
fn lose_commits(state: &mut State, back_to: u8) {
    state.progress = back_to;
    for rows in &mut state.rows[usize::from(back_to) + 1..] {
        *rows = 0;
    }
    state.orphans = [None; 2];
    for worker in &mut state.workers {
        let Worker::Active(active) = worker else { continue };
        match &mut active.work {
            Work::Loaded { open, .. } => *open = false,
            Work::Waiting { session: session @ (Session::Sent { .. } | Session::Locked), .. } => {
                *session = Session::RolledBack;
            }
            _ => {}
        }
    }
}

impl Model for Partition {
    type State = State;
    type Action = Action;
    type Promise = Promise;
    type Kind = Kind;

    fn initial(&self) -> State {
        State::initial(self.world.published)
    }

    fn steps(&self, state: &State) -> Vec<Step<Self>> {
        let mut steps = Steps { state, list: Vec::with_capacity(16) };
        self.world_steps(&mut steps);
        for index in 0..usize::from(self.world.workers) {
            self.worker_steps(&mut steps, index);
            let Worker::Active(active) = state.workers[index] else { continue };
            if let Work::Waiting { batch, session } = active.work {
                self.session_steps(&mut steps, Whose::Worker(index), (batch, session), |state, session| {
                    if let Worker::Active(active) = &mut state.workers[index] {
                        active.work = Work::Waiting { batch, session };
                    }
                });
            }
        }
        for (index, orphan) in state.orphans.iter().enumerate() {
            let Some(Orphan { batch, session }) = *orphan else { continue };
            self.session_steps(&mut steps, Whose::Orphan(index), (batch, session), |state, session| {
                let lives_on = matches!(session, Session::Locked);
                state.orphans[index] = lives_on.then_some(Orphan { batch, session });
                state.orphans.sort_unstable();
            });
        }
        steps.list
    }

    fn broken(&self, before: &State, step: &Step<Self>) -> Vec<Promise> {
        let after = &step.after;
        // every promise is about these alone, and held before
        let same = |state: &State| (state.progress, state.rows, state.letters, state.foreign_row);
        if same(before) == same(after) {
            return Vec::new();
        }
        let rows = |sequence: u8| after.rows[usize::from(sequence)];
        let letters = |sequence: u8| after.letters[usize::from(sequence)];
        let any = |broken: &dyn Fn(u8) -> bool| (1..=self.length()).any(broken);
        let ours = |sequence: u8| self.event(sequence).is_ours();
        let back = after.progress < before.progress && !matches!(step.action.what, What::CommitsLost { .. });
        [
            (Promise::NotTwice, any(&|sequence| rows(sequence) > 1)),
            (
                Promise::NothingLost,
                any(&|one| ours(one) && one <= after.progress && rows(one) + letters(one) == 0),
            ),
            (Promise::NothingAhead, any(&|sequence| sequence > after.progress && rows(sequence) > 0)),
            (
                Promise::NothingBad,
                any(&|one| rows(one) > 0 && matches!(self.event(one), Event::Bad | Event::Elsewhere)),
            ),
            (Promise::OnlyForward, back),
            (Promise::OneLetter, any(&|sequence| letters(sequence) > 1)),
            (
                Promise::NoGoodLetter,
                any(&|one| letters(one) > 0 && !matches!(self.event(one), Event::Bad | Event::Doubtful)),
            ),
            (Promise::NothingForeign, after.foreign_row),
            (Promise::NotBoth, any(&|sequence| rows(sequence) > 0 && letters(sequence) > 0)),
        ]
        .into_iter()
        .filter_map(|(promise, broken)| broken.then_some(promise))
        .collect()
    }

    fn kind(&self, action: &Action) -> Kind {
        (matches!(action.whose, Whose::Orphan(_)), discriminant(&action.what))
    }

    fn done(&self, state: &State) -> bool {
        let in_or_dead = |one: u8| state.rows[usize::from(one)] + state.letters[usize::from(one)] > 0;
        state.progress == self.length() && self.ours().all(in_or_dead)
    }

    fn canonical(&self, mut state: State) -> State {
        if !self.named {
            state.workers[..usize::from(self.world.workers)].sort_unstable();
        }
        state
    }
}
