//! The tokens of a response (MS-TDS 2.2.7).

use super::encode::write_value;
use super::error::SqlError;
use super::login::{FEATURE_FEDAUTH, Nonce, PRODUCT_VERSION};
use super::type_info::write_type_info;
use super::types::{Collation, SqlType};

const TOKEN_COLMETADATA: u8 = 0x81;
const TOKEN_ERROR: u8 = 0xAA;
const TOKEN_INFO: u8 = 0xAB;
const TOKEN_LOGINACK: u8 = 0xAD;
const TOKEN_FEATUREEXTACK: u8 = 0xAE;
pub(super) const TOKEN_ROW: u8 = 0xD1;
const TOKEN_RETURNSTATUS: u8 = 0x79;
const TOKEN_RETURNVALUE: u8 = 0xAC;
const TOKEN_ENVCHANGE: u8 = 0xE3;
const TOKEN_DONE: u8 = 0xFD;
const TOKEN_DONEPROC: u8 = 0xFE;
const TOKEN_DONEINPROC: u8 = 0xFF;

const DONE_MORE: u16 = 0x0001;
const DONE_ERROR: u16 = 0x0002;
const DONE_COUNT: u16 = 0x0010;
const DONE_ATTENTION: u16 = 0x0020;
const DONE_SERVER_ERROR: u16 = 0x0100;

const SERVER_NAME: &str = "local-stack";

fn put_text_u8(out: &mut Vec<u8>, text: &str) {
    let units: Vec<u16> = text.encode_utf16().take(usize::from(u8::MAX)).collect();
    out.push(u8::try_from(units.len()).unwrap_or(u8::MAX));
    units.iter().for_each(|unit| out.extend_from_slice(&unit.to_le_bytes()));
}

fn put_text_u16(out: &mut Vec<u8>, text: &str) {
    // a token is at most 64 KiB long, and an error's text far shorter
    let units: Vec<u16> = text.encode_utf16().take(4000).collect();
    out.extend_from_slice(&u16::try_from(units.len()).unwrap_or(0).to_le_bytes());
    units.iter().for_each(|unit| out.extend_from_slice(&unit.to_le_bytes()));
}

/// A token with two bytes of length in front of its body.
fn put_sized(out: &mut Vec<u8>, token: u8, body: &[u8]) {
    out.push(token);
    out.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(body);
}

/// ENVCHANGE: what a client has to know of the session.
#[derive(Clone, Copy, Debug)]
pub(super) enum EnvironmentChange<'a> {
    Database {
        new: &'a str,
        old: &'a str,
    },
    Language(&'a str),
    PacketSize {
        new: usize,
        old: usize,
    },
    Collation(Collation),
    BeginTransaction(u64),
    CommitTransaction(u64),
    RollbackTransaction(u64),
    ResetConnection,
    /// The client has to log in there instead.
    Routing {
        host: &'a str,
        port: u16,
    },
}

pub(super) fn write_environment_change(out: &mut Vec<u8>, change: EnvironmentChange<'_>) {
    let mut body = Vec::new();
    match change {
        EnvironmentChange::Database { new, old } => {
            body.push(1);
            put_text_u8(&mut body, new);
            put_text_u8(&mut body, old);
        }
        EnvironmentChange::Language(new) => {
            body.push(2);
            put_text_u8(&mut body, new);
            put_text_u8(&mut body, "");
        }
        EnvironmentChange::PacketSize { new, old } => {
            body.push(4);
            put_text_u8(&mut body, &new.to_string());
            put_text_u8(&mut body, &old.to_string());
        }
        EnvironmentChange::Collation(collation) => {
            body.extend_from_slice(&[7, 5]);
            body.extend_from_slice(&collation.wire());
            body.push(0);
        }
        EnvironmentChange::BeginTransaction(descriptor) => {
            body.extend_from_slice(&[8, 8]);
            body.extend_from_slice(&descriptor.to_le_bytes());
            body.push(0);
        }
        EnvironmentChange::CommitTransaction(descriptor) => {
            body.extend_from_slice(&[9, 0, 8]);
            body.extend_from_slice(&descriptor.to_le_bytes());
        }
        EnvironmentChange::RollbackTransaction(descriptor) => {
            body.extend_from_slice(&[10, 0, 8]);
            body.extend_from_slice(&descriptor.to_le_bytes());
        }
        EnvironmentChange::ResetConnection => body.extend_from_slice(&[18, 0, 0]),
        EnvironmentChange::Routing { host, port } => {
            // the new value has two bytes of length, a protocol (0, which is TCP), its port, and the server's name
            let mut value = vec![0];
            value.extend_from_slice(&port.to_le_bytes());
            put_text_u16(&mut value, host);
            body.push(20);
            body.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
            body.extend_from_slice(&value);
            body.extend_from_slice(&[0, 0]);
        }
    }
    put_sized(out, TOKEN_ENVCHANGE, &body);
}

pub(super) fn write_login_ack(out: &mut Vec<u8>, is_tds_8: bool) {
    let mut body = if is_tds_8 { vec![1, 0x08, 0x00, 0x00, 0x00] } else { vec![1, 0x74, 0x00, 0x00, 0x04] };
    put_text_u8(&mut body, "Microsoft SQL Server");
    body.extend_from_slice(&PRODUCT_VERSION);
    put_sized(out, TOKEN_LOGINACK, &body);
}

const FEATURE_UTF8_SUPPORT: u8 = 0x0A;

