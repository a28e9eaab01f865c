//! One connection of a client, and the PostgreSQL session behind it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::bind::{SessionFacts, Tables, Variable};
use super::error::{SqlError, StatementContext, from_postgres};
use super::loads::OpenLoads;
use super::packet::{ConnectionError, Packet, PacketKind, PacketReader, PacketWriter};
use super::read::{Cursor, Truncated};
use super::tls::Transport;
use super::token::{Done, DoneKind, EnvironmentChange, write_done, write_environment_change, write_error};

mod app_lock;
mod bulk;
mod command;
mod describe;
mod discard;
mod execute;
mod faults;
mod handshake;
mod identity;
mod options;
pub(super) mod probe;
mod procedure;
mod rpc;
mod security;
mod select_into;
mod structure;
mod transaction;

pub(super) type Reader = PacketReader<ReadHalf<Transport>>;
pub(super) type Writer = PacketWriter<WriteHalf<Transport>>;

/// Requests are limited so that no client can fill the memory. Bulk loads are streams and have no limit.
const MAX_REQUEST_BYTES: usize = 48 * 1024 * 1024;

/// Options of SET, and those that a client's login decides.
#[derive(Clone, Copy, Debug)]
struct Options {
    xact_abort: bool,
    no_count: bool,
    implicit_transactions: bool,
    format_only: bool,
    lock_timeout: i32,
    isolation: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            xact_abort: false,
            no_count: false,
            implicit_transactions: false,
            format_only: false,
            lock_timeout: -1,
            isolation: "READ COMMITTED",
        }
    }
}

/// A statement of `sp_prepare`.
#[derive(Clone, Debug)]
struct Prepared {
    declarations: String,
    text: String,
}

/// What is known of a session, and its way to PostgreSQL.
struct Session {
    shared: Arc<Shared>,
    client: Client,
    /// Drives the connection to PostgreSQL; aborted, it drops the connection, and PostgreSQL rolls back.
    _connection: AbortOnDropHandle<()>,
    options: Options,
    facts: SessionFacts,
    /// The descriptor of the open transaction, 0 where there is none.
    descriptor: u64,
    /// An error within TRY under XACT_ABORT: nothing but a rollback is possible.
    is_doomed: bool,
    in_try: usize,
    variables: HashMap<String, Variable>,
    tables: Tables,
    prepared: HashMap<i32, Prepared>,
    last_handle: i32,
    /// What a procedure that was called by its name returns.
    return_status: i32,
    app_locks: Vec<app_lock::AppLock>,
    /// How many procedures and texts that are executed are around the statement at hand.
    scope: i32,
    /// The innermost scope with a temporary table.
    deepest_temporary: Option<i32>,
    bulk: Option<bulk::Load>,
    open_loads: OpenLoads,
    /// By a hash of their text.
    insert_plans: HashMap<u64, discard::InsertPlan>,
    /// The open transaction did, and it counts for others when it ends.
    changed_structure: bool,
    /// The client took its request back: the error that follows is not for it.
    is_cancelled: Arc<std::sync::atomic::AtomicBool>,
    done_kind: DoneKind,
    faults: faults::SessionFaults,
    identity: identity::Identity,
}

/// Where a gateway sends its clients.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Serves a connection until its client leaves, or tells it where to go.
pub(super) async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    route: Option<Route>,
) -> Result<(), ConnectionError> {
    let Some(handshake::Accepted { mut reader, mut writer, identity, mut admission }) =
        handshake::accept(stream, &shared, route.as_ref()).await?
    else {
        return Ok(());
    };
    let (client, connection) =
        shared.postgres.connect(NoTls).await.map_err(|error| ConnectionError::Database(error.to_string()))?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "postgresql session ended");
        }
    });
    faults::before_welcome(&mut admission, &mut reader).await?;
    let session_id =
        i16::try_from(51 + shared.sessions.fetch_add(1, Ordering::Relaxed) % 32_000).unwrap_or(51);
    let mut session = Session {
        facts: SessionFacts {
            database: shared.database.clone(),
            login: identity.login.clone(),
            principal: identity.principal,
            user: identity.user.clone(),
            session_id,
            transaction_count: 0,
            transaction_state: 0,
            row_count: 0,
            last_error: 0,
            caught: None,
        },
        shared,
        client,
        _connection: AbortOnDropHandle::new(connection),
        options: Options::default(),
        descriptor: 0,
        is_doomed: false,
        in_try: 0,
        variables: HashMap::new(),
        tables: Tables::new(),
        prepared: HashMap::new(),
        last_handle: 0,
        return_status: 0,
        app_locks: Vec::new(),
        scope: 0,
        deepest_temporary: None,
        bulk: None,
        open_loads: OpenLoads::default(),
        insert_plans: HashMap::new(),
        changed_structure: false,
        is_cancelled: Arc::default(),
        done_kind: DoneKind::Batch,
        faults: faults::SessionFaults::new(admission),
        identity,
    };
    session.prepare_postgres().await?;
    handshake::welcome(&mut writer).await?;
    session.run(&mut reader, &mut writer).await
}

