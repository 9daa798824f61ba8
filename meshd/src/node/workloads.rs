//! The node's workloads: who is attached, and with what address.

use std::{net::Ipv6Addr, time::Instant};

use tracing::info;

use super::{Node, Output};
use crate::{
    admin, fib,
    identity::workload_address,
    workload::{AttachError, NoSuchWorkload, Origin, Wish, Workload, WorkloadId},
};
use filter::Ports;

impl Node {
    /// A device was handed over for this workload: from the next snapshot on it has its address.
    ///
    /// # Errors
    /// [`AttachError`]; the device is not to be kept.
    pub fn attach(&mut self, wish: Wish, now: Instant) -> Result<Workload, AttachError> {
        let address = workload_address(self.identity.node().prefix(), &wish.name);
        if self.has_given_away(address) {
            let name = wish.name;
            return Err(AttachError::Address { name, address });
        }
        let workload = self.workloads.attach(wish, now)?.clone();
        self.renew_workload_rules(now);
        self.rename();
        info!(workload = workload.wish.name, target = %workload.wish.target, address = %workload.address, "Workload attached");
        Ok(workload)
    }

    /// Whether a device of ours has this address.
    fn has_given_away(&self, address: Ipv6Addr) -> bool {
        let mut stock = self.peers.values().filter(|entry| entry.origin.is_stock());
        stock.any(|entry| entry.allowed.iter().any(|owned| owned.contains(address)))
    }

    /// Lets an attached workload publish these ports, and only these, unless the configuration says what it publishes.
    ///
    /// # Errors
    /// [`NoSuchWorkload`].
    pub fn publish(&mut self, name: &str, publish: Vec<Ports>) -> Result<Workload, NoSuchWorkload> {
        let workload = self.workloads.publish(name, publish)?.clone();
        self.stale = true;
        Ok(workload)
    }

    /// Takes a workload's address away. Returns what the workload was.
    ///
    /// # Errors
    /// [`NoSuchWorkload`].
    pub fn detach(&mut self, name: &str) -> Result<Workload, NoSuchWorkload> {
        let workload = self.workloads.detach(name)?;
        self.rename();
        info!(workload = name, "Workload detached");
        Ok(workload)
    }

    /// The namespace of this attachment has died.
    pub fn handle_workload_gone(&mut self, id: WorkloadId) {
        if let Some(workload) = self.workloads.handle_gone(id) {
            info!(
                workload = workload.wish.name,
                "Workload gone: its namespace or its interface was removed"
            );
            self.rename();
            if workload.origin == Origin::Attached {
                self.outputs.push_back(Output::RememberWorkloads);
            }
        }
    }

    /// The workloads to bring back after a restart.
    pub fn workloads_to_remember(&self) -> Vec<Wish> {
        self.workloads.to_remember()
    }

    /// All workloads, by name.
    pub fn workloads(&self, now: Instant) -> Vec<admin::Workload> {
        self.workloads
            .iter()
            .map(|workload| admin::Workload::of(workload, now))
            .collect()
    }

    /// Those that packets can reach.
    pub(super) fn hosted(&self) -> impl Iterator<Item = fib::Workload> {
        self.workloads.iter().filter_map(|workload| {
            let attached = workload.attached.as_ref()?;
            Some(fib::Workload {
                id: attached.id,
                name: workload.wish.name.clone(),
                address: workload.address,
                publish: workload.wish.publish.clone(),
                stats: attached.stats.clone(),
                inbound: self.guarded.get(&workload.wish.name).cloned(),
            })
        })
    }
}
