//! A model of its own for `partitions change`: rows of progress that are replaced by those of another layout while
//! workers that read the old ones are still there.
//!
//! How one transaction is committed is the subject of the other model. Here a worker is what it has read and what it
//! will ask for: a compare-and-set that takes all of its partition's events up to a sequence, at any later moment.

use std::fmt::{Display, Formatter, Result};
use std::mem::{Discriminant, discriminant};

use super::search::{Model, Step};

const LAST: u8 = 4;

/// Which partition each sequence belongs to, before the change and after it.
const OWNERS: [[usize; LAST as usize]; 2] = [[0, 1, 0, 1], [0, 0, 1, 1]];

fn belongs(layout: usize, partition: usize, sequence: u8) -> bool {
    OWNERS[layout][usize::from(sequence) - 1] == partition
}

/// The decisions, and what is left when one is taken out.
#[derive(Clone, Copy, Debug)]
pub struct LayoutDesign {
    /// The compare-and-set is refused where it would pass the barrier.
    pub barrier_compared: bool,
    /// The compare-and-set is refused where the layout is another one.
    pub layout_compared: bool,
    /// The layout changes when every partition stands exactly at the barrier, and not only at it or after it.
    pub all_at_barrier: bool,
    /// The barrier is chosen and set in one transaction that holds all rows of progress.
    pub barrier_set_under_lock: bool,
}

pub const SOUND_LAYOUT: LayoutDesign = LayoutDesign {
    barrier_compared: true,
    layout_compared: true,
    all_at_barrier: true,
    barrier_set_under_lock: true,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutPromise {
    NotTwice,
    /// Each partition's events up to its progress are in the table, by the layout that holds now.
    NothingLost,
}

pub const LAYOUT_PROMISES: &[LayoutPromise] = &[LayoutPromise::NotTwice, LayoutPromise::NothingLost];

/// A worker that will ask for progress to go from `previous` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Writer {
    layout: usize,
    partition: usize,
    previous: u8,
    last: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Layouts {
    layout: usize,
    progress: [u8; 2],
    barrier: Option<u8>,
    /// A barrier that was chosen and is not set yet. Only where it is not set under the lock, which is a mistake.
    chosen: Option<u8>,
    rows: [u8; LAST as usize],
    /// Sorted.
    writers: [Option<Writer>; 2],
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Read(Writer),
    Written(Writer),
    Refused(Writer),
    BarrierChosen(u8),
    BarrierSet(u8),
    LayoutChanged,
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let name = |layout: usize| if layout == 0 { "old" } else { "new" };
        let (verb, Writer { layout, partition, previous, last }) = match self {
            Self::Read(writer) => ("reads progress and prepares a batch", writer),
            Self::Written(writer) => ("commits", writer),
            Self::Refused(writer) => ("is refused, begins again", writer),
            Self::BarrierChosen(at) => return write!(f, "the command chooses the barrier {at}"),
            Self::BarrierSet(at) => return write!(f, "the command sets the barrier {at}"),
            Self::LayoutChanged => return write!(f, "the command changes the layout"),
        };
        write!(
            f,
            "the worker of partition {partition} of the {} layout {verb}: from {previous} to {last}",
            name(*layout)
        )
    }
}

impl LayoutDesign {
    fn accepts(&self, state: &Layouts, writer: Writer) -> bool {
        state.progress[writer.partition] == writer.previous
            && (!self.layout_compared || state.layout == writer.layout)
            && (!self.barrier_compared || state.barrier.is_none_or(|barrier| writer.last <= barrier))
    }

    fn command_steps(&self, state: &Layouts) -> Vec<(Change, Layouts)> {
        let foremost = state.progress.into_iter().max().unwrap_or(0);
        match (state.layout, state.barrier, state.chosen) {
            (0, None, None) => (foremost..=LAST)
                .map(|at| {
                    if self.barrier_set_under_lock {
                        (Change::BarrierSet(at), Layouts { barrier: Some(at), ..state.clone() })
                    } else {
                        (Change::BarrierChosen(at), Layouts { chosen: Some(at), ..state.clone() })
                    }
                })
                .collect(),
            (0, None, Some(at)) => {
                vec![(Change::BarrierSet(at), Layouts { barrier: Some(at), ..state.clone() })]
            }
            (0, Some(barrier), _) => {
                let there = state.progress.iter().all(|progress| {
                    if self.all_at_barrier { *progress == barrier } else { *progress >= barrier }
                });
                let changed = Layouts {
                    layout: 1,
                    progress: [barrier; 2],
                    barrier: None,
                    chosen: None,
                    ..state.clone()
                };
                if there { vec![(Change::LayoutChanged, changed)] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }
}

/// A worker with a place among the writers reads a row of progress. It knows of the barrier what it saw there.
fn readers(state: &Layouts) -> Vec<(Change, Layouts)> {
    if state.writers.iter().all(Option::is_some) {
        return Vec::new();
    }
    let mut list = Vec::new();
    for (partition, previous) in state.progress.into_iter().enumerate() {
        for last in previous + 1..=state.barrier.unwrap_or(LAST) {
            let writer = Writer { layout: state.layout, partition, previous, last };
            let mut after = state.clone();
            // sorted, an empty place is the first
            after.writers[0] = Some(writer);
            after.writers.sort_unstable();
            list.push((Change::Read(writer), after));
        }
    }
    list
}

fn written(state: &mut Layouts, writer: Writer) {
    state.progress[writer.partition] = writer.last;
    for sequence in writer.previous + 1..=writer.last {
        if belongs(writer.layout, writer.partition, sequence) {
            let rows = &mut state.rows[usize::from(sequence) - 1];
            *rows = (*rows + 1).min(2);
        }
    }
}

impl Model for LayoutDesign {
    type State = Layouts;
    type Action = Change;
    type Promise = LayoutPromise;
    type Kind = Discriminant<Change>;

    fn initial(&self) -> Layouts {
        Layouts {
            layout: 0,
            progress: [0; 2],
            barrier: None,
            chosen: None,
            rows: [0; LAST as usize],
            writers: [None; 2],
        }
    }

    fn steps(&self, state: &Layouts) -> Vec<Step<Self>> {
        let mut list = self.command_steps(state);
        list.extend(readers(state));
        for (index, writer) in state.writers.iter().enumerate() {
            let Some(writer) = *writer else { continue };
            let mut after = state.clone();
            after.writers[index] = None;
            after.writers.sort_unstable();
            if self.accepts(state, writer) {
                written(&mut after, writer);
                list.push((Change::Written(writer), after));
            } else {
                list.push((Change::Refused(writer), after));
            }
        }
        list.into_iter().map(|(action, after)| Step { action, fault: false, after }).collect()
    }

    fn broken(&self, _before: &Layouts, step: &Step<Self>) -> Vec<LayoutPromise> {
        let state = &step.after;
        let mut broken = Vec::new();
        if state.rows.iter().any(|rows| *rows > 1) {
            broken.push(LayoutPromise::NotTwice);
        }
        let lost = state.progress.iter().enumerate().any(|(partition, progress)| {
            (1..=*progress).any(|sequence| {
                belongs(state.layout, partition, sequence) && state.rows[usize::from(sequence) - 1] == 0
            })
        });
        if lost {
            broken.push(LayoutPromise::NothingLost);
        }
        broken
    }

    fn kind(&self, action: &Change) -> Discriminant<Change> {
        discriminant(action)
    }

    fn done(&self, state: &Layouts) -> bool {
        state.layout == 1 && state.progress == [LAST; 2]
    }
}
