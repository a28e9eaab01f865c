//! What a task does about an error: how long it waits, what it says, and whether intake goes on meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disposition::{Disposition, Duplicates, disposition};
use crate::error::Error;
use crate::metrics;
use crate::nats::gate::{Counted, Gate};
use crate::retry::Backoff;
use crate::status::{Complaint, PipelineStatus};
use crate::telemetry;

/// How often a table's shape is read again before that counts as trouble that does not pass by itself.
const MAX_RELOADS: u32 = 3;

/// The errors that one piece of work has met so far. Dropped when the work is done, or given up.
#[derive(Debug)]
pub struct Trouble {
    pipeline: Arc<str>,
    gate: Gate,
    transient: Backoff,
    busy: Backoff,
    stopped: Backoff,
    /// When the first error was met.
    since: Option<Instant>,
    /// Counts after `retry_window`, also while nothing but one attempt has lasted so long.
    complaint: Complaint,
    reauthenticated: bool,
    reloads: u32,
    closed: Option<Counted>,
    duplicates: Duplicates,
}

/// What to do before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Wait this long.
    pub wait: Duration,
    /// Then, besides trying again: this.
    pub disposition: Disposition,
}

impl Trouble {
    /// No trouble yet. To be made when the work begins: where that is not over after `retry_window` the pipeline is not
    /// ready.
    pub fn new(pipeline: Arc<str>, status: &PipelineStatus, gate: Gate, retry_window: Duration) -> Self {
        let text = format!("nothing was finished for {}", humantime::format_duration(retry_window));
        Self {
            pipeline,
            gate,
            transient: Backoff::transient(),
            busy: Backoff::busy(),
            stopped: Backoff::stopped(),
            since: None,
            complaint: status.complain_after(retry_window, text),
            reauthenticated: false,
            reloads: 0,
            closed: None,
            duplicates: Duplicates::default(),
        }
    }

    /// Of work in which a duplicate key means this.
    pub fn with_duplicates(self, duplicates: Duplicates) -> Self {
        Self { duplicates, ..self }
    }

    /// Takes note of an error, tells the log, the metrics and the status, and says what is next.
    pub fn met(&mut self, error: &Error) -> Next {
        let disposition = self.bounded(disposition(error, self.duplicates));
        metrics::error_met(&self.pipeline, error, disposition);
        let text = telemetry::describe(error);
        let stops = matches!(disposition, Disposition::Stop | Disposition::Bisect);
        let backoff = match disposition {
            Disposition::SlowDown => &mut self.busy,
            _ if stops => &mut self.stopped,
            _ => &mut self.transient,
        };
        let wait = backoff.next_wait();
        self.since.get_or_insert_with(Instant::now);
        self.complaint.say(text.clone());
        if stops {
            self.closed.get_or_insert_with(|| self.gate.close());
            self.complaint.now();
        }
        let attempt = self.transient.attempts() + self.busy.attempts() + self.stopped.attempts();
        let wait_seconds = wait.as_secs_f64();
        if stops {
            tracing::error!(
                pipeline = %self.pipeline, disposition = disposition.as_str(), attempt, wait_seconds, error = %text,
                "stopped: somebody has to mend this"
            );
        } else {
            tracing::warn!(
                pipeline = %self.pipeline, disposition = disposition.as_str(), attempt, wait_seconds, error = %text,
                "trying again"
            );
        }
        Next { wait, disposition }
    }

    /// What may be done once, or a few times, is *stop* after that.
    fn bounded(&mut self, disposition: Disposition) -> Disposition {
        match disposition {
            Disposition::Reauthenticate if self.reauthenticated => Disposition::Stop,
            Disposition::Reauthenticate => {
                self.reauthenticated = true;
                disposition
            }
            Disposition::ReloadShape if self.reloads >= MAX_RELOADS => Disposition::Stop,
            Disposition::ReloadShape => {
                self.reloads += 1;
                disposition
            }
            other => other,
        }
    }

    /// The work is done.
    pub fn over(self) {
        if let Some(since) = self.since {
            tracing::info!(pipeline = %self.pipeline, after_seconds = since.elapsed().as_secs_f64(), "going on");
        }
    }
}
