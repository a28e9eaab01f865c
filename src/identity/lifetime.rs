//! From when and until when a secret holds, where it says so itself.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

/// When a secret was issued, and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetime {
    /// When it was issued.
    pub issued_at: Option<SystemTime>,
    /// From when on nobody takes it any more.
    pub expires_at: Option<SystemTime>,
}

impl Lifetime {
    /// Of two secrets that are shown together: as old as the older, and over with the first.
    pub(crate) fn and(self, other: Self) -> Self {
        let earliest =
            |one: Option<SystemTime>, other: Option<SystemTime>| one.into_iter().chain(other).min();
        Self {
            issued_at: earliest(self.issued_at, other.issued_at),
            expires_at: earliest(self.expires_at, other.expires_at),
        }
    }

    /// Whether it is over.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// The claims of a JWT, of which nothing is verified: who takes it does that.
#[derive(Deserialize)]
pub(super) struct Claims {
    iat: Option<f64>,
    exp: Option<f64>,
    /// For whom it was issued; of a user of NATS the public key.
    pub(super) sub: Option<String>,
}

impl Claims {
    pub(super) fn lifetime(&self) -> Lifetime {
        // zero stands for never in the JWTs of NATS
        let time = |seconds: Option<f64>| {
            let since = Duration::try_from_secs_f64(seconds.filter(|seconds| *seconds > 0.0)?).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        Lifetime { issued_at: time(self.iat), expires_at: time(self.exp) }
    }
}

/// The claims of `token`, where it is a JWT.
pub(super) fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.trim().split('.');
    let (Some(_header), Some(claims), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// The lifetime of a token; of one that is no JWT nothing is known.
pub(crate) fn of_token(token: &str) -> Lifetime {
    claims(token).map(|claims| claims.lifetime()).unwrap_or_default()
}

/// The lifetime of a certificate; `None` where it is none.
pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Lifetime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let time = |seconds: i64| {
        let since = Duration::from_secs(u64::try_from(seconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    let validity = parsed.validity();
    Some(Lifetime {
        issued_at: time(validity.not_before.timestamp()),
        expires_at: time(validity.not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn a_jwt_tells_its_lifetime_and_other_tokens_none() {
        let known = of_token(&jwt(r#"{"iat":100,"exp":200.0}"#));
        assert_eq!(known, Lifetime { issued_at: at(100), expires_at: at(200) });
        let endless = of_token(&jwt(r#"{"iat":100,"exp":0}"#));
        assert_eq!(endless, Lifetime { issued_at: at(100), expires_at: None });
        for token in ["", "canary", "a.b", "a.b.c", "e30.e30.c.d", &jwt("[]"), &jwt(r#"{"exp":1e300}"#)] {
            assert_eq!(of_token(token), Lifetime::default(), "{token}");
        }
    }

    #[test]
    fn two_secrets_are_as_old_as_the_older_and_end_with_the_first() {
        let (old, short) = (
            Lifetime { issued_at: at(1), expires_at: at(100) },
            Lifetime { issued_at: at(2), expires_at: at(50) },
        );
        let both = Lifetime { issued_at: at(1), expires_at: at(50) };
        assert_eq!((old.and(short), short.and(old)), (both, both));
        assert_eq!(both.and(Lifetime::default()), both);
        assert!(both.is_over(at(50).expect("a time")) && !both.is_over(at(49).expect("a time")));
    }
}
