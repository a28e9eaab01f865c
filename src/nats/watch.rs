//! Looking after the consumer: whether it is still the one that events were delivered by, and how far behind it is.
//!
//! An acknowledgement names nothing but a sequence. Where a stream or a consumer is deleted and made anew, those of the
//! old one would settle events of the new one that nobody has written: so what is held of the old one is never
//! acknowledged once the change is seen.

mod removed;
mod stall;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

pub use removed::count_before_start;

use self::removed::Removed;
use self::stall::{Sight, Stall};

use crate::metrics;
use crate::nats::unreadable::Unreadable;
use crate::status::PipelineStatus;

/// How often it is looked at, and how long an answer may take.
const LOOK: Duration = Duration::from_secs(5);

/// For so many `ack_wait` after a reconnect, events are suspected to have broken the connection: each is delivered again
/// after one, so that it is met within this time.
const SUSPECT_ACK_WAITS: u32 = 4;

/// Looks after one pipeline's consumer.
#[derive(Debug)]
pub struct Watch {
    /// The consumer as it was found.
    pub consumer: PullConsumer,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without an answer the pipeline is not ready.
    pub retry_window: Duration,
    /// How long an event may be held before it is delivered again.
    pub ack_wait: Duration,
    /// Sets aside what breaks the connection.
    pub unreadable: Unreadable,
    /// Told when the pulls are to be begun anew.
    pub stalled: Arc<Notify>,
}

impl Watch {
    /// Resolves when the consumer is gone, or another one stands in its place; and says which.
    pub async fn until_gone(self) -> &'static str {
        let created = self.consumer.cached_info().created;
        let mut unanswered = None;
        let mut connects = None;
        // From the start on: what breaks the connection may have done so for long.
        let mut suspect_until = Instant::now() + SUSPECT_ACK_WAITS * self.ack_wait;
        let mut removed = None;
        let mut paused = None;
        let mut stall = Stall::default();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let first_sequence = self.first_sequence().await;
            match tokio::time::timeout(LOOK, self.consumer.get_info()).await {
                Ok(Ok(info)) if info.created != created => return "made anew",
                Ok(Ok(info)) => {
                    metrics::consumer(&self.pipeline, info.num_pending, info.num_ack_pending);
                    unanswered = None;
                    if let Some(first) = first_sequence {
                        let removed = removed.get_or_insert_with(|| Removed::from_now(first));
                        removed::report(&self.pipeline, removed.count(first, info.delivered.stream_sequence));
                    }
                    paused = info.paused.then(|| {
                        paused.take().unwrap_or_else(|| {
                            self.status.complain_after(Duration::ZERO, "the consumer is paused: resume it")
                        })
                    });
                    if stall.look(self.sight(&info)) {
                        self.stalled.notify_one();
                    }
                    let now = self.unreadable.client.statistics().connects.load(Ordering::Relaxed);
                    if connects.replace(now).is_some_and(|before| before != now) {
                        suspect_until = Instant::now() + SUSPECT_ACK_WAITS * self.ack_wait;
                    }
                    if info.num_ack_pending > 0 && Instant::now() < suspect_until {
                        self.look_for_unreadable(&info).await;
                    }
                }
                Ok(Err(error)) if is_missing(&error) => return "deleted",
                Ok(Err(_)) | Err(_) => {
                    let complain = || {
                        self.status.complain_after(self.retry_window, "nats does not answer for the consumer")
                    };
                    unanswered.get_or_insert_with(complain);
                }
            }
        }
    }

    fn sight(&self, info: &Info) -> Sight {
        let most = usize::try_from(info.config.max_ack_pending).ok().filter(|most| *most > 0);
        Sight {
            pending: info.num_pending,
            may_deliver: !info.paused && most.is_none_or(|most| info.num_ack_pending < most),
            is_pulling: self.unreadable.ledger.is_pulling(),
            received: self.unreadable.ledger.received(),
        }
    }

    /// The sequence that the stream begins at. To be asked for before the consumer, so that nothing seems to be removed
    /// unseen that was delivered in between.
    async fn first_sequence(&self) -> Option<u64> {
        let asking = async {
            let jetstream = jetstream::new(self.unreadable.client.clone());
            let stream = jetstream.get_stream_no_info(&self.consumer.cached_info().stream_name).await.ok()?;
            Some(stream.get_info().await.ok()?.state.first_sequence)
        };
        // What cannot be told now is told at the next look.
        tokio::time::timeout(LOOK, asking).await.ok().flatten()
    }

    async fn look_for_unreadable(&self, info: &Info) {
        // Not without end: whether the consumer is gone has to be seen meanwhile.
        let failure = match tokio::time::timeout(LOOK, self.unreadable.set_aside(info)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "timed out".to_owned(),
        };
        tracing::warn!(
            pipeline = %self.pipeline, error = %failure,
            "cannot look for events that break the connection with nats, trying again"
        );
    }
}

fn is_missing(error: &ConsumerInfoError) -> bool {
    match error.kind() {
        ConsumerInfoErrorKind::NotFound => true,
        ConsumerInfoErrorKind::JetStream(refusal) => {
            matches!(refusal.error_code(), ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND)
        }
        _ => false,
    }
}
