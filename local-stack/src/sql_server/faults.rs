//! Faults on cue: what a server does wrong when a test, or a file, says so.
//!
//! A [`Fault`] strikes on an occasion (a login, a bulk load, a commit), by number, by chance or always. A
//! condition (a limit, a full database, a failover, expired tokens) holds for the whole server as long as it
//! lasts. Both can be changed while the server runs, through a handle that all copies share, and both count how
//! often they struck.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::SqlError;

mod conditions;
mod file;
mod known_errors;
mod script;

pub use conditions::Condition;
pub use file::FaultsFileError;
pub use known_errors::ServerError;
pub(super) use known_errors::ends_session;
pub use script::{Fault, FaultError, Moment, Occasion, Schedule, ScriptedFault};

use conditions::Conditions;
pub(super) use script::Strike;

/// What happens when a fault strikes.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Refused with an error. Nothing is done, and a commit is rolled back.
    Reject(ServerError),
    /// Done, and then answered with an error; the connection ends. Not of a login.
    FailAfterWrite(ServerError),
    /// The connection is dropped.
    Disconnect(Moment),
    /// Done, but not answered until [`ScriptedFault::release`], or until the client gives up.
    HoldAnswer,
    /// Done, and answered so much later.
    DelayAnswer(Duration),
    /// [`Faults::fail_over`] begins.
    FailOver(Duration),
    /// [`Faults::fill_database`] begins, with this error.
    FillDatabase(ServerError, Duration),
    /// [`Faults::expire_tokens`] begins.
    ExpireTokens(Duration),
}

/// The faults of a server. All copies are one; the default has none.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    shared: Arc<SharedFaults>,
}

#[derive(Debug, Default)]
struct SharedFaults {
    scripts: Mutex<Vec<Arc<script::Entry>>>,
    conditions: Mutex<Conditions>,
    connections: AtomicUsize,
    loads: AtomicUsize,
    /// Counted up to end all connections.
    ended: watch::Sender<u64>,
}

impl Faults {
    /// Reads a file's text; unknown fields are refused.
    ///
    /// # Errors
    /// Where the text is no TOML, or a field is wrong; the error names it.
    pub fn from_toml(text: &str) -> Result<Self, FaultsFileError> {
        file::parse(text)
    }

    /// Scripts a fault: occasions count from now. Where several strike at once, the oldest does.
    ///
    /// # Errors
    /// Where the fault can never strike as it is written.
    pub fn script(&self, fault: Fault) -> Result<ScriptedFault, FaultError> {
        let entry = script::Entry::new(fault)?;
        self.scripts().push(entry.clone());
        Ok(ScriptedFault::new(entry))
    }

    /// All bulk loads together take at most so many rows a second; `None` lifts the limit. As Azure SQL's log
    /// governor: loads become slow, and none fails.
    pub fn limit_rows_per_second(&self, rows: Option<u64>) {
        self.conditions().limit_rows(rows);
    }

    /// Each bulk load by itself takes at most so many rows a second; `None` lifts the limit. As of a server that is far
    /// away or whose sessions are slow: several loads at once bring in more.
    pub fn limit_rows_per_second_of_a_load(&self, rows: Option<u64>) {
        self.conditions().limit_rows_of_a_load(rows);
    }

    /// Bulk loads beyond so many at once are refused with this error, 10928 or another by which Azure SQL asks for less;
    /// `None` lifts the limit.
    pub fn limit_loads(&self, most: Option<usize>, error: impl Into<ServerError>) {
        self.conditions().limit_loads(most, error.into());
    }

    /// Logins beyond so many open connections are refused with this error, 10928 or 10929; `None` lifts the limit.
    pub fn limit_connections(&self, most: Option<usize>, error: impl Into<ServerError>) {
        self.conditions().limit_connections(most, error.into());
    }

    /// Whatever needs room is refused with this error: 1105, 40544 (which spares DELETE) or 9002.
    pub fn fill_database(&self, error: impl Into<ServerError>, lasts: Duration) {
        self.conditions().fill(error.into(), lasts);
    }

    /// A failover: open connections can only read (3906), their open transactions cannot commit what they
    /// wrote, and logins are refused (40613).
    pub fn fail_over(&self, lasts: Duration) {
        self.conditions().fail_over(lasts);
    }

    /// Every token that a client got until now has expired: open connections end with their next request, and
    /// logins are refused (18456).
    pub fn expire_tokens(&self, lasts: Duration) {
        self.conditions().expire_tokens(lasts);
    }

