//! Connections to the database: how one is made, and the pool that hands them out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult};
use tiberius::{AuthMethod, Client, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::config::{Encryption, SqlConfig};
use crate::disposition::{LOGIN_FAILED, TOKEN_ENDED};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::fair::{self, Permit, Share};
use crate::identity::{SqlCredential, SqlIdentity, Stamp};
use crate::metrics;
use crate::mssql::kept::{self, Kept};
use crate::mssql::login;
use crate::mssql::statements;

/// Azure SQL's gateway redirects a login once, and once more where the database has just moved.
const MAX_REDIRECTS: usize = 4;
/// A connection is not used again when it is older: load balancers and failovers are followed within this time.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);

/// A logged-in session. After any error it is thrown away: see [`Pool::get`].
pub type Session = Client<Compat<TcpStream>>;

/// A session, and what it was opened with.
#[derive(Debug)]
pub struct Opened {
    /// The session.
    pub session: Session,
    stamp: Stamp,
    identity: Arc<SqlIdentity>,
}

impl Opened {
    /// Whether it may be used on: its credential is the one that is known now, and has not ended. To be asked between two
    /// pieces of work, not within one.
    pub fn is_current(&self) -> bool {
        self.identity.is_current(&self.stamp)
    }
}

/// Opens sessions as the configuration says. Cheap to clone; all clones log in with one identity.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<SqlConfig>,
    identity: Arc<SqlIdentity>,
    /// What the database took last.
    kept: Arc<Kept>,
}

impl Connector {
    /// A connector; connects to nothing yet.
    pub fn new(config: SqlConfig) -> Self {
        if config.trust_server_certificate {
            tracing::warn!(
                "sql.trust_server_certificate accepts any certificate: for one's own machine only"
            );
        }
        let identity = Arc::new(SqlIdentity::new(&config.auth));
        Self { config: Arc::new(config), identity, kept: Arc::default() }
    }

    /// As whom it logs in.
    pub fn identity(&self) -> &Arc<SqlIdentity> {
        &self.identity
    }

    /// Opens a session. A secret that cannot be read, or that the database refuses, takes nothing away from the one that it
    /// took before: that one is tried too.
    ///
    /// # Errors
    ///
    /// No credential can be had, the server cannot be reached, or it refuses the login.
    pub async fn open(&self) -> Result<Session> {
        Ok(Box::pin(self.open_lasting()).await?.session)
    }

    /// Opens a session that is kept for longer than one piece of work.
    ///
    /// # Errors
    ///
    /// As [`Connector::open`].
    pub async fn open_lasting(&self) -> Result<Opened> {
        let credential = self.identity.credential().await;
        let (fresh, refused) = match credential {
            Ok((credential, stamp)) => match Box::pin(self.open_as(&credential, stamp)).await {
                Err(error) if kept::may_be_the_secret(&error) => (Some(credential), error),
                opened => return opened,
            },
            Err(error) if kept::may_be_the_secret(&error) => (None, error),
            Err(error) => return Err(error),
        };
        let Some((former, stamp)) = self.kept.other_than(fresh.as_ref()) else { return Err(refused) };
        match Box::pin(self.log_in(&former)).await {
            Ok(session) => {
                self.kept.say(&refused);
                // of the secret that is not good: when that one is taken the session is not used on
                let stamp = self.identity.stamp_until(stamp.ends);
                Ok(Opened { session, stamp, identity: Arc::clone(&self.identity) })
            }
            // that the former one is over is no news
            Err(_former) => Err(refused),
        }
    }

    /// Opens a session with the secret as it is now, of a token with one that is made for this alone, and closes it again: whether
    /// the database takes it.
    ///
    /// # Errors
    ///
    /// As [`Connector::open`].
    pub async fn trial(&self) -> Result<()> {
        let credential = self.identity.trial().await?;
        Box::pin(self.log_in(&credential)).await.map(drop)
    }

