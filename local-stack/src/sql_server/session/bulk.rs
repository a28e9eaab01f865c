//! Bulk loads: from the client's rows straight into PostgreSQL's COPY.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::CopyInSink;

use super::super::Storage;
use super::super::batch::InsertBulk;
use super::super::bind::Permission;
use super::super::catalogue::Table;
use super::super::decode::{MAX_VALUE_BYTES, Target};
use super::super::encode::quote_identifier;
use super::super::error::SqlError;
use super::super::packet::{ConnectionError, PacketKind};
use super::super::token::{COMMAND_BULK_INSERT, ColumnOrigin, Done, write_done};
use super::super::types::SqlType;
use super::transaction::{Outcome, STATEMENT_SAVEPOINT};
use super::{Reader, Session, Writer, taken_back};

const TOKEN_COLMETADATA: u8 = 0x81;
const TOKEN_ROW: u8 = 0xD1;
const TOKEN_DONE: u8 = 0xFD;

/// What a binary COPY begins with: its signature, no flags, no extension.
const COPY_HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_END: [u8; 2] = [0xFF, 0xFF];
/// Rows are handed to PostgreSQL in pieces of about this size.
const PIECE_BYTES: usize = 128 * 1024;
/// A row may hold several long values, but not without end.
const MAX_ROW_BYTES: usize = MAX_VALUE_BYTES + 64 * 1024;

/// A load that was announced by INSERT BULK.
pub(super) struct Load {
    pub(super) copy: String,
    pub(super) columns: Vec<LoadColumn>,
    /// Constraints are not checked, as SQL Server does not either unless it is asked to.
    pub(super) skips_checks: bool,
}

pub(super) struct LoadColumn {
    pub(super) sql_type: SqlType,
    /// By INSERT BULK, where it names its columns.
    pub(super) announced: Option<SqlType>,
    pub(super) nullable: bool,
    /// What becomes of a NULL where the load does not keep it: PostgreSQL's binary form of the default.
    pub(super) default: Option<Vec<u8>>,
    pub(super) target: Target,
}

mod rows;

use rows::Rows;
pub(super) use rows::take_rows;

