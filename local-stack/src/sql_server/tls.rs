//! TLS as TDS 7.4 has it: the handshake's records travel inside PRELOGIN packets, what follows does not.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::packet::HEADER_BYTES;

/// A certificate, its key, and the authority that a client has to trust, all as PEM.
#[derive(Clone)]
pub struct TlsMaterial {
    /// The certificate authority's certificate, for the client.
    pub ca_pem: String,
    /// The server's certificate, in DER.
    certificate: CertificateDer<'static>,
    /// The server's private key, PKCS #8 in DER.
    key: Arc<PrivatePkcs8KeyDer<'static>>,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

impl TlsMaterial {
    /// A new authority, and a certificate of it for `localhost` and the loopback addresses.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn generate() -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "nats-sql-sink local stack");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let names = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;
        Ok(Self {
            ca_pem: authority.pem(),
            certificate: certificate.der().clone(),
            key: Arc::new(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    /// A certificate that somebody else has signed, with its key and that authority's own certificate, all as PEM.
    ///
    /// # Errors
    /// Where one of them is not PEM.
    pub fn from_pem(ca_pem: &str, certificate: &str, key: &str) -> io::Result<Self> {
        Ok(Self {
            ca_pem: ca_pem.to_owned(),
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?,
            key: Arc::new(PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(io::Error::other)?),
        })
    }

    /// Those that are kept in this folder; made, and put there, where there are none. For a server that is another
    /// process at every start, and whom clients trust all the same.
    ///
    /// # Errors
    /// Where the files cannot be read or written, or no key can be made.
    pub fn kept_in(folder: &Path) -> io::Result<Self> {
        let names = ["ca.pem", "server.der", "server-key.der"].map(|name| folder.join(name));
        let [ca, certificate, key] = &names;
        if !key.exists() {
            let made = Self::generate().map_err(io::Error::other)?;
            std::fs::write(ca, &made.ca_pem)?;
            std::fs::write(certificate, &made.certificate)?;
            std::fs::write(key, made.key.secret_pkcs8_der())?;
            return Ok(made);
        }
        Ok(Self {
            ca_pem: std::fs::read_to_string(ca)?,
            certificate: CertificateDer::from(std::fs::read(certificate)?),
            key: Arc::new(PrivatePkcs8KeyDer::from(std::fs::read(key)?)),
        })
    }

    /// For TDS 7.4, TLS 1.2 only: with 1.3 a server's session tickets follow the handshake, and a client that
    /// has left the PRELOGIN packets behind cannot tell where they belong. SQL Server has 1.3 for TDS 8 alone.
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        self.config(&[&rustls::version::TLS12]).map(Arc::new)
    }

    /// For TDS 8, where TLS comes before everything else.
    pub(super) fn strict_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = self.config(&[&rustls::version::TLS12, &rustls::version::TLS13])?;
        config.alpn_protocols = vec![b"tds/8.0".to_vec()];
        Ok(Arc::new(config))
    }

    /// For HTTPS.
    pub(crate) fn web_config(&self) -> Result<ServerConfig, rustls::Error> {
        let mut config = self.config(&[&rustls::version::TLS12, &rustls::version::TLS13])?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    fn config(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
    }
}

/// A connection's bytes, encrypted or not.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<HandshakeStream>>),
}

impl Transport {
    /// Takes encryption off again, after a login that alone was encrypted.
    pub(super) fn into_plain(self) -> Self {
        match self {
            Self::Plain(stream) => Self::Plain(stream),
            Self::Tls(tls) => Self::Plain(tls.into_inner().0.stream),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

const PACKET_TYPE_PRELOGIN: u8 = 0x12;
/// More than any flight of a handshake.
const MAX_FLIGHT_BYTES: usize = 32 * 1024;

/// Wraps what is written into PRELOGIN packets and unwraps what is read, until the handshake is over.
#[derive(Debug)]
pub(super) struct HandshakeStream {
    stream: TcpStream,
    handshaking: bool,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// Payload of the current packet that is still to come.
    payload_left: usize,
    outgoing: Vec<u8>,
    /// How much of `outgoing`, once it has its header, is on the wire. `None` while it is collected.
    sent: Option<usize>,
}

impl HandshakeStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            handshaking: true,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            payload_left: 0,
            outgoing: Vec::new(),
            sent: None,
        }
    }

    pub(super) fn finish_handshake(&mut self) {
        self.handshaking = false;
    }
}

impl AsyncRead for HandshakeStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.handshaking {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        while this.payload_left == 0 {
            let mut header = ReadBuf::new(&mut this.header[this.header_filled..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut header))?;
            let read = header.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            this.header_filled += read;
            if this.header_filled == HEADER_BYTES {
                let length = usize::from(u16::from_be_bytes([this.header[2], this.header[3]]));
                if this.header[0] != PACKET_TYPE_PRELOGIN || length < HEADER_BYTES {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not a packet of a handshake",
                    )));
                }
                this.payload_left = length - HEADER_BYTES;
                this.header_filled = 0;
            }
        }
        let mut part = buf.take(this.payload_left);
        let before = part.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let read = part.filled().len() - before;
        let filled = buf.filled().len();
        // `part` borrows the unfilled end of `buf`: what it initialised has to be told to `buf`
        buf.initialize_unfilled_to(read);
        buf.set_filled(filled + read);
        this.payload_left -= read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.handshaking {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        if this.sent.is_some() {
            ready!(this.poll_send(cx))?;
        }
        if this.outgoing.len() + buf.len() > MAX_FLIGHT_BYTES {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "handshake too long")));
        }
        if this.outgoing.is_empty() {
            this.outgoing.resize(HEADER_BYTES, 0);
        }
        this.outgoing.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl HandshakeStream {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut sent = self.sent.unwrap_or(0);
        if self.sent.is_none() {
            let length = u16::try_from(self.outgoing.len()).unwrap_or(u16::MAX).to_be_bytes();
            self.outgoing[..HEADER_BYTES].copy_from_slice(&[
                PACKET_TYPE_PRELOGIN,
                1,
                length[0],
                length[1],
                0,
                0,
                0,
                0,
            ]);
            self.sent = Some(0);
        }
        while sent < self.outgoing.len() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing[sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            sent += written;
            self.sent = Some(sent);
        }
        self.outgoing.clear();
        self.sent = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_in_a_folder_is_found_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) =
            (TlsMaterial::kept_in(folder.path()).unwrap(), TlsMaterial::kept_in(folder.path()).unwrap());
        assert_eq!(first.ca_pem, second.ca_pem);
        assert_eq!(first.certificate, second.certificate);
        assert!(second.server_config().is_ok());
        assert!(TlsMaterial::kept_in(&folder.path().join("missing")).is_err());
    }
}
