//! Parts of a batch on trial by key: its rows are loaded once, and a trial is one request.
//!
//! A search through a batch takes thousands of trials where a hundredth of its rows is bad. As loads of their own each
//! would be six round trips, and would wait for the merges of all other batches. So the search holds the merges' lock
//! while it tries, for a second at most before the others have their turn.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::mssql::bulk;
use crate::mssql::commit::{Rows, step};
use crate::mssql::connect::Leased;
use crate::mssql::execute;
use crate::mssql::statements::Trials;

/// For so long trials keep the others from merging, about as long as these keep each other.
const TURN: Duration = Duration::from_secs(1);

/// A session that holds the rows of a batch in a temporary table.
#[derive(Debug)]
pub struct Staged {
    leased: Leased,
    trials: Trials,
    patience: Duration,
    statement: Duration,
    locked_at: Option<Instant>,
}

impl Staged {
    /// Loads the rows.
    ///
    /// # Errors
    ///
    /// The server's, and the connection's; [`ErrorKind::Internal`] where the rows are not written by key. The session is
    /// thrown away then.
    pub async fn load(mut leased: Leased, rows: Rows<'_>) -> Result<Self> {
        let Rows { target, schema, parts, deadlines } = rows;
        let Some(stage) = &target.stage else {
            return Err(Error::new(Phase::Load, ErrorKind::Internal, "trials by key of rows without one"));
        };
        let session = leased.session()?;
        let create = execute(session, &stage.create);
        step(Phase::Load, deadlines.statement, "creating the temporary table", create).await?;
        bulk::load(session, target, schema, parts, deadlines).await?;
        let prepare = stage.trials.prepare();
        let prepare = execute(session, &prepare);
        step(Phase::Load, deadlines.commit, "preparing the temporary table", prepare).await?;
        let trials = stage.trials.clone();
        let (patience, statement) = (deadlines.commit, deadlines.statement);
        Ok(Self { leased, trials, patience, statement, locked_at: None })
    }

    /// Merges the rows at these positions of the stream, and takes it back. What can go on is given back, too.
    pub async fn attempt(mut self, positions: &[RangeInclusive<i64>]) -> (Option<Self>, Result<()>) {
        let tried = self.try_out(positions).await;
        // After an answer of the server the session is between two requests, and what was begun is rolled back.
        let is_usable = match &tried {
            Ok(()) => true,
            Err(error) => matches!(error.kind, ErrorKind::Server { class: ..20, .. }),
        };
        (is_usable.then_some(self), tried)
    }

    async fn try_out(&mut self, positions: &[RangeInclusive<i64>]) -> Result<()> {
        if self.locked_at.is_some_and(|at| at.elapsed() > TURN) {
            self.unlock().await?;
        }
        if self.locked_at.is_none() {
            let lock = self.trials.lock(self.patience);
            let lock = execute(self.leased.session()?, &lock);
            step(Phase::Load, 2 * self.patience, "waiting for the merges of others", lock).await?;
            self.locked_at = Some(Instant::now());
        }
        let text = self.trials.text(positions);
        let trial = execute(self.leased.session()?, &text);
        step(Phase::Load, 2 * self.patience, "merging rows on trial", trial).await
    }

    async fn unlock(&mut self) -> Result<()> {
        let unlock = self.trials.unlock();
        let unlock = execute(self.leased.session()?, &unlock);
        step(Phase::Load, self.statement, "letting others merge", unlock).await?;
        self.locked_at = None;
        Ok(())
    }

    /// Lets others merge, and gives the session back as it was.
    ///
    /// # Errors
    ///
    /// The server's, and the connection's. The session is thrown away then, and the server has cleared it.
    pub async fn clear(mut self) -> Result<()> {
        if self.locked_at.is_some() {
            self.unlock().await?;
        }
        let clear = Trials::clear();
        let clear = execute(self.leased.session()?, &clear);
        step(Phase::Load, self.statement, "dropping the temporary table", clear).await?;
        self.leased.give_back();
        Ok(())
    }
}
