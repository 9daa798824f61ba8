//! Noticing that the underlay has changed, or that somebody has touched what is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{
    NetlinkError, TABLE, address_of, collect, is_ours, is_running, table_of, underlay_address,
};

/// How long changes are gathered: a new uplink comes as a burst of link, address and route messages.
const SETTLE: Duration = Duration::from_millis(200);

/// What has changed since the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// An address that others may reach us by has come or gone.
    pub addresses: bool,
    /// An interface has come up, or gone down or away.
    pub links: bool,
    /// A default route has come or gone.
    pub default_route: bool,
    /// The overlay's interface has come up or gone down, or its address, a route or a rule was taken away.
    pub overlay: bool,
}

/// The stream of changes, gathered over 200 ms and joined while nobody asks: at most one waits.
#[derive(Debug)]
pub struct Changes {
    reports: mpsc::Receiver<Change>,
    tasks: [JoinHandle<()>; 2],
}

/// What is known, to tell a change from a repetition: the kernel repeats an address whenever a router advertisement renews it.
#[derive(Debug, Default)]
struct Known {
    own: u32,
    addresses: BTreeSet<(u32, IpAddr)>,
    running: BTreeMap<u32, bool>,
}

impl Change {
    /// Whether anything has changed.
    pub fn any(&self) -> bool {
        self.underlay() || self.overlay
    }

    /// Whether anything of the underlay has.
    pub fn underlay(&self) -> bool {
        self.addresses || self.links || self.default_route
    }

    const ALL: Self = Self {
        addresses: true,
        links: true,
        default_route: true,
        overlay: true,
    };

    fn add(&mut self, other: Self) {
        self.addresses |= other.addresses;
        self.links |= other.links;
        self.default_route |= other.default_route;
        self.overlay |= other.overlay;
    }
}

impl Changes {
    /// Begins to watch, in the network namespace of this thread and in its tokio runtime; `own` is the TUN's index.
    pub async fn watch(own: u32) -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| {
                NetlinkError::Kernel {
                    step: "watch the network",
                    source,
                }
            })?;
        let connection = tokio::spawn(connection);
        let mut known = Known {
            own,
            ..Known::default()
        };
        // After subscribing, so that nothing falls between.
        collect(handle.link().get().execute(), "list interfaces", |link| {
            known.running.insert(link.header.index, is_running(&link));
        })
        .await?;
        collect(
            handle.address().get().execute(),
            "list addresses",
            |address| {
                known
                    .addresses
                    .extend(underlay_address(&address).map(|ip| (address.header.index, ip)));
            },
        )
        .await?;
        let (sender, reports) = mpsc::channel(1);
        let messages = messages.map(|(message, _)| message.payload);
        let gather = tokio::spawn(async move {
            gather(messages, known, sender).await;
            // The connection lives as long as somebody holds a handle.
            drop(handle);
        });
        Ok(Self {
            reports,
            tasks: [connection, gather],
        })
    }

    /// Waits for the next change. `None`: the kernel has closed the connection, and there will be no more.
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Change> {
        self.reports.recv().await
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Reads everything at once, so that the queue before it stays short, and reports when things have settled.
async fn gather(
    messages: impl Stream<Item = NetlinkPayload<RouteNetlinkMessage>>,
    mut known: Known,
    reports: mpsc::Sender<Change>,
) {
    let mut messages = std::pin::pin!(messages);
    let mut pending = Change::default();
    let mut settled = Instant::now();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return };
                let change = known.update(&message);
                if change.any() && !pending.any() {
                    settled = Instant::now() + SETTLE;
                }
                pending.add(change);
            }
            permit = reserve(&reports, settled), if pending.any() => {
                let Some(permit) = permit else { return };
                permit.send(std::mem::take(&mut pending));
            }
        }
    }
}

async fn reserve(
    reports: &mpsc::Sender<Change>,
    settled: Instant,
) -> Option<mpsc::Permit<'_, Change>> {
    sleep_until(settled).await;
    reports.reserve().await.ok()
}

impl Known {
    fn update(&mut self, message: &NetlinkPayload<RouteNetlinkMessage>) -> Change {
        let NetlinkPayload::InnerMessage(message) = message else {
            // After an overrun anything may have happened.
            let overrun = matches!(message, NetlinkPayload::Overrun(_));
            return if overrun {
                Change::ALL
            } else {
                Change::default()
            };
        };
        let mut change = Change::default();
        if let RouteNetlinkMessage::NewLink(link) = message {
            let (index, running) = (link.header.index, is_running(link));
            let before = self.running.insert(index, running).unwrap_or(false);
            let flag = if index == self.own {
                &mut change.overlay
            } else {
                &mut change.links
            };
            *flag = before != running;
        } else if let RouteNetlinkMessage::DelLink(link) = message {
            let before = self.running.remove(&link.header.index).unwrap_or(false);
            change.links = before && link.header.index != self.own;
        } else if let RouteNetlinkMessage::NewAddress(address) = message {
            change.addresses = self.update_address(address, underlay_address(address).is_some());
        } else if let RouteNetlinkMessage::DelAddress(address) = message {
            change.addresses = self.update_address(address, false);
            change.overlay = address.header.index == self.own;
        } else if let RouteNetlinkMessage::NewRoute(route) = message {
            change.default_route = self.is_default_route(route);
        } else if let RouteNetlinkMessage::DelRoute(route) = message {
            change.default_route = self.is_default_route(route);
            change.overlay = table_of(route) == TABLE;
        } else if let RouteNetlinkMessage::DelRule(rule) = message {
            change.overlay = is_ours(rule);
        }
        change
    }

    /// Notes whether an address can be used; says whether that is new.
    fn update_address(&mut self, message: &AddressMessage, usable: bool) -> bool {
        let index = message.header.index;
        let Some(ip) = address_of(message).filter(|_| index != self.own) else {
            return false;
        };
        if usable {
            self.addresses.insert((index, ip))
        } else {
            self.addresses.remove(&(index, ip))
        }
    }

    fn is_default_route(&self, route: &RouteMessage) -> bool {
        route.header.destination_prefix_length == 0
            && table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
            && !route.attributes.contains(&RouteAttribute::Oif(self.own))
    }
}
