//! The only place that acknowledges, and the only one that gives back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Request, Subject};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::delivery::{Claim, Durable, Ledger};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;

const ACK: Bytes = Bytes::from_static(b"+ACK");
const NAK: Bytes = Bytes::from_static(b"-NAK");
/// How long a confirmation may take before the acknowledgements are sent again.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Settles one pipeline's deliveries.
#[derive(Debug, Clone)]
pub struct Settler {
    client: Client,
    pipeline: Arc<str>,
    shutdown: Shutdown,
}

impl Settler {
    /// A settler on this connection.
    pub fn new(client: Client, pipeline: Arc<str>, shutdown: Shutdown) -> Self {
        Self { client, pipeline, shutdown }
    }

    /// Acknowledges what is durable, and waits until the server has confirmed it.
    ///
    /// The server works through one connection's acknowledgements in their order, so the confirmation of the last one
    /// stands for all. While none comes they are sent again: an acknowledgement may be repeated, it may not be lost.
    ///
    /// # Errors
    ///
    /// The process was told to give up before the server confirmed. The events will be delivered again.
    pub async fn acknowledge(&self, claims: Vec<Claim>, evidence: &Durable) -> Result<()> {
        let replies: Vec<Subject> = claims.into_iter().filter_map(|claim| claim.durable(evidence)).collect();
        let Some((last, others)) = replies.split_last() else { return Ok(()) };
        let mut backoff = Backoff::transient();
        loop {
            let connects = self.connects();
            let sent = async {
                for reply in others {
                    self.client.publish(reply.clone(), ACK).await.map_err(|error| error.to_string())?;
                }
                let request = Request::new().payload(ACK).timeout(Some(CONFIRM_TIMEOUT));
                self.client.send_request(last.clone(), request).await.map_err(|error| error.to_string())?;
                // What was written to a connection that broke in between is lost, confirmed or not.
                if self.connects() == connects { Ok(()) } else { Err("reconnected in between".to_owned()) }
            };
            let failure = tokio::select! {
                sent = sent => match sent {
                    Ok(()) => {
                        metrics::acks_confirmed(&self.pipeline, replies.len());
                        return Ok(());
                    }
                    Err(failure) => failure,
                },
                () = self.shutdown.forced() => return Err(self.gave_up(replies.len())),
            };
            let wait = backoff.next_wait();
            tracing::warn!(
                pipeline = %self.pipeline, events = replies.len(), attempt = backoff.attempts(), error = %failure,
                "acknowledgements are not confirmed, sending them again"
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.forced() => return Err(self.gave_up(replies.len())),
            }
        }
    }

    /// How often this client has connected.
    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    fn gave_up(&self, events: usize) -> Error {
        Error::new(
            Phase::Settle,
            ErrorKind::NatsUnavailable,
            format!("stopped before the acknowledgements of {events} committed events were confirmed"),
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

    /// Gives back what was dropped without a verdict so far.
    async fn give_back(&self, ledger: &Ledger) {
        let returned = ledger.take_returned();
        let count = returned.len();
        if count == 0 {
            return;
        }
        for reply in returned {
            if let Err(error) = self.client.publish(reply, NAK).await {
                tracing::warn!(pipeline = %self.pipeline, %error, "could not give events back before their ack_wait");
                return;
            }
        }
        metrics::given_back(&self.pipeline, count);
        tracing::info!(pipeline = %self.pipeline, events = count, "gave events back for redelivery");
    }
}
