//! Where a secret is read from. A configuration never holds one.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::problem::{Checks, Problem};

/// The fields that hold a reference to a secret. Their values are not shown, not even when they are refused.
pub(super) const SECRET_FIELDS: [&str; 3] = ["password", "token", "client_secret"];

/// What comes before a secret in connection strings, without blanks and in small letters.
const SECRET_MARKS: [&str; 8] =
    ["password=", "passwd=", "pass=", "pwd=", "token=", "secret=", "key=", "sharedaccess"];

/// Whether somebody may have put a secret into `text`, wherever it stands: a URL with a user (`nats://user:…@host`), or
/// a connection string (`Server=…;Password=…`).
pub(super) fn may_hold_secret(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    plain.contains('@') || SECRET_MARKS.iter().any(|mark| plain.contains(mark))
}

/// Where a secret is to be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The content of a file.
    File(PathBuf),
    /// The value of an environment variable.
    Environment(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Environment(variable) => write!(formatter, "environment variable {variable}"),
        }
    }
}

/// `"${VARIABLE}"` and nothing else: the name of the environment variable that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct EnvironmentReference(String);

impl EnvironmentReference {
    /// The variable's name.
    pub fn variable(&self) -> &str {
        &self.0
    }
}

/// Whether `name` can be that of an environment variable.
pub(super) fn is_variable_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

impl TryFrom<String> for EnvironmentReference {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
        match name.filter(|name| is_variable_name(name)) {
            Some(name) => Ok(Self(name.to_owned())),
            None => Err(LITERAL_REFUSED),
        }
    }
}

/// What is said instead of what serde would say, which would show the secret.
pub(super) const LITERAL_REFUSED: &str =
    "a secret comes from a file or from the environment: must be `\"${VARIABLE}\"` and nothing else";

/// The source of the secret that is named by `{name}_file` or by `{name}`.
pub(super) fn source(
    file: Option<&Path>,
    environment: Option<&EnvironmentReference>,
) -> Option<SecretSource> {
    match (file, environment) {
        (Some(path), _) => Some(SecretSource::File(path.to_owned())),
        (None, Some(reference)) => Some(SecretSource::Environment(reference.variable().to_owned())),
        (None, None) => None,
    }
}

/// Refuses both ways at once.
pub(super) fn check_source(
    checks: &mut Checks<'_>,
    name: &str,
    file: Option<&Path>,
    environment: Option<&EnvironmentReference>,
) {
    if file.is_some() && environment.is_some() {
        checks.refuse(Problem::new(name, format!("and `{name}_file` exclude each other")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_secret_is_noticed() {
        for text in [
            "nats://sink:canary@nats:4222",
            "canary@nats",
            "Server=tcp:x,1433;User=u;Password=canary",
            "Server=x;PWD = canary",
            "Endpoint=sb://x/;SharedAccessKeyName=n",
            "https://x/?sv=1&Token=canary",
            "ClientSecret=canary",
            "AccountKey=canary",
        ] {
            assert!(may_hold_secret(text), "{text}");
        }
        for text in ["", "nats://127.0.0.1:4222", "tcp:x,1433", "dbo.password", "token", "events.secret.>"] {
            assert!(!may_hold_secret(text), "{text}");
        }
    }
}
