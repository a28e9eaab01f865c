//! Decoding a batch, and what is done where the decoder does not survive it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Writer;
use crate::decode::{Decoded, Reject};
use crate::delivery::{Batch, Event};
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;

impl Writer {
    /// Decodes the batch; `None` where that is not possible, which is a defect, or where the process gives up. Where the
    /// decoder panics or does not come to an end, as with [`Writer::decode_suspects`].
    pub async fn decode(&self, batch: &mut Batch) -> Option<Decoded> {
        let started = Instant::now();
        let events = Arc::new(std::mem::take(&mut batch.events));
        let decoded = self.decode_events(Arc::clone(&events)).await;
        batch.events = unwrap(events);
        match decoded? {
            Ok(decoded) => {
                metrics::decoded(&self.pipeline, started.elapsed());
                Some(decoded)
            }
            Err(error) if error.kind == ErrorKind::DecoderFailed => {
                tracing::error!(
                    pipeline = %self.pipeline, batch_rows = batch.len(), %error,
                    "looking for the events that the decoder does not survive"
                );
                self.decode_suspects(batch).await
            }
            Err(error) => self.not_decoded(&error).await,
        }
    }

    /// As [`Writer::decode`], of events that may have ended a worker before: they are decoded in a process of their own
    /// first. Those that end it are among the rejects; the others are decoded.
    pub async fn decode_suspects(&self, batch: &mut Batch) -> Option<Decoded> {
        let observe = |ended: crate::decode::Ended| metrics::decode_trial(&self.pipeline, ended.as_str());
        let fatal = tokio::select! {
            fatal = self.decoder.find_fatal(&batch.events, observe) => fatal,
            () = self.shutdown.forced() => return None,
        };
        let fatal = match fatal {
            Ok(fatal) => fatal,
            Err(error) => return self.not_decoded(&error).await,
        };
        for reject in &fatal {
            let sequence = batch.events.get(reject.event).map(|event| event.stream_sequence);
            tracing::error!(
                pipeline = %self.pipeline, sequence, reason = %reject.reason,
                "the decoder does not survive an event, which goes to the dead-letter stream"
            );
        }
        let is_fatal = |index: usize| fatal.binary_search_by_key(&index, |reject| reject.event).is_ok();
        let survivors: Vec<usize> = (0..batch.len()).filter(|index| !is_fatal(*index)).collect();
        let events = survivors.iter().filter_map(|index| batch.events.get(*index).cloned()).collect();
        match self.decode_events(Arc::new(events)).await? {
            Ok(decoded) => Some(joined(decoded, &survivors, fatal)),
            Err(error) => self.not_decoded(&error).await,
        }
    }

    /// `None` where the process gives up.
    async fn decode_events(&self, events: Arc<Vec<Event>>) -> Option<Result<Decoded>> {
        let decoder = self.decoder.clone();
        let patience = decoder.patience();
        let mut decoding = Box::pin(async move { decoder.decode(events).await });
        tokio::select! {
            decoded = &mut decoding => return Some(decoded),
            () = self.shutdown.forced() => return None,
            () = tokio::time::sleep(patience) => {}
        }
        // A thread cannot be ended from outside. It is missed for as long as it goes on, which is said as long.
        let complaint = self.status.complain_after(
            Duration::ZERO,
            "decoding a batch does not come to an end: one thread fewer decodes, until the worker is started again",
        );
        tokio::spawn(async move {
            let _ = decoding.await;
            drop(complaint);
        });
        let text = format!("decoding a batch did not end within {}", humantime::format_duration(patience));
        Some(Err(Error::new(Phase::Decode, ErrorKind::DecoderFailed, text)))
    }

    /// The claims are dropped with the batch: JetStream delivers it again, after the wait that the gate and the status make
    /// visible.
    async fn not_decoded(&self, error: &Error) -> Option<Decoded> {
        let mut trouble = self.trouble();
        let next = trouble.met(error);
        self.shutdown.sleep(next.wait).await;
        None
    }
}

/// Copies only where a thread that never ends holds on to them.
fn unwrap(events: Arc<Vec<Event>>) -> Vec<Event> {
    Arc::try_unwrap(events).unwrap_or_else(|shared| shared.as_ref().clone())
}

/// What became of a whole batch, of which `survivors` were decoded.
fn joined(mut decoded: Decoded, survivors: &[usize], fatal: Vec<Reject>) -> Decoded {
    let whole = |index: usize| survivors.get(index).copied().unwrap_or(index);
    for event in &mut decoded.row_events {
        *event = u32::try_from(whole(*event as usize)).unwrap_or(*event);
    }
    for reject in &mut decoded.rejects {
        reject.event = whole(reject.event);
    }
    decoded.rejects.extend(fatal);
    decoded.rejects.sort_by_key(|reject| reject.event);
    decoded
}

#[cfg(test)]
mod tests {
    use async_nats::Subject;
    use bytes::Bytes;

    use super::*;
    use crate::decode::{DecodePool, Decoder};
    use crate::schema::Schema;

    #[test]
    fn what_is_decoded_without_some_events_is_told_of_the_whole_batch() {
        let schema =
            Schema::parse("format = \"json\"\n[[column]]\nname = \"a\"\ntype = \"int\"\n").expect("it");
        let decoder = Decoder::new(&schema, &DecodePool::new(1).expect("a pool"));
        let event = |payload: &'static str| Event {
            subject: Subject::from_static("a"),
            payload: Bytes::from_static(payload.as_bytes()),
            headers: None,
            stream_sequence: 1,
            deliveries: 1,
            published_at: 0,
            received_at: 0,
        };
        let decode = |payloads: &[&'static str]| {
            let events: Vec<Event> = payloads.iter().map(|payload| event(payload)).collect();
            decoder.decode_rows(&events).expect("it is decoded")
        };
        // the events 0 and 3 of six are left out
        let decoded = decode(&["{}", "1", "{}", "{"]);
        let fatal = decode(&["1", "{}", "{}", "1"]).rejects;
        let whole = joined(decoded, &[1, 2, 4, 5], fatal);
        assert_eq!(whole.row_events, [1, 4]);
        assert_eq!(whole.rejects.iter().map(|reject| reject.event).collect::<Vec<_>>(), [0, 2, 3, 5]);
    }
}
