//! Pulling: no more than the byte budget covers, and never a message that nobody has room for.
//!
//! Each [`Puller`] has one pull open at the server at a time, on a subscription of its own, so that what arrives can
//! be held against what was reserved for it. Two of them per pipeline hide each other's round trip.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::budget::{Budget, Permit};
use crate::delivery::{Arrival, Delivery, Event, Headers, Ledger};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::charge::{Held, Left, charge, covered};
use crate::nats::gate::Gate;
use crate::nats::reply::Position;
use crate::schema::Schema;
use crate::shutdown::Shutdown;
use crate::status::{Complaint, PipelineStatus};

/// How long the server keeps a pull open. Long enough that an idle pipeline asks seldom, short enough that a budget
/// which other pipelines need is not reserved for nothing.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// And where a pause is announced, which waits for its end.
const SHORT_PULL_EXPIRES: Duration = Duration::from_secs(1);
/// The server says that it is still there after this long without a message.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which a pull is given up: one heartbeat was missed for certain.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// At a stop, after this long without a message nothing more is on its way.
const QUIET: Duration = Duration::from_millis(500);
/// The most that taking leave may take.
const PATIENCE_AT_A_STOP: Duration = Duration::from_secs(3);
/// Messages that are handed on together, where as many are there.
pub(super) const CHUNK_MESSAGES: usize = 512;
/// What a first pull assumes of the size of a message.
pub(super) const ASSUMED_WIRE_BYTES: usize = 512;

/// How long a pull is open, at `most`, and after how long without a message the server says that it is still there: it takes no
/// more than half of the former.
pub(super) fn lasting(is_short: bool, most: Duration) -> (Duration, Duration) {
    let expires = if is_short { SHORT_PULL_EXPIRES } else { PULL_EXPIRES }.min(most);
    (expires, IDLE_HEARTBEAT.min(expires / 3))
}

/// How a pull ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All it asked for came, or its time is over: ask again.
    Served,
    /// The next message is larger than the pull allows.
    TooLarge,
    /// Whether the server still knows of it is uncertain: ask again on a new subscription.
    Lost(&'static str),
    /// A stop was asked for, or nobody takes what is pulled any more, with so many messages of the pull outstanding.
    Stopped(usize),
}

/// Pulls for one pipeline.
#[derive(Debug)]
pub struct Puller {
    /// The connection.
    pub client: Client,
    /// The durable consumer.
    pub consumer: PullConsumer,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// Decides what an event is charged for.
    pub schema: Arc<Schema>,
    /// The process' byte budget.
    pub budget: Budget,
    /// Most bytes of the budget to reserve for one pull.
    pub share: usize,
    /// How much is held at most.
    pub held: Held,
    /// What is held.
    pub ledger: Arc<Ledger>,
    /// Whether to pull at all.
    pub gate: Gate,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without an answer to a pull the pipeline is not ready.
    pub retry_window: Duration,
    /// Where deliveries go.
    pub out: mpsc::Sender<Vec<Delivery>>,
    /// When to stop.
    pub shutdown: Shutdown,
}

/// What became of a message.
#[derive(Debug)]
enum Arrived {
    New(Delivery),
    /// Its event is held already.
    Repeated,
    /// It is none of this pull's: it stays unsettled, and JetStream delivers it again.
    Unexpected,
}

/// What a pull asks for, and what was reserved for it.
#[derive(Debug)]
struct Reserved {
    permit: Permit,
    messages: usize,
    bytes: usize,
}

