//! What a worker can do, and what can happen to it. Steps that touch only its own memory are taken together with the
//! next one that does not: nobody can tell when they happened.

use super::action::{What, Whose};
use super::design::{Event, Resolve};
use super::state::{Active, Batch, Orphan, Reader, Sequences, Session, State, Tail, Work, Worker};
use super::steps::{Partition, Steps};

impl Partition {
    pub fn worker_steps(&self, steps: &mut Steps<'_>, index: usize) {
        let me = Whose::Worker(index);
        match steps.state.workers[index] {
            Worker::Idle => self.begin_steps(steps, index),
            Worker::Opening { progress, reader } => {
                self.opening_steps(steps, index, progress, reader);
                steps.add(me, What::Crashed, true, |state| state.workers[index] = Worker::Idle);
            }
            Worker::Active(active) => {
                self.reader_steps(steps, index, active);
                self.work_steps(steps, index, active);
                self.crash_step(steps, index, active);
            }
        }
    }

    fn begin_steps(&self, steps: &mut Steps<'_>, index: usize) {
        let me = Whose::Worker(index);
        // while another worker has the partition its lease has to expire first, and that is a fault
        let fault = steps.state.workers.iter().any(|worker| *worker != Worker::Idle);
        let (progress, second_life) = (steps.state.progress, steps.state.second_life);
        if !self.world.recreated {
            let begun = Worker::Active(opened(progress, second_life));
            steps.add(me, What::Begun { progress }, fault, |state| state.workers[index] = begun);
        } else if self.design.identity_after_consumer || !second_life {
            let opening = Worker::Opening { progress, reader: None };
            steps.add(me, What::ProgressRead { progress }, fault, |state| state.workers[index] = opening);
        }
    }

    /// Progress is of the stream's first life; a worker of another one has to stop.
    fn opening_steps(&self, steps: &mut Steps<'_>, index: usize, progress: u8, reader: Option<Reader>) {
        let me = Whose::Worker(index);
        let second_life = steps.state.second_life;
        match reader {
            None => {
                let active = opened(progress, second_life);
                let opened = if self.design.identity_after_consumer {
                    Worker::Opening { progress, reader: Some(active.reader) }
                } else {
                    Worker::Active(active)
                };
                let what = What::ReaderOpened { next: progress + 1 };
                steps.add(me, what, false, |state| state.workers[index] = opened);
            }
            Some(_) if second_life => {
                steps.add(me, What::IdentityRefused, false, |state| state.workers[index] = Worker::Idle);
            }
            Some(reader) => {
                let active = Active { reader, ..opened(progress, false) };
                steps.add(me, What::IdentityAccepted, false, |state| {
                    state.workers[index] = Worker::Active(active);
                });
            }
        }
    }

    fn reader_steps(&self, steps: &mut Steps<'_>, index: usize, active: Active) {
        let me = Whose::Worker(index);
        let reader = active.reader;
        let collecting = active.work == Work::Collecting;
        let room = match (collecting, self.world.ahead) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        // a consumer is gone with its stream
        if reader.second_life != steps.state.second_life {
            return;
        }
        if self.world.replaced_reader && reader.next > 1 {
            let first = Reader { next: 1, sent: 0, arrived: 0, ..reader };
            steps.add(me, What::ReaderReplaced, true, |state| {
                state.workers[index] = Worker::Active(Active { reader: first, ..active });
            });
        }
        let published = steps.state.published;
        let next = self.ours().find(|sequence| (reader.next..=published).contains(sequence));
        if let Some(sequence) = next.filter(|_| active.held.len() < room) {
            let sent = Reader { next: sequence + 1, sent: reader.sent + 1, ..reader };
            steps.add(me, What::DeliveryLost(sequence), true, |state| {
                state.workers[index] = Worker::Active(Active { reader: sent, ..active });
            });
            if self.design.old_refused && sequence <= active.received() {
                steps.add(me, What::OldRefused(sequence), false, |state| {
                    state.workers[index] = Worker::Idle;
                });
            } else if self.design.jump_check && sent.sent != reader.arrived + 1 {
                steps.add(me, What::JumpFound(sequence), false, |state| {
                    state.workers[index] = Worker::Idle;
                });
            } else {
                let reader = Reader { arrived: sent.sent, ..sent };
                let tail = if active.tail == Tail::PullWasEmpty { Tail::Unknown } else { active.tail };
                let received = Active { reader, tail, held: active.held.with(sequence), ..active };
                steps.add(me, What::Delivered(sequence), false, |state| {
                    state.workers[index] = Worker::Active(received);
                });
            }
        }
        let nothing_missing = reader.sent == reader.arrived;
        if self.design.tail_check && !nothing_missing {
            steps.add(me, What::TailMismatchFound, false, |state| state.workers[index] = Worker::Idle);
        }
        if collecting && active.held.is_empty() {
            let nothing_found = next.is_none() && (nothing_missing || !self.design.tail_check);
            self.tail_steps(steps, index, active, nothing_found);
        }
    }

