//! Watching a run: what the workers count, and what processes use, sample by sample.

use std::time::Instant;

use futures_util::future::join_all;
use test_bench::counters::Counters;
use test_bench::worker::Worker;

use crate::figures::{self, Buckets};
use crate::machine;
use crate::publisher::Published;
use crate::report::{Latency, Sample};
use crate::stand::Stand;

/// The histogram of the time from the publishing of an event until the commit of its row.
const LATENCY: &str = "end_to_end_latency_seconds";

/// What all workers together have done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) received: u64,
    pub(crate) committed: u64,
    pub(crate) dead_lettered: u64,
}

impl Progress {
    pub(crate) fn settled(self) -> u64 {
        self.committed + self.dead_lettered
    }
}

/// Collects samples.
#[derive(Debug)]
pub(crate) struct Watch {
    started: Instant,
    published: Published,
    pub(crate) samples: Vec<Sample>,
    pub(crate) peak_rss_bytes: u64,
    buckets: Buckets,
}

impl Watch {
    /// Begins now.
    pub(crate) fn new(published: Published) -> Self {
        Self {
            started: Instant::now(),
            published,
            samples: Vec::new(),
            peak_rss_bytes: 0,
            buckets: Vec::new(),
        }
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Asks all workers.
    pub(crate) async fn look(&self, stand: &Stand) -> Progress {
        join_all(stand.workers.iter().map(Worker::read_counters)).await;
        let counters: Vec<Counters> = stand.workers.iter().map(Worker::counters).collect();
        progress(&counters)
    }

    /// Adds a sample of what was seen at the last look, and of what the processes use now.
    pub(crate) fn sample(&mut self, stand: &Stand) -> anyhow::Result<()> {
        let counters: Vec<Counters> = stand.workers.iter().map(Worker::counters).collect();
        let Progress { committed, dead_lettered, .. } = progress(&counters);
        let published = self.published.count();
        let mut sample = Sample {
            at: self.seconds(),
            published,
            committed,
            lag: published.saturating_sub(committed + dead_lettered),
            dead_lettered,
            reserved_bytes: whole(sum(&counters, "budget_reserved_bytes")),
            writers_busy: sum(&counters, "writers_busy"),
            latency: self.interval_latency(&counters),
            ..Sample::default()
        };
        for worker in &stand.workers {
            let Some(id) = worker.id() else { continue };
            let usage = machine::usage(id)?;
            sample.workers += 1;
            sample.cpu_seconds += usage.cpu_seconds;
            sample.rss_bytes = sample.rss_bytes.max(usage.rss_bytes);
            self.peak_rss_bytes = self.peak_rss_bytes.max(usage.peak_rss_bytes);
        }
        sample.writers_limit = writers_limit(&counters, sample.workers);
        self.samples.push(sample);
        Ok(())
    }

    fn interval_latency(&mut self, counters: &[Counters]) -> Option<Latency> {
        let now = buckets(counters);
        let latency = figures::latency(&figures::since(&self.buckets, &now));
        self.buckets = now;
        latency
    }
}

/// The latency of everything, by the workers' own histograms.
pub(crate) fn latency(stand: &Stand) -> Option<Latency> {
    let counters: Vec<Counters> = stand.workers.iter().map(Worker::counters).collect();
    figures::latency(&buckets(&counters))
}

/// A counter, of all workers together.
pub(crate) fn total(stand: &Stand, metric: &str) -> f64 {
    let counters: Vec<Counters> = stand.workers.iter().map(Worker::counters).collect();
    sum(&counters, metric)
}

fn progress(counters: &[Counters]) -> Progress {
    let total = |metric| whole(sum(counters, metric));
    Progress {
        received: total("events_received_total"),
        committed: total("events_committed_total"),
        dead_lettered: total("events_dead_lettered_total"),
    }
}

/// The limit of all workers together; `None` until each of those that run has told its own.
fn writers_limit(counters: &[Counters], workers: usize) -> Option<f64> {
    let told: Vec<f64> = counters
        .iter()
        .map(|counters| counters.sum("writers_limit", &[]))
        .filter(|limit| *limit > 0.0)
        .collect();
    (workers > 0 && told.len() >= workers).then(|| told.iter().sum())
}

fn sum(counters: &[Counters], metric: &str) -> f64 {
    // a sum of nothing would be -0
    counters.iter().fold(0.0, |sum, counters| sum + counters.sum(metric, &[]))
}

fn buckets(counters: &[Counters]) -> Buckets {
    let mut all: Buckets = Vec::new();
    for (bound, count) in counters.iter().flat_map(|counters| counters.buckets(LATENCY, &[])) {
        match all.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
            Some((_, sum)) => *sum += count,
            None => all.push((bound, count)),
        }
    }
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    all
}

// counters of events and bytes are whole numbers, far below what an f64 holds exactly
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telling(limit: Option<u32>) -> Counters {
        let mut counters = Counters::default();
        counters.take(&limit.map_or_else(String::new, |limit| {
            format!("nats_sql_sink_writers_limit{{pipeline=\"p\"}} {limit}\n")
        }));
        counters
    }

    #[test]
    fn the_limit_of_writers_is_what_all_workers_tell_and_is_not_made_up() {
        assert_eq!(writers_limit(&[telling(Some(2)), telling(Some(3))], 2), Some(5.0));
        // one has not answered yet
        assert_eq!(writers_limit(&[telling(Some(2)), telling(None)], 2), None);
        // one has ended
        assert_eq!(writers_limit(&[telling(Some(2)), telling(None)], 1), Some(2.0));
        assert_eq!(writers_limit(&[telling(None)], 0), None);
    }
}
