//! What goes wrong, and when: the faults of a scenario as a list of moments, and how each is done.

use std::time::Duration;

use anyhow::Context as _;
use local_stack::proxy::Cut;

use crate::scenario::FaultEntry;
use crate::stand::Stand;
use crate::stand::sql_process::Request;

/// Something to be done to a stand.
#[derive(Debug, Clone, PartialEq)]
struct Moment {
    at: Duration,
    begins: bool,
    /// Its place in the scenario.
    fault: usize,
}

/// The moments that are still to come, the next one first.
#[derive(Debug)]
pub(crate) struct Timeline {
    faults: Vec<FaultEntry>,
    moments: std::collections::VecDeque<Moment>,
    /// What holds at the moment, by its place.
    active: Vec<usize>,
}

impl Timeline {
    pub(crate) fn new(faults: &[FaultEntry]) -> Self {
        let mut moments: Vec<Moment> = Vec::new();
        for (fault, FaultEntry { from, to, .. }) in faults.iter().enumerate() {
            moments.push(Moment { at: *from, begins: true, fault });
            moments.push(Moment { at: *to, begins: false, fault });
        }
        // what ends at a moment ends before another begins
        moments.sort_by_key(|moment| (moment.at, moment.begins));
        Self { faults: faults.to_vec(), moments: moments.into(), active: Vec::new() }
    }

    /// Whether everything is over.
    pub(crate) fn is_over(&self) -> bool {
        self.moments.is_empty()
    }

    /// What goes wrong at the moment, in words.
    pub(crate) fn says(&self) -> String {
        let labels = self.active.iter().filter_map(|index| self.faults.get(*index)).map(FaultEntry::label);
        labels.collect::<Vec<_>>().join(", ")
    }

    /// Does what is due; gives what it did, in words.
    pub(crate) async fn advance(
        &mut self,
        elapsed: Duration,
        stand: &mut Stand,
    ) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        while self.moments.front().is_some_and(|moment| moment.at <= elapsed) {
            let Some(moment) = self.moments.pop_front() else { break };
            let label = self.faults.get(moment.fault).map(FaultEntry::label).unwrap_or_default();
            if moment.begins {
                self.active.push(moment.fault);
                done.push(label);
            } else {
                self.active.retain(|fault| *fault != moment.fault);
                done.push(format!("end of: {label}"));
            }
            self.apply(stand).await?;
        }
        Ok(done)
    }

    /// Makes the stand as what is active has it.
    async fn apply(&self, stand: &mut Stand) -> anyhow::Result<()> {
        let active: Vec<&FaultEntry> =
            self.active.iter().filter_map(|index| self.faults.get(*index)).collect();
        if self.faults.iter().any(FaultEntry::needs_proxy) {
            let proxy = stand.proxy.as_ref().context("a proxy before the SQL server")?;
            let is_away = active.iter().any(|fault| fault.sql_away);
            let round_trip = active.iter().filter_map(|fault| fault.round_trip).sum();
            proxy.add_latency(round_trip);
            proxy.refuse(is_away);
            if is_away {
                proxy.cut(Cut::Reset);
            }
        }
        if self.faults.iter().any(|fault| !fault.needs_proxy()) {
            stand.ask_sql(&Request::Clear).await?.context("a SQL server of the run's own")?;
            for fault in active {
                if let Some(errors) = &fault.sql_errors {
                    stand.ask_sql(&Request::Refuse(errors.clone())).await?;
                }
                if let Some(rows) = fault.sql_rows_per_second {
                    stand.ask_sql(&Request::RowsPerSecond(rows)).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(from: u64, to: u64) -> FaultEntry {
        FaultEntry {
            from: Duration::from_secs(from),
            to: Duration::from_secs(to),
            sql_away: true,
            sql_errors: None,
            round_trip: None,
            sql_rows_per_second: None,
        }
    }

    #[test]
    fn moments_are_in_order_and_what_ends_goes_before_what_begins() {
        let timeline = Timeline::new(&[fault(5, 9), fault(1, 5)]);
        let order: Vec<(u64, bool, usize)> = timeline
            .moments
            .iter()
            .map(|moment| (moment.at.as_secs(), moment.begins, moment.fault))
            .collect();
        assert_eq!(order, [(1, true, 1), (5, false, 1), (5, true, 0), (9, false, 0)]);
        assert!(!timeline.is_over());
        assert!(Timeline::new(&[]).is_over());
    }
}
