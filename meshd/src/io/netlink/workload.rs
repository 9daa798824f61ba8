//! What a workload's namespace is given: an interface with one address, and the route to the overlay by it. Done by the process that
//! attaches the workload, inside that namespace.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    link::{LinkAttribute, LinkMessage},
    route::{RouteMessage, RouteType},
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::{
    BLOCK, BLOCK_ELSEWHERE, Interface, Netlink, NetlinkError, address_of, collect, failed, unless,
};

/// An interface that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its index.
    pub index: u32,
    /// Its IPv6 addresses.
    pub addresses: Vec<Ipv6Addr>,
}

impl Netlink {
    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn find(&self, name: &str) -> Result<Option<Present>, NetlinkError> {
        let mut index = None;
        let links = self.handle.link().get().execute();
        collect(links, "list interfaces", |link: LinkMessage| {
            let is_it = |attribute: &LinkAttribute| {
                matches!(attribute, LinkAttribute::IfName(other) if other == name)
            };
            if link.attributes.iter().any(is_it) {
                index = Some(link.header.index);
            }
        })
        .await?;
        let Some(index) = index else {
            return Ok(None);
        };
        let mut addresses = Vec::new();
        let listed = self.handle.address().get().execute();
        collect(listed, "list addresses", |message| {
            if message.header.index == index
                && let Some(IpAddr::V6(address)) = address_of(&message)
            {
                addresses.push(address);
            }
        })
        .await?;
        Ok(Some(Present { index, addresses }))
    }

    /// Moves an interface into another namespace, where it has neither address nor route, and is down.
    ///
    /// # Errors
    /// There is one of its name there.
    pub async fn move_into(&self, index: u32, namespace: &impl AsFd) -> Result<(), NetlinkError> {
        let moved = LinkUnspec::new_with_index(index)
            .setns_by_fd(namespace.as_fd().as_raw_fd())
            .build();
        let change = self.handle.link().change(moved).execute().await;
        change.map_err(failed("move the interface into the workload's namespace"))
    }

    /// Removes an interface. One that is gone is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn delete(&self, index: u32) -> Result<(), NetlinkError> {
        let deleted = self.handle.link().del(index).execute().await;
        unless(libc::ENODEV, deleted).map_err(failed("remove the interface"))
    }

    /// Gives a workload its address and the way to the overlay, by an interface that is in its namespace.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn configure_workload(&self, interface: &Interface) -> Result<(), NetlinkError> {
        let Interface { index, address, .. } = *interface;
        // A namespace gives an interface that comes into it its own defaults.
        self.prepare(interface).await?;
        self.give_address(index, address).await?;
        self.set_up(index).await?;
        self.wait_until_local(address).await?;
        self.add_route(workload_route(index), "route the overlay")
            .await
    }

    /// Lets nothing for the overlay out by another way while the workload's interface is away.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn close_overlay(&self) -> Result<(), NetlinkError> {
        self.add_route(closed_route(), BLOCK_ELSEWHERE).await
    }

    /// Takes back [`Self::close_overlay`].
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn open_overlay(&self) -> Result<(), NetlinkError> {
        let removed = self.handle.route().del(closed_route()).execute().await;
        unless(libc::ESRCH, removed).map_err(failed("remove a route"))
    }
}

/// In the main table: the namespace is the workload's, and has no rules of ours.
fn workload_route(index: u32) -> RouteMessage {
    to_overlay().output_interface(index).build()
}

fn closed_route() -> RouteMessage {
    to_overlay()
        .kind(RouteType::Unreachable)
        .priority(u32::MAX)
        .build()
}

fn to_overlay() -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(BLOCK.network(), BLOCK.prefix())
}
