//! How many loads to have under way at once: adapts between two bounds to what the database makes of them.
//!
//! A controller without a clock and without tasks: it is told of each load that ended, and asked for the limit. It adds one
//! writer at a time, and takes away up to half of them at once (additive increase, multiplicative decrease), for one of
//! two reasons:
//!
//! - The database refuses a load and asks for less. What it refused at is not tried again for a while.
//! - Loads take longer, and more writers bring in nothing more. A database whose log rate is governed says no word; its
//!   commits become slow. So the cost of a row, which is the time of its load divided by the load's rows, is held against
//!   the least that it ever was. By Little's law the goodput of `limit` writers is `limit / cost`; divided by what one
//!   writer brings in at the least cost that is how many writers are *worth* their place: `limit * least / cost`. Where
//!   the database is limited by its rate, that number stays the same however many writers wait in line, so that those
//!   beyond it and a few more can go. This is the idea of TCP Vegas, and of the limits that Netflix' concurrency-limits
//!   derive from it.
//!
//! A least cost can be out of date: rows have become larger, or the network slower. So another writer is tried from time to
//! time, and where that brings in more, nobody waits in line: the cost of now is the least.
//!
//! Only loads beside which another one was waiting count: what the events' own flow limits says nothing of the database.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// What a load costs before its first row, in rows: its round trips and the flush of the log. Only so that loads of
/// different sizes can be compared; it has to be right to an order of magnitude.
const ROWS_OF_OVERHEAD: f64 = 4_000.0;
/// No load takes less: a cost of nothing could not be compared.
const SHORTEST: Duration = Duration::from_micros(1);
/// Writers at the start.
const FIRST_WRITERS: usize = 2;
/// Loads are judged by the median of at least so many.
const FEWEST_LOADS: usize = 3;
/// Writers that are kept beside those that are worth it: one sends while the database works through the load of the other.
const SPARE: f64 = 2.0;
/// There are more than enough writers where they are more than the spare ones and so many times those that are worth it.
const ENOUGH: f64 = 1.5;
/// And before it is known well what a row costs: so many times more than that.
const AT_A_GLANCE: f64 = 1.5;
/// Writers are added while they are fewer than the spare ones and so many times those that are worth it. Less than
/// [`ENOUGH`], so that one is not added and taken away in turn.
const ROOM: f64 = 1.25;
/// At the start the number of writers is doubled for as long as that brings in so many times as much.
const CLIMBS: f64 = 1.25;
/// Another writer is worth it where the goodput rises by so much of what it would in proportion.
const WORTH_IT: f64 = 0.5;
/// What a row costs is known well after so many judgements, of which the last has this weight at least.
const SETTLED: u32 = 4;
const WEIGHT_OF_THE_LAST: f64 = 0.2;
/// The least cost doubles in this time of work, so that no single good hour is for ever the measure.
const FORGET: Duration = Duration::from_secs(3600);
/// Where it was not judged for longer than this there was no work.
const LONGEST_AGE: Duration = Duration::from_secs(60);
/// How long to wait before another writer is tried where none seems to be worth it: twice as long each time, up to a limit.
const FIRST_TRIAL: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(40);
/// After a refusal the number of writers that was refused is not tried again for so long: twice as long after each, up to a
/// limit, and from the beginning after a while without one.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(24);
const PAUSES_BEGIN_ANEW: Duration = Duration::from_secs(60);

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its rows are in.
    Done,
    /// The database refused it, and asks for less.
    Throttled,
    /// There was no answer in time.
    TimedOut,
}

/// A load that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Its rows.
    pub rows: usize,
    /// How long the database took for it: without waiting for a connection, or for the turn of a merge.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Loads that were under way when it began, itself included. More than the limit where that has just fallen.
    pub under_way: usize,
    /// Whether another load waited for its place when it ended.
    pub contended: bool,
}

/// Why there are fewer writers. A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The database asked for less.
    Throttled,
    /// Loads take longer, and more writers bring in nothing more; or there was no answer in time.
    Latency,
}

impl Reason {
    /// A stable name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Throttled => "throttled",
            Reason::Latency => "latency",
        }
    }
}

/// What became of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There may be so many now, which is more; or one fewer again after another one was tried in vain.
    Tried(usize),
    /// There may be so many now, which is fewer.
    Decreased(usize, Reason),
}

