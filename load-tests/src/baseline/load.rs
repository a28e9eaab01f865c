//! Loading ready rows through one connection: by the sink's own writer, and by a plain loop over the driver's bulk load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use arrow::array::RecordBatch;
use nats_sql_sink::config::SqlConfig;
use nats_sql_sink::mssql::bulk::{Cells, Deadlines};
use nats_sql_sink::mssql::commit::{self, Commit, Rows};
use nats_sql_sink::mssql::connect::{Connector, Pool, Session};
use nats_sql_sink::mssql::target::{self, Target, Way};
use nats_sql_sink::schema::Schema;
use nats_sql_sink::sql_name::TableName;
use tiberius::TokenRow;

use super::Alone;
use crate::figures::median;
use crate::machine;
use crate::model;
use crate::scenario::EventsSettings;
use crate::stand::Stand;

/// A table of its own, so that what the sink writes is counted apart.
const TABLE: &str = "dbo.load_test_baseline";
const DEADLINES: Deadlines =
    Deadlines { statement: Duration::from_secs(120), commit: Duration::from_secs(120) };

/// Ready rows and where they go, over one connection for each way.
pub(super) struct Loads<'a> {
    stand: &'a Stand,
    rows: &'a RecordBatch,
    schema: Schema,
    target: Target,
    pool: Pool,
    session: Session,
}

impl<'a> Loads<'a> {
    /// Makes the table, and connects.
    pub(super) async fn prepare(
        stand: &'a Stand,
        settings: &EventsSettings,
        rows: &'a RecordBatch,
    ) -> anyhow::Result<Self> {
        let schema = Schema::parse(&settings.shape.schema())?;
        let config = config(stand)?;
        let mut session = Box::pin(Connector::new(config.clone()).open()).await?;
        let table = TableName::try_from(TABLE.to_owned()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let target = target::prepare(&mut session, &table, &schema, true, &Way::Append).await?;
        let pool = Pool::new(config)?;
        // the pool keeps the connection that was made
        pool.get().await?.give_back();
        Ok(Self { stand, rows, schema, target, pool, session })
    }

    /// The sink's writer alone, so many times.
    pub(super) async fn ours(self, rounds: usize) -> anyhow::Result<Alone> {
        let mut alone = Vec::new();
        for _ in 0..rounds {
            alone.push(self.our_round().await?);
        }
        remove(self.stand).await?;
        middle(&alone)
    }

    /// The sink's writer and the plain loop by turns, so many times each, so that a busy moment of the machine meets both.
    pub(super) async fn by_turns(mut self, rounds: usize) -> anyhow::Result<(Alone, Alone)> {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(self.our_round().await?);
            plain.push(self.plain_round().await?);
        }
        remove(self.stand).await?;
        Ok((middle(&ours)?, middle(&plain)?))
    }

    /// The sink's writer: a transaction a batch, as it runs otherwise.
    async fn our_round(&self) -> anyhow::Result<Alone> {
        let session = self.pool.get().await?;
        let batch = Rows {
            target: &self.target,
            schema: &self.schema,
            parts: std::slice::from_ref(self.rows),
            deadlines: DEADLINES,
        };
        let commit = Commit::default();
        let writing = async {
            Box::pin(commit::write(session, batch, &commit)).await?;
            Ok(())
        };
        measure(self.stand, self.rows.num_rows() as u64, writing).await
    }

    /// A plain loop over the driver that sends the same rows, ready before its time begins, in a transaction that is the
    /// statement's own.
    async fn plain_round(&mut self) -> anyhow::Result<Alone> {
        let count = self.rows.num_rows();
        let cells = Cells::new(&self.target, &self.schema, self.rows)?;
        let ready: Vec<TokenRow<'_>> = (0..count).map(|row| cells.row(row)).collect();
        let session = &mut self.session;
        let sending = async {
            let mut request = session.bulk_insert(TABLE).await?;
            for row in ready {
                request.send(row).await?;
            }
            let counted = request.finalize().await?.total();
            ensure!(counted == count as u64, "the server counted {counted} rows");
            Ok(())
        };
        measure(self.stand, count as u64, sending).await
    }
}

/// Time and processor time of one load: this process', the SQL server's and PostgreSQL's.
async fn measure(
    stand: &Stand,
    rows: u64,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Alone> {
    let (server_before, own_before) = (stand.servers_cpu()?.sql_seconds, machine::own_cpu_seconds()?);
    let started = Instant::now();
    work.await?;
    let seconds = started.elapsed().as_secs_f64();
    let own = machine::own_cpu_seconds()? - own_before;
    let server = stand.servers_cpu()?.sql_seconds.zip(server_before).map(|(after, before)| after - before);
    #[allow(clippy::cast_precision_loss)] // a number of rows
    let per_second = rows as f64 / seconds;
    Ok(Alone {
        per_second,
        cpu_seconds_per_million: server.and_then(|server| model::per_million(server + own, rows)),
    })
}

/// Medians, of each figure by itself.
fn middle(all: &[Alone]) -> anyhow::Result<Alone> {
    let rates: Vec<f64> = all.iter().map(|alone| alone.per_second).collect();
    let cpu: Vec<f64> = all.iter().filter_map(|alone| alone.cpu_seconds_per_million).collect();
    let per_second = median(&rates).context("no round")?;
    Ok(Alone { per_second, cpu_seconds_per_million: median(&cpu) })
}

async fn remove(stand: &Stand) -> anyhow::Result<()> {
    stand.sql_client().await?.execute(&format!("DROP TABLE {TABLE}")).await
}

fn config(stand: &Stand) -> anyhow::Result<SqlConfig> {
    let sql = stand.sql();
    let text = |value: &str| toml::Value::String(value.to_owned());
    let mut config = toml::Table::new();
    config.insert("server".to_owned(), text(&format!("{},{}", sql.host, sql.port)));
    config.insert("database".to_owned(), text(&sql.database));
    if sql.trust_server_certificate {
        config.insert("trust_server_certificate".to_owned(), toml::Value::Boolean(true));
    } else if let Some(file) = &sql.ca_file {
        config.insert("ca_file".to_owned(), text(&file.display().to_string()));
    }
    config.insert("max_connections".to_owned(), toml::Value::Integer(1));
    let mut auth = toml::Table::new();
    auth.insert("method".to_owned(), text("sql_login"));
    auth.insert("user".to_owned(), text(&sql.user));
    auth.insert("password_file".to_owned(), text(&stand.password_file().display().to_string()));
    config.insert("auth".to_owned(), toml::Value::Table(auth));
    toml::Value::Table(config).try_into().context("the baseline's configuration")
}
