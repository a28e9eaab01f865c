//! `[sql]`: where the rows go.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::auth::AuthConfig;
use super::problem::{Checks, Problem, quote};
use crate::sql_name::Identifier;

/// The port of SQL Server and Azure SQL.
pub const DEFAULT_SQL_PORT: u16 = 1433;

/// The largest packet of an encrypted connection: SQL Server's cap.
pub const MAX_ENCRYPTED_PACKET_BYTES: u32 = 16_383;

/// The largest packet that the protocol knows.
pub const MAX_PACKET_BYTES: u32 = 32_767;

/// How to reach the database, and as whom.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    /// `host`, `host,port` or `tcp:host,port`; the port is 1433 where none is written. Required.
    pub server: SqlServerAddress,
    /// The database that holds the tables. Required.
    pub database: String,
    /// Encryption of the connection. Default `required`.
    #[serde(default)]
    pub encrypt: Encryption,
    /// Accept any certificate: for trying out on one's own machine. Default false.
    #[serde(default)]
    pub trust_server_certificate: bool,
    /// PEM file of the authorities that may have signed the server's certificate, besides those of the system.
    /// Default: none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// As whom. Required.
    pub auth: AuthConfig,
    /// Connections that this process keeps at most, for all its pipelines. Default 4.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Bytes of a packet, 512 to 32,767; to 16,383 where the connection is encrypted. Larger is faster. Default
    /// 16,383.
    #[serde(default = "default_packet_size")]
    pub packet_size: u32,
    /// For connecting, agreeing on encryption and logging in, together. Default 15 s.
    #[serde(default = "default_connect_timeout", with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// For the answer to a statement other than a commit, and for a bulk load that makes no progress. Default 30 s.
    #[serde(default = "default_command_timeout", with = "humantime_serde")]
    pub command_timeout: Duration,
    /// For the answer to a commit. The outcome of one that takes longer is unknown, so be generous. Default
    /// 60 s.
    #[serde(default = "default_commit_timeout", with = "humantime_serde")]
    pub commit_timeout: Duration,
}

fn default_max_connections() -> usize {
    4
}

fn default_packet_size() -> u32 {
    MAX_ENCRYPTED_PACKET_BYTES
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(15)
}

fn default_command_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_commit_timeout() -> Duration {
    Duration::from_secs(60)
}

/// How much of the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// TDS 8: TLS from the first byte on. SQL Server 2022 and Azure SQL.
    Strict,
    /// TDS 7.4: everything after the first exchange.
    #[default]
    Required,
    /// Nothing. Only to this machine itself.
    Off,
}

/// Host and port of a database server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SqlServerAddress {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl SqlServerAddress {
    /// Whether the host is this machine, as far as its spelling says: a name is not looked up.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for SqlServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.split_once(':') {
            Some((protocol, rest)) if protocol.eq_ignore_ascii_case("tcp") => rest,
            Some((protocol @ ("np" | "lpc" | "admin" | "via"), _)) => {
                return Err(format!("`{protocol}:` is not supported: write `host,port` of a TCP port"));
            }
            _ => text,
        };
        let (host, port) = match address.split_once(',') {
            None => (address.trim(), DEFAULT_SQL_PORT),
            Some((host, port)) => match port.trim().parse() {
                Ok(port) if port > 0 => (host.trim(), port),
                _ => return Err("the port, after the comma, must be from 1 to 65535".to_owned()),
            },
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.contains('\\') {
            return Err("named instances are not supported: write `host,port`, with the port that the \
                        instance listens on"
                .to_owned());
        }
        if matches!(host, "." | "(local)") || host.starts_with("(localdb)") {
            return Err("write `localhost`, or `localhost,port`".to_owned());
        }
        if host.parse::<IpAddr>().is_ok() {
            return Ok(Self { host: host.to_owned(), port });
        }
        if host.contains(':') {
            return Err("a port is written after a comma: `host,port`".to_owned());
        }
        let is_host_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(is_host_name) {
            return Err("must be `host` or `host,port`".to_owned());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl TryFrom<String> for SqlServerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `host,port`, as T-SQL tools write it.
impl std::fmt::Display for SqlServerAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{},{}", self.host, self.port)
    }
}

