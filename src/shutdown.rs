//! Stopping: first intake, then, when the grace is over or a second signal comes, everything.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The two stages of a stop. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    stop_intake: CancellationToken,
    force: CancellationToken,
}

impl Shutdown {
    /// Nothing asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a stop: no new events, finish what is in flight.
    pub fn stop(&self) {
        self.stop_intake.cancel();
    }

    /// Gives up what is in flight. Nothing of it is acknowledged, so nothing of it is lost.
    pub fn force(&self) {
        self.stop_intake.cancel();
        self.force.cancel();
    }

    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stop_intake.is_cancelled()
    }

    /// Whether what is in flight is to be given up.
    pub fn is_forced(&self) -> bool {
        self.force.is_cancelled()
    }

    /// Resolves when a stop was asked for.
    pub async fn stopping(&self) {
        self.stop_intake.cancelled().await;
    }

    /// Resolves when what is in flight is to be given up.
    pub async fn forced(&self) {
        self.force.cancelled().await;
    }

    /// Waits for `wait`, less where a stop is asked for in the meantime. `true` where the wait ended by itself.
    pub async fn sleep(&self, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = self.stopping() => false,
        }
    }

    /// Listens for SIGTERM and SIGINT: the first stops intake and starts the grace, whose end or a second signal
    /// forces the rest.
    ///
    /// # Errors
    ///
    /// The process cannot install a signal handler.
    pub fn listen(&self, grace: Duration) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, grace_seconds = grace.as_secs_f64(), "stopping");
            shutdown.stop();
            tokio::select! {
                () = tokio::time::sleep(grace) => {
                    tracing::warn!("the grace is over: what is in flight is given back");
                }
                _ = terminate.recv() => tracing::warn!("second signal: what is in flight is given back"),
                _ = interrupt.recv() => tracing::warn!("second signal: what is in flight is given back"),
            }
            shutdown.force();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_cuts_a_sleep_short() {
        let shutdown = Shutdown::new();
        shutdown.stop();
        assert!(!shutdown.sleep(Duration::from_secs(3600)).await);
        assert!(shutdown.is_stopping());
    }

    #[tokio::test]
    async fn force_includes_stop() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_forced());
        shutdown.force();
        assert!(shutdown.is_forced());
        shutdown.stopping().await;
        shutdown.forced().await;
    }
}