impl Session {
    async fn prepare_postgres(&self) -> Result<(), ConnectionError> {
        // whatever the role's own settings are; a session that is dropped in the middle of a statement is
        // noticed, and rolled back, within half a second
        const SETTINGS: &str = "SET standard_conforming_strings = on; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
            SET client_min_messages = warning; SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; \
            SET client_connection_check_interval = '500ms'; \
            SET search_path = pg_catalog; SET bytea_output = 'hex'; SET jit = off";
        let settings = format!("{SETTINGS}; SET tsql.principal = {}", self.identity.principal);
        self.client
            .batch_execute(&settings)
            .await
            .map_err(|error| ConnectionError::Database(error.to_string()))
    }

    async fn run(&mut self, reader: &mut Reader, writer: &mut Writer) -> Result<(), ConnectionError> {
        loop {
            let packet = match reader.peek().await {
                Err(ConnectionError::Closed) => return Ok(()),
                other => other?,
            };
            self.is_cancelled.store(false, Ordering::Relaxed);
            if faults::is_request(packet.kind) && self.has_expired() {
                return self.end_expired(reader, writer).await;
            }
            if packet.resets_connection() {
                self.reset(writer, packet.keeps_transaction()).await?;
            }
            match packet.kind {
                PacketKind::Attention => {
                    reader.take(packet, &mut BytesMut::new());
                    let acknowledged = Done { attention: true, ..Done::default() };
                    write_done(&mut writer.buffer, DoneKind::Batch, acknowledged);
                    writer.finish().await?;
                }
                PacketKind::BulkLoad => {
                    self.load(reader, writer).await?;
                    self.send_answer(reader, writer).await?;
                }
                PacketKind::SqlBatch | PacketKind::Rpc | PacketKind::TransactionManager => {
                    match read_message(reader).await? {
                        Message::Whole(message) => {
                            self.answer(reader, writer, packet.kind, &message).await?;
                        }
                        Message::TakenBack => {
                            taken_back(writer);
                            writer.finish().await?;
                        }
                    }
                }
                PacketKind::Login | PacketKind::PreLogin => {
                    return Err(ConnectionError::Protocol("a login within a session"));
                }
            }
        }
    }

    /// Answers a request while it watches for the client's attention, or its going away.
    async fn answer(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        kind: PacketKind,
        message: &[u8],
    ) -> Result<(), ConnectionError> {
        let cancel = self.client.cancel_token();
        let is_cancelled = self.is_cancelled.clone();
        {
            let work = self.process(writer, kind, message);
            tokio::pin!(work);
            let mut watching = true;
            loop {
                tokio::select! {
                    result = &mut work => {
                        result?;
                        break;
                    }
                    // an error here is the client going away: dropping the session rolls back
                    packet = reader.peek(), if watching => {
                        watching = false;
                        if packet?.kind == PacketKind::Attention {
                            is_cancelled.store(true, Ordering::Relaxed);
                            let _ = cancel.cancel_query(NoTls).await;
                        }
                    }
                }
            }
        }
        // an attention that came meanwhile is a message as any other, and `run` acknowledges it in one of its own
        self.send_answer(reader, writer).await
    }

