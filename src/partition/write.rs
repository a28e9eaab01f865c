//! Writing the batches of a partition, each with the progress that it leads to.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use uuid::Uuid;

use super::{Flow, Partition};
use crate::decode::Decoded;
use crate::delivery::{Batch, Event};
use crate::error::Error;
use crate::mssql::commit::{Commit, Receipt, Step};
use crate::nats::dead_letter::Reason;
use crate::trouble::Trouble;
use crate::writer::{Keep, Wrote, refusal, undecodable};

/// Some rows of a batch that are committed together.
struct Part<'a> {
    batch: &'a Batch,
    decoded: &'a Decoded,
    rows: Range<usize>,
    from: u64,
    to: u64,
}

impl Part<'_> {
    /// The first event behind where the part begins: one that became no row belongs to the part that passes it.
    fn first_event(&self) -> Option<&Event> {
        let behind = self.batch.events.partition_point(|event| event.stream_sequence <= self.from);
        self.batch.events.get(behind)
    }

    fn last_event(&self) -> Option<&Event> {
        let behind = self.batch.events.partition_point(|event| event.stream_sequence <= self.to);
        self.batch.events.get(behind.checked_sub(1)?)
    }
}

impl Partition {
    /// Writes a batch, in one transaction where the server takes it so.
    pub(super) async fn write_batch(&self, batch: &Batch, decoded: &Decoded, at: &mut u64) -> Flow {
        let writer = &self.shared.writer;
        let Some(end) = batch.events.last().map(|event| event.stream_sequence) else { return Flow::Goes };
        // Before anything passes them: what is not confirmed is not passed.
        let rejected = undecodable(batch, decoded);
        if !rejected.is_empty() && writer.dead_letter(&rejected).await.is_none() {
            return Flow::GaveUp;
        }
        let total = decoded.rows.num_rows();
        let (mut first, mut most) = (0, total.max(1));
        loop {
            let rows = first..total.min(first + most);
            let to = match row_event(batch, decoded, rows.end.wrapping_sub(1)) {
                Some(event) if rows.end < total => event.stream_sequence,
                _ => end,
            };
            let mut trouble = writer.trouble();
            let mut refused = Vec::new();
            let part = Part { batch, decoded, rows: rows.clone(), from: *at, to };
            match self.write_part(&part, &mut refused, &mut trouble).await {
                Wrote::Committed(_) => {
                    trouble.over();
                    *at = to;
                    let is_refused = |row: &usize| refused.binary_search_by_key(row, |(bad, _)| *bad).is_ok();
                    let good = rows.clone().filter(|row| !is_refused(&(row - first)));
                    let events = good.filter_map(|row| decoded.row_events.get(row).copied());
                    writer.committed(batch, events, rows.len() - refused.len());
                    first = rows.end;
                    most = most.saturating_mul(2);
                    if first >= total {
                        return Flow::Goes;
                    }
                }
                Wrote::TooMany => most = rows.len().div_ceil(2).max(1),
                // what was found of such rows is found again
                Wrote::Refused(_) | Wrote::TriedOut | Wrote::NoneLeft => {}
                Wrote::Superseded => return Flow::Superseded,
                Wrote::GaveUp => return Flow::GaveUp,
            }
        }
    }

    /// Commits rows with the progress that they lead to. Where the server refuses some, those are confirmed by the
    /// dead-letter stream first, and the others are committed then.
    async fn write_part(
        &self,
        part: &Part<'_>,
        refused: &mut Vec<(usize, Error)>,
        trouble: &mut Trouble,
    ) -> Wrote {
        let writer = &self.shared.writer;
        // A stop that forces is noticed inside.
        let _place = writer.writers.place().await;
        let rows = part.decoded.rows.slice(part.rows.start, part.rows.len());
        let commit = self.commit(part);
        let error = match writer.load(std::slice::from_ref(&rows), Keep::Yes(&commit), trouble).await {
            Wrote::Refused(error) => error,
            other => return other,
        };
        // Where another worker has committed these rows, or an earlier try of this one has come through, a unique index
        // refuses them now. That shows in the progress, and not before it does in the index.
        if let Some(ended) = self.unless_at(part.from).await {
            return ended;
        }
        match writer.without_bad_rows(&rows, error, Keep::No, trouble, refused).await {
            Wrote::TriedOut | Wrote::NoneLeft => {}
            other => return other,
        }
        if let Some(ended) = self.unless_at(part.from).await {
            return ended;
        }
        let rejected: Vec<(&Event, Reason)> = refused
            .iter()
            .filter_map(|(row, why)| {
                Some((row_event(part.batch, part.decoded, part.rows.start + row)?, refusal(why)))
            })
            .collect();
        if writer.dead_letter(&rejected).await.is_none() {
            return Wrote::GaveUp;
        }
        let commit = self.commit(part);
        writer.load(&without(&rows, refused), Keep::Yes(&commit), trouble).await
    }

    /// What ends the writing of a part where the progress is not where it begins any more.
    async fn unless_at(&self, from: u64) -> Option<Wrote> {
        match self.is_still_at(from).await {
            Flow::Goes => None,
            Flow::Superseded => Some(Wrote::Superseded),
            Flow::GaveUp => Some(Wrote::GaveUp),
        }
    }

    fn commit(&self, part: &Part<'_>) -> Commit {
        let last = part.last_event();
        let step = self.step(part.from, part.to, last.map(|event| event.published_at));
        let receipt = self.shared.writer.config.receipts.as_ref().and_then(|_| {
            let first = part.first_event()?;
            Some(Receipt {
                pipeline: Arc::clone(&self.shared.writer.pipeline),
                table: self.shared.writer.config.table.quoted(),
                partition: Some(self.position.partition),
                batch: step.batch,
                previous: Some(part.from),
                sequences: (first.stream_sequence, part.to),
                published_at: (first.published_at, last?.published_at),
            })
        });
        Commit { progress: Some(step), receipt }
    }

    pub(super) fn step(&self, from: u64, to: u64, published_at: Option<i64>) -> Step {
        Step { position: Arc::clone(&self.position), from, to, published_at, batch: Uuid::new_v4() }
    }
}

fn row_event<'a>(batch: &'a Batch, decoded: &Decoded, row: usize) -> Option<&'a Event> {
    batch.events.get(*decoded.row_events.get(row)? as usize)
}

/// The rows between those that are refused, which are in their order.
fn without(rows: &RecordBatch, refused: &[(usize, Error)]) -> Vec<RecordBatch> {
    let mut parts = Vec::with_capacity(refused.len() + 1);
    let mut from = 0;
    for bad in refused.iter().map(|(row, _)| *row).chain([rows.num_rows()]) {
        if bad > from {
            parts.push(rows.slice(from, bad - from));
        }
        from = bad + 1;
    }
    parts
}
