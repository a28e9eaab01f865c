//! A database as a model, and the loads of a pipeline that always has more of them.

use std::time::{Duration, Instant};

use super::super::*;

/// What a database can do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Server {
    /// A row's share of a load that is alone.
    pub(super) row_seconds: f64,
    /// So many loads go at full speed at once; more share that.
    pub(super) parallelism: f64,
    /// As many rows a second as it lets in, one load after another; it takes them first.
    pub(super) rows_per_second: Option<f64>,
    /// With more loads at once the one that comes is refused.
    pub(super) refuses_above: Option<usize>,
    /// How far the logarithm of a load's work is off, on average.
    pub(super) noise: f64,
    /// So many loads are ten times the work.
    pub(super) outliers: f64,
}

/// What happened in some time.
#[derive(Debug, Default)]
pub(super) struct Run {
    lasted: f64,
    rows: usize,
    /// Loads that were refused.
    pub(super) refused: usize,
    /// The highest limit.
    pub(super) most: usize,
    /// The limit at the end.
    pub(super) last: usize,
    /// The limit times how long it was so, summed up.
    limit_seconds: f64,
}

impl Run {
    /// Rows a second.
    pub(super) fn goodput(&self) -> f64 {
        self.rows as f64 / self.lasted
    }

    /// The limit, on average.
    pub(super) fn average(&self) -> f64 {
        self.limit_seconds / self.lasted
    }
}

/// A load that has a place.
#[derive(Debug, Clone, Copy)]
struct Working {
    began: f64,
    under_way: usize,
    refusals: u32,
    step: Step,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many seconds of work are left, for a server that does nothing else.
    Sent(f64),
    /// It is let in at this time.
    Governed(f64),
    /// It is refused at this time.
    Refused(f64),
    /// It is tried again at this time.
    Waiting(f64),
}

/// Loads of equal size, one after another in as many places as the controller gives.
pub(super) struct Simulation {
    pub(super) server: Server,
    controller: Option<Controller>,
    fixed: usize,
    rows: usize,
    random: fastrand::Rng,
    start: Instant,
    /// Seconds.
    now: f64,
    paid_at: f64,
    loads: Vec<Working>,
}

impl Simulation {
    pub(super) fn new(min: usize, max: usize, server: Server, rows: usize, seed: u64) -> Self {
        Self { controller: Some(Controller::new(min, max)), ..Self::fixed(max, server, rows, seed) }
    }

    /// With always as many writers.
    pub(super) fn fixed(writers: usize, server: Server, rows: usize, seed: u64) -> Self {
        Self {
            server,
            controller: None,
            fixed: writers,
            rows,
            random: fastrand::Rng::with_seed(seed),
            start: Instant::now(),
            now: 0.0,
            paid_at: 0.0,
            loads: Vec::new(),
        }
    }

    /// Nothing happens for a while.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.start += time;
    }

    fn limit(&self) -> usize {
        self.controller.as_ref().map_or(self.fixed, Controller::limit)
    }

    pub(super) fn run(&mut self, lasts: Duration) -> Run {
        let end = self.now + lasts.as_secs_f64();
        let mut run = Run { lasted: lasts.as_secs_f64(), most: self.limit(), ..Run::default() };
        while self.now < end {
            while self.loads.len() < self.limit() {
                let load = self.begin(0, self.loads.len() + 1);
                self.loads.push(load);
            }
            let speed = self.speed();
            let next = (0..self.loads.len()).min_by(|one, other| {
                self.at(self.loads[*one].step, speed).total_cmp(&self.at(self.loads[*other].step, speed))
            });
            let next = next.expect("at least one load is under way");
            let until = self.at(self.loads[next].step, speed).clamp(self.now, end);
            run.limit_seconds += self.limit() as f64 * (until - self.now);
            for load in &mut self.loads {
                if let Step::Sent(left) = &mut load.step {
                    *left -= (until - self.now) * speed;
                }
            }
            self.now = until;
            if until < end {
                self.step(next, &mut run);
                run.most = run.most.max(self.limit());
            }
        }
        run.last = self.limit();
        run
    }

    /// How fast each load is that is being sent.
    fn speed(&self) -> f64 {
        let sent = self.loads.iter().filter(|load| matches!(load.step, Step::Sent(_))).count();
        (self.server.parallelism / sent as f64).min(1.0)
    }

    fn at(&self, step: Step, speed: f64) -> f64 {
        match step {
            Step::Sent(left) => self.now + left / speed,
            Step::Governed(at) | Step::Refused(at) | Step::Waiting(at) => at,
        }
    }

    /// The next step of a load, whose time has come.
    fn step(&mut self, index: usize, run: &mut Run) {
        let load = self.loads[index];
        match load.step {
            Step::Sent(_) => {
                let pause = self.server.rows_per_second.map_or(0.0, |rate| self.rows as f64 / rate);
                self.paid_at = self.paid_at.max(self.now) + pause;
                self.loads[index].step = Step::Governed(self.paid_at);
            }
            Step::Governed(_) => {
                self.loads.remove(index);
                run.rows += self.rows;
                self.tell(load, Outcome::Done);
            }
            Step::Refused(_) => {
                run.refused += 1;
                self.tell(load, Outcome::Throttled);
                // as `Backoff::busy` waits
                let ceiling = (0.2 * f64::from(2_u32.saturating_pow(load.refusals))).min(20.0);
                let again = self.now + ceiling * self.random.f64();
                self.loads[index] =
                    Working { refusals: load.refusals + 1, step: Step::Waiting(again), ..load };
            }
            Step::Waiting(_) => self.loads[index] = self.begin(load.refusals, self.loads.len()),
        }
    }

    /// The server is asked to take a load.
    fn begin(&mut self, refusals: u32, under_way: usize) -> Working {
        let asking = self.loads.iter().filter(|load| !matches!(load.step, Step::Waiting(_))).count();
        let began = self.now;
        if self.server.refuses_above.is_some_and(|most| asking >= most) {
            return Working { began, under_way, refusals, step: Step::Refused(began + 0.005) };
        }
        let Server { row_seconds, noise, outliers, .. } = self.server;
        // about normally distributed around 0
        let normal = (0..12).map(|_| self.random.f64()).sum::<f64>() - 6.0;
        let mut work = self.rows as f64 * row_seconds * (normal * noise).exp();
        if self.random.f64() < outliers {
            work *= 10.0;
        }
        Working { began, under_way, refusals, step: Step::Sent(0.005 + work) }
    }

    fn tell(&mut self, load: Working, outcome: Outcome) {
        let at = |seconds| self.start + Duration::from_secs_f64(seconds);
        let load = Load {
            started: at(load.began),
            ended: at(self.now),
            rows: self.rows,
            took: Duration::from_secs_f64(self.now - load.began),
            outcome,
            under_way: load.under_way,
            contended: true,
        };
        if let Some(controller) = &mut self.controller {
            controller.ended(&load);
        }
    }
}
