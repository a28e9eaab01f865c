//! Reading a partition from a position on, in order and without a hole: for `exactly_once`, where the database keeps how
//! far it is read, and JetStream is told nothing.
//!
//! Each reader has a consumer of its own, for as long as it needs it: ephemeral, without acknowledgements. That consumer
//! numbers its deliveries, so a message that is lost on the way shows as a jump of the next one's number, and where none
//! follows, by the number that the server gives with its idle heartbeat. Then another consumer goes on behind what came.

mod look;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::look::{Place, heartbeat};
use crate::budget::{Budget, Permit};
use crate::config::OnGap;
use crate::delivery::{Claim, Delivery, Event, Headers};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::gate::Gate;
use crate::nats::intake::{
    ASSUMED_WIRE_BYTES, CHUNK_MESSAGES, Ended, IDLE_HEARTBEAT, PULL_EXPIRES, SILENCE, charge, covered,
    ended_by, now,
};
use crate::nats::reply::Position;
use crate::nats::unreadable::NextUnreadable;
use crate::schema::Schema;
use crate::status::{Complaint, PipelineStatus};
use crate::telemetry;

/// A consumer that nobody pulls from is removed by the server after this long: longer than a pull that waits, and than
/// the budget is waited for while the database is away, else it is made anew.
const CONSUMER_UNUSED: Duration = Duration::from_secs(300);
/// How long to wait before a lost pull, or a consumer that could not be made, is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What is known of a partition, from its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The last event that was handed on, or the position that reading began at.
    pub last: u64,
    /// Between it and this position of the stream there is none.
    pub until: u64,
}

/// Reads one partition.
#[derive(Debug)]
pub struct Reader {
    /// The connection.
    pub client: Client,
    /// The stream.
    pub stream: Stream,
    /// The stream's creation: nanoseconds since 1970-01-01 UTC. Of another one nothing is read.
    pub stream_created: i64,
    /// What the partition is.
    pub filters: Vec<String>,
    /// What its consumers' names begin with.
    pub name: String,
    /// The pipeline's name, for logs and metrics.
    pub pipeline: Arc<str>,
    /// The partition's number.
    pub partition: usize,
    /// What to do when the stream's limits removed events unseen.
    pub on_gap: OnGap,
    /// No event beyond this sequence is handed on.
    pub barrier: Option<u64>,
    /// Decides what an event is charged for.
    pub schema: Arc<Schema>,
    /// The process' byte budget.
    pub budget: Budget,
    /// Most bytes of the budget to reserve for one pull.
    pub share: usize,
    /// Whether to pull at all.
    pub gate: Gate,
    /// What the pipeline says of itself.
    pub status: PipelineStatus,
    /// After this long without an answer to a pull the pipeline is not ready.
    pub retry_window: Duration,
    /// Sets aside what breaks the connection.
    pub unreadable: NextUnreadable,
    /// Where deliveries go.
    pub out: mpsc::Sender<Vec<Delivery>>,
    /// Where it is told what was seen.
    pub seen: watch::Sender<Seen>,
    /// When to stop.
    pub stop: CancellationToken,
}

