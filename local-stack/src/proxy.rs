//! A TCP proxy for faults on the wire: between a client and its server, both on this machine.
//!
//! A [`Proxy`] passes bytes until it is told otherwise: it stalls both directions or one, slows them down, adds a
//! round-trip time, cuts what is open, refuses what is new. All of it can be changed while connections are open, and
//! holds from the next bytes on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

mod pipe;

use pipe::Pipe;

/// One way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In order, as a process that closes its socket does (FIN).
    Close,
    /// At once, as a process that is gone does (RST).
    Reset,
}

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Passage {
    is_stalled: bool,
    bytes_per_second: Option<u64>,
    delay: Duration,
}

/// What becomes of all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    to_server: Passage,
    to_client: Passage,
    refuses: bool,
}

impl Rules {
    fn of(&mut self, direction: Direction) -> &mut Passage {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// What all connections of a proxy share.
#[derive(Debug)]
struct Shared {
    rules: watch::Sender<Rules>,
    cuts: broadcast::Sender<Cut>,
    connections: AtomicUsize,
    refused: AtomicU64,
    bytes: [AtomicU64; 2],
}

/// A running proxy on the loopback address. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accept: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, and connects to `server` for each client.
    ///
    /// # Errors
    /// Where no port can be listened on.
    pub async fn start(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            rules: watch::Sender::new(Rules::default()),
            cuts: broadcast::Sender::new(16),
            connections: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
        });
        let accept = AbortOnDropHandle::new(tokio::spawn(accept(listener, server, shared.clone())));
        Ok(Self { address, shared, _accept: accept })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes everything again, unharmed; what was stalled goes on.
    pub fn pass(&self) {
        self.shared.rules.send_replace(Rules::default());
    }

    /// Passes nothing of this direction, and keeps the connections open.
    pub fn stall(&self, direction: Direction) {
        self.shared.rules.send_modify(|rules| rules.of(direction).is_stalled = true);
    }

    /// Passes nothing at all, and keeps the connections open.
    pub fn stall_both(&self) {
        self.stall(Direction::ToServer);
        self.stall(Direction::ToClient);
    }

    /// Passes so many bytes a second in this direction, of each connection; `None` lifts the limit.
    pub fn limit(&self, direction: Direction, bytes_per_second: Option<u64>) {
        let limit = bytes_per_second.filter(|limit| *limit > 0);
        self.shared.rules.send_modify(|rules| rules.of(direction).bytes_per_second = limit);
    }

    /// Adds a round-trip time, half of it in each direction.
    pub fn add_latency(&self, round_trip: Duration) {
        self.shared.rules.send_modify(|rules| {
            rules.to_server.delay = round_trip / 2;
            rules.to_client.delay = round_trip / 2;
        });
    }

    /// Resets new connections instead of leading them to the server, or leads them there again.
    pub fn refuse(&self, refuses: bool) {
        self.shared.rules.send_modify(|rules| rules.refuses = refuses);
    }

    /// Cuts all connections that are open, on both sides; new ones can be made.
    pub fn cut(&self, cut: Cut) {
        // an error means that there is none
        let _ = self.shared.cuts.send(cut);
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections that were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Bytes that were passed in this direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.shared.bytes[direction as usize].load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    // dropped with the proxy, and every connection with it
    let mut connections = JoinSet::new();
    loop {
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        if shared.rules.borrow().refuses {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            reset(&client);
            continue;
        }
        connections.spawn(serve(client, server, shared.clone()));
    }
}

/// Counts a connection as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let _open = Open::new(shared.clone());
    let server = match TcpStream::connect(server).await {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, "server not reached");
            reset(&client);
            return;
        }
    };
    // the sockets' own delays would be added to those that are asked for
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let cut = {
        let both = async {
            tokio::join!(
                Pipe::new(&shared, Direction::ToServer).run(&mut client_read, &mut server_write),
                Pipe::new(&shared, Direction::ToClient).run(&mut server_read, &mut client_write),
            )
        };
        tokio::select! {
            _ = both => None,
            cut = cuts.recv() => Some(cut.unwrap_or(Cut::Reset)),
        }
    };
    if cut == Some(Cut::Reset) {
        for (read, write) in [(client_read, client_write), (server_read, server_write)] {
            reset_halves(read, write);
        }
    }
}

/// With no time to linger, a close sends RST and discards what is not yet sent.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

fn reset_halves(read: OwnedReadHalf, write: OwnedWriteHalf) {
    if let Ok(stream) = read.reunite(write) {
        reset(&stream);
    }
}
