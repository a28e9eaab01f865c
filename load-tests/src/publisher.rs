//! Publishing with a window of outstanding confirmations: as fast as the stream takes events, or at a pace.
//!
//! Every event asks its stream for a confirmation, all of them on one subject of this publisher's own: a future for
//! each, as the client's own JetStream publish has it, costs more than the publish. JetStream's batches of 2.12 would
//! save the server the confirmations, but they mark each message by headers that stay in the stream, and then it is
//! other messages that are measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::Client;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::events::{Events, Good};
use crate::scenario::{Burst, Fastest, Publish, Steady};

/// Confirmations that may be outstanding: below what a stream takes in before it drops (10,000 messages).
const WINDOW: usize = 4_096;
/// The same in bytes: below the stream's 128 MiB.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// Events between two looks at the window.
const CHUNK: usize = 64;
/// How often events of a steady load are due.
const TICK: Duration = Duration::from_millis(10);
/// A stream that confirms nothing for so long has lost something.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many events are confirmed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published(Arc<AtomicU64>);

impl Published {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Publishes the events of one run.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: Client,
    reply: String,
    events: Events,
    sent: u64,
    published: Published,
    window: Arc<Semaphore>,
    size: usize,
    confirming: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Publisher {
    /// A publisher of events of about so many bytes.
    pub(crate) async fn new(client: Client, events: Events, event_bytes: usize) -> anyhow::Result<Self> {
        let reply = client.new_inbox();
        let confirmations = client.subscribe(reply.clone()).await.context("subscribing to confirmations")?;
        let size = (WINDOW_BYTES / event_bytes.max(1)).clamp(CHUNK, WINDOW);
        let window = Arc::new(Semaphore::new(size));
        let published = Published::default();
        let confirming = confirm(confirmations, published.clone(), Arc::clone(&window));
        let confirming = AbortOnDropHandle::new(tokio::spawn(confirming));
        Ok(Self { client, reply, events, sent: 0, published, window, size, confirming })
    }

    /// Counts as it goes.
    pub(crate) fn published(&self) -> Published {
        self.published.clone()
    }

    /// What the table must hold when everything so far is in it.
    pub(crate) fn good(&self) -> Good {
        self.events.good()
    }

    /// Publishes what a scenario has for after the start; returns when all of it is confirmed.
    pub(crate) async fn run(&mut self, publish: &Publish) -> anyhow::Result<()> {
        if let Some(Steady { events_per_second, .. }) = &publish.steady {
            let events = publish.steady.as_ref().map_or(0, Steady::events);
            self.steady(*events_per_second, events).await?;
        }
        if let Some(Burst { events, every, times }) = &publish.burst {
            let mut due = tokio::time::interval(*every);
            for _ in 0..*times {
                due.tick().await;
                self.send(*events).await?;
            }
        }
        if let Some(Fastest { events }) = &publish.fastest {
            self.send(*events).await?;
        }
        self.confirmed().await
    }

    /// Publishes so many; returns when they are confirmed.
    pub(crate) async fn fill(&mut self, events: u64) -> anyhow::Result<()> {
        self.send(events).await?;
        self.confirmed().await
    }

    async fn steady(&mut self, events_per_second: u64, events: u64) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let mut sent = 0;
        while sent < events {
            ticks.tick().await;
            // numbers of events are far below 2^53
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let due = (started.elapsed().as_secs_f64() * events_per_second as f64) as u64;
            let due = due.min(events);
            self.send(due.saturating_sub(sent)).await?;
            sent = sent.max(due);
        }
        Ok(())
    }

    async fn send(&mut self, events: u64) -> anyhow::Result<()> {
        let mut left = events;
        while left > 0 {
            let chunk = left.min(CHUNK as u64);
            self.room_for(usize::try_from(chunk)?).await?;
            for _ in 0..chunk {
                let event = self.events.next_event();
                self.client
                    .publish_with_reply(event.subject, self.reply.clone(), event.payload.into())
                    .await
                    .context("publishing an event")?;
            }
            self.sent += chunk;
            left -= chunk;
        }
        Ok(())
    }

    /// Waits until everything that was sent is confirmed.
    async fn confirmed(&mut self) -> anyhow::Result<()> {
        self.client.flush().await.context("publishing events")?;
        self.room_for(self.size).await?;
        self.window.add_permits(self.size);
        ensure!(
            self.published.count() == self.sent,
            "{} events were published, and {} are confirmed",
            self.sent,
            self.published.count()
        );
        Ok(())
    }

    /// Waits until so many more may be outstanding, and takes their places.
    async fn room_for(&mut self, events: usize) -> anyhow::Result<()> {
        let window = Arc::clone(&self.window);
        let room = window.acquire_many(u32::try_from(events)?);
        match tokio::time::timeout(PATIENCE, room).await {
            Ok(Ok(room)) => {
                room.forget();
                Ok(())
            }
            // closed by whoever confirms, which has ended
            Ok(Err(_)) => self.why_it_ended().await,
            Err(_) => bail!(
                "the stream confirms nothing for {} s: {} events were published, and {} are confirmed",
                PATIENCE.as_secs(),
                self.sent,
                self.published.count()
            ),
        }
    }

    async fn why_it_ended(&mut self) -> anyhow::Result<()> {
        (&mut self.confirming).await.context("confirming ended by a defect")??;
        bail!("the connection with the NATS server ended while events were published")
    }
}

/// What a stream answers.
#[derive(Debug, Deserialize)]
struct Confirmation {
    #[serde(default)]
    error: Option<Refusal>,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    description: String,
}

async fn confirm(
    confirmations: async_nats::Subscriber,
    published: Published,
    window: Arc<Semaphore>,
) -> anyhow::Result<()> {
    // whoever waits for room must learn that none is coming
    let _closes = Closes(Arc::clone(&window));
    let mut confirmations = confirmations.ready_chunks(CHUNK);
    while let Some(chunk) = confirmations.next().await {
        for message in &chunk {
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                bail!("no stream takes the events");
            }
            let answer: Confirmation =
                serde_json::from_slice(&message.payload).context("reading a confirmation")?;
            if let Some(Refusal { description }) = answer.error {
                bail!("the stream refuses an event: {description}");
            }
            ensure!(!answer.duplicate, "the stream takes an event for one that it has");
        }
        published.0.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        window.add_permits(chunk.len());
    }
    Ok(())
}

struct Closes(Arc<Semaphore>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}
