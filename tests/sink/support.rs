//! The world of a test: a real nats-server, a SQL server, a folder, and the built binary.
//!
//! The SQL server is the local stack's, or any other that `NATS_SQL_SINK_TEST_SQL` names by an ADO.NET connection
//! string: every test makes tables of its own there and drops them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture};
use async_nats::jetstream::stream;
use futures_util::StreamExt;
use local_stack::sql_server::TokenOptions;
use local_stack::stack::{LocalStack, LocalStackOptions, SqlStorage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tiberius::{AuthMethod, Client, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncWriteCompatExt;

use crate::canaries;
pub use crate::sql::Sql;

/// Names the SQL server to test against, as an ADO.NET connection string.
pub const TEST_SQL: &str = "NATS_SQL_SINK_TEST_SQL";

/// Waits until `condition` gives a value, looking often. Fails after `patience`, naming what was waited for.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How a client reaches the SQL server.
#[derive(Debug, Clone)]
struct SqlAddress {
    host: String,
    port: u16,
    database: String,
    user: String,
    password: String,
    ca_pem: Option<String>,
}

impl SqlAddress {
    /// Reads an ADO.NET connection string: `Server=tcp:host,port;Database=d;User Id=u;Password=p`.
    fn from_ado(text: &str) -> Self {
        let pairs: BTreeMap<String, String> = text
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.trim().to_lowercase().replace(' ', ""), value.trim().to_owned()))
            .collect();
        let get = |keys: &[&str]| {
            keys.iter()
                .find_map(|key| pairs.get(*key))
                .cloned()
                .unwrap_or_else(|| panic!("{TEST_SQL} lacks {keys:?}"))
        };
        let server = get(&["server", "datasource"]);
        let server = server.strip_prefix("tcp:").unwrap_or(&server);
        let (host, port) = server.split_once(',').unwrap_or((server, "1433"));
        Self {
            host: host.to_owned(),
            port: port.parse().expect("a port in the connection string"),
            database: get(&["database", "initialcatalog"]),
            user: get(&["userid", "uid", "user"]),
            password: get(&["password", "pwd"]),
            ca_pem: None,
        }
    }
}

