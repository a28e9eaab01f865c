//! `demo` and `local`: the whole thing on this machine, with nothing but this program and two tools.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::jetstream::{self, context::ContextBuilder, stream};
use clap::{Args, ValueEnum};
use local_stack::sql_server::faults::Faults;
use local_stack::sql_server::{AZURE_SQL_AUDIENCE, TokenOptions};
use local_stack::stack::{LocalStack, LocalStackOptions, SqlStorage};

pub mod events;
mod figures;
mod progress;
mod publisher;
mod secure;
mod sink;
mod table;

use crate::config::Config;
use crate::mssql::connect::Connector;
use crate::output;
use crate::shutdown::Shutdown;
use events::Events;
use figures::Figures;
use progress::Bars;
use sink::{Progress, Sink};
use table::Account;

/// The schema of the demo's events, so that the program needs no file beside it.
const SCHEMA: &str = include_str!("../schemas/telemetry.toml");
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Without any progress for this long the demo gives up and says what the sink says.
const PATIENCE: Duration = Duration::from_secs(60);
/// Outstanding publishes of the client, above the publisher's own window.
const MAX_ACK_INFLIGHT: usize = 8_192;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many events to publish
    #[arg(long, default_value_t = 500_000, value_name = "N")]
    events: u64,
    /// Without a password anywhere: access tokens of 8 s for the database, a user by JWT for NATS, TLS on both sides, exactly
    /// once, no rights but those that `grants` prints, and new credentials for both sides while events come over 32 s
    #[arg(long)]
    secure: bool,
    /// Print one JSON object on stdout instead of progress and summary
    #[arg(long, value_name = "FORMAT")]
    report: Option<Report>,
    /// Where to keep the streams, the database, the configuration and the log [default: a new folder in ./demo-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What `demo` prints on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Report {
    /// One JSON object
    Json,
}

/// Arguments of `local`.
#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// Port of the NATS server
    #[arg(long, value_name = "PORT", default_value_t = 4222)]
    nats_port: u16,
    /// Port of the SQL server
    #[arg(long, value_name = "PORT", default_value_t = 1433)]
    sql_port: u16,
    /// Where to keep streams and database [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What becomes of the rows of a bulk load
    #[arg(long, value_enum, default_value_t = StorageArg::Postgres)]
    sql_storage: StorageArg,
    /// What is to go wrong with the SQL server, and when: a file as local-stack/FAULTS.md describes it
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
    /// Take signed tokens as logins, too: a JSON Web Key Set with the public keys that they are signed with
    #[arg(long, value_name = "FILE")]
    jwks_file: Option<PathBuf>,
    /// What a token has to be for
    #[arg(long, value_name = "AUDIENCE", default_value = AZURE_SQL_AUDIENCE, requires = "jwks_file")]
    token_audience: String,
    /// Whose token is dbo's: a name or an id in it, as of Azure SQL's Microsoft Entra admin
    #[arg(long, value_name = "NAME", requires = "jwks_file")]
    token_admin: Option<String>,
    /// Port of a gateway that redirects every login to the SQL server, as Azure SQL's does [default: none]
    #[arg(long, value_name = "PORT")]
    sql_gateway_port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StorageArg {
    /// They are stored in a real PostgreSQL
    Postgres,
    /// They are parsed, checked and counted, and none is kept
    Discard,
}

/// Runs the demo.
pub(crate) fn demo(args: &DemoArgs) -> ExitCode {
    let running = async {
        match args.secure {
            true => Box::pin(secure::run(args)).await,
            false => Box::pin(run_demo(args)).await,
        }
    };
    match block_on(running) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => output::fail("the table does not hold exactly what was published"),
        Err(error) => output::fail(&format!("{error:#}")),
    }
}

/// Runs the local stack until a signal.
pub(crate) fn local(args: &LocalArgs) -> ExitCode {
    let faults = match read_faults(args.faults.as_deref()) {
        Ok(faults) => faults,
        Err(error) => return output::usage(&format!("{error:#}")),
    };
    let tokens = match token_options(args) {
        Ok(tokens) => tokens,
        Err(error) => return output::usage(&format!("{error:#}")),
    };
    match block_on(run_local(args, faults, tokens)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&format!("{error:#}")),
    }
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(work)
}

