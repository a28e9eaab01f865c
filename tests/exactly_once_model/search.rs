//! Breadth-first search through every state of a model.
//!
//! Of its own rather than of the crate `stateright` (0.31), for two reasons. Its `eventually` is documented as blind
//! on paths that end in a cycle, and these models are full of cycles: a worker may crash and begin again for ever.
//! What is asked here, "from every state the end can still be reached without a further fault", needs the graph
//! walked backwards, which it does not offer. And it knows states by a hash of 64 bits, where a collision would hide
//! a state; here states are compared whole. It would also bring eight
//! packages along, an HTTP server among them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::{Debug, Display};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

/// What can happen next, as a name for the reader, and where it leads.
pub struct Step<M: Model> {
    pub action: M::Action,
    /// Whether something goes wrong in this step. The end must be in reach without any such step.
    pub fault: bool,
    pub after: M::State,
}

/// A finite set of states and the steps between them.
pub trait Model: Sized {
    type State: Clone + Eq + Hash + Debug;
    type Action: Copy + Display;
    type Promise: Copy + Eq + Debug;
    /// What an action is, whichever event or batch it is about.
    type Kind: Eq + Hash;

    fn initial(&self) -> Self::State;

    fn steps(&self, state: &Self::State) -> Vec<Step<Self>>;

    /// The promises that a step breaks, of those that a model is held to.
    fn broken(&self, before: &Self::State, step: &Step<Self>) -> Vec<Self::Promise>;

    fn kind(&self, action: &Self::Action) -> Self::Kind;

    /// Everything is where it belongs.
    fn done(&self, state: &Self::State) -> bool;

    /// One state to stand for all that differ only in the names of the workers.
    fn canonical(&self, state: Self::State) -> Self::State {
        state
    }
}

/// Hashes the many small fields of a state, quicker than the standard library's hasher. Nobody attacks this map, and a
/// collision costs a comparison.
#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(u64::from_ne_bytes((value as i64).to_ne_bytes()));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(7) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

type Known<S> = HashMap<S, u32, BuildHasherDefault<Mixer>>;

/// The steps from the initial state to a state, one a line.
pub struct Trace {
    pub lines: Vec<String>,
}

impl Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines.iter().enumerate().try_for_each(|(index, line)| writeln!(f, "  {:>2}. {line}", index + 1))
    }
}

/// What a search saw.
pub struct Explored<M: Model> {
    pub states: usize,
    pub steps: usize,
    /// Steps from the initial state to the state farthest from it.
    pub depth: usize,
    pub done: usize,
    pub took: Duration,
    /// Every kind of action that was taken.
    pub kinds: HashSet<M::Kind, BuildHasherDefault<Mixer>>,
    /// The first promise that was found broken, by a shortest way. The search ends there.
    pub broken: Option<(M::Promise, Trace)>,
    /// A state nearest to the initial one from which the end is out of reach without a fault.
    pub stuck: Option<Trace>,
}

impl<M: Model> Explored<M> {
    pub fn figures(&self) -> String {
        format!(
            "{} states, {} steps between them, up to {} steps deep, {} states with everything in, {:.1} s",
            self.states,
            self.steps,
            self.depth,
            self.done,
            self.took.as_secs_f64()
        )
    }
}

const ROOT: u32 = u32::MAX;

/// Visits every state that can be reached, until one of the promises `asked` for is broken.
pub fn search<M: Model>(model: &M, asked: &[M::Promise]) -> Explored<M> {
    let started = Instant::now();
    let initial = model.canonical(model.initial());
    let mut known = Known::from_iter([(initial.clone(), 0_u32)]);
    let mut parents = vec![ROOT];
    let mut depths = vec![0_usize];
    let mut done = Vec::new();
    // the steps that are no faults, to walk them backwards
    let mut healthy = Vec::new();
    let mut steps_taken = 0;
    let mut kinds = HashSet::<_, BuildHasherDefault<Mixer>>::default();
    let mut broken = None;
    let mut waiting = VecDeque::from([(initial, 0_u32)]);
    'search: while let Some((state, id)) = waiting.pop_front() {
        if model.done(&state) {
            done.push(id);
        }
        for mut step in model.steps(&state) {
            steps_taken += 1;
            kinds.insert(model.kind(&step.action));
            if let Some(promise) = model.broken(&state, &step).into_iter().find(|one| asked.contains(one)) {
                let mut trace = way_to(model, &parents, &known, id);
                trace.lines.push(step.action.to_string());
                broken = Some((promise, trace));
                break 'search;
            }
            step.after = model.canonical(step.after);
            let next = match known.get(&step.after) {
                Some(next) => *next,
                None => {
                    let next = u32::try_from(parents.len()).expect("fewer than 2^32 states");
                    parents.push(id);
                    depths.push(depths[id as usize] + 1);
                    known.insert(step.after.clone(), next);
                    waiting.push_back((step.after, next));
                    next
                }
            };
            if !step.fault {
                healthy.push((next, id));
            }
        }
    }
    let stuck = if broken.is_none() { first_stuck(parents.len(), &done, &mut healthy) } else { None };
    Explored {
        states: parents.len(),
        steps: steps_taken,
        depth: depths.last().copied().unwrap_or(0),
        done: done.len(),
        took: started.elapsed(),
        kinds,
        broken,
        stuck: stuck.map(|id| way_to(model, &parents, &known, id)),
    }
}

