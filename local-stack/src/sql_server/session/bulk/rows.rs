//! A load's rows, from the bytes of its message to those of a binary COPY.

use bytes::{Buf, BytesMut};

use super::super::super::decode::{ColumnDecoder, ValueError};
use super::super::super::error::SqlError;
use super::super::super::read::Cursor;
use super::super::super::type_info::{WireType, read_type_info};
use super::super::super::types::SqlType;
use super::{
    COPY_HEADER, Load, LoadColumn, MAX_ROW_BYTES, PIECE_BYTES, TOKEN_COLMETADATA, TOKEN_DONE, TOKEN_ROW,
};

/// The rows of a load on their way.
pub(in super::super) struct Rows {
    decoders: Vec<ColumnDecoder>,
    width: [u8; 2],
    pub(in super::super) piece: Vec<u8>,
    pub(in super::super) count: u64,
    ended: bool,
    /// Until so many bytes have arrived, another try to read the next row is in vain.
    retry_at: usize,
}

/// Decodes rows that have arrived, until the piece is full: `true` where more of them may be there. A value of no
/// bytes becomes up to 8,000 in a column of fixed length, so that what a packet becomes has no other bound.
pub(in super::super) fn take_rows(
    rows: &mut Option<Rows>,
    message: &mut BytesMut,
    load: &Load,
    last: bool,
) -> Result<bool, SqlError> {
    if rows.is_none() {
        let mut cursor = Cursor::new(message);
        match read_metadata(&mut cursor, load) {
            Ok(decoders) => {
                let taken = message.len() - cursor.remaining();
                message.advance(taken);
                let width = u16::try_from(decoders.len()).unwrap_or(0).to_be_bytes();
                *rows = Some(Rows {
                    decoders,
                    width,
                    piece: COPY_HEADER.to_vec(),
                    count: 0,
                    ended: false,
                    retry_at: 0,
                });
            }
            Err(ValueError::Truncated) if !last && message.len() < MAX_ROW_BYTES => return Ok(false),
            Err(error) => return Err(refusal(error)),
        }
    }
    let Some(rows) = rows else { return Ok(false) };
    if !last && message.len() < rows.retry_at {
        return Ok(false);
    }
    let taken = rows.decode(message)?;
    message.advance(taken);
    if rows.is_full() && !rows.ended {
        return Ok(true);
    }
    if rows.ended {
        message.clear();
    } else if last && !message.is_empty() {
        // not every client writes a DONE token behind its last row
        return Err(refusal(ValueError::Truncated));
    }
    if message.len() > MAX_ROW_BYTES {
        return Err(SqlError::unsupported("a row of more than 32 MiB"));
    }
    // twice as much before the next try: a long row is read a few times and not once a packet
    rows.retry_at = if taken == 0 { message.len() * 2 } else { 0 };
    Ok(false)
}

fn refusal(error: ValueError) -> SqlError {
    match error {
        ValueError::Truncated => {
            SqlError::new(4804, 16, 1, "Premature end-of-message while reading the current row from host.")
        }
        ValueError::Refused(error) => error,
    }
}

/// The load's own column metadata, which has to fit what INSERT BULK announced.
fn read_metadata(cursor: &mut Cursor<'_>, load: &Load) -> Result<Vec<ColumnDecoder>, ValueError> {
    if cursor.u8()? != TOKEN_COLMETADATA {
        return Err(SqlError::protocol("a bulk load has to begin with its metadata").into());
    }
    let count = usize::from(cursor.u16()?);
    if count != load.columns.len() {
        return Err(SqlError::new(
            4801,
            16,
            1,
            format!("{count} columns were sent where INSERT BULK announced {}.", load.columns.len()),
        )
        .into());
    }
    let mut decoders = Vec::with_capacity(count);
    for column in &load.columns {
        let _user_type = cursor.u32()?;
        let _flags = cursor.u16()?;
        let wire = read_type_info(cursor).map_err(|error| match error {
            super::super::super::type_info::TypeInfoError::Truncated => ValueError::Truncated,
            super::super::super::type_info::TypeInfoError::Refused(error) => ValueError::Refused(error),
        })?;
        let _name = cursor.short_text()?;
        check_announced(column, wire)?;
        let mut decoder = ColumnDecoder::new(wire, column.sql_type, column.nullable, column.target.clone())?;
        if let Some(default) = &column.default {
            decoder.set_default(default);
        }
        decoders.push(decoder);
    }
    Ok(decoders)
}

/// SQL Server takes neither xml as such (MS-TDS 2.2.6.1) nor a value with a bound where INSERT BULK announced one
/// without, nor the other way round.
fn check_announced(column: &LoadColumn, wire: WireType) -> Result<(), SqlError> {
    let Some(sent) = wire.sql_type else { return Ok(()) };
    let is_max = |sql_type: SqlType| sql_type.facets().max_length < 0;
    let clash = match column.announced {
        _ if sent == SqlType::Xml => Some("it has to be sent as nvarchar".to_owned()),
        Some(announced) if is_max(sent) != is_max(announced) => {
            Some(format!("{sent} was sent where INSERT BULK announced {announced}"))
        }
        _ => None,
    };
    match clash {
        Some(clash) => Err(SqlError::new(
            4816,
            16,
            1,
            format!("Invalid column type from bcp client for colid {}: {clash}.", column.target.ordinal),
        )),
        None => Ok(()),
    }
}

