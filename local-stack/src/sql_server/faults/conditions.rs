//! Conditions of the whole server: limits, a full database, a failover, expired tokens.

use std::time::{Duration, Instant};

use super::super::error::SqlError;
use super::ServerError;

/// What holds for all connections as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A limit of rows a second.
    RowsPerSecond,
    /// A limit of rows a second of each load.
    RowsPerSecondOfALoad,
    /// A limit of bulk loads at once.
    Loads,
    /// A limit of open connections.
    Connections,
    /// A database without room.
    DatabaseFull,
    /// A database that can only be read, and no new connections.
    Failover,
    /// Tokens that have expired.
    TokensExpired,
}

/// How many conditions there are.
const CONDITIONS: usize = 7;

/// When a condition ends; `None` is never.
type End = Option<Instant>;

#[derive(Debug, Default)]
pub(super) struct Conditions {
    rows_per_second: Option<u64>,
    /// When the rows that were taken are paid for.
    rows_paid_at: Option<Instant>,
    rows_per_second_of_a_load: Option<u64>,
    loads: Option<(usize, ServerError)>,
    connections: Option<(usize, ServerError)>,
    full: Option<(ServerError, End)>,
    failover: Option<End>,
    expired: Option<End>,
    /// How often tokens have expired.
    tokens: u64,
    struck: [u64; CONDITIONS],
}

fn end(lasts: Duration) -> End {
    Instant::now().checked_add(lasts)
}

fn is_over(end: End) -> bool {
    end.is_some_and(|end| end <= Instant::now())
}

