//! Decoding on trial, in a process of its own: what it does to that process it does not do to the worker.
//!
//! The worker starts its own executable with [`COMMAND`], writes schema and events to its stdin, and looks at how it ends.
//! The other process gets no environment, writes nothing, and is told no secret.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use encoding_rs::Encoding;
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::process::Command;

use super::plan::Plan;
use super::{hooks, internal};
use crate::delivery::{Event, Headers};
use crate::error::Result;
use crate::schema::Schema;

/// The command by which the executable decodes on trial.
pub const COMMAND: &str = "try-decode";

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was decoded, into rows and rejects.
    Survived,
    /// The decoder panicked.
    Panicked,
    /// A signal ended the process: memory that is not its own, an abort, a stack that is used up.
    Killed(i32),
    /// The decoder did not come to an end in time.
    Overdue,
    /// Somebody ended the process from outside: it tells nothing.
    Interrupted,
}

impl Ended {
    /// A stable name for a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Survived => "survived",
            Ended::Panicked => "panicked",
            Ended::Killed(_) => "killed",
            Ended::Overdue => "overdue",
            Ended::Interrupted => "interrupted",
        }
    }

    /// What it tells of an event that was decoded alone; `None` where it tells nothing bad.
    pub(super) fn verdict(self) -> Option<&'static str> {
        Some(match self {
            Ended::Survived | Ended::Interrupted => return None,
            Ended::Panicked => "decoding it alone panicked",
            Ended::Killed(6) => "decoding it alone ended the process by SIGABRT",
            Ended::Killed(7) => "decoding it alone ended the process by SIGBUS",
            Ended::Killed(9) => "decoding it alone ended the process by SIGKILL, as when memory is used up",
            Ended::Killed(11) => "decoding it alone ended the process by SIGSEGV",
            Ended::Killed(_) => "decoding it alone ended the process by a signal",
            Ended::Overdue => "decoding it alone did not come to an end in time",
        })
    }

    fn of(status: ExitStatus) -> Result<Self> {
        use std::os::unix::process::ExitStatusExt as _;
        /// What Rust's runtime exits with after a panic that nobody caught.
        const PANICKED: i32 = 101;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(Ended::Survived),
            (Some(PANICKED), _) => Ok(Ended::Panicked),
            (Some(code), _) if code == i32::from(OVERDUE) => Ok(Ended::Overdue),
            // SIGHUP, SIGINT, SIGQUIT, SIGTERM: those of a terminal, or of a supervisor that stops all processes
            (_, Some(1 | 2 | 3 | 15)) => Ok(Ended::Interrupted),
            (_, Some(signal)) => Ok(Ended::Killed(signal)),
            (code, None) => {
                Err(internal(format!("a process to decode on trial ended with exit code {code:?}")))
            }
        }
    }
}

/// Exit codes of the other process, besides 0 and that of a panic.
const OVERDUE: u8 = 3;
const NOT_UNDERSTOOD: u8 = 4;

/// Longer than this a trial takes only where it would for ever: a batch is decoded at hundreds of thousands of events a second.
fn time_limit() -> Duration {
    if hooks::are_on() { Duration::from_secs(1) } else { Duration::from_secs(10) }
}

/// Decodes `events` in a process of its own, and tells how that ended.
///
/// # Errors
///
/// The process cannot be started, or does not understand what it is told: neither is an event's fault.
pub(super) async fn run(schema: &Schema, events: &[Event]) -> Result<Ended> {
    let mut command = Command::new(own_executable()?);
    // No secret of the environment, and no signal of the terminal, reaches it.
    command.arg(COMMAND).env_clear().process_group(0).kill_on_drop(true);
    hooks::pass_on(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|error| internal(format!("cannot start a process to decode on trial: {error}")))?;
    let told = child.stdin.take();
    let trial = async {
        if let Some(told) = told {
            // A process that is gone does not read to the end, and how it ended is asked next.
            let _ = tell(BufWriter::new(told), schema, events).await;
        }
        child.wait().await
    };
    // The process ends itself when it is overdue, so that it does so without the worker too.
    match tokio::time::timeout(2 * time_limit(), trial).await {
        Ok(Ok(status)) => Ended::of(status),
        Ok(Err(error)) => Err(internal(format!("cannot wait for a process that decodes on trial: {error}"))),
        Err(_elapsed) => Ok(Ended::Overdue),
    }
}

fn own_executable() -> Result<PathBuf> {
    // By this name it is found also after the file was replaced by a newer version.
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe().map_err(|error| internal(format!("cannot find the own executable: {error}")))
}

/// Writes the schema, the code pages of its columns, and the events: numbers as 8 bytes from the lowest on, texts and bytes
/// behind their length.
async fn tell(
    mut out: impl tokio::io::AsyncWrite + Unpin,
    schema: &Schema,
    events: &[Event],
) -> io::Result<()> {
    block(&mut out, schema.text().as_bytes()).await?;
    for column in schema.columns() {
        block(&mut out, column.text_encoding.name().as_bytes()).await?;
    }
    for event in events {
        // more to come
        out.write_u8(1).await?;
        block(&mut out, event.subject.as_bytes()).await?;
        block(&mut out, &event.payload).await?;
        let headers = event.headers.as_ref().map(Headers::as_lines);
        out.write_u8(u8::from(headers.is_some())).await?;
        block(&mut out, headers.unwrap_or_default().as_bytes()).await?;
        out.write_u64_le(event.stream_sequence).await?;
        out.write_u64_le(event.deliveries).await?;
        out.write_i64_le(event.published_at).await?;
        out.write_i64_le(event.received_at).await?;
    }
    out.write_u8(0).await?;
    out.shutdown().await
}

