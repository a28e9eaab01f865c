//! What is fuzzed, and what has to hold for every input.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, ReadBuf};

use super::super::batch;
use super::super::decode::{ColumnDecoder, Target as Place, ValueError};
use super::super::encode::write_value;
use super::super::error::SqlError;
use super::super::login::{Login7, PreLogin};
use super::super::packet::{ConnectionError, PacketReader};
use super::super::read::Cursor;
use super::super::session::probe;
use super::super::type_info::{read_type_info, write_type_info};
use super::super::types::{Collation, Length, SqlType};
use super::super::xml;

/// A parser.
#[derive(Debug)]
pub struct Target {
    /// Its folder in the corpus.
    pub name: &'static str,
    /// Reads the input. Gives a number for what became of it, so that inputs that differ can be told apart; an error
    /// is a promise that the parser broke.
    pub run: fn(&[u8]) -> Result<u64, String>,
    /// What it reads often.
    pub dictionary: &'static [&'static [u8]],
    /// Inputs that nobody has to record.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const NO_SEEDS: fn() -> Vec<Vec<u8>> = Vec::new;

/// All parsers.
pub const TARGETS: &[Target] = &[
    Target { name: "packet", run: packet, dictionary: PACKET_WORDS, seeds: NO_SEEDS },
    Target {
        name: "prelogin",
        run: prelogin,
        dictionary: &[b"\xFF", b"\x01\x00\x1A\x00\x01"],
        seeds: NO_SEEDS,
    },
    Target { name: "login7", run: login7, dictionary: LOGIN_WORDS, seeds: NO_SEEDS },
    Target { name: "batch", run: batch_text, dictionary: SQL_WORDS, seeds: NO_SEEDS },
    Target {
        name: "batch_message",
        run: batch_message,
        dictionary: &[b"\x16\0\0\0", b"'\0", b"(\0"],
        seeds: NO_SEEDS,
    },
    Target { name: "declarations", run: declarations, dictionary: SQL_WORDS, seeds: NO_SEEDS },
    Target { name: "insert_bulk", run: insert_bulk, dictionary: SQL_WORDS, seeds: NO_SEEDS },
    Target { name: "rpc", run: rpc, dictionary: TYPE_WORDS, seeds: NO_SEEDS },
    Target {
        name: "transaction",
        run: transaction,
        dictionary: &[b"\x05\0", b"\x07\0", b"\x08\0", b"\x09\0"],
        seeds: NO_SEEDS,
    },
    Target { name: "load", run: load, dictionary: TYPE_WORDS, seeds: NO_SEEDS },
    Target { name: "value", run: value, dictionary: TYPE_WORDS, seeds: value_seeds },
    Target { name: "xml", run: xml_text, dictionary: XML_WORDS, seeds: NO_SEEDS },
    Target { name: "faults", run: faults, dictionary: FAULT_WORDS, seeds: NO_SEEDS },
];

const PACKET_WORDS: &[&[u8]] = &[
    b"\x01\x01\x00\x08\0\0\0\0",
    b"\x06\x01\x00\x08\0\0\0\0",
    b"\x07\x00\x02\x00\0\0\0\0",
    b"\x07\x03\x00\x08\0\0\0\0",
    b"\x03\x09\x00\x08\0\0\0\0",
    b"\x12\x01\x00\x08\0\0\0\0",
    b"\x80\x00",
];
const LOGIN_WORDS: &[&[u8]] =
    &[b"\x04\0\0\x74", b"\0\0\0\x08", b"\x02", b"\x04\0\0\0\0", b"\x0A\x01\0\0\0\x01", b"\xFF", b"\xFF\xFF"];
