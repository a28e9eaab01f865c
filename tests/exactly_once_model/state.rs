//! The states: what stands in NATS, in the database and in the memory of each worker.
//!
//! The lease is not among them. It may expire at any moment, and then another worker claims the partition: a worker
//! that may begin at any moment does all of that. The figures are sequences of the stream, 0 for "before the first".

/// The longest stream of a run.
pub const LONGEST: usize = 5;

/// A set of sequences.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Sequences(u8);

impl Sequences {
    pub fn of(sequences: impl IntoIterator<Item = u8>) -> Self {
        sequences.into_iter().fold(Self::default(), |set, sequence| set.with(sequence))
    }

    pub fn with(self, sequence: u8) -> Self {
        Self(self.0 | 1 << sequence)
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |sequence| self.0 & 1 << sequence != 0)
    }

    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What one transaction takes from `previous` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Batch {
    pub previous: u8,
    pub last: u8,
    pub good: Sequences,
    pub bad: Sequences,
    /// Received from the stream that was made anew.
    pub second_life: bool,
}

/// A consumer of a worker's own, without acknowledgements, and what the worker knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reader {
    /// The first sequence of the stream that the server has not sent yet.
    pub next: u8,
    /// Sent by the server: the consumer's own sequence.
    pub sent: u8,
    /// The consumer's own sequence of the last delivery that arrived.
    pub arrived: u8,
    /// Of the stream that was made anew. A consumer is gone with its stream.
    pub second_life: bool,
}

/// What a worker knows of the end of the stream while nothing arrives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Tail {
    Unknown,
    /// The stream's last sequence was this, before the pull that is open.
    Seen(u8),
    /// A pull found nothing. Only where the tail is looked at after it, which is a mistake.
    PullWasEmpty,
}

/// Where the server is with the statements that end a transaction. The last four are answers under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Session {
    /// On their way, or waiting for the row of progress. `open` is whether there still is a transaction.
    Sent {
        open: bool,
    },
    /// Progress is updated and its row locked. What is left is the commit.
    Locked,
    Committed,
    /// No row of progress was as it should be: rolled back.
    Refused,
    /// Rolled back for any other reason.
    RolledBack,
}

/// What a worker does with its batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Work {
    /// It has none yet.
    Collecting,
    /// Decoded. `owed` are the bad events without a confirmed dead letter.
    Ready {
        batch: Batch,
        owed: Sequences,
    },
    /// The rows are in an open transaction, or were: the server may have rolled it back already.
    Loaded {
        batch: Batch,
        open: bool,
    },
    Waiting {
        batch: Batch,
        session: Session,
    },
    Unknown {
        batch: Batch,
    },
    /// Committed with dead letters still to be published. Only where they come last, which is a mistake.
    Owing {
        owed: Sequences,
    },
}

/// The memory of a worker that has the partition, or takes itself to have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Active {
    /// Where it takes progress to stand.
    pub progress: u8,
    pub reader: Reader,
    /// Received and in no batch.
    pub held: Sequences,
    pub tail: Tail,
    pub work: Work,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Worker {
    /// Dead, or without the partition: it remembers nothing.
    Idle,
    /// Has read progress, and has a consumer if `reader` says so. Only where the stream may be made anew.
    Opening {
        progress: u8,
        reader: Option<Reader>,
    },
    Active(Active),
}

/// A transaction whose worker has lost the connection to it, or its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Orphan {
    pub batch: Batch,
    pub session: Session,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The stream's last sequence.
    pub published: u8,
    /// The stream was deleted and made anew.
    pub second_life: bool,
    /// How often the event of each sequence is in the table, up to 2.
    pub rows: [u8; LONGEST + 1],
    /// An event of the stream that was made anew is in the table.
    pub foreign_row: bool,
    /// Committed.
    pub progress: u8,
    /// How many dead letters there are for the event of each sequence, up to 2.
    pub letters: [u8; LONGEST + 1],
    pub workers: [Worker; 3],
    /// Sorted: which is which does not matter.
    pub orphans: [Option<Orphan>; 2],
}

impl Active {
    /// The last sequence that was received, or that progress was at when the reader began.
    pub fn received(&self) -> u8 {
        let of_batch = match self.work {
            Work::Ready { batch, .. }
            | Work::Loaded { batch, .. }
            | Work::Waiting { batch, .. }
            | Work::Unknown { batch } => batch.last,
            Work::Collecting | Work::Owing { .. } => 0,
        };
        self.held.iter().last().unwrap_or(0).max(of_batch).max(self.progress)
    }
}

impl State {
    pub fn initial(published: u8) -> Self {
        Self {
            published,
            second_life: false,
            rows: [0; LONGEST + 1],
            foreign_row: false,
            progress: 0,
            letters: [0; LONGEST + 1],
            workers: [Worker::Idle; 3],
            orphans: [None; 2],
        }
    }

    /// Whether a transaction holds the lock on the row of progress.
    pub fn is_locked(&self) -> bool {
        let of_workers = self.workers.iter().any(|worker| {
            let Worker::Active(active) = worker else { return false };
            matches!(active.work, Work::Waiting { session: Session::Locked, .. })
        });
        of_workers || self.orphans.iter().flatten().any(|orphan| orphan.session == Session::Locked)
    }

    /// Leaves a transaction to itself.
    pub fn adopt(&mut self, orphan: Orphan) {
        if let Some(free) = self.orphans.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(orphan);
        }
        self.orphans.sort_unstable();
    }

    pub fn insert(&mut self, batch: Batch) {
        if batch.second_life {
            self.foreign_row |= !batch.good.is_empty();
            return;
        }
        for sequence in batch.good.iter() {
            let rows = &mut self.rows[usize::from(sequence)];
            *rows = (*rows + 1).min(2);
        }
    }
}
