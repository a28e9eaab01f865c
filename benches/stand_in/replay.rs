//! A client that costs next to nothing: it sends again what a real one sent.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::ROWS_OF_A_LOAD;
use crate::clients::Sink;

const HEADER_BYTES: usize = 8;
const BULK_LOAD: u8 = 7;
const TOKEN_DONE: u8 = 0xFD;
const TOKEN_DONE_BYTES: usize = 13;

/// What the sink's writer sent for one load, message by message, its login included.
pub(crate) struct Recording {
    address: std::net::SocketAddr,
    /// Until the load is announced.
    opening: Vec<Vec<u8>>,
    announcement: Vec<u8>,
    load: Vec<u8>,
}

impl Recording {
    /// Has the sink write one batch through a relay that keeps what it sends.
    pub(crate) async fn take(sink: &Arc<Sink>) -> Self {
        let address = sink.server.address();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        let kept = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(address).await.unwrap();
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut kept = Vec::new();
            let record = async {
                let mut buffer = vec![0; 64 * 1024];
                loop {
                    let read = from_client.read(&mut buffer).await.unwrap();
                    if read == 0 {
                        break;
                    }
                    kept.extend_from_slice(&buffer[..read]);
                    to_server.write_all(&buffer[..read]).await.unwrap();
                }
            };
            tokio::select! {
                () = record => {}
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
            }
            kept
        });
        let recorded = sink.at(relay).await;
        assert_eq!(recorded.send(1).await, ROWS_OF_A_LOAD as u64);
        let messages = messages(&kept.await.unwrap());
        let load = messages.iter().position(|message| message[0] == BULK_LOAD).unwrap();
        Self {
            address,
            opening: messages[..load - 1].to_vec(),
            announcement: messages[load - 1].clone(),
            load: messages[load].clone(),
        }
    }

    /// Logs in and does what the client did until its load.
    pub(crate) async fn connect(self: &Arc<Self>) -> Replay {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (reader, writer) = stream.into_split();
        let mut replay = Replay { recording: Arc::clone(self), reader, writer };
        for message in &self.opening {
            replay.ask(message).await;
        }
        replay
    }
}

/// A connection that sends the load again and again.
pub(crate) struct Replay {
    recording: Arc<Recording>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Replay {
    /// So many loads; gives the number of rows that the server counted.
    pub(crate) async fn send(mut self, loads: usize) -> u64 {
        let recording = Arc::clone(&self.recording);
        let mut rows = 0;
        for _ in 0..loads {
            self.ask(&recording.announcement).await;
            let counted = done_count(&self.ask(&recording.load).await);
            assert_eq!(counted, ROWS_OF_A_LOAD as u64);
            rows += counted;
        }
        rows
    }

    /// Sends a message and reads the answer to its end.
    async fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.writer.write_all(message).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut header = [0; HEADER_BYTES];
            self.reader.read_exact(&mut header).await.unwrap();
            let length = usize::from(u16::from_be_bytes([header[2], header[3]])) - HEADER_BYTES;
            let start = answer.len();
            answer.resize(start + length, 0);
            self.reader.read_exact(&mut answer[start..]).await.unwrap();
            if header[1] & 1 != 0 {
                return answer;
            }
        }
    }
}

/// The rows of the DONE token that ends an answer.
fn done_count(answer: &[u8]) -> u64 {
    let done = &answer[answer.len() - TOKEN_DONE_BYTES..];
    assert_eq!(done[0], TOKEN_DONE);
    u64::from_le_bytes(done[5..].try_into().unwrap())
}

/// Cuts what a client sent into its messages, the packets' headers included.
fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = vec![Vec::new()];
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        let (packet, rest) = bytes.split_at(length);
        messages.last_mut().unwrap().extend_from_slice(packet);
        if packet[1] & 1 != 0 {
            messages.push(Vec::new());
        }
        bytes = rest;
    }
    messages.pop();
    messages
}
