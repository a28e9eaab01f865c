//! Somebody in between who takes encryption away: tells each side that the other has none.

use std::io;
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

use crate::sql_server::prelogin;

/// More than any INFO of a server.
const MAX_INFO_BYTES: usize = 64 * 1024;

/// Listens on the loopback address until it is dropped.
pub struct Downgrade {
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl Downgrade {
    /// In front of a NATS server with a certificate of this authority: speaks TLS with it, and none with its clients.
    ///
    /// # Errors
    /// Where no port can be listened on, or the authority is none.
    pub async fn of_nats(server: SocketAddr, ca_pem: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(io::Error::other)?;
        roots.add(authority).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Self::start(move |client| nats(client, server, connector.clone())).await
    }

    /// In front of a SQL server: says in the PRELOGIN of each side that it supports no encryption. A client that begins
    /// with TLS is answered as by a server that knows nothing of it.
    ///
    /// # Errors
    /// Where no port can be listened on.
    pub async fn of_sql(server: SocketAddr) -> io::Result<Self> {
        Self::start(move |client| sql(client, server)).await
    }

    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let serving = serve(client);
                connections.spawn(async move {
                    // a client that breaks off is what is hoped for
                    if let Err(error) = serving.await {
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

async fn nats(mut client: TcpStream, server: SocketAddr, connector: TlsConnector) -> io::Result<()> {
    let mut tcp = TcpStream::connect(server).await?;
    let mut info = Vec::new();
    // byte by byte, as what follows the line is TLS
    while info.last() != Some(&b'\n') && info.len() < MAX_INFO_BYTES {
        info.push(tcp.read_u8().await?);
    }
    let told = String::from_utf8_lossy(&info).replace("\"tls_required\":true", "\"tls_required\":false");
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut tls = connector.connect(name, tcp).await?;
    client.write_all(told.as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut tls).await.map(drop)
}

async fn sql(mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let Some(asked) = prelogin::read(&mut client).await? else {
        client.write_all(&prelogin::without_encryption()).await?;
        return tokio::io::copy(&mut client, &mut tokio::io::sink()).await.map(drop);
    };
    let mut server = TcpStream::connect(server).await?;
    server.write_all(&prelogin::strip(asked)).await?;
    let answered = prelogin::read(&mut server).await?.ok_or_else(|| io::Error::other("not a PRELOGIN"))?;
    client.write_all(&prelogin::strip(answered)).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}
