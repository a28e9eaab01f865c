//! The whole local stack: nats-server, PostgreSQL, and the SQL server in front of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::StackError;
use crate::nats_server::{NatsServer, NatsServerOptions};
use crate::password;
use crate::postgres::{Postgres, PostgresOptions};
use crate::sql_server::faults::Faults;
use crate::sql_server::{Gateway, Login, SqlServer, SqlServerOptions, Storage, TokenOptions};
use crate::tools::Tools;

/// The database that clients name when they log in.
const DATABASE: &str = "sinkdb";
/// The login that may do everything in it.
const USER: &str = "sink";

/// What becomes of the rows of a bulk load, and of an INSERT whose values are parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SqlStorage {
    /// They are stored in PostgreSQL.
    #[default]
    Postgres,
    /// They are checked and counted, and none is kept: measures the sink and not the database.
    Discard,
}

/// How to start the stack.
#[derive(Debug, Clone)]
pub struct LocalStackOptions {
    /// Where the programs are.
    pub tools: Tools,
    /// The port of the NATS server on 127.0.0.1; `None` takes a free one.
    pub nats_port: Option<u16>,
    /// More lines for the configuration of the NATS server, in its own syntax.
    pub nats_config: Option<String>,
    /// Whether the NATS server says who it is before a client has said anything.
    pub nats_speaks_first: bool,
    /// The port of the SQL server on 127.0.0.1; `None` takes a free one.
    pub sql_port: Option<u16>,
    /// The folder that keeps streams and tables, made when it is missing; `None` makes a temporary one, which is
    /// gone after the drop.
    pub data_dir: Option<PathBuf>,
    /// What becomes of the rows of a bulk load, and of an INSERT whose values are parameters.
    pub storage: SqlStorage,
    /// Whose tokens the SQL server takes in place of passwords; `None` takes none.
    pub tokens: Option<TokenOptions>,
    /// The port of the SQL server's gateway on 127.0.0.1, which redirects every login to the server; `None` has none.
    pub sql_gateway_port: Option<u16>,
    /// What goes wrong with the SQL server on cue; a copy kept by the caller changes it while the stack runs.
    pub faults: Faults,
}

impl Default for LocalStackOptions {
    fn default() -> Self {
        Self {
            tools: Tools::from_environment(),
            nats_port: None,
            nats_config: None,
            nats_speaks_first: true,
            sql_port: None,
            data_dir: None,
            storage: SqlStorage::default(),
            tokens: None,
            sql_gateway_port: None,
            faults: Faults::default(),
        }
    }
}

/// A running local stack. Dropping it stops it.
///
/// Fields are dropped from top to bottom: first the SQL server, which needs PostgreSQL, and last the folder that
/// all of them write to.
#[derive(Debug)]
pub struct LocalStack {
    sql_server: SqlServer,
    postgres: Postgres,
    nats: NatsServer,
    password: String,
    ca_file: PathBuf,
    _temporary: Option<TempDir>,
}

impl LocalStack {
    /// Starts everything and waits until it takes connections.
    pub async fn start(options: LocalStackOptions) -> Result<Self, StackError> {
        let LocalStackOptions {
            tools,
            nats_port,
            nats_config,
            nats_speaks_first,
            sql_port,
            data_dir,
            storage,
            tokens,
            sql_gateway_port,
            faults,
        } = options;
        let (temporary, folder) = match &data_dir {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(StackError::io("make the folder", folder))?;
                (None, folder.canonicalize().map_err(StackError::io("find the folder", folder))?)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("nats-sql-sink-stack-").tempdir();
                let parent = std::env::temp_dir();
                let temporary = temporary.map_err(StackError::io("make a folder in", &parent))?;
                let folder = temporary.path().to_path_buf();
                (Some(temporary), folder)
            }
        };

        // without a folder of the caller's each server makes a temporary one that it can use: see `postgres`
        let lasting = |name: &str| data_dir.is_some().then(|| folder.join(name));
        let (nats, postgres) = tokio::try_join!(
            NatsServer::start(NatsServerOptions {
                tools: tools.clone(),
                port: nats_port,
                store_dir: lasting("nats"),
                extra_config: nats_config,
                speaks_first: nats_speaks_first,
                ..NatsServerOptions::default()
            }),
            Postgres::start(PostgresOptions {
                tools: tools.clone(),
                data_dir: lasting("postgres"),
                ..PostgresOptions::default()
            }),
        )?;

        let password = password::kept_in(&folder.join("sql.password"))?;
        let sql_server = SqlServer::start(SqlServerOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, sql_port.unwrap_or(0))),
            storage: match storage {
                SqlStorage::Postgres => Storage::Postgres(postgres.config()),
                SqlStorage::Discard => Storage::Discard(postgres.config()),
            },
            database: DATABASE.to_owned(),
            logins: vec![Login { user: USER.to_owned(), password: password.clone() }],
            other_logins: Vec::new(),
            tokens,
            gateway: sql_gateway_port.map(|port| Gateway {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                ..Gateway::default()
            }),
            tls: None,
            faults,
        })
        .await?;

        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, sql_server.ca_pem()).map_err(StackError::io("write", &ca_file))?;
        Ok(Self { sql_server, postgres, nats, password, ca_file, _temporary: temporary })
    }

    /// Where NATS clients connect: `nats://127.0.0.1:port`.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// Where SQL clients connect.
    pub fn sql_address(&self) -> SocketAddr {
        self.sql_server.address()
    }

    /// The database that they name.
    pub fn sql_database(&self) -> &'static str {
        DATABASE
    }

    /// The user that they log in as.
    pub fn sql_user(&self) -> &'static str {
        USER
    }

    /// Its password: made with the data folder, and kept there.
    pub fn sql_password(&self) -> &str {
        &self.password
    }

    /// The certificate of the authority that signed the SQL server's, as PEM: made anew at every start.
    pub fn sql_ca_pem(&self) -> &str {
        self.sql_server.ca_pem()
    }

    /// A file that holds it.
    pub fn sql_ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// The NATS server, to be killed and started again.
    pub fn nats(&mut self) -> &mut NatsServer {
        &mut self.nats
    }

    /// The PostgreSQL behind the SQL server, to be killed and started again.
    pub fn postgres(&mut self) -> &mut Postgres {
        &mut self.postgres
    }

    /// The SQL server.
    pub fn sql_server(&self) -> &SqlServer {
        &self.sql_server
    }

    /// Stops everything in order, without blocking the runtime as a drop does.
    pub async fn stop(self) {
        let Self { sql_server, mut postgres, mut nats, .. } = self;
        sql_server.stop().await;
        tokio::join!(postgres.stop(), nats.stop());
    }
}
