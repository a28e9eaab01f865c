//! The SQL server as a process of its own, so that its processor time can be told from that of whoever measures, and the
//! line-by-line talk with it: a JSON object asks on its standard input, another answers on its standard output.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use local_stack::postgres::Postgres;
use local_stack::sql_server::faults::{Effect, Fault, Occasion};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage, TlsMaterial};
use serde::{Deserialize, Serialize};
use test_bench::say;
use test_bench::sql_client::SqlAccess;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::scenario::{LoadLimit, SqlErrors, StorageKind};

/// The database that clients name when they log in.
const DATABASE: &str = "sinkdb";
/// For a start, and for any answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Hands PostgreSQL's password to the process: arguments can be read by everybody.
const PASSWORD_VARIABLE: &str = "LOAD_TESTS_POSTGRES_PASSWORD";

/// What is asked of the process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// How many rows it has taken.
    Count,
    /// To refuse some bulk loads.
    Refuse(SqlErrors),
    /// To take so many rows a second.
    RowsPerSecond(u64),
    /// To refuse bulk loads beyond so many at once.
    LimitLoads(LoadLimit),
    /// Nothing goes wrong any more. What the server is like by itself stays.
    Clear,
}

/// What it answers to everything.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) loads_begun: u64,
    pub(crate) rows_committed: u64,
    pub(crate) rows_committed_in_large_loads: u64,
    pub(crate) loads_committed: u64,
    pub(crate) rows_inserted_and_discarded: u64,
}

impl Counts {
    /// What was counted since an earlier count.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            loads_begun: self.loads_begun - earlier.loads_begun,
            rows_committed: self.rows_committed - earlier.rows_committed,
            rows_committed_in_large_loads: self.rows_committed_in_large_loads
                - earlier.rows_committed_in_large_loads,
            loads_committed: self.loads_committed - earlier.loads_committed,
            rows_inserted_and_discarded: self.rows_inserted_and_discarded
                - earlier.rows_inserted_and_discarded,
        }
    }
}

/// What the process has to know.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    /// PostgreSQL's port on 127.0.0.1
    #[arg(long)]
    postgres_port: u16,
    /// The folder with the certificates
    #[arg(long)]
    folder: PathBuf,
    /// What becomes of rows
    #[arg(long, value_enum)]
    storage: StorageKind,
    /// Rows a second of each bulk load
    #[arg(long)]
    rows_per_second_of_a_load: Option<u64>,
}

/// A running SQL server. It ends when this is dropped, or when this process ends.
#[derive(Debug)]
pub(crate) struct SqlProcess {
    process: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    access: SqlAccess,
}

impl SqlProcess {
    /// Starts it in front of a PostgreSQL; `folder` takes its certificates.
    pub(crate) async fn start(
        postgres: &Postgres,
        folder: &Path,
        storage: StorageKind,
        rows_per_second_of_a_load: Option<u64>,
    ) -> anyhow::Result<Self> {
        let config = postgres.config();
        let password = config.get_password().context("PostgreSQL's password")?;
        let own = std::env::current_exe().context("finding this program's own file")?;
        let storage = match storage {
            StorageKind::Postgres => "postgres",
            StorageKind::Discard => "discard",
        };
        let mut process = Command::new(own)
            .arg("serve-sql")
            .args(["--postgres-port", &postgres.port().to_string()])
            .args(["--storage", storage])
            .args(rows_per_second_of_a_load.map(|rows| format!("--rows-per-second-of-a-load={rows}")))
            .arg("--folder")
            .arg(folder)
            .env(PASSWORD_VARIABLE, String::from_utf8(password.to_vec())?)
            // it ends when this end of it is closed, however this process ends
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // a Ctrl-C at the terminal is for the owner, who then stops its servers in order
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting the SQL server's process")?;
        let requests = process.stdin.take().context("the SQL server's input")?;
        let output = process.stdout.take().context("the SQL server's output")?;
        let mut answers = BufReader::new(output).lines();
        let ready: Ready = serde_json::from_str(&next_line(&mut answers).await?)?;
        let access = SqlAccess {
            host: "127.0.0.1".to_owned(),
            port: ready.address.port(),
            database: DATABASE.to_owned(),
            user: ready.user,
            password: ready.password,
            ca_file: Some(folder.join("ca.pem")),
            trust_server_certificate: false,
        };
        Ok(Self { process, requests, answers, access })
    }

    /// How to reach it.
    pub(crate) fn access(&self) -> &SqlAccess {
        &self.access
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.process.id().context("the SQL server's process has ended")
    }

