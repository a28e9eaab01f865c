//! Somebody in between who takes TLS away: speaks TLS with the server, and tells clients that there is none.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// More than any INFO of a server.
const MAX_INFO_BYTES: usize = 64 * 1024;

/// Listens on the loopback address until it is dropped.
pub struct Downgrade {
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Downgrade {
    /// In front of a NATS server with a certificate of this authority.
    ///
    /// # Errors
    /// Where no port can be listened on, or the authority is none.
    pub async fn start(server: SocketAddr, ca_pem: &str) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(std::io::Error::other)?;
        roots.add(authority).map_err(std::io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let connector = connector.clone();
                connections.spawn(async move {
                    // a client that breaks off is what is hoped for
                    if let Err(error) = serve(client, server, &connector).await {
                        tracing::debug!(%error, "a downgraded connection ended");
                    }
                });
            }
        });
        Ok(Self { address, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, connector: &TlsConnector) -> std::io::Result<()> {
    let mut tcp = TcpStream::connect(server).await?;
    let mut info = Vec::new();
    // byte by byte, as what follows the line is TLS
    while info.last() != Some(&b'\n') && info.len() < MAX_INFO_BYTES {
        info.push(tcp.read_u8().await?);
    }
    let told = String::from_utf8_lossy(&info).replace("\"tls_required\":true", "\"tls_required\":false");
    let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
    let mut tls = connector.connect(name, tcp).await?;
    client.write_all(told.as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut tls).await.map(drop)
}
