//! The clients: the sink's writer, and one that sends INSERTs with parameters, as sinks do that know no bulk load.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_nats::Subject;
use nats_sql_sink::config::SqlConfig;
use nats_sql_sink::decode::{DecodePool, Decoder};
use nats_sql_sink::delivery::Event;
use nats_sql_sink::mssql::bulk::Deadlines;
use nats_sql_sink::mssql::commit::{self, Commit, Rows};
use nats_sql_sink::mssql::connect::{Connector, Pool};
use nats_sql_sink::mssql::target::{self, Target, Way};
use nats_sql_sink::schema::Schema;
use nats_sql_sink::sql_name::TableName;
use tiberius::{AuthMethod, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use crate::replay::{Recording, Replay};
use crate::{ROWS_OF_A_LOAD, Server};

const TABLE: &str = "dbo.speed";
/// Ten columns of the kinds that telemetry has.
const SCHEMA: &str = r#"
format = "json"
column = [
    { name = "event_id", type = "uniqueidentifier", nullable = false },
    { name = "device", type = "nvarchar(64)", nullable = false },
    { name = "sequence", type = "bigint", nullable = false },
    { name = "recorded_at", type = "datetime2(7)", nullable = false },
    { name = "temperature", type = "float" },
    { name = "status", type = "int", nullable = false },
    { name = "ok", type = "bit", nullable = false },
    { name = "amount", type = "decimal(18,4)" },
    { name = "note", type = "varchar(40)" },
    { name = "previous", type = "bigint" },
]
"#;
const DEADLINES: Deadlines =
    Deadlines { statement: Duration::from_secs(60), commit: Duration::from_secs(60) };

/// As many as SQL Server's 2,100 parameters allow of ten columns.
const ROWS_OF_AN_INSERT: usize = 200;
pub(crate) const INSERT_PACKET_BYTES: u32 = 16_383;

/// Who sends.
pub(crate) enum Client {
    /// Bytes that were recorded: next to no work.
    Replay(Arc<Recording>),
    /// The sink's writer, a transaction a load.
    Sink(Arc<Sink>),
    /// `sp_executesql` with an INSERT of many rows.
    Insert(Arc<Inserter>),
}

impl Client {
    /// A connection, logged in and ready to send.
    pub(crate) async fn connect(&self) -> Connection {
        match self {
            Self::Replay(recording) => Connection::Replay(recording.connect().await),
            Self::Sink(sink) => Connection::Sink(sink.at(sink.server.address()).await),
            Self::Insert(inserter) => Connection::Insert(Box::new(inserter.connect().await)),
        }
    }
}

/// A connection of any client.
pub(crate) enum Connection {
    Replay(Replay),
    Sink(Writer),
    Insert(Box<Inserting>),
}

impl Connection {
    /// So many loads, or as much work with INSERTs; gives the number of rows that the server counted.
    pub(crate) async fn send(self, loads: usize) -> u64 {
        match self {
            Self::Replay(replay) => replay.send(loads).await,
            Self::Sink(writer) => writer.send(loads).await,
            Self::Insert(inserting) => inserting.send(loads).await,
        }
    }
}

/// Rows and a server to write them to.
pub(crate) struct Sink {
    pub(crate) server: Arc<Server>,
    packet_bytes: u32,
    is_encrypted: bool,
    schema: Schema,
    rows: RecordBatch,
    target: Target,
}

impl Sink {
    pub(crate) async fn prepare(server: &Arc<Server>, packet_bytes: u32, is_encrypted: bool) -> Self {
        let schema = Schema::parse(SCHEMA).unwrap();
        let table = TableName::try_from(TABLE.to_owned()).unwrap();
        let connector = Connector::new(config(server, server.address(), packet_bytes, is_encrypted));
        let mut session = Box::pin(connector.open()).await.unwrap();
        let target = target::prepare(&mut session, &table, &schema, true, &Way::Append).await.unwrap();
        let rows = rows(&schema);
        Self { server: Arc::clone(server), packet_bytes, is_encrypted, schema, rows, target }
    }

    /// A writer that is connected to this address.
    pub(crate) async fn at(self: &Arc<Self>, address: std::net::SocketAddr) -> Writer {
        let pool = Pool::new(config(&self.server, address, self.packet_bytes, self.is_encrypted)).unwrap();
        // the pool keeps the connection that was made
        pool.get().await.unwrap().give_back();
        Writer { sink: Arc::clone(self), pool }
    }
}

/// The sink's writer, with a connection of its own.
pub(crate) struct Writer {
    sink: Arc<Sink>,
    pool: Pool,
}

impl Writer {
    pub(crate) async fn send(self, loads: usize) -> u64 {
        let Sink { target, schema, rows, .. } = self.sink.as_ref();
        for _ in 0..loads {
            let session = self.pool.get().await.unwrap();
            let rows = Rows { target, schema, parts: std::slice::from_ref(rows), deadlines: DEADLINES };
            Box::pin(commit::write(session, rows, &Commit::default())).await.unwrap();
        }
        (loads * ROWS_OF_A_LOAD) as u64
    }
}

fn config(
    server: &Server,
    address: std::net::SocketAddr,
    packet_bytes: u32,
    is_encrypted: bool,
) -> SqlConfig {
    let encrypt = if is_encrypted { "required" } else { "off" };
    toml::from_str(&format!(
        "server = \"localhost,{}\"\ndatabase = \"sinkdb\"\nencrypt = \"{encrypt}\"\nca_file = {:?}\n\
         packet_size = {packet_bytes}\nmax_connections = 1\n\
         auth = {{ method = \"sql_login\", user = \"sink\", password_file = {:?} }}",
        address.port(),
        server.ca_file,
        server.password_file,
    ))
    .unwrap()
}

fn rows(schema: &Schema) -> RecordBatch {
    let mut seed = 0x9E37_79B9_7F4A_7C15;
    let events: Vec<Event> = (0..ROWS_OF_A_LOAD).map(|_| event(&mut seed)).collect();
    let pool = DecodePool::new(1).unwrap();
    let decoded = Decoder::new(schema, &pool).decode_rows(&events).unwrap();
    assert_eq!(decoded.rejects, []);
    decoded.rows
}

/// xorshift64: the same events in every run.
fn random(seed: &mut u64, below: u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % below
}

fn event(seed: &mut u64) -> Event {
    let mut next = |below| random(seed, below);
    let mut json = format!(
        "{{\"event_id\":\"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}\",\"device\":\"device-{:07}\",\"sequence\":{},",
        next(1 << 32),
        next(1 << 16),
        next(1 << 12),
        next(1 << 12),
        next(1 << 48),
        next(5_000_000),
        next(1 << 50),
    );
    let (day, hour, minute, second) = (1 + next(28), next(24), next(60), next(60));
    write!(json, "\"recorded_at\":\"2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}.").unwrap();
    write!(json, "{:07}Z\",\"temperature\":{}.{:02},", next(10_000_000), next(60), next(100)).unwrap();
    write!(json, "\"status\":{},\"ok\":{},", next(600), next(7) != 0).unwrap();
    write!(json, "\"amount\":{}.{:04},", next(100_000), next(10_000)).unwrap();
    let note = if next(4) == 0 { "null" } else { "\"battery low, 12 % left\"" };
    write!(json, "\"note\":{note},\"previous\":").unwrap();
    if next(3) == 0 {
        json.push_str("null}");
    } else {
        write!(json, "{}}}", next(1 << 40)).unwrap();
    }
    Event {
        subject: Subject::from_static("events.eu.sensor"),
        payload: json.into(),
        headers: None,
        stream_sequence: 1,
        deliveries: 1,
        published_at: 0,
        received_at: 0,
    }
}

/// Sends INSERTs of many rows, each value a parameter.
pub(crate) struct Inserter {
    server: Arc<Server>,
    text: String,
}

impl Inserter {
    /// The table is there: [`Sink::prepare`] made it.
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        let mut text = format!(
            "INSERT INTO {TABLE} (event_id, device, sequence, recorded_at, temperature, status, ok, amount, note, previous) VALUES "
        );
        for row in 0..ROWS_OF_AN_INSERT {
            let names: Vec<String> = (1..=10).map(|column| format!("@P{}", row * 10 + column)).collect();
            let comma = if row == 0 { "" } else { ", " };
            write!(text, "{comma}({})", names.join(", ")).unwrap();
        }
        Self { server: Arc::clone(server), text }
    }

    async fn connect(self: &Arc<Self>) -> Inserting {
        let mut config = tiberius::Config::new();
        config.host("localhost");
        config.port(self.server.address().port());
        config.database("sinkdb");
        config.authentication(AuthMethod::sql_server("sink", "Sink-Local-1"));
        config.encryption(EncryptionLevel::NotSupported);
        config.packet_size(INSERT_PACKET_BYTES);
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let client = Box::pin(tiberius::Client::connect(config, stream.compat_write())).await.unwrap();
        Inserting { inserter: Arc::clone(self), client }
    }
}

