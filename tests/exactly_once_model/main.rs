//! `delivery = "exactly_once"` as a model, searched through every state that it can be in. docs/exactly-once.md tells
//! what it shows and what it does not. The sound design has no counterexample; without any one of its decisions there
//! is one, or the test says that there is none. With `--nocapture` the tests print their figures and traces.

// A module of a test binary has no outside that it could be reached from.
#![allow(unreachable_pub)]
// A test says what it expects by panicking, in its helpers too, and what it measured on stdout.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod action;
mod design;
mod layout;
mod search;
mod state;
mod steps;
mod worker;

use std::mem::discriminant;

use action::What;
use design::Event::{Bad, Doubtful, Elsewhere, Good};
use design::{Compare, Design, Resolve, SOUND, World};
use layout::{LAYOUT_PROMISES, LayoutDesign, LayoutPromise, SOUND_LAYOUT};
use search::{Explored, Model, search};
use state::{Batch, Sequences};
use steps::{PROMISES, Partition, Promise};

const WORLD: World = World {
    stream: &[Good, Bad, Good],
    published: 2,
    workers: 2,
    orphans: 1,
    ahead: false,
    replaced_reader: false,
    recreated: false,
    loses_commits: false,
};

const ALONE: World = World { workers: 1, ..WORLD };

/// Searches everything, and expects nothing broken and more than `floor` states: few would mean a model that does
/// not move.
fn all_states<M: Model>(name: &str, model: &M, promises: &[M::Promise], floor: usize) -> Explored<M> {
    let seen = search(model, promises);
    println!("{name}: {}", seen.figures());
    if let Some((promise, trace)) = &seen.broken {
        panic!("{name}: {promise:?} is broken:\n{trace}");
    }
    assert!(seen.states > floor, "{name}: only {} states", seen.states);
    seen
}

fn expect_sound(name: &str, design: Design, world: World, floor: usize) -> Explored<Partition> {
    let seen = all_states(name, &Partition { design, world, named: false }, PROMISES, floor);
    if let Some(trace) = &seen.stuck {
        panic!("{name}: the end is out of reach after\n{trace}");
    }
    seen
}

/// The counterexample that there has to be, by a shortest way.
fn expect_broken<M: Model>(name: &str, model: &M, promise: M::Promise) {
    let seen = search(model, &[promise]);
    let (_, trace) =
        seen.broken.unwrap_or_else(|| panic!("{name}: {promise:?} holds, which was not expected"));
    println!("{name}: {promise:?} is broken\n{trace}");
}

fn expect_partition_broken(name: &str, design: Design, world: World, promise: Promise) {
    expect_broken(name, &Partition { design, world, named: true }, promise);
}

mod the_sound_design {
    use super::*;

    #[test]
    fn two_workers_and_four_events() {
        let world = World { stream: &[Good, Bad, Good, Good], published: 4, ..WORLD };
        expect_sound("two workers, four events", SOUND, world, 1_000_000);
    }

    #[test]
    fn two_workers_that_leave_two_transactions_behind() {
        let world = World { published: 3, orphans: 2, ..WORLD };
        expect_sound("two orphaned transactions", SOUND, world, 800_000);
    }

    #[test]
    fn one_worker_that_leaves_two_transactions_behind() {
        expect_sound("one worker", SOUND, World { orphans: 2, ..ALONE }, 10_000);
    }

    /// Nearly everything that the model knows happens here, so that no promise is kept by standing still.
    #[test]
    fn another_partition_and_receiving_ahead() {
        let stream = &[Good, Bad, Elsewhere, Good];
        let world = World { stream, published: 3, ahead: true, ..WORLD };
        let seen = expect_sound("another partition's event, receiving ahead", SOUND, world, 900_000);
        let (one, progress) = (1, 1);
        let none = Sequences::default();
        let batch = Batch { previous: 0, last: 1, good: none, bad: none, second_life: false };
        for what in [
            What::Published(one),
            What::Begun { progress },
            What::Delivered(one),
            What::DeliveryLost(one),
            What::JumpFound(one),
            What::TailMismatchFound,
            What::TailSeen(one),
            What::PullEmpty,
            What::Cut(batch),
            What::LetterConfirmed(one),
            What::LetterUnconfirmed(one),
            What::Loaded(none),
            What::TransactionLost,
            What::ErrorNoticed,
            What::CommitSent,
            What::ConnectionLost,
            What::CompareRefused,
            What::ProgressLocked,
            What::CommitDone { from: 0, to: 1 },
            What::RolledBack,
            What::AnswerCommitted,
            What::AnswerRefused,
            What::AnswerError,
            What::FoundCommitted { progress },
            What::FoundNotCommitted { progress },
            What::FoundElsewhere { progress },
            What::Crashed,
        ] {
            assert!(seen.kinds.contains(&(false, discriminant(&what))), "{what:?} never happened");
        }
        for what in [What::ProgressLocked, What::CommitDone { from: 0, to: 1 }, What::CompareRefused] {
            assert!(seen.kinds.contains(&(true, discriminant(&what))), "no orphan: {what:?}");
        }
    }

