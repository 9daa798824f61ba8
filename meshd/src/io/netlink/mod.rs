//! The overlay's interface, routes and rules; the underlay's addresses.
//!
//! ```text
//!  5270: from all to 0600::/8 fwmark 0x5277 unreachable    our own sockets never send into the overlay
//!  5271: from all to 0600::/8 lookup 5277
//!  table 5277: 0600::/8 dev <interface>                    while the daemon runs
//!              unreachable 0600::/8 metric 4294967295      when it has been killed: nothing leaks to the default route
//! ```
//! The numbers are fixed, so that what a killed daemon left behind is recognised and replaced. Nothing is written to `/proc/sys`.

mod changes;
mod networks;
mod workload;

pub use changes::{Change, Changes};
pub use workload::Present;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::stream::{Stream, TryStreamExt};
use ipnetwork::{IpNetwork, Ipv6Network};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

/// The overlay: every address that is derived from a key lies in it.
pub const BLOCK: Ipv6Network =
    Ipv6Network::new_checked(Ipv6Addr::new(0x0600, 0, 0, 0, 0, 0, 0, 0), 8)
        .expect("8 is a prefix length");

/// The routing table that holds the overlay's routes and nothing else.
pub const TABLE: u32 = 5277;

/// The firewall mark of the daemon's underlay sockets.
pub const MARK: u32 = 0x5277;

/// Preference of the rule that keeps marked packets out of the overlay. Before [`RULE_LOOKUP`], and both before the rules of
/// wg-quick and other VPNs, which are counted downwards from 32766.
pub const RULE_MARKED: u32 = 5270;

/// Preference of the rule that sends packets for the overlay to [`TABLE`].
pub const RULE_LOOKUP: u32 = 5271;

/// Largest super-packet that the kernel may hand to the TUN: sealed in 1,452-byte datagrams, it still fits one UDP message.
pub const GSO_MAX_SIZE: u32 = 62_000;

const BLOCK_ELSEWHERE: &str = "block the overlay elsewhere";

/// Copies of one stale rule that are removed before giving up. More cannot come from us.
const STALE_RULES: usize = 16;

/// How often, and how many times, a new address is looked at until the kernel has finished it: a second in all.
const ADDRESS_STEP: Duration = Duration::from_millis(5);
const ADDRESS_TRIES: u32 = 200;

/// How the TUN interface is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// The node's own address, given to the interface as a /128.
    pub address: Ipv6Addr,
    /// Longest packet in bytes; at least 1280, what IPv6 needs.
    pub mtu: u32,
    /// Packets (or super-packets) that wait for the daemon before the kernel drops: 128 to 256 keep the delay low and still
    /// take bursts.
    pub queue_length: u32,
}

/// An interface of the underlay that carries packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its index.
    pub interface: u32,
    /// Others may share it, and can be spoken to all at once: it knows multicast, and is neither a loopback nor a tunnel.
    pub is_shared: bool,
    /// Our addresses there that can be used, link-local ones too, and how long the prefix is that is on the link; sorted.
    pub networks: Vec<IpNetwork>,
}

/// Whether an interface is set up, by us or by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It carries packets.
    Up,
    /// It does not, and the kernel has taken its addresses away.
    Down,
}

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The process lacks CAP_NET_ADMIN.
    #[error(
        "not permitted to {step}: meshd needs CAP_NET_ADMIN (run it as root or as the systemd unit)"
    )]
    NotPermitted {
        /// What was being done.
        step: &'static str,
    },
    /// The kernel has no IPv6, or has it switched off for the interface.
    #[error(
        "cannot {step}: IPv6 is disabled; enable it with `sysctl net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`"
    )]
    NoIpv6 {
        /// What was being done.
        step: &'static str,
    },
    /// The kernel refused for another reason, or could not be asked.
    #[error("cannot {step}")]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer made no sense.
    #[error("cannot {step}")]
    Protocol {
        /// What was being done.
        step: &'static str,
        /// What was wrong.
        #[source]
        source: rtnetlink::Error,
    },
}

/// A router next to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: Ipv4Addr,
    /// The address that this machine talks to it with.
    pub own: Ipv4Addr,
}

