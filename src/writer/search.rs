//! Which rows of a batch the database refuses: what `bisect.rs` decides to try is tried here.

use std::ops::{Range, RangeInclusive};
use std::time::Instant;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::Int64Type;

use super::{Keep, Work, Writer, Wrote};
use crate::bisect::{Search, Step};
use crate::error::{Error, ErrorKind};
use crate::keyed::Keyed;
use crate::metrics;
use crate::mssql::trials::Staged;
use crate::trouble::Trouble;

/// In a request with more of them the server would mostly look at their positions. So many are tried only where rows are
/// bad beside each other.
const MOST_RANGES: usize = 64;

/// The rows of a batch on trial by key.
#[derive(Debug, Default)]
pub(super) struct OnTrial {
    /// The session that holds them, once one does.
    pub(super) staged: Option<Staged>,
    /// They are being loaded into its temporary table.
    pub(super) is_staging: bool,
    /// The temporary table does not take them all: rows are bad by themselves, and are found by loads of their own.
    is_refused: bool,
}

/// The rows of a batch by key, in the order of their positions in the stream.
struct ByPosition {
    rows: RecordBatch,
    positions: Int64Array,
    /// Where each of them stands in the batch, if not in this order.
    places: Option<UInt32Array>,
}

impl ByPosition {
    /// `None` where the rows have no positions.
    fn new(rows: &RecordBatch, column: usize) -> Option<Self> {
        let positions = rows.columns().get(column)?.as_primitive_opt::<Int64Type>()?;
        if positions.null_count() > 0 {
            return None;
        }
        let is_rising = |positions: &Int64Array| positions.values().is_sorted_by(|one, next| one < next);
        if is_rising(positions) {
            return Some(Self { rows: rows.clone(), positions: positions.clone(), places: None });
        }
        // Some were delivered again. This copies the batch, for the time of the search.
        let mut places: Vec<u32> = (0..u32::try_from(rows.num_rows()).ok()?).collect();
        places.sort_by_key(|place| positions.value(*place as usize));
        let places = UInt32Array::from(places);
        let rows = arrow::compute::take_record_batch(rows, &places).ok()?;
        let positions = rows.column(column).as_primitive_opt::<Int64Type>()?.clone();
        is_rising(&positions).then_some(Self { rows, positions, places: Some(places) })
    }

    /// Where a row stands in the batch.
    fn place(&self, row: usize) -> usize {
        self.places.as_ref().map_or(row, |places| places.value(row) as usize)
    }

    /// The positions of some rows, of which there is one at least in each range.
    fn of(&self, ranges: &[Range<usize>]) -> Vec<RangeInclusive<i64>> {
        let position = |row: usize| self.positions.value(row);
        ranges.iter().map(|range| position(range.start)..=position(range.end - 1)).collect()
    }
}

/// Why a row was refused. Rows that were refused with one number were refused alike, within a batch and over batches.
#[derive(Debug, Clone)]
struct Refusal(Error);

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind == other.0.kind
    }
}

/// Why the bad rows that a search has found were refused, for as long as somebody asks.
fn kinds(search: &Search<Refusal>) -> impl Iterator<Item = ErrorKind> + '_ {
    search.bad().iter().map(|(_, Refusal(why))| why.kind.clone())
}

