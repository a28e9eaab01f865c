//! Publishing with a window of outstanding confirmations: as fast as the stream takes events, and no faster. A burst
//! without waiting would be dropped by the stream's ingest limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishAckFuture;

use super::events::Events;

/// Confirmations that may be outstanding.
const WINDOW: usize = 2_048;

/// Publishes `count` events, numbered from 1, and counts those that the stream confirmed.
pub(super) async fn publish(
    jetstream: Context,
    mut events: Events,
    count: u64,
    confirmed: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut outstanding: VecDeque<PublishAckFuture> = VecDeque::with_capacity(WINDOW);
    for sequence in 1..=count {
        let (subject, payload) = events.event(sequence);
        let sent = jetstream.publish(subject, payload.into()).await.context("publishing an event")?;
        outstanding.push_back(sent);
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
