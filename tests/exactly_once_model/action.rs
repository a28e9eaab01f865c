//! What can happen, in words.

use std::fmt::{Display, Formatter, Result};

use super::state::{Batch, Sequences};

/// Who acts, or to whom it happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    Worker(usize),
    /// A transaction that nobody is connected to.
    Orphan(usize),
    World,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    // the world
    Published(u8),
    StreamMadeAnew,
    CommitsLost { back_to: u8 },
    // a worker and its reader
    Begun { progress: u8 },
    ProgressRead { progress: u8 },
    ReaderOpened { next: u8 },
    IdentityRefused,
    IdentityAccepted,
    Delivered(u8),
    DeliveryLost(u8),
    ReaderReplaced,
    OldRefused(u8),
    JumpFound(u8),
    TailMismatchFound,
    TailSeen(u8),
    PullEmpty,
    // a worker and its batch
    Cut(Batch),
    LetterConfirmed(u8),
    LetterUnconfirmed(u8),
    LetterRepeated(u8),
    Loaded(Sequences),
    LoadedWithoutTransaction(Sequences),
    ErrorNoticed,
    CommitSent,
    ConnectionLost,
    AnswerCommitted,
    AnswerRefused,
    AnswerError,
    FoundCommitted { progress: u8 },
    FoundNotCommitted { progress: u8 },
    FoundElsewhere { progress: u8 },
    AssumedCommitted,
    AssumedNotCommitted,
    Crashed,
    // the database
    TransactionLost,
    CompareRefused,
    ProgressLocked,
    ProgressMovedAlone,
    CommitDone { from: u8, to: u8 },
    RolledBack,
}

#[derive(Clone, Copy, Debug)]
pub struct Action {
    pub whose: Whose,
    pub what: What,
}

const NAMES: [&str; 3] = ["A", "B", "C"];

struct Listed(Sequences);

impl Display for Listed {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let listed: Vec<_> = self.0.iter().map(|sequence| sequence.to_string()).collect();
        if listed.is_empty() { write!(f, "none") } else { write!(f, "{}", listed.join(" and ")) }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.whose {
            Whose::Worker(worker) => write!(f, "{}: ", NAMES[worker])?,
            Whose::Orphan(_) => write!(f, "orphaned transaction: ")?,
            Whose::World => {}
        }
        match self.what {
            What::Published(sequence) => write!(f, "event {sequence} is published"),
            What::StreamMadeAnew => write!(f, "the stream is deleted and made anew"),
            What::CommitsLost { back_to } => {
                write!(f, "the database loses what was committed after {back_to}")
            }
            What::Begun { progress } => {
                write!(
                    f,
                    "claims the partition, reads progress {progress}, opens a reader at {}",
                    progress + 1
                )
            }
            What::ProgressRead { progress } => write!(f, "claims the partition, reads progress {progress}"),
            What::ReaderOpened { next } => write!(f, "opens a reader at {next}"),
            What::IdentityRefused => write!(f, "sees that the stream is another one, and stops"),
            What::IdentityAccepted => write!(f, "sees that the stream is the one it was"),
            What::Delivered(sequence) => write!(f, "receives event {sequence}"),
            What::DeliveryLost(sequence) => write!(f, "the delivery of event {sequence} is lost on the way"),
            What::ReaderReplaced => write!(f, "its reader is replaced by one that begins at 1"),
            What::OldRefused(sequence) => write!(f, "receives event {sequence} again, begins again"),
            What::JumpFound(sequence) => {
                write!(f, "receives event {sequence}, sees the consumer's sequence jump, begins again")
            }
            What::TailMismatchFound => write!(f, "sees that more was sent than has arrived, begins again"),
            What::TailSeen(last) => write!(f, "sees that the stream ends at {last}"),
            What::PullEmpty => write!(f, "pulls, and nothing is there"),
            What::Cut(batch) => write!(
                f,
                "cuts a batch from {} to {}, good: {}, bad: {}",
                batch.previous,
                batch.last,
                Listed(batch.good),
                Listed(batch.bad)
            ),
            What::LetterConfirmed(sequence) => write!(f, "the dead letter of event {sequence} is confirmed"),
            What::LetterUnconfirmed(sequence) => {
                write!(f, "the dead letter of event {sequence} is stored, the confirmation is lost")
            }
            What::LetterRepeated(sequence) => {
                write!(f, "beyond the duplicate window, a second dead letter of event {sequence} is stored")
            }
            What::Loaded(rows) => write!(f, "begins a transaction and loads rows: {}", Listed(rows)),
            What::LoadedWithoutTransaction(rows) => {
                write!(f, "loads again on the same connection, without a transaction: {}", Listed(rows))
            }
            What::ErrorNoticed => write!(f, "gets an error, throws the connection away"),
            What::CommitSent => write!(f, "sends the update of progress and COMMIT"),
            What::ConnectionLost => write!(f, "loses the connection: outcome unknown"),
            What::AnswerCommitted => write!(f, "is told that it is committed"),
            What::AnswerRefused => write!(f, "is told that progress stands elsewhere, begins again"),
            What::AnswerError => write!(f, "is told that it was rolled back, tries again"),
            What::FoundCommitted { progress } => write!(f, "reads progress {progress}: it is in"),
            What::FoundNotCommitted { progress } => {
                write!(f, "reads progress {progress}: not in, tries again")
            }
            What::FoundElsewhere { progress } => write!(f, "reads progress {progress}: begins again"),
            What::AssumedCommitted => write!(f, "takes it for committed"),
            What::AssumedNotCommitted => write!(f, "takes it for not committed, tries again"),
            What::Crashed => write!(f, "crashes"),
            What::TransactionLost => write!(f, "the server rolls the transaction back"),
            What::CompareRefused => write!(f, "the server finds no row of progress to update, rolls back"),
            What::ProgressLocked => write!(f, "the server updates progress and holds its row"),
            What::ProgressMovedAlone => write!(f, "the server updates progress outside any transaction"),
            What::CommitDone { from, to } => write!(f, "the server commits: progress from {from} to {to}"),
            What::RolledBack => write!(f, "the server rolls back what it was to commit"),
        }
    }
}
