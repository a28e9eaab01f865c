//! Access tokens, and the one cache of them that all connections of the process share.
//!
//! A token is asked for again while the one before is good for as long again: whatever is wrong with who gives them out
//! has that long to be mended before anybody notices. A connection belongs to the token that it was opened with.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use super::Secret;
use crate::retry::Backoff;

/// The part of a token's life after which the next one is asked for. The other half is for an absence of who gives tokens
/// out, and for work that was begun with the old one. An hour's token makes two requests an hour.
const REFRESH_AT: f64 = 0.5;
/// How much later it may be, as a part of the life, so that workers which started together do not ask together.
const REFRESH_JITTER: f64 = 0.1;
/// A token is not used when it ends within this time, to log in or by a session that is taken up again: what is begun with it
/// takes some of that.
const LAST_LOGIN: Duration = Duration::from_secs(1);
/// How often a token is looked at whose end nobody tells.
const LOOK: Duration = Duration::from_secs(60);
/// No refresh comes sooner than this after the one before: managed identities give out the same token until shortly before
/// its end.
const SOONEST: Duration = Duration::from_secs(1);
/// How long one request may take. Longer than a slow answer, and short beside a token's life.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon after a refused login another one is a reason for a new token: where new ones are refused as well it is not for
/// their age.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// Where tokens come from.
pub trait Provider: Send + Sync {
    /// Whether asking costs nothing, as reading a file does: then it is done for each login.
    fn is_local(&self) -> bool;

    /// Asks once.
    fn fetch(&self) -> impl Future<Output = Result<Fetched, TokenError>> + Send;
}

/// What a provider gave.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The token.
    pub secret: Secret,
    /// When it ends; `None` where that is not known.
    pub ends: Option<SystemTime>,
}

/// A token that was had.
#[derive(Debug, Clone)]
pub struct Token {
    /// For the login, and for nothing else.
    pub secret: Secret,
    /// What sessions that were opened with it have.
    pub stamp: Stamp,
    since: SystemTime,
}

/// Tells with what a session was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Grows with each credential that differs from the one before.
    pub generation: u64,
    /// When the server ends the session; `None` where it does not, or nobody knows.
    pub ends: Option<SystemTime>,
}

impl Stamp {
    /// Whether less than `rest` is left.
    fn ends_within(&self, rest: Duration, now: SystemTime) -> bool {
        self.ends.is_some_and(|ends| ends <= now + rest)
    }
}

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenError {
    /// What follows from it.
    pub kind: TokenErrorKind,
    /// The reason, without any secret.
    pub reason: String,
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenErrorKind {
    /// It passes by itself.
    Unavailable,
    /// Somebody has to mend something.
    Refused,
}

impl TokenError {
    /// Passes by itself.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { kind: TokenErrorKind::Unavailable, reason: reason.into() }
    }

    /// Wants a person.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self { kind: TokenErrorKind::Refused, reason: reason.into() }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

impl std::error::Error for TokenError {}

/// Keeps one token, and the reason where the next one could not be had.
#[derive(Debug)]
pub struct TokenCache<P> {
    provider: P,
    state: Mutex<State>,
    /// One request at a time.
    fetching: Semaphore,
}

#[derive(Debug)]
struct State {
    current: Option<Token>,
    /// When the next one is to be asked for.
    due: Instant,
    generation: u64,
    /// The server refused a login with the current one.
    is_distrusted: bool,
    refused_at: Option<Instant>,
    /// The last request failed, and no other is made before this.
    failed: Option<(TokenError, Instant)>,
    attempts: u32,
    /// Without a token: nothing goes on until there is one.
    urgent: Backoff,
    /// With one that is good for a while.
    patient: Backoff,
    /// What somebody has to mend.
    stopped: Backoff,
}

impl State {
    fn usable(&self) -> Option<&Token> {
        let now = SystemTime::now();
        self.current.as_ref().filter(|token| !self.is_distrusted && !token.stamp.ends_within(LAST_LOGIN, now))
    }

    /// Takes a token in. The same one as before is no new credential, and is looked at again within what is left of it.
    fn accept(&mut self, fetched: Fetched) -> Token {
        let now = SystemTime::now();
        let is_same = |token: &&Token| token.secret.expose() == fetched.secret.expose();
        let token = match self.current.as_ref().filter(is_same) {
            Some(same) => Token { stamp: Stamp { ends: fetched.ends, ..same.stamp }, ..same.clone() },
            None => {
                self.generation += 1;
                let stamp = Stamp { generation: self.generation, ends: fetched.ends };
                Token { secret: fetched.secret, stamp, since: now }
            }
        };
        let left = token.stamp.ends.map(|ends| ends.duration_since(now).unwrap_or_default());
        self.due = Instant::now() + refresh_after(left, fastrand::f64());
        self.is_distrusted = false;
        self.failed = None;
        self.attempts = 0;
        (self.urgent, self.patient, self.stopped) =
            (Backoff::transient(), Backoff::busy(), Backoff::stopped());
        self.current = Some(token.clone());
        token
    }

    /// Takes note of a failure: how long nobody asks again.
    fn fail(&mut self, error: TokenError) -> Duration {
        let rest = self
            .usable()
            .and_then(|token| token.stamp.ends)
            .map(|ends| ends.duration_since(SystemTime::now()).unwrap_or_default());
        let wait = match (error.kind, self.usable().is_some()) {
            (TokenErrorKind::Refused, _) => self.stopped.next_wait(),
            (TokenErrorKind::Unavailable, true) => self.patient.next_wait(),
            (TokenErrorKind::Unavailable, false) => self.urgent.next_wait(),
        };
        // A short token is tried for several times before it ends.
        let wait = rest.map_or(wait, |rest| wait.min(rest / 4));
        self.attempts = self.attempts.saturating_add(1);
        self.failed = Some((error, Instant::now() + wait));
        wait
    }

    /// Why nobody may ask now.
    fn withheld(&self) -> Option<&TokenError> {
        self.failed.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(error, _)| error)
    }
}

