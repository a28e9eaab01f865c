//! The assertion by which an application with a certificate says who it is, as Entra ID wants it: a JWT of a few minutes,
//! signed with the certificate's key.
//!
//! `azure_identity` signs it with OpenSSL, which this program does not link. rustls has all that is needed.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::config::{AuthConfig, SecretSource};
use crate::identity::token::TokenError;
use crate::identity::{IdentityError, IdentityErrorKind, read_file};

/// How long an assertion is good for: one request, and clocks that differ.
const LIFE_SECONDS: u64 = 300;

/// An application's certificate with its key.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    header: String,
    audience: String,
    client: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Certificate").field("client", &self.client).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a PEM file that holds the certificate first of all certificates, and its RSA key.
    pub(super) fn read(path: &Path, auth: &AuthConfig) -> Result<Self, TokenError> {
        let field = auth.fields().certificate_file;
        let pem = read_file(field, path)?;
        let none = || IdentityError {
            field,
            origin: SecretSource::File(path.to_owned()).to_string(),
            kind: IdentityErrorKind::NoCertificate,
        };
        let certificate = CertificateDer::pem_slice_iter(pem.expose().as_bytes())
            .next()
            .and_then(Result::ok)
            .ok_or_else(none)?;
        let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_may_quote_it| none())?;
        let key =
            rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_may_quote_it| none())?;
        // Entra ID takes RSA alone.
        key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).ok_or_else(none)?;
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate));
        let header = json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint });
        let tenant = auth.tenant_id.as_deref().unwrap_or_default();
        let authority = auth.authority().trim_end_matches('/');
        Ok(Self {
            key,
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
            audience: format!("{authority}/{tenant}/oauth2/v2.0/token"),
            client: auth.client_id.clone().unwrap_or_default(),
        })
    }

    fn sign(&self, now: u64) -> Result<String, rustls::Error> {
        let claims = json!({
            "aud": self.audience, "iss": self.client, "sub": self.client,
            "jti": uuid::Uuid::new_v4().to_string(), "nbf": now, "iat": now, "exp": now + LIFE_SECONDS,
        });
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let unfit = || rustls::Error::General("the key signs no assertion".to_owned());
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).ok_or_else(unfit)?;
        let signature = signer.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

#[async_trait]
impl ClientAssertion for Certificate {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.sign(now).map_err(|error| azure_core::Error::new(ErrorKind::Credential, error))
    }
}
