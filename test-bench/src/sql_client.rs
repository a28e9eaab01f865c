//! A SQL client that is not the sink's, to look at what came of its work.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::StreamExt;
use tiberius::{AuthMethod, Client, ColumnData, EncryptionLevel, QueryItem};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

/// How long a statement may take, unless something else is asked for.
const STATEMENT: Duration = Duration::from_secs(60);
/// A login is tried again for so long, this often: longer than any failover that is staged.
const LOGIN: Duration = Duration::from_secs(90);
const LOGIN_PAUSE: Duration = Duration::from_millis(500);

/// Where a server is, and who logs in.
#[derive(Clone)]
pub struct SqlAccess {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database that is named at the login.
    pub database: String,
    /// The login.
    pub user: String,
    /// Its password.
    pub password: String,
    /// PEM: the authority that signed the server's certificate; `None` asks those of the system.
    pub ca_file: Option<PathBuf>,
    /// Takes any certificate.
    pub trust_server_certificate: bool,
}

impl std::fmt::Debug for SqlAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlAccess")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A SQL client.
#[derive(Debug)]
pub struct SqlClient {
    client: Client<Compat<TcpStream>>,
    patience: Duration,
}

impl SqlClient {
    /// Logs in, and again where the server is away or in the middle of a failover: what is read is the truth, whenever it
    /// can be had.
    ///
    /// # Errors
    /// No login succeeds in time.
    pub async fn connect(access: &SqlAccess) -> anyhow::Result<Self> {
        let started = Instant::now();
        loop {
            match Self::connect_once(access).await {
                Err(_) if started.elapsed() < LOGIN => tokio::time::sleep(LOGIN_PAUSE).await,
                connected => return connected,
            }
        }
    }

    async fn connect_once(access: &SqlAccess) -> anyhow::Result<Self> {
        let mut config = tiberius::Config::new();
        config.host(&access.host);
        config.port(access.port);
        config.database(&access.database);
        config.authentication(AuthMethod::sql_server(&access.user, &access.password));
        config.encryption(EncryptionLevel::Required);
        if access.trust_server_certificate {
            config.trust_cert();
        } else if let Some(ca) = &access.ca_file {
            let pem = std::fs::read(ca).with_context(|| format!("reading {}", ca.display()))?;
            config.trust_cert_ca_bundle(pem);
        }
        let connecting = async {
            let tcp = TcpStream::connect((access.host.as_str(), access.port)).await?;
            anyhow::Ok(Box::pin(Client::connect(config, tcp.compat_write())).await?)
        };
        let client = tokio::time::timeout(STATEMENT, connecting).await;
        let client = client.context("no login in time")?.context("logging in")?;
        Ok(Self { client, patience: STATEMENT })
    }

    /// Lets statements take so long.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// All rows of a statement's answer, as whole numbers; NULL is 0.
    ///
    /// # Errors
    /// What the server says, no answer in time, or a cell that is no whole number.
    pub async fn numbers(&mut self, sql: &str) -> anyhow::Result<Vec<Vec<i64>>> {
        let reading = async {
            let mut answer = self.client.simple_query(sql).await?;
            let mut rows = Vec::new();
            while let Some(item) = answer.next().await {
                if let QueryItem::Row(row) = item? {
                    let cells = row.into_iter().map(|cell| whole(&cell));
                    rows.push(cells.collect::<anyhow::Result<Vec<_>>>()?);
                }
            }
            anyhow::Ok(rows)
        };
        let rows = tokio::time::timeout(self.patience, reading).await;
        rows.with_context(|| format!("no answer in time: {sql}"))?.with_context(|| sql.to_owned())
    }

    /// A statement without an answer.
    ///
    /// # Errors
    /// As [`Self::numbers`].
    pub async fn execute(&mut self, sql: &str) -> anyhow::Result<()> {
        self.numbers(sql).await.map(|_| ())
    }

    /// The one number that a statement answers with.
    ///
    /// # Errors
    /// As [`Self::numbers`], or no row.
    pub async fn number(&mut self, sql: &str) -> anyhow::Result<i64> {
        let rows = self.numbers(sql).await?;
        rows.first().and_then(|row| row.first()).copied().with_context(|| format!("no row: {sql}"))
    }
}

fn whole(cell: &ColumnData<'_>) -> anyhow::Result<i64> {
    Ok(match cell {
        ColumnData::U8(value) => i64::from(value.unwrap_or_default()),
        ColumnData::I16(value) => i64::from(value.unwrap_or_default()),
        ColumnData::I32(value) => i64::from(value.unwrap_or_default()),
        ColumnData::I64(value) => value.unwrap_or_default(),
        other => bail!("{other:?} is no whole number"),
    })
}
