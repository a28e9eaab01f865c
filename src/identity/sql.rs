//! As whom to log in to the database: one for the whole process, so that all its connections share a token.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::source::Source;
use super::token::{Stamp, TokenCache, TokenError, TokenErrorKind};
use super::{IdentityError, SqlCredential, sql_credential};
use crate::config::{AuthConfig, AuthMethod};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;

/// How often the metrics are told.
const TELL: Duration = Duration::from_secs(1);

/// Whom the connections of this process belong to.
#[derive(Debug)]
pub struct SqlIdentity(Kind);

#[derive(Debug)]
enum Kind {
    /// The password is read for each login.
    Login {
        auth: Box<AuthConfig>,
        generation: AtomicU64,
    },
    Token(Box<TokenCache<Source>>),
}

impl SqlIdentity {
    /// As the configuration says; nothing is read or asked for yet.
    pub fn new(auth: &AuthConfig) -> Self {
        Self(match auth.method {
            AuthMethod::SqlLogin => {
                Kind::Login { auth: Box::new(auth.clone()), generation: AtomicU64::new(1) }
            }
            _ => Kind::Token(Box::new(TokenCache::new(Source::new(auth)))),
        })
    }

    /// What to log in with now, and the stamp of sessions that do.
    ///
    /// # Errors
    ///
    /// A secret cannot be read, or no token can be had.
    pub async fn credential(&self) -> Result<(SqlCredential, Stamp)> {
        match &self.0 {
            Kind::Login { auth, generation, .. } => {
                let stamp = Stamp { generation: generation.load(Ordering::Acquire), ends: None };
                Ok((sql_credential(auth).map_err(|error| unread(&error))?, stamp))
            }
            Kind::Token(cache) => {
                let token = cache.token().await.map_err(|error| no_token(&error))?;
                Ok((SqlCredential::Token(token.secret), token.stamp))
            }
        }
    }

    /// What a login would be with what the secret is now, whatever is known to be good.
    ///
    /// # Errors
    ///
    /// As of [`SqlIdentity::credential`].
    pub async fn trial(&self) -> Result<SqlCredential> {
        match &self.0 {
            Kind::Login { auth, .. } => sql_credential(auth).map_err(|error| unread(&error)),
            Kind::Token(cache) => {
                let fetched = cache.probe().await.map_err(|error| no_token(&error))?;
                Ok(SqlCredential::Token(fetched.secret))
            }
        }
    }

    /// Whether a session of this stamp may be used on. Another credential is known, or its token is at its end: then it is
    /// closed where it is not in use, and opened anew.
    pub fn is_current(&self, stamp: &Stamp) -> bool {
        match &self.0 {
            Kind::Login { generation, .. } => generation.load(Ordering::Acquire) == stamp.generation,
            Kind::Token(cache) => cache.is_current(stamp),
        }
    }

    /// Of a session that is to be used until another credential is taken than the one that is known now.
    pub fn stamp_until(&self, ends: Option<SystemTime>) -> Stamp {
        let generation = match &self.0 {
            Kind::Login { generation, .. } => generation.load(Ordering::Acquire),
            Kind::Token(cache) => cache.generation(),
        };
        Stamp { generation, ends }
    }

    /// The server refused a login with this stamp. A password is read for each login anyway.
    pub fn refused(&self, stamp: &Stamp) {
        if let Kind::Token(cache) = &self.0 {
            cache.refused(stamp);
        }
    }

    /// What the credential is made from has changed: no session is used on that was opened with the one before.
    pub fn renew(&self) {
        match &self.0 {
            Kind::Login { generation, .. } => {
                generation.fetch_add(1, Ordering::AcqRel);
            }
            Kind::Token(cache) => cache.expire(),
        }
    }

    /// Keeps a token fresh, and tells the metrics how old it is. Returns at once where there are no tokens: of a password
    /// whoever watches its file tells.
    pub async fn keep_fresh(&self) {
        let Kind::Token(cache) = &self.0 else { return };
        let telling = async {
            let mut ticks = tokio::time::interval(TELL);
            loop {
                ticks.tick().await;
                if let Some((age, expires_in)) = cache.age() {
                    let expires_in = expires_in.map(|left| left.as_secs_f64());
                    metrics::credential("sql", age.as_secs_f64(), expires_in);
                }
            }
        };
        tokio::join!(cache.keep_fresh(), telling);
    }
}

fn unread(error: &IdentityError) -> Error {
    Error::new(Phase::Connect, ErrorKind::Credential, error.to_string())
}

fn no_token(error: &TokenError) -> Error {
    let kind = match error.kind {
        TokenErrorKind::Unavailable => ErrorKind::CredentialUnavailable,
        TokenErrorKind::Refused => ErrorKind::Credential,
    };
    Error::new(Phase::Connect, kind, format!("no access token: {error}"))
}
