//! Secrets that are exchanged while the process works.
//!
//! Their files are looked at every second, and at a SIGHUP. They are read rather than watched by notifications of the
//! file system: Kubernetes exchanges a link to the folder above them, a file mounted by itself keeps its inode, network
//! file systems notify nobody, and the number of watches of a machine is limited. A few small files a second cost
//! nothing.
//!
//! What is new is tried first, on a connection of its own. Only what a server takes is adopted, so a file that is half
//! written, or belongs elsewhere, changes nothing. Then the connection of NATS is made anew, while no pull is open, and
//! sessions of the database from before are not used again.

mod concern;
mod planes;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::concern::Concern;
use self::planes::{Database, Nats, Plane};
use crate::config::Config;
use crate::disposition::{self, Disposition, Duplicates};
use crate::identity::files::Seen;
use crate::identity::nats::{Fingerprint, NatsIdentity};
use crate::metrics;
use crate::mssql::connect::Pool;
use crate::nats::gate::Pause;
use crate::shutdown::Shutdown;
use crate::status::{CredentialStatus, Credentials};
use crate::telemetry;

/// How often the files are looked at. A content counts when it is the same at two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A content that was refused is tried again after this long: the server may have to hear of it first. Then after twice as long
/// each time, up to the most: a server may lock a login that is tried with a wrong password again and again.
const TRY_AGAIN: Duration = Duration::from_secs(10);
const TRY_AGAIN_MOST: Duration = Duration::from_secs(600);
/// And up to this where nobody has refused it, but somebody is away: their return is not to be waited for long.
const TRY_AGAIN_MOST_AWAY: Duration = Duration::from_secs(60);

/// Counts SIGHUPs, which from now on do not end the process.
///
/// # Errors
///
/// The process cannot install a signal handler.
pub(super) fn listen() -> std::io::Result<watch::Receiver<u64>> {
    let hangups = signal(SignalKind::hangup())?;
    let (counted, count) = watch::channel(0);
    tokio::spawn(count_hangups(hangups, counted));
    Ok(count)
}

async fn count_hangups(mut hangups: Signal, counted: watch::Sender<u64>) {
    while hangups.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "looking at all secrets");
        counted.send_modify(|count| *count += 1);
    }
}

/// Looks after the secrets of all planes, each in a task of its own.
#[derive(Clone)]
pub(super) struct Rotations {
    pub(super) config: Arc<Config>,
    pub(super) hangups: watch::Receiver<u64>,
    pub(super) credentials: Credentials,
    pub(super) shutdown: Shutdown,
}

impl Rotations {
    /// Until a stop, or until the set is dropped.
    pub(super) fn start(
        self,
        identity: &Arc<NatsIdentity>,
        client: &Client,
        pause: &Pause,
        pool: Option<&Pool>,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let nats = Nats::new(Arc::clone(identity), client.clone(), pause.clone(), self.shutdown.clone());
        let database = pool.map(|pool| Database::new(self.config.sql.clone(), pool.clone()));
        tasks.spawn(Rotation { plane: nats, of: self.clone() }.run());
        if let Some(plane) = database {
            tasks.spawn(Rotation { plane, of: self }.run());
        }
        tasks
    }
}

/// Looks after the secrets of one plane.
struct Rotation<P> {
    plane: P,
    of: Rotations,
}

/// What was found of a plane's files.
#[derive(Default)]
struct Findings {
    /// At the look before.
    last: Option<Seen>,
    /// What was tried in vain.
    refused: Option<Refused>,
    /// Why new secrets cannot be used.
    problem: Option<String>,
    concern: Option<Concern>,
}

/// Why a content is not used.
struct NotAdopted {
    problem: String,
    /// The longest until it is tried again.
    most: Duration,
}

/// A content that was tried in vain.
struct Refused {
    fingerprint: Fingerprint,
    at: Instant,
    /// Until it is tried again.
    wait: Duration,
}

