//! `[nats]`: where the events come from.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::auth::AuthConfig;
use super::problem::{Checks, Problem, quote};
use super::secret::{self, EnvironmentReference, SecretSource};
use super::subject::subject_problem;

/// How to reach NATS, and as whom. At most one way of authentication may be given.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// Servers of one cluster: `nats://host:port`, `tls://host:port` or `host:port`. Default
    /// `nats://127.0.0.1:4222`.
    pub servers: Vec<String>,
    /// A `.creds` file: a JWT and the seed of its key. Default: none.
    pub credentials_file: Option<PathBuf>,
    /// A file with the seed of an NKey. Default: none.
    pub nkey_seed_file: Option<PathBuf>,
    /// The name for authentication by user and password. Default: none.
    pub user: Option<String>,
    /// A file with the password of `user`. Default: none.
    pub password_file: Option<PathBuf>,
    /// The environment variable with the password of `user`, as `"${VARIABLE}"`. Default: none.
    pub password: Option<EnvironmentReference>,
    /// A file with a token. Default: none.
    pub token_file: Option<PathBuf>,
    /// The environment variable with a token, as `"${VARIABLE}"`. Default: none.
    pub token: Option<EnvironmentReference>,
    /// Where a token is asked for. Default: none.
    pub token_from: Option<Box<AuthConfig>>,
    /// What the subjects of replies begin with: one of its own for each role, so that none hears what another is answered.
    /// Default `_INBOX.nats_sql_sink_loader`.
    pub inbox_prefix: String,
    /// Encryption, and the certificates for it.
    pub tls: NatsTlsConfig,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials_file: None,
            nkey_seed_file: None,
            user: None,
            password_file: None,
            password: None,
            token_file: None,
            token: None,
            token_from: None,
            inbox_prefix: "_INBOX.nats_sql_sink_loader".to_owned(),
            tls: NatsTlsConfig::default(),
        }
    }
}

/// `[nats.tls]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsTlsConfig {
    /// PEM file of the authorities that may have signed the server's certificate. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate that is shown to the server. Needs `key_file`. Default: none.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the key of `cert_file`. Default: none.
    pub key_file: Option<PathBuf>,
    /// Refuse a server that offers no encryption. Default: where an address says `tls://`, or where anything else of this
    /// table is given.
    pub required: bool,
    /// Begin with TLS, before the server has said anything: for servers with `handshake_first`. Default false.
    pub first: bool,
}