/// The servers of one test, and a folder of its own.
pub struct World {
    pub stack: LocalStack,
    pub jetstream: Context,
    folder: TempDir,
    sql: SqlAddress,
    /// What the sink's configuration says of NATS.
    pub nats: String,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(SqlStorage::Postgres).await
    }

    pub async fn start_with(storage: SqlStorage) -> Self {
        Self::start_from(LocalStackOptions { storage, ..LocalStackOptions::default() }).await
    }

    pub async fn start_from(options: LocalStackOptions) -> Self {
        Self::start_beside(options, std::env::var(TEST_SQL).ok()).await
    }

    /// With the local stack's own SQL server, whatever else is named: for faults that only that can be told to have.
    pub async fn start_with_faults() -> Self {
        Self::start_beside(LocalStackOptions::default(), None).await
    }

    /// With the local stack's own SQL server, whatever else is named, which takes these tokens.
    pub async fn start_with_tokens(tokens: TokenOptions) -> Self {
        let options = LocalStackOptions { tokens: Some(tokens), ..LocalStackOptions::default() };
        Self::start_beside(options, None).await
    }

    async fn start_beside(options: LocalStackOptions, sql: Option<String>) -> Self {
        let stack = LocalStack::start(options).await.expect("the local stack starts");
        let client = async_nats::connect(stack.nats_url()).await.expect("the NATS server answers");
        let nats = format!("servers = [\"{}\"]", stack.nats_url());
        Self::on(stack, sql, client, nats).await
    }

    /// On a stack whose NATS server wants to know who one is: with a client that may do everything, and what the sink's
    /// configuration says of NATS.
    pub async fn on_guarded(stack: LocalStack, client: async_nats::Client, nats: String) -> Self {
        Self::on(stack, std::env::var(TEST_SQL).ok(), client, nats).await
    }

    async fn on(stack: LocalStack, sql: Option<String>, client: async_nats::Client, nats: String) -> Self {
        let sql = match sql {
            Some(text) => SqlAddress::from_ado(&text),
            None => SqlAddress {
                host: "127.0.0.1".to_owned(),
                port: stack.sql_address().port(),
                database: stack.sql_database().to_owned(),
                user: stack.sql_user().to_owned(),
                password: stack.sql_password().to_owned(),
                ca_pem: Some(stack.sql_ca_pem().to_owned()),
            },
        };
        let jetstream = ContextBuilder::new().max_ack_inflight(8_192).build(client);
        let world = Self { stack, jetstream, folder: tempfile::tempdir().expect("a folder"), sql, nats };
        world.stream("DEAD_LETTERS", "dead.>").await;
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // renamed, so that a process which reads it meanwhile reads all of it
        let (path, new) =
            (self.path(name), self.path(&format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed))));
        std::fs::write(&new, text).expect("a file in the test's folder");
        std::fs::rename(new, &path).expect("the file has its name");
        path
    }

    pub async fn stream(&self, name: &str, subjects: &str) {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            ..stream::Config::default()
        };
        self.jetstream.create_stream(config).await.expect("a stream");
    }

    /// Publishes payloads with a window of outstanding confirmations.
    pub async fn publish(
        &self,
        events: impl IntoIterator<Item = (String, Option<HeaderMap>, Vec<u8>)>,
    ) -> u64 {
        let mut outstanding: std::collections::VecDeque<PublishAckFuture> = std::collections::VecDeque::new();
        let mut count = 0;
        for (subject, headers, payload) in events {
            let headers = headers.unwrap_or_default();
            let sent = self
                .jetstream
                .publish_with_headers(subject, headers, payload.into())
                .await
                .expect("a publish");
            outstanding.push_back(sent);
            count += 1;
            while outstanding.len() >= 2_048 {
                outstanding.pop_front().expect("one is outstanding").await.expect("the stream confirms");
            }
        }
        for sent in outstanding {
            sent.await.expect("the stream confirms");
        }
        count
    }

    /// Publishes a message as it stands, byte for byte, which no client would; and waits until it is at `sequence`.
    pub async fn publish_raw(
        &self,
        subject: &str,
        headers: &[u8],
        payload: &[u8],
        stream: &str,
        sequence: u64,
    ) {
        use tokio::io::AsyncWriteExt as _;
        let address = self.stack.nats_url().replace("nats://", "");
        let mut tcp = TcpStream::connect(address).await.expect("the NATS server listens");
        let total = headers.len() + payload.len();
        let mut message = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
        message.extend(format!("HPUB {subject} {} {total}\r\n", headers.len()).into_bytes());
        message.extend([headers, payload, b"\r\n"].concat());
        tcp.write_all(&message).await.expect("it reads");
        eventually("the raw message is in the stream", Duration::from_secs(10), async || {
            let mut stream = self.jetstream.get_stream(stream).await.ok()?;
            (stream.info().await.ok()?.state.last_sequence == sequence).then_some(())
        })
        .await;
    }

    /// A configuration for one pipeline. `pipeline` holds the fields that the test is about.
    pub fn config(&self, name: &str, top: &str, pipeline: &str) -> Sink {
        let http = local_stack::free_port().expect("a free port");
        self.write("sql.password", &self.sql.password);
        let trust = match &self.sql.ca_pem {
            Some(pem) => {
                self.write("ca.pem", pem);
                "ca_file = \"ca.pem\""
            }
            None => "trust_server_certificate = true",
        };
        let SqlAddress { host, port, database, user, .. } = &self.sql;
        let text = format!(
            r#"{top}
[nats]
{nats}
[sql]
server = "{host},{port}"
database = "{database}"
{trust}
auth = {{ method = "sql_login", user = "{user}", password_file = "sql.password" }}
[http]
listen = "127.0.0.1:{http}"
[[pipeline]]
name = "{name}"
dead_letter = {{ stream = "DEAD_LETTERS", subject = "dead.{name}" }}
{pipeline}
"#,
            nats = self.nats,
        );
        let config = self.write(&format!("{name}-{http}.toml"), &text);
        assert!(!canaries::of(&config).is_empty(), "a search for nothing finds nothing");
        Sink { log: config.with_extension("log"), config, http, process: None, secrets: Vec::new() }
    }

    pub async fn sql(&self) -> Sql {
        self.sql_as(&self.sql.user, &self.sql.password).await
    }

    /// As whom that is.
    pub fn sql_login(&self) -> (&str, &str) {
        (&self.sql.user, &self.sql.password)
    }

    /// A session of another user.
    pub async fn sql_as(&self, user: &str, password: &str) -> Sql {
        let mut config = tiberius::Config::new();
        config.host(&self.sql.host);
        config.port(self.sql.port);
        config.database(&self.sql.database);
        config.authentication(AuthMethod::sql_server(user, password));
        config.encryption(EncryptionLevel::Required);
        match &self.sql.ca_pem {
            Some(pem) => config.trust_cert_ca_bundle(pem.as_bytes()),
            None => config.trust_cert(),
        }
        let tcp = TcpStream::connect((self.sql.host.as_str(), self.sql.port))
            .await
            .expect("the SQL server listens");
        Sql::of(Box::pin(Client::connect(config, tcp.compat_write())).await.expect("a login"))
    }

    /// A table name that no other test uses.
    pub fn table(&self, name: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("dbo.{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Events of the consumer that are not settled yet: those not delivered, and those delivered and not acknowledged.
    pub async fn unsettled(&self, stream: &str, durable: &str) -> Option<(u64, u64)> {
        let stream = self.jetstream.get_stream(stream).await.ok()?;
        let info = stream.consumer_info(durable).await.ok()?;
        Some((info.num_pending, info.num_ack_pending as u64))
    }

    pub async fn settled(&self, stream: &str, durable: &str, patience: Duration) {
        eventually(&format!("{durable} has settled all of {stream}"), patience, async || {
            (self.unsettled(stream, durable).await? == (0, 0)).then_some(())
        })
        .await;
    }

    /// All messages of the dead-letter stream.
    pub async fn dead_letters(&self) -> Vec<async_nats::jetstream::Message> {
        let mut stream = self.jetstream.get_stream("DEAD_LETTERS").await.expect("the dead-letter stream");
        let count = stream.info().await.expect("its info").state.messages;
        let config = async_nats::jetstream::consumer::pull::OrderedConfig::default();
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let messages = consumer.messages().await.expect("its messages");
        let count = usize::try_from(count).expect("a number of messages");
        let letters: Vec<_> = messages.take(count).map(|message| message.expect("a message")).collect().await;
        let headers = letters.iter().filter_map(|letter| letter.headers.as_ref()).flat_map(HeaderMap::iter);
        for (name, values) in headers.filter(|(name, _)| !name.to_string().starts_with("Orig-")) {
            let told = values.iter().any(|value| !canaries::found(&[], value.as_str()).is_empty());
            assert!(!told, "the header {name} of a dead letter holds a row");
        }
        letters
    }
}

/// The built binary, run with one configuration. Killed when dropped.
pub struct Sink {
    pub config: PathBuf,
    log: PathBuf,
    http: u16,
    process: Option<tokio::process::Child>,
    /// What it was started with: later the files may hold others.
    secrets: Vec<String>,
}

impl Sink {
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With further variables in its environment.
    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        self.secrets.extend(canaries::of(&self.config));
        let process = tokio::process::Command::new(env!("CARGO_BIN_EXE_nats-sql-sink"))
            .args(["run", "--config"])
            .arg(&self.config)
            .envs(std::env::var_os(canaries::EVERYTHING).map(|_| ("RUST_LOG", canaries::LOUDEST)))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        self.process = Some(process);
    }

    /// The same pipeline once more, as another worker would run it.
    pub fn another(&self) -> Self {
        let http = local_stack::free_port().expect("a free port");
        let text = std::fs::read_to_string(&self.config).expect("the configuration");
        let text = text.replace(&format!(":{}\"", self.http), &format!(":{http}\""));
        let config = self.config.with_file_name(format!("another-{http}.toml"));
        std::fs::write(&config, text).expect("a configuration");
        Self { log: config.with_extension("log"), config, http, process: None, secrets: Vec::new() }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.process.as_ref().and_then(tokio::process::Child::id).expect("it runs")
    }

    /// Sends a signal, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.id()).expect("a process id")), signal).expect("a signal");
    }

    /// Runs another command of the program with the same configuration: its status, and what it wrote to stdout and stderr.
    pub async fn command(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_nats-sql-sink"))
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .output()
            .await
            .expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status, text(output.stdout), text(output.stderr))
    }

    /// How it ended, where it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().expect("it was started").try_wait().expect("a status")
    }

    pub async fn kill(&mut self) {
        self.process.as_mut().expect("it runs").kill().await.expect("a kill");
        self.process = None;
    }

    /// SIGTERM, and the exit within `patience`.
    pub async fn terminate(&mut self, patience: Duration) -> ExitStatus {
        for path in ["/metrics", "/readyz", "/"] {
            let (_, body) = self.get(path).await.unwrap_or_default();
            assert_eq!(canaries::found(&self.secrets, &body), Vec::<&str>::new(), "{path}");
        }
        let mut process = self.process.take().expect("it runs");
        let id = process.id().expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).expect("a process id")), Signal::SIGTERM).expect("a signal");
        let ended = tokio::time::timeout(patience, process.wait()).await;
        ended.unwrap_or_else(|_| panic!("no exit within {patience:?}:\n{}", self.log())).expect("a status")
    }

    /// Asks over HTTP: the status code and the body.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        use http_body_util::{BodyExt as _, Empty};
        let stream = TcpStream::connect(("127.0.0.1", self.http)).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let request =
            hyper::Request::get(path).header("host", "127.0.0.1").body(Empty::<bytes::Bytes>::new()).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8(body.to_vec()).ok()?))
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        self.metric_where(name, "").await
    }

    /// The sum of a metric over those labels among which this one is.
    pub async fn metric_where(&self, name: &str, label: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await?;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        });
        Some(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub async fn ready(&self, patience: Duration) {
        eventually("the sink is ready", patience, async || {
            (self.get("/readyz").await?.0 == 200).then_some(())
        })
        .await;
    }
}

/// A test that failed tells what the sink said, and one that did not looks for what it must not have said.
impl Drop for Sink {
    fn drop(&mut self) {
        const LAST_LINES: usize = 40;
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            eprintln!("the sink's log ends with:\n{last}");
            return;
        }
        let log = self.log();
        let told = canaries::found(&self.secrets, &log);
        assert_eq!(told, Vec::<&str>::new(), "the worker's log holds a secret or a row");
    }
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