/// A connection to the kernel's routing; belongs to the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// Connects. Must be called in a tokio runtime, which then runs the connection until this is dropped.
    pub fn new() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| NetlinkError::Kernel {
                step: "open a netlink socket",
                source,
            })?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Makes the interface ready and routes the overlay to it. May be repeated; replaces what a killed daemon left behind.
    pub async fn configure(&self, interface: &Interface) -> Result<(), NetlinkError> {
        let Interface { index, address, .. } = *interface;
        self.prepare(interface).await?;
        self.give_address(index, address).await?;
        self.set_up(index).await?;
        self.wait_until_local(address).await?;

        self.add_routes(index).await?;
        for rule in rules() {
            self.remove_rule(&rule).await?;
            self.add_rule(rule).await?;
        }
        Ok(())
    }

    /// Gives an interface that is down its sizes, and sees to it that it will have no link-local address.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn prepare(&self, interface: &Interface) -> Result<(), NetlinkError> {
        let Interface {
            index,
            mtu,
            queue_length,
            ..
        } = *interface;
        let links = self.handle.link();

        // Before the interface is up: a link-local address, once made, stays.
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let settings = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .txqueuelen(queue_length)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![mode]))
            .build();
        links
            .change(settings)
            .execute()
            .await
            .map_err(failed("set up the interface"))?;

        let size = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(GSO_MAX_SIZE))
            .build();
        if let Err(error) = links.change(size).execute().await {
            tracing::debug!(%error, "Interface keeps its own limit on super-packets");
        }
        Ok(())
    }

    async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        let change = self.handle.link().change(up).execute().await;
        change.map_err(failed("set the interface up"))
    }

    /// Puts back what somebody has taken away since [`Self::configure`], and does not touch what is there. An interface that was set
    /// down stays down, and without an address, until somebody sets it up.
    pub async fn mend(&self, interface: &Interface) -> Result<LinkState, NetlinkError> {
        let Interface { index, address, .. } = *interface;
        let mut state = LinkState::Down;
        let link = self.handle.link().get().match_index(index).execute();
        collect(link, "look at the interface", |link| {
            if link.header.flags.contains(LinkFlags::Up) {
                state = LinkState::Up;
            }
        })
        .await?;
        for rule in rules() {
            self.add_rule(rule).await?;
        }
        match state {
            LinkState::Down => self.add_route(unreachable_route(), BLOCK_ELSEWHERE).await?,
            LinkState::Up => {
                self.give_address(index, address).await?;
                self.wait_until_local(address).await?;
                self.add_routes(index).await?;
            }
        }
        Ok(state)
    }

    async fn give_address(&self, index: u32, address: Ipv6Addr) -> Result<(), NetlinkError> {
        // No duplicate detection: the address is a key's hash. No prefix route: the table has all routes.
        let mut add = self
            .handle
            .address()
            .add(index, address.into(), 128)
            .replace();
        let message = add.message_mut();
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(
            AddressFlags::Nodad | AddressFlags::Noprefixroute,
        ));
        add.execute()
            .await
            .map_err(failed("give the interface its address"))
    }

    async fn add_routes(&self, index: u32) -> Result<(), NetlinkError> {
        self.add_route(unreachable_route(), BLOCK_ELSEWHERE).await?;
        self.add_route(device_route(index), "route the overlay")
            .await
    }

    async fn add_route(&self, route: RouteMessage, step: &'static str) -> Result<(), NetlinkError> {
        let add = self.handle.route().add(route).replace();
        add.execute().await.map_err(failed(step))
    }

    async fn add_rule(&self, rule: RuleMessage) -> Result<(), NetlinkError> {
        let mut add = self.handle.rule().add();
        *add.message_mut() = rule;
        unless(libc::EEXIST, add.execute().await).map_err(failed("add a routing rule"))
    }

    /// Removes rules and routes; the interface goes when its descriptor is closed. What is not there is no error.
    pub async fn remove(&self) -> Result<(), NetlinkError> {
        for rule in rules() {
            self.remove_rule(&rule).await?;
        }
        self.flush(TABLE).await
    }

    /// Removes what is known by number only: rules for the overlay's block with these preferences, and everything in these tables.
    pub async fn remove_left(&self, rules: &[u32], tables: &[u32]) -> Result<(), NetlinkError> {
        for preference in rules {
            let mut rule = RuleMessage::default();
            rule.header.family = AddressFamily::Inet6;
            rule.header.dst_len = BLOCK.prefix();
            rule.attributes = vec![
                RuleAttribute::Destination(BLOCK.network().into()),
                RuleAttribute::Priority(*preference),
            ];
            self.remove_rule(&rule).await?;
        }
        for table in tables {
            self.flush(*table).await?;
        }
        Ok(())
    }

    /// Removes every IPv6 route of a table.
    async fn flush(&self, table: u32) -> Result<(), NetlinkError> {
        let mut stale = Vec::new();
        let all = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv6Addr>::new().build())
            .execute();
        collect(all, "list routes", |route: RouteMessage| {
            if table_of(&route) == table {
                stale.push(route);
            }
        })
        .await?;
        for route in stale {
            unless(libc::ESRCH, self.handle.route().del(route).execute().await)
                .map_err(failed("remove a route"))?;
        }
        Ok(())
    }

    /// The router that leads to the Internet over IPv4, if there is one: that of the default route which the kernel prefers.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn gateway(&self) -> Result<Option<Gateway>, NetlinkError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut best: Option<(u32, Ipv4Addr)> = None;
        let listed = self.handle.route().get(all).execute();
        collect(listed, "list default routes", |route: RouteMessage| {
            if let Some(found) = default_route(&route)
                && best.is_none_or(|best| found.0 < best.0)
            {
                best = Some(found);
            }
        })
        .await?;
        let Some((_, address)) = best else {
            return Ok(None);
        };
        let to = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .build();
        let mut own = None;
        let asked = self.handle.route().get(to).execute();
        collect(asked, "look up the gateway", |route: RouteMessage| {
            own = own.or_else(|| source_of(&route));
        })
        .await?;
        Ok(own.map(|own| Gateway { address, own }))
    }

    /// What this machine is attached to, except by the interface `own`: every interface that is up and has a carrier, by its index.
    pub async fn attachments(&self, own: u32) -> Result<Vec<Attachment>, NetlinkError> {
        let mut attachments = BTreeMap::new();
        let links = self.handle.link().get().execute();
        collect(links, "list interfaces", |link| {
            let (interface, flags) = (link.header.index, link.header.flags);
            if interface != own && is_running(&link) && !flags.contains(LinkFlags::Loopback) {
                let is_tunnel = flags.intersects(LinkFlags::Pointopoint | LinkFlags::Noarp);
                let attachment = Attachment {
                    interface,
                    is_shared: flags.contains(LinkFlags::Multicast) && !is_tunnel,
                    networks: Vec::new(),
                };
                attachments.insert(interface, attachment);
            }
        })
        .await?;
        let addresses = self.handle.address().get().execute();
        collect(addresses, "list addresses", |message| {
            if let Some(attachment) = attachments.get_mut(&message.header.index)
                && let Some(ip) = usable_address(&message)
                && let Ok(network) = IpNetwork::new(ip, message.header.prefix_len)
            {
                attachment.networks.push(network);
            }
        })
        .await?;
        let mut attachments: Vec<_> = attachments.into_values().collect();
        for attachment in &mut attachments {
            attachment.networks.sort_unstable();
            attachment.networks.dedup();
        }
        Ok(attachments)
    }

    /// The kernel finishes an address on a work queue; until then it drops the packets that are for it.
    async fn wait_until_local(&self, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let step = "wait for the interface's address";
        for _ in 0..ADDRESS_TRIES {
            let to = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .build();
            let mut answer = std::pin::pin!(self.handle.route().get(to).execute());
            match answer.try_next().await {
                Ok(Some(route)) if route.header.kind == RouteType::Local => return Ok(()),
                Ok(_) => {}
                Err(error) if is(&error, libc::ENETUNREACH) || is(&error, libc::EHOSTUNREACH) => {}
                Err(error) => return Err(failed(step)(error)),
            }
            tokio::time::sleep(ADDRESS_STEP).await;
        }
        Err(NetlinkError::Kernel {
            step,
            source: io::ErrorKind::TimedOut.into(),
        })
    }

    async fn remove_rule(&self, rule: &RuleMessage) -> Result<(), NetlinkError> {
        for _ in 0..STALE_RULES {
            match self.handle.rule().del(rule.clone()).execute().await {
                Ok(()) => {}
                Err(error) if is(&error, libc::ENOENT) => return Ok(()),
                Err(error) => return Err(failed("remove a stale routing rule")(error)),
            }
        }
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn device_route(index: u32) -> RouteMessage {
    overlay_route().output_interface(index).build()
}

fn unreachable_route() -> RouteMessage {
    overlay_route()
        .kind(RouteType::Unreachable)
        .priority(u32::MAX)
        .build()
}

fn overlay_route() -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(BLOCK.network(), BLOCK.prefix())
        .table_id(TABLE)
}