impl Session {
    /// INSERT BULK: checks what is announced, and waits for the rows.
    pub(super) async fn plan_load(&mut self, bulk: &InsertBulk) -> Outcome<()> {
        let table = match self.bind(|binder| binder.table(&bulk.table, Permission::Checked)).await? {
            Ok((table, _)) => table,
            Err(error) => return Ok(Err(error)),
        };
        if table.is_view {
            return Ok(Err(SqlError::new(259, 16, 1, "Ad hoc updates to system catalogs are not allowed.")));
        }
        let skips_checks = table.has_checks && !bulk.check_constraints;
        if let Err(error) = self.check_load(&table, &bulk.table, skips_checks).await? {
            return Ok(Err(error));
        }
        match self.load_columns(&table, bulk).await? {
            Ok(columns) => {
                let names: Vec<String> = columns.iter().map(|(name, _)| quote_identifier(name)).collect();
                self.bulk = Some(Load {
                    copy: format!(
                        "COPY {} ({}) FROM STDIN (FORMAT binary)",
                        table.postgres,
                        names.join(", ")
                    ),
                    columns: columns.into_iter().map(|(_, column)| column).collect(),
                    skips_checks,
                });
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn load_columns(&mut self, table: &Table, bulk: &InsertBulk) -> Outcome<Vec<(String, LoadColumn)>> {
        let display = table.display(&self.shared.database);
        let names: Vec<&str> = if bulk.columns.is_empty() {
            table
                .columns
                .iter()
                .filter(|column| column.origin == ColumnOrigin::Table)
                .map(|column| column.name.as_str())
                .collect()
        } else {
            bulk.columns.iter().map(|column| column.name.as_str()).collect()
        };
        let mut columns: Vec<(String, LoadColumn)> = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let Some(column) = table.column(name) else {
                return Ok(Err(SqlError::new(207, 16, 1, format!("Invalid column name '{name}'."))));
            };
            if column.origin == ColumnOrigin::Computed {
                return Ok(Err(SqlError::new(
                    271,
                    16,
                    1,
                    format!("The column \"{name}\" cannot be modified because it is a computed column."),
                )));
            }
            if columns.iter().any(|(other, _)| *other == column.postgres_name) {
                return Ok(Err(SqlError::new(
                    264,
                    16,
                    1,
                    format!(
                        "The column name '{name}' is specified more than once in the SET clause or column list of an INSERT."
                    ),
                )));
            }
            // FreeTDS announces xml as nvarchar(max), which it is on the wire
            let as_text = |sql_type: SqlType| sql_type.is_text() || sql_type == SqlType::Xml;
            let announced = bulk.columns.get(index).map(|column| column.sql_type);
            if let Some(announced) = announced
                && as_text(announced) != as_text(column.sql_type)
            {
                return Ok(Err(SqlError::new(
                    206,
                    16,
                    2,
                    format!("Operand type clash: {announced} is incompatible with {}", column.sql_type),
                )));
            }
            let default = match &column.default_sql {
                // one value for the whole load: a default that differs from row to row would be a wrong answer
                Some(default) if !bulk.keep_nulls && !default.contains("gen_random_uuid") => {
                    match self.single_value(&format!("SELECT {default}")).await? {
                        Ok(value) => value,
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Some(_) if !bulk.keep_nulls => {
                    return Ok(Err(SqlError::unsupported(
                        "a load without KEEP_NULLS into a column whose default differs from row to row",
                    )));
                }
                _ => None,
            };
            let target = Target { table: display.clone(), column: column.name.clone(), ordinal: index + 1 };
            columns.push((
                column.postgres_name.clone(),
                LoadColumn {
                    sql_type: column.sql_type,
                    announced,
                    nullable: column.nullable,
                    default,
                    target,
                },
            ));
        }
        Ok(Ok(columns))
    }

    /// Takes the rows of a bulk load. Whatever goes wrong, the message is read to its end first: a client
    /// does not listen while it sends.
    pub(super) async fn load(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ConnectionError> {
        let outcome = match self.bulk.take() {
            None => {
                let error = SqlError::new(4808, 16, 1, "A bulk load was sent that no INSERT BULK announced.");
                drain(reader, BytesMut::new(), false).await?.map_or(Ok(Err(error)), |()| Ok(Ok(None)))
            }
            Some(load) => {
                self.shared.loads.begin();
                self.load_rows(reader, writer, load).await
            }
        }?;
        if let Ok(Some(rows)) = outcome {
            self.open_loads.add(rows);
            if self.facts.transaction_count == 0 {
                self.open_loads.commit(&self.shared.loads);
            }
        }
        let outcome = self.after_load(outcome)?;
        match outcome {
            Ok(Some(rows)) => {
                self.facts.last_error = 0;
                self.facts.row_count = i64::try_from(rows).unwrap_or(i64::MAX);
                write_done(
                    &mut writer.buffer,
                    super::DoneKind::Batch,
                    Done { rows: Some(rows), command: COMMAND_BULK_INSERT, ..Done::default() },
                );
            }
            Ok(None) => taken_back(writer),
            Err(error) => {
                self.done_kind = super::DoneKind::Batch;
                self.fail(writer, &error);
                writer.end_done();
            }
        }
        Ok(())
    }

    /// `None` where the client took the load back.
    async fn load_rows(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        load: Load,
    ) -> Result<Result<Option<u64>, SqlError>, ConnectionError> {
        if let Err(error) = self.begin_implicitly(writer).await? {
            return Ok(drain(reader, BytesMut::new(), false).await?.map_or(Err(error), |()| Ok(None)));
        }
        let has_savepoint = self.needs_savepoint();
        let has_transaction = self.facts.transaction_count == 0 && load.skips_checks;
        let mut before = String::new();
        if has_savepoint {
            before.push_str(&format!("SAVEPOINT {STATEMENT_SAVEPOINT};"));
        }
        if has_transaction {
            before.push_str("BEGIN;");
        }
        if load.skips_checks {
            before.push_str("SET LOCAL tsql.skip_checks = 'on';");
        }
        let mut outcome = match self.client.batch_execute(&before).await {
            Ok(()) => self.copy(reader, &load).await?,
            Err(error) => {
                let error = self.explain(&error, "INSERT")?;
                drain(reader, BytesMut::new(), false).await?.map_or(Err(error), |()| Ok(None))
            }
        };
        let after = match (&outcome, has_savepoint, has_transaction) {
            (Ok(Some(_)), true, _) if load.skips_checks => {
                format!("SET LOCAL tsql.skip_checks = 'off'; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}")
            }
            (Ok(Some(_)), true, _) => format!("RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"),
            (Ok(Some(_)), _, true) => "COMMIT".into(),
            (_, _, true) => "ROLLBACK".into(),
            (Ok(None), true, _) => format!(
                "ROLLBACK TO SAVEPOINT {STATEMENT_SAVEPOINT}; RELEASE SAVEPOINT {STATEMENT_SAVEPOINT}"
            ),
            (Ok(Some(_)), _, _) if load.skips_checks => "SET LOCAL tsql.skip_checks = 'off'".into(),
            _ => String::new(),
        };
        if !after.is_empty()
            && let Err(error) = self.client.batch_execute(&after).await
        {
            outcome = Err(self.explain(&error, "INSERT")?);
        }
        match &outcome {
            Err(error) => self.after_error(writer, error, has_savepoint).await?,
            // a load that was taken back under XACT_ABORT takes its transaction with it
            Ok(None) if self.facts.transaction_count > 0 && self.options.xact_abort => {
                self.roll_back_all(writer).await?;
            }
            Ok(_) => {}
        }
        Ok(outcome)
    }

    async fn copy(
        &mut self,
        reader: &mut Reader,
        load: &Load,
    ) -> Result<Result<Option<u64>, SqlError>, ConnectionError> {
        if let Some(error) = self.before_load()? {
            return Ok(drain(reader, BytesMut::new(), false).await?.map_or(Err(error), |()| Ok(None)));
        }
        let sink = match &self.shared.storage {
            Storage::Discard(_) => None,
            Storage::Postgres(_) => match self.client.copy_in::<_, Bytes>(&load.copy).await {
                Ok(sink) => Some(Box::pin(sink)),
                Err(error) => {
                    let error = self.explain(&error, "INSERT")?;
                    return Ok(drain(reader, BytesMut::new(), false)
                        .await?
                        .map_or(Err(error), |()| Ok(None)));
                }
            },
        };
        let mut sink = sink;
        let mut message = BytesMut::with_capacity(256 * 1024);
        let mut rows: Option<Rows> = None;
        loop {
            let packet = reader.peek().await?;
            if packet.kind != PacketKind::BulkLoad {
                // the only packet that may come between is an attention: it is acknowledged after the load's answer
                drop(sink);
                return if packet.kind == PacketKind::Attention {
                    Ok(Ok(None))
                } else {
                    Err(ConnectionError::Protocol("a request within a bulk load"))
                };
            }
            reader.take(packet, &mut message);
            if packet.is_ignored() {
                // what it carries may end anywhere
                return Ok(Ok(None));
            }
            let last = packet.is_last();
            let before = rows.as_ref().map_or(0, |rows| rows.count);
            loop {
                match take_rows(&mut rows, &mut message, load, last) {
                    Ok(more) => {
                        if let Some(rows) = rows.as_mut().filter(|rows| rows.is_full()) {
                            self.hand_on(&mut sink, rows).await?;
                        }
                        if !more {
                            break;
                        }
                    }
                    Err(error) => {
                        drop(sink);
                        return Ok(drain(reader, message, last).await?.map_or(Err(error), |()| Ok(None)));
                    }
                }
            }
            let Some(rows) = &mut rows else {
                if last {
                    drop(sink);
                    return Ok(Err(SqlError::protocol("a bulk load without metadata")));
                }
                continue;
            };
            self.during_load(rows.count - before, rows.count, last).await?;
            if last {
                return self.finish_copy(sink, rows).await;
            }
        }
    }

    /// Gives the rows of a full piece to PostgreSQL, or to nobody.
    async fn hand_on(
        &self,
        sink: &mut Option<Pin<Box<CopyInSink<Bytes>>>>,
        rows: &mut Rows,
    ) -> Result<(), ConnectionError> {
        let Some(sink) = sink else {
            rows.piece.clear();
            return Ok(());
        };
        let piece = std::mem::replace(&mut rows.piece, Vec::with_capacity(PIECE_BYTES + 16 * 1024));
        // PostgreSQL's own errors are told when the copy is finished
        if sink.send(Bytes::from(piece)).await.is_err() && self.client.is_closed() {
            return Err(ConnectionError::Database("lost within a bulk load".into()));
        }
        Ok(())
    }

    async fn finish_copy(
        &self,
        sink: Option<Pin<Box<CopyInSink<Bytes>>>>,
        rows: &mut Rows,
    ) -> Result<Result<Option<u64>, SqlError>, ConnectionError> {
        let Some(mut sink) = sink else { return Ok(Ok(Some(rows.count))) };
        rows.piece.extend_from_slice(&COPY_END);
        let piece = std::mem::take(&mut rows.piece);
        let _ = sink.send(Bytes::from(piece)).await;
        match sink.as_mut().finish().await {
            Ok(count) => Ok(Ok(Some(count))),
            Err(error) => Ok(Err(self.explain(&error, "INSERT")?)),
        }
    }
}

/// Reads a load's message to its end and forgets it. `Some` where the client took the load back meanwhile.
async fn drain(
    reader: &mut Reader,
    mut message: BytesMut,
    mut ended: bool,
) -> Result<Option<()>, ConnectionError> {
    while !ended {
        let packet = reader.peek().await?;
        match packet.kind {
            PacketKind::BulkLoad => reader.take(packet, &mut message),
            PacketKind::Attention => return Ok(Some(())),
            _ => return Err(ConnectionError::Protocol("a request within a bulk load")),
        }
        message.clear();
        if packet.is_ignored() {
            return Ok(Some(()));
        }
        ended = packet.is_last();
    }
    Ok(None)
}
