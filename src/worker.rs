//! One batch after another, where JetStream is told what became of each event: decode, set the bad events aside, write,
//! commit, settle.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use uuid::Uuid;

use crate::batcher::Cut;
use crate::decode::Decoded;
use crate::delivery::{Batch, Claim, Durable, Event};
use crate::error::{Error, Result};
use crate::metrics;
use crate::mssql::commit::{Commit, Receipt};
use crate::nats::dead_letter::Reason;
use crate::nats::settle::Settler;
use crate::writer::{Keep, Writer, Wrote, refusal, undecodable};

/// Takes the batches of one pipeline all the way.
#[derive(Debug)]
pub struct Worker {
    /// Decodes and writes.
    pub writer: Writer,
    /// Acknowledges.
    pub settler: Settler,
}

/// Takes batches until no more come, and returns when the last one is done with. One more batch than there can be
/// writers is in work at a time, so that it can be decoded while the others are written.
pub async fn run(worker: Arc<Worker>, mut batches: mpsc::Receiver<(Batch, Cut)>) {
    let places = Arc::new(Semaphore::new(worker.writer.config.writers.max + 1));
    let mut tasks = JoinSet::new();
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await
        && let Some((batch, cut)) = batches.recv().await
    {
        metrics::batch_cut(&worker.writer.pipeline, batch.len(), batch.bytes, cut.as_str());
        let worker = Arc::clone(&worker);
        tasks.spawn(async move {
            worker.process(batch, cut).await;
            drop(place);
        });
        while let Some(ended) = tasks.try_join_next() {
            report(ended);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        report(ended);
    }
}

/// A batch whose task panicked has dropped its claims, and will be delivered again.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a batch ended by a defect of this program, its events will be delivered again");
    }
}

impl Worker {
    /// Takes one batch all the way. What is not settled when this returns is given back by the claims' drop.
    async fn process(&self, mut batch: Batch, cut: Cut) {
        let decoded = match cut {
            Cut::Suspect => self.writer.decode_suspects(&mut batch).await,
            _ => self.writer.decode(&mut batch).await,
        };
        let Some(decoded) = decoded else { return };
        let mut claims: Vec<Option<Claim>> =
            std::mem::take(&mut batch.claims).into_iter().map(Some).collect();
        if !self.set_aside(&batch, &decoded, &mut claims).await {
            return;
        }
        let row_claims: Vec<Claim> =
            decoded.row_events.iter().filter_map(|event| claims.get_mut(*event as usize)?.take()).collect();
        self.write_all(&batch, &decoded, row_claims).await;
    }

    /// Publishes the bad events to the dead-letter stream, however long that takes, and then acknowledges them.
    /// `false` where the process gave up.
    async fn set_aside(&self, batch: &Batch, decoded: &Decoded, claims: &mut [Option<Claim>]) -> bool {
        if decoded.rejects.is_empty() {
            return true;
        }
        let rejected = undecodable(batch, decoded);
        let done = decoded.rejects.iter().filter_map(|reject| claims.get_mut(reject.event)?.take()).collect();
        self.dead_letter(&rejected, done).await
    }

    /// As [`Writer::dead_letter`], and acknowledges the events then. `false` where the process gave up.
    async fn dead_letter(&self, rejected: &[(&Event, Reason)], claims: Vec<Claim>) -> bool {
        match self.writer.dead_letter(rejected).await {
            Some(durable) => self.acknowledge(claims, &durable).await,
            None => false,
        }
    }

