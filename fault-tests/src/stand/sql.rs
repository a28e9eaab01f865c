//! The SQL side of a stand: a PostgreSQL, and the SQL server in front of it, in this process or as one of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::faults::Faults;
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage, TlsMaterial};
use tempfile::TempDir;
use test_bench::say;
use test_bench::sql_client::SqlAccess;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The database that clients name when they log in.
pub(crate) const DATABASE: &str = "sinkdb";

const START: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Server {
    Here(SqlServer),
    Process(Child),
    Down,
}

/// The database's servers.
#[derive(Debug)]
pub(crate) struct Sql {
    postgres: Postgres,
    server: Server,
    as_process: bool,
    address: SocketAddr,
    /// What goes wrong on cue; of a server in this process.
    pub(crate) faults: Faults,
    folder: TempDir,
    user: String,
    password: String,
}

impl Sql {
    pub(crate) async fn start(as_process: bool) -> anyhow::Result<Self> {
        // a stand has few sessions, and several stands run side by side
        let postgres = PostgresOptions {
            settings: vec![("shared_buffers".into(), "64MB".into())],
            max_connections: 100,
            ..PostgresOptions::default()
        };
        let postgres = Postgres::start(postgres).await.context("starting PostgreSQL")?;
        let folder = tempfile::tempdir().context("making a folder")?;
        let mut sql = Self {
            postgres,
            server: Server::Down,
            as_process,
            address: SocketAddr::from(([127, 0, 0, 1], local_stack::free_port()?)),
            faults: Faults::default(),
            folder,
            user: String::new(),
            password: String::new(),
        };
        sql.start_server().await?;
        Ok(sql)
    }

    async fn start_server(&mut self) -> anyhow::Result<()> {
        let arguments = ServeArguments {
            listen: self.address,
            postgres_port: self.postgres.port(),
            folder: self.folder.path().to_path_buf(),
        };
        if self.as_process {
            self.server = Server::Process(self.start_process(&arguments).await?);
        }
        let mut options =
            SqlServerOptions { faults: self.faults.clone(), ..options(self.postgres.config(), &arguments)? };
        let login = options.logins.first_mut().context("a login")?;
        self.user.clone_from(&login.user);
        if self.password.is_empty() {
            self.password.clone_from(&login.password);
        } else {
            login.password.clone_from(&self.password);
        }
        if !self.as_process {
            let server = SqlServer::start(options).await.context("starting the SQL server")?;
            self.server = Server::Here(server);
        }
        Ok(())
    }

    async fn start_process(&self, arguments: &ServeArguments) -> anyhow::Result<Child> {
        let own = std::env::current_exe().context("finding this program's own file")?;
        let mut process = Command::new(own)
            .arg("serve-sql")
            .args(["--listen", &arguments.listen.to_string()])
            .args(["--postgres-port", &arguments.postgres_port.to_string()])
            .arg("--folder")
            .arg(&arguments.folder)
            .env(PASSWORD_VARIABLE, password_of(&self.postgres.config())?)
            // it ends when this end of it is closed, however this process ends
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the SQL server's process")?;
        let output = process.stdout.take().context("the SQL server's output")?;
        let mut lines = BufReader::new(output).lines();
        let line = tokio::time::timeout(START, lines.next_line()).await;
        match line.context("the SQL server's process does not say that it is ready")?? {
            Some(_) => Ok(process),
            None => bail!("the SQL server's process has ended"),
        }
    }

    /// SIGKILL for the SQL server's process and for PostgreSQL: every session is gone, and what was not committed.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        match std::mem::replace(&mut self.server, Server::Down) {
            Server::Here(server) => drop(server),
            Server::Process(mut process) => process.kill().await.context("killing the SQL server")?,
            Server::Down => {}
        }
        self.postgres.kill().await;
        Ok(())
    }

    /// Starts both again, on the same port.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.postgres.restart().await.context("starting PostgreSQL again")?;
        self.start_server().await
    }

    /// The login has another password from now on, and whoever is logged in has to log in again.
    pub(crate) async fn change_password(&mut self, password: &str) -> anyhow::Result<()> {
        if let Server::Here(server) = std::mem::replace(&mut self.server, Server::Down) {
            server.stop().await;
        }
        password.clone_into(&mut self.password);
        self.start_server().await
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How somebody reaches it who may do everything, with no proxy between.
    pub(crate) fn access(&self) -> SqlAccess {
        SqlAccess {
            host: "127.0.0.1".to_owned(),
            port: self.address.port(),
            database: DATABASE.to_owned(),
            user: self.user.clone(),
            password: self.password.clone(),
            ca_file: Some(self.ca_file()),
            trust_server_certificate: false,
        }
    }

    /// Who may do everything.
    pub(crate) fn login(&self) -> (&str, &str) {
        (&self.user, &self.password)
    }

    /// The certificate authority's certificate, for clients.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// Hands PostgreSQL's password to the process that serves SQL: arguments can be read by everybody.
pub(crate) const PASSWORD_VARIABLE: &str = "FAULT_TESTS_POSTGRES_PASSWORD";

/// What the process that serves SQL has to know.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// PostgreSQL's port on 127.0.0.1
    #[arg(long)]
    postgres_port: u16,
    /// The folder with the certificates
    #[arg(long)]
    folder: PathBuf,
}

fn options(postgres: tokio_postgres::Config, arguments: &ServeArguments) -> anyhow::Result<SqlServerOptions> {
    Ok(SqlServerOptions {
        listen: arguments.listen,
        database: DATABASE.to_owned(),
        tls: Some(TlsMaterial::kept_in(&arguments.folder).context("keeping certificates")?),
        ..SqlServerOptions::new(Storage::Postgres(postgres))
    })
}

fn password_of(config: &tokio_postgres::Config) -> anyhow::Result<String> {
    let bytes = config.get_password().context("PostgreSQL's password")?;
    Ok(String::from_utf8(bytes.to_vec())?)
}

/// Serves SQL until standard input ends: the process that a fault kills.
pub(crate) async fn serve(arguments: &ServeArguments) -> anyhow::Result<()> {
    let mut postgres = tokio_postgres::Config::new();
    postgres
        .host("127.0.0.1")
        .port(arguments.postgres_port)
        .user("postgres")
        .password(std::env::var(PASSWORD_VARIABLE).context(PASSWORD_VARIABLE)?)
        .dbname("postgres");
    let server = SqlServer::start(options(postgres, arguments)?).await.context("starting the SQL server")?;
    say::line(&server.address().to_string());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    server.stop().await;
    Ok(())
}