async fn block(out: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    out.write_u64_le(bytes.len() as u64).await?;
    out.write_all(bytes).await
}

/// The other side: decodes what stdin holds, on a thread like the worker's own. A panic and a signal end the process by
/// themselves.
pub fn main() -> ExitCode {
    let Ok((schema, events)) = understand(io::BufReader::new(io::stdin().lock())) else {
        return ExitCode::from(NOT_UNDERSTOOD);
    };
    let (ended, is_ended) = mpsc::channel();
    let decoding = std::thread::spawn(move || {
        // Rows that do not fit together are no matter of a single event: the worker meets them itself.
        let _ = Plan::new(&schema).decode(&events);
        let _ = ended.send(());
    });
    match is_ended.recv_timeout(time_limit()) {
        Err(mpsc::RecvTimeoutError::Timeout) => ExitCode::from(OVERDUE),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match decoding.join() {
            Ok(()) => ExitCode::SUCCESS,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn understand(mut input: impl Read) -> io::Result<(Schema, Vec<Event>)> {
    let schema = Schema::parse(&text(&mut input)?).map_err(invalid)?;
    let mut encodings = Vec::new();
    for _ in schema.columns() {
        encodings.push(Encoding::for_label(text(&mut input)?.as_bytes()));
    }
    let encoding = |name: &crate::sql_name::Identifier| {
        let index = schema.columns().iter().position(|column| column.name == *name)?;
        *encodings.get(index)?
    };
    let schema = schema.with_text_encodings(|column| encoding(&column.name)).map_err(invalid)?;
    let mut events = Vec::new();
    while number::<1>(&mut input)? != [0] {
        let subject = Subject::from(text(&mut input)?);
        let payload = Bytes::from(bytes(&mut input)?);
        let has_headers = number::<1>(&mut input)? != [0];
        let lines = text(&mut input)?;
        events.push(Event {
            subject,
            payload,
            headers: has_headers.then(|| Headers::from_lines(lines)),
            stream_sequence: u64::from_le_bytes(number(&mut input)?),
            deliveries: u64::from_le_bytes(number(&mut input)?),
            published_at: i64::from_le_bytes(number(&mut input)?),
            received_at: i64::from_le_bytes(number(&mut input)?),
        });
    }
    Ok((schema, events))
}

fn number<const BYTES: usize>(input: &mut impl Read) -> io::Result<[u8; BYTES]> {
    let mut number = [0; BYTES];
    input.read_exact(&mut number)?;
    Ok(number)
}

fn bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = u64::from_le_bytes(number(input)?);
    let mut bytes = Vec::new();
    match input.take(length).read_to_end(&mut bytes)? as u64 == length {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn text(input: &mut impl Read) -> io::Result<String> {
    String::from_utf8(bytes(input)?).map_err(invalid)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    #[tokio::test]
    async fn what_is_told_is_understood() {
        let text = "format = \"json\"\n[[column]]\nname = \"a\"\ntype = \"varchar(8)\"\n\
                    [[column]]\nname = \"b\"\ntype = \"int\"\n";
        let schema = Schema::parse(text)
            .and_then(|schema| schema.with_text_encodings(|_| Some(encoding_rs::WINDOWS_1251)))
            .expect("a schema");
        let mut headers = HeaderMap::new();
        headers.insert("Name", "value");
        let event = |headers: Option<Headers>| Event {
            subject: Subject::from_static("a.b"),
            payload: Bytes::from_static(b"{\"a\":\"\xd0\xb4\"}\xff"),
            headers,
            stream_sequence: 1,
            deliveries: 2,
            published_at: -3,
            received_at: 4,
        };
        let events = [event(None), event(Some(Headers::from(&headers)))];
        let mut told = Vec::new();
        tell(&mut told, &schema, &events).await.expect("it is written");
        let (understood, others) = understand(told.as_slice()).expect("it is understood");
        assert_eq!(understood.columns()[0].text_encoding, encoding_rs::WINDOWS_1251);
        assert_eq!(understood.columns().len(), 2);
        let parts = |event: &Event| {
            (
                event.subject.clone(),
                event.payload.clone(),
                event.headers.clone(),
                [event.stream_sequence, event.deliveries],
                [event.published_at, event.received_at],
            )
        };
        assert_eq!(
            events.iter().map(parts).collect::<Vec<_>>(),
            others.iter().map(parts).collect::<Vec<_>>()
        );
        for length in 0..told.len() {
            assert!(understand(&told[..length]).is_err(), "{length} of {} bytes", told.len());
        }
    }

    #[test]
    fn a_signal_from_outside_blames_nothing() {
        use std::os::unix::process::ExitStatusExt as _;
        for (raw, expected) in [
            (0, Ended::Survived),
            (101 << 8, Ended::Panicked),
            (3 << 8, Ended::Overdue),
            (6, Ended::Killed(6)),
            (9, Ended::Killed(9)),
            (15, Ended::Interrupted),
            (2, Ended::Interrupted),
        ] {
            let ended = Ended::of(ExitStatus::from_raw(raw)).expect("it tells something");
            assert_eq!(ended, expected, "{raw}");
            assert_eq!(ended.verdict().is_none(), matches!(ended, Ended::Survived | Ended::Interrupted));
        }
        assert!(Ended::of(ExitStatus::from_raw(4 << 8)).is_err());
    }
}
