//! TDS packets: eight bytes of header, a payload, and a flag on the last one of a message.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(super) const HEADER_BYTES: usize = 8;
/// What a packet may be before the login has agreed on a size.
pub(super) const DEFAULT_PACKET_BYTES: usize = 4096;
pub(super) const MIN_PACKET_BYTES: usize = 512;
pub(super) const MAX_PACKET_BYTES: usize = 32_767;
/// The largest packet of an encrypted connection: one TLS record.
pub(super) const MAX_ENCRYPTED_PACKET_BYTES: usize = 16_383;

pub(super) const STATUS_END_OF_MESSAGE: u8 = 0x01;
const STATUS_IGNORE: u8 = 0x02;
const STATUS_RESET_CONNECTION: u8 = 0x08;
const STATUS_RESET_CONNECTION_SKIP_TRANSACTION: u8 = 0x10;

/// MS-TDS 2.2.3.1.1, as far as a client sends them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketKind {
    SqlBatch,
    Rpc,
    Attention,
    BulkLoad,
    TransactionManager,
    Login,
    PreLogin,
}

impl PacketKind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::SqlBatch,
            0x03 => Self::Rpc,
            0x06 => Self::Attention,
            0x07 => Self::BulkLoad,
            0x0E => Self::TransactionManager,
            0x10 => Self::Login,
            0x12 => Self::PreLogin,
            _ => return None,
        })
    }
}

/// A packet's header, with its payload beside it in the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) kind: PacketKind,
    pub(super) payload_bytes: usize,
    status: u8,
}

impl Packet {
    pub(super) fn is_last(self) -> bool {
        self.status & STATUS_END_OF_MESSAGE != 0
    }

    /// The client takes back what it has sent of this message.
    pub(super) fn is_ignored(self) -> bool {
        self.status & STATUS_IGNORE != 0
    }

    pub(super) fn resets_connection(self) -> bool {
        self.status & (STATUS_RESET_CONNECTION | STATUS_RESET_CONNECTION_SKIP_TRANSACTION) != 0
    }

    pub(super) fn keeps_transaction(self) -> bool {
        self.status & STATUS_RESET_CONNECTION_SKIP_TRANSACTION != 0
    }
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("connection closed by the client")]
    Closed,
    #[error("connection failed")]
    Io(#[from] std::io::Error),
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    #[error("postgresql session lost: {0}")]
    Database(String),
    #[error("ended as a fault asks for it")]
    Fault,
}

/// Reads packets. Every method may be dropped in the middle without losing a byte.
#[derive(Debug)]
pub(super) struct PacketReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> PacketReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(64 * 1024) }
    }

    /// The stream, for a change of its encryption. Whatever the client sent early is lost, and no client
    /// sends early where the protocol has it wait.
    pub(super) fn into_inner(self) -> R {
        self.stream
    }

    /// Waits for the next packet as a whole and leaves it in the buffer; `take` removes it.
    pub(super) async fn peek(&mut self) -> Result<Packet, ConnectionError> {
        loop {
            if let Some(packet) = self.parse_header()?
                && self.buffer.len() >= HEADER_BYTES + packet.payload_bytes
            {
                return Ok(packet);
            }
            self.buffer.reserve(64 * 1024);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ConnectionError::Closed);
            }
        }
    }

    /// Removes the packet that `peek` showed, its payload appended to `message`.
    pub(super) fn take(&mut self, packet: Packet, message: &mut BytesMut) {
        self.buffer.advance(HEADER_BYTES);
        if message.is_empty() && packet.is_last() {
            *message = self.buffer.split_to(packet.payload_bytes);
        } else {
            message.extend_from_slice(&self.buffer[..packet.payload_bytes]);
            self.buffer.advance(packet.payload_bytes);
        }
    }

    fn parse_header(&self) -> Result<Option<Packet>, ConnectionError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let kind = PacketKind::parse(header[0]).ok_or(ConnectionError::Protocol("unknown packet type"))?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !(HEADER_BYTES..=MAX_PACKET_BYTES + 1).contains(&length) {
            return Err(ConnectionError::Protocol("packet length out of range"));
        }
        Ok(Some(Packet { kind, status: header[1], payload_bytes: length - HEADER_BYTES }))
    }
}

