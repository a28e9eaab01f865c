//! Connections that have agreed on TLS. One that takes its time, or speaks no TLS, keeps nobody else waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that wait to be served.
const WAITING: usize = 16;

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// Hands out connections for `axum::serve`.
pub(super) struct Https {
    address: io::Result<SocketAddr>,
    agreed: mpsc::Receiver<Connection>,
    _accepting: AbortOnDropHandle<()>,
}

impl Https {
    pub(super) fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        let address = listener.local_addr();
        let (agree, agreed) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(config), agree));
        Self { address, agreed, _accepting: AbortOnDropHandle::new(accepting) }
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, agree: mpsc::Sender<Connection>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // out of file descriptors, most likely: the next try may find one
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (tls, agree) = (tls.clone(), agree.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                // nobody takes it where the server has gone
                Ok(Ok(stream)) => drop(agree.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no tls"),
                Err(_elapsed) => tracing::debug!(%peer, "no tls in time"),
            }
        });
    }
}

impl axum::serve::Listener for Https {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        match self.agreed.recv().await {
            Some(connection) => connection,
            // the accepting task lives as long as this
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(address) => Ok(*address),
            Err(error) => Err(error.kind().into()),
        }
    }
}
