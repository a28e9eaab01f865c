//! Waiting with a bound: what was waited for in vain is named.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long something may take that takes moments on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// Waits until `condition` gives a value, looking often.
///
/// # Errors
/// After `patience`, naming what was waited for; or the condition's own.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if started.elapsed() > patience {
            bail!("waited {} s in vain: {what}", patience.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
}
