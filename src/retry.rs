//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Exponential backoff with full jitter: the nth wait is drawn evenly from zero to twice the ceiling of the one
/// before it, up to a limit. Workers that failed together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    ceilings: ExponentialBackoff,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// For errors that pass by themselves: the first wait is under 0.2 s, later ones under 4 s, so that work goes on within
    /// 5 s of the return of what was away.
    pub fn transient() -> Self {
        Self::between(Duration::from_millis(200), Duration::from_secs(4))
    }

    /// For a server that answers, and asks for less: the first wait is under 0.2 s, later ones under 20 s.
    pub fn busy() -> Self {
        Self::between(Duration::from_millis(200), Duration::from_secs(20))
    }

    /// For what somebody has to mend: the first wait is under 2 s, later ones under 30 s, so that what was mended is
    /// noticed within half a minute and nothing is hammered in the meantime.
    pub fn stopped() -> Self {
        Self::between(Duration::from_secs(2), Duration::from_secs(30))
    }

    fn between(first: Duration, most: Duration) -> Self {
        let ceilings = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(most)
            .with_factor(2.0)
            .without_max_times()
            .build();
        Self { ceilings, most, attempts: 0 }
    }

    /// How often [`Backoff::next_wait`] was called.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        self.ceilings.next().unwrap_or(self.most).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_no_further() {
        for (mut backoff, most) in [(Backoff::transient(), 4), (Backoff::busy(), 20)] {
            let most = Duration::from_secs(most);
            let mut longest = Duration::ZERO;
            for attempt in 1..=2000 {
                let ceiling = Duration::from_millis(200).saturating_mul(2_u32.saturating_pow(attempt - 1));
                let wait = backoff.next_wait();
                assert!(wait <= ceiling.min(most), "attempt {attempt} waits {wait:?}");
                longest = longest.max(wait);
            }
            assert!(longest > most * 3 / 4, "2000 draws up to {most:?} reach three quarters of it");
            assert_eq!(backoff.attempts(), 2000);
        }
    }
}