/// `true` where the table holds exactly what was published.
async fn run_demo(args: &DemoArgs) -> anyhow::Result<bool> {
    let quiet = args.report == Some(Report::Json);
    let say = |text: &str| {
        if !quiet {
            output::line(text);
        }
    };
    let folder = data_folder(args.data_dir.as_deref())?;
    say("starting nats-server, PostgreSQL, and the stand-in for SQL Server in front of it …");
    let stack = LocalStack::start(LocalStackOptions {
        data_dir: Some(folder.join("stack")),
        ..LocalStackOptions::default()
    })
    .await
    .context("starting the local stack")?;
    let http = std::net::SocketAddr::from(([127, 0, 0, 1], local_stack::free_port()?));
    let config_path = write_files(&folder, &stack, http)?;
    let config = Config::load(&config_path)?;
    let client = async_nats::connect(stack.nats_url()).await.context("connecting to the NATS server")?;
    let jetstream = ContextBuilder::new().max_ack_inflight(MAX_ACK_INFLIGHT).build(client);
    create_streams(&jetstream).await?;

    let mut sink = Sink::start(&config_path, &folder.join("sink.log"), http)?;
    say(&format!("publishing {} events while the sink works …", args.events));
    let started = Instant::now();
    let confirmed = Arc::new(AtomicU64::new(0));
    let events = Events::new(time::OffsetDateTime::now_utc());
    let publishing = tokio::spawn(publisher::publish(
        jetstream,
        events,
        args.events,
        Arc::clone(&confirmed),
        Duration::ZERO,
    ));
    let mut bars = Bars::new(args.events, quiet);
    let progress = follow(&mut sink, publishing, &confirmed, args.events, &mut bars).await?;
    let seconds = started.elapsed().as_secs_f64();
    bars.finish();
    let status = sink.stop().await?;
    if !status.success() {
        bail!("the sink did not stop cleanly: {status}");
    }

    let pipeline = config.pipelines.first().context("the demo's configuration has one pipeline")?;
    let mut session = Connector::new(config.sql.clone()).open().await?;
    let account = Account::read(&mut session, &pipeline.table).await?;
    let published = confirmed.load(Ordering::Relaxed);
    let exact =
        account == Account::expected(published)? && published == args.events && progress.dead_lettered == 0;
    let figures = Figures::of(published, &account, &progress, seconds, &sink);
    if quiet {
        output::line(&serde_json::to_string(&figures)?);
        return Ok(exact);
    }
    figures.print(exact);
    output::line("\nfive rows, read back over TDS:\n");
    for line in columns(&table::sample(&mut session, &pipeline.table).await?) {
        output::line(&line);
    }
    let program = std::env::args().next().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    output::line(&format!(
        "\nThe data is in {folder}: the streams, the database, the configuration demo.toml and the sink's log sink.log.\n\n\
         What to try next:\n  \
         the same stack again, to look around with any SQL client\n    {program} local --data-dir {folder}/stack\n  \
         the CREATE TABLE statement\n    {program} ddl --config {folder}/demo.toml\n  \
         the worker, with your own NATS and Azure SQL: see README.md\n    {program} run --config sink.toml",
        folder = folder.display()
    ));
    Ok(exact)
}

/// Waits until everything published is settled, and shows how it goes.
async fn follow(
    sink: &mut Sink,
    mut publishing: tokio::task::JoinHandle<anyhow::Result<()>>,
    confirmed: &AtomicU64,
    expected: u64,
    bars: &mut Bars,
) -> anyhow::Result<Progress> {
    let mut published = false;
    let mut last_change = Instant::now();
    let mut last_settled = 0;
    loop {
        tokio::select! {
            ended = &mut publishing, if !published => {
                ended.context("the publisher ended by a defect")??;
                published = true;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let progress = sink.progress().await;
        let settled = progress.committed + progress.dead_lettered;
        bars.show(confirmed.load(Ordering::Relaxed), progress.committed);
        if published && settled >= expected {
            return Ok(progress);
        }
        if settled != last_settled {
            (last_settled, last_change) = (settled, Instant::now());
        }
        sink.check_running()?;
        if last_change.elapsed() > PATIENCE {
            bail!(
                "{settled} of {expected} events are settled, and nothing has moved for {} s; the sink says: {}",
                PATIENCE.as_secs(),
                sink.readiness().await
            );
        }
    }
}

/// The folder to work in: the one asked for, or a new one.
fn data_folder(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folder = match asked {
        Some(folder) => folder.to_path_buf(),
        None => {
            let now = time::OffsetDateTime::now_utc();
            let format = time::macros::format_description!("[year][month][day]-[hour][minute][second]");
            PathBuf::from("demo-data").join(format!("{}-{}", now.format(&format)?, std::process::id()))
        }
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("creating the folder {}", folder.display()))?;
    let mut entries =
        std::fs::read_dir(&folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    if entries.next().is_some() {
        bail!("the folder {} is not empty: name another one with --data-dir", folder.display());
    }
    folder.canonicalize().with_context(|| format!("finding the folder {}", folder.display()))
}

/// Writes what `run` needs: configuration, schema, password and the certificate to trust.
fn write_files(folder: &Path, stack: &LocalStack, http: std::net::SocketAddr) -> anyhow::Result<PathBuf> {
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text)
            .with_context(|| format!("writing {name} in {}", folder.display()))
    };
    write("telemetry.toml", SCHEMA)?;
    write("ca.pem", stack.sql_ca_pem())?;
    write("sql.password", stack.sql_password())?;
    restrict(&folder.join("sql.password"))?;
    let config = format!(
        r#"# Written by `nats-sql-sink demo`.

[nats]
servers = ["{nats}"]

[sql]
server = "127.0.0.1,{sql_port}"
database = "{database}"
encrypt = "required"
ca_file = "ca.pem"
auth = {{ method = "sql_login", user = "{user}", password_file = "sql.password" }}

[http]
listen = "{http}"

[[pipeline]]
name = "telemetry"
stream = "EVENTS"
durable = "sink-telemetry"
subjects = ["events.>"]
schema = "telemetry.toml"
table = "dbo.telemetry"
create_table = true
dead_letter = {{ stream = "DEAD_LETTERS", subject = "dead.telemetry" }}
"#,
        nats = stack.nats_url(),
        sql_port = stack.sql_address().port(),
        database = stack.sql_database(),
        user = stack.sql_user(),
    );
    write("demo.toml", &config)?;
    Ok(folder.join("demo.toml"))
}

fn restrict(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("restricting who may read {}", path.display()))
}