const TYPE_WORDS: &[&[u8]] = &[
    b"\x26\x04",
    b"\x26\x08",
    b"\x6A\x11\x26\x04",
    b"\x6C\x05\x09\x02",
    b"\x6D\x08",
    b"\x24\x10",
    b"\x28",
    b"\x29\x07",
    b"\x2A\x07",
    b"\x2B\x07",
    b"\xA5\xFF\xFF",
    b"\xE7\xFF\xFF\x09\x04\xD0\x00\x34",
    b"\xE7\x40\x1F\x09\x04\xD0\x00\x34",
    b"\xA7\x40\x1F\x09\x04\xD0\x00\x34",
    b"\xA7\x40\x1F\x09\x04\xD0\x04\x34",
    b"\xAF\x10\x00\x09\x04\xD0\x00\x34",
    b"\xF1\x00",
    b"\x6E\x08",
    b"\x6F\x08",
    b"\x1F",
    b"\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
    b"\0\0\0\0",
    b"\xFF\xFF",
    b"\xD1",
    b"\xD2",
    b"\xFD",
    b"\x81",
    b"\xFF\xFF\x0A\0",
    b"\xFF\xFF\x0D\0",
    b"\xFF\xFF\x0C\0",
    b"\x00\xD8",
    b"\x00\xDC",
];
const SQL_WORDS: &[&[u8]] = &[
    b"SELECT ",
    b"INSERT INTO ",
    b"UPDATE ",
    b"DELETE ",
    b" FROM ",
    b" WHERE ",
    b" VALUES ",
    b"INSERT BULK ",
    b"BEGIN ",
    b"END ",
    b"BEGIN TRY ",
    b"END TRY BEGIN CATCH ",
    b"END CATCH ",
    b"IF ",
    b"ELSE ",
    b"DECLARE @x int = ",
    b"SET ",
    b"EXEC ",
    b"sp_executesql N'",
    b"THROW ",
    b"WITH (",
    b" AS ",
    b" JOIN ",
    b" ON ",
    b" CASE WHEN ",
    b" THEN ",
    b" UNION ALL ",
    b" IN (",
    b" EXISTS (",
    b" NOT ",
    b" IS NULL",
    b" BETWEEN ",
    b" LIKE N'",
    b" COLLATE ",
    b" OVER (",
    b"PARTITION BY ",
    b"ORDER BY ",
    b"GROUP BY ",
    b"TOP (",
    b"CREATE TABLE #t (",
    b"ALTER TABLE ",
    b"DROP TABLE ",
    b"CONSTRAINT ",
    b"PRIMARY KEY ",
    b"CHECK (",
    b"DEFAULT ",
    b"IDENTITY(1,1)",
    b"GRANT ",
    b"DENY ",
    b"REVOKE ",
    b"GO",
    b"(",
    b")",
    b"[",
    b"]",
    b"'",
    b"\"",
    b"N'",
    b"--",
    b"/*",
    b"*/",
    b";",
    b",",
    b".",
    b"@",
    b"@@",
    b"#",
    b"+",
    b"-",
    b"~",
    b"::",
    b"0x",
    b"1e",
    b"99999999999999999999999999999999999999999",
    b"\xEF\xBB\xBF",
    b"\xF0\x9F\x98\x80",
    b"nvarchar(max)",
    b"decimal(38,",
    b"datetime2(7)",
    b"varbinary(8000)",
    b"WAITFOR DELAY '",
    b"AT TIME ZONE ",
    b"sp_getapplock ",
    b"@Resource = ",
];
const XML_WORDS: &[&[u8]] = &[
    b"<a>",
    b"</a>",
    b"<a/>",
    b"<?xml ",
    b"?>",
    b"<![CDATA[",
    b"<!--",
    b"<!DOCTYPE",
    b"&amp;",
    b"&#x",
    b"&#38;",
    b"&#1114112;",
    b"='",
    b"=\"",
    b" xmlns:x=\"u\"",
    b":",
    b"]]>",
    b"\r\n",
    b"\xEF\xBB\xBF",
];
const FAULT_WORDS: &[&[u8]] = &[
    b"[[fault]]\n",
    b"on = \"bulk_load\"\n",
    b"nth = ",
    b"fraction = ",
    b"error = ",
    b"delay_answer = \"1s\"\n",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"\"\"",
    b"= ",
    b"18446744073709551616",
    b"-1",
    b"nan",
    b"inf",
    b"1e999",
    b"584542046091y",
];

/// A number for a kind of refusal.
fn refused(error: &SqlError) -> u64 {
    u64::from(error.number.unsigned_abs()) << 8 | 1
}

fn outcome<T, E>(result: Result<T, E>, of: impl FnOnce(T) -> usize, error: impl FnOnce(E) -> u64) -> u64 {
    match result {
        // as coarse as magnitudes, or every number would be news
        Ok(value) => u64::from(of(value).checked_ilog2().map_or(0, |log| log + 1)) << 8,
        Err(refusal) => error(refusal),
    }
}

/// Bytes that arrive in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.size.min(self.rest.len()).min(buf.remaining());
        let (now, later) = self.rest.split_at(count);
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

