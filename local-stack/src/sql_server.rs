//! A stand-in for SQL Server, for development: the TDS protocol in front of a real PostgreSQL.
//!
//! Connections, logins and requests are TDS as SQL Server speaks it; T-SQL is parsed, its expressions
//! given T-SQL's types, and rewritten for PostgreSQL, with one PostgreSQL session for each connection.
//! Transactions, locks, crash recovery and exact numbers are PostgreSQL's own. What is not supported is
//! refused by its name, with an error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use tokio::net::TcpListener;
use tokio_postgres::{Config, NoTls};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

mod batch;
mod bind;
mod catalogue;
mod decimal;
mod decode;
mod encode;
mod error;
pub mod faults;
mod federated;
mod loads;
#[doc(hidden)]
pub mod fuzz;
mod login;
mod noise;
mod old_date_time;
mod packet;
pub(crate) mod prelogin;
mod read;
mod session;
mod tls;
mod token;
mod type_info;
mod types;
mod xml;

pub use federated::{AZURE_SQL_AUDIENCE, TokenOptions, TokenOptionsError};
pub use loads::LoadCounts;
pub use tls::TlsMaterial;

use faults::Faults;
use federated::TokenChecker;
use loads::Loads;
use session::Route;

/// Where rows go.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Into PostgreSQL.
    Postgres(Config),
    /// Nowhere: rows of a bulk load, and of an INSERT whose values are parameters, are read, checked and counted, and
    /// none is kept. Everything else is as with PostgreSQL.
    Discard(Config),
}

impl Storage {
    fn config(&self) -> &Config {
        match self {
            Self::Postgres(config) | Self::Discard(config) => config,
        }
    }
}

/// A login with a password.
#[derive(Clone)]
pub struct Login {
    /// The name, compared without case.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// An address on which every good login is answered with where to log in instead, as Azure SQL's gateway does.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The host that clients are sent to.
    pub host: String,
    /// The port there; `None` is this server's own.
    pub port: Option<u16>,
}

impl Gateway {
    /// To this server on this machine, from a free port of the loopback address.
    pub fn new() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), host: "localhost".into(), port: None }
    }
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

/// How to start a server.
#[derive(Clone, Debug)]
pub struct SqlServerOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where rows go.
    pub storage: Storage,
    /// The one database's name. It is made in PostgreSQL where it is missing.
    pub database: String,
    /// Who may log in and is dbo, as the admin of an Azure SQL server is.
    pub logins: Vec<Login>,
    /// Who may log in once there is a user in the database for them, by `CREATE USER … FOR LOGIN`.
    pub other_logins: Vec<Login>,
    /// Whose tokens are taken in place of passwords; `None` takes none.
    pub tokens: Option<TokenOptions>,
    /// A second address, on which logins are redirected.
    pub gateway: Option<Gateway>,
    /// The server's certificate; `None` makes one.
    pub tls: Option<TlsMaterial>,
    /// What goes wrong on cue; a copy kept by the caller changes it while the server runs.
    pub faults: Faults,
}