    /// Ends all connections at once; what they have not committed is rolled back.
    pub fn disconnect_all(&self) {
        self.shared.ended.send_modify(|ended| *ended += 1);
    }

    /// No fault and no condition any more; held answers go out. Counts stay.
    pub fn clear(&self) {
        for entry in self.scripts().drain(..) {
            entry.retire();
        }
        self.conditions().clear();
    }

    /// How often a condition struck: a load that had to wait, or a request that was refused.
    pub fn struck(&self, condition: Condition) -> u64 {
        self.conditions().struck(condition)
    }

    /// Connections that are logged in.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    fn scripts(&self) -> MutexGuard<'_, Vec<Arc<script::Entry>>> {
        self.shared.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.shared.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the faults of an occasion; the one that strikes comes back.
    pub(super) fn strike(&self, occasion: Occasion) -> Option<Strike> {
        let mut found = None;
        {
            let mut scripts = self.scripts();
            scripts.retain(|entry| !entry.is_retired());
            for entry in scripts.iter() {
                // all of them count the occasion, also those that come too late
                if entry.occurs(occasion, found.is_none()) {
                    found = Some(Strike::new(entry.clone()));
                }
            }
        }
        let strike = found?;
        let mut conditions = self.conditions();
        match strike.effect() {
            Effect::FailOver(lasts) => conditions.fail_over(*lasts),
            Effect::FillDatabase(error, lasts) => conditions.fill(error.clone(), *lasts),
            Effect::ExpireTokens(lasts) => conditions.expire_tokens(*lasts),
            _ => return Some(strike),
        }
        strike.count();
        None
    }

    /// Whether a client may log in, all passwords right.
    pub(super) fn admit(&self, database: &str, user: &str) -> Result<Admission, SqlError> {
        let strike = self.strike(Occasion::Login);
        if let Some(error) = strike.as_ref().and_then(|strike| strike.rejects(database)) {
            return Err(error);
        }
        let mut conditions = self.conditions();
        let open = self.connections();
        if let Some(error) = conditions.refuses_login(open, database, user) {
            return Err(error);
        }
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let tokens = conditions.token_generation();
        Ok(Admission { faults: self.clone(), strike, tokens })
    }

    /// The error of a statement that writes, where none can.
    pub(super) fn refuses_write(&self, needs_room: bool, database: &str) -> Option<SqlError> {
        let mut conditions = self.conditions();
        conditions.read_only(database).or_else(|| conditions.full(needs_room, database))
    }

    /// The error of a statement that announces a write, where the database cannot be written to.
    pub(super) fn refuses_any_write(&self, database: &str) -> Option<SqlError> {
        self.conditions().read_only(database)
    }

    /// Whether what changes rows only to remove them is refused as well.
    pub(super) fn is_failing_over(&self) -> bool {
        self.conditions().is_read_only()
    }

    /// How long a load that took so many rows has to wait.
    pub(super) fn pause_after(&self, rows: u64) -> Option<Duration> {
        self.conditions().pause_after(rows, Instant::now())
    }

    /// How long a load has to wait that began at `began` and took so many rows until now.
    pub(super) fn pause_of_a_load(&self, rows: u64, began: Instant) -> Option<Duration> {
        self.conditions().pause_of_a_load(rows, began, Instant::now())
    }

    /// Lets a load begin, or refuses it.
    pub(super) fn begin_load(&self, database: &str) -> Result<LoadPlace, SqlError> {
        let mut conditions = self.conditions();
        match conditions.refuses_load(self.shared.loads.load(Ordering::Relaxed), database) {
            Some(error) => Err(error),
            None => {
                self.shared.loads.fetch_add(1, Ordering::Relaxed);
                Ok(LoadPlace { faults: self.clone(), began: Instant::now() })
            }
        }
    }

    /// Changes when all connections have to end.
    pub(super) fn ended(&self) -> watch::Receiver<u64> {
        self.shared.ended.subscribe()
    }
}

/// A bulk load under way; it counts as long as this lives.
#[derive(Debug)]
pub(super) struct LoadPlace {
    faults: Faults,
    pub(super) began: Instant,
}

impl Drop for LoadPlace {
    fn drop(&mut self) {
        self.faults.shared.loads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that was let in; it counts as long as this lives.
#[derive(Debug)]
pub(super) struct Admission {
    faults: Faults,
    /// What is to happen to the answer to its login.
    pub(super) strike: Option<Strike>,
    tokens: u64,
}

impl Admission {
    /// Whether the token that it came with has expired since.
    pub(super) fn has_expired(&self) -> bool {
        self.faults.conditions().ends_session(self.tokens)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.faults.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
