//! The connection with NATS: how it is made, why it is not, and how it is made anew with another identity.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, Event};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::config::NatsConfig;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::identity::nats::NatsIdentity;
use crate::identity::tls;
use crate::metrics;
use crate::nats::charge;
use crate::nats::denied::Denials;

/// What the program is called in the server's lists of connections.
const NAME: &str = concat!("nats-sql-sink/", env!("CARGO_PKG_VERSION"));
/// A connection for a trial does not ask for signs of life.
const NO_PINGS: Duration = Duration::from_secs(3600);

/// Connects as the configuration says, for a command that is over soon.
///
/// # Errors
///
/// A secret cannot be used ([`ErrorKind::Credential`]), or as of [`connect`].
pub async fn connect_as(config: &NatsConfig, ping_interval: Duration, denials: &Denials) -> Result<Client> {
    connect(&identity(config).await?, ping_interval, denials).await
}

/// Reads who the sink is.
///
/// # Errors
///
/// [`ErrorKind::Credential`]: a secret cannot be used; [`ErrorKind::CredentialUnavailable`]: it cannot be had now.
pub async fn identity(config: &NatsConfig) -> Result<Arc<NatsIdentity>> {
    let loaded = NatsIdentity::load(config).await;
    loaded.map_err(|error| {
        let kind = match error.passes_by_itself() {
            true => ErrorKind::CredentialUnavailable,
            false => ErrorKind::Credential,
        };
        Error::new(Phase::Nats, kind, error.to_string())
    })
}

/// Connects. A connection that breaks later is made again by the client, without end, and each time with what the
/// secrets are by then.
///
/// One that says nothing for two of `ping_interval` counts as broken: what is held has to be renewed, and what is
/// durable acknowledged, before JetStream delivers it again. What the server does not allow is told to `denials`.
///
/// # Errors
///
/// [`ErrorKind::NatsRefused`] where the server refuses the credentials, [`ErrorKind::NatsUnavailable`] else.
pub async fn connect(
    identity: &Arc<NatsIdentity>,
    ping_interval: Duration,
    denials: &Denials,
) -> Result<Client> {
    let (observing, denials) = (Arc::clone(identity), denials.clone());
    let options = identity.options().map_err(|error| cannot_connect(identity, &tls::words(&error)))?;
    let options = options
        .ping_interval(ping_interval)
        .name(NAME)
        .subscription_capacity(2 * charge::MAX_PULL_MESSAGES)
        .event_callback(move |event| {
            observe(&event, &observing, &denials);
            std::future::ready(())
        });
    options.connect(identity.servers()).await.map_err(|error| explained(identity, &error))
}

/// Whether a server takes this identity, by a connection that is closed at once.
///
/// # Errors
///
/// As of [`connect`].
pub async fn trial(identity: &Arc<NatsIdentity>) -> Result<()> {
    let options = identity.options().map_err(|error| cannot_connect(identity, &tls::words(&error)))?;
    let options = options.ping_interval(NO_PINGS).name(format!("{NAME} trial"));
    let connected = options.connect(identity.servers()).await;
    let client = connected.map_err(|error| explained(identity, &error))?;
    // The last handle closes it; an error means that it is closed already.
    let _ = client.drain().await;
    Ok(())
}

/// How long the server may take to work through what was published before the connection is closed.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Makes the connection anew, and waits until it is there. First the server gets what was published up to now: what the
/// client has not written yet it would forget.
///
/// # Errors
///
/// [`ErrorKind::NatsUnavailable`]: it is not there within `patience`. The client goes on trying.
pub async fn reconnect(client: &Client, patience: Duration) -> Result<()> {
    let failed = |text: &str| Error::new(Phase::Nats, ErrorKind::NatsUnavailable, text);
    let connects = || client.statistics().connects.load(Ordering::Relaxed);
    if !matches!(tokio::time::timeout(LAST_WORD, round_trip(client)).await, Ok(Ok(()))) {
        tracing::debug!("the server has not answered before the connection is made anew");
    }
    let before = connects();
    client.force_reconnect().await.map_err(|_closed| failed("the connection is closed"))?;
    let there = async {
        while connects() == before || !is_connected(client) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let late = |_elapsed| failed("the connection is not made anew in time");
    tokio::time::timeout(patience, there).await.map_err(late)
}

fn explained(identity: &NatsIdentity, error: &ConnectError) -> Error {
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            identity.login_refused();
            let kind = ErrorKind::NatsRefused;
            let text = format!("cannot connect to {}: {error}", identity.servers().join(", "));
            Error::new(Phase::Nats, kind, text)
        }
        _ => {
            // what this side has refused says more than that the handshake failed
            let why = identity.take_refusal().or_else(|| tls_error(error).map(tls::words));
            cannot_connect(identity, &why.unwrap_or_else(|| error.to_string()))
        }
    }
}

fn cannot_connect(identity: &NatsIdentity, why: &str) -> Error {
    let text = format!("cannot connect to {}: {why}", identity.servers().join(", "));
    Error::new(Phase::Nats, ErrorKind::NatsUnavailable, text)
}

/// The error of TLS in the chain of causes, where there is one. An I/O error names as its cause not what it wraps, but
/// the cause of that.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        if let Some(found) = wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(found);
        }
        if let Some(found) = cause.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = cause.source();
    }
    None
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
fn observe(event: &Event, identity: &NatsIdentity, denials: &Denials) {
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
        Event::Connected => {
            let is_new_identity = identity.taken();
            tracing::info!(event = %event, is_new_identity, "nats connection");
        }
        Event::Draining | Event::Closed => tracing::info!(event = %event, "nats connection"),
        // why a handshake was broken off is known on this side alone
        Event::ClientError(_) => match identity.take_refusal() {
            Some(why) => tracing::warn!(event = %event, why, "nats connection"),
            None => tracing::warn!(event = %event, "nats connection"),
        },
        _ => tracing::warn!(event = %event, "nats connection"),
    }
}
