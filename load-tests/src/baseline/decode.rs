//! Decoding on one core: the sink's decoder, and arrow-json with types as near as it has.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use async_nats::Subject;
use nats_sql_sink::decode::{DecodePool, Decoder};
use nats_sql_sink::delivery::Event;
use nats_sql_sink::schema::Schema;

use super::Alone;
use crate::events::Events;
use crate::figures::median;
use crate::machine;
use crate::scenario::EventsSettings;

/// The sink's decoder; gives the rows as well.
pub(super) async fn ours(
    settings: &EventsSettings,
    count: usize,
    rounds: usize,
) -> anyhow::Result<(Alone, RecordBatch)> {
    let settings = EventsSettings { bad_share: 0.0, ..settings.clone() };
    on_a_thread(move || {
        let events = events(&settings, count);
        let schema = Schema::parse(&settings.shape.schema())?;
        let pool = DecodePool::new(1)?;
        let decoder = Decoder::new(&schema, &pool);
        let mut rows = None;
        let alone = measure(count, rounds, || {
            let decoded = decoder.decode_rows(&events)?;
            ensure!(decoded.rejects.is_empty(), "an event of the baseline was rejected");
            rows = Some(decoded.rows);
            Ok(())
        })?;
        Ok((alone, rows.context("no round")?))
    })
    .await
}

/// arrow-json, with the demo's events.
pub(super) async fn arrow_json(count: usize, rounds: usize) -> anyhow::Result<Alone> {
    on_a_thread(move || {
        let events = events(&EventsSettings::default(), count);
        let schema = telemetry();
        measure(count, rounds, || {
            let builder = ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(events.len());
            let mut decoder = builder.build_decoder()?;
            for event in &events {
                let read = decoder.decode(&event.payload)?;
                ensure!(read == event.payload.len(), "an event was not read to its end");
            }
            let rows = decoder.flush()?.context("no rows")?;
            ensure!(rows.num_rows() == events.len(), "events are missing");
            Ok(())
        })
    })
    .await
}

/// Decoding would keep the runtime's threads from their work.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("decoding ended by a defect")?
}

/// Medians of the thread's processor time: on a core that it had for itself it would be as fast as that.
fn measure(
    count: usize,
    rounds: usize,
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Alone> {
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        let before = machine::thread_cpu_seconds()?;
        work()?;
        seconds.push(machine::thread_cpu_seconds()? - before);
    }
    let seconds = median(&seconds).context("no round")?;
    #[allow(clippy::cast_precision_loss)] // a number of events
    let count = count as f64;
    Ok(Alone { per_second: count / seconds, cpu_seconds_per_million: Some(seconds * 1_000_000.0 / count) })
}

fn events(settings: &EventsSettings, count: usize) -> Vec<Event> {
    let mut source = Events::new(settings);
    let event = |sequence| {
        let event = source.next_event();
        Event {
            subject: Subject::from(event.subject),
            payload: event.payload.into(),
            headers: None,
            stream_sequence: sequence,
            deliveries: 1,
            published_at: 0,
            received_at: 0,
        }
    };
    (1..=count as u64).map(event).collect()
}

/// The columns of `schemas/telemetry.toml` that read the payload.
fn telemetry() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let device = vec![field("id", DataType::Utf8), field("site", DataType::Utf8)];
    Arc::new(ArrowSchema::new(vec![
        field("event_id", DataType::Utf8),
        field("device", DataType::Struct(device.into())),
        field("sequence", DataType::Int64),
        field("temperature", DataType::Float64),
        field("humidity", DataType::Decimal128(5, 2)),
        field("ok", DataType::Boolean),
        field("recorded_at", DataType::Timestamp(TimeUnit::Microsecond, None)),
        field("message", DataType::Utf8),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_decoders_read_all_events() {
        let (ours, rows) = ours(&EventsSettings::default(), 500, 3).await.unwrap();
        assert_eq!(rows.num_rows(), 500);
        let theirs = arrow_json(500, 3).await.unwrap();
        assert!(ours.per_second > 0.0 && theirs.per_second > 0.0);
        assert!(ours.cpu_seconds_per_million.unwrap() > 0.0);
    }
}
