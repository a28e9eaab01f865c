//! Publishing with a window of outstanding confirmations: as fast as the stream takes events, and no faster. A burst
//! without waiting would be dropped by the stream's ingest limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishAckFuture;

use super::events::Events;

/// Confirmations that may be outstanding.
const WINDOW: usize = 2_048;

/// Events between two looks at the clock.
const STEP: u64 = 64;

/// Publishes `count` events, numbered from 1, and counts those that the stream confirmed. Spread evenly over this time, or as
/// fast as the stream takes them where that is longer.
pub(super) async fn publish(
    jetstream: Context,
    mut events: Events,
    count: u64,
    confirmed: Arc<AtomicU64>,
    over: Duration,
) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let mut outstanding: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW);
    for sequence in 1..=count {
        let (subject, payload) = events.event(sequence);
        let sent = jetstream.publish(subject, payload.into()).await.context("publishing an event")?;
        outstanding.push_back(sent);
        if sequence % STEP == 0 {
            #[allow(clippy::cast_precision_loss)] // a share of a time
            let share = sequence as f64 / count as f64;
            tokio::time::sleep_until(started + over.mul_f64(share)).await;
        }
        if outstanding.len() >= WINDOW {
            confirm(&mut outstanding, WINDOW / 2, &confirmed).await?;
        }
    }
    confirm(&mut outstanding, usize::MAX, &confirmed).await
}

async fn confirm(
    outstanding: &mut VecDeque<PublishAckFuture>,
    most: usize,
    confirmed: &AtomicU64,
) -> anyhow::Result<()> {
    for _ in 0..most.min(outstanding.len()) {
        if let Some(sent) = outstanding.pop_front() {
            sent.await.context("waiting for the stream to confirm an event")?;
            confirmed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