    /// Progress of an idle partition goes on to the stream's tail, by a batch without events.
    fn tail_steps(&self, steps: &mut Steps<'_>, index: usize, active: Active, nothing_found: bool) {
        let me = Whose::Worker(index);
        let published = steps.state.published;
        let mut turn = |what, work, tail| {
            steps.add(me, what, false, |state| {
                state.workers[index] = Worker::Active(Active { work, tail, ..active });
            });
        };
        let advance = |last| {
            let batch = Batch {
                previous: active.progress,
                last,
                good: Sequences::default(),
                bad: Sequences::default(),
                second_life: active.reader.second_life,
            };
            Work::Ready { batch, owed: Sequences::default() }
        };
        match active.tail {
            Tail::PullWasEmpty if published > active.progress => {
                turn(What::TailSeen(published), advance(published), Tail::Unknown);
            }
            Tail::Unknown if !self.design.tail_before_pull && nothing_found => {
                turn(What::PullEmpty, active.work, Tail::PullWasEmpty);
            }
            Tail::Unknown if self.design.tail_before_pull && published > active.progress => {
                turn(What::TailSeen(published), active.work, Tail::Seen(published));
            }
            Tail::Seen(last) if nothing_found => {
                let work = if last > active.progress { advance(last) } else { active.work };
                turn(What::PullEmpty, work, Tail::Unknown);
            }
            _ => {}
        }
    }

    fn work_steps(&self, steps: &mut Steps<'_>, index: usize, active: Active) {
        let me = Whose::Worker(index);
        let to = |work| Worker::Active(Active { work, ..active });
        match active.work {
            Work::Collecting => {
                let progress = steps.state.progress;
                if self.design.progress_watched && progress != active.progress {
                    steps.add(me, What::FoundElsewhere { progress }, false, |state| {
                        state.workers[index] = Worker::Idle;
                    });
                }
                self.cut_steps(steps, index, active);
            }
            Work::Ready { batch, owed } if owed.is_empty() => {
                steps.add(me, What::Loaded(batch.good), false, |state| {
                    if !self.design.one_transaction {
                        state.insert(batch);
                    }
                    state.workers[index] = to(Work::Loaded { batch, open: true });
                });
            }
            Work::Ready { batch, owed } => {
                self.letter_steps(steps, index, owed, |owed| to(Work::Ready { batch, owed }));
            }
            Work::Owing { owed } if owed.is_empty() => unreachable!("nothing is owed any more"),
            Work::Owing { owed } => self.letter_steps(steps, index, owed, |owed| {
                to(if owed.is_empty() { Work::Collecting } else { Work::Owing { owed } })
            }),
            Work::Loaded { batch, open } => {
                if open {
                    steps.add(me, What::TransactionLost, true, |state| {
                        state.workers[index] = to(Work::Loaded { batch, open: false });
                    });
                } else if self.design.new_connection {
                    steps.add(me, What::ErrorNoticed, false, |state| {
                        state.workers[index] = to(Work::Ready { batch, owed: Sequences::default() });
                    });
                } else {
                    steps.add(me, What::LoadedWithoutTransaction(batch.good), false, |state| {
                        state.insert(batch);
                    });
                }
                steps.add(me, What::CommitSent, false, |state| {
                    state.workers[index] = to(Work::Waiting { batch, session: Session::Sent { open } });
                });
            }
            Work::Waiting { batch, session } => self.answer_steps(steps, index, active, (batch, session)),
            Work::Unknown { batch } => self.resolve_steps(steps, index, active, batch),
        }
    }

    /// A batch of one or two events, with every verdict that may be given on them.
    fn cut_steps(&self, steps: &mut Steps<'_>, index: usize, active: Active) {
        let held: Vec<_> = active.held.iter().collect();
        for count in 1..=held.len() {
            let (taken, last) = (&held[..count], held[count - 1]);
            let of = |kind| Sequences::of(taken.iter().copied().filter(|one| self.event(*one) == kind));
            let (bad, doubtful) = (of(Event::Bad), of(Event::Doubtful));
            let verdicts = if doubtful.is_empty() { vec![bad] } else { vec![bad, bad.and(doubtful)] };
            for bad in verdicts {
                let good = Sequences::of(taken.iter().copied()).without(bad);
                let second_life = active.reader.second_life;
                let batch = Batch { previous: active.progress, last, good, bad, second_life };
                let owed = if self.design.letters_first { bad } else { Sequences::default() };
                let held = active.held.without(bad.and(good));
                let work = Work::Ready { batch, owed };
                steps.add(Whose::Worker(index), What::Cut(batch), false, |state| {
                    state.workers[index] =
                        Worker::Active(Active { held, work, tail: Tail::Unknown, ..active });
                });
            }
        }
    }

