//! Who the sink is to NATS: read anew at every connect, and held in memory as it was last found sound.
//!
//! The client of NATS lives as long as the process, because subscriptions live on it. It asks three times during a
//! connect: before it begins, which is when everything is read; during the handshake of TLS; and when the server has
//! sent the nonce that is to be signed. A file that is half written, or gone, changes nothing: what was read before is
//! shown again.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_nats::{Auth, AuthError, ConnectOptions};
use sha2::{Digest as _, Sha256};

use super::lifetime::{self, Lifetime};
use super::minted::Minted;
use super::tls::{self, TlsFiles};
use super::{IdentityError, Secret, malformed, modified, read, read_file};
use crate::config::{NatsAuth, NatsConfig, SecretSource};

/// Tells contents apart without showing them.
pub type Fingerprint = [u8; 32];

/// Where a connect token comes from: a file that something else keeps fresh, or whatever mints one.
pub trait TokenSource: fmt::Debug + Send + Sync {
    /// A token that is good now.
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Secret, IdentityError>> + Send + '_>>;

    /// Has the next one before the one at hand ends; returns at once where somebody else does that.
    fn keep_fresh(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// A server refused this one.
    fn refused(&self, _token: &Secret) {}
}

impl TokenSource for SecretSource {
    fn token(&self) -> Pin<Box<dyn Future<Output = Result<Secret, IdentityError>> + Send + '_>> {
        Box::pin(async move { read("nats.token_file", "nats.token", self) })
    }
}

/// What is said to a server that asks who one is.
#[derive(Debug)]
enum Login {
    Nobody,
    Credentials { jwt: Secret, seed: Secret },
    Nkey { seed: Secret },
    User { user: String, password: Secret },
    Token(Secret),
}

/// Everything that is shown to a server, as it was read at one moment.
#[derive(Debug)]
pub struct Shown {
    login: Login,
    pub(super) tls: TlsFiles,
    /// Changes with any of the contents.
    pub fingerprint: Fingerprint,
    /// Of all its parts together.
    pub lifetime: Lifetime,
    /// When it was read first.
    pub read_at: SystemTime,
}

/// Who the sink is to NATS.
#[derive(Debug)]
pub struct NatsIdentity {
    config: NatsConfig,
    token: Option<Arc<dyn TokenSource>>,
    /// Not for a trial, which is of one content.
    rereads: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the server took last, or what was read first.
    held: Arc<Shown>,
    /// What the connect under way shows.
    offered: Arc<Shown>,
    /// What a server took on trial.
    accepted: Option<Fingerprint>,
    /// Connects that were begun since one succeeded.
    tries: usize,
    /// Said already, of a file that cannot be used.
    said: Option<String>,
    /// Why this side broke off the last handshake.
    refusal: Option<String>,
}

impl NatsIdentity {
    /// Reads everything that the configuration names.
    ///
    /// # Errors
    ///
    /// A secret cannot be read, or is not what NATS takes.
    pub async fn load(config: &NatsConfig) -> Result<Arc<Self>, IdentityError> {
        let token: Option<Arc<dyn TokenSource>> = match config.auth() {
            NatsAuth::Token(source) => Some(Arc::new(source)),
            NatsAuth::TokenFrom(auth) => Some(Arc::new(Minted::new(auth))),
            _ => None,
        };
        Self::with_token(config, token).await
    }

    /// Like [`NatsIdentity::load`], with a connect token from elsewhere than the configuration's files.
    ///
    /// # Errors
    ///
    /// As of [`NatsIdentity::load`].
    pub async fn with_token(
        config: &NatsConfig,
        token: Option<Arc<dyn TokenSource>>,
    ) -> Result<Arc<Self>, IdentityError> {
        let shown = Arc::new(read_all(config, token.as_deref()).await?);
        Ok(Self::of(config.clone(), token, shown, true))
    }

    fn of(
        config: NatsConfig,
        token: Option<Arc<dyn TokenSource>>,
        shown: Arc<Shown>,
        rereads: bool,
    ) -> Arc<Self> {
        let (held, offered) = (Arc::clone(&shown), shown);
        let state = State { held, offered, accepted: None, tries: 0, said: None, refusal: None };
        Arc::new(Self { config, token, rereads, state: Mutex::new(state) })
    }

    /// The same configuration with this content and no other, whatever is in the files.
    pub fn on_trial(&self, shown: &Arc<Shown>) -> Arc<Self> {
        Self::of(self.config.clone(), self.token.clone(), Arc::clone(shown), false)
    }

