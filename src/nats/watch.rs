//! Looking after the consumer: whether it is still the one that events were delivered by, and how far behind it is.
//!
//! An acknowledgement names nothing but a sequence. Where a stream or a consumer is deleted and made anew, those of the
//! old one would settle events of the new one that nobody has written: so what is held of the old one is never
//! acknowledged once the change is seen.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use async_nats::jetstream::context::{ConsumerInfoError, ConsumerInfoErrorKind};
use tokio::time::MissedTickBehavior;

use crate::metrics;
use crate::status::PipelineStatus;

/// How often it is looked at, and how long an answer may take.
const LOOK: Duration = Duration::from_secs(5);

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
}

impl Watch {
    /// Resolves when the consumer is gone, or another one stands in its place; and says which.
    pub async fn until_gone(self) -> &'static str {
        let created = self.consumer.cached_info().created;
        let mut unanswered = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match tokio::time::timeout(LOOK, self.consumer.get_info()).await {
                Ok(Ok(info)) if info.created != created => return "made anew",
                Ok(Ok(info)) => {
                    self.report(&info);
                    unanswered = None;
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

    fn report(&self, info: &Info) {
        metrics::consumer(&self.pipeline, info.num_pending, info.num_ack_pending);
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
