//! The messages before the first request: PRELOGIN and LOGIN7.

use super::read::{Cursor, Truncated};

mod fed_auth;

pub(super) use fed_auth::{FEATURE_FEDAUTH, FedAuth, Nonce};

/// MS-TDS 2.2.6.5: what client and server say about encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Only the login packet is encrypted.
    LoginOnly,
    On,
    NotSupported,
    Required,
}

const OPTION_VERSION: u8 = 0;
pub(super) const OPTION_ENCRYPTION: u8 = 1;
const OPTION_INSTANCE: u8 = 2;
const OPTION_THREAD_ID: u8 = 3;
const OPTION_MARS: u8 = 4;
const OPTION_FEDAUTHREQUIRED: u8 = 6;
const OPTION_NONCE: u8 = 7;
pub(super) const OPTION_END: u8 = 0xFF;

/// The version that this server says it has: SQL Server 2022's engine, as Azure SQL reports 12.0.
pub(super) const PRODUCT_VERSION: [u8; 4] = [12, 0, 0x07, 0xD0];

/// A client's PRELOGIN, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreLogin {
    pub(super) encryption: Encryption,
    /// Whether it has a token, where it says so.
    pub(super) federated: Option<bool>,
    pub(super) nonce: Option<Nonce>,
}

impl PreLogin {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Truncated> {
        let mut encryption = Encryption::NotSupported;
        let (mut federated, mut nonce) = (None, None);
        let mut options = Cursor::new(message);
        loop {
            let token = options.u8()?;
            if token == OPTION_END {
                break;
            }
            let [a, b, c, d] = options.array::<4>()?;
            let offset = usize::from(u16::from_be_bytes([a, b]));
            let length = usize::from(u16::from_be_bytes([c, d]));
            let value = message.get(offset..offset + length).ok_or(Truncated)?;
            match token {
                OPTION_ENCRYPTION => {
                    encryption = match value.first() {
                        Some(0x00) => Encryption::LoginOnly,
                        Some(0x01) => Encryption::On,
                        Some(0x03) => Encryption::Required,
                        _ => Encryption::NotSupported,
                    };
                }
                OPTION_FEDAUTHREQUIRED => federated = value.first().map(|value| *value == 1),
                OPTION_NONCE => nonce = Some(value.try_into().map_err(|_| Truncated)?),
                _ => {}
            }
        }
        Ok(Self { encryption, federated, nonce })
    }
}

/// What the two sides have said about tokens before the login.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Federation {
    /// The server's FEDAUTHREQUIRED; `None` where the client did not ask.
    pub(super) required: Option<bool>,
    pub(super) client_nonce: Option<Nonce>,
    pub(super) server_nonce: Option<Nonce>,
}

/// The server's answer.
pub(super) fn write_prelogin(out: &mut Vec<u8>, encryption: Encryption, federation: &Federation) {
    let encryption = match encryption {
        Encryption::LoginOnly => 0x00,
        Encryption::On => 0x01,
        Encryption::NotSupported => 0x02,
        Encryption::Required => 0x03,
    };
    let mut version = PRODUCT_VERSION.to_vec();
    version.extend_from_slice(&[0, 0]);
    let encryption = [encryption];
    let required = federation.required.map(|required| [u8::from(required)]);
    let mut options: Vec<(u8, &[u8])> = vec![
        (OPTION_VERSION, &version),
        (OPTION_ENCRYPTION, &encryption),
        (OPTION_INSTANCE, &[0]),
        (OPTION_THREAD_ID, &[]),
        (OPTION_MARS, &[0]),
    ];
    options.extend(required.as_ref().map(|value| (OPTION_FEDAUTHREQUIRED, value.as_slice())));
    options.extend(federation.server_nonce.as_ref().map(|value| (OPTION_NONCE, value.as_slice())));
    let mut offset = options.len() * 5 + 1;
    let mut data = Vec::new();
    for (token, value) in options {
        out.push(token);
        out.extend_from_slice(&u16::try_from(offset).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        offset += value.len();
        data.extend_from_slice(value);
    }
    out.push(OPTION_END);
    out.extend_from_slice(&data);
}

/// A client's LOGIN7.
pub(super) struct Login7 {
    pub(super) tds_version: u32,
    pub(super) packet_bytes: u32,
    pub(super) host: String,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) application: String,
    pub(super) database: String,
    /// The client wants to sign on with Windows' means.
    pub(super) integrated: bool,
    /// Features of the extension, by their number.
    pub(super) features: Vec<u8>,
    /// The token in place of a password.
    pub(super) fed_auth: Option<FedAuth>,
}

impl std::fmt::Debug for Login7 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login7")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// No login needs more; the largest part is a token of a few thousand bytes.
pub(super) const MAX_LOGIN_BYTES: usize = 128 * 1024;

const FLAGS2_INTEGRATED_SECURITY: u8 = 0x80;
const FLAGS3_EXTENSION: u8 = 0x10;
const FEATURE_END: u8 = 0xFF;