/// Acknowledges of what a client asked for the features that this server has. A token is acknowledged with the
/// client's nonce, where it sent one.
pub(super) fn write_feature_ack(out: &mut Vec<u8>, asked: &[u8], nonce: Option<&Nonce>) {
    if asked.is_empty() {
        return;
    }
    out.push(TOKEN_FEATUREEXTACK);
    if asked.contains(&FEATURE_FEDAUTH) {
        let nonce: &[u8] = nonce.map_or(&[], Nonce::as_slice);
        out.push(FEATURE_FEDAUTH);
        out.extend_from_slice(&u32::try_from(nonce.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(nonce);
    }
    if asked.contains(&FEATURE_UTF8_SUPPORT) {
        out.extend_from_slice(&[FEATURE_UTF8_SUPPORT, 1, 0, 0, 0, 1]);
    }
    out.push(0xFF);
}

fn write_message(out: &mut Vec<u8>, token: u8, error: &SqlError) {
    let mut body = Vec::new();
    body.extend_from_slice(&error.number.to_le_bytes());
    body.extend_from_slice(&[error.state, error.class]);
    put_text_u16(&mut body, &error.message);
    put_text_u8(&mut body, SERVER_NAME);
    put_text_u8(&mut body, "");
    body.extend_from_slice(&1u32.to_le_bytes());
    put_sized(out, token, &body);
}

pub(super) fn write_error(out: &mut Vec<u8>, error: &SqlError) {
    write_message(out, TOKEN_ERROR, error);
}

pub(super) fn write_info(out: &mut Vec<u8>, info: &SqlError) {
    write_message(out, TOKEN_INFO, info);
}

/// Which of the three tokens ends a statement: within a batch, within a procedure, or the procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoneKind {
    Batch,
    InProcedure,
    Procedure,
}

/// What a DONE token says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) rows: Option<u64>,
    pub(super) more: bool,
    pub(super) error: bool,
    pub(super) attention: bool,
    /// The connection ends with it.
    pub(super) severe: bool,
    pub(super) command: u16,
}

/// The only number of a command that clients look at.
pub(super) const COMMAND_SELECT: u16 = 0xC1;
pub(super) const COMMAND_INSERT: u16 = 0xC3;
pub(super) const COMMAND_DELETE: u16 = 0xC4;
pub(super) const COMMAND_UPDATE: u16 = 0xC5;
pub(super) const COMMAND_BULK_INSERT: u16 = 0xF0;

pub(super) fn write_done(out: &mut Vec<u8>, kind: DoneKind, done: Done) {
    out.push(match kind {
        DoneKind::Batch => TOKEN_DONE,
        DoneKind::InProcedure => TOKEN_DONEINPROC,
        DoneKind::Procedure => TOKEN_DONEPROC,
    });
    let mut status = 0;
    for (flag, set) in [
        (DONE_MORE, done.more),
        (DONE_ERROR, done.error),
        (DONE_COUNT, done.rows.is_some()),
        (DONE_ATTENTION, done.attention),
        (DONE_SERVER_ERROR, done.severe),
    ] {
        if set {
            status |= flag;
        }
    }
    out.extend_from_slice(&status.to_le_bytes());
    out.extend_from_slice(&done.command.to_le_bytes());
    out.extend_from_slice(&done.rows.unwrap_or(0).to_le_bytes());
}

pub(super) fn write_return_status(out: &mut Vec<u8>, status: i32) {
    out.push(TOKEN_RETURNSTATUS);
    out.extend_from_slice(&status.to_le_bytes());
}

/// An output parameter. `value` is PostgreSQL's binary form.
pub(super) fn write_return_value(
    out: &mut Vec<u8>,
    ordinal: u16,
    name: &str,
    sql_type: SqlType,
    value: Option<&[u8]>,
) -> Result<(), SqlError> {
    let mut token = vec![TOKEN_RETURNVALUE];
    token.extend_from_slice(&ordinal.to_le_bytes());
    put_text_u8(&mut token, name);
    token.push(1);
    token.extend_from_slice(&0u32.to_le_bytes());
    token.extend_from_slice(&0u16.to_le_bytes());
    write_type_info(&mut token, sql_type, true);
    write_value(&mut token, sql_type, true, value)?;
    out.extend_from_slice(&token);
    Ok(())
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResultColumn {
    pub(super) name: String,
    pub(super) sql_type: SqlType,
    pub(super) nullable: bool,
    pub(super) origin: ColumnOrigin,
}

/// What a client may know about where a result's column comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnOrigin {
    Expression,
    Table,
    Identity,
    Computed,
}

const FLAG_NULLABLE: u16 = 0x0001;
const FLAG_UPDATEABLE_UNKNOWN: u16 = 0x0008;
const FLAG_IDENTITY: u16 = 0x0010;
const FLAG_COMPUTED: u16 = 0x0020;

pub(super) fn write_column_metadata(out: &mut Vec<u8>, columns: &[ResultColumn]) {
    out.push(TOKEN_COLMETADATA);
    out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_le_bytes());
    for column in columns {
        out.extend_from_slice(&0u32.to_le_bytes());
        let mut flags = match column.origin {
            ColumnOrigin::Expression => 0,
            ColumnOrigin::Table => FLAG_UPDATEABLE_UNKNOWN,
            ColumnOrigin::Identity => FLAG_IDENTITY,
            ColumnOrigin::Computed => FLAG_COMPUTED,
        };
        if column.nullable {
            flags |= FLAG_NULLABLE;
        }
        out.extend_from_slice(&flags.to_le_bytes());
        write_type_info(out, column.sql_type, column.nullable);
        put_text_u8(out, &column.name);
    }
}
