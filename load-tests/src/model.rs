//! How fast a sink can be at best on a machine, by what each of its stages costs alone.

/// What a million events cost in one stage, in seconds of processor time, of every process that takes part in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StageCosts {
    /// Reading them from the stream: the NATS server's time, and that of a client which parses the messages, and
    /// acknowledges them where the stage is about acknowledgements. It does nothing else with them.
    pub(crate) drain: f64,
    /// From payloads to an Arrow record batch, by the sink's own decoder, on one thread.
    pub(crate) decode: f64,
    /// From the record batch into the database: the time of the sink's own writer, encryption included, that of the
    /// SQL server, and that of the PostgreSQL behind it.
    pub(crate) load: f64,
}

impl StageCosts {
    /// All stages of a million events.
    pub(crate) fn sum(self) -> f64 {
        self.drain + self.decode + self.load
    }
}

/// Events a second that no sink which drains, decodes and loads at these costs can exceed on so many cores, when all
/// processes share them and none of them ever waits: a second has as many seconds of processor time as there are cores,
/// and each event takes the sum of its stages from it.
///
/// Counted are the three stages and nothing else: no batching, no memory to keep account of, no dead letters, no
/// publisher beside, no kernel work outside of the processes' own system calls. What the stages cost is taken as it was
/// measured alone: neither what they take from each other's caches, nor what they might save together, is in it. `None`
/// where the costs are no positive numbers.
pub(crate) fn ceiling(cores: usize, costs: StageCosts) -> Option<f64> {
    let seconds = costs.sum();
    #[allow(clippy::cast_precision_loss)] // a number of cores
    let cores = cores as f64;
    (seconds > 0.0 && seconds.is_finite()).then(|| cores * 1_000_000.0 / seconds)
}

/// The seconds of processor time that a million of them take.
pub(crate) fn per_million(cpu_seconds: f64, events: u64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
    let events = events as f64;
    (events > 0.0).then(|| cpu_seconds * 1_000_000.0 / events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_shares_the_cores_among_the_stages() {
        let costs = StageCosts { drain: 5.0, decode: 1.0, load: 4.0 };
        // ten seconds of processor time a million: two cores give a million in five seconds
        assert_eq!(ceiling(2, costs), Some(200_000.0));
        assert_eq!(ceiling(4, costs), Some(400_000.0));
    }

    #[test]
    fn a_stage_more_lowers_the_ceiling() {
        let few = StageCosts { drain: 5.0, decode: 0.0, load: 0.0 };
        let more = StageCosts { decode: 2.5, ..few };
        assert!(ceiling(2, more) < ceiling(2, few));
        assert_eq!(ceiling(2, few), Some(400_000.0));
    }

    #[test]
    fn costs_that_were_not_measured_give_no_ceiling() {
        assert_eq!(ceiling(2, StageCosts { drain: 0.0, decode: 0.0, load: 0.0 }), None);
        assert_eq!(ceiling(2, StageCosts { drain: f64::NAN, decode: 1.0, load: 1.0 }), None);
        assert_eq!(per_million(3.0, 0), None);
        assert_eq!(per_million(3.0, 2_000_000), Some(1.5));
    }
}