/// A connection of an [`Inserter`].
pub(crate) struct Inserting {
    inserter: Arc<Inserter>,
    client: tiberius::Client<Compat<TcpStream>>,
}

impl Inserting {
    /// A tenth of what is asked of a bulk load: each row costs more.
    async fn send(mut self, loads: usize) -> u64 {
        use tiberius::time::{Date, DateTime2, Time};
        let id = tiberius::Uuid::from_u128(1 << 64);
        let at = tiberius::ColumnData::DateTime2(Some(DateTime2::new(Date::new(738_000), Time::new(1, 7))));
        let at = At(at);
        let amount = tiberius::numeric::Numeric::new_with_scale(123_456, 4);
        let mut parameters: Vec<&dyn tiberius::ToSql> = Vec::new();
        for _ in 0..ROWS_OF_AN_INSERT {
            parameters.extend([
                &id as &dyn tiberius::ToSql,
                &"device-0001234",
                &1_234_567_i64,
                &at,
                &21.5_f64,
                &7_i32,
                &true,
                &amount,
                &"battery low, 12 % left",
                &None::<i64>,
            ]);
        }
        let mut rows = 0;
        for _ in 0..(loads * ROWS_OF_A_LOAD / 10).div_ceil(ROWS_OF_AN_INSERT) {
            let answer = self.client.execute(self.inserter.text.as_str(), &parameters).await.unwrap();
            let counted = answer.total();
            assert_eq!(counted, ROWS_OF_AN_INSERT as u64);
            rows += counted;
        }
        rows
    }
}

/// A moment as the driver sends it.
struct At(tiberius::ColumnData<'static>);

impl tiberius::ToSql for At {
    fn to_sql(&self) -> tiberius::ColumnData<'_> {
        self.0.clone()
    }
}
