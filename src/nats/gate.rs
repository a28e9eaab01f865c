//! Whether intake may pull. Closed while a pipeline has stopped: what cannot be written is not asked for.

use std::sync::Arc;

use tokio::sync::watch;

/// Open as long as nobody holds a [`Closed`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    closed: Arc<watch::Sender<usize>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { closed: Arc::new(watch::Sender::new(0)) }
    }
}

impl Gate {
    /// Keeps the gate closed until the guard is dropped.
    pub fn close(&self) -> Closed {
        self.closed.send_modify(|closed| *closed += 1);
        Closed { gate: self.clone() }
    }

    /// Whether nobody keeps it closed.
    pub fn is_open(&self) -> bool {
        *self.closed.borrow() == 0
    }

    /// Resolves when it is open.
    pub async fn opened(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed == 0).await;
    }
}

/// Keeps a [`Gate`] closed.
#[derive(Debug)]
pub struct Closed {
    gate: Gate,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.gate.closed.send_modify(|closed| *closed -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_when_the_last_guard_is_dropped() {
        let gate = Gate::default();
        let (one, other) = (gate.close(), gate.close());
        drop(one);
        assert!(!gate.is_open());
        let opened = tokio::spawn({
            let gate = gate.clone();
            async move { gate.opened().await }
        });
        drop(other);
        opened.await.expect("it opens");
        assert!(gate.is_open());
    }
}
