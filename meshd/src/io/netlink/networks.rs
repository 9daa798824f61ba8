//! The networks of the underlay that this machine is in.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::{Netlink, NetlinkError, collect, is_running, underlay_address};

impl Netlink {
    /// Our addresses on the underlay, by every interface that is up and has a carrier except `own`, each with the prefix that is on its
    /// link; sorted.
    pub async fn underlay_networks(&self, own: u32) -> Result<Vec<IpNetwork>, NetlinkError> {
        let mut running = BTreeSet::new();
        let links = self.handle.link().get().execute();
        collect(links, "list interfaces", |link| {
            if link.header.index != own && is_running(&link) {
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
        Ok(networks.into_iter().collect())
    }
}
