//! What the two tables of the configuration are called that say where a secret comes from, and their fields.

/// The table of the configuration that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::config) enum AuthTable {
    /// `sql.auth`.
    #[default]
    Sql,
    /// `nats.token_from`.
    Nats,
}

/// How the fields are named where something is wrong with what they say.
#[derive(Debug)]
pub struct AuthFields {
    /// The table.
    pub table: &'static str,
    /// `token_file`.
    pub token_file: &'static str,
    /// `client_secret_file`.
    pub client_secret_file: &'static str,
    /// `client_secret`.
    pub client_secret: &'static str,
    /// `certificate_file`.
    pub certificate_file: &'static str,
    /// `ca_file`.
    pub ca_file: &'static str,
}

pub(super) const OF_SQL: AuthFields = AuthFields {
    table: "sql.auth",
    token_file: "sql.auth.token_file",
    client_secret_file: "sql.auth.client_secret_file",
    client_secret: "sql.auth.client_secret",
    certificate_file: "sql.auth.certificate_file",
    ca_file: "sql.auth.ca_file",
};

pub(super) const OF_NATS: AuthFields = AuthFields {
    table: "nats.token_from",
    token_file: "nats.token_from.token_file",
    client_secret_file: "nats.token_from.client_secret_file",
    client_secret: "nats.token_from.client_secret",
    certificate_file: "nats.token_from.certificate_file",
    ca_file: "nats.token_from.ca_file",
};