    fn letter_steps(
        &self,
        steps: &mut Steps<'_>,
        index: usize,
        owed: Sequences,
        then: impl Fn(Sequences) -> Worker,
    ) {
        let me = Whose::Worker(index);
        for sequence in owed.iter() {
            let stored = steps.state.letters[usize::from(sequence)];
            let rest = owed.without(Sequences::of([sequence]));
            // what is there already is dropped by its message id, and after that by its subject's last sequence
            let mut publish = |count, confirmed| {
                steps.add(me, confirmed, false, |state| {
                    state.letters[usize::from(sequence)] = count;
                    state.workers[index] = then(rest);
                });
                steps.add(me, What::LetterUnconfirmed(sequence), true, |state| {
                    state.letters[usize::from(sequence)] = count;
                });
            };
            publish(stored.max(1), What::LetterConfirmed(sequence));
            if stored > 0 && !self.design.one_subject_a_letter {
                publish(2, What::LetterRepeated(sequence));
            }
        }
    }

    fn answer_steps(
        &self,
        steps: &mut Steps<'_>,
        index: usize,
        active: Active,
        (batch, session): (Batch, Session),
    ) {
        let me = Whose::Worker(index);
        let retry =
            Worker::Active(Active { work: Work::Ready { batch, owed: Sequences::default() }, ..active });
        match session {
            Session::Committed => steps.add(me, What::AnswerCommitted, false, |state| {
                state.workers[index] = self.after_commit(active, batch);
            }),
            Session::Refused => {
                steps.add(me, What::AnswerRefused, false, |state| state.workers[index] = Worker::Idle);
            }
            Session::RolledBack => {
                steps.add(me, What::AnswerError, false, |state| state.workers[index] = retry);
            }
            Session::Sent { .. } | Session::Locked => {}
        }
        if self.may_orphan(steps.state, session) {
            steps.add(me, What::ConnectionLost, true, |state| {
                orphan(state, batch, session);
                state.workers[index] = Worker::Active(Active { work: Work::Unknown { batch }, ..active });
            });
        }
    }

    fn resolve_steps(&self, steps: &mut Steps<'_>, index: usize, active: Active, batch: Batch) {
        let me = Whose::Worker(index);
        let progress = steps.state.progress;
        let committed = self.after_commit(active, batch);
        let retry =
            Worker::Active(Active { work: Work::Ready { batch, owed: Sequences::default() }, ..active });
        let (what, worker) = match self.design.resolve {
            Resolve::AssumeCommitted => (What::AssumedCommitted, committed),
            Resolve::AssumeNotCommitted => (What::AssumedNotCommitted, retry),
            Resolve::Locking if steps.state.is_locked() => return,
            Resolve::Locking | Resolve::Plain if progress == batch.last => {
                (What::FoundCommitted { progress }, committed)
            }
            Resolve::Locking | Resolve::Plain if progress == batch.previous => {
                (What::FoundNotCommitted { progress }, retry)
            }
            Resolve::Locking | Resolve::Plain => (What::FoundElsewhere { progress }, Worker::Idle),
        };
        steps.add(me, what, false, |state| state.workers[index] = worker);
    }

    fn after_commit(&self, active: Active, batch: Batch) -> Worker {
        let owes = !self.design.letters_first && !batch.bad.is_empty();
        let work = if owes { Work::Owing { owed: batch.bad } } else { Work::Collecting };
        Worker::Active(Active { progress: batch.last, work, ..active })
    }

    fn crash_step(&self, steps: &mut Steps<'_>, index: usize, active: Active) {
        let me = Whose::Worker(index);
        let Work::Waiting { batch, session } = active.work else {
            steps.add(me, What::Crashed, true, |state| state.workers[index] = Worker::Idle);
            return;
        };
        if self.may_orphan(steps.state, session) {
            steps.add(me, What::Crashed, true, |state| {
                orphan(state, batch, session);
                state.workers[index] = Worker::Idle;
            });
        }
    }

    /// A bound of the search: only so many transactions are left to themselves at once.
    fn may_orphan(&self, state: &State, session: Session) -> bool {
        let under_way = matches!(session, Session::Sent { .. } | Session::Locked);
        !under_way || state.orphans.iter().flatten().count() < usize::from(self.world.orphans)
    }
}

/// What was sent goes on without its worker; an answer under way is lost.
fn orphan(state: &mut State, batch: Batch, session: Session) {
    if matches!(session, Session::Sent { .. } | Session::Locked) {
        state.adopt(Orphan { batch, session });
    }
}

/// A worker that has just begun.
fn opened(progress: u8, second_life: bool) -> Active {
    Active {
        progress,
        reader: Reader { next: progress + 1, sent: 0, arrived: 0, second_life },
        held: Sequences::default(),
        tail: Tail::Unknown,
        work: Work::Collecting,
    }
}
