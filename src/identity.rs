//! Secrets: read from where the configuration says, and never shown.
//!
//! For the database no password is kept between two connections but the one that it took last, so one that was exchanged is found
//! by the next one; an access token is kept as long as it is good.
//! For NATS `nats` holds what is shown to a server, and reads it anew at every connect.

mod azure;
pub(crate) mod distrust;
pub mod files;
mod lifetime;
mod minted;
pub mod nats;
mod source;
mod sql;
pub(crate) mod tls;
pub mod token;
mod token_file;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

pub use self::lifetime::Lifetime;
use crate::config::{AuthConfig, SecretSource};

pub use sql::SqlIdentity;
pub use token::Stamp;
use token::{TokenError, TokenErrorKind};

/// The largest file that is read as a secret. A `.creds` file has about 1 KiB.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The largest file of certificates. All authorities of a system have about 256 KiB.
const MAX_CERTIFICATES_BYTES: u64 = 4 * 1024 * 1024;

/// A secret. `Debug` and `Display` do not show it, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The secret itself: for the library that logs in, and for nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// As whom to log in to the database.
#[derive(Debug, Clone)]
pub enum SqlCredential {
    /// A login with a password.
    SqlLogin {
        /// The login.
        user: String,
        /// Its password.
        password: Secret,
    },
    /// An access token of Microsoft Entra ID.
    Token(Secret),
}

impl SqlCredential {
    /// Whether it says the same.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::SqlLogin { user, password },
                Self::SqlLogin { user: other_user, password: other_password },
            ) => user == other_user && password.expose() == other_password.expose(),
            (Self::Token(token), Self::Token(other)) => token.expose() == other.expose(),
            (Self::SqlLogin { .. }, Self::Token(_)) | (Self::Token(_), Self::SqlLogin { .. }) => false,
        }
    }
}

/// A secret that cannot be had. Names the field and the source, never a content.
#[derive(Debug)]
pub struct IdentityError {
    /// The configuration's field.
    pub field: &'static str,
    /// Where it says that the secret is: a file or an environment variable.
    pub origin: String,
    /// What is wrong with that.
    pub kind: IdentityErrorKind,
}

/// What is wrong with a secret's source.
#[derive(Debug)]
pub enum IdentityErrorKind {
    /// The file cannot be read.
    Read(io::Error),
    /// The environment variable is not set.
    Unset,
    /// There is nothing in it.
    Empty,
    /// It is not UTF-8, or far larger than any secret.
    NotASecret,
    /// It is far larger than any file of certificates.
    TooLarge,
    /// It is not what the field is for: a seed that is none, a `.creds` file without its parts, a token that is cut off.
    Malformed,
    /// It is no PEM file of a certificate and its RSA key.
    NoCertificate,
    /// It is a key, and not that of the certificate that this field names.
    Mismatched(&'static str),
    /// Nobody gives it out.
    NoToken(TokenError),
    /// The configuration names no source.
    Unnamed,
}

impl IdentityError {
    /// Whether nobody has to mend anything.
    pub fn passes_by_itself(&self) -> bool {
        matches!(&self.kind, IdentityErrorKind::NoToken(error) if error.kind == TokenErrorKind::Unavailable)
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: ", self.field, self.origin)?;
        match &self.kind {
            IdentityErrorKind::Read(error) => write!(formatter, "cannot be read: {error}"),
            IdentityErrorKind::Unset => formatter.write_str("is not set, or not UTF-8"),
            IdentityErrorKind::Empty => formatter.write_str("is empty"),
            IdentityErrorKind::NotASecret => {
                write!(formatter, "is not UTF-8 text of at most {MAX_SECRET_BYTES} bytes")
            }
            IdentityErrorKind::TooLarge => {
                write!(formatter, "has more than {MAX_CERTIFICATES_BYTES} bytes")
            }
            IdentityErrorKind::Malformed => formatter.write_str("is not what the field is for"),
            IdentityErrorKind::NoCertificate => {
                formatter.write_str("is not a PEM file with a certificate and its RSA key")
            }
            IdentityErrorKind::Mismatched(other) => write!(formatter, "is not the key of {other}"),
            IdentityErrorKind::NoToken(error) => write!(formatter, "no token: {error}"),
            IdentityErrorKind::Unnamed => formatter.write_str("names neither a file nor a variable"),
        }
    }
}

impl std::error::Error for IdentityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            IdentityErrorKind::Read(error) => Some(error),
            IdentityErrorKind::NoToken(error) => Some(error),
            _ => None,
        }
    }
}

/// The login and its password, read anew.
fn sql_credential(auth: &AuthConfig) -> Result<SqlCredential, IdentityError> {
    let (Some(user), Some(source)) = (&auth.user, auth.password_source()) else {
        let origin = "user and password".to_owned();
        return Err(IdentityError { field: "sql.auth", origin, kind: IdentityErrorKind::Unnamed });
    };
    let password = read("sql.auth.password_file", "sql.auth.password", &source)?;
    Ok(SqlCredential::SqlLogin { user: user.clone(), password })
}

fn malformed(field: &'static str, path: &Path) -> IdentityError {
    let origin = SecretSource::File(path.to_owned()).to_string();
    IdentityError { field, origin, kind: IdentityErrorKind::Malformed }
}

/// When a file was written last, for secrets that do not say when they were issued.
fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn read(
    file_field: &'static str,
    variable_field: &'static str,
    source: &SecretSource,
) -> Result<Secret, IdentityError> {
    match source {
        SecretSource::File(path) => read_file(file_field, path),
        SecretSource::Environment(name) => {
            let failed = |kind| IdentityError { field: variable_field, origin: source.to_string(), kind };
            match std::env::var(name) {
                Ok(text) if text.is_empty() => Err(failed(IdentityErrorKind::Empty)),
                Ok(text) => Ok(Secret::new(text)),
                Err(_unset_or_not_text) => Err(failed(IdentityErrorKind::Unset)),
            }
        }
    }
}

