//! Where the faults of the server meet a session.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use sqlparser::ast::Statement as SqlStatement;

use super::super::batch::Statement;
use super::super::error::SqlError;
use super::super::faults::{Admission, Effect, LoadPlace, Moment, Occasion, Strike, ends_session};
use super::super::packet::{ConnectionError, PacketKind};
use super::super::token::{Done, DoneKind, write_done, write_error};
use super::identity::token_expired;
use super::transaction::Outcome;
use super::{Reader, Session, Writer};

/// What faults have in store for a session.
pub(super) struct SessionFaults {
    admission: Admission,
    /// Of the bulk load under way.
    load: Option<Strike>,
    place: Option<LoadPlace>,
    /// Holds the answer of the request, or drops the connection in its place.
    answer: Option<Strike>,
    /// The connection ends after this answer.
    must_end: bool,
}

impl SessionFaults {
    pub(super) fn new(admission: Admission) -> Self {
        Self { admission, load: None, place: None, answer: None, must_end: false }
    }

    /// A statement ended with this error.
    pub(super) fn failed(&mut self, error: &SqlError) {
        self.must_end |= ends_session(error);
    }

    pub(super) fn ends_session(&self) -> bool {
        self.must_end
    }
}

/// Waits as long as a fault holds an answer, or until the client sends something or leaves.
async fn hold(strike: &Strike, reader: &mut Reader) -> Result<(), ConnectionError> {
    tokio::select! {
        () = strike.hold() => Ok(()),
        // an attention ends the wait, and is answered after the answer; an error is the client gone
        packet = reader.peek() => packet.map(|_| ()),
    }
}

/// Does to the answer of a login what a fault says.
pub(super) async fn before_welcome(
    admission: &mut Admission,
    reader: &mut Reader,
) -> Result<(), ConnectionError> {
    let Some(strike) = admission.strike.take() else { return Ok(()) };
    if strike.disconnects(Moment::Before) {
        return Err(ConnectionError::Fault);
    }
    hold(&strike, reader).await
}

impl Session {
    /// Whether the token that the session came with has expired, or is said to have.
    pub(super) fn has_expired(&self) -> bool {
        self.identity.expires.is_some_and(|expires| expires <= SystemTime::now())
            || self.faults.admission.has_expired()
    }