impl Puller {
    /// Pulls until a stop, or until the consumer or its stream is gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StreamSetup`] when the server says that the consumer is gone or cannot be pulled from, or when an
    /// event is larger than the whole budget.
    pub async fn run(self) -> Result<()> {
        let mut average = ASSUMED_WIRE_BYTES;
        let mut largest = 4 * ASSUMED_WIRE_BYTES;
        let mut unanswered = None;
        loop {
            let inbox = self.client.new_inbox();
            // While the connection is away the client may not take this.
            let subscribed = tokio::select! {
                biased;
                () = self.shutdown.stopping() => return Ok(()),
                subscribed = self.client.subscribe(format!("{inbox}.*")) => subscribed,
            };
            let mut subscription = subscribed.map_err(|error| {
                Error::new(
                    Phase::Pull,
                    ErrorKind::NatsUnavailable,
                    format!("subscribing to the inbox: {error}"),
                )
            })?;
            // Each pull has a subject of its own below the inbox: a status is sent there, so that the one which ends a pull
            // is not taken for the end of the next.
            for number in 0_u64.. {
                let pull = Subject::from(format!("{inbox}.{number}"));
                let Some(reserved) = self.reserve(average, largest).await else {
                    return self.leave(subscription, &pull, 0).await;
                };
                let whole_budget = reserved.permit.bytes() == self.budget.capacity();
                let at_the_limit = reserved.bytes == self.limits().1;
                match self.pull(&mut subscription, &pull, reserved, &mut average, &mut unanswered).await? {
                    Ended::Served => largest = largest.min(4 * average),
                    Ended::TooLarge if whole_budget => {
                        return Err(Error::new(
                            Phase::Pull,
                            ErrorKind::StreamSetup,
                            "the next event is larger than `memory` allows to hold: raise `memory`",
                        ));
                    }
                    Ended::TooLarge if at_the_limit => {
                        return Err(Error::new(
                            Phase::Pull,
                            ErrorKind::StreamSetup,
                            "the next event is larger than the consumer lets a pull ask for: raise its max_bytes",
                        ));
                    }
                    Ended::TooLarge => largest = (2 * largest).max(self.client.max_payload()),
                    Ended::Lost(reason) => {
                        let text = || format!("pulls are not answered: {}", reason.replace('_', " "));
                        unanswered
                            .get_or_insert_with(|| self.status.complain_after(self.retry_window, text()));
                        metrics::pull_restarted(&self.pipeline, reason);
                        tracing::warn!(pipeline = %self.pipeline, reason, "a pull is lost, asking again");
                        break;
                    }
                    Ended::Stopped(missing) => return self.leave(subscription, &pull, missing).await,
                }
            }
            // Without interest the server ends what may still be open of the lost pull.
            drop(subscription);
            if !self.shutdown.sleep(Duration::from_millis(200)).await {
                return Ok(());
            }
        }
    }

    /// Reserves for the next pull; `None` at a stop.
    async fn reserve(&self, average: usize, largest: usize) -> Option<Reserved> {
        let least = charge(&self.schema, largest);
        let permit = tokio::select! {
            biased;
            () = self.shutdown.stopping() => return None,
            permit = async {
                self.gate.opened().await;
                let most = self.share.min(self.held.pull(average)).max(least);
                self.budget.reserve_within(least, most, || self.held.within(average, most)).await
            } => permit,
        };
        let (messages, bytes) = covered(&self.schema, permit.bytes(), average);
        let (most_messages, most_bytes) = self.limits();
        Some(Reserved { permit, messages: messages.min(most_messages), bytes: bytes.min(most_bytes) })
    }

    /// The longest that the consumer lets a pull be open.
    fn max_expires(&self) -> Duration {
        match self.consumer.cached_info().config.max_expires {
            Duration::ZERO => Duration::MAX,
            limit => limit,
        }
    }

    /// Most messages and bytes that the consumer lets a pull ask for.
    fn limits(&self) -> (usize, usize) {
        let config = &self.consumer.cached_info().config;
        let limit = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        (limit(config.max_batch), limit(config.max_bytes))
    }