fn rules() -> [RuleMessage; 2] {
    let to_overlay = |action, preference, last| {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet6;
        rule.header.dst_len = BLOCK.prefix();
        rule.header.action = action;
        rule.attributes = vec![
            RuleAttribute::Destination(BLOCK.network().into()),
            RuleAttribute::Priority(preference),
            last,
        ];
        rule
    };
    [
        to_overlay(
            RuleAction::Unreachable,
            RULE_MARKED,
            RuleAttribute::FwMark(MARK),
        ),
        to_overlay(
            RuleAction::ToTable,
            RULE_LOOKUP,
            RuleAttribute::Table(TABLE),
        ),
    ]
}

/// Whether a rule is one of [`rules`].
fn is_ours(rule: &RuleMessage) -> bool {
    let attributes = &rule.attributes;
    let ours = rules();
    ours.iter().any(|own| {
        own.attributes[..2]
            .iter()
            .all(|attribute| attributes.contains(attribute))
    })
}

fn table_of(route: &RouteMessage) -> u32 {
    let long = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    long.unwrap_or_else(|| route.header.table.into())
}

/// Metric and gateway of a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, Ipv4Addr)> {
    let is_default = route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && table_of(route) == u32::from(libc::RT_TABLE_MAIN);
    let gateway = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(RouteAddress::Inet(gateway)) = attribute {
            Some(*gateway)
        } else {
            None
        }
    });
    let metric = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Priority(metric) = attribute {
            Some(*metric)
        } else {
            None
        }
    });
    gateway
        .filter(|_| is_default)
        .map(|gateway| (metric.unwrap_or_default(), gateway))
}

