//! `[rotation]`: how old a secret may become.

use std::time::Duration;

use serde::Deserialize;

use super::problem::Checks;

/// What holds for the secrets of NATS and of the database alike.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotationConfig {
    /// The oldest that a secret should become, 1 min to 366 d. One that comes near it, or near its own end, is warned of;
    /// the work goes on. Default: none.
    #[serde(with = "humantime_serde")]
    pub max_age: Option<Duration>,
}

impl RotationConfig {
    pub(super) fn validate(&self, checks: &mut Checks<'_>) {
        if let Some(max_age) = self.max_age {
            let (minute, year) = (Duration::from_secs(60), Duration::from_secs(366 * 24 * 3600));
            checks.duration("max_age", max_age, &(minute..=year));
        }
    }
}
