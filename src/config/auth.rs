//! `[sql.auth]`: as whom the sink logs in to the database; and `[nats.token_from]`: where it has a token for NATS from.

mod fields;

use std::path::PathBuf;

use serde::Deserialize;

pub use self::fields::AuthFields;
pub(super) use self::fields::AuthTable;
use self::fields::{OF_NATS, OF_SQL};
use super::parse::Environment;
use super::problem::{Checks, Problem, quote};
use super::secret::{self, EnvironmentReference, SecretSource};

/// What a token for Azure SQL is asked for with, in the public cloud.
const AZURE_SQL_SCOPE: &str = "https://database.windows.net/.default";
/// Microsoft Entra ID of the public cloud.
const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";

/// `sql.auth`, or `nats.token_from`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The way of authentication. Required.
    pub method: AuthMethod,
    /// The login, for `sql_login`. Default: none.
    #[serde(default)]
    pub user: Option<String>,
    /// A file with the password of `user`. Default: none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The environment variable with the password of `user`, as `"${VARIABLE}"`. Default: none.
    #[serde(default)]
    pub password: Option<EnvironmentReference>,
    /// The tenant's id or domain. Default: for `workload_identity` that of `AZURE_TENANT_ID`.
    #[serde(default)]
    pub tenant_id: Option<String>,
    /// The application's id, or that of a user-assigned managed identity. Default: for `workload_identity` that of
    /// `AZURE_CLIENT_ID`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// A file with an access token, or with the federated token of a workload. Default: for `workload_identity` that of
    /// `AZURE_FEDERATED_TOKEN_FILE`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A file with the application's secret. Default: none.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// The environment variable with the application's secret, as `"${VARIABLE}"`. Default: none.
    #[serde(default)]
    pub client_secret: Option<EnvironmentReference>,
    /// A PEM file with the application's certificate and its key. Default: none.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Who gives tokens out. Default: `AZURE_AUTHORITY_HOST`, or else Microsoft Entra ID of the public cloud.
    #[serde(default)]
    pub authority: Option<String>,
    /// What the token is for. Default: Azure SQL of the public cloud; for NATS there is none.
    #[serde(default)]
    pub scope: Option<String>,
    /// PEM file of the authorities that may have signed the certificate of `authority`, besides those of the system.
    /// Default: none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Which of the two tables it is.
    #[serde(skip)]
    pub(super) table: AuthTable,
}

/// How the sink proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// By a login with a password.
    SqlLogin,
    /// By an access token in a file, which something else keeps fresh.
    AccessTokenFile,
    /// By the managed identity of the machine in Azure.
    ManagedIdentity,
    /// By the federated token of a workload, such as a Kubernetes service account.
    WorkloadIdentity,
    /// By an application's secret.
    ClientSecret,
    /// By an application's certificate.
    ClientCertificate,
    /// By whoever is logged in to the Azure CLI: for developers.
    AzureCli,
}

impl AuthMethod {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SqlLogin => "sql_login",
            Self::AccessTokenFile => "access_token_file",
            Self::ManagedIdentity => "managed_identity",
            Self::WorkloadIdentity => "workload_identity",
            Self::ClientSecret => "client_secret",
            Self::ClientCertificate => "client_certificate",
            Self::AzureCli => "azure_cli",
        }
    }

    /// The fields that it has beside `method`.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::SqlLogin => &["user", "password_file", "password"],
            Self::AccessTokenFile => &["token_file"],
            Self::ManagedIdentity => &["client_id", "scope"],
            Self::WorkloadIdentity => {
                &["tenant_id", "client_id", "token_file", "authority", "scope", "ca_file"]
            }
            Self::ClientSecret => &[
                "tenant_id",
                "client_id",
                "client_secret_file",
                "client_secret",
                "authority",
                "scope",
                "ca_file",
            ],
            Self::ClientCertificate => {
                &["tenant_id", "client_id", "certificate_file", "authority", "scope", "ca_file"]
            }
            Self::AzureCli => &["tenant_id", "scope"],
        }
    }
}

impl AuthConfig {
    /// Where the password is. `None` only where the configuration was not validated, or is not of a login.
    pub fn password_source(&self) -> Option<SecretSource> {
        secret::source(self.password_file.as_deref(), self.password.as_ref())
    }

    /// Where the application's secret is. `None` only where the configuration was not validated, or has none.
    pub fn client_secret_source(&self) -> Option<SecretSource> {
        secret::source(self.client_secret_file.as_deref(), self.client_secret.as_ref())
    }

