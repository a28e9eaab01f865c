//! Cutting batches: at a number of rows, a number of bytes, or an age counted from the first event, whichever comes
//! first. While nobody is free to take a batch that is due, it goes on growing up to its limits.
//!
//! Events that were delivered suspiciously often are kept in batches of their own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::config::PipelineConfig;
use crate::delivery::{Batch, Delivery};
use crate::nats::charge::Held;
use crate::schema::Schema;

/// Why a batch was cut. A label of its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It has as many rows, or as many bytes, as a batch may have.
    Full,
    /// Its first event has waited long enough.
    Age,
    /// The budget is used up, and what this batch holds is waited for.
    Starved,
    /// No more events will come.
    End,
    /// Its events were delivered more than `max_deliveries` times: one of them may have ended the workers that had it.
    Suspect,
}

impl Cut {
    /// A stable name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Full => "full",
            Cut::Age => "age",
            Cut::Starved => "starved",
            Cut::End => "end",
            Cut::Suspect => "suspect",
        }
    }
}

/// What a batch may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    max_rows: usize,
    max_bytes: usize,
    max_age: Duration,
    max_deliveries: u64,
}

impl Limits {
    /// Of a pipeline whose batches may have so many rows and bytes.
    pub fn new(config: &PipelineConfig, max_rows: usize, max_bytes: usize) -> Self {
        let PipelineConfig { batch, max_deliveries, .. } = config;
        Self { max_rows, max_bytes, max_age: batch.max_age, max_deliveries: *max_deliveries }
    }

    /// The most rows.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// How much to hold for batches of this kind, of which so many are written at once, and so many are elsewhere on their way.
    pub fn held(&self, schema: &Arc<Schema>, writers: Arc<AtomicUsize>, beside: usize) -> Held {
        let Self { max_rows, max_bytes, .. } = *self;
        Held { schema: Arc::clone(schema), max_rows, max_bytes, writers, beside }
    }

    /// The most bytes of subjects, headers and payloads.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }
}

/// A batch that fills, and what waits for the one after it.
#[derive(Debug)]
struct Filling {
    limits: Limits,
    waiting: VecDeque<Delivery>,
    batch: Batch,
    deadline: Instant,
    cut: Option<Cut>,
}

impl Filling {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            batch: Batch::default(),
            deadline: Instant::now(),
            cut: None,
        }
    }

    /// Takes over what waits, as far as the batch has room for it. One event always fits.
    fn fill(&mut self) {
        let Limits { max_rows, max_bytes, max_age, .. } = self.limits;
        while let Some(next) = self.waiting.front() {
            let fits = self.batch.len() < max_rows && self.batch.bytes + next.event.wire_bytes() <= max_bytes;
            if !fits && !self.batch.is_empty() {
                self.cut = Some(Cut::Full);
                break;
            }
            if self.batch.is_empty() {
                self.deadline = Instant::now() + max_age;
            }
            if let Some(delivery) = self.waiting.pop_front() {
                self.batch.push(delivery);
            }
        }
        if self.batch.len() >= max_rows || self.batch.bytes >= max_bytes {
            self.cut = Some(Cut::Full);
        }
    }

    /// The batch is due for this reason, if it is not for another and there is something in it.
    fn due(&mut self, why: Cut) {
        if !self.batch.is_empty() {
            self.cut.get_or_insert(why);
        }
    }

    /// When it is due, where nothing comes before.
    fn due_at(&self) -> Option<Instant> {
        (self.cut.is_none() && !self.batch.is_empty()).then_some(self.deadline)
    }

    fn take(&mut self) -> Option<(Batch, Cut)> {
        let cut = self.cut.take()?;
        Some((std::mem::take(&mut self.batch), cut))
    }
}

