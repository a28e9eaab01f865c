//! Who a client is, and which user of the database it is there.

use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, NoTls, Row};
use tokio_util::task::AbortOnDropHandle;

use super::super::Shared;
use super::super::error::SqlError;
use super::super::federated::TokenError;
use super::super::login::{FedAuth, Federation, Login7};
use super::super::packet::ConnectionError;

/// How Azure SQL calls somebody whose token it does not take.
const TOKEN_PRINCIPAL: &str = "<token-identified principal>";
/// The principal that may do everything.
pub(super) const DBO: i32 = 1;

/// A login, and its user.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) login: String,
    pub(super) principal: i32,
    pub(super) user: String,
    /// When the token expires that it came with.
    pub(super) expires: Option<SystemTime>,
}

impl Identity {
    /// As errors of its login name it.
    pub(super) fn shown_in_errors(&self) -> &str {
        if self.expires.is_some() { TOKEN_PRINCIPAL } else { &self.login }
    }

    fn dbo(login: &str) -> Self {
        Self { login: login.to_owned(), principal: DBO, user: "dbo".into(), expires: None }
    }
}

/// The errors of a login that was refused, in SQL Server's order.
pub(super) type Refused = Vec<SqlError>;

pub(super) fn login_failed(user: &str) -> SqlError {
    SqlError::new(18456, 14, 1, format!("Login failed for user '{user}'."))
}

/// Of a login, and of a session's next request, after the token has expired.
pub(super) fn token_expired(user: &str) -> SqlError {
    SqlError::new(18456, 14, 1, format!("Login failed for user '{user}'. Token is expired."))
}

