//! Reads what came of the events, with clients that are not the sink's: the table over TDS, the dead letters from their
//! stream.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt;
use tiberius::{AuthMethod, Client, ColumnData, EncryptionLevel, QueryItem};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::events::serial_of;
use crate::mode::Mode;
use crate::stand::sql::{DATABASE, Sql};
use crate::truth::Row;

/// How long a statement may take.
const STATEMENT: Duration = Duration::from_secs(60);
/// Without another letter for so long none is coming.
const LETTER: Duration = Duration::from_secs(10);

/// A login is tried again for so long, this often: longer than any failover that is staged.
const LOGIN: Duration = Duration::from_secs(90);
const LOGIN_PAUSE: Duration = Duration::from_millis(500);

/// A SQL client.
#[derive(Debug)]
pub(crate) struct SqlClient {
    client: Client<Compat<TcpStream>>,
}

impl SqlClient {
    /// Logs in, and again where the server is away or in the middle of a failover: what is read is the truth, whenever it
    /// can be had.
    pub(crate) async fn connect(sql: &Sql) -> anyhow::Result<Self> {
        let started = Instant::now();
        loop {
            match Self::connect_once(sql).await {
                Err(_) if started.elapsed() < LOGIN => tokio::time::sleep(LOGIN_PAUSE).await,
                connected => return connected,
            }
        }
    }

    async fn connect_once(sql: &Sql) -> anyhow::Result<Self> {
        let mut config = tiberius::Config::new();
        let (user, password) = sql.login();
        config.host("127.0.0.1");
        config.port(sql.address().port());
        config.database(DATABASE);
        config.authentication(AuthMethod::sql_server(user, password));
        config.encryption(EncryptionLevel::Required);
        let ca: PathBuf = sql.ca_file();
        config.trust_cert_ca_bundle(std::fs::read(&ca).with_context(|| format!("reading {}", ca.display()))?);
        let connecting = async {
            let tcp = TcpStream::connect(sql.address()).await?;
            anyhow::Ok(Box::pin(Client::connect(config, tcp.compat_write())).await?)
        };
        let client = tokio::time::timeout(STATEMENT, connecting).await;
        Ok(Self { client: client.context("no login in time")?.context("logging in")? })
    }

    /// All rows of a statement's answer, as whole numbers; NULL is 0.
    pub(crate) async fn numbers(&mut self, sql: &str) -> anyhow::Result<Vec<Vec<i64>>> {
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
        let rows = tokio::time::timeout(STATEMENT, reading).await;
        rows.with_context(|| format!("no answer in time: {sql}"))?.with_context(|| sql.to_owned())
    }

    /// A statement without an answer.
    pub(crate) async fn execute(&mut self, sql: &str) -> anyhow::Result<()> {
        self.numbers(sql).await.map(|_| ())
    }

    /// The one number that a statement answers with.
    pub(crate) async fn number(&mut self, sql: &str) -> anyhow::Result<i64> {
        let rows = self.numbers(sql).await?;
        rows.first().and_then(|row| row.first()).copied().with_context(|| format!("no row: {sql}"))
    }

    /// All rows of a mode's table.
    pub(crate) async fn rows(&mut self, mode: &Mode) -> anyhow::Result<Vec<Row>> {
        let sql = format!("SELECT row_id, event_id, serial, stream_sequence FROM {}", mode.table());
        let rows = self.numbers(&sql).await?;
        rows.into_iter()
            .map(|row| match row.as_slice() {
                [row_id, event_id, serial, sequence] => Ok(Row {
                    row_id: *row_id,
                    event_id: u64::try_from(*event_id)?,
                    serial: u64::try_from(*serial)?,
                    sequence: u64::try_from(*sequence)?,
                }),
                _ => bail!("a row of {} columns", row.len()),
            })
            .collect()
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

/// A dead letter, as far as it is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) pipeline: String,
    /// Of the event in it; 0 where its payload does not tell.
    pub(crate) serial: u64,
    pub(crate) message: jetstream::Message,
}

impl Letter {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }
}

/// All letters of a dead-letter stream.
pub(crate) async fn letters(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<Vec<Letter>> {
    let mut stream = jetstream.get_stream(stream).await.with_context(|| format!("asking for {stream}"))?;
    let count = stream.info().await.context("asking for the dead letters")?.state.messages;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.context("reading dead letters")?;
    let mut messages = consumer.messages().await.context("reading dead letters")?;
    let mut letters = Vec::new();
    while (letters.len() as u64) < count {
        let next =
            tokio::time::timeout(LETTER, messages.next()).await.context("waiting for a dead letter")?;
        let message = next.context("the dead letters ended")?.context("reading a dead letter")?;
        let serial = serial_of(&message.payload).unwrap_or_default();
        let mut letter = Letter { pipeline: String::new(), serial, message };
        letter.pipeline = letter.header("Dead-Letter-Pipeline").unwrap_or_default().to_owned();
        letters.push(letter);
    }
    Ok(letters)
}