impl Writer {
    /// Finds the rows that the server refuses, of which there is one at least, and loads the others in one transaction,
    /// of which `keep` says what becomes. [`Wrote::Refused`] where the rows are not to blame, or not alone, and it was
    /// waited for a while.
    pub async fn without_bad_rows(
        &self,
        rows: &RecordBatch,
        error: Error,
        keep: Keep<'_>,
        trouble: &mut Trouble,
        refused: &mut Vec<(usize, Error)>,
    ) -> Wrote {
        let started = Instant::now();
        let by_position = self.by_position(rows);
        let (rows, mut on_trial) = (by_position.as_ref().map_or(rows, |by| &by.rows), OnTrial::default());
        let mut search = Search::new(rows.num_rows(), Refusal(error));
        let searched = self.refusals.begin(rows.num_rows());
        let mut loads = 0;
        loop {
            let step = match searched.found(kinds(&search)) {
                Some((refused, of)) => Step::GiveUp { refused, of },
                None => search.step(),
            };
            let (ranges, keep) = match &step {
                Step::Try(ranges) => (ranges, Keep::No),
                Step::Write(ranges) => (ranges, keep),
                Step::GiveUp { refused, of } => {
                    self.clear(&mut on_trial).await;
                    // What is found of this batch is found again, and must not count beside itself.
                    drop(searched);
                    let error =
                        Error::rows_refused(search.last_reason().map(|Refusal(why)| why), *refused, *of);
                    let next = trouble.met(&error);
                    tokio::select! {
                        () = tokio::time::sleep(next.wait) => {}
                        () = self.shutdown.forced() => return Wrote::GaveUp,
                    }
                    self.reload_target().await;
                    return Wrote::Refused(error);
                }
            };
            let was_last = matches!(step, Step::Write(_));
            loads += 1;
            let tried = match &by_position {
                Some(by) if !was_last && ranges.len() <= MOST_RANGES => {
                    self.try_by_position(by, ranges, &mut on_trial, trouble).await
                }
                _ => None,
            };
            let wrote = match tried {
                Some(wrote) => wrote,
                None if ranges.is_empty() => Wrote::NoneLeft,
                None => {
                    self.clear(&mut on_trial).await;
                    let parts: Vec<RecordBatch> =
                        ranges.iter().map(|range| rows.slice(range.start, range.len())).collect();
                    self.load(&parts, keep, trouble).await
                }
            };
            match wrote {
                Wrote::Refused(error) => search.refused(Refusal(error)),
                Wrote::TriedOut if !was_last => {
                    search.accepted();
                }
                Wrote::Committed(_) | Wrote::TriedOut | Wrote::NoneLeft => {
                    let place = |row: usize| by_position.as_ref().map_or(row, |by| by.place(row));
                    let bad = search.bad().iter().map(|(row, Refusal(why))| (place(*row), why.clone()));
                    refused.extend(bad);
                    searched.over(kinds(&search));
                    metrics::bisected(&self.pipeline, loads, started.elapsed());
                    tracing::warn!(
                        pipeline = %self.pipeline, batch_rows = rows.num_rows(), refused = refused.len(), loads,
                        "the database refused rows, which go to the dead-letter stream: the others are written"
                    );
                    return wrote;
                }
                Wrote::TooMany | Wrote::Superseded | Wrote::GaveUp => return wrote,
            }
        }
    }

    /// Lets go of the session and of the merges' lock: the search is over, or another session needs them. A forced stop
    /// does not wait for that, and the server clears what is thrown away.
    async fn clear(&self, on_trial: &mut OnTrial) {
        let Some(staged) = on_trial.staged.take() else { return };
        let cleared = tokio::select! {
            cleared = staged.clear() => cleared,
            () = self.shutdown.forced() => return,
        };
        if let Err(error) = cleared {
            tracing::debug!(
                pipeline = %self.pipeline, error = %error, "the session of a search could not be used again"
            );
        }
    }

    /// The rows by their positions, where they are written by key: those are told from each other by it.
    fn by_position(&self, rows: &RecordBatch) -> Option<ByPosition> {
        let sequence = Keyed::of(&self.config, &self.schema)?.sequence;
        let column = self.schema.columns().iter().position(|column| column.name == sequence)?;
        ByPosition::new(rows, column)
    }

    /// Tries some rows by key. `None` where the temporary table does not take all rows of the batch: then it is one of
    /// those that are bad, and parts are tried as loads of their own.
    async fn try_by_position(
        &self,
        by: &ByPosition,
        ranges: &[Range<usize>],
        on_trial: &mut OnTrial,
        trouble: &mut Trouble,
    ) -> Option<Wrote> {
        if on_trial.is_refused {
            return None;
        }
        let positions = by.of(ranges);
        let work = Work::Trial { rows: &by.rows, positions: &positions, on_trial };
        let wrote = self.work(work, trouble).await;
        on_trial.is_refused = on_trial.is_staging && matches!(wrote, Wrote::Refused(_));
        (!on_trial.is_refused).then_some(wrote)
    }
}