impl SqlConfig {
    /// The files of secrets that are shown to the database, each with its field: they are watched.
    pub fn secret_files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let auth = &self.auth;
        let files = [
            ("sql.auth.password_file", &auth.password_file),
            ("sql.auth.token_file", &auth.token_file),
            ("sql.auth.client_secret_file", &auth.client_secret_file),
            ("sql.auth.certificate_file", &auth.certificate_file),
        ];
        files.into_iter().filter_map(|(field, path)| Some((field, path.as_deref()?)))
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.ca_file.iter_mut().chain(self.auth.paths())
    }

    pub(super) fn validate(&self, checks: &mut Checks<'_>) {
        if let Err(error) = Identifier::new(self.database.as_str()) {
            checks.refuse(Problem::new("database", error.to_string()).with_value(quote(&self.database)));
        }
        if self.encrypt == Encryption::Off && !self.server.is_loopback() {
            checks.refuse(
                Problem::new("encrypt", "may be off only where `server` is localhost or a loopback address")
                    .with_value("\"off\"")
                    .with_hint("write \"required\" with `ca_file` for a certificate of your own"),
            );
        }
        if self.trust_server_certificate && self.ca_file.is_some() {
            checks.refuse(
                Problem::new("trust_server_certificate", "and `ca_file` exclude each other").with_value(true),
            );
        }
        self.auth.validate(&mut checks.table("auth"));
        checks.range("max_connections", self.max_connections, &(1..=1024));
        self.validate_packet_size(checks);
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        checks.duration("connect_timeout", self.connect_timeout, &(second..=hour));
        checks.duration("command_timeout", self.command_timeout, &(second..=hour));
        checks.duration("commit_timeout", self.commit_timeout, &(second..=hour));
    }

    fn validate_packet_size(&self, checks: &mut Checks<'_>) {
        checks.range("packet_size", self.packet_size, &(512..=MAX_PACKET_BYTES));
        let is_capped = (MAX_ENCRYPTED_PACKET_BYTES + 1..=MAX_PACKET_BYTES).contains(&self.packet_size);
        if is_capped && self.encrypt != Encryption::Off {
            let message =
                format!("must be at most {MAX_ENCRYPTED_PACKET_BYTES} where the connection is encrypted");
            checks.refuse(Problem::new("packet_size", message).with_value(self.packet_size));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("db.example.net", "db.example.net", 1433),
            ("127.0.0.1,1434", "127.0.0.1", 1434),
            ("tcp:x.database.windows.net,1433", "x.database.windows.net", 1433),
            ("TCP:x", "x", 1433),
            ("host , 15", "host", 15),
            ("::1", "::1", 1433),
            ("tcp:[::1],99", "::1", 99),
        ] {
            let address = text.parse::<SqlServerAddress>();
            assert_eq!(address, Ok(SqlServerAddress { host: host.to_owned(), port }), "{text}");
        }
        for (text, part) in [
            ("host\\instance", "host,port"),
            ("host:1433", "comma"),
            ("host,0", "65535"),
            ("host,x", "65535"),
            ("", "host"),
            (",1433", "host"),
            ("np:host", "not supported"),
            (".", "localhost"),
            ("(localdb)\\x", "host,port"),
            ("a b", "host"),
        ] {
            let error = text.parse::<SqlServerAddress>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn loopback_is_decided_by_the_spelling_alone() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.example.net", false),
            ("db", false),
        ] {
            let address = SqlServerAddress { host: host.to_owned(), port: 1433 };
            assert_eq!(address.is_loopback(), expected, "{host}");
        }
    }
}
