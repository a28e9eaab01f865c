//! The negotiation of the packet size, byte by byte: no client shows it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Fixture, PASSWORD, USER};

const PRELOGIN: u8 = 0x12;
const LOGIN7: u8 = 0x10;
const SQL_BATCH: u8 = 0x01;

async fn send(stream: &mut TcpStream, kind: u8, payload: &[u8]) {
    let length = u16::try_from(payload.len() + 8).unwrap().to_be_bytes();
    stream.write_all(&[kind, 1, length[0], length[1], 0, 0, 1, 0]).await.unwrap();
    stream.write_all(payload).await.unwrap();
}

/// An answer, and the lengths of the packets that it came in.
async fn receive(stream: &mut TcpStream) -> (Vec<u8>, Vec<usize>) {
    let (mut message, mut lengths) = (Vec::new(), Vec::new());
    loop {
        let mut header = [0u8; 8];
        stream.read_exact(&mut header).await.unwrap();
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let mut payload = vec![0; length - 8];
        stream.read_exact(&mut payload).await.unwrap();
        message.extend_from_slice(&payload);
        lengths.push(length);
        if header[1] & 1 == 1 {
            return (message, lengths);
        }
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn login7(packet_bytes: u32) -> Vec<u8> {
    let password: Vec<u8> = utf16(PASSWORD).iter().map(|byte| byte.rotate_left(4) ^ 0xA5).collect();
    let texts = [
        Vec::new(),
        utf16(USER),
        password,
        utf16("test"),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        Vec::new(),
        utf16("sinkdb"),
    ];
    let mut fixed = Vec::new();
    for number in [0, 0x7400_0004, packet_bytes, 0, 0, 0, 0, 0, 0] {
        fixed.extend_from_slice(&u32::to_le_bytes(number));
    }
    let mut data = Vec::new();
    for text in &texts {
        fixed.extend_from_slice(&u16::try_from(94 + data.len()).unwrap().to_le_bytes());
        fixed.extend_from_slice(&u16::try_from(text.len() / 2).unwrap().to_le_bytes());
        data.extend_from_slice(text);
    }
    // client id, SSPI, file to attach, new password, long SSPI: none
    fixed.resize(94, 0);
    fixed.extend_from_slice(&data);
    fixed
}

/// Logs in, and gives the new and the old size of the ENVCHANGE.
async fn log_in(stream: &mut TcpStream, packet_bytes: u32) -> (String, String) {
    // version, and encryption: not supported
    let prelogin = [0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xFF, 0, 0, 0, 0, 0, 0, 2];
    send(stream, PRELOGIN, &prelogin).await;
    receive(stream).await;
    send(stream, LOGIN7, &login7(packet_bytes)).await;
    let (answer, _) = receive(stream).await;
    let mut rest = answer.as_slice();
    // tokens of a login's answer have two bytes of length, up to DONE
    while let [token, low, high, after @ ..] = rest {
        let (body, next) = after.split_at(usize::from(u16::from_le_bytes([*low, *high])));
        if (*token, body[0]) == (0xE3, 4) {
            let text = |bytes: &[u8]| -> (String, usize) {
                let end = 1 + usize::from(bytes[0]) * 2;
                (bytes[1..end].chunks(2).map(|unit| char::from(unit[0])).collect(), end)
            };
            let (new, end) = text(&body[1..]);
            return (new, text(&body[1 + end..]).0);
        }
        rest = next;
    }
    panic!("no ENVCHANGE of the packet size");
}

#[tokio::test]
async fn a_packet_size_is_taken_or_brought_into_range_and_then_held() {
    // GIVEN a client that asks for a size of packets
    let fixture = Fixture::start().await;
    for (asked, granted) in [
        (0, 4096),
        (1, 512),
        (511, 512),
        (512, 512),
        (513, 513),
        (4096, 4096),
        (16_383, 16_383),
        (16_384, 16_384),
        (32_767, 32_767),
        (32_768, 32_767),
        (u32::MAX, 32_767),
    ] {
        // WHEN it logs in
        let mut stream = TcpStream::connect(fixture.server.address()).await.unwrap();
        let told = log_in(&mut stream, asked).await;
        // THEN it is told which size it gets
        assert_eq!(told, (granted.to_string(), "4096".to_owned()), "{asked}");
        // AND every packet but the last is of that size
        let mut batch = vec![22, 0, 0, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
        batch.extend_from_slice(&utf16("SELECT REPLICATE('x', 8000) UNION ALL SELECT REPLICATE('y', 8000) UNION ALL SELECT REPLICATE('z', 8000) UNION ALL SELECT REPLICATE('z', 8000) UNION ALL SELECT REPLICATE('z', 8000)"));
        assert!(batch.len() < 500);
        send(&mut stream, SQL_BATCH, &batch).await;
        let (answer, lengths) = receive(&mut stream).await;
        assert!(answer.len() > 40_000);
        let (last, full) = lengths.split_last().unwrap();
        assert!(!full.is_empty() && full.iter().all(|length| *length == granted), "{asked}: {lengths:?}");
        assert!(*last <= granted, "{asked}: {lengths:?}");
    }
}