    async fn process(
        &mut self,
        writer: &mut Writer,
        kind: PacketKind,
        message: &[u8],
    ) -> Result<(), ConnectionError> {
        self.bulk = None;
        self.variables.clear();
        self.facts.caught = None;
        self.in_try = 0;
        self.scope = 0;
        let Ok(cursor) = after_headers(message) else {
            return Err(ConnectionError::Protocol("a request's headers are cut off"));
        };
        match kind {
            PacketKind::SqlBatch => {
                self.done_kind = DoneKind::Batch;
                let text = super::read::decode_utf16(cursor.rest());
                self.batch(writer, &text).await
            }
            PacketKind::Rpc => self.rpc(writer, cursor).await,
            _ => {
                self.done_kind = DoneKind::Batch;
                self.transaction_request(writer, cursor).await
            }
        }
    }

    /// Puts the session back to what it was after its login.
    async fn reset(&mut self, writer: &mut Writer, keep_transaction: bool) -> Result<(), ConnectionError> {
        if !keep_transaction && self.facts.transaction_count > 0 {
            self.roll_back_all(writer).await?;
        }
        self.release_session_locks().await?;
        self.drop_temporary(0).await?;
        self.options = Options::default();
        self.prepared.clear();
        self.bulk = None;
        self.facts.row_count = 0;
        self.facts.last_error = 0;
        if !keep_transaction {
            self.client
                .batch_execute("SET lock_timeout = 0")
                .await
                .map_err(|error| ConnectionError::Database(error.to_string()))?;
        }
        write_environment_change(&mut writer.buffer, EnvironmentChange::ResetConnection);
        Ok(())
    }

    /// Sends an error, and the end of its statement.
    fn fail(&mut self, writer: &mut Writer, error: &SqlError) {
        self.facts.last_error = error.number;
        self.facts.row_count = 0;
        self.faults.failed(error);
        if !self.is_cancelled.load(Ordering::Relaxed) {
            write_error(&mut writer.buffer, error);
        }
        self.done(writer, Done { error: true, more: true, ..Done::default() });
    }

    fn done(&self, writer: &mut Writer, done: Done) {
        write_done(&mut writer.buffer, self.done_kind, done);
        writer.mark_done();
    }

    /// What PostgreSQL's error means; a lost session ends the connection.
    fn explain(&self, error: &tokio_postgres::Error, verb: &str) -> Result<SqlError, ConnectionError> {
        // a server that ends (class 57P) answers nothing that could be relied on, a COMMIT least of all
        let is_lost = match error.as_db_error() {
            None => true,
            Some(error) => error.code().code().starts_with("57P"),
        };
        if is_lost || self.client.is_closed() {
            return Err(ConnectionError::Database(error.to_string()));
        }
        Ok(from_postgres(error, StatementContext { verb, database: &self.shared.database }))
    }
}

/// Answers a request that its client took back before its end: MS-TDS 2.2.1.7.
fn taken_back(writer: &mut Writer) {
    write_done(&mut writer.buffer, DoneKind::Batch, Done { error: true, ..Done::default() });
}

/// What follows the headers of a request (ALL_HEADERS): there is one transaction at a time here, and nothing else in
/// them matters.
fn after_headers(message: &[u8]) -> Result<Cursor<'_>, Truncated> {
    let mut cursor = Cursor::new(message);
    let length = usize::try_from(cursor.u32()?).unwrap_or(usize::MAX);
    cursor.take(length.saturating_sub(4))?;
    Ok(cursor)
}

/// A request as it came.
enum Message {
    Whole(BytesMut),
    /// By the mark at its end, or by an attention before it, which `run` acknowledges after this answer.
    TakenBack,
}

/// Reads a message to its end.
async fn read_message(reader: &mut Reader) -> Result<Message, ConnectionError> {
    let mut message = BytesMut::new();
    let mut kind = None;
    loop {
        let packet: Packet = reader.peek().await?;
        if *kind.get_or_insert(packet.kind) != packet.kind {
            return match packet.kind {
                PacketKind::Attention => Ok(Message::TakenBack),
                _ => Err(ConnectionError::Protocol("a request within a request")),
            };
        }
        reader.take(packet, &mut message);
        if packet.is_last() {
            return Ok(if packet.is_ignored() { Message::TakenBack } else { Message::Whole(message) });
        }
        if message.len() > MAX_REQUEST_BYTES {
            return Err(ConnectionError::Protocol("request too long"));
        }
    }
}
