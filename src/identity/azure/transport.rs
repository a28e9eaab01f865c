//! How credentials speak HTTP: certificates are always verified, and no answer is larger than any token.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::{AsyncRawResponse, HttpClient, Request};
use futures_util::StreamExt as _;

use crate::config::{AuthConfig, AuthMethod};
use crate::identity::token::TokenError;

/// How long a connection may take. An answer as a whole has the patience of the cache.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer that is read. A token of Entra ID has some 2 KiB, one with many groups some 10.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// A client that reads no more than it must, and remembers how the last request was answered.
#[derive(Debug)]
pub(super) struct Bounded {
    client: reqwest::Client,
    last_status: Mutex<Option<u16>>,
}

impl Bounded {
    /// A client that trusts the system's authorities, and those of `ca_file`.
    pub(super) fn new(auth: &AuthConfig) -> Result<Self, TokenError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // a token is asked for where the configuration says, and nowhere else
            .redirect(reqwest::redirect::Policy::none());
        builder = match auth.method {
            // The endpoint is on the machine itself, and its protocol is plain HTTP.
            AuthMethod::ManagedIdentity => builder.no_proxy(),
            _ => builder.https_only(true),
        };
        if let Some(path) = &auth.ca_file {
            let field = auth.fields().ca_file;
            let shown = path.display();
            let pem = std::fs::read(path).map_err(|error| {
                TokenError::refused(format!("{field}: file {shown}: cannot be read: {error}"))
            })?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .ok_or_else(|| {
                    TokenError::refused(format!("{field}: file {shown}: has no certificate in PEM"))
                })?;
            builder = builder.tls_certs_merge(authorities);
        }
        let client = builder.build().map_err(|error| {
            TokenError::refused(format!(
                "no client for https can be made: {}",
                super::explain::innermost(&error)
            ))
        })?;
        Ok(Self { client, last_status: Mutex::new(None) })
    }

    /// How the last request was answered, where it was.
    pub(super) fn last_status(&self) -> Option<u16> {
        *self.last_status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl HttpClient for Bounded {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let answer = self.client.execute_request(request).await?;
        let (status, headers, mut body) = answer.deconstruct();
        *self.last_status.lock().unwrap_or_else(PoisonError::into_inner) = Some(u16::from(status));
        let mut read = Vec::new();
        while let Some(part) = body.next().await {
            read.extend_from_slice(&part?);
            if read.len() > MAX_ANSWER_BYTES {
                let text = format!("the answer has more than {MAX_ANSWER_BYTES} bytes");
                return Err(azure_core::Error::with_message(ErrorKind::Io, text));
            }
        }
        Ok(AsyncRawResponse::from_bytes(status, headers, read))
    }
}