/// The messages are the same however the bytes arrive.
fn packet(input: &[u8]) -> Result<u64, String> {
    let Some((size, bytes)) = input.split_first() else { return Ok(0) };
    let whole = messages(bytes, bytes.len());
    let cut = messages(bytes, usize::from(*size).max(1));
    if whole == cut { Ok(whole.1) } else { Err(format!("{whole:?} as a whole, {cut:?} in pieces")) }
}

/// Number of messages, and how they ended; and the bytes of all.
fn messages(bytes: &[u8], size: usize) -> (usize, u64, Vec<u8>) {
    let mut reader = PacketReader::new(Pieces { rest: bytes, size });
    let (mut count, mut content) = (0, Vec::new());
    let mut message = BytesMut::new();
    loop {
        let peeked = reader.peek().now_or_never();
        match peeked {
            Some(Ok(packet)) => {
                let kind = packet.kind as u8;
                reader.take(packet, &mut message);
                if packet.is_last() || packet.is_ignored() {
                    count += 1;
                    content.push(kind);
                    content.extend_from_slice(&message);
                    message.clear();
                }
            }
            Some(Err(error)) => {
                let how = match error {
                    ConnectionError::Closed => 1,
                    ConnectionError::Protocol(what) => 2 + what.len() as u64,
                    _ => 0,
                };
                return (count, how, content);
            }
            None => return (count, 0, content),
        }
    }
}

fn prelogin(input: &[u8]) -> Result<u64, String> {
    Ok(outcome(PreLogin::parse(input), |asked| asked.encryption as usize, |_| 1))
}

fn login7(input: &[u8]) -> Result<u64, String> {
    Ok(outcome(Login7::parse(input), |login| login.user.len() + login.features.len(), |_| 1))
}

fn batch_text(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    Ok(outcome(batch::parse(&text), |statements| statements.len(), |error| refused(&error)))
}

fn batch_message(input: &[u8]) -> Result<u64, String> {
    match probe::batch_text(input) {
        Ok(text) => batch_text(text.as_bytes()),
        Err(_) => Ok(1),
    }
}

fn declarations(input: &[u8]) -> Result<u64, String> {
    let parsed = batch::parse_declarations(&String::from_utf8_lossy(input));
    Ok(outcome(parsed, |declared| declared.len(), |error| refused(&error)))
}

fn insert_bulk(input: &[u8]) -> Result<u64, String> {
    let text = format!("INSERT BULK {}", String::from_utf8_lossy(input));
    Ok(outcome(batch::parse(&text), |statements| statements.len(), |error| refused(&error)))
}

fn refused_value(error: &ValueError) -> u64 {
    match error {
        ValueError::Truncated => 1,
        ValueError::Refused(error) => refused(error),
    }
}

fn rpc(input: &[u8]) -> Result<u64, String> {
    Ok(outcome(probe::calls(input), |(calls, bytes)| calls + bytes, |error| refused_value(&error)))
}

fn transaction(input: &[u8]) -> Result<u64, String> {
    Ok(outcome(probe::transaction_request(input), usize::from, |_| 1))
}

/// The rows are the same however the message is cut. The input: the size of the pieces, the number of columns, a byte
/// for the type of each, and the message.
fn load(input: &[u8]) -> Result<u64, String> {
    let types = column_types();
    let [size, count, rest @ ..] = input else { return Ok(0) };
    let Some((columns, message)) = rest.split_at_checked(usize::from(count % 16)) else { return Ok(0) };
    let columns: Vec<_> = columns
        .iter()
        .map(|byte| (types[usize::from(byte & 0x7F) % types.len()], byte & 0x80 == 0))
        .collect();
    let whole = probe::load(&columns, [message]);
    let cut = probe::load(&columns, message.chunks(usize::from(*size) + 1));
    match (&whole, &cut) {
        (Ok(one), Ok(other)) if one == other => {}
        (Err(one), Err(other)) if one.number == other.number => {}
        _ if message.is_empty() => {}
        _ => return Err(format!("{whole:?} as a whole, {cut:?} in pieces")),
    }
    Ok(outcome(whole, |(rows, _)| usize::try_from(rows).unwrap_or(usize::MAX), |error| refused(&error)))
}

