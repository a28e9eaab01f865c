//! When to warn of a secret: before it is late.

use std::time::{Duration, SystemTime};

use crate::identity::Lifetime;

/// Why a secret should be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// It has ended.
    Over,
    /// Four fifths of its life are over.
    Ending,
    /// It is older than `rotation.max_age`.
    TooOld,
    /// Four fifths of that are over.
    Aging,
}

/// The most urgent one.
pub(super) fn of(
    lifetime: Lifetime,
    since: SystemTime,
    max_age: Option<Duration>,
    now: SystemTime,
) -> Option<Concern> {
    if lifetime.is_over(now) {
        return Some(Concern::Over);
    }
    let age = now.duration_since(since).unwrap_or_default();
    let is_most = |whole: Duration| age >= whole / 5 * 4;
    let life = lifetime.expires_at.and_then(|end| end.duration_since(since).ok());
    match (life, max_age) {
        (_, Some(max_age)) if age >= max_age => Some(Concern::TooOld),
        (Some(life), _) if is_most(life) => Some(Concern::Ending),
        (_, Some(max_age)) if is_most(max_age) => Some(Concern::Aging),
        _ => None,
    }
}

impl Concern {
    /// Says so.
    pub(super) fn text(
        self,
        since: SystemTime,
        expires_at: Option<SystemTime>,
        max_age: Option<Duration>,
        now: SystemTime,
    ) -> String {
        let shown = |span: Duration| humantime::format_duration(Duration::from_secs(span.as_secs()));
        let age = shown(now.duration_since(since).unwrap_or_default());
        let left = shown(expires_at.and_then(|end| end.duration_since(now).ok()).unwrap_or_default());
        let limit = shown(max_age.unwrap_or_default());
        match self {
            Self::Over => "the secret has ended, and no newer one is in use".to_owned(),
            Self::Ending => format!("the secret ends in {left}, and no newer one is in use"),
            Self::TooOld => format!("the secret is {age} old, rotation.max_age is {limit}"),
            Self::Aging => format!("the secret is {age} old, and is to be exchanged at {limit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_warning_comes_before_it_is_late_and_the_most_urgent_first() {
        let end = |seconds: u64| Lifetime { issued_at: Some(at(1000)), expires_at: Some(at(seconds)) };
        let endless = Lifetime { issued_at: Some(at(1000)), expires_at: None };
        let hundred = Some(Duration::from_secs(100));
        for (lifetime, max_age, now, expected) in [
            (endless, None, 1_000_000, None),
            (end(1100), None, 1079, None),
            (end(1100), None, 1080, Some(Concern::Ending)),
            (end(1100), None, 1100, Some(Concern::Over)),
            (endless, hundred, 1079, None),
            (endless, hundred, 1080, Some(Concern::Aging)),
            (endless, hundred, 1100, Some(Concern::TooOld)),
            (end(2000), hundred, 1150, Some(Concern::TooOld)),
            (end(1010), hundred, 1009, Some(Concern::Ending)),
            // a clock that is behind
            (end(1100), hundred, 900, None),
        ] {
            assert_eq!(of(lifetime, at(1000), max_age, at(now)), expected, "{lifetime:?} {max_age:?} {now}");
        }
    }
}
