//! NATS: the connection, and what is done over it. `intake` pulls, `lease` keeps what is held, `reader` reads a
//! partition in order, `dead_letter` sets bad
//! events aside, `settle` acknowledges and gives back.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::metrics;
use crate::nats::denied::Denials;

mod answers;
pub mod charge;
pub mod consumer;
pub mod coverage;
pub mod dead_letter;
pub mod denied;
pub mod gate;
pub mod intake;
pub mod lease;
mod payload;
pub mod reader;
pub mod reply;
pub mod settle;
pub mod stored;
pub mod unreadable;
pub mod user_info;
pub mod watch;

/// Connects, with what the configuration's secrets gave as `options`. A connection that breaks later is made again
/// by the client, without end.
///
/// One that says nothing for two of `ping_interval` counts as broken: what is held has to be renewed, and what is
/// durable acknowledged, before JetStream delivers it again. What the server does not allow is told to `denials`.
///
/// # Errors
///
/// [`ErrorKind::NatsRefused`] where the server refuses the credentials, [`ErrorKind::NatsUnavailable`] else.
pub async fn connect(
    servers: &[String],
    options: ConnectOptions,
    ping_interval: Duration,
    denials: &Denials,
) -> Result<Client> {
    let denials = denials.clone();
    let options = options
        .ping_interval(ping_interval)
        .name(concat!("nats-sql-sink/", env!("CARGO_PKG_VERSION")))
        .subscription_capacity(2 * charge::MAX_PULL_MESSAGES)
        .event_callback(move |event| {
            observe(&event, &denials);
            std::future::ready(())
        });
    options.connect(servers).await.map_err(|error| {
        let kind = match error.kind() {
            async_nats::ConnectErrorKind::Authentication
            | async_nats::ConnectErrorKind::AuthorizationViolation => ErrorKind::NatsRefused,
            _ => ErrorKind::NatsUnavailable,
        };
        Error::new(Phase::Nats, kind, format!("cannot connect to {}: {error}", servers.join(", ")))
    })
}

/// Whether there is a connection now: without one nothing that is published can arrive soon.
pub fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

/// Resolves when the server has worked through everything that was published before: a message to ourselves comes back
/// behind it. A flush would only say that it was written, and a connection that is closed with something unread in it
/// is reset, which makes the server forget what it has not read yet.
///
/// # Errors
///
/// The connection is closed.
pub async fn round_trip(client: &Client) -> Result<()> {
    let closed = |error: &dyn std::error::Error| {
        Error::new(Phase::Nats, ErrorKind::NatsUnavailable, error.to_string())
    };
    let inbox = client.new_inbox();
    let mut echo = client.subscribe(inbox.clone()).await.map_err(|error| closed(&error))?;
    client.publish(inbox, Bytes::new()).await.map_err(|error| closed(&error))?;
    match echo.next().await {
        Some(_echo) => Ok(()),
        None => Err(Error::new(Phase::Nats, ErrorKind::NatsUnavailable, "the connection is closed")),
    }
}

/// Logs and counts what happens to the connection.
fn observe(event: &Event, denials: &Denials) {
    let name = match event {
        Event::Connected => "connected",
        Event::Disconnected => "disconnected",
        Event::LameDuckMode => "lame_duck_mode",
        Event::Draining => "draining",
        Event::Closed => "closed",
        Event::SlowConsumer(_) => "slow_consumer",
        Event::ServerError(_) => "server_error",
        Event::ClientError(_) => "client_error",
    };
    metrics::nats_event(name);
    match event {
        // said by the right that is missing, once
        Event::ServerError(error) if denials.met(&error.to_string()) => {}
        Event::Connected | Event::Draining | Event::Closed => {
            tracing::info!(event = %event, "nats connection");
        }
        _ => tracing::warn!(event = %event, "nats connection"),
    }
}