/// What was taken can be sent back. The input: a byte for the column's type, the type that is sent, and the value.
fn value(input: &[u8]) -> Result<u64, String> {
    let types = column_types();
    let Some((selector, rest)) = input.split_first() else { return Ok(0) };
    let column = types[usize::from(selector & 0x7F) % types.len()];
    let mut cursor = Cursor::new(rest);
    let wire = match read_type_info(&mut cursor) {
        Ok(wire) => wire,
        Err(error) => return Ok(refused(&error.into())),
    };
    let place = Place { table: "t".into(), column: "c".into(), ordinal: 1 };
    let decoder = match ColumnDecoder::new(wire, column, selector & 0x80 == 0, place) {
        Ok(decoder) => decoder,
        Err(error) => return Ok(refused(&error)),
    };
    let mut field = Vec::new();
    if let Err(error) = decoder.decode(&mut cursor, &mut field) {
        return Ok(refused_value(&error));
    }
    let Some((length, stored)) = field.split_first_chunk::<4>() else {
        return Err("a value became no field".into());
    };
    let stored = if *length == [0xFF; 4] { None } else { Some(stored) };
    if stored
        .is_some_and(|stored| u32::try_from(stored.len()).is_ok_and(|bytes| bytes.to_be_bytes() != *length))
    {
        return Err("a field's length is not that of its bytes".into());
    }
    match write_value(&mut Vec::new(), column, true, stored) {
        Ok(()) => Ok(outcome(Ok::<_, SqlError>(field.len()), |bytes| bytes, |_| 1)),
        Err(error) => Err(format!("a {column} was taken that cannot be sent: {error:?}")),
    }
}

/// What was written is read as itself.
fn xml_text(input: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(input);
    let once = match xml::normalize(&text) {
        Ok(once) => once,
        Err(error) => return Ok(refused(&error)),
    };
    if once.starts_with('\u{FEFF}') {
        // a character of the text where it was written, a mark of the encoding where it is read
        return Ok(0);
    }
    match xml::normalize(&once) {
        Ok(twice) if twice == once => Ok(outcome(Ok::<_, SqlError>(once.len()), |bytes| bytes, |_| 1)),
        other => Err(format!("{once:?} is read as {other:?}")),
    }
}

fn faults(input: &[u8]) -> Result<u64, String> {
    let read = super::super::faults::Faults::from_toml(&String::from_utf8_lossy(input));
    Ok(outcome(read, |_| 1, |error| error.field.len() as u64 + ((error.reason.len() as u64) << 8)))
}

/// One of every kind, at its edges. The order is part of the corpus: a new one goes to the end.
fn column_types() -> Vec<SqlType> {
    let (latin, utf8) = (Collation::Latin1, Collation::Utf8);
    vec![
        SqlType::Bit,
        SqlType::TinyInt,
        SqlType::SmallInt,
        SqlType::Int,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::Float,
        SqlType::Decimal { precision: 18, scale: 4 },
        SqlType::Decimal { precision: 38, scale: 37 },
        SqlType::Decimal { precision: 1, scale: 0 },
        SqlType::Money,
        SqlType::SmallMoney,
        SqlType::Date,
        SqlType::Time(0),
        SqlType::Time(7),
        SqlType::DateTime2(0),
        SqlType::DateTime2(7),
        SqlType::DateTimeOffset(0),
        SqlType::DateTimeOffset(7),
        SqlType::DateTime,
        SqlType::SmallDateTime,
        SqlType::UniqueIdentifier,
        SqlType::Binary(4),
        SqlType::VarBinary(Length::Limited(20)),
        SqlType::VarBinary(Length::Max),
        SqlType::Char(9, latin),
        SqlType::Char(8000, latin),
        SqlType::VarChar(Length::Limited(12), utf8),
        SqlType::VarChar(Length::Limited(40), latin),
        SqlType::VarChar(Length::Max, utf8),
        SqlType::NChar(5, latin),
        SqlType::NChar(4000, latin),
        SqlType::NVarChar(Length::Limited(64), latin),
        SqlType::NVarChar(Length::Max, latin),
        SqlType::Xml,
    ]
}

/// Each type under itself, with a NULL and with bytes that are a value of most.
fn value_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (index, sql_type) in (0u8..).zip(column_types()) {
        for value in [
            &[][..],
            &[1; 24],
            b"\x08\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x0A\0a\0b\0\xE9\0\x3D\xD8\x00\xDE",
        ] {
            let mut seed = vec![index];
            write_type_info(&mut seed, sql_type, true);
            seed.extend_from_slice(value);
            seeds.push(seed);
        }
    }
    seeds
}