    async fn open_as(&self, credential: &SqlCredential, stamp: Stamp) -> Result<Opened> {
        match Box::pin(self.log_in(credential)).await {
            Ok(session) => {
                self.kept.took(credential.clone(), stamp);
                Ok(Opened { session, stamp, identity: Arc::clone(&self.identity) })
            }
            Err(error) => {
                if matches!(error.number(), Some(LOGIN_FAILED | TOKEN_ENDED)) {
                    self.identity.refused(&stamp);
                }
                Err(error)
            }
        }
    }

    /// Logs in, following the redirects that the server answers with.
    async fn log_in(&self, credential: &SqlCredential) -> Result<Session> {
        let mut host = self.config.server.host.clone();
        let mut port = self.config.server.port;
        for _ in 0..=MAX_REDIRECTS {
            let config = self.driver_config(&host, port, credential)?;
            let tcp = self.tcp(&host, port).await?;
            // Boxed: the login is a large state machine, and would make every future that contains it as large.
            match Box::pin(Client::connect(config, tcp.compat_write())).await {
                Ok(mut session) => {
                    self.prepare(&mut session).await?;
                    return Ok(session);
                }
                Err(tiberius::error::Error::Routing { host: next_host, port: next_port }) => {
                    tracing::debug!(host = %next_host, port = next_port, "login redirected");
                    host = next_host;
                    port = next_port;
                }
                Err(error) => return Err(login::failed(error, &host, port)),
            }
        }
        Err(Error::new(Phase::Connect, ErrorKind::SqlProtocol, "the server redirects the login in a circle"))
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream> {
        let failed = |error: std::io::Error| {
            Error::new(
                Phase::Connect,
                ErrorKind::SqlIo(error.kind()),
                format!("cannot reach {host},{port}: {error}"),
            )
        };
        let tcp = tokio::time::timeout(self.config.connect_timeout, TcpStream::connect((host, port)))
            .await
            .map_err(|_elapsed| Error::sql_timeout(Phase::Connect, &format!("connecting to {host},{port}")))?
            .map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(tcp)
    }

    fn driver_config(&self, host: &str, port: u16, credential: &SqlCredential) -> Result<tiberius::Config> {
        let mut config = tiberius::Config::new();
        config.host(host);
        config.port(port);
        config.database(&self.config.database);
        config.application_name("nats-sql-sink");
        config.packet_size(self.config.packet_size);
        config.handshake_timeout(Some(self.config.connect_timeout));
        // Deadlines are set around each operation instead: they differ, and the driver's cover reads only.
        config.command_timeout(None);
        config.encryption(match self.config.encrypt {
            Encryption::Strict => EncryptionLevel::Strict,
            Encryption::Required => EncryptionLevel::Required,
            Encryption::Off => EncryptionLevel::NotSupported,
        });
        if self.config.trust_server_certificate {
            config.trust_cert();
        } else if let Some(path) = &self.config.ca_file {
            let bundle = std::fs::read(path).map_err(|error| {
                Error::new(
                    Phase::Connect,
                    ErrorKind::Credential,
                    format!("sql.ca_file {}: cannot be read: {error}", path.display()),
                )
            })?;
            config.trust_cert_ca_bundle(bundle);
        }
        config.authentication(match credential {
            SqlCredential::SqlLogin { user, password } => AuthMethod::sql_server(user, password.expose()),
            SqlCredential::Token(token) => AuthMethod::aad_token(token.expose()),
        });
        Ok(config)
    }

    async fn prepare(&self, session: &mut Session) -> Result<()> {
        let prepared = super::execute(session, statements::PREPARE_SESSION);
        tokio::time::timeout(self.config.command_timeout, prepared)
            .await
            .map_err(|_elapsed| Error::sql_timeout(Phase::Connect, "preparing the session"))?
            .map_err(|error| Error::sql(Phase::Connect, error))
    }
}

/// The pool's view of a connector.
#[derive(Debug)]
pub struct Manager {
    connector: Connector,
}

impl managed::Manager for Manager {
    type Type = PooledSession;
    type Error = Error;

    async fn create(&self) -> Result<PooledSession> {
        Ok(PooledSession {
            opened: Box::pin(self.connector.open_lasting()).await?,
            opened_at: Instant::now(),
        })
    }

