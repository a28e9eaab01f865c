//! Evidence that a fault struck a lane: what its workers counted. A fault that left no trace has proved nothing.

use crate::mode::Mode;
use crate::stand::Stand;

/// What has to be found.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// The lane's pipeline has met one of these errors of the database, by number; `client` is one of the connection.
    SqlError(&'static [&'static str]),
    /// A counter of the lane's pipeline is above 0.
    Counter(&'static str, &'static [(&'static str, &'static str)], &'static str),
    /// A counter without a pipeline is above 0.
    Process(&'static str, &'static [(&'static str, &'static str)], &'static str),
    /// One of these at least.
    Any(Vec<Proof>),
}

impl Proof {
    /// Deliveries that were not an event's first.
    pub(crate) fn redelivered() -> Self {
        Self::Counter("events_redelivered_total", &[], "events redelivered")
    }

    /// Commits whose answer was lost.
    pub(crate) fn unknown() -> Self {
        Self::Counter("outcomes_unknown_total", &[], "outcomes unknown")
    }

    /// The connection with NATS was lost.
    pub(crate) fn disconnected() -> Self {
        Self::Process(
            "nats_connection_events_total",
            &[("event", "disconnected")],
            "connections with NATS lost",
        )
    }

    /// What was found, in words; `None` where it was not.
    pub(crate) fn find(&self, stand: &Stand, mode: &Mode) -> Option<String> {
        let counted = |count: f64, says: &str| (count > 0.0).then(|| format!("{count:.0} {says}"));
        match self {
            Self::SqlError(numbers) => {
                let found: Vec<String> = numbers
                    .iter()
                    .filter_map(|number| {
                        let count = stand.count_of(mode, "sql_errors_total", &[("number", number)]);
                        let name = if *number == "client" { "connection error" } else { "error" };
                        let number = if *number == "client" { String::new() } else { format!(" {number}") };
                        (count > 0.0).then(|| format!("{name}{number} × {count:.0}"))
                    })
                    .collect();
                (!found.is_empty()).then(|| found.join(", "))
            }
            Self::Counter(metric, labels, says) => counted(stand.count_of(mode, metric, labels), says),
            Self::Process(metric, labels, says) => counted(stand.count(metric, labels), says),
            Self::Any(proofs) => {
                let found: Vec<String> = proofs.iter().filter_map(|proof| proof.find(stand, mode)).collect();
                (!found.is_empty()).then(|| found.join(", "))
            }
        }
    }

    /// What is missing where it was not found.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::SqlError(numbers) => format!("error {}", numbers.join(" or ")),
            Self::Counter(metric, ..) | Self::Process(metric, ..) => (*metric).to_owned(),
            Self::Any(proofs) => proofs.iter().map(Self::name).collect::<Vec<_>>().join(" or "),
        }
    }
}
