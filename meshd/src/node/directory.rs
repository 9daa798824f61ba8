//! What the node knows names for.

use std::sync::Arc;

use names::{Directory, NameError};
use tracing::warn;

use super::{Node, peers::Origin};
use crate::{config::NETWORK_LABEL, identity::DERIVATION};

impl Node {
    /// Names have come, gone or changed: the next snapshot has a new directory.
    pub(super) fn rename(&mut self) {
        self.directory = match self.names() {
            Ok(directory) => Some(Arc::new(directory)),
            Err(error) => {
                warn!(%error, "No names are answered");
                None
            }
        };
        self.stale = true;
    }

    fn names(&self) -> Result<Directory, NameError> {
        let mut directory = Directory::new(&self.domain, NETWORK_LABEL, DERIVATION)?;
        let devices = self.peers.values().filter(|entry| entry.origin.is_stock());
        let devices = devices.map(|entry| (entry.name.clone(), entry.address));
        let workloads = self.hosted();
        let workloads = workloads.map(|workload| (workload.name, workload.address));
        let inside = devices.chain(workloads);
        directory.add_own(&self.name, self.identity.node().prefix(), inside);
        let peers = self.peers.values();
        for entry in peers.filter(|entry| entry.origin == Origin::Peer) {
            if let Some(node) = entry.node {
                directory.add_node(&entry.name, node.prefix());
            }
        }
        Ok(directory)
    }
}