    /// What its fields are called.
    pub fn fields(&self) -> &'static AuthFields {
        match self.table {
            AuthTable::Sql => &OF_SQL,
            AuthTable::Nats => &OF_NATS,
        }
    }

    /// Who gives tokens out.
    pub fn authority(&self) -> &str {
        self.authority.as_deref().unwrap_or(PUBLIC_AUTHORITY)
    }

    /// What a token is asked for with.
    pub fn scope(&self) -> &str {
        self.scope.as_deref().unwrap_or(AZURE_SQL_SCOPE)
    }

    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.password_file,
            &mut self.token_file,
            &mut self.client_secret_file,
            &mut self.certificate_file,
            &mut self.ca_file,
        ]
        .into_iter()
        .flatten()
    }

    /// Takes what is not written from the variables that Azure's own libraries look at.
    pub(super) fn fill_from(&mut self, environment: Environment<'_>) {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        if self.method == AuthMethod::WorkloadIdentity {
            self.tenant_id = self.tenant_id.take().or_else(|| variable("AZURE_TENANT_ID"));
            self.client_id = self.client_id.take().or_else(|| variable("AZURE_CLIENT_ID"));
            let file = || variable("AZURE_FEDERATED_TOKEN_FILE").map(PathBuf::from);
            self.token_file = self.token_file.take().or_else(file);
        }
        if self.method.fields().contains(&"authority") {
            self.authority = self.authority.take().or_else(|| variable("AZURE_AUTHORITY_HOST"));
        }
    }

    /// The fields that are written, by their names.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("user", self.user.is_some()),
            ("password_file", self.password_file.is_some()),
            ("password", self.password.is_some()),
            ("tenant_id", self.tenant_id.is_some()),
            ("client_id", self.client_id.is_some()),
            ("token_file", self.token_file.is_some()),
            ("client_secret_file", self.client_secret_file.is_some()),
            ("client_secret", self.client_secret.is_some()),
            ("certificate_file", self.certificate_file.is_some()),
            ("authority", self.authority.is_some()),
            ("scope", self.scope.is_some()),
            ("ca_file", self.ca_file.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_given)| is_given.then_some(name))
    }

    pub(super) fn validate(&self, checks: &mut Checks<'_>) {
        let (method, fields) = (self.method, self.method.fields());
        for name in self.given().filter(|name| !fields.contains(name)) {
            let message = format!("does not belong to method = \"{}\"", method.as_str());
            let hint = format!("its fields are {}", fields.join(", "));
            checks.refuse(Problem::new(name, message).with_hint(hint));
        }
        if self.table == AuthTable::Nats {
            if matches!(method, AuthMethod::SqlLogin | AuthMethod::AccessTokenFile) {
                let problem =
                    Problem::new("method", "asks nobody for a token").with_value(quote(method.as_str()));
                checks.refuse(problem.with_hint("a token in a file is `nats.token_file`"));
                return;
            }
            let hint = "write what the server's auth callout expects tokens to be for, as in \"api://nats/.default\"";
            if self.scope.is_none() {
                checks.refuse(Problem::new("scope", "is missing").with_hint(hint));
            }
        }
        match method {
            AuthMethod::SqlLogin => self.validate_login(checks),
            AuthMethod::AccessTokenFile => required(checks, "token_file", self.token_file.is_some(), None),
            AuthMethod::ManagedIdentity | AuthMethod::AzureCli => {}
            AuthMethod::WorkloadIdentity => {
                required(checks, "tenant_id", self.tenant_id.is_some(), Some("AZURE_TENANT_ID"));
                required(checks, "client_id", self.client_id.is_some(), Some("AZURE_CLIENT_ID"));
                let has_file = self.token_file.is_some();
                required(checks, "token_file", has_file, Some("AZURE_FEDERATED_TOKEN_FILE"));
            }
            AuthMethod::ClientSecret => {
                required(checks, "tenant_id", self.tenant_id.is_some(), None);
                required(checks, "client_id", self.client_id.is_some(), None);
                let (file, variable) = (self.client_secret_file.as_deref(), self.client_secret.as_ref());
                secret::check_source(checks, "client_secret", file, variable);
                if self.client_secret_source().is_none() {
                    let hint = "write `client_secret_file = \"…\"`, or `client_secret = \"${VARIABLE}\"`";
                    checks.refuse(Problem::new("client_secret_file", "is missing").with_hint(hint));
                }
            }
            AuthMethod::ClientCertificate => {
                required(checks, "tenant_id", self.tenant_id.is_some(), None);
                required(checks, "client_id", self.client_id.is_some(), None);
                required(checks, "certificate_file", self.certificate_file.is_some(), None);
            }
        }
        self.validate_texts(checks);
    }

    fn validate_login(&self, checks: &mut Checks<'_>) {
        if self.user.as_deref().unwrap_or_default().is_empty() {
            checks.refuse(Problem::new("user", "must name the login"));
        }
        secret::check_source(checks, "password", self.password_file.as_deref(), self.password.as_ref());
        if self.password_source().is_none() {
            checks.refuse(
                Problem::new("password_file", "is missing")
                    .with_hint("write `password_file = \"…\"`, or `password = \"${VARIABLE}\"`"),
            );
        }
    }

    /// What goes into a URL, and a URL that secrets are sent to.
    fn validate_texts(&self, checks: &mut Checks<'_>) {
        let is_id = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        };
        for (name, value) in [("tenant_id", &self.tenant_id), ("client_id", &self.client_id)] {
            if let Some(value) = value.as_deref().filter(|value| !is_id(value)) {
                let message = "must be an id of letters, digits, `-` and `.`";
                checks.refuse(Problem::new(name, message).with_value(quote(value)));
            }
        }
        if let Some(authority) = &self.authority {
            let host = authority.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
            let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
            if !host.is_some_and(is_host) {
                let message =
                    "must be `https://host` or `https://host:port`, without a path: secrets are sent there";
                checks.refuse(Problem::new("authority", message).with_value(quote(authority)));
            }
        }
        if let Some(scope) = &self.scope {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._:/".contains(c);
            if !(scope.ends_with("/.default") && scope.chars().all(is_allowed)) {
                let message = "must end with `/.default`, as in \"https://database.windows.net/.default\"";
                checks.refuse(Problem::new("scope", message).with_value(quote(scope)));
            }
        }
    }
}

