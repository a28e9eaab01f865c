//! A random schedule of faults: the same for the same seed.

use std::collections::HashMap;
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// A worker is killed by SIGKILL, and started again.
    KillWorker(usize),
    /// A worker is stopped by SIGSTOP, and goes on.
    PauseWorker(usize),
    /// A worker is asked to stop by SIGTERM, and started again.
    RestartWorker(usize),
    /// The nats-server is killed by SIGKILL, and started again.
    KillNats,
    /// Nothing passes between the workers and NATS.
    CutNats,
    /// Nothing passes from NATS to the workers.
    CutNatsAnswers,
    /// Nothing passes between the workers and the SQL server.
    CutSql,
    /// All connections with the SQL server are reset.
    ResetSql,
    /// Bulk loads are refused as a deadlock's victim.
    Deadlocks,
    /// Connections are cut before COMMIT is sent.
    CutLoads,
    /// Connections are cut when COMMIT was sent, and it is rolled back.
    CutCommits,
    /// Connections are cut after the commit, before its answer.
    CutAnswers,
    /// Commits are answered late.
    SlowCommits,
    /// Bulk loads are refused because the service is busy.
    Throttle,
    /// The database can only be read, and takes no logins.
    FailOver,
    /// The database has no room.
    Full,
}

/// What two faults cannot use at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Resource {
    Worker(usize),
    Nats,
    SqlWay,
    Loads,
    Commits,
    Database,
}

/// One fault of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: What,
}

impl What {
    fn resource(self) -> Resource {
        match self {
            Self::KillWorker(worker) | Self::PauseWorker(worker) | Self::RestartWorker(worker) => {
                Resource::Worker(worker)
            }
            Self::KillNats | Self::CutNats | Self::CutNatsAnswers => Resource::Nats,
            Self::CutSql | Self::ResetSql => Resource::SqlWay,
            Self::Deadlocks | Self::CutLoads | Self::Throttle => Resource::Loads,
            Self::CutCommits | Self::CutAnswers | Self::SlowCommits => Resource::Commits,
            Self::FailOver | Self::Full => Resource::Database,
        }
    }

    /// From and to how many milliseconds it lasts.
    fn lasts(self) -> (u64, u64) {
        match self {
            Self::KillWorker(_) => (50, 1_500),
            Self::RestartWorker(_) | Self::ResetSql => (100, 500),
            Self::PauseWorker(_) => (6_000, 10_000),
            Self::KillNats => (500, 4_000),
            Self::CutNats | Self::CutNatsAnswers | Self::CutSql => (1_000, 12_000),
            Self::Deadlocks | Self::CutLoads | Self::CutCommits | Self::CutAnswers => (1_000, 6_000),
            Self::SlowCommits | Self::Throttle | Self::FailOver | Self::Full => (2_000, 8_000),
        }
    }

    /// Whether it ends a worker, or keeps one from its work for so long that its events are delivered to another.
    pub(crate) fn harms_a_worker(self) -> bool {
        matches!(self, Self::KillWorker(_) | Self::PauseWorker(_))
    }

    /// Whether acknowledgements can be lost.
    pub(crate) fn loses_acks(self) -> bool {
        matches!(self, Self::KillNats | Self::CutNats | Self::CutNatsAnswers)
    }
}

/// The faults of a run of so many seconds with so many workers.
pub(crate) fn plan(seed: u64, seconds: u64, workers: usize) -> Vec<Planned> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut free: HashMap<Resource, u64> = HashMap::new();
    let mut planned = Vec::new();
    let mut at = 500;
    loop {
        at += random.u64(200..2_500);
        let worker = random.usize(..workers.max(1));
        let what = match random.u32(..16) {
            0 => What::KillWorker(worker),
            1 => What::PauseWorker(worker),
            2 => What::RestartWorker(worker),
            3 => What::KillNats,
            4 => What::CutNats,
            5 => What::CutNatsAnswers,
            6 => What::CutSql,
            7 => What::ResetSql,
            8 => What::Deadlocks,
            9 => What::CutLoads,
            10 => What::CutCommits,
            11 => What::CutAnswers,
            12 => What::SlowCommits,
            13 => What::Throttle,
            14 => What::FailOver,
            _ => What::Full,
        };
        let (least, most) = what.lasts();
        let lasts = random.u64(least..most);
        if at + lasts > seconds * 1_000 {
            // the last faults are short ones: nothing outlasts the run
            if at > seconds * 1_000 {
                return planned;
            }
            continue;
        }
        let free_at = free.entry(what.resource()).or_default();
        if *free_at > at {
            continue;
        }
        *free_at = at + lasts + 200;
        planned.push(Planned { at: Duration::from_millis(at), lasts: Duration::from_millis(lasts), what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_schedule_again_and_another_seed_another() {
        assert_eq!(plan(7, 60, 3), plan(7, 60, 3));
        assert_ne!(plan(7, 60, 3), plan(8, 60, 3));
        // a schedule that was printed once has to come again: also from the next version
        let first = plan(1, 60, 2)[0];
        assert_eq!(format!("{first:?}"), FIRST_OF_SEED_1);
    }

    const FIRST_OF_SEED_1: &str = "Planned { at: 2.211s, lasts: 6.673s, what: Full }";

    #[test]
    fn nothing_outlasts_the_run_and_no_two_faults_use_one_thing() {
        for seed in 0..200 {
            let planned = plan(seed, 60, 3);
            assert!(planned.len() > 8, "seed {seed} has {} faults", planned.len());
            for (index, one) in planned.iter().enumerate() {
                assert!(one.at + one.lasts <= Duration::from_secs(60));
                for other in &planned[..index] {
                    assert!(
                        other.what.resource() != one.what.resource() || other.at + other.lasts <= one.at,
                        "seed {seed}: {other:?} and {one:?}"
                    );
                }
            }
        }
    }
}
