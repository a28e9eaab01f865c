//! What goes wrong, and when: the faults of a scenario, when each of them began and ended, and how each is done.

use anyhow::{Context as _, bail};
use local_stack::proxy::Cut;

use crate::scenario::FaultEntry;
use crate::stand::Stand;
use crate::stand::sql_process::Request;

/// A fault that has been; its moments are in seconds since the run's start.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Happened {
    pub(crate) fault: FaultEntry,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Coming,
    Holding { from: f64 },
    Over { from: f64, to: f64 },
}

/// The faults of a run, and how far each of them is.
#[derive(Debug)]
pub(crate) struct Timeline {
    faults: Vec<(FaultEntry, State)>,
}

impl Timeline {
    pub(crate) fn new(faults: &[FaultEntry]) -> Self {
        Self { faults: faults.iter().map(|fault| (fault.clone(), State::Coming)).collect() }
    }

    /// Whether nothing goes wrong at the moment, and nothing will whatever becomes of the events.
    pub(crate) fn is_quiet(&self) -> bool {
        self.faults.iter().all(|(fault, state)| match state {
            State::Coming => fault.after_settled.is_some(),
            State::Holding { .. } => false,
            State::Over { .. } => true,
        })
    }

    /// What goes wrong at the moment, in words.
    pub(crate) fn says(&self) -> String {
        self.holding().map(FaultEntry::label).collect::<Vec<_>>().join(", ")
    }

    /// Begins and ends what is due at `now`, in seconds since the run's start, with this share of all events settled;
    /// gives what was done, in words.
    pub(crate) async fn advance(
        &mut self,
        now: f64,
        settled: f64,
        stand: &mut Stand,
    ) -> anyhow::Result<Vec<String>> {
        let done = self.turn(now, settled);
        if !done.is_empty() {
            self.apply(stand).await?;
        }
        Ok(done)
    }

    /// Ends what still holds, and tells what there was.
    ///
    /// # Errors
    /// A fault never began: then what was run is not the scenario.
    pub(crate) async fn end(&mut self, now: f64, stand: &mut Stand) -> anyhow::Result<Vec<Happened>> {
        for (_, state) in &mut self.faults {
            if let State::Holding { from } = *state {
                *state = State::Over { from, to: now };
            }
        }
        self.apply(stand).await?;
        let happened = |(fault, state): &(FaultEntry, State)| match *state {
            State::Over { from, to } => Ok(Happened { fault: fault.clone(), from, to }),
            _ => bail!("all events were settled before this began: {}", fault.label()),
        };
        self.faults.iter().map(happened).collect()
    }

    fn holding(&self) -> impl Iterator<Item = &FaultEntry> {
        let holds = |(_, state): &&(FaultEntry, State)| matches!(state, State::Holding { .. });
        self.faults.iter().filter(holds).map(|(fault, _)| fault)
    }

    fn turn(&mut self, now: f64, settled: f64) -> Vec<String> {
        let mut done = Vec::new();
        // what ends at a moment ends before another begins
        for (fault, state) in &mut self.faults {
            if let State::Holding { from } = *state
                && now >= from + fault.lasts.as_secs_f64()
            {
                *state = State::Over { from, to: now };
                done.push(format!("end of: {}", fault.label()));
            }
        }
        for (fault, state) in &mut self.faults {
            let is_due = fault.from.is_some_and(|from| now >= from.as_secs_f64())
                || fault.after_settled.is_some_and(|share| settled >= share);
            if *state == State::Coming && is_due {
                *state = State::Holding { from: now };
                done.push(fault.label());
            }
        }
        done
    }

    /// Makes the stand as what holds has it.
    async fn apply(&self, stand: &mut Stand) -> anyhow::Result<()> {
        if self.faults.iter().any(|(fault, _)| fault.needs_proxy()) {
            let proxy = stand.proxy.as_ref().context("a proxy before the SQL server")?;
            let is_away = self.holding().any(|fault| fault.sql_away);
            proxy.add_latency(self.holding().filter_map(|fault| fault.round_trip).sum());
            proxy.refuse(is_away);
            if is_away {
                proxy.cut(Cut::Reset);
            }
        }
        if self.faults.iter().any(|(fault, _)| !fault.needs_proxy()) {
            stand.ask_sql(&Request::Clear).await?.context("a SQL server of the run's own")?;
            for fault in self.holding() {
                if let Some(errors) = &fault.sql_errors {
                    stand.ask_sql(&Request::Refuse(errors.clone())).await?;
                }
                if let Some(rows) = fault.sql_rows_per_second {
                    stand.ask_sql(&Request::RowsPerSecond(rows)).await?;
                }
                if let Some(limit) = fault.sql_load_limit {
                    stand.ask_sql(&Request::LimitLoads(limit)).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fault(from: Option<u64>, after_settled: Option<f64>, lasts: u64) -> FaultEntry {
        FaultEntry {
            from: from.map(Duration::from_secs),
            after_settled,
            lasts: Duration::from_secs(lasts),
            sql_away: true,
            sql_errors: None,
            round_trip: None,
            sql_rows_per_second: None,
            sql_load_limit: None,
        }
    }

    #[test]
    fn a_fault_begins_at_its_time_and_lasts_from_then_on() {
        let mut timeline = Timeline::new(&[fault(Some(5), None, 4), fault(Some(1), None, 4)]);
        assert!(timeline.turn(0.9, 1.0).is_empty());
        assert_eq!(timeline.turn(1.1, 0.0), ["SQL away"]);
        assert!(timeline.turn(5.05, 0.0).starts_with(&["SQL away".to_owned()]));
        assert_eq!(timeline.turn(5.2, 0.0), ["end of: SQL away"]);
        assert!(!timeline.is_quiet());
        assert_eq!(timeline.turn(9.1, 0.0), ["end of: SQL away"]);
        assert!(timeline.is_quiet());
        assert_eq!(timeline.faults[1].1, State::Over { from: 1.1, to: 5.2 });
    }

    #[test]
    fn what_ends_goes_before_what_begins() {
        let mut timeline = Timeline::new(&[fault(Some(5), None, 4), fault(Some(1), None, 4)]);
        timeline.turn(1.0, 0.0);
        assert_eq!(timeline.turn(5.0, 0.0), ["end of: SQL away", "SQL away"]);
    }

    #[test]
    fn a_fault_may_wait_for_events_to_be_settled() {
        let mut timeline = Timeline::new(&[fault(None, Some(0.3), 4)]);
        assert!(timeline.turn(100.0, 0.2).is_empty());
        // it may never come
        assert!(timeline.is_quiet());
        assert_eq!(timeline.turn(101.0, 0.3), ["SQL away"]);
        assert!(!timeline.is_quiet());
        assert_eq!(timeline.turn(105.5, 0.3), ["end of: SQL away"]);
    }
}
