//! What NATS and the database have of their own in a rotation.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;

use crate::config::{AuthMethod, SqlConfig};
use crate::error;
use crate::identity::IdentityError;
use crate::identity::files::{self, Content, Seen};
use crate::identity::nats::{NatsIdentity, Shown};
use crate::mssql::connect::Pool;
use crate::nats;
use crate::nats::gate::Pause;
use crate::shutdown::Shutdown;
use crate::telemetry;

/// How long to wait for the pulls that are open: one that nothing comes for ends by itself a little earlier.
const LONG_PULLS: Duration = Duration::from_secs(12);
/// The same for those that have begun since, while no other begins.
const SHORT_PULLS: Duration = Duration::from_secs(2);
/// How long making the connection anew may take before pulls are let go on, to be held up by whatever holds it up.
const RECONNECT: Duration = Duration::from_secs(10);
/// Without a connection for so long, it is looked why.
const AWAY: Duration = Duration::from_secs(3);
/// And again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// One side that the process shows secrets to.
pub(super) trait Plane {
    /// What it is called in metrics and logs.
    const NAME: &'static str;

    /// What is in the files now.
    async fn look(&self) -> Result<Seen, IdentityError>;

    /// What is in use.
    fn held(&self) -> Seen;

    /// The same, where it is to be told of.
    fn told(&self) -> Option<Seen>;

    /// Whether the metrics of age and end are of something else, which is told elsewhere.
    fn has_own_gauges(&self) -> bool {
        false
    }

    /// Tries what is new, and goes over to it where the server takes it. `false` where that is left to a later look.
    async fn adopt(&mut self, seen: &Seen) -> error::Result<bool>;

    /// Why there is no connection with what is in use, where that is so.
    async fn trouble(&mut self) -> Option<String>;
}

/// NATS.
pub(super) struct Nats {
    identity: Arc<NatsIdentity>,
    client: Client,
    pause: Pause,
    shutdown: Shutdown,
    trouble: NatsTrouble,
}

impl Nats {
    pub(super) fn new(identity: Arc<NatsIdentity>, client: Client, pause: Pause, shutdown: Shutdown) -> Self {
        Self { identity, client, pause, shutdown, trouble: NatsTrouble::default() }
    }
}

/// What is known of a connection that is away.
#[derive(Default)]
struct NatsTrouble {
    away_since: Option<Instant>,
    looked_at: Option<Instant>,
    text: Option<String>,
}

fn seen(shown: &Shown) -> Seen {
    Seen { fingerprint: shown.fingerprint, lifetime: shown.lifetime, read_at: shown.read_at }
}

impl Plane for Nats {
    const NAME: &'static str = "nats";

    async fn look(&self) -> Result<Seen, IdentityError> {
        self.identity.look().await.map(|shown| seen(&shown))
    }

    fn held(&self) -> Seen {
        seen(&self.identity.held())
    }

    fn told(&self) -> Option<Seen> {
        Some(self.held())
    }

    async fn adopt(&mut self, seen: &Seen) -> error::Result<bool> {
        // read once more, because a fingerprint cannot be shown to a server
        let Ok(fresh) = self.identity.look().await else { return Ok(false) };
        if fresh.fingerprint != seen.fingerprint {
            return Ok(false);
        }
        nats::trial(&self.identity.on_trial(&fresh)).await?;
        self.identity.accept(seen.fingerprint);
        // Without a connection there is nothing to wait for: the next one that is made shows the new secret.
        if !nats::is_connected(&self.client) {
            return Ok(false);
        }
        // What a connection that is closed had on its way comes again only after `ack_wait`: first let it arrive. Pulls become short
        // before none begins, so that nothing waits for one of them that is idle.
        let _announced = self.pause.announce();
        tokio::select! {
            short = tokio::time::timeout(LONG_PULLS, self.pause.short()) => if short.is_err() {
                tracing::debug!("a pull from before is still open: what it brought is not taken");
            },
            () = self.shutdown.stopping() => return Ok(false),
        }
        let _paused = self.pause.begin();
        if tokio::time::timeout(SHORT_PULLS, self.pause.quiet()).await.is_err() {
            tracing::debug!("a pull is still open when the connection is made anew");
        }
        // a stop has ended them, and its last words are on their way
        if self.shutdown.is_stopping() {
            return Ok(false);
        }
        nats::reconnect(&self.client, RECONNECT).await?;
        // where the file has changed meanwhile it is another one, which a later look finds
        Ok(self.identity.offers(seen.fingerprint))
    }

    async fn trouble(&mut self) -> Option<String> {
        if nats::is_connected(&self.client) {
            self.trouble = NatsTrouble::default();
            return None;
        }
        let trouble = &mut self.trouble;
        let away_since = *trouble.away_since.get_or_insert_with(Instant::now);
        let is_due = trouble.looked_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN);
        if away_since.elapsed() >= AWAY && is_due {
            trouble.looked_at = Some(Instant::now());
            // the client itself tells hardly more than that it tries again
            let found = nats::trial(&self.identity.on_trial(&self.identity.held())).await;
            let text = found.err().map(|error| telemetry::describe(&error));
            if let Some(text) = text.as_ref().filter(|text| trouble.text.as_ref() != Some(text)) {
                tracing::warn!(error = %text, "nats is away");
            }
            trouble.text = text;
        }
        trouble.text.clone()
    }
}

/// The database.
pub(super) struct Database {
    config: SqlConfig,
    pool: Pool,
    held: Seen,
}

impl Database {
    /// With what is in the files now. Where they cannot be read, the first that can is new.
    pub(super) fn new(config: SqlConfig, pool: Pool) -> Self {
        let held = look(&config).unwrap_or_else(|_said_by_pipelines| Seen::nothing());
        Self { config, pool, held }
    }
}

/// The files that what is shown to the database is made of.
fn look(config: &SqlConfig) -> Result<Seen, IdentityError> {
    let secrets = config.secret_files().map(|(field, path)| (Content::Secret, field, path));
    let authorities = [("sql.ca_file", &config.ca_file), ("sql.auth.ca_file", &config.auth.ca_file)];
    let authorities = authorities
        .into_iter()
        .filter_map(|(field, path)| Some((Content::Certificates, field, path.as_deref()?)));
    files::look(secrets.chain(authorities))
}

impl Plane for Database {
    const NAME: &'static str = "sql";

    async fn look(&self) -> Result<Seen, IdentityError> {
        look(&self.config)
    }

    fn held(&self) -> Seen {
        self.held.clone()
    }

    fn told(&self) -> Option<Seen> {
        // what is exchanged by hand: a federated token, or one in a file, is exchanged all the time by whatever keeps it
        let is_kept_by_hand = matches!(
            self.config.auth.method,
            AuthMethod::SqlLogin | AuthMethod::ClientSecret | AuthMethod::ClientCertificate
        );
        is_kept_by_hand.then(|| self.held())
    }

    fn has_own_gauges(&self) -> bool {
        // tokens that are fetched are told of where that is done
        self.config.auth.method != AuthMethod::SqlLogin
    }

    async fn adopt(&mut self, seen: &Seen) -> error::Result<bool> {
        self.pool.connector().trial().await?;
        self.held = seen.clone();
        self.pool.exchanged();
        Ok(true)
    }

    async fn trouble(&mut self) -> Option<String> {
        // pipelines say themselves what keeps them from the database
        None
    }
}