    /// One pull: asks, and hands on what comes.
    async fn pull(
        &self,
        subscription: &mut Subscriber,
        pull: &Subject,
        reserved: Reserved,
        average: &mut usize,
        unanswered: &mut Option<Complaint>,
    ) -> Result<Ended> {
        let Reserved { mut permit, messages, bytes } = reserved;
        let entered = tokio::select! {
            biased;
            () = self.shutdown.stopping() => return Ok(Ended::Stopped(0)),
            entered = self.gate.enter() => entered,
        };
        let (expires, idle_heartbeat) = lasting(entered.is_short, self.max_expires());
        let request = BatchConfig {
            batch: messages,
            expires: Some(expires),
            max_bytes: bytes,
            idle_heartbeat,
            ..BatchConfig::default()
        };
        metrics::pulled(&self.pipeline);
        let _open = self.ledger.begin_pull();
        let asked = tokio::select! {
            biased;
            () = self.shutdown.stopping() => return Ok(Ended::Stopped(0)),
            asked = self.consumer.request_batch(request, pull.clone()) => asked,
        };
        if asked.is_err() {
            return Ok(Ended::Lost("request_failed"));
        }

        let mut left = Left { messages, bytes };
        while !left.is_nothing() {
            let message = tokio::select! {
                biased;
                () = self.shutdown.stopping() => return Ok(Ended::Stopped(left.messages)),
                message = tokio::time::timeout(SILENCE, subscription.next()) => message,
            };
            let mut next = match message {
                Err(_silence) => return Ok(Ended::Lost("missed_heartbeat")),
                Ok(None) => return Ok(Ended::Lost("subscription_closed")),
                Ok(Some(message)) => Some(message),
            };
            *unanswered = None;
            let received_at = now();
            let mut chunk = Vec::new();
            let mut repeated = 0;
            let mut ended = None;
            while let Some(message) = next.take() {
                // A stored message may have a status of its own: what has a position is a delivery.
                let position = message.reply.as_deref().and_then(Position::parse);
                if let Some(status) = message.status.filter(|_| position.is_none()) {
                    if message.subject == *pull {
                        ended = ended_by(status, message.description.as_deref())?;
                    }
                } else {
                    let length = message.length;
                    match self.deliver(message, position, received_at, &mut permit, average) {
                        Arrived::New(delivery) => {
                            chunk.push(delivery);
                            left.take(length);
                        }
                        Arrived::Repeated => {
                            repeated += 1;
                            left.take(length);
                        }
                        Arrived::Unexpected => ended = Some(Ended::Lost("unexpected_message")),
                    }
                }
                if ended.is_none() && !left.is_nothing() && chunk.len() < CHUNK_MESSAGES {
                    next = subscription.next().now_or_never().flatten();
                }
            }
            if repeated > 0 {
                metrics::repeated(&self.pipeline, repeated);
            }
            if !chunk.is_empty() {
                metrics::received(&self.pipeline, chunk.iter().map(|delivery| delivery.event.deliveries));
                if self.out.send(chunk).await.is_err() {
                    return Ok(Ended::Stopped(left.messages));
                }
            }
            match ended {
                // The server says so whenever the bytes run out. Only a pull that brought nothing was too small.
                Some(Ended::TooLarge) if left.messages < messages => return Ok(Ended::Served),
                Some(ended) => return Ok(ended),
                None => {}
            }
        }
        Ok(Ended::Served)
    }

    /// Makes a delivery of a message, with its part of the pull's permit.
    fn deliver(
        &self,
        message: Message,
        position: Option<Position>,
        received_at: i64,
        permit: &mut Permit,
        average: &mut usize,
    ) -> Arrived {
        let (Some(reply), Some(position)) = (message.reply, position) else { return Arrived::Unexpected };
        let event = Event {
            subject: message.subject,
            payload: super::payload::kept(message.payload),
            headers: message.headers.as_ref().map(Headers::from),
            stream_sequence: position.stream_sequence,
            deliveries: position.deliveries,
            published_at: position.stored_at,
            received_at,
        };
        let wire_bytes = event.wire_bytes();
        let Some(claim) = self.ledger.claim(self.arrival(&position), reply) else {
            return Arrived::Repeated;
        };
        // Not enough left: the claim is dropped, and the delivery given back.
        let Some(permit) = permit.split(charge(&self.schema, wire_bytes)) else { return Arrived::Unexpected };
        *average = (*average * 63 + wire_bytes).div_ceil(64);
        Arrived::New(Delivery { event, claim, permit })
    }

    /// Takes leave of the server, and drops what still arrives: dropped claims are given back at once, where
    /// otherwise the server would wait for `ack_wait`.
    ///
    /// An open pull cannot be called off. The server works on a busy one after the subscription is gone, and what it
    /// delivers then reaches nobody: so first the pull is received to its end, or until nothing has come for a while.
    async fn leave(&self, subscription: Subscriber, pull: &Subject, missing: usize) -> Result<()> {
        tokio::select! {
            left = self.receive_the_rest(subscription, pull, missing) => left,
            // What is not given back comes again after `ack_wait`.
            () = self.shutdown.forced() => Ok(()),
        }
    }