    #[test]
    fn three_workers() {
        let world = World { stream: &[Good, Bad], workers: 3, ..WORLD };
        expect_sound("three workers, two events", SOUND, world, 800_000);
    }

    #[test]
    fn a_reader_that_begins_at_the_beginning() {
        let world = World { published: 3, replaced_reader: true, ..WORLD };
        expect_sound("reader that begins at 1", SOUND, world, 500_000);
    }

    /// Rows and progress go back together, and the stream still has the events.
    #[test]
    fn a_database_that_loses_its_last_commits() {
        expect_sound("lost commits", SOUND, World { loses_commits: true, ..WORLD }, 700_000);
    }

    /// A worker whose partition is idle would never learn that progress went back.
    #[test]
    fn after_lost_commits_somebody_has_to_look_at_progress() {
        let design = Design { progress_watched: false, ..SOUND };
        let world = World { stream: &[Good, Good], loses_commits: true, ..WORLD };
        let model = Partition { design, world, named: true };
        let seen = all_states("lost commits, progress not watched", &model, PROMISES, 10_000);
        let trace = seen.stuck.expect("nobody sees that progress went back");
        println!("the end is out of reach after\n{trace}");
    }

    /// The workers stop, so that the end is out of reach: what counts is that nothing of the new stream gets in.
    #[test]
    fn a_stream_that_is_made_anew() {
        let world = World { stream: &[Good, Bad], recreated: true, ..WORLD };
        let model = Partition { design: SOUND, world, named: false };
        all_states("stream made anew", &model, PROMISES, 100_000);
    }

    /// An event that one worker finds good and another bad, as while two versions of a schema are at work.
    #[test]
    fn verdicts_that_differ_lose_nothing_but_may_leave_row_and_letter() {
        let world = World { stream: &[Doubtful, Good], ..WORLD };
        expect_sound("verdicts that differ", SOUND, world, 150_000);
        expect_partition_broken("verdicts that differ", SOUND, world, Promise::NotBoth);
    }
}

mod without {
    use super::*;

    /// Also with one worker that resolves every unknown outcome by the locking read: what it has sent may reach the
    /// row of progress later than its read.
    #[test]
    fn the_compare_and_set() {
        let design = Design { compare: Compare::Nothing, ..SOUND };
        let world = World { orphans: 0, ..WORLD };
        expect_partition_broken("no comparison, two workers", design, world, Promise::NotTwice);
        expect_partition_broken("no comparison, two workers", design, world, Promise::OnlyForward);
        expect_partition_broken("no comparison, one worker", design, ALONE, Promise::NotTwice);
    }

    #[test]
    fn the_previous_position_in_the_compare_and_set() {
        let design = Design { compare: Compare::OnlyForward, ..SOUND };
        expect_partition_broken("only forward, two workers", design, WORLD, Promise::NotTwice);
        expect_partition_broken("only forward, one worker", design, ALONE, Promise::NotTwice);
    }

    #[test]
    fn rows_and_progress_in_one_transaction() {
        let design = Design { one_transaction: false, ..SOUND };
        expect_partition_broken("two transactions", design, WORLD, Promise::NotTwice);
    }

    #[test]
    fn the_check_that_there_is_a_transaction() {
        let design = Design { transaction_checked: false, ..SOUND };
        expect_partition_broken("XACT_STATE() not looked at", design, WORLD, Promise::NothingLost);
    }

    #[test]
    fn a_new_connection_after_an_error() {
        let design = Design { new_connection: false, ..SOUND };
        expect_partition_broken("connection used again", design, WORLD, Promise::NotTwice);
    }

    #[test]
    fn dead_letters_before_the_commit() {
        let design = Design { letters_first: false, ..SOUND };
        expect_partition_broken("dead letters last", design, WORLD, Promise::NothingLost);
    }

    #[test]
    fn one_subject_for_each_dead_letter() {
        let design = Design { one_subject_a_letter: false, ..SOUND };
        expect_partition_broken("dead letters known by id alone", design, WORLD, Promise::OneLetter);
    }