/// How long so many rows take at so many a second.
fn time_of(rows: u64, rate: u64) -> Duration {
    let nanoseconds = u128::from(rows) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

impl Conditions {
    pub(super) fn limit_rows(&mut self, rows: Option<u64>) {
        self.rows_per_second = rows.filter(|rows| *rows > 0);
        self.rows_paid_at = None;
    }

    pub(super) fn limit_rows_of_a_load(&mut self, rows: Option<u64>) {
        self.rows_per_second_of_a_load = rows.filter(|rows| *rows > 0);
    }

    pub(super) fn limit_loads(&mut self, most: Option<usize>, error: ServerError) {
        self.loads = most.map(|most| (most, error));
    }

    pub(super) fn limit_connections(&mut self, most: Option<usize>, error: ServerError) {
        self.connections = most.map(|most| (most, error));
    }

    pub(super) fn fill(&mut self, error: ServerError, lasts: Duration) {
        self.full = Some((error, end(lasts)));
    }

    pub(super) fn fail_over(&mut self, lasts: Duration) {
        self.failover = Some(end(lasts));
    }

    pub(super) fn expire_tokens(&mut self, lasts: Duration) {
        self.expired = Some(end(lasts));
        self.tokens += 1;
    }

    /// Tokens that have expired stay so: new ones are valid again.
    pub(super) fn clear(&mut self) {
        *self = Self { tokens: self.tokens, struck: self.struck, ..Self::default() };
    }

    fn count(&mut self, condition: Condition) {
        self.struck[condition as usize] += 1;
    }

    pub(super) fn struck(&self, condition: Condition) -> u64 {
        self.struck[condition as usize]
    }

    pub(super) fn token_generation(&self) -> u64 {
        self.tokens
    }

    /// Whether a session that logged in with tokens of this generation has to end.
    pub(super) fn ends_session(&mut self, tokens: u64) -> bool {
        let ends = tokens < self.tokens;
        if ends {
            self.count(Condition::TokensExpired);
        }
        ends
    }

    pub(super) fn refuses_login(&mut self, open: usize, database: &str, user: &str) -> Option<SqlError> {
        if self.is_read_only() {
            self.count(Condition::Failover);
            return Some(ServerError::from(40613).to_sql_error(database));
        }
        if self.expired.is_some_and(|end| !is_over(end)) {
            self.count(Condition::TokensExpired);
            let message = format!("Login failed for user '{user}'. Token is expired.");
            return Some(SqlError::new(18456, 14, 1, message));
        }
        let (most, error) = self.connections.as_ref()?;
        if open < *most {
            return None;
        }
        let error = error.to_sql_error(database);
        self.count(Condition::Connections);
        Some(error)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.failover.is_some_and(|end| !is_over(end))
    }

    pub(super) fn read_only(&mut self, database: &str) -> Option<SqlError> {
        if !self.is_read_only() {
            return None;
        }
        self.count(Condition::Failover);
        Some(ServerError::from(3906).to_sql_error(database))
    }

    pub(super) fn full(&mut self, needs_room: bool, database: &str) -> Option<SqlError> {
        let (error, end) = self.full.as_ref()?;
        // a log that is full takes no deletion either
        if is_over(*end) || !(needs_room || error.number == 9002) {
            return None;
        }
        let error = error.to_sql_error(database);
        self.count(Condition::DatabaseFull);
        Some(error)
    }

    /// The error of a load beside which so many others are under way, where that is too many.
    pub(super) fn refuses_load(&mut self, under_way: usize, database: &str) -> Option<SqlError> {
        let (most, error) = self.loads.as_ref()?;
        if under_way < *most {
            return None;
        }
        let error = error.to_sql_error(database);
        self.count(Condition::Loads);
        Some(error)
    }

    /// How long a load has to wait that began at `began` and took so many rows, where each load has a limit of its own.
    pub(super) fn pause_of_a_load(&mut self, rows: u64, began: Instant, now: Instant) -> Option<Duration> {
        let rate = self.rows_per_second_of_a_load?;
        let pause = (began + time_of(rows, rate)).saturating_duration_since(now);
        if pause.is_zero() {
            return None;
        }
        self.count(Condition::RowsPerSecondOfALoad);
        Some(pause)
    }

    /// How long a load has to wait for the rows that it took now.
    pub(super) fn pause_after(&mut self, rows: u64, now: Instant) -> Option<Duration> {
        let rate = self.rows_per_second?;
        let start = self.rows_paid_at.filter(|paid_at| *paid_at > now).unwrap_or(now);
        let paid_at = start.checked_add(time_of(rows, rate))?;
        self.rows_paid_at = Some(paid_at);
        let pause = paid_at.saturating_duration_since(now);
        if pause.is_zero() {
            return None;
        }
        self.count(Condition::RowsPerSecond);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_share_the_rows_of_a_second() {
        let mut conditions = Conditions::default();
        let now = Instant::now();
        assert_eq!(conditions.pause_after(1_000_000, now), None);
        conditions.limit_rows(Some(1000));
        assert_eq!(conditions.pause_after(500, now), Some(Duration::from_millis(500)));
        assert_eq!(conditions.pause_after(500, now), Some(Duration::from_secs(1)));
        // what was not taken in time is not saved up
        let later = now + Duration::from_secs(60);
        assert_eq!(conditions.pause_after(1000, later), Some(Duration::from_secs(1)));
        assert_eq!(conditions.struck(Condition::RowsPerSecond), 3);
    }

    #[test]
    fn each_load_has_its_own_rows_of_a_second() {
        let mut conditions = Conditions::default();
        let began = Instant::now();
        assert_eq!(conditions.pause_of_a_load(1_000_000, began, began), None);
        conditions.limit_rows_of_a_load(Some(1000));
        let half = began + Duration::from_millis(500);
        assert_eq!(conditions.pause_of_a_load(500, began, began), Some(Duration::from_millis(500)));
        assert_eq!(conditions.pause_of_a_load(500, half, half), Some(Duration::from_millis(500)));
        // all that it has taken counts, and the time that it took for itself is no pause
        assert_eq!(conditions.pause_of_a_load(1000, began, half), Some(Duration::from_millis(500)));
        assert_eq!(conditions.pause_of_a_load(500, began, half), None);
        assert_eq!(conditions.struck(Condition::RowsPerSecondOfALoad), 3);
    }

    #[test]
    fn loads_beyond_the_limit_are_refused() {
        let mut conditions = Conditions::default();
        assert!(conditions.refuses_load(100, "db").is_none());
        conditions.limit_loads(Some(2), 10928.into());
        assert!(conditions.refuses_load(1, "db").is_none());
        assert!(conditions.refuses_load(2, "db").is_some_and(|error| error.number == 10928));
        assert_eq!(conditions.struck(Condition::Loads), 1);
        conditions.limit_loads(None, 10928.into());
        assert!(conditions.refuses_load(2, "db").is_none());
    }

    #[test]
    fn a_full_log_takes_no_deletion_and_a_full_disk_does() {
        let mut conditions = Conditions::default();
        conditions.fill(9002.into(), Duration::MAX);
        assert!(conditions.full(false, "db").is_some());
        conditions.fill(1105.into(), Duration::MAX);
        assert!(conditions.full(false, "db").is_none());
        assert!(conditions.full(true, "db").is_some());
        conditions.fill(1105.into(), Duration::ZERO);
        assert!(conditions.full(true, "db").is_none());
    }

    #[test]
    fn only_tokens_from_before_have_expired() {
        let mut conditions = Conditions::default();
        let before = conditions.token_generation();
        conditions.expire_tokens(Duration::ZERO);
        assert!(conditions.ends_session(before));
        let renewed = conditions.token_generation();
        assert!(!conditions.ends_session(renewed));
        assert!(conditions.refuses_login(0, "db", "sink").is_none());
    }
}