/// How the sink proves to NATS who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsAuth<'a> {
    /// Not at all.
    None,
    /// By a `.creds` file.
    CredentialsFile(&'a Path),
    /// By the seed of an NKey.
    NkeySeedFile(&'a Path),
    /// By user and password.
    UserPassword {
        /// The user.
        user: &'a str,
        /// Where the password is.
        password: SecretSource,
    },
    /// By a token.
    Token(SecretSource),
    /// By a token that is asked for.
    TokenFrom(&'a AuthConfig),
}

impl NatsConfig {
    /// The way of authentication. Of a configuration that was not validated, the first one that is complete.
    pub fn auth(&self) -> NatsAuth<'_> {
        if let Some(path) = &self.credentials_file {
            return NatsAuth::CredentialsFile(path);
        }
        if let Some(path) = &self.nkey_seed_file {
            return NatsAuth::NkeySeedFile(path);
        }
        if let (Some(user), Some(password)) = (&self.user, self.password_source()) {
            return NatsAuth::UserPassword { user, password };
        }
        match secret::source(self.token_file.as_deref(), self.token.as_ref()) {
            Some(token) => NatsAuth::Token(token),
            None => self.token_from.as_deref().map_or(NatsAuth::None, NatsAuth::TokenFrom),
        }
    }

    /// Whether nothing may be said without TLS. One address with `tls://` is enough: a cluster tells of its other servers
    /// without saying so.
    pub fn requires_tls(&self) -> bool {
        let NatsTlsConfig { ca_file, cert_file, key_file: _, required, first } = &self.tls;
        *required
            || *first
            || ca_file.is_some()
            || cert_file.is_some()
            || self.servers.iter().any(|server| server.starts_with("tls://"))
    }

    fn password_source(&self) -> Option<SecretSource> {
        secret::source(self.password_file.as_deref(), self.password.as_ref())
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = &mut self.tls;
        [
            &mut self.credentials_file,
            &mut self.nkey_seed_file,
            &mut self.password_file,
            &mut self.token_file,
            &mut tls.ca_file,
            &mut tls.cert_file,
            &mut tls.key_file,
        ]
        .into_iter()
        .flatten()
        .chain(self.token_from.iter_mut().flat_map(|auth| auth.paths()))
    }

    pub(super) fn validate(&self, checks: &mut Checks<'_>) {
        if self.servers.is_empty() {
            checks.refuse(Problem::new("servers", "must name at least one server").with_value("[]"));
        }
        for (index, server) in self.servers.iter().enumerate() {
            if let Some(problem) = server_problem(&format!("servers[{index}]"), server) {
                checks.refuse(problem);
            }
        }
        if let Some(message) = subject_problem(&self.inbox_prefix, false) {
            checks.refuse(Problem::new("inbox_prefix", message).with_value(quote(&self.inbox_prefix)));
        }
        self.validate_auth(checks);
        if let Some(auth) = &self.token_from {
            auth.validate(&mut checks.table("token_from"));
        }
        let mut tls = checks.table("tls");
        match (&self.tls.cert_file, &self.tls.key_file) {
            (Some(_), None) => tls.refuse(Problem::new("cert_file", "needs `key_file` beside it")),
            (None, Some(_)) => tls.refuse(Problem::new("key_file", "needs `cert_file` beside it")),
            _ => {}
        }
    }

    fn validate_auth(&self, checks: &mut Checks<'_>) {
        let ways = [
            ("credentials_file", self.credentials_file.is_some()),
            ("nkey_seed_file", self.nkey_seed_file.is_some()),
            ("user", self.user.is_some()),
            ("token", self.token.is_some() || self.token_file.is_some()),
            ("token_from", self.token_from.is_some()),
        ];
        let given: Vec<_> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            let message = format!("only one way of authentication may be given, not {}", given.join(" and "));
            checks.refuse(Problem::new("", message));
        }
        secret::check_source(checks, "password", self.password_file.as_deref(), self.password.as_ref());
        secret::check_source(checks, "token", self.token_file.as_deref(), self.token.as_ref());
        match (&self.user, self.password_source()) {
            (Some(user), None) => checks.refuse(
                Problem::new("user", "needs a password beside it")
                    .with_value(quote(user))
                    .with_hint("write `password_file = \"…\"`, or `password = \"${VARIABLE}\"`"),
            ),
            (Some(user), Some(_)) if user.is_empty() => {
                checks.refuse(Problem::new("user", "must not be empty").with_value(quote(user)));
            }
            (None, Some(source)) => {
                let field = match source {
                    SecretSource::File(_) => "password_file",
                    SecretSource::Environment(_) => "password",
                };
                checks.refuse(Problem::new(field, "needs `user` beside it"));
            }
            _ => {}
        }
    }
}

fn server_problem(field: &str, server: &str) -> Option<Problem> {
    let (scheme, address) = server.split_once("://").unwrap_or(("nats", server));
    // An address with a secret in it must not be shown.
    if address.contains('@') {
        return Some(
            Problem::new(field, "must not hold a user or a secret")
                .with_hint("write `user` with `password_file`, or `token_file`"),
        );
    }
    if scheme != "nats" && scheme != "tls" {
        return Some(Problem::new(field, "must begin with `nats://` or `tls://`").with_value(quote(server)));
    }
    let refused = |message: String| Some(Problem::new(field, message).with_value(quote(server)));
    if address.contains(['/', '?', '#']) {
        return refused("must end after host and port".to_owned());
    }
    match server.parse::<async_nats::ServerAddr>() {
        Ok(parsed) if parsed.host().is_empty() => refused("must name a host".to_owned()),
        Ok(_) => None,
        Err(error) => refused(format!("must be `nats://host:port` or `tls://host:port`: {error}")),
    }
}
