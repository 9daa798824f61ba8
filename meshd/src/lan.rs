//! Speaks and hears the [beacon] on every link of the machine, and tells the node what it is attached to.
//!
//! A task of the control thread. What it hears costs that thread a bounded share, and the node loop nothing unless it is signed.

use std::{
    collections::BTreeSet,
    future::pending,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::{
    beacon::{self, GROUP, Heard, Link, Own, PORT, Refused, Speaker},
    config::Settings,
    control::{Control, chain},
    discard::{Discards, Reason},
    identity::NodeId,
    io::{
        multicast::MulticastSocket,
        netlink::{Attachment, MARK},
        udp::UdpSocket,
    },
    node::{Found, LocalNetwork, Source},
};

/// After a change the interfaces are looked at again after these pauses: an address can be used only when nobody else has been found to
/// have it, and the kernel says nothing then of link-local ones.
const LOOK_AGAIN: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// And now and then, in case a change was missed.
const LOOK: Duration = Duration::from_secs(60);
/// Whether the node wants to be found is asked so often.
const ASK: Duration = Duration::from_secs(2);

/// The search on the LAN.
#[derive(Debug)]
pub(crate) struct Lan {
    /// The overlay's interface, which is none of the underlay.
    overlay: u32,
    /// None: switched off, or impossible here.
    search: Option<Search>,
}

#[derive(Debug)]
struct Search {
    socket: MulticastSocket,
    speaker: Speaker,
    joined: BTreeSet<u32>,
    buffer: Box<[u8; beacon::MAX_LEN + 1]>,
}

impl Lan {
    /// Opens what it needs, before the daemon is confined. Without a socket (there is no IPv6, or the port is taken) nobody is found.
    pub(crate) fn open(
        settings: &Settings,
        node: NodeId,
        sockets: &[UdpSocket],
        overlay: u32,
        now: Instant,
    ) -> Result<Self, getrandom::Error> {
        if !settings.control.mdns {
            let search = None;
            return Ok(Self { overlay, search });
        }
        let (mut run, mut seed) = ([0; 8], [0; 8]);
        getrandom::fill(&mut run)?;
        getrandom::fill(&mut seed)?;
        let port = |is_ours: fn(&SocketAddr) -> bool| {
            let addresses = sockets.iter().map(UdpSocket::local_addr);
            // A socket on one address alone hears nothing that is for another.
            let own = addresses.filter(|own| own.ip().is_unspecified() && is_ours(own));
            own.map(|own| own.port()).next().unwrap_or_default()
        };
        let own = Own {
            key: *node.ed25519(),
            run,
            port_v6: port(SocketAddr::is_ipv6),
            port_v4: port(SocketAddr::is_ipv4),
        };
        let search = match MulticastSocket::bind(PORT, MARK) {
            Ok(socket) => Some(Search {
                socket,
                speaker: Speaker::new(own, u64::from_ne_bytes(seed), now),
                joined: BTreeSet::new(),
                buffer: Box::new([0; beacon::MAX_LEN + 1]),
            }),
            Err(error) => {
                warn!(
                    error = chain(&error),
                    port = PORT,
                    "Nobody is looked for on the LAN"
                );
                None
            }
        };
        Ok(Self { overlay, search })
    }

    /// Runs until the node loop ends.
    pub(crate) async fn run(mut self, control: &Control, discards: &Discards) {
        let mut changed = control.network_changed.subscribe();
        let mut network = control.network.subscribe();
        let mut looks = LOOK_AGAIN.iter();
        let mut look = control.clock.now();
        let mut ask = look;
        loop {
            let now = control.clock.now();
            if look <= now {
                self.look(control, now).await;
                look = now + looks.next().copied().unwrap_or(LOOK);
            }
            let mut next = look;
            if let Some(search) = &mut self.search {
                if ask <= now {
                    let asked = control.node.call(|node_loop, _| {
                        let node = &node_loop.node;
                        (node.voice(), node.network().clone())
                    });
                    let Ok((voice, network)) = asked.await else {
                        return;
                    };
                    search.speaker.set_network(network, now);
                    search.speaker.set_voice(voice, now);
                    ask = now + ASK;
                }
                search.speak(control, now).await;
                next = next.min(ask);
                next = search
                    .speaker
                    .poll_timeout()
                    .map_or(next, |due| next.min(due));
            }
            let wait = next.saturating_duration_since(control.clock.now());
            tokio::select! {
                // It is there for as long as we are.
                _ = changed.changed() => {
                    looks = LOOK_AGAIN.iter();
                    look = control.clock.now();
                }
                _ = network.changed() => ask = control.clock.now(),
                heard = hear(&mut self.search, control, discards) => if let Some(Heard { node, endpoints }) = heard {
                    let found = Found { node, endpoints, source: Source::Lan };
                    let told = control.node.call(|node_loop, now| node_loop.node.handle_found(found, now));
                    if told.await.is_err() {
                        debug!("Node loop is too busy to hear of a node on the LAN");
                    }
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Looks at the interfaces, tells the node of them, and speaks on those that are new.
    async fn look(&mut self, control: &Control, now: Instant) {
        let attachments = match control.netlink.attachments(self.overlay).await {
            Ok(attachments) => attachments,
            Err(error) => return warn!(error = chain(&error), "Interfaces unknown"),
        };
        let local = attachments.iter().flat_map(|attachment| {
            let local = |network: &IpNetwork| LocalNetwork {
                interface: attachment.interface,
                network: *network,
            };
            attachment.networks.iter().map(local)
        });
        let local: Vec<LocalNetwork> = local.collect();
        let told = control
            .node
            .call(move |node_loop, _| node_loop.node.handle_local(local))
            .await;
        if told.is_err() {
            debug!("Node loop is too busy to hear of its networks");
        }
        if let Some(search) = &mut self.search {
            let links: Vec<Link> = attachments.iter().filter_map(link).collect();
            search.join(&links);
            search.speaker.set_links(links, now);
        }
    }
}

impl Search {
    fn join(&mut self, links: &[Link]) {
        let wanted: BTreeSet<u32> = links.iter().map(|link| link.interface).collect();
        for interface in self.joined.difference(&wanted) {
            if let Err(error) = self.socket.leave(GROUP, *interface) {
                debug!(interface, %error, "Beacons are still heard on an interface");
            }
        }
        for interface in &wanted {
            // Also where it is heard already: an interface that was away has forgotten it.
            if let Err(error) = self.socket.join(GROUP, *interface) {
                warn!(interface, %error, "Beacons are not heard on an interface");
            }
        }
        self.joined = wanted;
    }

    async fn speak(&mut self, control: &Control, now: Instant) {
        while let Some((link, beacon)) = self.speaker.poll_beacon(now) {
            let source = link.source;
            let signed = control
                .node
                .call(move |node_loop, _| node_loop.node.sign_beacon(&beacon, source));
            let sent = match signed.await {
                Ok(datagram) => self.socket.send(GROUP, link.interface, source, &datagram),
                // The next one is due soon enough.
                Err(_) => return,
            };
            if let Err(error) = sent {
                debug!(interface = link.interface, %error, "No beacon sent");
            }
        }
    }

    /// Waits for a datagram; who has sent it, if it is a beacon worth hearing.
    async fn hear(&mut self, control: &Control, discards: &Discards) -> Option<Heard> {
        let heard = match self.socket.receive(&mut self.buffer[..]).await {
            Ok(heard) => heard,
            Err(error) => {
                debug!(%error, "No beacon received");
                return None;
            }
        };
        let datagram = &self.buffer[..heard.length.min(self.buffer.len())];
        let now = control.clock.now();
        let refused = match self.speaker.handle_datagram(
            heard.interface,
            heard.source,
            heard.hop_limit,
            datagram,
            now,
        ) {
            Ok(heard) => return Some(heard),
            Err(refused) => refused,
        };
        match refused {
            Refused::OffLink | Refused::Malformed | Refused::Forged => {
                discards.discard(Reason::BeaconBad, 1);
            }
            Refused::TooMany => discards.discard(Reason::BeaconTooMany, 1),
            // What others say to each other, and what we know.
            Refused::Foreign | Refused::Own | Refused::Repeated => {}
        }
        None
    }
}

async fn hear(
    search: &mut Option<Search>,
    control: &Control,
    discards: &Discards,
) -> Option<Heard> {
    match search {
        Some(search) => search.hear(control, discards).await,
        None => pending().await,
    }
}

/// Where a beacon can be sent: on a shared interface with a link-local address.
fn link(attachment: &Attachment) -> Option<Link> {
    let source = attachment
        .networks
        .iter()
        .find_map(|network| match network.ip() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(ip),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        })?;
    let v4 = |network: &IpNetwork| match network {
        IpNetwork::V4(network) => Some(*network),
        IpNetwork::V6(_) => None,
    };
    attachment.is_shared.then(|| Link {
        interface: attachment.interface,
        source,
        networks: attachment.networks.iter().filter_map(v4).collect(),
    })
}