fn required(checks: &mut Checks<'_>, name: &str, is_given: bool, variable: Option<&str>) {
    if !is_given {
        let problem = Problem::new(name, "is missing");
        checks.refuse(match variable {
            Some(variable) => problem.with_hint(format!("write it, or set {variable}")),
            None => problem,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, environment: Environment<'_>) -> Vec<String> {
        let mut auth: AuthConfig = toml::from_str(text).expect("it can be read");
        auth.fill_from(environment);
        let mut problems = Vec::new();
        auth.validate(&mut Checks::new("sql.auth", &mut problems));
        problems.iter().map(ToString::to_string).collect()
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn kubernetes(name: &str) -> Option<String> {
        match name {
            "AZURE_TENANT_ID" => Some("tenant".to_owned()),
            "AZURE_CLIENT_ID" => Some("client".to_owned()),
            "AZURE_FEDERATED_TOKEN_FILE" => Some("/var/run/token".to_owned()),
            "AZURE_AUTHORITY_HOST" => Some("https://login.microsoftonline.us/".to_owned()),
            _ => None,
        }
    }

    /// Each method with the least that it needs.
    const LEAST: [(&str, &str); 7] = [
        ("sql_login", "user = 'u'\npassword_file = 'p'"),
        ("access_token_file", "token_file = 't'"),
        ("managed_identity", ""),
        ("workload_identity", "tenant_id = 't'\nclient_id = 'c'\ntoken_file = 'f'"),
        ("client_secret", "tenant_id = 't'\nclient_id = 'c'\nclient_secret = '${S}'"),
        ("client_certificate", "tenant_id = 't'\nclient_id = 'c'\ncertificate_file = 'f'"),
        ("azure_cli", ""),
    ];

    #[test]
    fn each_method_takes_its_fields_and_refuses_those_of_others_by_name() {
        let others = [
            ("user", "user = 'x'"),
            ("password", "password = '${X}'"),
            ("tenant_id", "tenant_id = 'x'"),
            ("client_id", "client_id = 'x'"),
            ("token_file", "token_file = 'x'"),
            ("client_secret_file", "client_secret_file = 'x'"),
            ("certificate_file", "certificate_file = 'x'"),
            ("authority", "authority = 'https://x'"),
            ("scope", "scope = 'https://x/.default'"),
            ("ca_file", "ca_file = 'x'"),
        ];
        for (method, least) in LEAST {
            let text = format!("method = '{method}'\n{least}");
            assert_eq!(problems(&text, &nothing), Vec::<String>::new(), "{method}");
            let auth: AuthConfig = toml::from_str(&text).expect(method);
            assert_eq!(auth.method.as_str(), method);
            for (name, line) in others.iter().filter(|(name, _)| !least.contains(&format!("{name} = "))) {
                let found = problems(&format!("{text}\n{line}"), &nothing);
                let belongs = auth.method.fields().contains(name);
                let expected = format!("sql.auth.{name}: does not belong to method = \"{method}\"");
                assert_eq!(
                    found.iter().any(|problem| problem.starts_with(&expected)),
                    !belongs,
                    "{method} {name}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_method_needs_is_named_where_it_is_missing() {
        for (method, least) in LEAST.iter().filter(|(_, least)| !least.is_empty()) {
            for missing in least.lines() {
                let rest: Vec<&str> = least.lines().filter(|line| *line != missing).collect();
                let found = problems(&format!("method = '{method}'\n{}", rest.join("\n")), &nothing);
                let name = missing.split(" = ").next().expect("a name").trim_end_matches("_file");
                assert!(found.len() == 1 && found[0].contains(name), "{method} without {missing}: {found:?}");
            }
        }
    }

    #[test]
    fn a_workload_has_what_its_environment_says_and_what_is_written_goes_before() {
        assert_eq!(problems("method = 'workload_identity'", &nothing).len(), 3);
        assert_eq!(problems("method = 'workload_identity'", &kubernetes), Vec::<String>::new());
        let mut auth: AuthConfig =
            toml::from_str("method = 'workload_identity'\nclient_id = 'own'").expect("it can be read");
        auth.fill_from(&kubernetes);
        assert_eq!((auth.tenant_id.as_deref(), auth.client_id.as_deref()), (Some("tenant"), Some("own")));
        assert_eq!(auth.authority(), "https://login.microsoftonline.us/");
        // a method that does not ask an authority is not given one to be refused for
        assert_eq!(problems("method = 'managed_identity'", &kubernetes), Vec::<String>::new());
        assert_eq!(problems("method = 'azure_cli'", &kubernetes), Vec::<String>::new());
    }

    #[test]
    fn an_authority_without_encryption_and_texts_that_fit_no_url_are_refused() {
        let of = |line: &str| {
            let rest = "tenant_id = 't'\nclient_id = 'c'\nclient_secret = '${S}'";
            let line = format!("{line}\n");
            let name = line.split(" = ").next().expect("a name");
            let rest: Vec<&str> = rest.lines().filter(|own| !own.starts_with(&format!("{name} "))).collect();
            problems(&format!("method = 'client_secret'\n{line}{}", rest.join("\n")), &nothing)
        };
        for line in [
            "authority = 'http://localhost'",
            "authority = 'https://'",
            "authority = 'https://host/tenant'",
            "authority = 'https://u:canary@host'",
            "scope = 'https://database.windows.net'",
            "scope = 'a b/.default'",
            "tenant_id = '../x'",
            "client_id = ''",
        ] {
            let found = of(line);
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(!found[0].contains("canary"), "{found:?}");
        }
        for line in
            ["authority = 'https://127.0.0.1:8443/'", "scope = 'https://database.chinacloudapi.cn/.default'"]
        {
            assert_eq!(of(line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_secret_comes_from_one_place() {
        let text = "method = 'client_secret'\ntenant_id = 't'\nclient_id = 'c'\nclient_secret = '${S}'\nclient_secret_file = 'f'";
        assert_eq!(problems(text, &nothing).len(), 1);
        let written = "method = 'client_secret'\ntenant_id = 't'\nclient_id = 'c'\nclient_secret = 'canary'";
        assert!(toml::from_str::<AuthConfig>(written).is_err());
    }

    #[test]
    fn a_token_for_nats_is_asked_for_and_for_something() {
        let problems = |text: &str| {
            let mut auth: AuthConfig = toml::from_str(text).expect("it can be read");
            auth.table = AuthTable::Nats;
            let mut problems = Vec::new();
            auth.validate(&mut Checks::new("nats.token_from", &mut problems));
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        for (method, least) in LEAST {
            let found = problems(&format!("method = '{method}'\n{least}"));
            let expected = match method {
                "sql_login" | "access_token_file" => "asks nobody for a token",
                _ => "nats.token_from.scope: is missing",
            };
            assert!(found.starts_with("nats.token_from.") && found.contains(expected), "{method}: {found}");
        }
        assert_eq!(problems("method = 'managed_identity'\nscope = 'api://nats/.default'"), "");
    }
}
