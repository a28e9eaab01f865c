//! PRELOGIN messages as whole packets, for somebody between a client and a server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::login::{Encryption, Federation, OPTION_ENCRYPTION, OPTION_END, write_prelogin};
use super::packet::{HEADER_BYTES, STATUS_END_OF_MESSAGE};

/// A PRELOGIN of a client, and the answer of a server to it, which is a tabular result.
const KINDS: [u8; 2] = [0x12, 0x04];
/// MS-TDS 2.2.6.5: ENCRYPT_NOT_SUP.
const NOT_SUPPORTED: u8 = 0x02;

/// Reads one, header and all; `None` where something else begins, of which one byte is taken.
///
/// # Errors
/// The connection ends, or the message is not one packet.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut packet = vec![stream.read_u8().await?];
    if !KINDS.contains(&packet[0]) {
        return Ok(None);
    }
    packet.resize(HEADER_BYTES, 0);
    stream.read_exact(&mut packet[1..]).await?;
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if length < HEADER_BYTES || packet[1] & STATUS_END_OF_MESSAGE == 0 {
        return Err(io::Error::other("a PRELOGIN of more than one packet"));
    }
    packet.resize(length, 0);
    stream.read_exact(&mut packet[HEADER_BYTES..]).await?;
    Ok(Some(packet))
}

/// The same, of somebody who supports no encryption.
pub(crate) fn strip(mut packet: Vec<u8>) -> Vec<u8> {
    let options = packet[HEADER_BYTES..].chunks_exact(5).take_while(|option| option[0] != OPTION_END);
    let encryption = options
        .filter(|option| option[0] == OPTION_ENCRYPTION)
        .map(|option| HEADER_BYTES + usize::from(u16::from_be_bytes([option[1], option[2]])))
        .next();
    if let Some(byte) = encryption.and_then(|offset| packet.get_mut(offset)) {
        *byte = NOT_SUPPORTED;
    }
    packet
}

/// What a server that supports no encryption answers.
pub(crate) fn without_encryption() -> Vec<u8> {
    let mut message = Vec::new();
    write_prelogin(&mut message, Encryption::NotSupported, &Federation::default());
    let length = u16::try_from(HEADER_BYTES + message.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[KINDS[1], STATUS_END_OF_MESSAGE, length[0], length[1], 0, 0, 1, 0], message.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::login::PreLogin;
    use super::*;

    #[tokio::test]
    async fn encryption_is_taken_out_and_nothing_else() {
        let mut message = Vec::new();
        write_prelogin(&mut message, Encryption::Required, &Federation::default());
        let length = u8::try_from(HEADER_BYTES + message.len()).expect("it is short");
        let packet = [&[0x12, 1, 0, length, 0, 0, 1, 0], message.as_slice(), b"more"].concat();
        let read = read(&mut packet.as_slice()).await.expect("it can be read").expect("it is one");
        assert_eq!(read, packet[..packet.len() - 4]);
        let stripped = strip(read.clone());
        let parsed = PreLogin::parse(&stripped[HEADER_BYTES..]).expect("it is one still");
        assert_eq!(parsed.encryption, Encryption::NotSupported);
        let changed = read.iter().zip(&stripped).filter(|(before, after)| before != after).count();
        assert_eq!(changed, 1);
        let none = PreLogin::parse(&without_encryption()[HEADER_BYTES..]).expect("it is one");
        assert_eq!(none.encryption, Encryption::NotSupported);
    }

    #[tokio::test]
    async fn a_hello_of_tls_is_none() {
        assert_eq!(read(&mut [0x16, 3, 1].as_slice()).await.expect("it can be read"), None);
    }
}
