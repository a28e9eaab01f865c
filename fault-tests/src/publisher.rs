//! The load of a lane: events at a steady rate, each published until its stream has confirmed it. What was confirmed,
//! and where, is the truth that tables are held against.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use test_bench::wait::{self, PATIENCE};
use tokio_util::task::AbortOnDropHandle;

use crate::events::{self, Bad, BadRule, Event};
use crate::mode::Mode;

/// Confirmations that may be outstanding.
const WINDOW: usize = 400;
/// How often events are due.
const TICK: Duration = Duration::from_millis(20);
/// Before an event that was not confirmed is published again.
const PAUSE: Duration = Duration::from_millis(250);

/// What to publish.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) events_per_second: u64,
    pub(crate) bad: Vec<BadRule>,
    /// Whether there are several versions of some keys.
    pub(crate) versions: bool,
    pub(crate) max_payload: usize,
    /// Bytes of each good event that nobody looks at.
    pub(crate) note_bytes: usize,
}

#[derive(Debug)]
struct State {
    events: Vec<Event>,
    load: Load,
    is_running: bool,
    /// Events to be published at once, besides those of the rate.
    burst: u64,
    unconfirmed: usize,
    lost: HashSet<u64>,
    /// The stream of the events to come.
    generation: u32,
}

/// The publisher of one lane. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Publisher {
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// A publisher that does not publish yet.
    pub(crate) fn new(jetstream: Context, mode: &'static Mode, load: Load) -> Self {
        let state = Arc::new(Mutex::new(State {
            events: Vec::new(),
            load,
            is_running: false,
            burst: 0,
            unconfirmed: 0,
            lost: HashSet::new(),
            generation: 0,
        }));
        let task = tokio::spawn(run(Arc::clone(&state), jetstream, mode));
        Self { state, _task: AbortOnDropHandle::new(task) }
    }

    /// Begins, or goes on.
    pub(crate) fn resume(&self) {
        lock(&self.state).is_running = true;
    }

    /// Publishes no more, and returns when everything that was published is confirmed.
    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        lock(&self.state).is_running = false;
        self.confirmed().await
    }

    /// Publishes so many events at once, and returns when everything is confirmed.
    pub(crate) async fn burst(&self, count: u64) -> anyhow::Result<()> {
        lock(&self.state).burst += count;
        self.confirmed().await
    }

    async fn confirmed(&self) -> anyhow::Result<()> {
        wait::until("the stream confirms what was published", 2 * PATIENCE, async || {
            let state = lock(&self.state);
            Ok((state.unconfirmed == 0 && state.burst == 0).then_some(()))
        })
        .await
    }

    /// The next events are bad, so many.
    pub(crate) fn next_are(&self, count: u64, kind: Bad) {
        let mut state = lock(&self.state);
        let next = state.events.len() as u64 + 1;
        state.load.bad.insert(0, BadRule::range(next, next + count, kind));
    }

    /// So many have been published.
    pub(crate) fn published(&self) -> u64 {
        lock(&self.state).events.len() as u64
    }

    /// All of them.
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.state).events.clone()
    }

    /// Keys of good events that must be in the table when everything up to the event `serial` is.
    pub(crate) fn keys_up_to(&self, serial: u64) -> u64 {
        let state = lock(&self.state);
        let good = state.events.iter().filter(|event| event.serial <= serial && event.bad.is_none());
        good.map(|event| event.key).collect::<HashSet<_>>().len() as u64
    }

    /// The stream itself may have lost these, before anybody read them.
    pub(crate) fn lose(&self, serials: impl IntoIterator<Item = u64>) {
        lock(&self.state).lost.extend(serials);
    }

    /// The stream was made anew: sequences begin again.
    pub(crate) fn stream_made_anew(&self) {
        lock(&self.state).generation += 1;
    }

    /// What the stream may have lost.
    pub(crate) fn lost(&self) -> HashSet<u64> {
        lock(&self.state).lost.clone()
    }
}

