//! The NATS side of a stand: one server, or a cluster of three.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use async_nats::jetstream::context::{Context, ContextBuilder};
use local_stack::nats_cluster::NatsCluster;
use local_stack::nats_server::{NatsServer, NatsServerOptions};

use std::time::Duration;

/// Outstanding publishes of the client, above the windows of all publishers.
const MAX_ACK_INFLIGHT: usize = 8_192;

/// The servers.
#[derive(Debug)]
pub(crate) enum Nats {
    /// One server.
    Single(Box<NatsServer>),
    /// Three, for streams with three replicas.
    Cluster(NatsCluster),
}

/// What is asked of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct NatsOptions {
    pub(crate) cluster: bool,
    pub(crate) max_payload: u32,
    pub(crate) extra_config: Option<String>,
    pub(crate) disk_bytes: Option<u64>,
}

impl Nats {
    pub(crate) async fn start(options: NatsOptions) -> anyhow::Result<Self> {
        let server = NatsServerOptions {
            max_payload: options.max_payload,
            extra_config: options.extra_config,
            disk_bytes: options.disk_bytes,
            ..NatsServerOptions::default()
        };
        Ok(match options.cluster {
            true => {
                Self::Cluster(NatsCluster::start(3, server).await.context("starting three nats-servers")?)
            }
            false => Self::Single(Box::new(NatsServer::start(server).await.context("starting nats-server")?)),
        })
    }

    /// Where clients connect.
    pub(crate) fn urls(&self) -> Vec<String> {
        match self {
            Self::Single(server) => vec![server.url()],
            Self::Cluster(cluster) => cluster.urls(),
        }
    }

    /// The address of the one server; `None` of a cluster.
    pub(crate) fn single_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Single(server) => Some(SocketAddr::from(([127, 0, 0, 1], server.port()))),
            Self::Cluster(_) => None,
        }
    }

    /// Copies of each stream.
    pub(crate) fn replicas(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Cluster(_) => 3,
        }
    }

    /// The one server.
    ///
    /// # Errors
    /// There is a cluster.
    pub(crate) fn single(&mut self) -> anyhow::Result<&mut NatsServer> {
        match self {
            Self::Single(server) => Ok(server),
            Self::Cluster(_) => bail!("this fault is for a single server"),
        }
    }

    /// The cluster.
    ///
    /// # Errors
    /// There is one server.
    pub(crate) fn cluster(&mut self) -> anyhow::Result<&mut NatsCluster> {
        match self {
            Self::Single(_) => bail!("this fault is for a cluster"),
            Self::Cluster(cluster) => Ok(cluster),
        }
    }

    /// A client of its own, which no proxy stands before.
    pub(crate) async fn connect(&self) -> anyhow::Result<Context> {
        let options = async_nats::ConnectOptions::new().ping_interval(Duration::from_secs(2));
        let client = options.connect(self.urls()).await.context("connecting to NATS")?;
        let builder = ContextBuilder::new().max_ack_inflight(MAX_ACK_INFLIGHT);
        Ok(builder.timeout(Duration::from_secs(4)).build(client))
    }
}
