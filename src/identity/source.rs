//! Where the configuration says that access tokens come from.

use super::token::{Fetched, Provider, TokenError};
use super::{azure, token_file};
use crate::config::{AuthConfig, AuthMethod};

/// A file, or whoever gives tokens out.
#[derive(Debug)]
pub(super) struct Source(AuthConfig);

impl Source {
    pub(super) fn new(auth: &AuthConfig) -> Self {
        Self(auth.clone())
    }
}

impl Provider for Source {
    fn is_local(&self) -> bool {
        self.0.method == AuthMethod::AccessTokenFile
    }

    async fn fetch(&self) -> Result<Fetched, TokenError> {
        match (self.0.method, &self.0.token_file) {
            (AuthMethod::AccessTokenFile, Some(path)) => token_file::read(path),
            _ => azure::fetch(&self.0).await,
        }
    }
}
