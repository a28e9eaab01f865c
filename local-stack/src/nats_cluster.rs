//! Several real `nats-server` processes as one cluster, for streams with replicas.

use std::path::Path;

use crate::error::StackError;
use crate::nats_server::{NatsServer, NatsServerOptions};
use crate::port::free_port;

/// A running cluster. Dropping it stops its servers.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts so many servers, each as `options` say but on ports and in a folder of its own, and waits until they take
    /// connections. They elect their leaders meanwhile: a stream can be made when they are done, within seconds.
    ///
    /// # Errors
    /// Where a server does not start.
    pub async fn start(nodes: usize, options: NatsServerOptions) -> Result<Self, StackError> {
        let ports = (0..nodes).map(|_| free_port()).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(StackError::io("find a port for", Path::new("nats-server")))?;
        let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let started = ports.iter().map(|port| {
            let cluster = format!(
                "cluster {{ name: local-stack, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n{}",
                routes.join(", "),
                options.extra_config.as_deref().unwrap_or_default()
            );
            NatsServer::start(NatsServerOptions {
                port: None,
                store_dir: None,
                extra_config: Some(cluster),
                ..options.clone()
            })
        });
        // together: alone a server does not become ready, as it needs the others for an election
        Ok(Self { nodes: futures_util::future::try_join_all(started).await? })
    }

    /// Where clients connect.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(NatsServer::url).collect()
    }

    /// The server with this name, as JetStream calls the leader of a stream.
    pub fn node(&mut self, name: &str) -> Option<&mut NatsServer> {
        self.nodes.iter_mut().find(|node| node.name() == name)
    }

    /// All of them.
    pub fn nodes(&mut self) -> &mut [NatsServer] {
        &mut self.nodes
    }
}
