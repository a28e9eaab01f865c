//! What a reader looks at besides the events: the stream, the server's heartbeat, and what breaks the connection.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Message;

use super::Reader;
use crate::config::OnGap;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::intake::ASSUMED_WIRE_BYTES;

/// How long a look at the next event may take.
const LOOK: Duration = Duration::from_secs(10);
/// The stream's end may be told by a server that is behind the one that the events came from: so often it is asked again.
const LOOKS_AT_THE_END: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);
/// Of heartbeats that say nothing new, every so many is held against the stream's end.
const IDLE_HEARTBEATS_PER_LOOK: u32 = 5;
/// After so many of such looks the consumer is stuck: there are events behind where it says that it is.
const LOOKS_OF_A_STUCK_CONSUMER: u32 = 3;

/// Where reading is.
#[derive(Debug)]
pub(super) struct Place {
    /// The last event that was handed on, or the position that reading began at.
    pub(super) last: u64,
    /// Nothing of the partition is between `last` and this.
    until: u64,
    /// The last event that came.
    pub(super) newest: u64,
    /// The server has said that nothing is left up to here; whether something was there is not known yet.
    pub(super) claimed: u64,
    /// The last position before the first that was left out, since something was handed on.
    pub(super) jump: Option<u64>,
    /// Deliveries of the consumer at hand that have come.
    pub(super) delivered: u64,
    /// Wire bytes that an event has on average, and the most that one is expected to have.
    pub(super) average: usize,
    pub(super) largest: usize,
    idle_heartbeats: u32,
    stuck_looks: u32,
}

impl Place {
    pub(super) fn new(from: u64) -> Self {
        Self {
            last: from,
            until: from,
            newest: from,
            claimed: from,
            jump: None,
            delivered: 0,
            average: ASSUMED_WIRE_BYTES,
            largest: 4 * ASSUMED_WIRE_BYTES,
            idle_heartbeats: 0,
            stuck_looks: 0,
        }
    }

    /// Everything of the partition up to here was handed on.
    pub(super) fn at(&self) -> u64 {
        self.last.max(self.until)
    }

    /// Everything up to here has come.
    pub(super) fn received(&self) -> u64 {
        self.at().max(self.newest)
    }

    /// Another consumer begins behind what was handed on.
    pub(super) fn forget_what_was_not_handed_on(&mut self) {
        self.newest = self.last;
        self.claimed = self.at();
        self.jump = None;
        self.delivered = 0;
        (self.idle_heartbeats, self.stuck_looks) = (0, 0);
    }

    /// Everything that came was handed on, and what was left out before was looked at.
    pub(super) fn handed_on(&mut self) {
        if self.newest > self.last {
            (self.idle_heartbeats, self.stuck_looks) = (0, 0);
        }
        self.last = self.newest.max(self.last);
        self.until = self.until.max(self.claimed);
        self.jump = None;
    }
}

/// What the server tells with an idle heartbeat. Both numbers are of one moment, and of the consumer's own view of the
/// stream: everything that it has sent has come before, on the same subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heartbeat {
    /// How many deliveries the consumer has made.
    delivered: u64,
    /// Nothing is left for it up to this position of the stream.
    stream: u64,
}

/// Reads a heartbeat; `None` where it has no numbers.
pub(super) fn told(message: &Message) -> Option<Heartbeat> {
    let number = |name: &str| message.headers.as_ref()?.get(name)?.as_str().parse().ok();
    Some(Heartbeat { delivered: number("Nats-Last-Consumer")?, stream: number("Nats-Last-Stream")? })
}

