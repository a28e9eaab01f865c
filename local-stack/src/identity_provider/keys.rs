//! Keys that sign tokens and assertions, and certificates for applications.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A key that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Making it.
    #[error("cannot make a key")]
    Make(#[from] rcgen::Error),
    /// Using it.
    #[error("cannot use a key")]
    Use(#[from] jsonwebtoken::errors::Error),
}

/// PKCS #8 of an RSA key of 2,048 bits: so many bytes say that one follows.
const PKCS8_PREFIX_BYTES: usize = 26;

/// An RSA key that signs tokens: the provider's own, or that of a cluster whose workloads it trusts.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    key: EncodingKey,
    public: Jwk,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key with this id.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn generate(id: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let der = pair.serialize_der();
        let key = EncodingKey::from_rsa_der(der.get(PKCS8_PREFIX_BYTES..).unwrap_or_default());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
        public.common.key_id = Some(id.to_owned());
        Ok(Self { id: id.to_owned(), key, public })
    }

    /// Its public half.
    pub(super) fn public(&self) -> &Jwk {
        &self.public
    }

    /// A JSON Web Key Set with it.
    pub fn jwks(&self) -> String {
        json!(JwkSet { keys: vec![self.public.clone()] }).to_string()
    }

    /// These claims, signed by RS256.
    ///
    /// # Errors
    /// Where they cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.id.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }

    /// A workload's token, as a Kubernetes cluster projects it into a pod.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn workload_token(&self, issuer: &str, subject: &str, life: Duration) -> Result<String, KeyError> {
        let now = now();
        self.sign(&json!({
            "iss": issuer, "sub": subject, "aud": [super::application::FEDERATION_AUDIENCE],
            "iat": now, "nbf": now, "exp": now + life.as_secs(),
        }))
    }
}

/// An application's certificate with its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Certificate and key, as PEM, in one text: what `certificate_file` holds.
    pub pem: String,
    /// PKCS #1.
    pub(super) public_key: Vec<u8>,
    pub(super) thumbprint: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// A self-signed one, as applications have them.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: format!("{}{}", certificate.pem(), key.serialize_pem()),
            public_key: key.public_key_raw().to_vec(),
            thumbprint: Sha256::digest(certificate.der()).to_vec(),
        })
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
