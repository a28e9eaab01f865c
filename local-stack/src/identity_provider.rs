//! A stand-in for Microsoft Entra ID, and for the managed identity endpoint of Azure App Service: it gives out access
//! tokens of any life, signed with a key of its own, that the stack's SQL server verifies.
//!
//! Over HTTPS, with a certificate of an authority of its own: discovery, keys, and the token endpoint for applications with a
//! secret, a certificate, or a federated token. Over plain HTTP, as on App Service: tokens of the managed identity.
//! What it is asked in a wrong way it refuses with Entra ID's numbers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::sql_server::{AZURE_SQL_AUDIENCE, TlsMaterial};

mod application;
mod https;
mod keys;
mod serve;

pub use application::{Application, Proof};
pub use keys::{ClientCertificate, KeyError, SigningKey};

/// The one tenant.
pub const TENANT: &str = "5a1e0000-0000-4000-8000-000000000001";
/// The name of the managed identity that the endpoint gives tokens for where none is named.
pub const SYSTEM_IDENTITY: &str = "system-identity";

/// How to start a provider.
#[derive(Debug, Clone)]
pub struct IdentityProviderOptions {
    /// How long its tokens are good for.
    pub token_life: Duration,
    /// What they are for.
    pub audience: String,
}

impl Default for IdentityProviderOptions {
    fn default() -> Self {
        Self { token_life: Duration::from_secs(3600), audience: AZURE_SQL_AUDIENCE.to_owned() }
    }
}

/// Why a provider did not start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityProviderError {
    /// No port can be listened on.
    #[error("cannot listen on the loopback address")]
    Listen(#[source] std::io::Error),
    /// A key or a certificate cannot be made.
    #[error("cannot make a key or a certificate")]
    Key(#[from] KeyError),
    /// The certificate cannot be used.
    #[error("cannot use the certificate")]
    Tls(#[from] rustls::Error),
}

/// What requests meet from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// An answer.
    #[default]
    Normal,
    /// No token: this status.
    Status(u16),
    /// The answer after this time.
    Slow(Duration),
    /// The connection ends before an answer.
    HangUp,
    /// So many tokens that no server takes, though nothing of that can be seen; then good ones.
    Unverifiable(u32),
}

/// What it has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Tokens that were given out.
    pub minted: u64,
    /// Requests that were refused for what was in them.
    pub refused: u64,
    /// Requests that got no token because of the behaviour that was asked for.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    minted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    key: SigningKey,
    /// Its public half is in no key set.
    strange_key: SigningKey,
    audience: String,
    issuer: String,
    /// `IDENTITY_HEADER`: what tells this machine's programs from others.
    header: String,
    counters: Counters,
    changing: Mutex<Changing>,
}

#[derive(Debug)]
struct Changing {
    life: Duration,
    behaviour: Behaviour,
    applications: Vec<Application>,
}

impl Shared {
    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running provider. Dropping it stops it.
#[derive(Debug)]
pub struct IdentityProvider {
    address: SocketAddr,
    endpoint: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
    _serving: [AbortOnDropHandle<()>; 2],
}

impl IdentityProvider {
    /// Makes keys and a certificate, and listens on free ports of the loopback address.
    ///
    /// # Errors
    /// Where no key can be made, or no port be had.
    pub async fn start(options: IdentityProviderOptions) -> Result<Self, IdentityProviderError> {
        let tls = TlsMaterial::generate().map_err(KeyError::from)?;
        let (listener, address) = listen().await?;
        let (endpoint_listener, endpoint) = listen().await?;
        let shared = Arc::new(Shared {
            key: SigningKey::generate("provider")?,
            strange_key: SigningKey::generate("provider")?,
            audience: options.audience,
            issuer: format!("https://localhost:{}/{TENANT}/v2.0", address.port()),
            header: uuid::Uuid::new_v4().to_string(),
            counters: Counters::default(),
            changing: Mutex::new(Changing {
                life: options.token_life,
                behaviour: Behaviour::default(),
                applications: vec![Application::new(SYSTEM_IDENTITY, Proof::None)],
            }),
        });
        let config = Arc::new(tls.web_config()?);
        let https = https::Https::new(listener, config);
        let serving = [
            tokio::spawn(serve::serve(https, serve::entra(Arc::clone(&shared)))),
            tokio::spawn(serve::serve(endpoint_listener, serve::app_service(Arc::clone(&shared)))),
        ];
        tracing::info!(%address, %endpoint, "stand-in for Entra ID listening, for development only");
        Ok(Self {
            address,
            endpoint,
            ca_pem: tls.ca_pem,
            shared,
            _serving: serving.map(AbortOnDropHandle::new),
        })
    }

    /// The authority that clients ask for tokens: `https://localhost:port`.
    pub fn authority(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate authority that they have to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` are on this machine.
    pub fn managed_identity(&self) -> [(&'static str, String); 2] {
        let endpoint = format!("http://{}/msi/token", self.endpoint);
        [("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", self.shared.header.clone())]
    }

    /// The keys that its tokens are signed with, a JSON Web Key Set.
    pub fn jwks(&self) -> String {
        self.shared.key.jwks()
    }

    /// Adds an application or an identity, or changes the one of this name.
    pub fn register(&self, application: Application) {
        let mut changing = self.shared.changing();
        changing.applications.retain(|own| own.name != application.name);
        changing.applications.push(application);
    }

    /// How long tokens are good for from now on.
    pub fn set_token_life(&self, life: Duration) {
        self.shared.changing().life = life;
    }

    /// What requests meet from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.changing().behaviour = behaviour;
    }

    /// A token for the application of this name, as if it had asked for one; `None` where there is no such application.
    pub fn mint(&self, name: &str) -> Option<String> {
        let (application, life) = {
            let changing = self.shared.changing();
            let application = changing.applications.iter().find(|own| own.name == name)?.clone();
            (application, changing.life)
        };
        self.shared.counters.minted.fetch_add(1, Ordering::Relaxed);
        Some(serve::mint(&self.shared, &application, life)?.token)
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        Counts {
            minted: counters.minted.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
        }
    }
}

async fn listen() -> Result<(tokio::net::TcpListener, SocketAddr), IdentityProviderError> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(IdentityProviderError::Listen)?;
    let address = listener.local_addr().map_err(IdentityProviderError::Listen)?;
    Ok((listener, address))
}