/// Which address of ours the kernel takes for what it sends by a route.
fn source_of(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::PrefSource(RouteAddress::Inet(source)) = attribute {
            Some(*source)
        } else {
            None
        }
    })
}

/// The address that a message is about.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end.
    local.or(address)
}

/// The address that a message is about, if others on the underlay may reach us by it.
fn underlay_address(message: &AddressMessage) -> Option<IpAddr> {
    usable_address(message).filter(|_| message.header.scope == AddressScope::Universe)
}

/// The address that a message is about, if others may reach us by it, be it only those on the link.
fn usable_address(message: &AddressMessage) -> Option<IpAddr> {
    let ip = address_of(message)?;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(long) = attribute {
            flags |= *long;
        }
    }
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let in_overlay = matches!(ip, IpAddr::V6(ip) if BLOCK.contains(ip));
    let is_far = matches!(
        message.header.scope,
        AddressScope::Universe | AddressScope::Link
    );
    let usable = is_far && !flags.intersects(unusable);
    (usable && !in_overlay && !ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

async fn collect<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
    step: &'static str,
    mut take: impl FnMut(T),
) -> Result<(), NetlinkError> {
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.try_next().await.map_err(failed(step))? {
        take(item);
    }
    Ok(())
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().raw_os_error()
    } else {
        None
    }
}

fn is(error: &rtnetlink::Error, number: i32) -> bool {
    errno(error) == Some(number)
}

/// Success also if the kernel said `number`.
fn unless(number: i32, result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    result.or_else(|error| {
        if is(&error, number) {
            Ok(())
        } else {
            Err(error)
        }
    })
}

fn failed(step: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| match errno(&source) {
        Some(libc::EPERM) => NetlinkError::NotPermitted { step },
        // EACCES is what an interface with disable_ipv6 answers to an address.
        Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => NetlinkError::NoIpv6 { step },
        Some(number) => NetlinkError::Kernel {
            step,
            source: io::Error::from_raw_os_error(number),
        },
        None => NetlinkError::Protocol { step, source },
    }
}

/// Whether the interface is up and has a carrier.
fn is_running(message: &LinkMessage) -> bool {
    message
        .header
        .flags
        .contains(LinkFlags::Up | LinkFlags::LowerUp)
}

#[cfg(test)]
mod tests;
