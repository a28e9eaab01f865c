//! What can go wrong, and in which phase of an event's way. What happens next is decided by `disposition.rs`.

use std::fmt;
use std::io;

/// Where on an event's way something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Connecting to NATS, or looking at a stream or consumer.
    Nats,
    /// Asking JetStream for events.
    Pull,
    /// Turning payloads into rows.
    Decode,
    /// Connecting and logging in to the database.
    Connect,
    /// Reading the shape of the target table, or creating it.
    Target,
    /// Sending rows: from `BEGIN TRANSACTION` until the server has counted them.
    Load,
    /// From the moment on when `COMMIT` may have reached the server.
    Commit,
    /// Reading how far a partition is read, or who reads it.
    Progress,
    /// Publishing to the dead-letter stream.
    DeadLetter,
    /// Telling JetStream what became of a delivery.
    Settle,
    /// Announcing a commit.
    Receipt,
}

impl Phase {
    /// A stable name for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Nats => "nats",
            Phase::Pull => "pull",
            Phase::Decode => "decode",
            Phase::Connect => "connect",
            Phase::Target => "target",
            Phase::Load => "load",
            Phase::Commit => "commit",
            Phase::Progress => "progress",
            Phase::DeadLetter => "dead_letter",
            Phase::Settle => "settle",
            Phase::Receipt => "receipt",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// The database server answered with an error of this number.
    Server {
        /// The number, as in Microsoft's list of events and errors.
        number: u32,
        /// The severity; from 20 on the server ends the connection.
        class: u8,
    },
    /// The connection to the database could not be made, or broke.
    SqlIo(io::ErrorKind),
    /// TLS with the database could not be agreed on.
    SqlTls,
    /// The database server answered something that the protocol does not allow here.
    SqlProtocol,
    /// The client refused a row before any of it was sent.
    BulkInput,
    /// The server counted another number of rows than were sent.
    RowCount {
        /// Rows that were sent.
        sent: u64,
        /// Rows that the server counted.
        counted: u64,
    },
    /// The server refuses more rows with one number than bad events would explain.
    RowsRefused {
        /// The number, where the server refused them and not the client.
        number: Option<u32>,
    },
    /// The target table does not fit the schema, or cannot be loaded in bulk.
    TableShape,
    /// A secret could not be read.
    Credential,
    /// Who gives access tokens out is not reachable, or says to come again.
    CredentialUnavailable,
    /// NATS is not reachable, or did not answer in time.
    NatsUnavailable,
    /// NATS refused the credentials or the permission.
    NatsRefused,
    /// A stream or consumer is missing, or is set up so that a promise could not be kept.
    StreamSetup,
    /// The decoder panicked, or does not come to an end: a defect of this program that some event brings out.
    DecoderFailed,
    /// Another defect of this program: a task died.
    Internal,
}

/// An error with its phase. Neither `Display` nor `Debug` shows a row's values: text that the server wrote is
/// kept apart, and is to be masked before anybody sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    /// Where it happened.
    pub phase: Phase,
    /// What happened.
    pub kind: ErrorKind,
    message: String,
    server_text: Option<String>,
}

/// A result of this program's own operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a message of our own, which must hold no value of any row.
    pub fn new(phase: Phase, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { phase, kind, message: message.into(), server_text: None }
    }

    /// What tiberius reported in `phase`.
    pub fn sql(phase: Phase, error: tiberius::error::Error) -> Self {
        use tiberius::error::Error as Sql;
        let message = error_text(&error);
        match error {
            Sql::Server(token) => Self {
                phase,
                kind: ErrorKind::Server { number: token.code(), class: token.class() },
                message,
                server_text: Some(token.message().to_owned()),
            },
            Sql::Io { kind, .. } => Self::new(phase, ErrorKind::SqlIo(kind), message),
            Sql::Tls(_) => Self::new(phase, ErrorKind::SqlTls, message),
            Sql::BulkInput(_) => Self::new(phase, ErrorKind::BulkInput, message),
            _ => Self::new(phase, ErrorKind::SqlProtocol, message),
        }
    }

    /// So many rows `of` so many were refused because of `why` that it is not the rows.
    pub fn rows_refused(why: Option<&Error>, refused: usize, of: usize) -> Self {
        let said = why.map(ToString::to_string).unwrap_or_default();
        Self {
            phase: Phase::Load,
            kind: ErrorKind::RowsRefused { number: why.and_then(Error::number) },
            message: format!(
                "{refused} of {of} rows are refused alike, for which the events are not to blame: {said}"
            ),
            server_text: why.and_then(|why| why.server_text.clone()),
        }
    }

    /// A deadline of our own that passed while the database was waited for.
    pub fn sql_timeout(phase: Phase, what: &str) -> Self {
        Self::new(phase, ErrorKind::SqlIo(io::ErrorKind::TimedOut), format!("timed out: {what}"))
    }

    /// Whether rows, or the commit of some, had no answer in time.
    pub fn is_late(&self) -> bool {
        matches!(self.kind, ErrorKind::SqlIo(io::ErrorKind::TimedOut))
            && matches!(self.phase, Phase::Load | Phase::Commit)
    }

    /// The database server's error number, if it was the server that said no.
    pub fn number(&self) -> Option<u32> {
        match self.kind {
            ErrorKind::Server { number, .. } => Some(number),
            ErrorKind::RowsRefused { number } => number,
            _ => None,
        }
    }

    /// What the database server wrote. It may quote values of a row.
    pub fn server_text(&self) -> Option<&str> {
        self.server_text.as_deref()
    }
}

/// A text for an error of tiberius that quotes nothing which the server or a row brought.
fn error_text(error: &tiberius::error::Error) -> String {
    use tiberius::error::Error as Sql;
    match error {
        Sql::Server(token) => {
            format!("server error {} (class {}, state {})", token.code(), token.class(), token.state())
        }
        Sql::Io { kind, message } => format!("connection: {kind}: {message}"),
        Sql::Tls(message) => format!("tls: {message}"),
        Sql::Routing { host, port } => format!("redirected to {host},{port} too often"),
        // tiberius puts the offending value into these texts.
        Sql::BulkInput(_) => "the client refused a value of a row as unfit for its column".to_owned(),
        Sql::Conversion(_) | Sql::Encoding(_) | Sql::Utf8 | Sql::Utf16 | Sql::ParseInt(_) => {
            "a value in the server's answer could not be read".to_owned()
        }
        Sql::Protocol(message) => format!("protocol: {message}"),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.phase, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("phase", &self.phase)
            .field("kind", &self.kind)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}