    /// Ends a session whose token has expired: with its next request, and as Azure SQL ends it. The request is
    /// read to its end, because a client does not listen while it sends, and not begun.
    pub(super) async fn end_expired(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ConnectionError> {
        loop {
            let packet = reader.peek().await?;
            reader.take(packet, &mut BytesMut::new());
            if packet.is_last() || !is_request(packet.kind) {
                break;
            }
        }
        write_error(&mut writer.buffer, &token_expired(self.identity.shown_in_errors()));
        let done = Done { error: true, severe: true, ..Done::default() };
        write_done(&mut writer.buffer, DoneKind::Batch, done);
        writer.finish().await?;
        Err(ConnectionError::Fault)
    }

    /// Sends the answer, unless a fault keeps it.
    pub(super) async fn send_answer(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ConnectionError> {
        if let Some(strike) = self.faults.answer.take() {
            hold(&strike, reader).await?;
        }
        writer.finish().await?;
        if self.faults.must_end { Err(ConnectionError::Fault) } else { Ok(()) }
    }

    /// The error of a statement that a condition of the server refuses.
    pub(super) fn refused_write(&self, statement: &Statement) -> Option<SqlError> {
        let database = &self.shared.database;
        let needs_room = match statement {
            Statement::Ddl(_) | Statement::Security(_) => true,
            Statement::Sql(statement) => match statement.as_ref() {
                SqlStatement::Insert(_) | SqlStatement::Update(_) => true,
                SqlStatement::Delete(_) => false,
                _ => return None,
            },
            // room is needed by its rows
            Statement::InsertBulk(_) => return self.shared.faults.refuses_any_write(database),
            _ => return None,
        };
        self.shared.faults.refuses_write(needs_room, database)
    }

    /// Whether the rows of a load are refused before the first is read.
    pub(super) fn before_load(&mut self) -> Result<Option<SqlError>, ConnectionError> {
        let database = &self.shared.database;
        self.faults.load = self.shared.faults.strike(Occasion::BulkLoad);
        if let Some(strike) = &self.faults.load {
            if strike.disconnects(Moment::Before) {
                return Err(ConnectionError::Fault);
            }
            if let Some(error) = strike.rejects(database) {
                return Ok(Some(error));
            }
        }
        if let Some(error) = self.shared.faults.refuses_write(true, database) {
            return Ok(Some(error));
        }
        match self.shared.faults.begin_load(database) {
            Ok(place) => {
                self.faults.place = Some(place);
                Ok(None)
            }
            Err(error) => Ok(Some(error)),
        }
    }

    /// After rows of a load were read, `in_all` by now, and before the load is finished.
    pub(super) async fn during_load(
        &mut self,
        rows: u64,
        in_all: u64,
        is_last: bool,
    ) -> Result<(), ConnectionError> {
        if (rows > 0 || is_last)
            && self.faults.load.as_ref().is_some_and(|strike| strike.disconnects(Moment::During))
        {
            return Err(ConnectionError::Fault);
        }
        if rows == 0 {
            return Ok(());
        }
        let of_all = self.shared.faults.pause_after(rows);
        let place = self.faults.place.as_ref();
        let of_its_own = place.and_then(|place| self.shared.faults.pause_of_a_load(in_all, place.began));
        if let Some(pause) = of_all.max(of_its_own) {
            // timers count in milliseconds: what is shorter is paid with the next rows
            if pause >= Duration::from_millis(1) {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// After a load took its rows, and before its answer.
    pub(super) fn after_load(&mut self, outcome: Result<Option<u64>, SqlError>) -> Outcome<Option<u64>> {
        self.faults.place = None;
        let Some(strike) = self.faults.load.take() else { return Ok(outcome) };
        if !matches!(outcome, Ok(Some(_))) {
            return Ok(outcome);
        }
        self.after_write(strike).map(|error| error.map_or(outcome, Err))
    }

    /// COMMIT, with what faults do before and after it.
    pub(super) async fn commit_in_postgres(&mut self) -> Outcome<()> {
        let strike = self.shared.faults.strike(Occasion::Commit);
        if strike.as_ref().is_some_and(|strike| strike.disconnects(Moment::Before)) {
            return Err(ConnectionError::Fault);
        }
        let rejected = strike.as_ref().and_then(|strike| strike.rejects(&self.shared.database));
        let refused = match rejected {
            Some(error) => Some(error),
            None => self.refused_commit().await?,
        };
        if let Some(error) = refused {
            return Ok(self.postgres(&self.rollback_sql("ROLLBACK")).await?.and(Err(error)));
        }
        // to COMMIT a transaction that failed is no error in PostgreSQL, and rolls back without a word
        let committed = self.postgres("SELECT; COMMIT").await?;
        if let Err(error) = committed {
            return Ok(self.postgres(&self.rollback_sql("ROLLBACK")).await?.and(Err(error)));
        }
        self.open_loads.commit(&self.shared.loads);
        match strike {
            Some(strike) if committed.is_ok() => {
                self.after_write(strike).map(|error| error.map_or(committed, Err))
            }
            _ => Ok(committed),
        }
    }

    /// In a failover a transaction that wrote cannot commit.
    async fn refused_commit(&mut self) -> Result<Option<SqlError>, ConnectionError> {
        if !self.shared.faults.is_failing_over() {
            return Ok(None);
        }
        let wrote = self.single_value("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").await?;
        Ok(match wrote {
            Ok(Some(value)) if value == [1] => self.shared.faults.refuses_any_write(&self.shared.database),
            Ok(_) => None,
            Err(error) => Some(error),
        })
    }

    /// After something was done: the error to answer it with, where there is to be one.
    fn after_write(&mut self, strike: Strike) -> Result<Option<SqlError>, ConnectionError> {
        if strike.disconnects(Moment::After) {
            return Err(ConnectionError::Fault);
        }
        if let Some(error) = strike.fails_after_write(&self.shared.database) {
            // the client cannot know what the server did, and must not go on as if it did
            self.faults.must_end = true;
            return Ok(Some(error));
        }
        if matches!(strike.effect(), Effect::HoldAnswer | Effect::DelayAnswer(_)) {
            self.faults.answer = Some(strike);
        }
        Ok(None)
    }
}

/// Whether a packet begins a request of the client.
pub(super) fn is_request(kind: PacketKind) -> bool {
    !matches!(kind, PacketKind::Attention | PacketKind::Login | PacketKind::PreLogin)
}