impl Rows {
    /// Whether the piece is to be handed on before the next row.
    pub(super) fn is_full(&self) -> bool {
        self.piece.len() >= PIECE_BYTES
    }

    /// Decodes whole rows; gives the number of bytes that they took.
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, SqlError> {
        let mut cursor = Cursor::new(bytes);
        let mut taken = 0;
        while !self.ended && !self.is_full() {
            let Ok(token) = cursor.u8() else { break };
            match token {
                TOKEN_ROW => {
                    let start = self.piece.len();
                    match self.row(&mut cursor) {
                        Ok(()) => self.count += 1,
                        Err(ValueError::Truncated) => {
                            self.piece.truncate(start);
                            break;
                        }
                        Err(ValueError::Refused(error)) => return Err(error),
                    }
                }
                TOKEN_DONE => self.ended = true,
                _ => return Err(SqlError::protocol("an unknown token in a bulk load")),
            }
            taken = bytes.len() - cursor.remaining();
        }
        Ok(taken)
    }

    #[inline]
    fn row(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ValueError> {
        self.piece.extend_from_slice(&self.width);
        for decoder in &self.decoders {
            decoder.decode(cursor, &mut self.piece)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::decode::Target;
    use super::super::super::super::noise::Noise;
    use super::super::super::super::type_info::write_type_info;
    use super::super::super::super::types::{Collation, Length};
    use super::super::LoadColumn;
    use super::*;

    const TYPES: [SqlType; 4] = [
        SqlType::BigInt,
        SqlType::NVarChar(Length::Limited(20), Collation::Latin1),
        SqlType::Decimal { precision: 18, scale: 4 },
        SqlType::VarBinary(Length::Max),
    ];

    fn load() -> Load {
        let columns = TYPES.iter().enumerate().map(|(index, sql_type)| LoadColumn {
            sql_type: *sql_type,
            announced: Some(*sql_type),
            nullable: true,
            default: None,
            target: Target { table: "t".into(), column: "c".into(), ordinal: index + 1 },
        });
        Load { copy: String::new(), columns: columns.collect(), skips_checks: false }
    }

    /// A load of so many rows.
    fn message(rows: usize) -> Vec<u8> {
        let mut bytes = vec![TOKEN_COLMETADATA, 4, 0];
        for sql_type in TYPES {
            bytes.extend_from_slice(&[0; 6]);
            write_type_info(&mut bytes, sql_type, true);
            bytes.push(0);
        }
        for _ in 0..rows {
            bytes.push(TOKEN_ROW);
            bytes.extend_from_slice(&[8, 1, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&[4, 0, b'a', 0, b'b', 0]);
            bytes.extend_from_slice(&[9, 1, 57, 48, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0]);
        }
        bytes.extend_from_slice(&[TOKEN_DONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn rows_are_the_same_however_the_message_is_cut() {
        let whole = message(50);
        let mut expected = None;
        for size in [1, 7, 64, whole.len()] {
            let mut rows = None;
            let mut message = BytesMut::new();
            for (index, piece) in whole.chunks(size).enumerate() {
                message.extend_from_slice(piece);
                let more = take_rows(&mut rows, &mut message, &load(), (index + 1) * size >= whole.len());
                assert!(!more.unwrap());
            }
            let rows = rows.unwrap();
            assert_eq!(rows.count, 50);
            assert_eq!(*expected.get_or_insert(rows.piece.clone()), rows.piece, "in pieces of {size}");
        }
    }

    #[test]
    fn what_a_packet_becomes_is_handed_on_in_pieces() {
        let sql_type = SqlType::NChar(4000, Collation::Latin1);
        let target = Target { table: "t".into(), column: "c".into(), ordinal: 1 };
        let columns = vec![LoadColumn { sql_type, announced: None, nullable: true, default: None, target }];
        let load = Load { copy: String::new(), columns, skips_checks: false };
        let mut message = BytesMut::from(&[TOKEN_COLMETADATA, 1, 0, 0, 0, 0, 0, 0, 0][..]);
        let mut type_info = Vec::new();
        write_type_info(&mut type_info, sql_type, true);
        message.extend_from_slice(&type_info);
        message.extend_from_slice(&[0]);
        for _ in 0..10_000 {
            message.extend_from_slice(&[TOKEN_ROW, 0, 0]);
        }
        let mut rows = None;
        let mut pieces = 0;
        while take_rows(&mut rows, &mut message, &load, true).unwrap() {
            let rows = rows.as_mut().unwrap();
            assert!(rows.piece.len() < PIECE_BYTES + 8000);
            rows.piece.clear();
            pieces += 1;
        }
        assert!(pieces > 100);
        assert_eq!(rows.unwrap().count, 10_000);
    }

    #[test]
    fn a_load_of_any_bytes_is_taken_or_refused() {
        let mut noise = Noise::new(5);
        let valid = message(3);
        for _ in 0..50_000 {
            let bytes = noise.mutate(&valid);
            let (first, second) = bytes.split_at(noise.below(bytes.len() + 1));
            let mut rows = None;
            let mut message = BytesMut::from(first);
            if take_rows(&mut rows, &mut message, &load(), false).is_ok() {
                message.extend_from_slice(second);
                let _ = take_rows(&mut rows, &mut message, &load(), true);
            }
        }
    }
}