impl SqlServerOptions {
    /// A database `sinkdb` with the login `sink`, on a free port of the loopback address.
    pub fn new(storage: Storage) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            storage,
            database: "sinkdb".into(),
            logins: vec![Login { user: "sink".into(), password: "Sink-Local-1".into() }],
            other_logins: Vec::new(),
            tokens: None,
            gateway: None,
            tls: None,
            faults: Faults::default(),
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum SqlServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// PostgreSQL cannot be used.
    #[error("cannot prepare the database in postgresql")]
    Database(#[from] tokio_postgres::Error),
    /// No certificate can be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be used.
    #[error("cannot use the certificate")]
    Tls(#[from] rustls::Error),
    /// Tokens cannot be checked.
    #[error("cannot check tokens")]
    Tokens(#[from] TokenOptionsError),
}

/// What all sessions of a server share.
struct Shared {
    /// Leads to the database itself.
    postgres: Config,
    storage: Storage,
    database: String,
    logins: Vec<Login>,
    other_logins: Vec<Login>,
    tokens: Option<TokenChecker>,
    tls: Arc<rustls::ServerConfig>,
    strict_tls: Arc<rustls::ServerConfig>,
    sessions: AtomicU32,
    /// Counts changes of tables and of rights, so that what was derived from them is derived again.
    structure: AtomicU64,
    faults: Faults,
    loads: Loads,
}

/// A running server. Dropping it stops it and ends its sessions; what they have not committed is rolled back.
pub struct SqlServer {
    address: SocketAddr,
    gateway_address: Option<SocketAddr>,
    ca_pem: String,
    faults: Faults,
    shared: Arc<Shared>,
    /// Its end drops the sessions with it.
    accept: AbortOnDropHandle<()>,
    gateway: Option<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for SqlServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SqlServer {
    /// Prepares the database and listens.
    ///
    /// # Errors
    /// Where the address is taken, or PostgreSQL refuses.
    pub async fn start(options: SqlServerOptions) -> Result<Self, SqlServerError> {
        let SqlServerOptions {
            listen,
            storage,
            database,
            logins,
            other_logins,
            tokens,
            gateway,
            tls,
            faults,
        } = options;
        let tokens = tokens.as_ref().map(TokenChecker::new).transpose()?;
        let tls = match tls {
            Some(tls) => tls,
            None => TlsMaterial::generate()?,
        };
        let postgres = prepare_database(storage.config(), &database).await?;
        let shared = Arc::new(Shared {
            postgres,
            storage,
            database,
            logins,
            other_logins,
            tokens,
            tls: tls.server_config()?,
            strict_tls: tls.strict_config()?,
            sessions: AtomicU32::new(0),
            structure: AtomicU64::new(0),
            faults: faults.clone(),
            loads: Loads::default(),
        });
        let (listener, address) = listen_on(listen).await?;
        tracing::info!(%address, "stand-in for SQL Server listening, for development only");
        let (gateway_address, gateway) = match gateway {
            None => (None, None),
            Some(Gateway { listen, host, port }) => {
                let (listener, own_address) = listen_on(listen).await?;
                let route = Route { host, port: port.unwrap_or(address.port()) };
                let accept = accept(listener, shared.clone(), Some(route));
                (Some(own_address), Some(AbortOnDropHandle::new(tokio::spawn(accept))))
            }
        };
        let accept = AbortOnDropHandle::new(tokio::spawn(accept(listener, shared.clone(), None)));
        Ok(Self { address, gateway_address, ca_pem: tls.ca_pem, faults, shared, accept, gateway })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address on which logins are redirected, where there is one.
    pub fn gateway_address(&self) -> Option<SocketAddr> {
        self.gateway_address
    }

    /// The certificate authority that a client has to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What goes wrong on cue.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What bulk loads have brought so far.
    pub fn loads(&self) -> LoadCounts {
        self.shared.loads.counts()
    }

    /// Stops listening, and waits until the sessions are gone.
    pub async fn stop(self) {
        for accept in self.gateway.into_iter().chain([self.accept]) {
            accept.abort();
            let _ = accept.await;
        }
    }
}

/// Aborts a session's task when the server goes.
struct Sessions {
    tracker: TaskTracker,
    ended: tokio_util::sync::DropGuard,
}

async fn listen_on(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SqlServerError> {
    let failed = |source| SqlServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let own = listener.local_addr().map_err(failed)?;
    Ok((listener, own))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, route: Option<Route>) {
    let cancel = tokio_util::sync::CancellationToken::new();
    let sessions = Sessions { tracker: TaskTracker::new(), ended: cancel.clone().drop_guard() };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // out of file descriptors, most likely: the next try may find one
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = shared.clone();
        let route = route.clone();
        let cancel = cancel.clone();
        let mut ended = shared.faults.ended();
        sessions.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                // also where the faults are gone: nobody can end the session then
                Ok(()) = ended.changed() => {}
                result = session::serve(stream, shared, route) => {
                    if let Err(error) = result {
                        tracing::debug!(%peer, %error, "session ended");
                    }
                }
            }
        });
        let _ = &sessions.ended;
    }
}

/// Makes the database where it is missing, and what this server needs in it.
async fn prepare_database(config: &Config, database: &str) -> Result<Config, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let exists =
        client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&database]).await?.is_some();
    if !exists {
        // the built-in provider folds case of all of Unicode, and sorts by code point
        let name = encode::quote_identifier(database);
        let create = format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
        );
        client.batch_execute(&create).await?;
    }
    drop((client, connection));
    let mut config = config.clone();
    config.dbname(database).application_name("sql-server-stand-in");
    let (client, connection) = config.connect(NoTls).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    catalogue::install(&client).await?;
    Ok(config)
}