async fn create_streams(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    for (name, subjects) in [("EVENTS", "events.>"), ("DEAD_LETTERS", "dead.>")] {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            ..stream::Config::default()
        };
        jetstream.create_stream(config).await.with_context(|| format!("creating the stream {name}"))?;
    }
    Ok(())
}

/// Lays cells out in columns.
fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
        })
        .collect()
}

fn read_faults(file: Option<&Path>) -> anyhow::Result<Faults> {
    let Some(file) = file else { return Ok(Faults::default()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Faults::from_toml(&text).with_context(|| file.display().to_string())
}

/// Whose tokens to take, where any.
fn token_options(args: &LocalArgs) -> anyhow::Result<Option<TokenOptions>> {
    let Some(file) = &args.jwks_file else { return Ok(None) };
    let options = TokenOptions {
        audience: args.token_audience.clone(),
        admin: args.token_admin.clone(),
        ..TokenOptions::new(file)
    };
    options.validate()?;
    Ok(Some(options))
}

async fn run_local(args: &LocalArgs, faults: Faults, tokens: Option<TokenOptions>) -> anyhow::Result<()> {
    let stack = LocalStack::start(LocalStackOptions {
        nats_port: Some(args.nats_port),
        sql_port: Some(args.sql_port),
        data_dir: args.data_dir.clone(),
        storage: match args.sql_storage {
            StorageArg::Postgres => SqlStorage::Postgres,
            StorageArg::Discard => SqlStorage::Discard,
        },
        tokens,
        sql_gateway_port: args.sql_gateway_port,
        faults,
        ..LocalStackOptions::default()
    })
    .await
    .context("starting the local stack")?;
    output::line(&format!(
        "The local stack runs. It is for development: its SQL server is a stand-in, not SQL Server.\n\n  \
         NATS        {nats}\n  \
         SQL server  127.0.0.1,{port}   database {database}, user {user}, password {password}\n  \
         its CA      {ca}\n\n\
         Stop it with Ctrl-C.",
        nats = stack.nats_url(),
        port = stack.sql_address().port(),
        database = stack.sql_database(),
        user = stack.sql_user(),
        password = stack.sql_password(),
        ca = stack.sql_ca_file().display(),
    ));
    let shutdown = Shutdown::new();
    shutdown.listen(Duration::ZERO).context("listening for signals")?;
    shutdown.stopping().await;
    stack.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn cells_are_laid_out_in_columns() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(columns(&rows), ["  a    bb", "  ccc  d"]);
    }

    #[test]
    fn keys_that_cannot_be_read_are_an_error_of_usage_that_names_the_file() {
        let command = LocalArgs::augment_args(clap::Command::new("local"));
        let matches = command.try_get_matches_from(["local", "--jwks-file", "/missing/keys.json"]).unwrap();
        let args = LocalArgs::from_arg_matches(&matches).unwrap();
        let error = token_options(&args).unwrap_err();
        assert!(error.to_string().contains("/missing/keys.json"), "{error}");
        let command = LocalArgs::augment_args(clap::Command::new("local"));
        assert!(command.try_get_matches_from(["local", "--token-audience", "x"]).is_err());
    }

    #[test]
    fn an_error_of_a_file_of_faults_names_file_and_field() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("faults.toml");
        std::fs::write(&file, "[[fault]]\non = 'commit'\nerorr = 1205").expect("a file");
        let error = format!("{:#}", read_faults(Some(&file)).expect_err("a wrong field"));
        assert!(error.contains("faults.toml: fault[0].erorr: unknown field"), "{error}");
        assert!(read_faults(Some(&folder.path().join("none.toml"))).is_err());
        assert!(read_faults(None).is_ok());
    }

    #[test]
    fn a_folder_that_holds_something_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("x"), "").expect("a file");
        assert!(data_folder(Some(folder.path())).is_err());
    }
}
