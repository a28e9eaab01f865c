//! The FEDAUTH feature of LOGIN7 (MS-TDS 2.2.6.4): a token in place of a password.

use super::super::read::{Cursor, Truncated, decode_utf16};

/// As MS-TDS names the two sides' random values.
pub(in super::super) type Nonce = [u8; 32];

/// The number of the feature.
pub(in super::super) const FEATURE_FEDAUTH: u8 = 0x02;
/// The client brings a token that it has got by itself.
const LIBRARY_SECURITY_TOKEN: u8 = 0x01;

/// What a client sends with the feature.
pub(in super::super) struct FedAuth {
    /// What the server's PRELOGIN said of FEDAUTHREQUIRED, as the client has understood it.
    pub(in super::super) echo: bool,
    /// `None` where the client wants to be told first where to get a token.
    pub(in super::super) token: Option<String>,
    /// The server's nonce, sent back.
    pub(in super::super) nonce: Option<Nonce>,
}

impl FedAuth {
    pub(super) fn parse(data: &[u8]) -> Result<Self, Truncated> {
        let mut cursor = Cursor::new(data);
        let options = cursor.u8()?;
        let echo = options & 1 != 0;
        if options >> 1 != LIBRARY_SECURITY_TOKEN {
            return Ok(Self { echo, token: None, nonce: None });
        }
        let length = usize::try_from(cursor.u32()?).map_err(|_| Truncated)?;
        let token = decode_utf16(cursor.take(length)?);
        let nonce = match cursor.rest() {
            [] => None,
            rest => Some(rest.try_into().map_err(|_| Truncated)?),
        };
        Ok(Self { echo, token: Some(token), nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::noise::Noise;
    use super::*;

    fn feature(options: u8, token: &str, nonce: &[u8]) -> Vec<u8> {
        let units: Vec<u8> = token.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut data = vec![options];
        data.extend_from_slice(&u32::try_from(units.len()).unwrap().to_le_bytes());
        data.extend_from_slice(&units);
        data.extend_from_slice(nonce);
        data
    }

    #[test]
    fn a_token_is_read_with_and_without_a_nonce() {
        let read = FedAuth::parse(&feature(0x03, "a.b.c", &[])).unwrap();
        assert_eq!((read.echo, read.token.as_deref(), read.nonce), (true, Some("a.b.c"), None));
        let read = FedAuth::parse(&feature(0x02, "a.b.c", &[7; 32])).unwrap();
        assert_eq!((read.echo, read.nonce), (false, Some([7; 32])));
        assert!(FedAuth::parse(&feature(0x02, "a.b.c", &[7; 31])).is_err());
        // the library that asks for FEDAUTHINFO first
        assert!(FedAuth::parse(&[0x05, 0x01]).unwrap().token.is_none());
    }

    #[test]
    fn whatever_comes_as_the_feature_is_read_or_refused() {
        let mut noise = Noise::new(11);
        let whole = feature(0x03, "header.claims.signature", &[1; 32]);
        for _ in 0..50_000 {
            let _ = FedAuth::parse(&noise.mutate(&whole));
        }
    }
}
