//! Stored messages, as the stream itself tells them: byte for byte, also those with headers that no client reads, or reads only in
//! part.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, ErrorKind, Phase, Result};

/// A stored message.
#[derive(Debug, Deserialize)]
pub struct Stored {
    /// Its position in the stream.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// The subject that it is stored under.
    pub subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    /// When the stream stored it.
    #[serde(with = "time::serde::rfc3339")]
    pub time: time::OffsetDateTime,
}

#[derive(Debug, Deserialize)]
struct Answer {
    message: Stored,
}

impl Stored {
    /// Its headers, from the first line on; empty where it has none.
    ///
    /// # Errors
    ///
    /// The answer cannot be read.
    pub fn headers(&self) -> Result<Vec<u8>> {
        decode(&self.hdrs)
    }

    /// Its payload.
    ///
    /// # Errors
    ///
    /// The answer cannot be read.
    pub fn payload(&self) -> Result<Vec<u8>> {
        decode(&self.data)
    }
}

/// What is stored at `sequence`; `None` where nothing is.
///
/// # Errors
///
/// The stream cannot be asked.
pub async fn at(jetstream: &Context, stream: &str, sequence: u64) -> Result<Option<Stored>> {
    get(jetstream, stream, sequence, &json!({ "seq": sequence })).await
}

/// The first message from `sequence` on that `filter` matches; `None` where there is none.
///
/// # Errors
///
/// The stream cannot be asked.
pub async fn next(jetstream: &Context, stream: &str, sequence: u64, filter: &str) -> Result<Option<Stored>> {
    get(jetstream, stream, sequence, &json!({ "seq": sequence, "next_by_subj": filter })).await
}

async fn get(jetstream: &Context, stream: &str, sequence: u64, request: &Value) -> Result<Option<Stored>> {
    let failed = |what: String| {
        Error::new(
            Phase::Pull,
            ErrorKind::NatsUnavailable,
            format!("reading position {sequence} of the stream: {what}"),
        )
    };
    let subject = format!("STREAM.MSG.GET.{stream}");
    match jetstream.request(subject, request).await.map_err(|error| failed(error.to_string()))? {
        Response::Ok(Answer { message }) => Ok(Some(message)),
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(failed(error.to_string())),
    }
}

fn decode(base64: &str) -> Result<Vec<u8>> {
    STANDARD.decode(base64).map_err(|_| {
        Error::new(Phase::Pull, ErrorKind::NatsUnavailable, "the stream answers with what is no base64")
    })
}