impl<P: Plane> Rotation<P> {
    /// Until a stop.
    async fn run(mut self) {
        let mut findings = Findings::default();
        let mut is_asked = false;
        loop {
            self.look(&mut findings, is_asked).await;
            self.tell(&mut findings);
            is_asked = tokio::select! {
                () = tokio::time::sleep(LOOK) => false,
                Ok(()) = self.of.hangups.changed() => true,
                () = self.of.shutdown.stopping() => return,
            };
        }
    }

    async fn look(&mut self, findings: &mut Findings, is_asked: bool) {
        let seen = match self.plane.look().await {
            Ok(seen) => seen,
            Err(error) => {
                findings.last = None;
                self.complain(findings, format!("a new secret cannot be used: {error}"));
                return;
            }
        };
        if seen.fingerprint == self.plane.held().fingerprint {
            if is_asked {
                tracing::info!(plane = P::NAME, "the secrets are as they were");
            }
            (findings.last, findings.refused) = (None, None);
            findings.problem = self.plane.trouble().await;
            return;
        }
        let was = findings.last.replace(seen.clone());
        let is_settled = is_asked || was.is_some_and(|was| was.fingerprint == seen.fingerprint);
        let refused = findings.refused.as_ref().filter(|refused| refused.fingerprint == seen.fingerprint);
        let last_wait = refused.map(|refused| refused.wait);
        let is_too_soon = refused.is_some_and(|refused| refused.at.elapsed() < refused.wait);
        if !is_settled || (is_too_soon && !is_asked) {
            return;
        }
        match self.adopt(&seen).await {
            Ok(is_adopted) => {
                (findings.last, findings.refused, findings.problem) = (None, None, None);
                if is_adopted {
                    tracing::info!(plane = P::NAME, "the secrets were exchanged");
                }
            }
            Err(NotAdopted { problem, most }) => {
                let wait = last_wait.map_or(TRY_AGAIN, |wait| (2 * wait).min(most));
                findings.refused = Some(Refused { fingerprint: seen.fingerprint, at: Instant::now(), wait });
                self.complain(findings, format!("a new secret cannot be used: {problem}"));
            }
        }
    }

    async fn adopt(&mut self, seen: &Seen) -> Result<bool, NotAdopted> {
        if seen.lifetime.is_over(SystemTime::now()) {
            return Err(NotAdopted { problem: "it has ended already".to_owned(), most: TRY_AGAIN_MOST });
        }
        self.plane.adopt(seen).await.map_err(|error| NotAdopted {
            problem: telemetry::describe(&error),
            most: match disposition::disposition(&error, Duplicates::default()) {
                Disposition::Retry => TRY_AGAIN_MOST_AWAY,
                _ => TRY_AGAIN_MOST,
            },
        })
    }

    /// Says once what keeps new secrets from being used. The former ones stay.
    fn complain(&self, findings: &mut Findings, problem: String) {
        if findings.problem.as_ref() != Some(&problem) {
            tracing::warn!(plane = P::NAME, problem, "the former secrets stay");
            findings.problem = Some(problem);
        }
    }

    /// Tells of the age and the end of what is in use.
    fn tell(&self, findings: &mut Findings) {
        let Some(held) = self.plane.told() else { return };
        let now = SystemTime::now();
        let since = held.lifetime.issued_at.unwrap_or(held.read_at);
        let expires_at = held.lifetime.expires_at;
        if !self.plane.has_own_gauges() {
            metrics::credential(P::NAME, seconds(since, now), expires_at.map(|end| seconds(now, end)));
        }
        let concern = concern::of(held.lifetime, since, self.of.config.rotation.max_age, now);
        let text =
            concern.map(|concern| concern.text(since, expires_at, self.of.config.rotation.max_age, now));
        if findings.concern != concern {
            if let Some(text) = &text {
                tracing::warn!(plane = P::NAME, "{text}");
            }
            findings.concern = concern;
        }
        let problem = findings.problem.clone();
        self.of.credentials.set(P::NAME, CredentialStatus { since, expires_at, warning: text, problem });
    }
}

/// From one moment to another, negative where that came first.
fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(elapsed) => elapsed.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests;
