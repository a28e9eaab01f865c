//! A server of its own for each test.

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::faults::Faults;
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};
use tiberius::{AuthMethod, Client, ColumnData, Config, EncryptionLevel, Row};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

pub(crate) type SqlClient = Client<Compat<TcpStream>>;

pub(crate) const USER: &str = "sink";
pub(crate) const PASSWORD: &str = "Sink-Local-1";

pub(crate) struct Fixture {
    pub(crate) server: SqlServer,
    pub(crate) postgres: Postgres,
    _folder: tempfile::TempDir,
    ca_file: std::path::PathBuf,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with(Storage::Postgres, Faults::default()).await
    }

    pub(crate) async fn with_faults(faults: Faults) -> Self {
        Self::with(Storage::Postgres, faults).await
    }

    pub(crate) async fn discarding() -> Self {
        Self::with(Storage::Discard, Faults::default()).await
    }

    async fn with(storage: impl Fn(tokio_postgres::Config) -> Storage, faults: Faults) -> Self {
        Self::with_options(|config| SqlServerOptions { faults, ..SqlServerOptions::new(storage(config)) })
            .await
    }

    pub(crate) async fn with_options(
        options: impl FnOnce(tokio_postgres::Config) -> SqlServerOptions,
    ) -> Self {
        let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
        let options = options(postgres.config());
        let server = SqlServer::start(options).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, server.ca_pem()).unwrap();
        Self { server, postgres, _folder: folder, ca_file }
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("localhost");
        config.port(self.server.address().port());
        config.database("sinkdb");
        config.authentication(AuthMethod::sql_server(USER, PASSWORD));
        config.encryption(EncryptionLevel::NotSupported);
        config.trust_cert_ca(self.ca_file.to_str().unwrap());
        config
    }

    pub(crate) async fn try_connect(&self, config: Config) -> tiberius::Result<SqlClient> {
        self.try_connect_at(self.server.address(), config).await
    }

    pub(crate) async fn try_connect_at(
        &self,
        address: std::net::SocketAddr,
        config: Config,
    ) -> tiberius::Result<SqlClient> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Box::pin(Client::connect(config, stream.compat_write())).await
    }

    /// With a user of the database and its password.
    pub(crate) async fn connect_as(&self, user: &str, password: &str) -> SqlClient {
        let mut config = self.config();
        config.authentication(AuthMethod::sql_server(user, password));
        self.try_connect(config).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> SqlClient {
        self.try_connect(self.config()).await.unwrap()
    }
}

/// All results of a batch, or the error that it ends with.
pub(crate) async fn batch(client: &mut SqlClient, sql: &str) -> tiberius::Result<Vec<Vec<Row>>> {
    client.simple_query(sql).await?.into_results().await
}

pub(crate) async fn run(client: &mut SqlClient, sql: &str) {
    if let Err(error) = batch(client, sql).await {
        panic!("{sql}: {error}");
    }
}

/// The rows of the last result.
pub(crate) async fn rows(client: &mut SqlClient, sql: &str) -> Vec<Row> {
    match batch(client, sql).await {
        Ok(mut results) => results.pop().unwrap_or_default(),
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// The values of the first row of the last result.
pub(crate) async fn values(client: &mut SqlClient, sql: &str) -> Vec<ColumnData<'static>> {
    rows(client, sql).await.into_iter().next().unwrap().into_iter().collect()
}

pub(crate) async fn int(client: &mut SqlClient, sql: &str) -> i32 {
    match values(client, sql).await.as_slice() {
        [ColumnData::I32(Some(value))] => *value,
        other => panic!("{sql}: {other:?}"),
    }
}

/// The number of the error that a batch ends with.
pub(crate) async fn error_of(client: &mut SqlClient, sql: &str) -> u32 {
    match batch(client, sql).await {
        Ok(results) => panic!("{sql}: no error, {} results", results.len()),
        Err(error) => number_of(&error),
    }
}

pub(crate) fn number_of(error: &tiberius::error::Error) -> u32 {
    error.code().unwrap_or_else(|| panic!("{error}"))
}
