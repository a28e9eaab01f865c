//! Reading a partition from a position on, in order and without a hole: for `exactly_once`, where the database keeps how
//! far it is read, and JetStream is told nothing.
//!
//! Each reader has a consumer of its own, for as long as it needs it: ephemeral, without acknowledgements. That consumer
//! numbers its deliveries, so a message that is lost on the way shows as a jump of the next one's number, and where none
//! follows, by the number that the server gives with its idle heartbeat. Then another consumer goes on behind what came.

mod gaps;
mod look;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{BatchConfig, Config};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy};
use async_nats::jetstream::stream::Stream;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::gaps::Gaps;
use self::look::{Place, told};
use crate::budget::{Budget, Permit};
use crate::config::OnGap;
use crate::delivery::{Claim, Delivery, Event, Headers};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::charge::{Held, Left, charge, covered};
use crate::nats::gate::Gate;
use crate::nats::intake::{CHUNK_MESSAGES, Ended, SILENCE, ended_by, lasting, now};
use crate::nats::reply::Position;
use crate::nats::unreadable::NextUnreadable;
use crate::schema::Schema;
use crate::status::{Complaint, PipelineStatus};
use crate::telemetry;

/// A consumer that nobody pulls from is removed by the server after this long: longer than a pull that waits, and than
/// the budget is waited for while the database is away, else it is made anew.
const CONSUMER_UNUSED: Duration = Duration::from_secs(300);
/// Events between which sequences jump are handed on after a look at the stream, which is taken this often, or when so many
/// wait for it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MOST_UNLOOKED: usize = 8 * CHUNK_MESSAGES;
/// How long deleting a consumer may take; what is not deleted the server removes by itself.
const GOODBYE: Duration = Duration::from_secs(1);
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
    /// What was counted of it, by all partitions.
    pub gaps: Gaps,
    /// Nobody has begun to read it yet: what the stream removed before is no gap.
    pub is_new: bool,
    /// No event beyond this sequence is handed on.
    pub barrier: Option<u64>,
    /// Decides what an event is charged for.
    pub schema: Arc<Schema>,
    /// The process' byte budget.
    pub budget: Budget,
    /// Most bytes of the budget to reserve for one pull.
    pub share: usize,
    /// How much of this partition is held at most.
    pub held: Held,
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

/// What one consumer is asked for.
struct Pulls<'a> {
    consumer: &'a PullConsumer,
    subscription: Subscriber,
    inbox: String,
    /// Events that wait for a look at the stream.
    held: Vec<Delivery>,
    looked_at: Instant,
}