/// Cuts a response into packets. The response is collected in `buffer`, and what fills packets is sent as
/// it grows, so that a long result needs no memory.
#[derive(Debug)]
pub(super) struct PacketWriter<W> {
    stream: W,
    /// The response's tokens, not yet sent.
    pub(super) buffer: Vec<u8>,
    packet_bytes: usize,
    packet_id: u8,
    outgoing: Vec<u8>,
    /// Where in `buffer` the last DONE token of a statement ends.
    done_end: Option<usize>,
}

const PACKET_TYPE_RESPONSE: u8 = 0x04;
/// A DONE token: its type, two bytes of status, two of the command, eight of the count.
const DONE_BYTES: usize = 13;
const DONE_MORE: u8 = 1;
/// So much of a response is collected before it is sent.
const SEND_AT_BYTES: usize = 64 * 1024;

impl<W: AsyncWrite + Unpin> PacketWriter<W> {
    pub(super) fn new(stream: W) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            packet_bytes: DEFAULT_PACKET_BYTES,
            packet_id: 0,
            outgoing: Vec::new(),
            done_end: None,
        }
    }

    pub(super) fn into_inner(self) -> W {
        self.stream
    }

    pub(super) fn set_packet_bytes(&mut self, packet_bytes: usize) {
        self.packet_bytes = packet_bytes;
    }

    /// Remembers that a statement's DONE token was just written.
    pub(super) fn mark_done(&mut self) {
        self.done_end = Some(self.buffer.len());
    }

    /// Takes the "more" out of a DONE token, where one is the last of the response so far.
    pub(super) fn end_done(&mut self) -> bool {
        let is_last = self.done_end == Some(self.buffer.len());
        if is_last {
            let status = self.buffer.len() - DONE_BYTES + 1;
            self.buffer[status] &= !DONE_MORE;
        }
        is_last
    }

    /// Sends full packets when enough has been collected.
    pub(super) async fn flush_if_large(&mut self) -> Result<(), ConnectionError> {
        if self.buffer.len() >= SEND_AT_BYTES {
            self.send(false).await?;
        }
        Ok(())
    }

    /// Sends all that is left and marks the end of the message.
    pub(super) async fn finish(&mut self) -> Result<(), ConnectionError> {
        self.send(true).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn send(&mut self, last: bool) -> Result<(), ConnectionError> {
        let payload_bytes = self.packet_bytes - HEADER_BYTES;
        self.outgoing.clear();
        let mut rest = self.buffer.as_slice();
        // the last packet of a message carries its mark, so one is held back until the end
        while rest.len() > payload_bytes {
            let (payload, after) = rest.split_at(payload_bytes);
            write_packet(&mut self.outgoing, payload, false, &mut self.packet_id);
            rest = after;
        }
        if last {
            write_packet(&mut self.outgoing, rest, true, &mut self.packet_id);
            rest = &[];
        }
        let sent = self.buffer.len() - rest.len();
        if sent > 0 {
            self.buffer.drain(..sent);
            self.done_end = None;
        }
        self.stream.write_all(&self.outgoing).await?;
        Ok(())
    }
}

fn write_packet(out: &mut Vec<u8>, payload: &[u8], last: bool, packet_id: &mut u8) {
    *packet_id = packet_id.wrapping_add(1);
    let length = u16::try_from(payload.len() + HEADER_BYTES).unwrap_or(u16::MAX);
    out.extend_from_slice(&[PACKET_TYPE_RESPONSE, u8::from(last)]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0, 0, *packet_id, 0]);
    out.extend_from_slice(payload);
}