    async fn recycle(&self, pooled: &mut PooledSession, _: &Metrics) -> RecycleResult<Error> {
        if pooled.opened_at.elapsed() > MAX_CONNECTION_AGE {
            return Err(RecycleError::message("connection has reached its age"));
        }
        if !pooled.opened.is_current() {
            return Err(RecycleError::message("connection was opened with a former credential"));
        }
        Ok(())
    }
}

/// A session with its age.
#[derive(Debug)]
pub struct PooledSession {
    opened: Opened,
    opened_at: Instant,
}

/// What a pipeline may have of the sessions that the pipelines of a process share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    pool: managed::Pool<Manager>,
    connector: Connector,
    share: Share,
}

impl Pool {
    /// A pool of at most `config.max_connections` sessions, for one alone.
    ///
    /// # Errors
    ///
    /// As of [`Pool::divide`].
    pub fn new(config: SqlConfig) -> Result<Self> {
        let none = || Error::new(Phase::Connect, ErrorKind::Internal, "a pool that is divided among nobody");
        Self::divide(config, 1)?.pop().ok_or_else(none)
    }

    /// A pool of at most `config.max_connections` sessions for so many pipelines. Half of them are divided evenly, and each
    /// is sure of one: loads that hang, as on a table that somebody has locked, do not keep those of the others from going
    /// on.
    ///
    /// # Errors
    ///
    /// The configuration allows no connection at all.
    pub fn divide(config: SqlConfig, pipelines: usize) -> Result<Vec<Self>> {
        let max_size = config.max_connections;
        let connector = Connector::new(config);
        let pool = managed::Pool::builder(Manager { connector: connector.clone() })
            .max_size(max_size)
            .build()
            .map_err(|error| Error::new(Phase::Connect, ErrorKind::Internal, error.to_string()))?;
        let shares = fair::divide(max_size, pipelines, (max_size / (2 * pipelines.max(1))).max(1));
        let share = |share| Self { pool: pool.clone(), connector: connector.clone(), share };
        Ok(shares.into_iter().map(share).collect())
    }

    /// Opens sessions beside those of the pool, as the same identity.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// What is shown to the database was exchanged: sessions from before are not used again. Those that work finish what
    /// they do. Holds for all that share the sessions.
    pub fn exchanged(&self) {
        self.connector.identity().renew();
        let idle = self.pool.retain(|pooled, _| pooled.opened.is_current());
        tracing::debug!(closed = idle.removed.len(), "idle connections of a former secret");
    }

    /// Hands out a session, opening one where none is idle.
    ///
    /// # Errors
    ///
    /// As [`Connector::open`].
    pub async fn get(&self) -> Result<Leased> {
        let asked = Instant::now();
        let permit = self.share.take(1, 1).await;
        let object = self.pool.get().await.map_err(|error| match error {
            managed::PoolError::Backend(error) => error,
            other => Error::new(Phase::Connect, ErrorKind::Internal, format!("connection pool: {other}")),
        })?;
        metrics::sql_connection_waited(asked.elapsed());
        let leased = Leased { object: Some(object), pool: self.pool.clone(), keep: false, _permit: permit };
        leased.report();
        Ok(leased)
    }
}

/// A session on loan. Dropped it is thrown away, because whoever drops it may have left it in the middle of a
/// transaction or an answer; [`Leased::give_back`] says that it is as it was.
#[derive(Debug)]
pub struct Leased {
    object: Option<Object<Manager>>,
    pool: managed::Pool<Manager>,
    keep: bool,
    /// Given back last, when the pool has the session again, or room for another.
    _permit: Permit,
}

impl Leased {
    /// The session.
    pub fn session(&mut self) -> Result<&mut Session> {
        match &mut self.object {
            Some(object) => Ok(&mut object.opened.session),
            None => {
                Err(Error::new(Phase::Connect, ErrorKind::Internal, "a session was used after its return"))
            }
        }
    }

    /// Gives the session back to be used again.
    pub fn give_back(mut self) {
        self.keep = true;
    }

    fn report(&self) {
        let status = self.pool.status();
        metrics::sql_connections_in_use(status.size.saturating_sub(status.available));
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            if self.keep {
                drop(object);
            } else {
                drop(Object::take(object));
            }
        }
        self.report();
    }
}
