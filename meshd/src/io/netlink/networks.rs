//! This machine's addresses on the underlay, and the networks that they are in.
//!
//! Left out are loopback, link-local and overlay addresses, addresses not (or no longer) in use, and interfaces that are down or have no carrier.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;

use super::{Netlink, NetlinkError, collect, is_running, underlay_address};

impl Netlink {
    /// The addresses that others on the underlay may reach, for guessing where this machine can be reached; sorted.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn local_addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
        let networks = self.networks(|_| true).await?;
        let addresses: BTreeSet<IpAddr> = networks.iter().map(IpNetwork::ip).collect();
        Ok(addresses.into_iter().collect())
    }

    /// The addresses by every interface except `own`, each with the prefix that is on its link; sorted.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn underlay_networks(&self, own: u32) -> Result<Vec<IpNetwork>, NetlinkError> {
        let networks = self.networks(|interface| interface != own).await?;
        Ok(networks.into_iter().collect())
    }

    /// Those by interfaces that `takes` takes.
    async fn networks(
        &self,
        takes: impl Fn(u32) -> bool,
    ) -> Result<BTreeSet<IpNetwork>, NetlinkError> {
        let mut running = BTreeSet::new();
        let links = self.handle.link().get().execute();
        collect(links, "list interfaces", |link| {
            if takes(link.header.index) && is_running(&link) {
                running.insert(link.header.index);
            }
        })
        .await?;
        let mut networks = BTreeSet::new();
        let addresses = self.handle.address().get().execute();
        collect(addresses, "list addresses", |message| {
            if running.contains(&message.header.index)
                && let Some(ip) = underlay_address(&message)
                && let Ok(network) = IpNetwork::new(ip, message.header.prefix_len)
            {
                networks.insert(network);
            }
        })
        .await?;
        Ok(networks)
    }
}
