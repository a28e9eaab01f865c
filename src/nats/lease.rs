//! Keeping what is held: while the database is slow or away, JetStream is told that work goes on, so that it does
//! not deliver the same events again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;

use crate::delivery::Ledger;
use crate::shutdown::Shutdown;

/// "Work in progress": the server starts `ack_wait` anew.
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Four ticks in an `ack_wait`: what is held for more than one is renewed when at most half of its time is over, and
/// the renewal may still fail once.
const TICKS_PER_ACK_WAIT: u32 = 4;

/// Renews until the process gives up what it holds.
pub async fn run(client: Client, ledger: Arc<Ledger>, ack_wait: Duration, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(ack_wait / TICKS_PER_ACK_WAIT);
    // A tick that comes late is not made up for: the next one lists the same deliveries.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.forced() => return,
            _ = ticks.tick() => {}
        }
        let held = ledger.held_for_a_tick();
        let renewed = held.len();
        // While the connection is away the client takes no more than a few of them: a stop must not wait for it.
        let renewing = async {
            for reply in held {
                if client.publish(reply, IN_PROGRESS).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = renewing => {}
            () = shutdown.forced() => return,
        }
        if renewed > 0 {
            tracing::debug!(renewed, "told jetstream that work goes on");
        }
    }
}
