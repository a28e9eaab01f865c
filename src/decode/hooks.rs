//! Events that make the decoder fail, for tests of what becomes of them. Only with the cargo feature `test-hooks`, which no
//! build but that of the tests has, and only where the environment asks for it.

use std::time::Duration;

use tokio::process::Command;

#[cfg(feature = "test-hooks")]
const VARIABLE: &str = "NATS_SQL_SINK_TEST_CRASH";

/// A decode that takes longer than this is taken for one that never ends: a batch is decoded at hundreds of thousands of
/// events a second.
pub(super) fn patience() -> Duration {
    if are_on() { Duration::from_secs(3) } else { Duration::from_secs(60) }
}

/// Whether events can ask for a failure.
#[cfg(feature = "test-hooks")]
pub(super) fn are_on() -> bool {
    static ARE_ON: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ARE_ON.get_or_init(|| std::env::var_os(VARIABLE).is_some())
}

/// Whether events can ask for a failure.
#[cfg(not(feature = "test-hooks"))]
pub(super) fn are_on() -> bool {
    false
}

/// Lets a process that decodes on trial fail too.
#[cfg(feature = "test-hooks")]
pub(super) fn pass_on(command: &mut Command) {
    if are_on() {
        command.env(VARIABLE, "1");
    }
}

/// Lets a process that decodes on trial fail too.
#[cfg(not(feature = "test-hooks"))]
pub(super) fn pass_on(_command: &mut Command) {}

/// Fails as the payload asks for.
#[cfg(feature = "test-hooks")]
#[allow(clippy::panic, reason = "it is what the test wants")]
pub(super) fn fail(payload: &[u8]) {
    let asks_for = |word: &str| {
        let text = format!("\"crash\":\"{word}\"");
        payload.windows(text.len()).any(|window| window == text.as_bytes())
    };
    if !are_on() {
        return;
    }
    if asks_for("abort") {
        std::process::abort();
    }
    if asks_for("panic") {
        panic!("a test asked for it");
    }
    if asks_for("hang") {
        loop {
            std::thread::park();
        }
    }
}

/// Fails as the payload asks for.
#[cfg(not(feature = "test-hooks"))]
#[inline]
pub(super) fn fail(_payload: &[u8]) {}