    async fn receive_the_rest(
        &self,
        mut subscription: Subscriber,
        pull: &Subject,
        mut missing: usize,
    ) -> Result<()> {
        // An idle pull that is seldom served would otherwise be held open until it expires.
        let deadline = Instant::now() + PATIENCE_AT_A_STOP;
        while missing > 0
            && Instant::now() < deadline
            && let Ok(Some(message)) = tokio::time::timeout(QUIET, subscription.next()).await
        {
            if message.status.is_none() {
                missing -= 1;
                self.give_back(message);
            } else if message.subject == *pull && message.status != Some(StatusCode::IDLE_HEARTBEAT) {
                break;
            }
        }
        // With NATS away neither the drain nor a message may ever come.
        if !matches!(tokio::time::timeout(PATIENCE_AT_A_STOP, subscription.drain()).await, Ok(Ok(()))) {
            return Ok(());
        }
        while let Ok(Some(message)) = tokio::time::timeout(PATIENCE_AT_A_STOP, subscription.next()).await {
            self.give_back(message);
        }
        Ok(())
    }

    fn arrival(&self, position: &Position) -> Arrival {
        Arrival {
            sequence: position.stream_sequence,
            deliveries: position.deliveries,
            stored_at: position.stored_at,
            connects: self.client.statistics().connects.load(Ordering::Relaxed),
        }
    }

    /// What is held already goes on as it was: only a new claim is dropped.
    fn give_back(&self, message: Message) {
        if let (None, Some(reply)) = (message.status, message.reply)
            && let Some(position) = Position::parse(&reply)
        {
            drop(self.ledger.claim(self.arrival(&position), reply));
        }
    }
}

/// Reads a status message. Source: NATS ADR-13, pull consumer requests.
pub(super) fn ended_by(status: StatusCode, description: Option<&str>) -> Result<Option<Ended>> {
    let description = description.unwrap_or_default();
    let is = |text: &str| description.eq_ignore_ascii_case(text);
    match status.as_u16() {
        100 => Ok(None),
        404 | 408 => Ok(Some(Ended::Served)),
        409 if is("Batch Completed") => Ok(Some(Ended::Served)),
        409 if is("Message Size Exceeds MaxBytes") => Ok(Some(Ended::TooLarge)),
        409 if is("Leadership Change") => Ok(Some(Ended::Lost("leadership_change"))),
        409 if is("Server Shutdown") => Ok(Some(Ended::Lost("server_shutdown"))),
        409 if is("Exceeded MaxWaiting") => Ok(Some(Ended::Lost("exceeded_max_waiting"))),
        409 => Err(Error::new(
            Phase::Pull,
            ErrorKind::StreamSetup,
            format!("the server ends the pull: {description}"),
        )),
        429 => Ok(Some(Ended::Lost("too_many_requests"))),
        503 => Err(Error::new(
            Phase::Pull,
            ErrorKind::NatsUnavailable,
            "nobody answers for the consumer: jetstream is starting, or the consumer is gone",
        )),
        other => Err(Error::new(
            Phase::Pull,
            ErrorKind::StreamSetup,
            format!("the server ends the pull with status {other} {description}"),
        )),
    }
}

pub(super) fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, description: &str) -> Result<Option<Ended>> {
        ended_by(StatusCode::from_u16(code).expect("a valid code"), Some(description))
    }

    #[test]
    fn a_heartbeat_does_not_end_a_pull() {
        assert_eq!(status(100, "Idle Heartbeat"), Ok(None));
    }

    #[test]
    fn an_expired_pull_is_asked_again() {
        assert_eq!(status(408, "Request Timeout"), Ok(Some(Ended::Served)));
    }

    #[test]
    fn an_event_above_the_reserved_bytes_asks_for_more() {
        assert_eq!(status(409, "Message Size Exceeds MaxBytes"), Ok(Some(Ended::TooLarge)));
    }

    #[test]
    fn a_deleted_consumer_is_an_error() {
        let error = status(409, "Consumer Deleted").expect_err("it is gone");
        assert_eq!(error.kind, ErrorKind::StreamSetup);
    }

    #[test]
    fn a_status_that_is_not_known_is_an_error() {
        assert_eq!(status(499, "Novelty").expect_err("unknown").kind, ErrorKind::StreamSetup);
    }
}
