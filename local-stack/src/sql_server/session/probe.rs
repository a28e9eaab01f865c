//! For the fuzzer: what reads a request, without the session that answers it.

use bytes::BytesMut;

use super::super::decode::{Target, ValueError};
use super::super::error::SqlError;
use super::super::read::Truncated;
use super::super::types::SqlType;

/// The text of a SQL batch, from the bytes of its message.
pub(in super::super) fn batch_text(message: &[u8]) -> Result<String, Truncated> {
    super::after_headers(message).map(|cursor| super::super::read::decode_utf16(cursor.rest()))
}

/// Reads all calls of a request; gives how many there are, and how many bytes their parameters have.
pub(in super::super) fn calls(message: &[u8]) -> Result<(usize, usize), ValueError> {
    let mut cursor = super::after_headers(message)?;
    let (mut count, mut bytes) = (0, 0);
    while count == 0 || cursor.remaining() > 0 {
        bytes += super::rpc::skip_call(&mut cursor)?;
        count += 1;
    }
    Ok((count, bytes))
}

/// Reads a transaction manager request; gives its kind.
pub(in super::super) fn transaction_request(message: &[u8]) -> Result<u16, Truncated> {
    let mut cursor = super::after_headers(message)?;
    super::transaction::TransactionRequest::read(&mut cursor).map(|request| request.number())
}

/// A bulk load's message in pieces, as packets bring it; gives the number of its rows, and a digest (FNV-1a) of what
/// PostgreSQL would be given, which may be a thousand times the message.
pub(in super::super) fn load<'a>(
    columns: &[(SqlType, bool)],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(u64, u64), SqlError> {
    let columns = columns.iter().enumerate().map(|(index, (sql_type, nullable))| super::bulk::LoadColumn {
        sql_type: *sql_type,
        announced: None,
        nullable: *nullable,
        default: None,
        target: Target { table: "t".into(), column: "c".into(), ordinal: index + 1 },
    });
    let load = super::bulk::Load { copy: String::new(), columns: columns.collect(), skips_checks: false };
    let mut pieces = pieces.into_iter().peekable();
    let mut message = BytesMut::new();
    let mut rows = None;
    let mut digest = 0xcbf2_9ce4_8422_2325u64;
    let mut count = 0;
    while let Some(piece) = pieces.next() {
        message.extend_from_slice(piece);
        let mut more = true;
        while more {
            more = super::bulk::take_rows(&mut rows, &mut message, &load, pieces.peek().is_none())?;
            let Some(rows) = &mut rows else { break };
            let whole = rows.piece.drain(..);
            digest = whole.fold(digest, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            count = rows.count;
        }
    }
    if rows.is_none() {
        return Err(SqlError::protocol("a bulk load without metadata"));
    }
    Ok((count, digest))
}
