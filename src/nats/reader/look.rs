//! What a reader looks at besides the events: the stream, the server's heartbeat, and what breaks the connection.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Message;

use super::Reader;
use crate::config::OnGap;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;

/// How long a look at the next event may take.
const LOOK: Duration = Duration::from_secs(10);

/// Where reading is.
#[derive(Debug)]
pub(super) struct Place {
    /// Everything of the partition up to here was handed on.
    pub(super) last: u64,
    /// Nothing of the partition is between `last` and this.
    pub(super) until: u64,
    /// Deliveries of the consumer at hand that have come.
    pub(super) delivered: u64,
    /// Wire bytes that an event has on average, and the most that one is expected to have.
    pub(super) average: usize,
    pub(super) largest: usize,
}

impl Reader {
    /// How often this client has connected.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// The connection broke: it may be the next event that breaks it, each time that it is delivered.
    pub(super) async fn set_aside(&self, place: &mut Place) {
        let next = place.until.max(place.last) + 1;
        let looked = tokio::select! {
            looked = tokio::time::timeout(LOOK, self.unreadable.set_aside(next, &self.filters)) => looked,
            () = self.stop.cancelled() => return,
        };
        match looked {
            // Dead-lettered: nothing of the partition is left up to there.
            Ok(Ok(Some(sequence))) => {
                place.until = sequence;
                self.tell(place);
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(
                pipeline = %self.pipeline, partition = self.partition, %error,
                "cannot look whether the next event breaks the connection"
            ),
            Err(_elapsed) => tracing::warn!(
                pipeline = %self.pipeline, partition = self.partition,
                "cannot look whether the next event breaks the connection: timed out"
            ),
        }
    }

    /// Looks whether the stream is the same, and whether it still has everything behind `known`.
    pub(super) async fn look(&mut self, place: &mut Place, known: u64) -> Result<()> {
        let info = self.stream.info().await.map_err(|error| {
            Error::new(Phase::Pull, ErrorKind::NatsUnavailable, format!("asking for the stream: {error}"))
        })?;
        let created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        if created != self.stream_created {
            return Err(recreated(&self.stream.cached_info().config.name));
        }
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        if last < place.last {
            return Err(Error::new(
                Phase::Pull,
                ErrorKind::StreamSetup,
                format!(
                    "the stream ends at sequence {last}, but the table holds events up to {}: the stream has lost data",
                    place.last
                ),
            ));
        }
        if first > known + 1 {
            self.gap(known, first - 1)?;
            place.until = place.until.max(first - 1);
        }
        Ok(())
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
                metrics::removed_unseen(&self.pipeline, most);
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

/// Reads how far the server is. Gives the reason where something that it sent did not come.
///
/// Both numbers are of one moment, and of the consumer's own view of the stream: everything that it has sent has come
/// before, on the same subscription.
pub(super) fn heartbeat(message: &Message, place: &mut Place) -> Option<&'static str> {
    let number = |name: &str| -> Option<u64> { message.headers.as_ref()?.get(name)?.as_str().parse().ok() };
    let (Some(delivered), Some(stream)) = (number("Nats-Last-Consumer"), number("Nats-Last-Stream")) else {
        return None;
    };
    if delivered != place.delivered {
        return Some("hole_at_the_tail");
    }
    place.until = place.until.max(stream);
    None
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
