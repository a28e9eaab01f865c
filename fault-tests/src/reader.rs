//! Reads what came of the events, with clients that are not the sink's: the table over TDS, the dead letters from their
//! stream.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt;
use test_bench::sql_client::SqlClient;

use crate::events::serial_of;
use crate::mode::Mode;
use crate::truth::Row;

/// Without another letter for so long none is coming.
const LETTER: Duration = Duration::from_secs(10);

/// All rows of a mode's table.
pub(crate) async fn rows(client: &mut SqlClient, mode: &Mode) -> anyhow::Result<Vec<Row>> {
    let sql = format!("SELECT row_id, event_id, serial, stream_sequence FROM {}", mode.table());
    let rows = client.numbers(&sql).await?;
    rows.into_iter()
        .map(|row| match row.as_slice() {
            [row_id, event_id, serial, sequence] => Ok(Row {
                row_id: *row_id,
                event_id: u64::try_from(*event_id)?,
                serial: u64::try_from(*serial)?,
                sequence: u64::try_from(*sequence)?,
            }),
            _ => bail!("a row of {} columns", row.len()),
        })
        .collect()
}

/// A dead letter, as far as it is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) pipeline: String,
    /// Of the event in it; 0 where its payload does not tell.
    pub(crate) serial: u64,
    pub(crate) message: jetstream::Message,
}

impl Letter {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }
}

/// All letters of a dead-letter stream.
pub(crate) async fn letters(jetstream: &jetstream::Context, stream: &str) -> anyhow::Result<Vec<Letter>> {
    let mut stream = jetstream.get_stream(stream).await.with_context(|| format!("asking for {stream}"))?;
    let count = stream.info().await.context("asking for the dead letters")?.state.messages;
    let consumer = stream.create_consumer(OrderedConfig::default()).await.context("reading dead letters")?;
    let mut messages = consumer.messages().await.context("reading dead letters")?;
    let mut letters = Vec::new();
    while (letters.len() as u64) < count {
        let next =
            tokio::time::timeout(LETTER, messages.next()).await.context("waiting for a dead letter")?;
        let message = next.context("the dead letters ended")?.context("reading a dead letter")?;
        let serial = serial_of(&message.payload).unwrap_or_default();
        let mut letter = Letter { pipeline: String::new(), serial, message };
        letter.pipeline = letter.header("Dead-Letter-Pipeline").unwrap_or_default().to_owned();
        letters.push(letter);
    }
    Ok(letters)
}