/// The content without the line break at its end: editors and `echo` put one there.
fn read_file(field: &'static str, path: &Path) -> Result<Secret, IdentityError> {
    let failed =
        |kind| IdentityError { field, origin: SecretSource::File(path.to_owned()).to_string(), kind };
    let size = std::fs::metadata(path).map_err(|error| failed(IdentityErrorKind::Read(error)))?.len();
    if size > MAX_SECRET_BYTES {
        return Err(failed(IdentityErrorKind::NotASecret));
    }
    let mut text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => failed(IdentityErrorKind::NotASecret),
        _ => failed(IdentityErrorKind::Read(error)),
    })?;
    warn_if_exposed(field, path);
    let kept = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    text.truncate(kept.len());
    if text.is_empty() {
        return Err(failed(IdentityErrorKind::Empty));
    }
    Ok(Secret::new(text))
}

/// The content of a file of certificates, which everybody may read.
fn read_certificates(field: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed =
        |kind| IdentityError { field, origin: SecretSource::File(path.to_owned()).to_string(), kind };
    let size = std::fs::metadata(path).map_err(|error| failed(IdentityErrorKind::Read(error)))?.len();
    if size > MAX_CERTIFICATES_BYTES {
        return Err(failed(IdentityErrorKind::TooLarge));
    }
    std::fs::read(path).map_err(|error| failed(IdentityErrorKind::Read(error)))
}

/// A warning and not an error: Kubernetes mounts secrets readable for all, inside of a container of one user.
/// Said once for each file, as it is read for every connection.
fn warn_if_exposed(field: &'static str, path: &Path) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if let Some(mode) = exposed_mode(path)
        && WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
    {
        tracing::warn!(
            field,
            path = %path.display(),
            mode = %format_args!("{mode:o}"),
            "the file of a secret can be read by others: chmod 600"
        );
    }
}

/// The permissions of a file that others than its owner may read.
fn exposed_mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o044 != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const CANARY: &str = "canary";

    fn file(content: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("it can be written");
        file
    }

    #[test]
    fn one_line_break_at_the_end_is_no_part_of_a_secret() {
        for (content, expected) in [
            ("canary", "canary"),
            ("canary\n", "canary"),
            ("canary\r\n", "canary"),
            ("canary\n\n", "canary\n"),
            (" canary ", " canary "),
        ] {
            let file = file(content);
            let secret = read_file("sql.auth.password_file", file.path()).expect("it is a secret");
            assert_eq!(secret.expose(), expected);
        }
    }

    #[test]
    fn a_secret_is_read_anew_each_time() {
        // GIVEN a login whose password is in a file
        let file = file("first");
        let auth: AuthConfig = toml::from_str(&format!(
            "method = 'sql_login'\nuser = 'sink'\npassword_file = '{}'",
            file.path().display()
        ))
        .expect("it is a configuration");
        let password = || match sql_credential(&auth).expect("it can be read") {
            SqlCredential::SqlLogin { password, .. } => password.expose().to_owned(),
            SqlCredential::Token(_) => panic!("a password is no token"),
        };
        assert_eq!(password(), "first");
        // WHEN the file changes
        std::fs::write(file.path(), "second").expect("it can be written");
        // THEN the next one is the new one
        assert_eq!(password(), "second");
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_without_showing_it() {
        let field = "nats.token_file";
        for (content, expected) in [
            ("".into(), "is empty"),
            ("\n".into(), "is empty"),
            (b"canary\xff".to_vec(), "is not UTF-8"),
            (CANARY.repeat(20_000).into_bytes(), "is not UTF-8 text of at most"),
        ] as [(Vec<u8>, &str); 4]
        {
            let file = file(content);
            let error = read_file(field, file.path()).expect_err(expected).to_string();
            assert!(
                error.starts_with(&format!("{field}: file {}: {expected}", file.path().display())),
                "{error}"
            );
            assert!(!error.contains(CANARY), "{error}");
        }
    }

    #[test]
    fn a_source_that_is_missing_is_named() {
        let source = SecretSource::File(PathBuf::from("/does/not/exist"));
        let error = read("nats.token_file", "nats.token", &source).expect_err("there is none");
        assert!(
            matches!(&error.kind, IdentityErrorKind::Read(cause) if cause.kind() == io::ErrorKind::NotFound)
        );
        assert!(
            error.to_string().starts_with("nats.token_file: file /does/not/exist: cannot be read"),
            "{error}"
        );
        let source = SecretSource::Environment("NATS_SQL_SINK_TEST_NEVER_SET".to_owned());
        let error = read("nats.token_file", "nats.token", &source).expect_err("it is not set");
        assert_eq!(
            error.to_string(),
            "nats.token: environment variable NATS_SQL_SINK_TEST_NEVER_SET: is not set, or not UTF-8"
        );
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        let file = file(CANARY);
        for (mode, expected) in [(0o600, None), (0o400, None), (0o640, Some(0o640)), (0o604, Some(0o604))] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("it is ours");
            assert_eq!(exposed_mode(file.path()), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let credential = SqlCredential::SqlLogin { user: "sink".to_owned(), password: Secret::new(CANARY) };
        assert_eq!(format!("{credential:?}"), "SqlLogin { user: \"sink\", password: Secret(…) }");
    }
}