/// The lowest state (ids grow with the distance) from which no healthy steps lead to a done one.
fn first_stuck(states: usize, done: &[u32], healthy: &mut [(u32, u32)]) -> Option<u32> {
    healthy.sort_unstable();
    let mut reaches = vec![false; states];
    let mut waiting = done.to_vec();
    while let Some(id) = waiting.pop() {
        if std::mem::replace(&mut reaches[id as usize], true) {
            continue;
        }
        let first = healthy.partition_point(|(to, _)| *to < id);
        waiting.extend(healthy[first..].iter().take_while(|(to, _)| *to == id).map(|(_, from)| *from));
    }
    reaches.iter().position(|reached| !reached).and_then(|id| u32::try_from(id).ok())
}

/// Only the parents are kept: the actions are found again by walking from the initial state.
fn way_to<M: Model>(model: &M, parents: &[u32], known: &Known<M::State>, id: u32) -> Trace {
    let mut ids = vec![id];
    while let Some(parent) = ids.last().map(|id| parents[*id as usize]).filter(|id| *id != ROOT) {
        ids.push(parent);
    }
    let mut state = model.canonical(model.initial());
    let mut lines = Vec::new();
    for id in ids.into_iter().rev().skip(1) {
        let step = model.steps(&state).into_iter().find_map(|step| {
            let after = model.canonical(step.after);
            (known.get(&after) == Some(&id)).then_some((step.action, after))
        });
        let (action, after) = step.expect("a child is one step from its parent");
        lines.push(action.to_string());
        state = after;
    }
    Trace { lines }
}

/// That the search itself can find what it looks for, on a counter that may fall into a hole.
mod the_search_itself {
    use super::*;

    struct Counter {
        end: u8,
        hole: Option<u8>,
    }

    impl Model for Counter {
        type State = u8;
        type Action = u8;
        type Promise = ();
        type Kind = ();

        fn initial(&self) -> u8 {
            0
        }

        fn steps(&self, state: &u8) -> Vec<Step<Self>> {
            let next = if self.hole == Some(*state) { *state } else { (*state + 1).min(self.end) };
            let again = Step { action: 0, fault: true, after: 0 };
            vec![Step { action: next, fault: false, after: next }, again]
        }

        fn broken(&self, _: &u8, step: &Step<Self>) -> Vec<()> {
            if step.after > 9 { vec![()] } else { Vec::new() }
        }

        fn kind(&self, _: &u8) {}

        fn done(&self, state: &u8) -> bool {
            *state == self.end
        }
    }

    #[test]
    fn every_state_is_visited() {
        let seen = search(&Counter { end: 9, hole: None }, &[()]);
        assert_eq!((seen.states, seen.steps, seen.depth, seen.done), (10, 20, 9, 1));
        assert!(seen.broken.is_none() && seen.stuck.is_none());
    }

    #[test]
    fn a_broken_promise_is_found_by_a_shortest_way() {
        let seen = search(&Counter { end: 20, hole: None }, &[()]);
        assert_eq!(seen.broken.expect("10 is too much").1.lines.len(), 10);
        assert!(search(&Counter { end: 20, hole: None }, &[]).broken.is_none());
    }

    #[test]
    fn a_state_that_only_a_fault_leads_out_of_is_stuck() {
        let seen = search(&Counter { end: 9, hole: Some(4) }, &[()]);
        assert_eq!(seen.stuck.expect("nothing leads from 4 to 9").lines.len(), 0);
    }
}