/// A password as it is kept.
pub(super) fn password_hash(salt: &str, password: &str) -> String {
    let digest = Sha256::digest(format!("{salt}{password}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says who a client is.
pub(super) async fn identify(
    login: &Login7,
    federation: &Federation,
    shared: &Arc<Shared>,
) -> Result<Result<Identity, Refused>, ConnectionError> {
    if let Some(fed_auth) = &login.fed_auth {
        return by_token(login, fed_auth, federation, shared).await;
    }
    let of = |logins: &[super::super::Login]| {
        let own = logins.iter().find(|own| own.user.eq_ignore_ascii_case(&login.user))?;
        Some(own.password == login.password)
    };
    match of(&shared.logins) {
        Some(true) => return Ok(Ok(Identity::dbo(&login.user))),
        Some(false) => return Ok(Err(vec![login_failed(&login.user)])),
        None => {}
    }
    let by_login = of(&shared.other_logins);
    if by_login == Some(false) {
        return Ok(Err(vec![login_failed(&login.user)]));
    }
    let users = Users::open(shared).await?;
    let found = if by_login == Some(true) {
        users.find("lower(login) = lower($1)", &[&login.user]).await?
    } else {
        users.find("password_hash IS NOT NULL AND lower(name) = lower($1)", &[&login.user]).await?
    };
    Ok(match found {
        Some(user) if by_login == Some(true) || user.has_password(&login.password) => {
            user.admit(&login.user, None, login, shared)
        }
        None if by_login == Some(true) => Err(not_in_database(&login.user, login, shared)),
        _ => Err(vec![login_failed(&login.user)]),
    })
}

async fn by_token(
    login: &Login7,
    fed_auth: &FedAuth,
    federation: &Federation,
    shared: &Arc<Shared>,
) -> Result<Result<Identity, Refused>, ConnectionError> {
    let refuse = || Ok(Err(vec![login_failed(TOKEN_PRINCIPAL)]));
    // MS-TDS 3.3.5.6: the client says what it has heard, and proves that it is this server that it talks to
    if fed_auth.echo != federation.required.unwrap_or(false) {
        let error = SqlError::protocol("FEDAUTH does not echo FEDAUTHREQUIRED");
        return Ok(Err(vec![error]));
    }
    if fed_auth.nonce != federation.server_nonce {
        return refuse();
    }
    let Some(token) = &fed_auth.token else {
        let what = "federated authentication in which the server names the authority";
        return Ok(Err(vec![SqlError::unsupported(what)]));
    };
    let Some(checker) = &shared.tokens else { return refuse() };
    let principal = match checker.check(token) {
        Ok(principal) => principal,
        Err(TokenError::Expired) => return Ok(Err(vec![token_expired(TOKEN_PRINCIPAL)])),
        Err(TokenError::Refused) => return refuse(),
    };
    let expires = Some(principal.expires);
    if principal.is_admin {
        return Ok(Ok(Identity { expires, ..Identity::dbo(&principal.login) }));
    }
    let lower = |texts: &[String]| texts.iter().map(|text| text.to_lowercase()).collect::<Vec<_>>();
    let users = Users::open(shared).await?;
    // a user that was made with an id is nobody else's, whatever it is called
    const CONDITION: &str = "type = 'E' AND CASE WHEN external_id IS NULL THEN lower(name) = ANY ($1::text[]) ELSE lower(external_id) = ANY ($2::text[]) END";
    let found = users.find(CONDITION, &[&lower(&principal.names), &lower(&principal.ids)]).await?;
    match found {
        Some(user) => Ok(user.admit(&principal.login, expires, login, shared)),
        None => refuse(),
    }
}

/// SQL Server's errors for a login that is nobody in the database: it depends on whether the client named it.
fn not_in_database(name: &str, login: &Login7, shared: &Shared) -> Refused {
    let database = &shared.database;
    if login.database.is_empty() {
        let message = format!(
            "The server principal \"{name}\" is not able to access the database \"{database}\" under the current security context."
        );
        let default = "Cannot open user default database. Login failed.";
        return vec![
            SqlError::new(916, 14, 1, message),
            SqlError::new(4064, 11, 1, default),
            login_failed(name),
        ];
    }
    let message = format!("Cannot open database \"{database}\" requested by the login. The login failed.");
    vec![SqlError::new(4060, 11, 1, message), login_failed(name)]
}

/// The users of the database, asked before there is a session.
struct Users {
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

struct User {
    id: i32,
    name: String,
    salt: Option<String>,
    hash: Option<String>,
    may_connect: bool,
}

impl Users {
    async fn open(shared: &Shared) -> Result<Self, ConnectionError> {
        let (client, connection) = shared.postgres.connect(NoTls).await.map_err(lost)?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { client, _connection: AbortOnDropHandle::new(connection) })
    }

    async fn find(
        &self,
        condition: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Option<User>, ConnectionError> {
        let sql = format!(
            "SELECT principal_id, name, password_salt, password_hash, tsql.allows(principal_id, 'CONNECT', 0, 0) \
             FROM tsql.principals WHERE {condition} ORDER BY principal_id LIMIT 1"
        );
        let row = self.client.query_opt(&sql, parameters).await.map_err(lost)?;
        row.map(|row| User::read(&row)).transpose().map_err(lost)
    }
}

impl User {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            salt: row.try_get(2)?,
            hash: row.try_get(3)?,
            may_connect: row.try_get(4)?,
        })
    }

    fn has_password(&self, password: &str) -> bool {
        let salt = self.salt.as_deref().unwrap_or_default();
        self.hash.as_ref().is_some_and(|hash| *hash == password_hash(salt, password))
    }

    fn admit(
        self,
        name: &str,
        expires: Option<SystemTime>,
        login: &Login7,
        shared: &Shared,
    ) -> Result<Identity, Refused> {
        if !self.may_connect {
            return Err(not_in_database(name, login, shared));
        }
        Ok(Identity { login: name.to_owned(), principal: self.id, user: self.name, expires })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn lost(error: tokio_postgres::Error) -> ConnectionError {
    ConnectionError::Database(error.to_string())
}
