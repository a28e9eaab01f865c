//! A connect token for NATS that is asked for: from Microsoft Entra ID, for a server that asks an auth callout.
//!
//! One token is shown at every connect until the next is due, at half of its life. Then it is another secret, which the sink
//! goes over to as to a file that was exchanged: before the server ends the connection with the token.

use std::future::Future;
use std::pin::Pin;

use super::nats::TokenSource;
use super::source::Source;
use super::token::TokenCache;
use super::{IdentityError, IdentityErrorKind, Secret};
use crate::config::AuthConfig;

/// Asks for tokens.
#[derive(Debug)]
pub(super) struct Minted {
    cache: TokenCache<Source>,
    field: &'static str,
    method: &'static str,
}

impl Minted {
    pub(super) fn new(auth: &AuthConfig) -> Self {
        let cache = TokenCache::new(Source::new(auth));
        Self { cache, field: auth.fields().table, method: auth.method.as_str() }
    }
}

impl TokenSource for Minted {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Secret, IdentityError>> + Send + '_>> {
        Box::pin(async {
            self.cache.token().await.map(|token| token.secret).map_err(|error| IdentityError {
                field: self.field,
                origin: format!("method = \"{}\"", self.method),
                kind: IdentityErrorKind::NoToken(error),
            })
        })
    }

    fn keep_fresh(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.cache.keep_fresh())
    }

    fn refused(&self, token: &Secret) {
        self.cache.distrust(token);
    }
}
