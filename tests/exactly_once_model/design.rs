//! What a run of the model is about: the design's decisions, each of which can be taken out, and the world around.

/// How the statement that moves progress protects itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compare {
    /// `WHERE stream_sequence = @previous AND @last > stream_sequence`.
    Exact,
    /// `WHERE @last > stream_sequence` alone.
    OnlyForward,
    Nothing,
}

/// What a worker does that does not know whether its transaction was committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolve {
    /// Reads progress `WITH (UPDLOCK, READCOMMITTEDLOCK)`: waits for whoever holds the row.
    Locking,
    /// Reads the version that was committed last, past any lock.
    Plain,
    AssumeNotCommitted,
    AssumeCommitted,
}

/// The decisions. [`SOUND`] has them as the sink has them.
#[derive(Clone, Copy, Debug)]
pub struct Design {
    pub compare: Compare,
    pub resolve: Resolve,
    /// Rows and progress are committed together.
    pub one_transaction: bool,
    /// The batch that commits throws unless `XACT_STATE() = 1`.
    pub transaction_checked: bool,
    /// After an error the connection is thrown away.
    pub new_connection: bool,
    /// Dead letters are confirmed before the transaction that passes them.
    pub letters_first: bool,
    /// One subject for each sequence, published with "expected last subject sequence 0".
    pub one_subject_a_letter: bool,
    /// What is not after everything that was received before is refused.
    pub old_refused: bool,
    /// The consumer's own sequence has to go up by one from each delivery to the next.
    pub jump_check: bool,
    /// What the consumer says it has delivered is held against what arrived.
    pub tail_check: bool,
    /// The stream's tail that an idle partition advances to is looked at before the empty pull.
    pub tail_before_pull: bool,
    /// The stream's creation time is looked at when the consumer is there already.
    pub identity_after_consumer: bool,
    /// A worker without a batch looks at progress from time to time, and begins again where it is not its own.
    pub progress_watched: bool,
}

pub const SOUND: Design = Design {
    compare: Compare::Exact,
    resolve: Resolve::Locking,
    one_transaction: true,
    transaction_checked: true,
    new_connection: true,
    letters_first: true,
    one_subject_a_letter: true,
    old_refused: true,
    jump_check: true,
    tail_check: true,
    tail_before_pull: true,
    identity_after_consumer: true,
    progress_watched: true,
};

/// What stands in the stream at one sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Good,
    /// Every worker finds it bad.
    Bad,
    /// Each worker that looks at it may find it good or bad.
    Doubtful,
    /// Belongs to another partition: this one's consumer passes over it.
    Elsewhere,
}

impl Event {
    pub fn is_ours(self) -> bool {
        self != Self::Elsewhere
    }
}

/// The world around, and the bounds of the search.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The events at sequences 1, 2, ….
    pub stream: &'static [Event],
    /// How many of them are there at the start. The others are published at any moment.
    pub published: u8,
    /// Up to three.
    pub workers: u8,
    /// How many transactions may be under way at once whose worker has lost its connection to them: at most two.
    pub orphans: u8,
    /// A worker receives one event ahead while a batch is under way.
    pub ahead: bool,
    /// The client may replace a reader by one that begins at 1, as ready-made ordered consumers may.
    pub replaced_reader: bool,
    /// The stream may be deleted and made anew under its name, once.
    pub recreated: bool,
    /// The database may lose its last commits, whole, in a failover.
    pub loses_commits: bool,
}
