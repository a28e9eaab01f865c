//! Loading ready rows through one connection: by the sink's own writer, and by a plain loop over the driver's bulk load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use arrow::array::RecordBatch;
use nats_sql_sink::config::SqlConfig;
use nats_sql_sink::mssql::bulk::{Cells, Deadlines};
use nats_sql_sink::mssql::commit::{self, Commit, Rows};
use nats_sql_sink::mssql::connect::{Connector, Pool, Session};
use nats_sql_sink::mssql::target::{self, Way};
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

/// The sink's writer: a transaction a batch, as it runs otherwise.
pub(super) async fn ours(
    stand: &Stand,
    settings: &EventsSettings,
    rows: &RecordBatch,
    rounds: usize,
) -> anyhow::Result<Alone> {
    let schema = Schema::parse(&settings.shape.schema())?;
    let config = config(stand)?;
    let target = {
        let mut session = Box::pin(Connector::new(config.clone()).open()).await?;
        let table = TableName::try_from(TABLE.to_owned()).map_err(|error| anyhow::anyhow!("{error}"))?;
        target::prepare(&mut session, &table, &schema, true, &Way::Append).await?
    };
    let pool = Pool::new(config)?;
    // the pool keeps the connection that was made
    pool.get().await?.give_back();
    let mut alone = Vec::new();
    for _ in 0..rounds {
        let session = pool.get().await?;
        let batch = Rows {
            target: &target,
            schema: &schema,
            parts: std::slice::from_ref(rows),
            deadlines: DEADLINES,
        };
        let commit = Commit::default();
        let writing = async {
            Box::pin(commit::write(session, batch, &commit)).await?;
            Ok(())
        };
        alone.push(measure(stand, rows.num_rows() as u64, writing).await?);
    }
    remove(stand).await?;
    middle(&alone)
}

/// A plain loop over the driver that sends the same rows, ready before its time begins, in a transaction that is the
/// statement's own.
pub(super) async fn tiberius(
    stand: &Stand,
    settings: &EventsSettings,
    rows: &RecordBatch,
    rounds: usize,
) -> anyhow::Result<Alone> {
    let schema = Schema::parse(&settings.shape.schema())?;
    let mut session: Session = Box::pin(Connector::new(config(stand)?).open()).await?;
    let table = TableName::try_from(TABLE.to_owned()).map_err(|error| anyhow::anyhow!("{error}"))?;
    let target = target::prepare(&mut session, &table, &schema, true, &Way::Append).await?;
    let cells = Cells::new(&target, &schema, rows)?;
    let ready: Vec<TokenRow<'_>> = (0..rows.num_rows()).map(|row| cells.row(row)).collect();
    let mut alone = Vec::new();
    for _ in 0..rounds {
        let sent = ready.clone();
        let sending = async {
            let mut request = session.bulk_insert(TABLE).await?;
            for row in sent {
                request.send(row).await?;
            }
            let counted = request.finalize().await?.total();
            ensure!(counted == ready.len() as u64, "the server counted {counted} rows");
            Ok(())
        };
        alone.push(measure(stand, ready.len() as u64, sending).await?);
    }
    remove(stand).await?;
    middle(&alone)
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