    /// Asks it something.
    pub(crate) async fn ask(&mut self, request: &Request) -> anyhow::Result<Counts> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.requests.write_all(line.as_bytes()).await.context("asking the SQL server's process")?;
        Ok(serde_json::from_str(&next_line(&mut self.answers).await?)?)
    }
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    match line.context("the SQL server's process does not answer")?? {
        Some(line) => Ok(line),
        None => bail!("the SQL server's process has ended"),
    }
}

/// Its first line.
#[derive(Serialize, Deserialize)]
struct Ready {
    address: SocketAddr,
    user: String,
    password: String,
}

/// Serves SQL until standard input ends: what the process does.
pub(crate) async fn serve(arguments: &ServeArguments) -> anyhow::Result<()> {
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .host("127.0.0.1")
        .port(arguments.postgres_port)
        .user("postgres")
        .password(std::env::var(PASSWORD_VARIABLE).context(PASSWORD_VARIABLE)?)
        .dbname("postgres");
    let storage = match arguments.storage {
        StorageKind::Postgres => Storage::Postgres(postgres),
        StorageKind::Discard => Storage::Discard(postgres),
    };
    let tls = TlsMaterial::kept_in(&arguments.folder).context("keeping certificates")?;
    let options =
        SqlServerOptions { database: DATABASE.to_owned(), tls: Some(tls), ..SqlServerOptions::new(storage) };
    let login = options.logins.first().context("a login")?.clone();
    let server = SqlServer::start(options).await.context("starting the SQL server")?;
    let of_a_load = arguments.rows_per_second_of_a_load;
    server.faults().limit_rows_per_second_of_a_load(of_a_load);
    let ready = Ready { address: server.address(), user: login.user, password: login.password };
    say::line(&serde_json::to_string(&ready)?);
    let mut requests = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = requests.next_line().await? {
        obey(&server, serde_json::from_str(&line).context("reading a request")?, of_a_load)?;
        say::line(&serde_json::to_string(&counts(&server))?);
    }
    server.stop().await;
    Ok(())
}

fn obey(server: &SqlServer, request: Request, of_a_load: Option<u64>) -> anyhow::Result<()> {
    let faults = server.faults();
    match request {
        Request::Count => {}
        Request::Clear => {
            faults.clear();
            faults.limit_rows_per_second_of_a_load(of_a_load);
        }
        Request::LimitLoads(LoadLimit { at_once, error }) => faults.limit_loads(Some(at_once), error),
        Request::RowsPerSecond(rows) => faults.limit_rows_per_second(Some(rows)),
        Request::Refuse(SqlErrors { numbers, share }) => {
            for (number, (share, seed)) in numbers.iter().zip(shares(share, numbers.len())) {
                let effect = Effect::Reject((*number).into());
                faults.script(Fault::new(Occasion::BulkLoad, effect).fraction(share, seed))?;
            }
        }
    }
    Ok(())
}

/// The share of each of several faults, and its seed, so that all of them together strike `share` of the occasions. All
/// count each occasion, and the first that strikes wins: the later ones get what the earlier ones leave.
fn shares(share: f64, count: usize) -> Vec<(f64, u64)> {
    #[allow(clippy::cast_precision_loss)] // a number of error numbers
    let each = share / count.max(1) as f64;
    let mut left = 1.0;
    let mut shares = Vec::new();
    for seed in 1..=count as u64 {
        let of_left: f64 = if left > 0.0 { each / left } else { 0.0 };
        shares.push((of_left.min(1.0), seed));
        left -= each;
    }
    shares
}

fn counts(server: &SqlServer) -> Counts {
    let loads = server.loads();
    Counts {
        loads_begun: loads.loads_begun,
        rows_committed: loads.rows_committed,
        rows_committed_in_large_loads: loads.rows_committed_in_large_loads,
        loads_committed: loads.loads_committed,
        rows_inserted_and_discarded: loads.rows_inserted_and_discarded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_together_strike_the_share_that_was_asked_for() {
        for (share, count) in [(0.3, 1), (0.5, 2), (0.9, 3), (1.0, 2)] {
            let shares = shares(share, count);
            let spared: f64 = shares.iter().map(|(share, _)| 1.0 - share).product();
            assert!((1.0 - spared - share).abs() < 1e-9, "{share} of {count}: {shares:?}");
            assert!(shares.windows(2).all(|pair| pair[0].1 != pair[1].1));
        }
    }

    #[test]
    fn requests_are_a_line_of_json_each() {
        let request = Request::Refuse(SqlErrors { numbers: vec![40501, 10928], share: 0.5 });
        let line = serde_json::to_string(&request).unwrap();
        assert!(!line.contains('\n'));
        let read: Request = serde_json::from_str(&line).unwrap();
        assert!(matches!(read, Request::Refuse(errors) if errors.numbers == [40501, 10928]));
        assert!(serde_json::from_str::<Request>("\"nothing\"").is_err());
    }
}
