//! Whole connections: what a client sends from its first byte on, changed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Mutator;

const HEADER_BYTES: usize = 8;
/// An answer that a mutilated login does not get is not waited for longer.
const LOGIN_PATIENCE: Duration = Duration::from_millis(300);
/// What is appended to a session's packets.
const PACKETS: &[&[u8]] = &[
    // an attention
    b"\x06\x01\x00\x08\0\0\0\0",
    // a load's end, that is taken back
    b"\x07\x03\x00\x08\0\0\0\0",
    // half a batch
    b"\x01\x00\x00\x10\0\0\0\0S\0E\0L\0E\0",
    // a reset with an empty batch
    b"\x01\x09\x00\x1E\0\0\0\0\x16\0\0\0\x12\0\0\0\x02\0\0\0\0\0\0\0\0\0\x01\0\0\0",
];

/// Cuts bytes into packets; the rest that is none is the last.
fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]])).max(HEADER_BYTES);
        let (packet, rest) = bytes.split_at(length.min(bytes.len()));
        packets.push(packet.to_vec());
        bytes = rest;
    }
    if !bytes.is_empty() {
        packets.push(bytes.to_vec());
    }
    packets
}

/// One of the sessions with some of its packets changed: most of them still are packets. What comes before the first
/// request is seldom touched, or nothing behind it would be reached.
pub fn mutate_session(seed: u64, index: u64, corpus: &[Vec<u8>], dictionary: &[&[u8]]) -> Vec<u8> {
    let mut mutator = Mutator::new(seed, index);
    if corpus.is_empty() {
        return Vec::new();
    }
    let mut packets = packets(&corpus[mutator.below(corpus.len())]);
    // PRELOGIN and LOGIN7
    let first = if mutator.below(16) == 0 { 0 } else { 2.min(packets.len()) };
    for _ in 0..=mutator.below(4) {
        let place = first + mutator.below((packets.len() - first).max(1));
        if place >= packets.len() {
            break;
        }
        match mutator.below(12) {
            0 => {
                packets.remove(place);
            }
            1 => packets.insert(place, packets[place].clone()),
            2 => {
                let other = self::packets(&corpus[mutator.below(corpus.len())]);
                let from = 2.min(other.len()) + mutator.below(other.len().saturating_sub(2).max(1));
                packets.extend(other.into_iter().skip(from));
            }
            3 => packets.insert(place, PACKETS[mutator.below(PACKETS.len())].to_vec()),
            4 => {
                let to = first + mutator.below(packets.len() - first);
                packets.swap(place, to);
            }
            5 => {
                if let Some(status) = packets[place].get_mut(1) {
                    *status ^= [1, 2, 8, 0x10][mutator.below(4)];
                }
            }
            6 => {
                if let Some(kind) = packets[place].first_mut() {
                    *kind = [1, 3, 6, 7, 0x0E, 0x10, 0x12, 0x16][mutator.below(8)];
                }
            }
            7 => mutator.change(&mut packets[place], &[], dictionary),
            _ => {
                let packet = &mut packets[place];
                let mut payload = packet.split_off(HEADER_BYTES.min(packet.len()));
                mutator.change(&mut payload, &[], dictionary);
                payload.truncate(32_000);
                let length = u16::try_from(payload.len() + HEADER_BYTES).unwrap_or(u16::MAX);
                if let Some(field) = packet.get_mut(2..4) {
                    field.copy_from_slice(&length.to_be_bytes());
                }
                packet.extend_from_slice(&payload);
            }
        }
    }
    packets.concat()
}

/// Sends a session to a server and reads what it answers until it ends the connection.
///
/// # Errors
/// Where it does not end within `patience` after the client has said its last.
pub async fn play(address: SocketAddr, session: &[u8], patience: Duration) -> Result<usize, String> {
    let Ok(mut stream) = TcpStream::connect(address).await else { return Err("does not listen".into()) };
    let _ = stream.set_nodelay(true);
    let mut answered = 0;
    let mut rest = packets(session).into_iter();
    // nobody sends more before PRELOGIN and LOGIN7 are answered
    for packet in rest.by_ref().take(2) {
        if stream.write_all(&packet).await.is_err() {
            return Ok(answered);
        }
        match tokio::time::timeout(LOGIN_PATIENCE, message(&mut stream)).await {
            Ok(Some(bytes)) => answered += bytes,
            Ok(None) => return Ok(answered),
            Err(_) => break,
        }
    }
    let requests: Vec<u8> = rest.flatten().collect();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        // a server that has ended the connection takes nothing more
        let _ = writer.write_all(&requests).await;
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut read = 0;
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            read += count;
        }
        read
    };
    let both = async { tokio::join!(send, receive).1 };
    match tokio::time::timeout(patience, both).await {
        Ok(read) => Ok(answered + read),
        Err(_) => Err(format!("has not ended the connection within {patience:?}")),
    }
}

/// Reads a message of the server; `None` where the connection ends instead.
async fn message(stream: &mut TcpStream) -> Option<usize> {
    let mut bytes = 0;
    loop {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).await.ok()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]])).saturating_sub(HEADER_BYTES);
        stream.read_exact(&mut vec![0; length]).await.ok()?;
        bytes += length;
        if header[1] & 1 != 0 {
            return Some(bytes);
        }
    }
}
