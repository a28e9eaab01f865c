//! The controller in front of servers that are models: each knows what it can do, so that what the controller makes of it
//! can be held against that.

mod model;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use model::{Server, Simulation};

const ROWS: usize = 20_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two cores, on which a writer alone brings in 200,000 rows a second.
fn two_cores() -> Server {
    Server { row_seconds: 1.0 / 200_000.0, parallelism: 1.6, ..Server::default() }
}

/// Many cores.
fn large() -> Server {
    Server { row_seconds: 1.0 / 100_000.0, parallelism: 64.0, ..Server::default() }
}

#[test]
fn climbs_to_all_writers_that_bring_in_more_within_seconds() {
    for (server, max) in [(two_cores(), 4), (large(), 4), (large(), 32)] {
        let mut simulation = Simulation::new(1, max, server, ROWS, 1);
        let fixed = Simulation::fixed(max, server, ROWS, 1).run(seconds(60)).goodput();
        let first = simulation.run(seconds(10));
        assert!(first.goodput() >= 0.85 * fixed, "{max}: {first:?}, fixed {fixed}");
        let then = simulation.run(seconds(50));
        assert!(then.goodput() >= 0.97 * fixed, "{max}: {then:?}, fixed {fixed}");
    }
}

#[test]
fn a_rate_that_is_limited_wants_few_writers_and_gets_all_of_its_rate() {
    for (server, max) in [(two_cores(), 4), (large(), 4), (large(), 8), (large(), 32)] {
        for share in [0.1, 0.3, 0.5] {
            let mut simulation = Simulation::new(1, max, server, ROWS, 1);
            let free = simulation.run(seconds(30));
            assert!(free.last >= max.min(4) - 1, "{max} {share}: {free:?}");
            let limit = share * free.goodput().min(200_000.0);
            simulation.server.rows_per_second = Some(limit);
            simulation.run(seconds(30));
            let limited = simulation.run(seconds(60));
            assert!(limited.goodput() >= 0.95 * limit, "{max} {share}: {limited:?} of {limit}");
            assert!(limited.average() < free.last as f64 - 0.5, "{max} {share}: {limited:?} after {free:?}");
            simulation.server.rows_per_second = None;
            let lifted = simulation.run(seconds(60));
            assert!(
                lifted.average() > limited.average() + 0.5,
                "{max} {share}: {lifted:?} after {limited:?}"
            );
            assert!(lifted.goodput() >= 0.9 * free.goodput(), "{max} {share}: {lifted:?} after {free:?}");
        }
    }
}

/// Chance may leave a writer too many where it is, but seldom.
#[test]
fn noise_hides_a_limited_rate_seldom() {
    const RUNS: u32 = 50;
    for (share, most) in [(0.1, 2.5), (0.2, 2.7), (0.3, 3.1)] {
        let (mut before, mut limited, mut after) = (0.0, 0.0, 0.0);
        for seed in 0..RUNS {
            let server = Server { noise: 0.35, outliers: 0.02, ..two_cores() };
            let mut simulation = Simulation::new(1, 4, server, ROWS, u64::from(seed));
            let free = simulation.run(seconds(30));
            before += free.average() / f64::from(RUNS);
            simulation.server.rows_per_second = Some(share * free.goodput());
            simulation.run(seconds(30));
            limited += simulation.run(seconds(120)).average() / f64::from(RUNS);
            simulation.server.rows_per_second = None;
            after += simulation.run(seconds(30)).average() / f64::from(RUNS);
        }
        let writers = format!("{share}: {before:.2}, then {limited:.2}, then {after:.2} writers");
        assert!(before > 3.3 && limited < most && after > 3.3, "{writers}");
    }
}

#[test]
fn a_server_that_works_on_some_loads_at_once_gets_somewhat_more_and_not_all_that_there_could_be() {
    for parallelism in [2.0, 4.0, 8.0] {
        let server = Server { parallelism, ..large() };
        let mut simulation = Simulation::new(1, 64, server, ROWS, 1);
        simulation.run(seconds(60));
        let run = simulation.run(seconds(60));
        let most = parallelism * 100_000.0;
        assert!(run.goodput() >= 0.97 * most, "{parallelism}: {run:?}");
        assert!(run.most as f64 <= 2.5 * parallelism + 3.0, "{parallelism}: {run:?}");
    }
}

#[test]
fn rows_that_cost_more_from_now_on_are_no_slow_database() {
    let mut simulation = Simulation::new(1, 16, large(), ROWS, 1);
    simulation.run(seconds(30));
    simulation.server.row_seconds *= 8.0;
    simulation.run(seconds(60));
    let run = simulation.run(seconds(60));
    assert!(run.goodput() >= 0.85 * 16.0 * 100_000.0 / 8.0, "{run:?}");
}

#[test]
fn a_night_without_events_is_no_reason_to_forget() {
    let mut simulation = Simulation::new(1, 4, two_cores(), ROWS, 1);
    let free = simulation.run(seconds(30));
    simulation.sleep(seconds(12 * 3600));
    simulation.server.rows_per_second = Some(0.3 * free.goodput());
    let limited = simulation.run(seconds(30));
    assert!(free.last == 4 && limited.average() < 2.6, "{limited:?} after {free:?}");
}