/// Decides how many loads may be under way.
#[derive(Debug)]
pub struct Controller {
    min: usize,
    max: usize,
    limit: usize,
    /// Loads that began before the limit was changed last say nothing of it.
    changed: Option<Instant>,
    /// Costs of a row, in seconds, of the loads since.
    costs: Vec<f64>,
    least: Option<Least>,
    /// The goodput before the number of writers was doubled last, while that goes on.
    climbing: Option<f64>,
    /// What a row costs with this number of writers, smoothed over several judgements.
    smoothed: Option<Smoothed>,
    /// What the number of writers, and the goodput, were before more were tried.
    before: Option<(usize, f64)>,
    /// When more are tried next, and how long after that where it is in vain.
    trial_at: Option<Instant>,
    trial_pause: Duration,
    refused: Option<Refused>,
}

/// The least cost of a row, as it was known at some time.
#[derive(Debug, Clone, Copy)]
struct Least {
    cost: f64,
    at: Instant,
}

/// A cost of a row, and of how many judgements it is the average; later ones count more.
#[derive(Debug, Clone, Copy)]
struct Smoothed {
    cost: f64,
    judgements: u32,
}

/// The database asked for less.
#[derive(Debug, Clone, Copy)]
struct Refused {
    /// When there were so many writers.
    writers: usize,
    at: Instant,
    pause: Duration,
}

impl Controller {
    /// Between `min`, at least 1, and `max`. Begins with few, so that it is seen what a row costs without others, and climbs fast
    /// from there.
    pub fn new(min: usize, max: usize) -> Self {
        let min = min.max(1);
        let max = max.max(min);
        Self {
            min,
            max,
            limit: FIRST_WRITERS.clamp(min, max),
            changed: None,
            costs: Vec::new(),
            least: None,
            climbing: Some(0.0),
            smoothed: None,
            before: None,
            trial_at: None,
            trial_pause: FIRST_TRIAL,
            refused: None,
        }
    }

    /// So many loads may be under way now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there are as few as loads that only take longer lead to, or fewer, and there could be more.
    pub fn is_low(&self) -> bool {
        self.limit < self.max && self.limit <= self.min.max(floor(SPARE))
    }

    /// Takes note of a load that has ended, and decides.
    pub fn ended(&mut self, load: &Load) -> Option<Change> {
        let is_current =
            load.under_way <= self.limit && self.changed.is_none_or(|changed| load.started >= changed);
        match load.outcome {
            // Those that were under way together are refused together.
            Outcome::Throttled | Outcome::TimedOut if !is_current => None,
            Outcome::Throttled => {
                self.refuse(load.ended);
                self.fall(load.ended, self.limit / 2, Reason::Throttled)
            }
            Outcome::TimedOut => {
                self.climbing = None;
                self.fall(load.ended, self.limit / 2, Reason::Latency)
            }
            Outcome::Done => {
                if !is_current || !load.contended {
                    return None;
                }
                let took = load.took.max(SHORTEST).as_secs_f64();
                self.costs.push(took / (load.rows as f64 + ROWS_OF_OVERHEAD));
                let enough = match self.climbing {
                    Some(_) => FEWEST_LOADS.max(self.limit),
                    None => FEWEST_LOADS.max(self.limit.div_ceil(2)),
                };
                if self.costs.len() < enough {
                    return None;
                }
                let (median, mean) = (median(&mut self.costs), mean(&self.costs));
                self.costs.clear();
                self.judge(load.ended, median, mean)
            }
        }
    }

    /// Decides by what a row costs with this number of writers: by the median, which no single slow load moves; and where the
    /// goodput is compared, by the mean, for which Little's law is true.
    fn judge(&mut self, now: Instant, cost: f64, mean: f64) -> Option<Change> {
        let goodput = self.limit as f64 / cost;
        let smoothed = self.smooth(mean);
        if self.before.is_some() {
            return self.judge_trial(now, smoothed);
        }
        let is_settled = smoothed.judgements >= SETTLED;
        let is_known = is_settled || self.climbing.is_some();
        let least = self.least_cost(now, is_known.then_some(smoothed.cost)).unwrap_or(smoothed.cost);
        if let Some(before) = self.climbing {
            let climbs = goodput >= CLIMBS * before;
            self.climbing = (climbs && self.limit < self.max).then_some(goodput);
            if climbs {
                return self.rise(now, 2 * self.limit);
            }
        }
        let worth = self.limit as f64 * least / smoothed.cost;
        let enough = match is_settled {
            true => floor(SPARE + ENOUGH * worth),
            false => floor(SPARE + AT_A_GLANCE * ENOUGH * self.limit as f64 * least / cost),
        };
        if self.limit > enough {
            return self.fall(now, enough.max(self.limit / 2), Reason::Latency);
        }
        if self.limit < floor(SPARE + ROOM * worth) {
            return self.rise(now, self.limit + 1);
        }
        if is_settled && *self.trial_at.get_or_insert(now + self.trial_pause) <= now {
            let before = (self.limit, self.limit as f64 / smoothed.cost);
            let change = self.rise(now, self.limit + (self.limit / 4).max(1));
            self.before = change.map(|_| before);
            return change;
        }
        None
    }

