//! Tokens in place of passwords: a signed JWT, checked as Azure SQL checks those of Microsoft Entra ID.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// What Azure SQL's tokens are for.
pub const AZURE_SQL_AUDIENCE: &str = "https://database.windows.net/";

/// Signatures by a private key. A shared secret, or no signature at all, proves nothing to a server that has public
/// keys alone.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
];

/// Whose tokens are taken.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// The issuer's public keys, a JSON Web Key Set; read at start.
    pub jwks_file: PathBuf,
    /// What a token has to be for; a slash at the end makes no difference.
    pub audience: String,
    /// Who is dbo without being a user, as Azure SQL's Microsoft Entra admin is: a name or an id in the token.
    pub admin: Option<String>,
}

impl TokenOptions {
    /// Tokens for Azure SQL, signed with keys of this file.
    pub fn new(jwks_file: impl Into<PathBuf>) -> Self {
        Self { jwks_file: jwks_file.into(), audience: AZURE_SQL_AUDIENCE.to_owned(), admin: None }
    }

    /// Looks whether the keys can be used, before anything is started.
    ///
    /// # Errors
    /// Where the file cannot be read, or has no key.
    pub fn validate(&self) -> Result<(), TokenOptionsError> {
        TokenChecker::new(self).map(|_| ())
    }
}

/// Why tokens cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum TokenOptionsError {
    /// The file with the keys cannot be read.
    #[error("cannot read the keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is no key set.
    #[error("{path} is no JSON Web Key Set")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No token could ever be good.
    #[error("{path} has no RSA or EC key to check a signature with")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

/// Checks tokens.
#[derive(Debug)]
pub(super) struct TokenChecker {
    keys: Vec<Jwk>,
    audiences: [String; 2],
    admin: Option<String>,
}

/// Why a token is not taken. The client is told no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    Expired,
    Refused,
}

/// Whom a token is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TokenPrincipal {
    /// As the login is called: a user's name, or an application's id with its tenant's.
    pub(super) login: String,
    /// Names that a user of the database may have for it.
    pub(super) names: Vec<String>,
    /// Ids that a user of the database may have been made with.
    pub(super) ids: Vec<String>,
    pub(super) is_admin: bool,
    pub(super) expires: SystemTime,
}

#[derive(Debug, Deserialize)]
struct Claims {
    exp: f64,
    upn: Option<String>,
    unique_name: Option<String>,
    preferred_username: Option<String>,
    appid: Option<String>,
    azp: Option<String>,
    app_displayname: Option<String>,
    /// `app` where the token is an application's own, and not a user's who uses it.
    idtyp: Option<String>,
    /// There where an application acts for a user.
    scp: Option<String>,
    oid: Option<String>,
    tid: Option<String>,
}

impl TokenChecker {
    pub(super) fn new(options: &TokenOptions) -> Result<Self, TokenOptionsError> {
        let path = || options.jwks_file.clone();
        let text = std::fs::read(&options.jwks_file)
            .map_err(|source| TokenOptionsError::Read { path: path(), source })?;
        let set: JwkSet = serde_json::from_slice(&text)
            .map_err(|source| TokenOptionsError::Parse { path: path(), source })?;
        let keys: Vec<Jwk> = set.keys.into_iter().filter(|key| DecodingKey::from_jwk(key).is_ok()).collect();
        if keys.is_empty() {
            return Err(TokenOptionsError::NoKey { path: path() });
        }
        let audience = options.audience.trim_end_matches('/');
        Ok(Self {
            keys,
            audiences: [audience.to_owned(), format!("{audience}/")],
            admin: options.admin.clone(),
        })
    }

    pub(super) fn check(&self, token: &str) -> Result<TokenPrincipal, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Refused)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(TokenError::Refused);
        }
        let key = match &header.kid {
            Some(kid) => self.keys.iter().find(|key| key.common.key_id.as_ref() == Some(kid)),
            None => self.keys.first().filter(|_| self.keys.len() == 1),
        };
        let key = key.and_then(|key| DecodingKey::from_jwk(key).ok()).ok_or(TokenError::Refused)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_audience(&self.audiences);
        validation.set_required_spec_claims(&["exp", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                _ => TokenError::Refused,
            })?
            .claims;
        self.principal(claims).ok_or(TokenError::Refused)
    }

    /// `None` where the token names nobody.
    fn principal(&self, claims: Claims) -> Option<TokenPrincipal> {
        let expires = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)?;
        let application = claims.appid.or(claims.azp);
        let user = claims.upn.or(claims.unique_name).or(claims.preferred_username);
        let is_application =
            claims.idtyp.as_deref() == Some("app") || (user.is_none() && claims.scp.is_none());
        let (login, mut names, mut ids) = match (user, application) {
            (Some(user), _) if !is_application => (user.clone(), vec![user], Vec::new()),
            // a user's token has the id of the application that got it as well, and is not the application's
            (_, Some(id)) if is_application => {
                let login = match &claims.tid {
                    Some(tenant) => format!("{id}@{tenant}"),
                    None => id.clone(),
                };
                (login, claims.app_displayname.into_iter().collect(), vec![id])
            }
            _ => (claims.oid.clone()?, Vec::new(), Vec::new()),
        };
        ids.extend(claims.oid);
        // without a directory to ask, a user that is called by an id is that id's
        names.extend(ids.iter().cloned());
        let is_admin = self
            .admin
            .as_ref()
            .is_some_and(|admin| names.iter().any(|name| super::catalogue::same_name(name, admin)));
        Some(TokenPrincipal { login, names, ids, is_admin, expires })
    }
}