impl Reader {
    /// How often this client has connected.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// The connection broke: it may be the next events that break it, each time that they are delivered.
    pub(super) async fn set_aside(&mut self, place: &mut Place) -> Result<()> {
        loop {
            let looking = self.unreadable.set_aside(place.at() + 1, &self.filters);
            let failure = match tokio::time::timeout(LOOK, looking).await {
                Ok(Ok(None)) => return Ok(()),
                // Dead-lettered: nothing of the partition is left up to there.
                Ok(Ok(Some(sequence))) => {
                    place.forget_what_was_not_handed_on();
                    match self.look(place, place.at()).await {
                        Ok(_) => {
                            place.claimed = sequence;
                            place.handed_on();
                            self.tell(place);
                            continue;
                        }
                        Err(error) if error.kind == ErrorKind::NatsUnavailable => error.to_string(),
                        Err(error) => return Err(error),
                    }
                }
                Ok(Err(error)) => error.to_string(),
                Err(_elapsed) => "timed out".to_owned(),
            };
            tracing::warn!(
                pipeline = %self.pipeline, partition = self.partition, error = %failure,
                "cannot look whether the next event breaks the connection"
            );
            return Ok(());
        }
    }

    /// Moves on to what a heartbeat says. Gives the reason where another consumer is needed.
    pub(super) async fn heard(
        &mut self,
        heartbeat: Heartbeat,
        place: &mut Place,
    ) -> Result<Option<&'static str>> {
        if heartbeat.delivered != place.delivered {
            return Ok(Some("hole_at_the_tail"));
        }
        let at = place.at();
        if heartbeat.stream > at {
            self.look(place, at).await?;
            place.claimed = heartbeat.stream;
            place.handed_on();
            (place.idle_heartbeats, place.stuck_looks) = (0, 0);
            self.tell(place);
            return Ok(None);
        }
        place.idle_heartbeats += 1;
        if place.idle_heartbeats.is_multiple_of(IDLE_HEARTBEATS_PER_LOOK) {
            let is_behind = self.look(place, at).await? > heartbeat.stream;
            place.stuck_looks = if is_behind { place.stuck_looks + 1 } else { 0 };
        }
        Ok((place.stuck_looks >= LOOKS_OF_A_STUCK_CONSUMER).then_some("stuck"))
    }

    /// Looks whether the stream is the same, and whether it still has everything behind `known`. Gives its last sequence.
    pub(super) async fn look(&mut self, place: &mut Place, known: u64) -> Result<u64> {
        let mut looks = 0;
        let (first, last) = loop {
            let info = self.stream.info().await.map_err(|error| {
                Error::new(Phase::Pull, ErrorKind::NatsUnavailable, format!("asking for the stream: {error}"))
            })?;
            let created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX);
            if created != self.stream_created {
                return Err(recreated(&self.stream.cached_info().config.name));
            }
            let (first, last) = (info.state.first_sequence, info.state.last_sequence);
            let at = place.at();
            if last >= at {
                break (first, last);
            }
            looks += 1;
            if looks == LOOKS_AT_THE_END {
                return Err(Error::new(
                    Phase::Pull,
                    ErrorKind::StreamSetup,
                    format!("the stream ends at sequence {last}, but is read up to {at}: it has lost data"),
                ));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        };
        if first > known + 1 {
            if !self.is_new {
                self.gap(known, first - 1)?;
            }
            place.until = place.until.max(first - 1);
        }
        self.is_new = false;
        Ok(last)
    }

    /// The stream has removed what is behind `known`, up to and with `removed`, and nobody has seen it.
    fn gap(&self, known: u64, removed: u64) -> Result<()> {
        let most = removed - known;
        let text = format!(
            "the stream's limits removed up to {most} events of partition {} before they were read: sequences {} to \
             {removed}",
            self.partition,
            known + 1
        );
        match self.on_gap {
            OnGap::Continue => {
                metrics::removed_unseen(&self.pipeline, self.gaps.count(known + 1..=removed));
                tracing::error!(pipeline = %self.pipeline, partition = self.partition, "{text}, and reading goes on");
                Ok(())
            }
            OnGap::Stop => Err(Error::new(
                Phase::Pull,
                ErrorKind::StreamSetup,
                format!("{text}; set on_gap = \"continue\" to go on behind them"),
            )),
        }
    }
}

fn recreated(stream: &str) -> Error {
    Error::new(
        Phase::Pull,
        ErrorKind::StreamSetup,
        format!(
            "the stream {stream:?} is not the one that the table was filled from: it was deleted and made anew \
             (`nats-sql-sink partitions new-stream` begins with it)"
        ),
    )
}