/// What became of a message.
enum Arrived {
    New(Delivery),
    /// It is beyond the barrier.
    Beyond,
    /// A delivery before it is missing, or it is none of this pull's.
    Unexpected(&'static str),
}

impl Reader {
    /// Reads what comes after `from`, until it is stopped or nobody takes it any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StreamSetup`] where it is not the stream any more that the position is of, where its limits removed
    /// events unseen and that is to stop the pipeline, or where an event is larger than the whole budget.
    pub async fn run(mut self, from: u64) -> Result<()> {
        let mut place = Place {
            last: from,
            until: from,
            delivered: 0,
            average: ASSUMED_WIRE_BYTES,
            largest: 4 * ASSUMED_WIRE_BYTES,
        };
        let mut unanswered: Option<Complaint> = None;
        let stop = self.stop.clone();
        let mut connects = self.connects();
        loop {
            let began = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                began = self.begin(&mut place) => began,
            };
            let reason = match began {
                Ok(consumer) => match self.pulls(&consumer, &mut place, &mut unanswered).await {
                    Ok(Some(reason)) => reason,
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind == ErrorKind::NatsUnavailable => "consumer_gone",
                    Err(error) => return Err(error),
                },
                Err(error) if error.kind == ErrorKind::NatsUnavailable => {
                    let text = telemetry::describe(&error);
                    tracing::warn!(
                        pipeline = %self.pipeline, partition = self.partition, error = %text,
                        "cannot read the partition, trying again"
                    );
                    unanswered.get_or_insert_with(|| self.status.complain_after(self.retry_window, text));
                    "no_consumer"
                }
                Err(error) => return Err(error),
            };
            metrics::pull_restarted(&self.pipeline, reason);
            let now = self.connects();
            if std::mem::replace(&mut connects, now) != now {
                self.set_aside(&mut place).await;
            }
            tracing::warn!(
                pipeline = %self.pipeline, partition = self.partition, reason, last = place.last,
                "reading goes on with another consumer"
            );
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Makes a consumer that begins behind what came, and then looks at the stream: one that was made anew before the
    /// consumer was is found, and one that is made anew later takes the consumer with it.
    async fn begin(&mut self, place: &mut Place) -> Result<PullConsumer> {
        place.delivered = 0;
        let mut config = Config {
            name: Some(format!("{}-{}-{}", self.name, self.partition, random_name())),
            description: Some(format!(
                "nats-sql-sink, pipeline {}, partition {}",
                self.pipeline, self.partition
            )),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: place.until.max(place.last) + 1,
            },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: CONSUMER_UNUSED,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        match self.filters.as_slice() {
            [filter] => config.filter_subject.clone_from(filter),
            filters => config.filter_subjects = filters.to_vec(),
        }
        let consumer = self.stream.create_consumer(config).await.map_err(|error| {
            use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
            let kind = match error.kind() {
                // what the server says of its own state passes; what it says of the request does not
                Kind::JetStream(refusal) if refusal.code() < 500 && refusal.code() != 404 => {
                    ErrorKind::StreamSetup
                }
                Kind::InvalidConsumerType | Kind::InvalidName => ErrorKind::StreamSetup,
                _ => ErrorKind::NatsUnavailable,
            };
            Error::new(
                Phase::Pull,
                kind,
                format!("making a consumer for partition {}: {error}", self.partition),
            )
        })?;
        self.look(place, place.until.max(place.last)).await?;
        Ok(consumer)
    }

    /// Pulls from one consumer. Ends with the reason why another one is needed; `None` at a stop.
    async fn pulls(
        &mut self,
        consumer: &PullConsumer,
        place: &mut Place,
        unanswered: &mut Option<Complaint>,
    ) -> Result<Option<&'static str>> {
        let inbox = self.client.new_inbox();
        let subscribed = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(None),
            subscribed = self.client.subscribe(format!("{inbox}.*")) => subscribed,
        };
        let mut subscription = subscribed.map_err(|error| {
            Error::new(Phase::Pull, ErrorKind::NatsUnavailable, format!("subscribing to the inbox: {error}"))
        })?;
        for number in 0_u64.. {
            let pull = Subject::from(format!("{inbox}.{number}"));
            let least = charge(&self.schema, place.largest);
            let permit = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(None),
                permit = async {
                    self.gate.opened().await;
                    self.budget.reserve(least, self.share.max(least)).await
                } => permit,
            };
            let whole_budget = permit.bytes() == self.budget.capacity();
            let before = place.until.max(place.last);
            let mut jump = None;
            let ended =
                self.pull(consumer, &mut subscription, &pull, permit, place, unanswered, &mut jump).await?;
            match ended {
                Ended::Served => place.largest = place.largest.min(4 * place.average),
                Ended::TooLarge if whole_budget => {
                    return Err(Error::new(
                        Phase::Pull,
                        ErrorKind::StreamSetup,
                        "the next event is larger than `memory` allows to hold: raise `memory`",
                    ));
                }
                Ended::TooLarge => place.largest = (2 * place.largest).max(self.client.max_payload()),
                Ended::Lost(reason) => {
                    let text = || format!("pulls are not answered: {}", reason.replace('_', " "));
                    unanswered.get_or_insert_with(|| self.status.complain_after(self.retry_window, text()));
                    return Ok(Some(reason));
                }
                Ended::Stopped(_) => return Ok(None),
            }
            // Only where the numbers jump can something have been removed before it was read.
            if let Some(jump) = jump {
                self.look(place, jump.max(before)).await?;
            }
        }
        Ok(None)
    }

    /// One pull: asks, and hands on what comes. `jump` is the last position before the first that was left out.
    #[allow(clippy::too_many_arguments, reason = "it is one step of `pulls`, and named there")]
    async fn pull(
        &self,
        consumer: &PullConsumer,
        subscription: &mut Subscriber,
        pull: &Subject,
        mut permit: Permit,
        place: &mut Place,
        unanswered: &mut Option<Complaint>,
        jump: &mut Option<u64>,
    ) -> Result<Ended> {
        let (messages, bytes) = covered(&self.schema, permit.bytes(), place.average);
        let request = BatchConfig {
            batch: messages,
            expires: Some(PULL_EXPIRES),
            max_bytes: bytes,
            idle_heartbeat: IDLE_HEARTBEAT,
            ..BatchConfig::default()
        };
        metrics::pulled(&self.pipeline);
        let asked = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(Ended::Stopped(0)),
            asked = consumer.request_batch(request, pull.clone()) => asked,
        };
        if asked.is_err() {
            return Ok(Ended::Lost("request_failed"));
        }
        let mut missing = messages;
        while missing > 0 {
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Ended::Stopped(missing)),
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
            let mut ended = None;
            while let Some(message) = next.take() {
                if let Some(status) = message.status {
                    if message.subject == *pull {
                        ended = if status == StatusCode::IDLE_HEARTBEAT {
                            heartbeat(&message, place).map(Ended::Lost)
                        } else {
                            ended_by(status, message.description.as_deref())?
                        };
                    }
                } else {
                    let before = place.last.max(place.until);
                    match self.deliver(message, received_at, &mut permit, place) {
                        Arrived::New(delivery) => {
                            if delivery.event.stream_sequence > before + 1 {
                                jump.get_or_insert(before);
                            }
                            chunk.push(delivery);
                            missing -= 1;
                        }
                        // What is left is read by those who divide the stream anew.
                        Arrived::Beyond => ended = Some(Ended::Stopped(missing)),
                        Arrived::Unexpected(reason) => ended = Some(Ended::Lost(reason)),
                    }
                }
                if ended.is_none() && missing > 0 && chunk.len() < CHUNK_MESSAGES {
                    next = subscription.next().now_or_never().flatten();
                }
            }
            if !chunk.is_empty() {
                metrics::received(&self.pipeline, chunk.iter().map(|delivery| delivery.event.deliveries));
                let handed_on = tokio::select! {
                    handed_on = self.out.send(chunk) => handed_on.is_ok(),
                    () = self.stop.cancelled() => false,
                };
                if !handed_on {
                    return Ok(Ended::Stopped(missing));
                }
            }
            self.tell(place);
            match ended {
                Some(Ended::TooLarge) if missing < messages => return Ok(Ended::Served),
                Some(ended) => return Ok(ended),
                None => {}
            }
        }
        Ok(Ended::Served)
    }

    /// Makes a delivery of a message, with its part of the pull's permit.
    fn deliver(&self, message: Message, received_at: i64, permit: &mut Permit, place: &mut Place) -> Arrived {
        let Some(position) = message.reply.as_deref().and_then(Position::parse) else {
            return Arrived::Unexpected("unexpected_message");
        };
        if position.consumer_sequence != place.delivered + 1 {
            return Arrived::Unexpected("hole");
        }
        if position.stream_sequence <= place.last {
            return Arrived::Unexpected("order");
        }
        if self.barrier.is_some_and(|barrier| position.stream_sequence > barrier) {
            place.delivered += 1;
            place.until = self.barrier.unwrap_or_default();
            return Arrived::Beyond;
        }
        let event = Event {
            subject: message.subject,
            payload: message.payload,
            headers: message.headers.as_ref().map(Headers::from),
            stream_sequence: position.stream_sequence,
            deliveries: position.deliveries,
            published_at: position.stored_at,
            received_at,
        };
        let wire_bytes = event.wire_bytes();
        let Some(permit) = permit.split(charge(&self.schema, wire_bytes)) else {
            return Arrived::Unexpected("unexpected_message");
        };
        place.delivered += 1;
        place.last = position.stream_sequence;
        place.average = (place.average * 63 + wire_bytes).div_ceil(64);
        Arrived::New(Delivery { event, claim: Claim::none(), permit })
    }

    fn tell(&self, place: &Place) {
        let until = place.until.max(place.last);
        let until = self.barrier.map_or(until, |barrier| until.min(barrier));
        self.seen.send_if_modified(|seen| {
            let now = Seen { last: place.last, until };
            std::mem::replace(seen, now) != now
        });
    }
}

/// Tells a consumer from others of its partition.
fn random_name() -> String {
    let letters = std::iter::repeat_with(fastrand::alphanumeric);
    letters.take(8).collect()
}