/// How long after it was had a token of which so much is left is asked for again; `draw` is from 0 to 1.
fn refresh_after(left: Option<Duration>, draw: f64) -> Duration {
    left.map_or(LOOK, |left| left.mul_f64(REFRESH_AT + REFRESH_JITTER * draw)).max(SOONEST)
}

impl<P: Provider> TokenCache<P> {
    /// An empty one.
    pub fn new(provider: P) -> Self {
        let state = State {
            current: None,
            due: Instant::now(),
            generation: 0,
            is_distrusted: false,
            refused_at: None,
            failed: None,
            attempts: 0,
            urgent: Backoff::transient(),
            patient: Backoff::busy(),
            stopped: Backoff::stopped(),
        };
        Self { provider, state: Mutex::new(state), fetching: Semaphore::new(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token to log in with now. Asks for one only where there is none that is good.
    ///
    /// # Errors
    ///
    /// There is none, and none can be had.
    pub async fn token(&self) -> Result<Token, TokenError> {
        let usable = self.state().usable().cloned();
        match usable {
            Some(token) if !self.provider.is_local() => Ok(token),
            Some(token) => Ok(self.renew(Some(token.stamp.generation)).await.unwrap_or(token)),
            None => self.renew(None).await,
        }
    }

    /// Whether sessions of this stamp may be used on: there is no other token, and theirs has not ended.
    pub fn is_current(&self, stamp: &Stamp) -> bool {
        let is_last = self.state().generation == stamp.generation;
        is_last && !stamp.ends_within(LAST_LOGIN, SystemTime::now())
    }

    /// Of the last token; 0 where there was none yet.
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The server refused a login with this token: the next login is with another one, if there is one.
    pub fn distrust(&self, refused: &Secret) {
        let stamp = {
            let state = self.state();
            let is_it = |token: &&Token| token.secret.expose() == refused.expose();
            state.current.as_ref().filter(is_it).map(|token| token.stamp)
        };
        if let Some(stamp) = stamp {
            self.refused(&stamp);
        }
    }

    /// The server refused a login with the token of this stamp: the next login is with another one, if there is one.
    pub fn refused(&self, stamp: &Stamp) {
        let mut state = self.state();
        let is_first = state.refused_at.is_none_or(|at| at.elapsed() > REFUSED_AGAIN);
        if state.generation == stamp.generation && is_first {
            state.refused_at = Some(Instant::now());
            state.is_distrusted = true;
            state.failed = None;
        }
    }

    /// Asks for another token at once, whatever is left of this one: what it is made from has changed.
    pub fn expire(&self) {
        let mut state = self.state();
        state.due = Instant::now();
        state.failed = None;
    }

    /// How old the token is, and how long it is good for; `None` where there is none.
    pub fn age(&self) -> Option<(Duration, Option<Duration>)> {
        let state = self.state();
        let token = state.current.as_ref()?;
        let now = SystemTime::now();
        let ends = token.stamp.ends.map(|ends| ends.duration_since(now).unwrap_or_default());
        Some((now.duration_since(token.since).unwrap_or_default(), ends))
    }

    /// Asks for the next token when it is time. Never ends.
    pub async fn keep_fresh(&self) {
        loop {
            let (wait, seen) = {
                let state = self.state();
                let until = match &state.failed {
                    Some((_, until)) => (*until).max(state.due),
                    None => state.due,
                };
                let wait = until.saturating_duration_since(Instant::now());
                (wait, state.current.as_ref().map(|token| token.stamp.generation))
            };
            // In steps: what is due can become so at any time.
            tokio::time::sleep(wait.clamp(Duration::from_millis(20), SOONEST)).await;
            let is_due = {
                let state = self.state();
                state.due <= Instant::now() && state.withheld().is_none()
            };
            if is_due || self.provider.is_local() {
                // What went wrong is logged, and whoever needs a token meets it again.
                let _ = self.renew(seen).await;
            }
        }
    }

    /// Asks once, and keeps nothing of the answer.
    ///
    /// # Errors
    ///
    /// None can be had, or it has ended already.
    pub async fn probe(&self) -> Result<Fetched, TokenError> {
        self.ask().await.and_then(refuse_ended)
    }

    async fn ask(&self) -> Result<Fetched, TokenError> {
        let late = |_elapsed| {
            let seconds = PATIENCE.as_secs();
            Err(TokenError::unavailable(format!("no access token within {seconds} s")))
        };
        // A library that panics at an answer must not end whoever asks, or what keeps the token fresh.
        let asked = AssertUnwindSafe(self.provider.fetch()).catch_unwind();
        let defect = |_panic| Err(TokenError::unavailable("asking for a token ended by a defect"));
        tokio::time::timeout(PATIENCE, asked).await.map_or_else(late, |asked| asked.unwrap_or_else(defect))
    }

    /// Asks, unless somebody else has had another token than the one `seen` in the meantime.
    async fn renew(&self, seen: Option<u64>) -> Result<Token, TokenError> {
        let closed = |_| TokenError::unavailable("the cache of tokens is closed");
        let _only = self.fetching.acquire().await.map_err(closed)?;
        {
            let state = self.state();
            if let Some(token) = state.usable().filter(|token| Some(token.stamp.generation) != seen) {
                return Ok(token.clone());
            }
            if let Some(error) = state.withheld() {
                return Err(error.clone());
            }
        }
        let fetched = self.ask().await;
        let mut state = self.state();
        match fetched.and_then(refuse_ended) {
            Ok(fetched) => {
                let before = state.generation;
                let token = state.accept(fetched);
                if token.stamp.generation != before {
                    let seconds = token.stamp.ends.and_then(|ends| ends.duration_since(token.since).ok());
                    let seconds = seconds.map(|seconds| seconds.as_secs());
                    tracing::debug!(generation = token.stamp.generation, seconds, "new access token");
                }
                Ok(token)
            }
            Err(error) => {
                let has_token = state.usable().is_some();
                let wait_seconds = state.fail(error.clone()).as_secs_f64();
                tracing::warn!(
                    error = %error, attempt = state.attempts, wait_seconds, has_token,
                    "no new access token, trying again"
                );
                Err(error)
            }
        }
    }
}

fn refuse_ended(fetched: Fetched) -> Result<Fetched, TokenError> {
    match fetched.ends {
        Some(ends) if ends <= SystemTime::now() => {
            Err(TokenError::refused("the access token has ended already"))
        }
        _ => Ok(fetched),
    }
}

#[cfg(test)]
mod tests;