impl Login7 {
    pub(super) fn parse(message: &[u8]) -> Result<Self, Truncated> {
        let mut fixed = Cursor::new(message);
        let _length = fixed.u32()?;
        let tds_version = fixed.u32()?;
        let packet_bytes = fixed.u32()?;
        let _client_version = fixed.u32()?;
        let _process = fixed.u32()?;
        let _connection = fixed.u32()?;
        let [_flags1, flags2, _type_flags, flags3] = fixed.array()?;
        let _time_zone = fixed.u32()?;
        let _locale = fixed.u32()?;

        let mut slice = |unit: usize| -> Result<&[u8], Truncated> {
            let offset = usize::from(fixed.u16()?);
            let length = usize::from(fixed.u16()?) * unit;
            message.get(offset..offset + length).ok_or(Truncated)
        };
        let text = super::read::decode_utf16;
        let host = text(slice(2)?);
        let user = text(slice(2)?);
        let scrambled: Vec<u8> = slice(2)?.iter().map(|byte| (byte ^ 0xA5).rotate_left(4)).collect();
        let application = text(slice(2)?);
        let _server = slice(2)?;
        let extension = slice(1)?;
        let _library = slice(2)?;
        let _language = slice(2)?;
        let database = text(slice(2)?);

        let mut features = Vec::new();
        let mut fed_auth = None;
        if flags3 & FLAGS3_EXTENSION != 0 {
            let offset = usize::try_from(Cursor::new(extension).u32()?).map_err(|_| Truncated)?;
            let mut cursor = Cursor::new(message.get(offset..).ok_or(Truncated)?);
            loop {
                let feature = cursor.u8()?;
                if feature == FEATURE_END {
                    break;
                }
                let length = usize::try_from(cursor.u32()?).map_err(|_| Truncated)?;
                let data = cursor.take(length)?;
                if feature == FEATURE_FEDAUTH {
                    fed_auth = Some(FedAuth::parse(data)?);
                }
                features.push(feature);
            }
        }
        Ok(Self {
            tds_version,
            packet_bytes,
            host,
            user,
            password: text(&scrambled),
            application,
            database,
            integrated: flags2 & FLAGS2_INTEGRATED_SECURITY != 0,
            features,
            fed_auth,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    /// A LOGIN7 with these texts, and a feature extension.
    fn login7(host: &str, user: &str, password: &str, database: &str) -> Vec<u8> {
        let units = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let scrambled: Vec<u8> = units(password).iter().map(|byte| byte.rotate_left(4) ^ 0xA5).collect();
        let mut fixed = Vec::new();
        for number in [0u32, 0x7400_0004, 8000, 1, 2, 0] {
            fixed.extend_from_slice(&number.to_le_bytes());
        }
        fixed.extend_from_slice(&[0, 0, 0, FLAGS3_EXTENSION]);
        fixed.extend_from_slice(&[0; 8]);
        let fields = [
            (units(host), 2),
            (units(user), 2),
            (scrambled, 2),
            (units("test"), 2),
            (units("server"), 2),
            (vec![0; 4], 1),
            (Vec::new(), 2),
            (Vec::new(), 2),
            (units(database), 2),
        ];
        let mut data: Vec<u8> = Vec::new();
        let start = fixed.len() + fields.len() * 4;
        let mut extension = 0;
        for (index, (bytes, unit)) in fields.iter().enumerate() {
            if index == 5 {
                extension = data.len();
            }
            fixed.extend_from_slice(&u16::try_from(start + data.len()).unwrap().to_le_bytes());
            fixed.extend_from_slice(&u16::try_from(bytes.len() / unit).unwrap().to_le_bytes());
            data.extend_from_slice(bytes);
        }
        let features = u32::try_from(start + data.len()).unwrap();
        data[extension..extension + 4].copy_from_slice(&features.to_le_bytes());
        data.extend_from_slice(&[0x0A, 1, 0, 0, 0, 1, FEATURE_END]);
        fixed.extend_from_slice(&data);
        fixed
    }

    #[test]
    fn a_login_is_read() {
        let login = Login7::parse(&login7("host", "sänk", "pässword", "db")).unwrap();
        assert_eq!(
            (login.host.as_str(), login.user.as_str(), login.database.as_str()),
            ("host", "sänk", "db")
        );
        assert_eq!(login.password, "pässword");
        assert_eq!(login.features, [0x0A]);
        assert_eq!((login.packet_bytes, login.integrated), (8000, false));
        assert!(!format!("{login:?}").contains("pässword"));
    }

    #[test]
    fn whatever_comes_before_a_login_is_read_or_refused() {
        let mut noise = Noise::new(1);
        let login = login7("host", "user", "password", "database");
        let mut prelogin = Vec::new();
        let federation = Federation { required: Some(true), client_nonce: None, server_nonce: Some([5; 32]) };
        write_prelogin(&mut prelogin, Encryption::On, &federation);
        let read = PreLogin::parse(&prelogin).unwrap();
        assert_eq!((read.federated, read.nonce), (Some(true), Some([5; 32])));
        assert_eq!(PreLogin::parse(&prelogin).unwrap().encryption, Encryption::On);
        for _ in 0..50_000 {
            let _ = Login7::parse(&noise.mutate(&login));
            let _ = PreLogin::parse(&noise.mutate(&prelogin));
        }
    }
}