    /// The servers that it is for.
    pub fn servers(&self) -> &[String] {
        &self.config.servers
    }

    /// Has the next token before the one at hand ends, where tokens are asked for; returns at once where not.
    pub async fn keep_fresh(&self) {
        if let Some(token) = &self.token {
            token.keep_fresh().await;
        }
    }

    /// A server refused what was shown to it.
    pub fn login_refused(&self) {
        if let (Some(source), Login::Token(token)) = (&self.token, &self.offered().login) {
            source.refused(token);
        }
    }

    /// What is in the files now.
    ///
    /// # Errors
    ///
    /// As of [`NatsIdentity::load`].
    pub async fn look(&self) -> Result<Arc<Shown>, IdentityError> {
        read_all(&self.config, self.token.as_deref()).await.map(Arc::new)
    }

    /// What the server took last.
    pub fn held(&self) -> Arc<Shown> {
        Arc::clone(&self.state().held)
    }

    /// What the connect under way shows.
    pub(super) fn offered(&self) -> Arc<Shown> {
        Arc::clone(&self.state().offered)
    }

    /// A server took what was shown to it. `true` where that is not what it took before.
    pub fn taken(&self) -> bool {
        let mut state = self.state();
        let is_new = state.held.fingerprint != state.offered.fingerprint;
        state.held = Arc::clone(&state.offered);
        (state.tries, state.accepted, state.refusal) = (0, None, None);
        is_new
    }

    /// A server took this on trial: from now on it is shown.
    pub fn accept(&self, fingerprint: Fingerprint) {
        self.state().accepted = Some(fingerprint);
    }

    /// Whether this is what the last connect showed.
    pub fn offers(&self, fingerprint: Fingerprint) -> bool {
        self.state().offered.fingerprint == fingerprint
    }

    /// Why this side broke off the last handshake, once.
    pub fn take_refusal(&self) -> Option<String> {
        self.state().refusal.take()
    }

    pub(super) fn server_refused(&self, why: String) {
        self.state().refusal = Some(why);
    }

    /// Options with which to connect: they ask this for everything at every connect.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up at all.
    pub fn options(self: &Arc<Self>) -> Result<ConnectOptions, rustls::Error> {
        let signing = Arc::clone(self);
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let auth = signing.offered().login.auth(&nonce);
            std::future::ready(auth)
        });
        let reading = Arc::clone(self);
        let mut options = options
            .custom_inbox_prefix(&self.config.inbox_prefix)
            .reconnect_to_server_callback(move |_servers, _info| {
                let reading = Arc::clone(&reading);
                // a task of its own, as the client wants a future that threads could share
                let read = tokio::spawn(async move { reading.begin().await });
                async move {
                    if let Err(error) = read.await {
                        tracing::error!(%error, "reading the credentials of nats ended by a defect of this program");
                    }
                    None
                }
            })
            .tls_client_config(tls::client_config(self)?)
            // also of servers that a cluster tells of, whose addresses say nothing of it
            .require_tls(self.config.requires_tls());
        if self.config.tls.first {
            options = options.tls_first();
        }
        Ok(options)
    }

    /// A connect begins: decides what it shows.
    async fn begin(&self) {
        if !self.rereads {
            return;
        }
        let read = self.look().await;
        let mut state = self.state();
        state.tries += 1;
        state.offered = match read {
            Ok(fresh) => state.choose(fresh),
            Err(error) => {
                let text = error.to_string();
                if state.said.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "a secret of nats cannot be used, connecting with the former one");
                    state.said = Some(text);
                }
                Arc::clone(&state.held)
            }
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What this try shows: what is new, where a server took it on trial, or the former one has ended; else the former one. Where
    /// that is refused too it is one of both by chance (turns would go with the servers of a list): what was refused once, or was
    /// never tried, may be good by now.
    fn choose(&self, fresh: Arc<Shown>) -> Arc<Shown> {
        let now = SystemTime::now();
        let is_over = |shown: &Shown| shown.lifetime.is_over(now);
        let shows_held = fresh.fingerprint == self.held.fingerprint
            || match (is_over(&self.held), is_over(&fresh)) {
                (true, false) => false,
                (false, true) => true,
                _ => self.accepted != Some(fresh.fingerprint) && (self.tries == 1 || fastrand::bool()),
            };
        if shows_held { Arc::clone(&self.held) } else { fresh }
    }
}

