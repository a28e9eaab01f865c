//! Why a login got no answer, in words for whoever has to mend it.

use std::io;

use tiberius::error::Error as Sql;

use crate::error::{Error, ErrorKind, Phase};
use crate::identity::distrust::Distrust;

/// How tiberius begins what it says of a certificate, and how it goes on: with the functions of its own that would help, which
/// a configuration does not have.
const REJECTED: &str = "the server's certificate was rejected during the TLS handshake: ";
const ADVICE: &str = " To connect anyway you can";
/// What it says where the server's PRELOGIN offers less than was asked for.
const DECLINED: &str = "Server does not allow the requested encryption level";
/// What rustls says of an answer that is not TLS.
const NOT_TLS: &str = "received corrupt message";

/// An error of a connection that was to be made, to the server of the configuration or one that it has named.
pub(super) fn failed(error: Sql, host: &str, port: u16) -> Error {
    match of(&error) {
        Some(words) => {
            Error::new(Phase::Connect, ErrorKind::SqlTls, format!("no tls with {host},{port}: {words}"))
        }
        None => Error::sql(Phase::Connect, error),
    }
}

fn of(error: &Sql) -> Option<String> {
    let distrust = match error {
        Sql::Tls(text) => {
            let why = text.strip_prefix(REJECTED)?;
            let why = why.split(ADVICE).next().unwrap_or(why);
            match Distrust::of_text(why) {
                Some(distrust) => distrust,
                None => return Some(format!("the server's certificate is refused: {why} See sql.ca_file")),
            }
        }
        Sql::Protocol(text) if text.starts_with(DECLINED) => Distrust::Plaintext,
        Sql::Io { kind: io::ErrorKind::InvalidData, message } if message.starts_with(NOT_TLS) => {
            Distrust::Plaintext
        }
        _ => return None,
    };
    Some(distrust.words("sql.ca_file", "sql.server"))
}