#[test]
fn refusals_halve_the_writers_and_what_was_refused_is_seldom_tried_again() {
    for (most, max) in [(1, 4), (2, 4), (3, 8), (10, 32)] {
        let server = Server { refuses_above: Some(most), ..large() };
        let mut simulation = Simulation::new(1, max, server, ROWS, 1);
        simulation.run(seconds(30));
        let run = simulation.run(seconds(120));
        let goodput = most as f64 * 100_000.0;
        assert!(run.goodput() >= 0.85 * goodput, "{most}: {run:?} of {goodput}");
        assert!(run.refused < 60, "{most}: {run:?}");
        simulation.server.refuses_above = None;
        let lifted = simulation.run(seconds(60));
        assert_eq!(lifted.last, max, "{most}: {lifted:?}");
    }
}

#[test]
fn loads_that_are_refused_together_count_once() {
    let mut controller = Controller::new(1, 16);
    let start = Instant::now();
    controller.limit = 16;
    let refused = |started, ended| Load {
        started: start + seconds(started),
        ended: start + seconds(ended),
        rows: ROWS,
        took: seconds(1),
        outcome: Outcome::Throttled,
        under_way: 1,
        contended: true,
    };
    assert_eq!(controller.ended(&refused(0, 10)), Some(Change::Decreased(8, Reason::Throttled)));
    for started in 0..10 {
        assert_eq!(controller.ended(&refused(started, 11)), None);
    }
    assert_eq!(controller.ended(&refused(11, 12)), Some(Change::Decreased(4, Reason::Throttled)));
}

#[test]
fn what_the_flow_of_events_limits_changes_nothing() {
    let mut controller = Controller::new(2, 16);
    let start = Instant::now();
    for second in 0..100 {
        let load = Load {
            started: start + seconds(second),
            ended: start + seconds(second + 1),
            rows: 10,
            took: Duration::from_millis(1 + 100 * (second % 10)),
            outcome: Outcome::Done,
            under_way: 1,
            contended: false,
        };
        assert_eq!(controller.ended(&load), None);
    }
    assert_eq!(controller.limit(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Loads that by chance are a quarter more or less work, and now and then ten times as much, cost no goodput.
    #[test]
    fn noise_costs_no_goodput(seed: u64, max in prop::sample::select(vec![2_usize, 4, 8]), is_large: bool) {
        let server = Server { noise: 0.25, outliers: 0.01, ..if is_large { large() } else { two_cores() } };
        let fixed = Simulation::fixed(max, server, ROWS, seed).run(seconds(120)).goodput();
        let run = Simulation::new(1, max, server, ROWS, seed).run(seconds(120));
        prop_assert!(run.goodput() >= 0.88 * fixed, "{run:?}, fixed {fixed}");
    }

    /// Still more of that under a limit of the rate, which is taken up.
    #[test]
    fn a_limited_rate_is_taken_up_in_spite_of_noise(seed: u64, share in 0.1..0.35_f64) {
        let server = Server { noise: 0.35, outliers: 0.02, ..two_cores() };
        let mut simulation = Simulation::new(1, 4, server, ROWS, seed);
        let free = simulation.run(seconds(30));
        let limit = share * free.goodput();
        simulation.server.rows_per_second = Some(limit);
        simulation.run(seconds(30));
        let limited = simulation.run(seconds(120));
        prop_assert!(limited.goodput() >= 0.85 * limit, "{limited:?} of {limit}");
        simulation.server.rows_per_second = None;
        let lifted = simulation.run(seconds(60));
        // how much work a load is differs from one minute to the other
        prop_assert!(lifted.goodput() >= 0.7 * free.goodput(), "{lifted:?} after {free:?}");
    }

    /// Whatever it is told, in whatever order.
    #[test]
    fn the_limit_stays_within_its_bounds(
        min in 1..8_usize,
        more in 0..64_usize,
        loads in prop::collection::vec((0..10_000_u64, 0..5_000_u64, 0..200_000_usize, 0..6_u8, any::<bool>()), 0..400),
    ) {
        let max = min + more;
        let mut controller = Controller::new(min, max);
        let start = Instant::now();
        let mut limit = controller.limit();
        for (started, took, rows, outcome, contended) in loads {
            let outcome = match outcome {
                0 => Outcome::Throttled,
                1 => Outcome::TimedOut,
                _ => Outcome::Done,
            };
            let (started, took) = (start + Duration::from_millis(started), Duration::from_millis(took));
            let change = controller.ended(&Load { started, ended: started + took, rows, took, outcome, under_way: rows % 8, contended });
            match change {
                None => prop_assert_eq!(controller.limit(), limit),
                Some(Change::Tried(to)) => prop_assert_eq!(controller.limit(), to),
                Some(Change::Decreased(to, _)) => prop_assert!(to == controller.limit() && to < limit),
            }
            limit = controller.limit();
            prop_assert!((min..=max).contains(&limit));
        }
    }
}