/// Gathers what `input` brings into batches for `output`, until `input` ends or nobody takes them any more.
pub async fn run(
    limits: Limits,
    budget: Budget,
    mut input: mpsc::Receiver<Vec<Delivery>>,
    output: mpsc::Sender<(Batch, Cut)>,
) {
    let (mut usual, mut suspects) = (Filling::new(limits), Filling::new(limits));
    let mut open = true;
    loop {
        for filling in [&mut usual, &mut suspects] {
            filling.fill();
            if !open {
                filling.due(Cut::End);
            }
        }
        if !open && usual.batch.is_empty() && suspects.batch.is_empty() {
            return;
        }
        let is_due = usual.cut.is_some() || suspects.cut.is_some();
        let due_at = [usual.due_at(), suspects.due_at()].into_iter().flatten().min();

        tokio::select! {
            slot = output.reserve(), if is_due => {
                let Ok(slot) = slot else { return };
                // They are few, and would otherwise wait for as long as there is something else.
                if let Some((batch, _)) = suspects.take() {
                    slot.send((batch, Cut::Suspect));
                } else if let Some(cut) = usual.take() {
                    slot.send(cut);
                }
            }
            // Also while the batch is full: what is not taken out of a subscription cannot be kept from being delivered
            // again. The budget bounds how much can wait here.
            chunk = input.recv(), if open => match chunk {
                Some(chunk) => {
                    for delivery in chunk {
                        let is_suspect = delivery.event.deliveries > limits.max_deliveries;
                        let filling = if is_suspect { &mut suspects } else { &mut usual };
                        filling.waiting.push_back(delivery);
                    }
                }
                None => open = false,
            },
            () = tokio::time::sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {
                for filling in [&mut usual, &mut suspects] {
                    if filling.deadline <= Instant::now() {
                        filling.due(Cut::Age);
                    }
                }
            }
            () = budget.starved(), if due_at.is_some() => {
                usual.due(Cut::Starved);
                suspects.due(Cut::Starved);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_nats::Subject;
    use bytes::Bytes;

    use super::*;
    use crate::delivery::{Arrival, Claim, Event, Ledger};

    struct Bench {
        budget: Budget,
        ledger: Arc<Ledger>,
        sequence: AtomicU64,
        input: mpsc::Sender<Vec<Delivery>>,
        output: mpsc::Receiver<(Batch, Cut)>,
    }

    impl Bench {
        fn start(max_rows: usize, max_bytes: usize, max_age: Duration) -> Self {
            let budget = Budget::divide(1_000_000, 1).remove(0);
            let (input, receiver) = mpsc::channel(8);
            let (sender, output) = mpsc::channel(1);
            let limits = Limits { max_rows, max_bytes, max_age, max_deliveries: 3 };
            tokio::spawn(run(limits, budget.clone(), receiver, sender));
            Self { budget, ledger: Arc::new(Ledger::default()), sequence: AtomicU64::new(1), input, output }
        }

        fn claim(&self) -> Claim {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            self.ledger
                .claim(
                    Arrival { sequence, deliveries: 1, stored_at: 0, connects: 1 },
                    Subject::from_static("reply"),
                )
                .expect("a new sequence")
        }

        async fn send(&self, payloads: &[usize]) {
            let events: Vec<_> = payloads.iter().map(|length| (*length, 1)).collect();
            self.send_delivered(&events).await;
        }

        /// Lengths, and how often they were delivered.
        async fn send_delivered(&self, events: &[(usize, u64)]) {
            let mut chunk = Vec::new();
            for (length, deliveries) in events {
                chunk.push(Delivery {
                    event: Event {
                        subject: Subject::from_static(""),
                        payload: Bytes::from(vec![b'x'; *length]),
                        headers: None,
                        stream_sequence: 0,
                        deliveries: *deliveries,
                        published_at: 0,
                        received_at: 0,
                    },
                    claim: self.claim(),
                    permit: self.budget.reserve(100, 100).await,
                });
            }
            self.input.send(chunk).await.expect("the batcher runs");
        }

        async fn next(&mut self) -> (usize, Cut) {
            let (batch, cut) = self.output.recv().await.expect("the batcher runs");
            (batch.len(), cut)
        }
    }

    const AGES: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn cuts_at_rows_even_inside_a_chunk() {
        let mut bench = Bench::start(3, 1000, AGES);
        bench.send(&[1; 7]).await;
        assert_eq!(bench.next().await, (3, Cut::Full));
        assert_eq!(bench.next().await, (3, Cut::Full));
        assert_eq!(bench.next().await, (1, Cut::Age));
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_before_the_bytes_are_exceeded_and_takes_one_event_of_any_size() {
        let mut bench = Bench::start(100, 10, AGES);
        bench.send(&[6, 6, 50, 4, 6]).await;
        assert_eq!(bench.next().await, (1, Cut::Full));
        assert_eq!(bench.next().await, (1, Cut::Full));
        assert_eq!(bench.next().await, (1, Cut::Full));
        assert_eq!(bench.next().await, (2, Cut::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_at_an_age_counted_from_the_first_event() {
        let mut bench = Bench::start(100, 1000, Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(100)).await;
        let start = Instant::now();
        bench.send(&[1]).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        bench.send(&[1]).await;
        assert_eq!(bench.next().await, (2, Cut::Age));
        assert_eq!(start.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn flushes_when_the_budget_is_used_up() {
        let mut bench = Bench::start(100, 1000, AGES);
        bench.send(&[1, 1]).await;
        let capacity = bench.budget.capacity();
        let waiter = tokio::spawn({
            let budget = bench.budget.clone();
            async move { budget.reserve(capacity, capacity).await.bytes() }
        });
        assert_eq!(bench.next().await, (2, Cut::Starved));
        assert_eq!(waiter.await.expect("what the batch held is free again"), capacity);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_due_grows_while_nobody_takes_it() {
        let mut bench = Bench::start(100, 1000, Duration::from_secs(1));
        bench.send(&[1]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // The first is in the channel by now; the second is due, and nobody is there.
        bench.send(&[1]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench.send(&[1, 1]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.next().await, (1, Cut::Age));
        assert_eq!(bench.next().await, (3, Cut::Age));
    }

    #[tokio::test(start_paused = true)]
    async fn suspects_are_kept_apart() {
        let mut bench = Bench::start(3, 1000, Duration::from_secs(1));
        bench.send_delivered(&[(1, 1), (1, 4), (1, 3), (1, 9), (1, 2), (1, 1), (1, 5), (1, 4)]).await;
        assert_eq!(bench.next().await, (3, Cut::Suspect));
        assert_eq!(bench.next().await, (3, Cut::Full));
        let rest = [bench.next().await, bench.next().await];
        assert_eq!(rest, [(1, Cut::Suspect), (1, Cut::Age)]);
    }

    #[tokio::test(start_paused = true)]
    async fn takes_over_what_arrives_also_while_nobody_takes_a_batch() {
        let mut bench = Bench::start(1, 1000, AGES);
        // More than the channels hold: this would wait for ever if the batcher did.
        for _ in 0..100 {
            bench.send(&[1]).await;
        }
        for _ in 0..100 {
            assert_eq!(bench.next().await, (1, Cut::Full));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hands_on_the_rest_when_no_more_events_come() {
        let mut bench = Bench::start(100, 1000, AGES);
        bench.send(&[1, 1]).await;
        let Bench { input, output, .. } = &mut bench;
        drop(std::mem::replace(input, mpsc::channel(1).0));
        let (batch, cut) = output.recv().await.expect("the rest");
        assert_eq!((batch.len(), cut), (2, Cut::End));
        assert!(output.recv().await.is_none());
    }
}