    /// What the goodput has made of writers that were tried: they go again where they have brought in nothing.
    fn judge_trial(&mut self, now: Instant, smoothed: Smoothed) -> Option<Change> {
        if smoothed.judgements < SETTLED {
            return None;
        }
        let (writers, before) = self.before.take()?;
        let in_proportion = self.limit as f64 / writers as f64 - 1.0;
        let goodput = self.limit as f64 / smoothed.cost;
        if (goodput / before - 1.0) / in_proportion < WORTH_IT {
            self.trial_pause = SELDOM.min(2 * self.trial_pause);
            return self.set(now, writers);
        }
        self.trial_pause = FIRST_TRIAL;
        self.least = Some(Least { cost: smoothed.cost, at: now });
        None
    }

    fn smooth(&mut self, cost: f64) -> Smoothed {
        let smoothed = match self.smoothed {
            None => Smoothed { cost, judgements: 1 },
            Some(Smoothed { cost: before, judgements }) => {
                let judgements = judgements.saturating_add(1);
                let share = WEIGHT_OF_THE_LAST.max(1.0 / f64::from(judgements));
                Smoothed { cost: before + share * (cost - before), judgements }
            }
        };
        self.smoothed = Some(smoothed);
        smoothed
    }

    /// The least cost of a row as it is known now, where anything is, with this one.
    fn least_cost(&mut self, now: Instant, cost: Option<f64>) -> Option<f64> {
        let aged = self.least.map(|least| {
            let age = now.saturating_duration_since(least.at).min(LONGEST_AGE);
            least.cost * (age.as_secs_f64() / FORGET.as_secs_f64()).exp2()
        });
        let least = match (aged, cost) {
            (Some(aged), Some(cost)) => Some(aged.min(cost)),
            (aged, cost) => aged.or(cost),
        };
        self.least = least.map(|cost| Least { cost, at: now });
        least
    }

    fn refuse(&mut self, now: Instant) {
        self.climbing = None;
        let again = self.refused.filter(|last| now.saturating_duration_since(last.at) < PAUSES_BEGIN_ANEW);
        let pause = match again {
            // It cannot become less: that it is still refused is nothing new.
            Some(last) if self.limit == self.min => last.pause,
            Some(last) => LONGEST_PAUSE.min(2 * last.pause),
            None => FIRST_PAUSE,
        };
        self.refused = Some(Refused { writers: self.limit, at: now, pause });
    }

    /// Up to what the database has not refused just now.
    fn rise(&mut self, now: Instant, to: usize) -> Option<Change> {
        let refused = self.refused.filter(|last| now.saturating_duration_since(last.at) < last.pause);
        let most = refused.map_or(self.max, |last| last.writers - 1);
        self.set(now, to.min(most).max(self.limit))
    }

    fn fall(&mut self, now: Instant, to: usize, reason: Reason) -> Option<Change> {
        match self.set(now, to) {
            Some(Change::Tried(limit)) => Some(Change::Decreased(limit, reason)),
            other => other,
        }
    }

    fn set(&mut self, now: Instant, to: usize) -> Option<Change> {
        self.costs.clear();
        let to = to.clamp(self.min, self.max);
        if to == self.limit {
            return None;
        }
        self.limit = to;
        self.smoothed = None;
        self.before = None;
        self.trial_at = None;
        self.changed = Some(now);
        Some(Change::Tried(to))
    }
}

/// A number of writers that is at most so large.
fn floor(writers: f64) -> usize {
    // A ratio of costs is positive; the cast ends at the largest number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let floor = writers as usize;
    floor
}

fn mean(costs: &[f64]) -> f64 {
    costs.iter().sum::<f64>() / costs.len().max(1) as f64
}

fn median(costs: &mut [f64]) -> f64 {
    costs.sort_by(f64::total_cmp);
    costs.get(costs.len() / 2).copied().unwrap_or_default()
}
