//! What no client shows: the messages themselves, by a client of a few lines that sends what it likes.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::fixture::{Fixture, PASSWORD, USER, int, run};

const SQL_BATCH: u8 = 0x01;
const ATTENTION: u8 = 0x06;
const BULK_LOAD: u8 = 0x07;
const TRANSACTION_MANAGER: u8 = 0x0E;
const LOGIN: u8 = 0x10;
const PRE_LOGIN: u8 = 0x12;

const MORE_PACKETS: u8 = 0;
const END: u8 = 1;
const IGNORE: u8 = 2;

const DONE_ERROR: u16 = 0x02;
const DONE_COUNT: u16 = 0x10;
const DONE_ATTENTION: u16 = 0x20;

/// A token of an answer, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Error(u32),
    Done(u16),
    /// The descriptor of a transaction that began.
    Transaction([u8; 8]),
    Other(u8),
}

struct Wire {
    stream: TcpStream,
    transaction: [u8; 8],
}

impl Wire {
    /// The connection, and the answer to its login.
    async fn log_in(fixture: &Fixture, database: &str) -> (Self, Vec<Token>) {
        let stream = TcpStream::connect(fixture.server.address()).await.unwrap();
        let mut wire = Self { stream, transaction: [0; 8] };
        // a version, and no encryption
        let options = [0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xFF, 0, 0, 0, 0, 0, 0, 2];
        wire.send(PRE_LOGIN, END, &options).await;
        wire.payload().await;
        wire.send(LOGIN, END, &login(database)).await;
        let answer = wire.answer().await;
        (wire, answer)
    }

    async fn connect(fixture: &Fixture) -> Self {
        let (wire, answer) = Self::log_in(fixture, "sinkdb").await;
        assert_eq!(answer.last(), Some(&Token::Done(0)));
        wire
    }

    async fn send(&mut self, kind: u8, status: u8, payload: &[u8]) {
        let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
        let mut packet = vec![kind, status, length[0], length[1], 0, 0, 1, 0];
        packet.extend_from_slice(payload);
        self.stream.write_all(&packet).await.unwrap();
    }

    /// The next message, whose end is the end of an answer.
    async fn payload(&mut self) -> Vec<u8> {
        let mut payload = Vec::new();
        loop {
            let mut header = [0; 8];
            let read = self.stream.read_exact(&mut header);
            tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
            let mut packet = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
            self.stream.read_exact(&mut packet).await.unwrap();
            payload.extend_from_slice(&packet);
            if header[1] & END != 0 {
                return payload;
            }
        }
    }

    async fn answer(&mut self) -> Vec<Token> {
        let answer = tokens(&self.payload().await);
        for token in &answer {
            if let Token::Transaction(descriptor) = token {
                self.transaction = *descriptor;
            }
        }
        answer
    }

    /// What every request begins with.
    fn headers(&self) -> Vec<u8> {
        let mut headers = vec![22, 0, 0, 0, 18, 0, 0, 0, 2, 0];
        headers.extend_from_slice(&self.transaction);
        headers.extend_from_slice(&[1, 0, 0, 0]);
        headers
    }

    fn text(&self, sql: &str) -> Vec<u8> {
        [self.headers(), utf16(sql)].concat()
    }

    async fn batch(&mut self, sql: &str) -> Vec<Token> {
        self.send(SQL_BATCH, END, &self.text(sql)).await;
        self.answer().await
    }

    async fn transaction(&mut self, request: u8, payload: &[u8]) -> Vec<Token> {
        let message = [self.headers(), vec![request, 0], payload.to_vec()].concat();
        self.send(TRANSACTION_MANAGER, END, &message).await;
        self.answer().await
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// LOGIN7 with a user, a password and a database.
fn login(database: &str) -> Vec<u8> {
    let password: Vec<u8> = utf16(PASSWORD).iter().map(|byte| byte.rotate_left(4) ^ 0xA5).collect();
    let mut fixed = vec![0; 94];
    fixed[4..8].copy_from_slice(&0x7400_0004u32.to_le_bytes());
    fixed[8..12].copy_from_slice(&4096u32.to_le_bytes());
    let mut data: Vec<u8> = Vec::new();
    // each name has its place among the offsets
    for (at, value) in [(40, utf16(USER)), (44, password), (68, utf16(database))] {
        let offset = u16::try_from(94 + data.len()).unwrap();
        fixed[at..at + 2].copy_from_slice(&offset.to_le_bytes());
        fixed[at + 2..at + 4].copy_from_slice(&u16::try_from(value.len() / 2).unwrap().to_le_bytes());
        data.extend_from_slice(&value);
    }
    let length = u32::try_from(94 + data.len()).unwrap();
    fixed[..4].copy_from_slice(&length.to_le_bytes());
    [fixed, data].concat()
}

fn tokens(mut payload: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let [kind, rest @ ..] = payload {
        let (token, length) = match kind {
            0xFD..=0xFF => (Token::Done(u16::from_le_bytes([rest[0], rest[1]])), 12),
            0xAA | 0xAB | 0xAD | 0xE3 => {
                let length = 2 + usize::from(u16::from_le_bytes([rest[0], rest[1]]));
                let token = match (kind, rest) {
                    (0xAA, _) => Token::Error(u32::from_le_bytes(rest[2..6].try_into().unwrap())),
                    (0xE3, [_, _, 8, 8, descriptor @ ..]) => {
                        Token::Transaction(descriptor[..8].try_into().unwrap())
                    }
                    _ => Token::Other(*kind),
                };
                (token, length)
            }
            other => panic!("token {other:#x} of an answer that has no rows"),
        };
        tokens.push(token);
        payload = &rest[length..];
    }
    tokens
}

/// The length in bytes, and the name.
fn transaction_name(name: &str) -> Vec<u8> {
    let name = utf16(name);
    [vec![u8::try_from(name.len()).unwrap()], name].concat()
}

#[tokio::test]
async fn an_attention_is_acknowledged_after_the_answer_that_it_cut_short_in_a_message_of_its_own() {
    let fixture = Fixture::start().await;
    let mut wire = Wire::connect(&fixture).await;
    let started = Instant::now();
    wire.send(SQL_BATCH, END, &wire.text("WAITFOR DELAY '00:01:00'; PRINT 'not reached'")).await;
    wire.send(ATTENTION, END, &[]).await;
    assert_eq!(wire.answer().await, [Token::Done(DONE_ERROR)]);
    assert_eq!(wire.answer().await, [Token::Done(DONE_ATTENTION)]);
    assert!(started.elapsed() < Duration::from_secs(30));

    // one that comes when nothing runs, or too late
    wire.send(ATTENTION, END, &[]).await;
    assert_eq!(wire.answer().await, [Token::Done(DONE_ATTENTION)]);
    assert_eq!(wire.batch("DECLARE @n int").await, [Token::Done(0)]);
}

#[tokio::test]
async fn a_request_that_is_taken_back_is_answered_and_not_done() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL)").await;
    let mut wire = Wire::connect(&fixture).await;
    let insert = wire.text("INSERT INTO dbo.t VALUES (1)");