    #[test]
    fn the_refusal_of_old_sequences() {
        let design = Design { old_refused: false, ..SOUND };
        let world = World { replaced_reader: true, ..WORLD };
        expect_partition_broken("old sequences taken", design, world, Promise::NotTwice);
    }

    #[test]
    fn the_check_for_jumps() {
        let design = Design { jump_check: false, ..SOUND };
        expect_partition_broken("jumps not looked at", design, WORLD, Promise::NothingLost);
    }

    #[test]
    fn the_check_at_the_tail() {
        let design = Design { tail_check: false, ..SOUND };
        expect_partition_broken("tail not looked at", design, WORLD, Promise::NothingLost);
    }

    #[test]
    fn the_tail_looked_at_before_the_pull() {
        let design = Design { tail_before_pull: false, ..SOUND };
        expect_partition_broken("tail after the pull", design, WORLD, Promise::NothingLost);
    }

    #[test]
    fn the_identity_looked_at_after_the_consumer() {
        let design = Design { identity_after_consumer: false, ..SOUND };
        let world = World { recreated: true, ..WORLD };
        expect_partition_broken("identity before the consumer", design, world, Promise::NothingForeign);
    }
}

/// The answer to an unknown outcome saves work; the compare-and-set is what makes it right. Where that is missing no
/// way to answer helps.
mod an_unknown_outcome {
    use super::*;

    const ANSWERS: [Resolve; 4] =
        [Resolve::Locking, Resolve::Plain, Resolve::AssumeNotCommitted, Resolve::AssumeCommitted];

    #[test]
    fn does_no_harm_whatever_it_is_taken_for() {
        for resolve in ANSWERS {
            expect_sound(&format!("{resolve:?}"), Design { resolve, ..SOUND }, WORLD, 300_000);
        }
    }

    #[test]
    fn without_the_compare_and_set_no_answer_is_safe() {
        for resolve in ANSWERS {
            let design = Design { compare: Compare::Nothing, resolve, ..SOUND };
            expect_partition_broken(&format!("no comparison, {resolve:?}"), design, ALONE, Promise::NotTwice);
        }
        // what came before is passed over, too
        let design = Design { compare: Compare::Nothing, resolve: Resolve::AssumeCommitted, ..SOUND };
        expect_partition_broken("no comparison, AssumeCommitted", design, ALONE, Promise::NothingLost);
    }
}

mod a_change_of_the_layout {
    use super::*;

    #[test]
    fn is_sound() {
        let seen = all_states("layout", &SOUND_LAYOUT, LAYOUT_PROMISES, 5_000);
        assert!(seen.stuck.is_none());
        // the barrier in the comparison makes "at it or after it" the same as "exactly at it"
        let later = LayoutDesign { all_at_barrier: false, ..SOUND_LAYOUT };
        all_states("layout, at the barrier or after it", &later, LAYOUT_PROMISES, 5_000);
    }

    #[test]
    fn without_the_layout_in_the_comparison_events_are_lost() {
        let design = LayoutDesign { layout_compared: false, ..SOUND_LAYOUT };
        expect_broken("layout not compared", &design, LayoutPromise::NothingLost);
    }

    /// A worker that read progress before the barrier was set passes it. Then the command waits for ever, or, where
    /// it is content with "after the barrier", writes events twice.
    #[test]
    fn without_the_barrier_in_the_comparison_it_never_ends_or_writes_twice() {
        let design = LayoutDesign { barrier_compared: false, ..SOUND_LAYOUT };
        let seen = all_states("barrier not compared", &design, LAYOUT_PROMISES, 5_000);
        println!("the end is out of reach after\n{}", seen.stuck.expect("the barrier was passed"));
        let design = LayoutDesign { all_at_barrier: false, ..design };
        expect_broken("barrier not compared, at it or after it", &design, LayoutPromise::NotTwice);
    }

    #[test]
    fn without_a_lock_around_choosing_the_barrier_it_never_ends_or_writes_twice() {
        let design = LayoutDesign { barrier_set_under_lock: false, ..SOUND_LAYOUT };
        let seen = all_states("barrier set without a lock", &design, LAYOUT_PROMISES, 5_000);
        println!("the end is out of reach after\n{}", seen.stuck.expect("the barrier was passed"));
        let design = LayoutDesign { all_at_barrier: false, ..design };
        expect_broken("barrier set without a lock, at it or after it", &design, LayoutPromise::NotTwice);
    }
}
