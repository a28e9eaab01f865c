//! How fast the stand-in for SQL Server takes rows, beside how fast the sink's own writer sends them: measurements
//! against it measure the sink only where it is the faster of the two. `make bench-stand-in` prints the table;
//! `ARGS="--report json"` prints JSON.
//!
//! Client and server have threads of their own, so that the processor time of each can be told on a machine that has
//! other things to do. Every round measures all cases in turn, so that whatever else the machine does meets them alike.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and stops at what it did not expect"
)]

mod clients;
mod replay;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};
use tokio::runtime::Runtime;

use clients::{Client, Inserter, Sink};
use replay::Recording;
use report::Case;

/// Rows of one bulk load: what fills a compressed rowgroup, and the sink's default batch.
const ROWS_OF_A_LOAD: usize = 102_400;

/// Of the login that a server has unless it is told otherwise.
const PASSWORD: &str = "Sink-Local-1";

/// Where a server is, and what its client has to trust.
pub(crate) struct Server {
    server: SqlServer,
    pub(crate) name: &'static str,
    pub(crate) ca_file: PathBuf,
    pub(crate) password_file: PathBuf,
    postgres: Postgres,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start(name: &'static str, storage: fn(tokio_postgres::Config) -> Storage) -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let server = SqlServer::start(SqlServerOptions::new(storage(postgres.config()))).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, server.ca_pem()).unwrap();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, PASSWORD).unwrap();
        Self { server, name, ca_file, password_file, postgres, _folder: folder }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// So that no round finds more rows than the one before it.
    async fn empty(&self) {
        let (client, connection) =
            self.postgres.config().dbname("sinkdb").connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute("TRUNCATE dbo.speed").await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }
}

/// What is asked for on the command line.
struct Arguments {
    json: bool,
    rounds: usize,
    /// Bulk loads of each connection in each round.
    loads: usize,
}

fn arguments() -> Arguments {
    let mut found = Arguments { json: false, rounds: 5, loads: 4 };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--report" => {
                let format = rest.next().unwrap_or_default();
                assert!(format == "json" || format == "text", "--report json or --report text");
                found.json = format == "json";
            }
            "--rounds" => found.rounds = rest.next().unwrap().parse().unwrap(),
            "--loads" => found.loads = rest.next().unwrap().parse().unwrap(),
            // what `cargo bench` says to every benchmark
            "--bench" => {}
            other => panic!("{other}: unknown; there are --report json, --rounds N and --loads N"),
        }
    }
    assert!(found.rounds > 0 && found.loads > 0, "at least one round of one load");
    found
}

fn runtime(name: &str) -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

fn main() {
    let arguments = arguments();
    let (server, client) = (runtime("server"), runtime("client"));
    let discard =
        Arc::new(server.block_on(server.spawn(Server::start("discard", Storage::Discard))).unwrap());
    let postgres =
        Arc::new(server.block_on(server.spawn(Server::start("postgresql", Storage::Postgres))).unwrap());

    let mut cases = client.block_on(cases(&discard, &postgres));
    let load_before = load_average();
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        for case in &mut cases {
            client.block_on(measure(case, arguments.loads));
        }
    }
    report::print(&cases, arguments.json, arguments.rounds, &load_before, &load_average());
    drop(cases);
    let _entered = server.enter();
    drop((discard, postgres));
}

async fn cases(discard: &Arc<Server>, postgres: &Arc<Server>) -> Vec<Case> {
    const PLAIN: [u32; 3] = [4096, 16_383, 32_767];
    // the largest of an encrypted connection is 16,383
    const ENCRYPTED: [u32; 2] = [4096, 16_383];
    let mut cases = Vec::new();
    for (server, sizes) in [(discard, &PLAIN[..]), (postgres, &PLAIN[1..2])] {
        for &packet_bytes in sizes {
            let sink = Arc::new(Sink::prepare(server, packet_bytes, false).await);
            let recording = Arc::new(Recording::take(&sink).await);
            for connections in [1, 2] {
                let client = Client::Replay(Arc::clone(&recording));
                cases.push(Case::new(server, client, connections, packet_bytes, false));
            }
        }
    }
    let sinks = [(discard, &PLAIN[..], &ENCRYPTED[..]), (postgres, &PLAIN[1..2], &ENCRYPTED[1..])];
    for (server, plain, encrypted) in sinks {
        for (sizes, is_encrypted) in [(plain, false), (encrypted, true)] {
            for &packet_bytes in sizes {
                let sink = Arc::new(Sink::prepare(server, packet_bytes, is_encrypted).await);
                for connections in [1, 2] {
                    let client = Client::Sink(Arc::clone(&sink));
                    cases.push(Case::new(server, client, connections, packet_bytes, is_encrypted));
                }
            }
        }
    }
    for server in [discard, postgres] {
        let inserter = Arc::new(Inserter::new(server));
        for connections in [1, 2] {
            let client = Client::Insert(Arc::clone(&inserter));
            cases.push(Case::new(server, client, connections, clients::INSERT_PACKET_BYTES, false));
        }
    }
    cases
}

/// One round of a case: all connections are made and warm before the clock starts.
async fn measure(case: &mut Case, loads: usize) {
    let mut connected = Vec::new();
    for _ in 0..case.connections {
        connected.push(case.client.connect().await);
    }
    let before = (processor_seconds("server"), processor_seconds("client"));
    let started = Instant::now();
    let tasks: Vec<_> =
        connected.into_iter().map(|connection| tokio::spawn(connection.send(loads))).collect();
    let mut rows = 0;
    for task in tasks {
        rows += task.await.unwrap();
    }
    let elapsed = started.elapsed();
    let server_time = processor_seconds("server").checked_sub(before.0).unwrap();
    let client_time = processor_seconds("client").checked_sub(before.1).unwrap();
    case.add(rows, elapsed, server_time, client_time);
    case.server.empty().await;
}

/// Processor time that this process' threads of this name have used.
fn processor_seconds(name: &str) -> Duration {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let folder = task.unwrap().path();
        // a thread may end in between
        let Ok(found) = std::fs::read_to_string(folder.join("comm")) else { continue };
        if found.trim() == name {
            let used = std::fs::read_to_string(folder.join("schedstat")).unwrap_or_default();
            nanoseconds += used.split_whitespace().next().map_or(0, |text| text.parse::<u64>().unwrap());
        }
    }
    Duration::from_nanos(nanoseconds)
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
