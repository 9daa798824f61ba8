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
        let mut directory = Directory::new(&self.domain, &self.network_label(), DERIVATION)?;
        let devices = self.peers.values().filter(|entry| entry.origin.is_stock());
        let devices = devices.map(|entry| (entry.name.clone(), entry.address));
        let workloads = self.hosted();
        let workloads = workloads.map(|workload| (workload.name, workload.address));
        let inside = devices.chain(workloads);
        let own = self.identity.node();
        let name = self.member(&own.public_key());
        let name = name.map_or(&*self.name, |member| &*member.name);
        directory.add_own(name, own.prefix(), inside);
        let peers = self.peers.values();
        for entry in peers.filter(|entry| entry.origin == Origin::Peer) {
            if let Some(node) = entry.node {
                directory.add_node(&entry.name, node.prefix());
            }
        }
        // What the configuration calls somebody comes before what the network does.
        for (node, member) in self.members().filter(|(node, _)| *node != own) {
            directory.add_node(&member.name, node.prefix());
        }
        Ok(directory)
    }

    /// What stands for the network in names: its name, or its id while nobody has heard the name.
    fn network_label(&self) -> String {
        match self.roll().network_name() {
            Some(name) => name.as_str().to_owned(),
            None if self.network().is_private() => self.network().id().to_owned(),
            None => NETWORK_LABEL.to_owned(),
        }
    }
}