/// What became of a publish: the event's serial number, and its place in the stream.
type Outcome = (u64, Option<u64>);

async fn run(state: Arc<Mutex<State>>, jetstream: Context, mode: &'static Mode) {
    let mut outstanding: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
    let mut again: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut ticks = tokio::time::interval(TICK);
    let mut due = 0.0_f64;
    loop {
        tokio::select! {
            Some((serial, sequence)) = outstanding.next(), if !outstanding.is_empty() => {
                match sequence {
                    Some(sequence) => {
                        let mut state = lock(&state);
                        state.unconfirmed -= 1;
                        if let Some(event) = event_mut(&mut state, serial) {
                            event.sequence = Some(sequence);
                        }
                    }
                    None => again.push_back((Instant::now() + PAUSE, serial)),
                }
            }
            _ = ticks.tick() => {
                while again.front().is_some_and(|(at, _)| *at <= Instant::now()) {
                    let Some((_, serial)) = again.pop_front() else { break };
                    let event = event_mut(&mut lock(&state), serial).map(|event| {
                        event.again += 1;
                        event.clone()
                    });
                    if let Some(event) = event {
                        outstanding.push(publish(&jetstream, mode, &event, payload(&state, &event)));
                    }
                }
                let room = WINDOW.saturating_sub(outstanding.len() + again.len());
                for event in take_due(&state, &mut due, room) {
                    outstanding.push(publish(&jetstream, mode, &event, payload(&state, &event)));
                }
            }
        }
    }
}

fn payload(state: &Mutex<State>, event: &Event) -> Vec<u8> {
    let (max_payload, note_bytes) = {
        let load = &lock(state).load;
        (load.max_payload, load.note_bytes)
    };
    event.payload_with_note(max_payload, note_bytes)
}

fn event_mut<'a>(state: &'a mut MutexGuard<'_, State>, serial: u64) -> Option<&'a mut Event> {
    state.events.get_mut(usize::try_from(serial).ok()?.checked_sub(1)?)
}

/// Makes the events that are due now, at most `room`.
fn take_due(state: &Mutex<State>, due: &mut f64, room: usize) -> Vec<Event> {
    let mut state = lock(state);
    if state.is_running {
        let rate = u32::try_from(state.load.events_per_second).unwrap_or(u32::MAX);
        // what could not be published in time is not made up for without end
        *due = (*due + f64::from(rate) * TICK.as_secs_f64()).min(f64::from(rate));
    } else {
        *due = 0.0;
    }
    let mut made = Vec::new();
    while made.len() < room && (state.burst > 0 || *due >= 1.0) {
        if state.burst > 0 {
            state.burst -= 1;
        } else {
            *due -= 1.0;
        }
        let mut event = events::next(&state.events, &state.load.bad, state.load.versions);
        event.generation = state.generation;
        state.events.push(event.clone());
        state.unconfirmed += 1;
        made.push(event);
    }
    made
}

/// Publishes one event, and waits for the stream's word.
fn publish(
    jetstream: &Context,
    mode: &'static Mode,
    event: &Event,
    payload: Vec<u8>,
) -> BoxFuture<'static, Outcome> {
    let (jetstream, event) = (jetstream.clone(), event.clone());
    Box::pin(async move {
        let payload = payload.into();
        let mut headers = HeaderMap::new();
        // a header takes from what a message may hold: the largest event has none, and is not published twice
        if event.bad != Some(Bad::Largest) {
            headers.insert("Nats-Msg-Id", format!("{}-{}", mode.name, event.serial));
        }
        let sent = async {
            let subject = event.subject(mode.name);
            let sent = match headers.is_empty() {
                true => jetstream.publish(subject, payload).await,
                false => jetstream.publish_with_headers(subject, headers, payload).await,
            };
            let confirmed = sent.context("publishing")?.await.context("waiting for the stream")?;
            anyhow::ensure!(confirmed.stream == mode.stream(), "another stream took the event");
            anyhow::Ok(confirmed.sequence)
        };
        (event.serial, sent.await.ok())
    })
}