impl Login {
    fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::Credentials { jwt, seed } => {
                auth.jwt = Some(jwt.expose().to_owned());
                auth.signature = Some(sign(seed, nonce)?.1);
            }
            Self::Nkey { seed } => {
                let (public, signature) = sign(seed, nonce)?;
                (auth.nkey, auth.signature) = (Some(public), Some(signature));
            }
            Self::User { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose().to_owned());
            }
            Self::Token(token) => auth.token = Some(token.expose().to_owned()),
        }
        Ok(auth)
    }
}

/// The public key of a seed, and its signature.
fn sign(seed: &Secret, nonce: &[u8]) -> Result<(String, Vec<u8>), AuthError> {
    let failed = |_may_quote_it| AuthError::new("the seed cannot sign");
    let pair = nkeys::KeyPair::from_seed(seed.expose()).map_err(failed)?;
    Ok((pair.public_key(), pair.sign(nonce).map_err(failed)?))
}

async fn read_all(config: &NatsConfig, token: Option<&dyn TokenSource>) -> Result<Shown, IdentityError> {
    let mut hash = Sha256::new();
    let mut seen = |content: &[u8]| {
        // with its length, so that no content can pass for two
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    };
    let since = |path: &Path| Lifetime { issued_at: modified(path), expires_at: None };
    let of_source = |source: &SecretSource| match source {
        SecretSource::File(path) => since(path),
        SecretSource::Environment(_) => Lifetime::default(),
    };
    let auth = config.auth();
    let (login, lifetime) = if let Some(source) = token {
        let token = source.token().await?;
        seen(token.expose().as_bytes());
        let known = lifetime::of_token(token.expose());
        let elsewhere = match &auth {
            NatsAuth::Token(source) => of_source(source),
            _ => Lifetime::default(),
        };
        (Login::Token(token), Lifetime { issued_at: known.issued_at.or(elsewhere.issued_at), ..known })
    } else {
        match &auth {
            NatsAuth::None | NatsAuth::Token(_) | NatsAuth::TokenFrom(_) => {
                (Login::Nobody, Lifetime::default())
            }
            NatsAuth::CredentialsFile(path) => {
                let field = "nats.credentials_file";
                let content = read_file(field, path)?;
                seen(content.expose().as_bytes());
                let (login, known) = credentials(content.expose()).ok_or_else(|| malformed(field, path))?;
                (login, Lifetime { issued_at: known.issued_at.or(since(path).issued_at), ..known })
            }
            NatsAuth::NkeySeedFile(path) => {
                let field = "nats.nkey_seed_file";
                let seed = read_file(field, path)?;
                seen(seed.expose().as_bytes());
                nkeys::KeyPair::from_seed(seed.expose()).map_err(|_may_quote_it| malformed(field, path))?;
                (Login::Nkey { seed }, since(path))
            }
            NatsAuth::UserPassword { user, password: source } => {
                let password = read("nats.password_file", "nats.password", source)?;
                seen(password.expose().as_bytes());
                (Login::User { user: (*user).to_owned(), password }, of_source(source))
            }
        }
    };
    let tls = tls::read(&config.tls, seen)?;
    let lifetime = lifetime.and(tls.lifetime);
    Ok(Shown { login, tls, fingerprint: hash.finalize().into(), lifetime, read_at: SystemTime::now() })
}

/// The parts of a `.creds` file, each between a line that begins it and one that ends it. The seed has to be that of the
/// user that the JWT is of: a file that is put together of two halves is none.
fn credentials(content: &str) -> Option<(Login, Lifetime)> {
    let jwt = decorated(content, "NATS USER JWT")?;
    let seed = decorated(content, "USER NKEY SEED")?;
    let claims = lifetime::claims(jwt)?;
    let pair = nkeys::KeyPair::from_seed(seed).ok()?;
    if claims.sub.as_deref() != Some(pair.public_key().as_str()) {
        return None;
    }
    let login = Login::Credentials { jwt: Secret::new(jwt), seed: Secret::new(seed) };
    Some((login, claims.lifetime()))
}

fn decorated<'a>(content: &'a str, label: &str) -> Option<&'a str> {
    let is_mark =
        |line: &str, word: &str| line.starts_with("---") && line.contains(word) && line.contains(label);
    let mut lines = content.lines().map(str::trim).skip_while(|line| !is_mark(line, "BEGIN")).skip(1);
    let part = lines.find(|line| !line.is_empty())?;
    let end = lines.find(|line| !line.is_empty())?;
    is_mark(end, "END").then_some(part)
}

#[cfg(test)]
mod tests;