impl Reader {
    /// Reads what comes after `from`, until it is stopped or nobody takes it any more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StreamSetup`] where it is not the stream any more that the position is of, where its limits removed
    /// events unseen and that is to stop the pipeline, or where an event is larger than the whole budget.
    pub async fn run(mut self, from: u64) -> Result<()> {
        let mut place = Place::new(from);
        let mut unanswered: Option<Complaint> = None;
        let stop = self.stop.clone();
        let mut connects = self.connects();
        loop {
            let reason = match self.read(&mut place, &mut unanswered).await {
                Ok(Some(reason)) => reason,
                Ok(None) => return Ok(()),
                Err(error) if error.kind == ErrorKind::NatsUnavailable => {
                    let text = telemetry::describe(&error);
                    tracing::warn!(
                        pipeline = %self.pipeline, partition = self.partition, error = %text,
                        "cannot read the partition, trying again"
                    );
                    self.complain(&mut unanswered, text);
                    "consumer_gone"
                }
                Err(error) => return Err(error),
            };
            metrics::pull_restarted(&self.pipeline, reason);
            let now = self.connects();
            if std::mem::replace(&mut connects, now) != now {
                tokio::select! {
                    looked = self.set_aside(&mut place) => looked?,
                    () = stop.cancelled() => return Ok(()),
                }
            }
            tracing::warn!(
                pipeline = %self.pipeline, partition = self.partition, reason, last = place.at(),
                "reading goes on with another consumer"
            );
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn complain(&self, unanswered: &mut Option<Complaint>, text: String) {
        unanswered.get_or_insert_with(|| self.status.complain_after(self.retry_window, text));
    }

    /// Reads with one consumer. Ends with the reason why another one is needed; `None` at a stop, or where nobody takes what
    /// is read any more.
    async fn read(
        &mut self,
        place: &mut Place,
        unanswered: &mut Option<Complaint>,
    ) -> Result<Option<&'static str>> {
        let stop = self.stop.clone();
        place.forget_what_was_not_handed_on();
        let consumer = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(None),
            consumer = self.begin(place) => consumer?,
        };
        let reading = async {
            // Behind the making of the consumer: a stream that was made anew before is found, and one that is made anew later
            // takes the consumer with it.
            self.look(place, place.at()).await?;
            self.pulls(&consumer, place, unanswered).await
        };
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            ended = reading => ended,
        };
        if let Ok(Some(reason)) = &ended {
            self.complain(unanswered, format!("pulls are not answered: {}", reason.replace('_', " ")));
        }
        let goodbye = self.stream.delete_consumer(&consumer.cached_info().name);
        if !matches!(tokio::time::timeout(GOODBYE, goodbye).await, Ok(Ok(_))) {
            tracing::debug!(pipeline = %self.pipeline, partition = self.partition, "a consumer is left to expire");
        }
        ended
    }

    /// Makes a consumer that begins behind what came.
    async fn begin(&self, place: &Place) -> Result<PullConsumer> {
        let mut config = Config {
            name: Some(format!("{}-{}-{}", self.name, self.partition, random_name())),
            description: Some(format!(
                "nats-sql-sink, pipeline {}, partition {}",
                self.pipeline, self.partition
            )),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: place.at() + 1 },
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
        self.stream.create_consumer(config).await.map_err(|error| {
            use async_nats::jetstream::stream::ConsumerErrorKind as Kind;
            let kind = match error.kind() {
                // what the server says of its own state passes; what it says of the request does not
                Kind::JetStream(refusal) if refusal.code() < 500 && refusal.code() != 404 => {
                    ErrorKind::StreamSetup
                }
                Kind::InvalidConsumerType | Kind::InvalidName => ErrorKind::StreamSetup,
                _ => ErrorKind::NatsUnavailable,
            };
            let text = format!("making a consumer for partition {}: {error}", self.partition);
            Error::new(Phase::Pull, kind, text)
        })
    }

    /// Pulls from one consumer.
    async fn pulls(
        &mut self,
        consumer: &PullConsumer,
        place: &mut Place,
        unanswered: &mut Option<Complaint>,
    ) -> Result<Option<&'static str>> {
        let inbox = self.client.new_inbox();
        let subscription = self.client.subscribe(format!("{inbox}.*")).await.map_err(|error| {
            let text = format!("subscribing to the inbox: {error}");
            Error::new(Phase::Pull, ErrorKind::NatsUnavailable, text)
        })?;
        let mut pulls = Pulls { consumer, subscription, inbox, held: Vec::new(), looked_at: Instant::now() };
        for number in 0_u64.. {
            let pull = Subject::from(format!("{}.{number}", pulls.inbox));
            let least = charge(&self.schema, place.largest);
            self.gate.opened().await;
            let most = self.share.min(self.held.pull(place.average)).max(least);
            let permit =
                self.budget.reserve_within(least, most, || self.held.within(place.average, most)).await;
            let whole_budget = permit.bytes() == self.budget.capacity();
            match self.pull(&mut pulls, &pull, permit, place, unanswered).await? {
                Ended::Served => place.largest = place.largest.min(4 * place.average),
                Ended::TooLarge if whole_budget => {
                    return Err(Error::new(
                        Phase::Pull,
                        ErrorKind::StreamSetup,
                        "the next event is larger than `memory` allows to hold: raise `memory`",
                    ));
                }
                Ended::TooLarge => place.largest = (2 * place.largest).max(self.client.max_payload()),
                Ended::Lost(reason) => return Ok(Some(reason)),
                Ended::Stopped(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// One pull: asks, and hands on what comes.
    async fn pull(
        &mut self,
        pulls: &mut Pulls<'_>,
        pull: &Subject,
        mut permit: Permit,
        place: &mut Place,
        unanswered: &mut Option<Complaint>,
    ) -> Result<Ended> {
        let (messages, bytes) = covered(&self.schema, permit.bytes(), place.average);
        let entered = self.gate.enter().await;
        let (expires, idle_heartbeat) = lasting(entered.is_short, Duration::MAX);
        let request = BatchConfig {
            batch: messages,
            expires: Some(expires),
            max_bytes: bytes,
            idle_heartbeat,
            ..BatchConfig::default()
        };
        metrics::pulled(&self.pipeline);
        if pulls.consumer.request_batch(request, pull.clone()).await.is_err() {
            return Ok(Ended::Lost("request_failed"));
        }
        let mut left = Left { messages, bytes };
        let mut last_word = Instant::now();
        loop {
            let patience = match pulls.held.is_empty() {
                true => SILENCE.saturating_sub(last_word.elapsed()),
                false => LOOK_EVERY.saturating_sub(pulls.looked_at.elapsed()),
            };
            let mut ended = left.is_nothing().then_some(Ended::Served);
            let mut next = None;
            if ended.is_none() {
                match tokio::time::timeout(patience, pulls.subscription.next()).await {
                    Ok(Some(message)) => next = Some(message),
                    Ok(None) => ended = Some(Ended::Lost("subscription_closed")),
                    Err(_elapsed) if last_word.elapsed() >= SILENCE => {
                        ended = Some(Ended::Lost("missed_heartbeat"));
                    }
                    Err(_elapsed) => {}
                }
            }
            let received_at = now();
            let mut heard = None;
            let mut chunk = 0;
            while let Some(message) = next.take() {
                last_word = Instant::now();
                // A stored message may have a status of its own: what has a position is a delivery.
                match message.reply.as_deref().and_then(Position::parse) {
                    Some(position) => {
                        let length = message.length;
                        match self.deliver(message, position, received_at, &mut permit, place)? {
                            Arrived::New(delivery) => {
                                pulls.held.push(delivery);
                                left.take(length);
                                chunk += 1;
                                *unanswered = None;
                            }
                            // What is left is read by those who divide the stream anew.
                            Arrived::Beyond => ended = Some(Ended::Stopped(left.messages)),
                            Arrived::Unexpected(reason) => ended = Some(Ended::Lost(reason)),
                        }
                    }
                    None if message.subject != *pull => {}
                    None => match message.status {
                        Some(StatusCode::IDLE_HEARTBEAT) => heard = Some(message),
                        Some(status) => ended = self.ended_by(status, message.description.as_deref()),
                        None => ended = Some(Ended::Lost("unexpected_message")),
                    },
                }
                if ended.is_none() && heard.is_none() && !left.is_nothing() && chunk < CHUNK_MESSAGES {
                    next = pulls.subscription.next().now_or_never().flatten();
                }
            }
            if self.is_due(pulls, place, ended.is_some() || heard.is_some())
                && !self.hand_on(pulls, place).await?
            {
                return Ok(Ended::Stopped(left.messages));
            }
            if let Some(heartbeat) = heard.as_ref().and_then(told) {
                match self.heard(heartbeat, place).await? {
                    Some(reason) => ended = Some(Ended::Lost(reason)),
                    None => *unanswered = None,
                }
            }
            match ended {
                Some(Ended::TooLarge) if left.messages < messages => return Ok(Ended::Served),
                Some(ended) => return Ok(ended),
                None => {}
            }
        }
    }

    /// What a status means that ends a pull. Why one is refused shows when another consumer is made.
    fn ended_by(&self, status: StatusCode, description: Option<&str>) -> Option<Ended> {
        ended_by(status, description).unwrap_or_else(|error| {
            tracing::warn!(pipeline = %self.pipeline, partition = self.partition, %error, "a pull ended");
            Some(Ended::Lost("pull_refused"))
        })
    }

    /// Whether what is held is handed on now.
    fn is_due(&self, pulls: &Pulls<'_>, place: &Place, has_ended: bool) -> bool {
        let waited = pulls.looked_at.elapsed() >= LOOK_EVERY || pulls.held.len() >= MOST_UNLOOKED;
        has_ended || (!pulls.held.is_empty() && (place.jump.is_none() || waited))
    }

    /// Hands on what is held, after a look at the stream where sequences jump: `false` where nobody takes it.
    async fn hand_on(&mut self, pulls: &mut Pulls<'_>, place: &mut Place) -> Result<bool> {
        if let Some(jump) = place.jump {
            self.look(place, jump).await?;
            pulls.looked_at = Instant::now();
        }
        let chunk = std::mem::take(&mut pulls.held);
        if !chunk.is_empty() {
            metrics::received(&self.pipeline, chunk.iter().map(|delivery| delivery.event.deliveries));
            if self.out.send(chunk).await.is_err() {
                return Ok(false);
            }
        }
        place.handed_on();
        self.tell(place);
        Ok(true)
    }

    /// Makes a delivery of a message, with its part of the pull's permit.
    fn deliver(
        &self,
        message: Message,
        position: Position,
        received_at: i64,
        permit: &mut Permit,
        place: &mut Place,
    ) -> Result<Arrived> {
        if position.consumer_sequence != place.delivered + 1 {
            return Ok(Arrived::Unexpected("hole"));
        }
        let (sequence, before) = (position.stream_sequence, place.received());
        if sequence <= before {
            return Err(Error::new(
                Phase::Pull,
                ErrorKind::Internal,
                format!(
                    "sequence {sequence} came after the server had said that nothing is left up to {before}"
                ),
            ));
        }
        if sequence > before + 1 {
            place.jump.get_or_insert(before);
        }
        if let Some(barrier) = self.barrier.filter(|barrier| sequence > *barrier) {
            place.claimed = barrier;
            return Ok(Arrived::Beyond);
        }
        let event = Event {
            subject: message.subject,
            payload: super::payload::kept(message.payload),
            headers: message.headers.as_ref().map(Headers::from),
            stream_sequence: sequence,
            deliveries: position.deliveries,
            published_at: position.stored_at,
            received_at,
        };
        let wire_bytes = event.wire_bytes();
        let Some(permit) = permit.split(charge(&self.schema, wire_bytes)) else {
            return Ok(Arrived::Unexpected("unexpected_message"));
        };
        place.delivered += 1;
        place.newest = sequence;
        place.average = (place.average * 63 + wire_bytes).div_ceil(64);
        Ok(Arrived::New(Delivery { event, claim: Claim::none(), permit }))
    }

    fn tell(&self, place: &Place) {
        let until = self.barrier.map_or(place.at(), |barrier| place.at().min(barrier));
        self.seen.send_if_modified(|seen| {
            let now = Seen { last: place.last, until };
            std::mem::replace(seen, now) != now
        });
    }
}

/// Tells a consumer from others of its partition.
pub(super) fn random_name() -> String {
    let letters = std::iter::repeat_with(fastrand::alphanumeric);
    letters.take(8).collect()
}
