//! The only place that acknowledges, and the only one that gives back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Request};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Claim, Durable, Ledger, Unconfirmed};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::is_connected;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::status::PipelineStatus;

const ACK: Bytes = Bytes::from_static(b"+ACK");
const NAK: Bytes = Bytes::from_static(b"-NAK");
/// How long a confirmation may take before the acknowledgements are sent again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long giving back may take once a stop is forced.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Settles one pipeline's deliveries.
#[derive(Debug, Clone)]
pub struct Settler {
    /// The connection.
    pub client: Client,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without a confirmation the pipeline is not ready.
    pub retry_window: Duration,
    /// When to give up.
    pub shutdown: Shutdown,
}

impl Settler {
    /// Acknowledges what is durable, and waits until the server has confirmed it.
    ///
    /// The server works through one connection's acknowledgements in their order, so the confirmation of the last one
    /// stands for all. While none comes they are sent again: an acknowledgement may be repeated, it may not be lost.
    /// What is delivered once more in the meantime is acknowledged by its last delivery.
    ///
    /// # Errors
    ///
    /// The process was told to give up before the server confirmed: the events will be delivered again. Or the consumer
    /// is gone, and nobody waits for an acknowledgement any more.
    pub async fn acknowledge(&self, claims: Vec<Claim>, evidence: &Durable) -> Result<()> {
        let unconfirmed = Unconfirmed::new(claims, evidence);
        if unconfirmed.is_empty() {
            return Ok(());
        }
        let _complaint =
            self.status.complain_after(self.retry_window, "nats does not confirm acknowledgements");
        let mut backoff = Backoff::transient();
        loop {
            let failure = tokio::select! {
                sent = self.send(&unconfirmed) => match sent {
                    Ok(()) => {
                        metrics::acks_confirmed(&self.pipeline, unconfirmed.len());
                        return Ok(());
                    }
                    Err(failure) => failure,
                },
                () = self.shutdown.forced() => return Err(self.gave_up(&unconfirmed, "the process stops")),
            };
            if unconfirmed.is_void() {
                return Err(self.gave_up(&unconfirmed, "the consumer is gone"));
            }
            let wait = backoff.next_wait();
            tracing::warn!(
                pipeline = %self.pipeline, events = unconfirmed.len(), attempt = backoff.attempts(), error = %failure,
                "acknowledgements are not confirmed, sending them again"
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.forced() => return Err(self.gave_up(&unconfirmed, "the process stops")),
            }
        }
    }

    /// Sends all acknowledgements once, and waits for the answer to the last one.
    async fn send(&self, unconfirmed: &Unconfirmed) -> Result<(), String> {
        let connects = self.connects();
        let mut replies = unconfirmed.replies();
        let Some(last) = replies.pop() else { return Err("there is nobody to acknowledge to".to_owned()) };
        for reply in replies {
            self.client.publish(reply, ACK).await.map_err(|error| error.to_string())?;
        }
        let request = Request::new().payload(ACK).timeout(Some(CONFIRM_TIMEOUT));
        self.client.send_request(last, request).await.map_err(|error| error.to_string())?;
        // What was written to a connection that broke in between is lost, confirmed or not.
        if self.connects() == connects { Ok(()) } else { Err("reconnected in between".to_owned()) }
    }

    /// How often this client has connected.
    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn gave_up(&self, unconfirmed: &Unconfirmed, why: &str) -> Error {
        Error::new(
            Phase::Settle,
            ErrorKind::NatsUnavailable,
            format!("the acknowledgements of {} durable events were not confirmed: {why}", unconfirmed.len()),
        )
    }

    /// Gives back what was dropped without a verdict, as it comes, until `ended`; then what is left.
    ///
    /// At a stop it waits for `intake_ended`: what is given back while a pull is open at the server comes back by it, and
    /// would then reach nobody.
    pub async fn give_back_returned(
        self,
        ledger: Arc<Ledger>,
        intake_ended: CancellationToken,
        ended: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = ledger.returned() => {}
                () = ended.cancelled() => return self.give_back(&ledger).await,
            }
            if self.shutdown.is_stopping() {
                intake_ended.cancelled().await;
            }
            self.give_back(&ledger).await;
        }
    }

    /// Gives back what was dropped without a verdict so far. With NATS away that waits, but not beyond a forced stop.
    async fn give_back(&self, ledger: &Ledger) {
        let patience = async {
            self.shutdown.forced().await;
            if is_connected(&self.client) {
                tokio::time::sleep(LAST_WORD).await;
            }
        };
        // Durable for long, and confirmed once: where this is lost too the event only comes again.
        for reply in ledger.take_again() {
            if !is_connected(&self.client) || self.client.publish(reply, ACK).await.is_err() {
                break;
            }
        }
        let returned = ledger.take_returned();
        let count = returned.len();
        if count == 0 {
            return;
        }
        let giving_back = async {
            for reply in returned {
                self.client.publish(reply, NAK).await.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let given_back = tokio::select! {
            biased;
            given_back = giving_back => given_back,
            () = patience => Err("nats does not take them".to_owned()),
        };
        match given_back {
            Ok(()) => {
                metrics::given_back(&self.pipeline, count);
                tracing::info!(pipeline = %self.pipeline, events = count, "gave events back for redelivery");
            }
            Err(error) => {
                tracing::warn!(
                    pipeline = %self.pipeline, events = count, %error,
                    "could not give events back, they are delivered again after their ack_wait"
                );
            }
        }
    }
}
