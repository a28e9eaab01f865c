//! Receipts: each commit is announced on NATS, from the outbox in the database. A row is there if and only if its commit
//! is; it is published until the stream confirms it, and removed then. So a receipt never comes before its commit, and
//! is never missing after it; it may come twice, with the same message id.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context};
use futures_util::TryStreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::mssql::connect::{Connector, Opened};
use crate::mssql::outbox::{self, Waiting};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::status::{Complaint, PipelineStatus};
use crate::telemetry;

/// Receipts that are read, published and removed together.
const MOST: usize = 256;
/// How often the outbox is looked at while nothing waits, or somebody else looks.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_AT_OTHERS: Duration = Duration::from_secs(1);
/// How long the statements of one look may take, and the confirmations of one.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same at a stop, when what is left is published by whoever comes next.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Announces one pipeline's commits, those of other workers too: one worker at a time does.
#[derive(Debug)]
pub struct Receipts {
    /// The connection.
    pub client: Client,
    /// Opens the session whose lock says who announces.
    pub connector: Connector,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// Where they are published.
    pub subject: String,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without success the pipeline is not ready.
    pub retry_window: Duration,
    /// When to give up.
    pub shutdown: Shutdown,
}

/// What a receipt says. `docs/receipts.md` is the reader's page.
#[derive(Debug, Serialize)]
struct Body<'a> {
    pipeline: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    table: &'a str,
    batch_id: &'a str,
    rows: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_stream_sequence: Option<i64>,
    first_stream_sequence: i64,
    last_stream_sequence: i64,
    first_published_at: String,
    last_published_at: String,
    committed_at: String,
    latency_ms: i64,
}

impl Receipts {
    /// Announces until `ended` resolves: nothing more is committed then, and what waits is announced once more.
    pub async fn run(self, ended: impl Future<Output = ()>) {
        let mut session = None;
        let mut complaint: Option<Complaint> = None;
        let mut backoff = Backoff::transient();
        tokio::pin!(ended);
        loop {
            let look = tokio::select! {
                look = within(PATIENCE, self.look(&mut session)) => look,
                () = self.shutdown.forced() => return,
            };
            let wait = match look {
                Ok(Look::Published(MOST)) => Duration::ZERO,
                Ok(look) => {
                    complaint = None;
                    backoff = Backoff::transient();
                    if matches!(look, Look::OfAnother) { LOOK_AT_OTHERS } else { LOOK }
                }
                Err(error) => {
                    session = None;
                    let text = format!("receipts cannot be published: {}", telemetry::describe(&error));
                    let wait = backoff.next_wait();
                    tracing::warn!(
                        pipeline = %self.pipeline, error = %text, wait_seconds = wait.as_secs_f64(), "trying again"
                    );
                    let complaint = complaint
                        .get_or_insert_with(|| self.status.complain_after(self.retry_window, text.clone()));
                    complaint.say(text);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = &mut ended => break,
                () = self.shutdown.forced() => return,
            }
        }
        let last = async {
            while let Look::Published(MOST) = self.look(&mut session).await? {}
            Ok(())
        };
        tokio::select! {
            last = within(LAST_WORD, last) => if let Err(error) = last {
                let text = telemetry::describe(&error);
                tracing::warn!(pipeline = %self.pipeline, error = %text, "the last receipts are published by another worker, or the next");
            },
            () = self.shutdown.forced() => {}
        }
    }

    /// A look at the outbox; the session is kept, with whether it has the lock.
    async fn look(&self, session: &mut Option<(Opened, bool)>) -> Result<Look> {
        // Its lock goes with it: whoever has the next one announces.
        if session.as_ref().is_none_or(|(opened, _)| !opened.is_current()) {
            *session = None;
            *session = Some((Box::pin(self.connector.open_lasting()).await?, false));
        }
        let Some((Opened { session: own, .. }, is_own)) = session else { return Ok(Look::OfAnother) };
        *is_own = *is_own || outbox::own(own, &self.pipeline).await?;
        if !*is_own {
            return Ok(Look::OfAnother);
        }
        let waiting = outbox::waiting(own, &self.pipeline, MOST).await?;
        metrics::receipts_waiting(&self.pipeline, waiting.len());
        if waiting.is_empty() {
            return Ok(Look::Published(0));
        }
        self.publish(&waiting).await?;
        let ids: Vec<i64> = waiting.iter().map(|receipt| receipt.id).collect();
        outbox::remove(own, &self.pipeline, &ids).await?;
        metrics::receipts_published(&self.pipeline, ids.len());
        metrics::receipts_waiting(&self.pipeline, 0);
        Ok(Look::Published(ids.len()))
    }

    async fn publish(&self, waiting: &[Waiting]) -> Result<()> {
        let jetstream = jetstream::new(self.client.clone());
        let unconfirmed = FuturesUnordered::new();
        for receipt in waiting {
            unconfirmed.push(self.publish_one(&jetstream, receipt));
        }
        unconfirmed.try_for_each(|()| async { Ok(()) }).await
    }

    async fn publish_one(&self, jetstream: &Context, receipt: &Waiting) -> Result<()> {
        let body = serde_json::to_vec(&self.body(receipt))
            .map_err(|error| Error::new(Phase::Receipt, ErrorKind::Internal, error.to_string()))?;
        let message = PublishMessage::build()
            .payload(body.into())
            .message_id(format!("{}:{}", self.pipeline, receipt.batch));
        let confirmed = match jetstream.send_publish(self.subject.clone(), message).await {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        confirmed.map(|_ack| ()).map_err(|error| self.not_confirmed(&error))
    }

    fn not_confirmed(&self, error: &PublishError) -> Error {
        let (kind, hint) = match error.kind() {
            PublishErrorKind::StreamNotFound => (ErrorKind::StreamSetup, ": no stream takes it, create one"),
            PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
                (ErrorKind::NatsUnavailable, "")
            }
            _ => (ErrorKind::StreamSetup, ""),
        };
        Error::new(Phase::Receipt, kind, format!("{:?} is not confirmed: {error}{hint}", self.subject))
    }

    fn body<'a>(&'a self, receipt: &'a Waiting) -> Body<'a> {
        let (first, last) = receipt.published_at;
        Body {
            pipeline: &self.pipeline,
            partition: receipt.partition,
            table: &receipt.table,
            batch_id: &receipt.batch,
            rows: receipt.rows,
            previous_stream_sequence: receipt.previous,
            first_stream_sequence: receipt.sequences.0,
            last_stream_sequence: receipt.sequences.1,
            first_published_at: rfc3339(i128::from(first)),
            last_published_at: rfc3339(i128::from(last)),
            committed_at: rfc3339(i128::from(receipt.committed_at) * 1_000),
            // of the event that has waited longest; two clocks, which may differ
            latency_ms: (receipt.committed_at / 1_000 - first / 1_000_000).max(0),
        }
    }
}

/// What came of a look at the outbox.
enum Look {
    /// So many were published.
    Published(usize),
    /// Another worker announces.
    OfAnother,
}

async fn within<T>(patience: Duration, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, step)
        .await
        .map_err(|_elapsed| Error::sql_timeout(Phase::Receipt, "announcing commits"))?
}

fn rfc3339(nanoseconds: i128) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| nanoseconds.to_string())
}