    /// Writes all rows, in one transaction where the server takes them so, and acknowledges what is committed.
    async fn write_all(&self, batch: &Batch, decoded: &Decoded, mut claims: Vec<Claim>) {
        let total = decoded.rows.num_rows();
        let mut first = 0;
        let mut most = total;
        let mut trouble = None;
        // Rows that the server refuses, by their place among those at hand.
        let mut refused: Vec<(usize, Error)> = Vec::new();
        while first < total {
            let rows = decoded.rows.slice(first, most.min(total - first));
            let commit = Commit {
                progress: None,
                receipt: self.receipt(batch, decoded, first..first + rows.num_rows()),
            };
            let wrote = {
                // A stop that forces is noticed inside.
                let _place = self.writer.writers.place().await;
                let trouble = trouble.get_or_insert_with(|| self.writer.trouble());
                let parts = [rows.clone()];
                let keep = Keep::Yes(&commit);
                match self.writer.load(&parts, keep, trouble).await {
                    Wrote::Refused(error) => {
                        self.writer.without_bad_rows(&rows, error, keep, trouble, &mut refused).await
                    }
                    other => other,
                }
            };
            match wrote {
                Wrote::Committed(_) | Wrote::NoneLeft => {
                    if let Some(trouble) = trouble.take() {
                        trouble.over();
                    }
                    // What was too much may have been so for a moment only.
                    most = most.saturating_mul(2);
                    // in their order, as the search has found them
                    let is_refused = |row: usize| refused.binary_search_by_key(&row, |(bad, _)| *bad).is_ok();
                    let events = decoded.row_events.iter().skip(first).take(rows.num_rows());
                    let good =
                        events.enumerate().filter(|(row, _)| !is_refused(*row)).map(|(_, event)| *event);
                    self.writer.committed(batch, good, rows.num_rows() - refused.len());
                    let done = claims.drain(..rows.num_rows().min(claims.len())).enumerate();
                    let (bad, done): (Vec<_>, Vec<_>) = done.partition(|(row, _)| is_refused(*row));
                    let without_row =
                        |claims: Vec<(usize, Claim)>| claims.into_iter().map(|(_, claim)| claim).collect();
                    if let Wrote::Committed(durable) = &wrote
                        && !self.acknowledge(without_row(done), durable).await
                    {
                        return;
                    }
                    let rejected: Vec<(&Event, Reason)> = refused
                        .drain(..)
                        .filter_map(|(row, why)| {
                            let event = *decoded.row_events.get(first + row)?;
                            Some((batch.events.get(event as usize)?, refusal(&why)))
                        })
                        .collect();
                    if !rejected.is_empty() && !self.dead_letter(&rejected, without_row(bad)).await {
                        return;
                    }
                    first += rows.num_rows();
                }
                Wrote::TooMany => most = rows.num_rows().div_ceil(2),
                // what was found of such rows is found again
                Wrote::Refused(_) | Wrote::TriedOut => refused.clear(),
                // nothing of that kind is committed here
                Wrote::Superseded | Wrote::GaveUp => return,
            }
        }
    }

    /// What is announced of some rows, where that is asked for.
    fn receipt(&self, batch: &Batch, decoded: &Decoded, rows: Range<usize>) -> Option<Receipt> {
        self.writer.config.receipts.as_ref()?;
        let events = || {
            let events = decoded.row_events.get(rows.clone()).unwrap_or_default();
            events.iter().filter_map(|event| batch.events.get(*event as usize))
        };
        let sequences = (
            events().map(|event| event.stream_sequence).min()?,
            events().map(|event| event.stream_sequence).max()?,
        );
        let published_at = (
            events().map(|event| event.published_at).min()?,
            events().map(|event| event.published_at).max()?,
        );
        let pipeline = Arc::clone(&self.writer.pipeline);
        Some(Receipt {
            pipeline,
            table: self.writer.config.table.quoted(),
            partition: None,
            batch: Uuid::new_v4(),
            previous: None,
            sequences,
            published_at,
        })
    }

    /// `false` where the process gave up before the server confirmed. Where the consumer is gone instead, the rest of the
    /// batch goes on: nobody else has it.
    async fn acknowledge(&self, claims: Vec<Claim>, durable: &Durable) -> bool {
        match self.settler.acknowledge(claims, durable).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(pipeline = %self.writer.pipeline, %error, "durable events are not acknowledged");
                !self.writer.shutdown.is_forced()
            }
        }
    }
}
