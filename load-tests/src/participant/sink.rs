//! The sink as a participant: one worker, asked again and again how far it is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::{Done, Task};
use crate::machine;
use crate::stand::Stand;

/// Between two looks before the first event is delivered: by so much the time may be too long.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Between two looks after it: by so much, too.
const LOOK: Duration = Duration::from_millis(50);
/// Without any progress for this long the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the worker has counted since this run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    received: u64,
    committed: u64,
}

/// The time of a sink that is looked at from time to time, from its first delivery to its last commit. Each end is a
/// look: the last at which nothing had been delivered, and the first at which all was committed. So the time is never
/// shorter than it was.
#[derive(Debug, Clone, Copy)]
struct Span {
    first_pull: f64,
    last_commit: Option<(f64, u64)>,
}

impl Span {
    fn look(&mut self, at: f64, counted: Counted) {
        if counted.received == 0 {
            self.first_pull = at;
        }
        if counted.committed > self.last_commit.map_or(0, |(_, rows)| rows) {
            self.last_commit = Some((at, counted.committed));
        }
    }

    fn seconds(&self) -> Option<(f64, u64)> {
        self.last_commit.map(|(at, rows)| (at - self.first_pull, rows))
    }
}

/// Runs a worker until everything is committed or its time is over, and ends it.
pub(super) async fn run(stand: &mut Stand, task: &Task) -> anyhow::Result<Done> {
    let before = counted(stand)?;
    stand.workers.first_mut().context("a worker")?.start()?;
    let started = Instant::now();
    let mut span = Span { first_pull: 0.0, last_commit: None };
    let mut peak_rss_bytes = 0;
    let mut last_change = (Counted { received: 0, committed: 0 }, Instant::now());
    loop {
        // asked before the answer is on its way: what it tells may be newer, never older
        let asked_at = started.elapsed().as_secs_f64();
        let worker = stand.workers.first().context("a worker")?;
        worker.read_counters().await;
        let total = counted(stand)?;
        let now = Counted {
            received: total.received - before.received,
            committed: total.committed - before.committed,
        };
        let at = if now.received == 0 { asked_at } else { started.elapsed().as_secs_f64() };
        span.look(at, now);
        if let Some(id) = stand.workers.first().and_then(test_bench::worker::Worker::id) {
            peak_rss_bytes = peak_rss_bytes.max(machine::usage(id)?.peak_rss_bytes);
        }
        let is_over = now.received > 0 && at - span.first_pull >= task.stop_after.as_secs_f64();
        if now.committed >= task.good.count || is_over {
            break;
        }
        if now != last_change.0 {
            last_change = (now, Instant::now());
        }
        if last_change.1.elapsed() > PATIENCE {
            bail!(
                "{} of {} events are committed, and nothing has moved for {} s; the worker says: {}",
                now.committed,
                task.good.count,
                PATIENCE.as_secs(),
                stand.trouble().await
            );
        }
        stand.check_running()?;
        tokio::time::sleep(if now.received == 0 { FIRST_LOOK } else { LOOK }).await;
    }
    stand.stop_workers().await?;
    let (seconds, rows) = span.seconds().context("nothing was committed in time")?;
    Ok(Done { rows, seconds, peak_rss_bytes })
}

fn counted(stand: &Stand) -> anyhow::Result<Counted> {
    let counters = stand.workers.first().context("a worker")?.counters();
    // counters of events are whole numbers, far below what an f64 holds exactly
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let total = |metric| counters.sum(metric, &[]) as u64;
    Ok(Counted { received: total("events_received_total"), committed: total("events_committed_total") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span_of(looks: &[(f64, u64, u64)]) -> Option<(f64, u64)> {
        let mut span = Span { first_pull: 0.0, last_commit: None };
        for &(at, received, committed) in looks {
            span.look(at, Counted { received, committed });
        }
        span.seconds()
    }

    #[test]
    fn the_time_of_a_start_does_not_count_and_what_is_not_known_does() {
        // a start of 2 s, and the first delivery somewhere from 2 to 3
        let looks = [(1.0, 0, 0), (2.0, 0, 0), (3.0, 10, 0), (4.0, 20, 20)];
        assert_eq!(span_of(&looks), Some((2.0, 20)));
    }

    #[test]
    fn the_time_ends_with_the_last_commit() {
        let looks = [(1.0, 0, 0), (2.0, 30, 10), (3.0, 30, 20), (4.0, 30, 20)];
        assert_eq!(span_of(&looks), Some((2.0, 20)));
        assert_eq!(span_of(&[(1.0, 0, 0), (2.0, 30, 0)]), None);
    }
}
