//! Cutting batches: at a number of rows, a number of bytes, or an age counted from the first event, whichever comes
//! first. While nobody is free to take a batch that is due, it goes on growing up to its limits.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::config::BatchConfig;
use crate::delivery::{Batch, Delivery};

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
}

impl Cut {
    /// A stable name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Full => "full",
            Cut::Age => "age",
            Cut::Starved => "starved",
            Cut::End => "end",
        }
    }
}

/// What a batch may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    max_rows: usize,
    max_bytes: usize,
    max_age: Duration,
}

impl From<&BatchConfig> for Limits {
    fn from(config: &BatchConfig) -> Self {
        Self { max_rows: config.max_rows, max_bytes: config.max_bytes, max_age: config.max_age }
    }
}

/// Gathers what `input` brings into batches for `output`, until `input` ends or nobody takes them any more.
pub async fn run(
    limits: Limits,
    budget: Budget,
    mut input: mpsc::Receiver<Vec<Delivery>>,
    output: mpsc::Sender<(Batch, Cut)>,
) {
    let mut waiting: VecDeque<Delivery> = VecDeque::new();
    let mut batch = Batch::default();
    let mut deadline = Instant::now();
    let mut cut = None;
    let mut open = true;
    loop {
        // Take over what has arrived, as far as the batch has room for it. One event always fits.
        while let Some(next) = waiting.front() {
            let fits =
                batch.len() < limits.max_rows && batch.bytes + next.event.wire_bytes() <= limits.max_bytes;
            if !fits && !batch.is_empty() {
                cut = Some(Cut::Full);
                break;
            }
            if batch.is_empty() {
                deadline = Instant::now() + limits.max_age;
            }
            if let Some(delivery) = waiting.pop_front() {
                batch.push(delivery);
            }
        }
        if batch.len() >= limits.max_rows || batch.bytes >= limits.max_bytes {
            cut = Some(Cut::Full);
        }
        if !open && !batch.is_empty() {
            cut = cut.or(Some(Cut::End));
        }
        if !open && batch.is_empty() {
            return;
        }

        tokio::select! {
            slot = output.reserve(), if cut.is_some() => {
                let Ok(slot) = slot else { return };
                if let Some(cut) = cut.take() {
                    slot.send((std::mem::take(&mut batch), cut));
                }
            }
            // Also while the batch is full: what is not taken out of a subscription cannot be kept from being delivered
            // again. The budget bounds how much can wait here.
            chunk = input.recv(), if open => match chunk {
                Some(chunk) => waiting.extend(chunk),
                None => open = false,
            },
            () = tokio::time::sleep_until(deadline), if !batch.is_empty() && cut.is_none() => cut = Some(Cut::Age),
            () = budget.starved(), if !batch.is_empty() && cut.is_none() => cut = Some(Cut::Starved),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_nats::Subject;
    use bytes::Bytes;

    use super::*;
    use crate::delivery::{Claim, Event, Ledger};

    struct Bench {
        budget: Budget,
        ledger: Arc<Ledger>,
        sequence: AtomicU64,
        input: mpsc::Sender<Vec<Delivery>>,
        output: mpsc::Receiver<(Batch, Cut)>,
    }

    impl Bench {
        fn start(max_rows: usize, max_bytes: usize, max_age: Duration) -> Self {
            let budget = Budget::new(1_000_000);
            let (input, receiver) = mpsc::channel(8);
            let (sender, output) = mpsc::channel(1);
            tokio::spawn(run(Limits { max_rows, max_bytes, max_age }, budget.clone(), receiver, sender));
            Self { budget, ledger: Arc::new(Ledger::default()), sequence: AtomicU64::new(1), input, output }
        }

        fn claim(&self) -> Claim {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
            self.ledger.claim(sequence, 1, Subject::from_static("reply")).expect("a new sequence")
        }

        async fn send(&self, payloads: &[usize]) {
            let mut chunk = Vec::new();
            for length in payloads {
                chunk.push(Delivery {
                    event: Event {
                        subject: Subject::from_static(""),
                        payload: Bytes::from(vec![b'x'; *length]),
                        headers: None,
                        stream_sequence: 0,
                        deliveries: 1,
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