    // by the mark of its last packet: an error, and no acknowledgement
    wire.send(SQL_BATCH, MORE_PACKETS, &insert).await;
    wire.send(SQL_BATCH, END | IGNORE, &utf16(";")).await;
    assert_eq!(wire.answer().await, [Token::Done(DONE_ERROR)]);

    // by an attention before its end: an error as well, and an acknowledgement
    wire.send(SQL_BATCH, MORE_PACKETS, &insert).await;
    wire.send(ATTENTION, END, &[]).await;
    assert_eq!(wire.answer().await, [Token::Done(DONE_ERROR)]);
    assert_eq!(wire.answer().await, [Token::Done(DONE_ATTENTION)]);

    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
    assert_eq!(wire.batch("INSERT INTO dbo.t VALUES (2)").await, [Token::Done(DONE_COUNT)]);
    assert_eq!(int(&mut client, "SELECT SUM(n) FROM dbo.t").await, 2);
}

#[tokio::test]
async fn a_bulk_load_that_is_taken_back_leaves_no_row_and_the_connection() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL)").await;
    let mut wire = Wire::connect(&fixture).await;
    // one column, int NOT NULL, of the name "n"; a row, and the beginning of another
    let rows = [0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x38, 1, b'n', 0, 0xD1, 7, 0, 0, 0, 0xD1, 8];
    for attention in [false, true] {
        assert_eq!(wire.batch("INSERT BULK dbo.t (n int)").await, [Token::Done(0)]);
        if attention {
            wire.send(BULK_LOAD, MORE_PACKETS, &rows).await;
            wire.send(ATTENTION, END, &[]).await;
            assert_eq!(wire.answer().await, [Token::Done(DONE_ERROR)]);
            assert_eq!(wire.answer().await, [Token::Done(DONE_ATTENTION)]);
        } else {
            wire.send(BULK_LOAD, END | IGNORE, &rows).await;
            assert_eq!(wire.answer().await, [Token::Done(DONE_ERROR)]);
        }
        assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
    }
    assert_eq!(wire.batch("INSERT INTO dbo.t VALUES (2)").await, [Token::Done(DONE_COUNT)]);
}

#[tokio::test]
async fn the_name_of_a_savepoint_is_measured_in_bytes() {
    const BEGIN: u8 = 5;
    const COMMIT: u8 = 7;
    const ROLL_BACK: u8 = 8;
    const SAVE: u8 = 9;
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL)").await;
    let mut wire = Wire::connect(&fixture).await;
    // the isolation level, and no name
    assert!(
        wire.transaction(BEGIN, &[2, 0]).await.iter().any(|token| matches!(token, Token::Transaction(_)))
    );
    wire.batch("INSERT INTO dbo.t VALUES (1)").await;
    assert_eq!(wire.transaction(SAVE, &transaction_name("hérè")).await, [Token::Done(0)]);
    wire.batch("INSERT INTO dbo.t VALUES (2)").await;
    // and it is the savepoint that a statement knows by this name
    assert_eq!(wire.batch("ROLLBACK TRANSACTION [hérè]").await, [Token::Done(0)]);
    wire.batch("INSERT INTO dbo.t VALUES (4)").await;
    let roll_back = [transaction_name("hérè"), vec![0]].concat();
    assert_eq!(wire.transaction(ROLL_BACK, &roll_back).await, [Token::Done(0)]);
    wire.batch("INSERT INTO dbo.t VALUES (8)").await;
    wire.transaction(COMMIT, &[0, 0]).await;
    assert_eq!(int(&mut client, "SELECT SUM(n) FROM dbo.t").await, 9);
}

#[tokio::test]
async fn a_login_to_an_unknown_database_ends_with_both_errors() {
    let fixture = Fixture::start().await;
    let (_wire, answer) = Wire::log_in(&fixture, "missing").await;
    assert_eq!(answer, [Token::Error(4060), Token::Error(18456), Token::Done(DONE_ERROR)]);
}
