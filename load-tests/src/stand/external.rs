//! Servers that are there already, instead of those that a run starts.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use test_bench::sql_client::SqlAccess;

use crate::scenario::{Scenario, StorageKind};

/// SQL Server's own port.
const SQL_PORT: u16 = 1433;

/// Arguments that name servers. Streams and the table of an earlier run there are removed.
#[derive(Debug, Args)]
pub(crate) struct ExternalArgs {
    /// A NATS server with JetStream, instead of one of its own
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// A SQL server, instead of one of its own: host or host,port
    #[arg(long, value_name = "SERVER", requires_all = ["sql_database", "sql_user", "sql_password_file"])]
    sql_server: Option<String>,
    /// Its database
    #[arg(long, value_name = "NAME", requires = "sql_server")]
    sql_database: Option<String>,
    /// Its login, which may create tables
    #[arg(long, value_name = "NAME", requires = "sql_server")]
    sql_user: Option<String>,
    /// A file with its password
    #[arg(long, value_name = "FILE", requires = "sql_server")]
    sql_password_file: Option<PathBuf>,
    /// PEM: the authority that signed its certificate [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "sql_server")]
    sql_ca_file: Option<PathBuf>,
    /// Take any certificate of it
    #[arg(long, requires = "sql_server")]
    sql_trust_server_certificate: bool,
}

/// The servers that are there already.
#[derive(Debug, Clone, Default)]
pub(crate) struct External {
    pub(crate) nats_url: Option<String>,
    pub(crate) sql: Option<SqlAccess>,
}

impl ExternalArgs {
    /// Reads the password, and takes the server's name apart.
    pub(crate) fn servers(&self) -> anyhow::Result<External> {
        let sql = match &self.sql_server {
            None => None,
            Some(server) => Some(self.sql(server)?),
        };
        Ok(External { nats_url: self.nats_url.clone(), sql })
    }

    fn sql(&self, server: &str) -> anyhow::Result<SqlAccess> {
        let (host, port) = match server.split_once(',') {
            Some((host, port)) => (host, port.trim().parse().context("--sql-server: the port")?),
            None => (server, SQL_PORT),
        };
        let password_file = self.sql_password_file.as_ref().context("--sql-password-file is missing")?;
        let password = std::fs::read_to_string(password_file)
            .with_context(|| format!("reading {}", password_file.display()))?;
        let ca_file = self
            .sql_ca_file
            .as_ref()
            .map(|file| file.canonicalize().with_context(|| format!("finding {}", file.display())));
        Ok(SqlAccess {
            host: host.to_owned(),
            port,
            database: self.sql_database.clone().context("--sql-database is missing")?,
            user: self.sql_user.clone().context("--sql-user is missing")?,
            password: password.trim_end_matches(['\r', '\n']).to_owned(),
            ca_file: ca_file.transpose()?,
            trust_server_certificate: self.sql_trust_server_certificate,
        })
    }
}

impl External {
    /// Whether a scenario can be run with these servers.
    ///
    /// # Errors
    /// It asks something of the SQL server that only the local stack's does.
    pub(crate) fn check(&self, scenario: &Scenario) -> anyhow::Result<()> {
        if self.sql.is_none() {
            return Ok(());
        }
        if scenario.storage == StorageKind::Discard {
            bail!("a SQL server of your own keeps rows: use --sql-storage postgres with it");
        }
        let is_limited = scenario.sql_rows_per_second_of_a_load.is_some();
        if is_limited || scenario.fault.iter().any(|fault| !fault.needs_proxy()) {
            bail!(
                "this scenario has errors or limits of the database, which only the local stack does on cue"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        external: ExternalArgs,
    }

    #[test]
    fn a_server_needs_its_login_and_its_name_may_have_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        assert!(Cli::try_parse_from(["x", "--sql-server", "a"]).is_err());
        let password = password.display().to_string();
        let parse = |server| {
            let arguments = ["x", "--sql-server", server, "--sql-database", "d", "--sql-user", "u"];
            let arguments = arguments.into_iter().chain(["--sql-password-file", &password]);
            Cli::try_parse_from(arguments).unwrap().external.servers().unwrap().sql.unwrap()
        };
        let sql = parse("a.example");
        assert_eq!((sql.host.as_str(), sql.port, sql.password.as_str()), ("a.example", 1433, "secret"));
        assert_eq!(parse("a.example,2000").port, 2000);
    }
}
