//! Joins the control plane (libp2p, crate `discovery`) to the daemon: tells it who may be connected and where we are, and the node what it
//! finds.
//!
//! It lives on threads of its own, started before the daemon gives up its rights: those may connect to TCP ports, which no other thread
//! may, and open no file but `/proc/self`. Packets never wait for it, and go on without it.

mod listen_ports;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use discovery::{
    Admitted, AtDoor, Carrier, Command, Contact, Door, Event, Memory, NodeKey, Whereabouts,
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tokio::{
    net::lookup_host,
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::{
    admin,
    config::{Dht, PeerSettings, Settings},
    control::{Control, chain, note_write},
    identity::{Identity, NodeId, overlay},
    io::hardening,
    network::Network,
    node::{self, Found, Search, Source},
    state::{Record, StateDir},
};

pub(crate) use self::listen_ports::ListenPorts;

/// Names in the addresses of peers are resolved again this often, and addresses of the machine looked at.
const REFRESH: Duration = Duration::from_secs(60);
/// A name server has this long to answer.
const RESOLVE: Duration = Duration::from_secs(5);
/// Nodes whose anchors are kept.
const MAX_ANCHORED: usize = 64;
/// Addresses taken of one name.
const MAX_ADDRESSES: usize = 8;

/// `control.json`: what the control plane remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Nodes that answered, latest first.
    contacts: Vec<RememberedContact>,
    /// The sequence number of our last record.
    sequence: u64,
}

/// A node's libp2p port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RememberedContact {
    peer_id: String,
    at: SocketAddr,
    quic: bool,
}

impl Record for Remembered {
    const FILE: &'static str = "control.json";
    const VERSION: u32 = 1;
}

impl From<Memory> for Remembered {
    fn from(memory: Memory) -> Self {
        let contact = |contact: Contact| {
            let node = NodeId::from_ed25519(contact.key.0).ok()?;
            Some(RememberedContact {
                peer_id: node.peer_id(),
                at: contact.at,
                quic: contact.carrier == Carrier::Quic,
            })
        };
        Self {
            contacts: memory.contacts.into_iter().filter_map(contact).collect(),
            sequence: memory.sequence,
        }
    }
}

impl From<Remembered> for Memory {
    fn from(remembered: Remembered) -> Self {
        let contact = |contact: RememberedContact| {
            let node: NodeId = contact.peer_id.parse().ok()?;
            Some(Contact {
                key: NodeKey(*node.ed25519()),
                at: contact.at,
                carrier: if contact.quic {
                    Carrier::Quic
                } else {
                    Carrier::Tcp
                },
            })
        };
        Self {
            contacts: remembered
                .contacts
                .into_iter()
                .filter_map(contact)
                .collect(),
            sequence: remembered.sequence,
        }
    }
}

/// The running control plane, or that there is none.
#[derive(Debug, Default)]
pub struct ControlPlane {
    door: Option<Door>,
    status: Mutex<discovery::Status>,
    /// Who passes introductions on to nodes that were looked up, latest last.
    anchors: Mutex<VecDeque<(NodeKey, Vec<Contact>)>>,
    touched: Notify,
    /// Where the members were that have let us in, until they are remembered.
    doors: Mutex<BTreeMap<NodeKey, SocketAddr>>,
    /// Kept for what it holds.
    _ports: ListenPorts,
}

/// What comes out of it.
#[derive(Debug)]
pub(crate) struct Events(Option<mpsc::Receiver<Event>>);

/// Which prefix a key owns, if it may be a node's.
fn derive(key: &NodeKey) -> Option<discovery::Prefix> {
    let node = NodeId::from_ed25519(key.0).ok()?;
    node.address().octets().first_chunk().copied()
}

/// Starts it, if the configuration wants one. Before [`hardening::confine`]: it gives up other rights than the rest of the daemon.
pub(crate) fn start(
    settings: &Settings,
    identity: &Identity,
    network: &Network,
    remembered: Remembered,
    ports: ListenPorts,
) -> io::Result<(ControlPlane, Events)> {
    if !settings.control.enabled {
        return Ok((ControlPlane::default(), Events(None)));
    }
    let mut tcp_ports = ports.tcp();
    // Where another program has a port that is written in the configuration, the system gives one in its place.
    tcp_ports.insert(0);
    let prepare = move || {
        if let Err(why) = hardening::confine_control_plane(&tcp_ports) {
            // Also said, with its code, of the rest of the daemon.
            warn!("The control plane is not confined by {why}");
        }
    };
    let settings = discovery::Settings {
        seed: Zeroizing::new(*identity.seed()),
        network: network.to_string(),
        listen: ports.multiaddresses(),
        mdns: settings.control.mdns,
        dht: match settings.control.dht {
            Dht::Client => discovery::Dht::Client,
            Dht::Server => discovery::Dht::Server,
            Dht::Off => discovery::Dht::Off,
        },
        derive,
        memory: remembered.into(),
        refused: vec![overlay().into()],
        loopback: discovery::hygiene::Loopback::Refused,
    };
    let (door, events) = discovery::start(settings, prepare)?;
    let plane = ControlPlane {
        door: Some(door),
        _ports: ports,
        ..ControlPlane::default()
    };
    Ok((plane, Events(Some(events))))
}

impl ControlPlane {
    /// What `meshd status` shows of it; nothing if it is off.
    pub(crate) fn report(&self) -> Option<admin::ControlPlane> {
        self.door.as_ref()?;
        let status = self.status();
        Some(admin::ControlPlane {
            running: status.is_running,
            restarts: status.restarts,
            peers: status.peers,
            table: status.table,
            records: status.records,
            reachable: status.is_reachable,
            listening: status.listening.clone(),
        })
    }

    fn status(&self) -> MutexGuard<'_, discovery::Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one.
    pub(crate) fn is_on(&self) -> bool {
        self.door.is_some()
    }

    /// Where guests may ask.
    pub(crate) fn doors(&self) -> Vec<SocketAddr> {
        self.status().doors.clone()
    }

    /// A member has let us in there, and is to be connected with.
    pub(crate) fn keep_door(&self, by: &NodeId, at: SocketAddr) {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.clear();
        doors.insert(NodeKey(*by.ed25519()), at);
        drop(doors);
        self.touch();
    }

    /// Hands over what the node says about joining. Where there is no control plane, or it is busy, the door is closed.
    pub(crate) async fn hand_over(&self, command: Command, control: &Control) {
        let at = if let Command::Knock(at) | Command::Ask { at, .. } = &command {
            Some(*at)
        } else {
            None
        };
        if self.send(command) {
            return;
        }
        let Some(at) = at else {
            return;
        };
        let why = "libp2p is off or busy".to_owned();
        let told = control
            .node
            .call(move |node_loop, now| node_loop.node.handle_door_closed(at, why, now));
        if told.await.is_err() {
            debug!("The node loop has no time to hear of a door");
        }
    }

    /// Something that it is told of has changed: the configuration, or the underlay.
    pub(crate) fn touch(&self) {
        self.touched.notify_one();
    }

    /// Hands a command over. `false`: it was not taken.
    pub(crate) fn send(&self, command: Command) -> bool {
        match &self.door {
            Some(door) => door
                .send(command)
                .inspect_err(|error| debug!(%error, "Command not taken"))
                .is_ok(),
            None => false,
        }
    }

    /// Carries a message of the path agent to a node, as far as that is possible.
    pub(crate) fn introduce(&self, to: &NodeId, message: Vec<u8>) {
        let to = NodeKey(*to.ed25519());
        let kept = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        let anchors = kept.iter().find(|(key, _)| *key == to);
        let anchors = anchors.map(|(_, anchors)| anchors.clone());
        drop(kept);
        self.send(Command::Introduce {
            to,
            anchors: anchors.unwrap_or_default(),
            message,
        });
    }

    fn keep_anchors(&self, key: NodeKey, anchors: Vec<Contact>) {
        let mut kept = self.anchors.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(other, _)| *other != key);
        if !anchors.is_empty() {
            kept.push_back((key, anchors));
        }
        if kept.len() > MAX_ANCHORED {
            kept.pop_front();
        }
    }

    /// Looks for the node that owns a prefix. `false`: nobody will answer.
    pub(crate) fn look_up(&self, prefix: [u8; 8]) -> bool {
        self.send(Command::Lookup(prefix))
    }
}

/// What it was last told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    network: Option<Network>,
    admitted: Admitted,
    connect: BTreeMap<NodeKey, Vec<String>>,
    whereabouts: Whereabouts,
    networks: Vec<IpNetwork>,
}

/// Runs for as long as the daemon does.
pub(crate) async fn serve(events: Events, control: &Control, own: u32) {
    let Events(Some(mut events)) = events else {
        return std::future::pending().await;
    };
    let enabled = control
        .node
        .call(|node_loop, _| node_loop.node.set_search(Search::On));
    if enabled.await.is_err() {
        debug!("The node loop has no time to hear of the control plane");
    }
    tokio::select! {
        () = tell(control, own) => {}
        () = hear(&mut events, control) => {}
        () = fault(control) => {}
    }
}

/// Tells it of changes.
async fn tell(control: &Control, own: u32) {
    let mut told = Told::default();
    let mut ticks = interval(REFRESH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = control.plane.touched.notified() => {}
        }
        let settings = control.running.lock().await.clone();
        let networks = match control.netlink.underlay_networks(own).await {
            Ok(networks) => networks,
            Err(error) => {
                debug!(%error, "Local networks unknown");
                told.networks.clone()
            }
        };
        let admitted = control
            .node
            .call(|node_loop, now| node_loop.node.admitted(now));
        let Ok(admitted) = admitted.await else {
            continue;
        };
        let network = admitted.network.clone();
        let mut now = Told {
            network: Some(network.clone()),
            admitted: of_node(admitted),
            connect: BTreeMap::new(),
            whereabouts: whereabouts(control.port, &networks),
            networks,
        };
        for peer in &settings.peers {
            if let Some(addresses) = addresses(peer).await {
                now.connect.insert(NodeKey(*peer.node.ed25519()), addresses);
            }
        }
        // What is not taken is told again with the next change, or after the interval.
        let plane = &control.plane;
        for (key, at) in plane
            .doors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            if now.admitted.listed.contains(key) {
                let family = if at.is_ipv4() { "ip4" } else { "ip6" };
                let address = format!("/{family}/{}/tcp/{}", at.ip(), at.port());
                now.connect.entry(*key).or_default().push(address);
            }
        }
        let is_elsewhere = told.network.as_ref() != Some(&network);
        if is_elsewhere {
            // Its ports are not known before it listens again.
            plane.status().doors.clear();
            if !plane.send(Command::Network(network.to_string())) {
                continue;
            }
            told.network = Some(network);
        }
        let is_first = told.admitted == Admitted::default();
        if told.networks != now.networks || is_first {
            let refused = vec![overlay().into()];
            let shared = now.networks.iter().filter_map(on_link).collect();
            if !plane.send(Command::Networks { refused, shared }) {
                continue;
            }
        }
        let commands = [
            (told.admitted != now.admitted).then(|| Command::Admit(now.admitted.clone())),
            (told.whereabouts != now.whereabouts)
                .then(|| Command::Whereabouts(now.whereabouts.clone())),
            (told.connect != now.connect).then(|| Command::Connect(now.connect.clone())),
        ];
        if commands
            .into_iter()
            .flatten()
            .all(|command| plane.send(command))
        {
            told = now;
        }
    }
}

/// The network of an address, if it can be one of a link: a whole Internet on one interface is a tunnel.
fn on_link(address: &IpNetwork) -> Option<IpNetwork> {
    let network = IpNetwork::new(address.network(), address.prefix()).ok()?;
    (network.prefix() >= 8).then_some(network)
}

fn of_node(admitted: node::Admitted) -> Admitted {
    Admitted {
        listed: admitted.listed.into_iter().map(NodeKey).collect(),
        open: admitted.open,
        guests: admitted.guests,
    }
}

/// Our WireGuard port at our own addresses, those of IPv6 first: they need no translation.
fn whereabouts(port: u16, networks: &[IpNetwork]) -> Whereabouts {
    let mut addresses: Vec<IpAddr> = networks.iter().map(IpNetwork::ip).collect();
    addresses.sort_by_key(|ip| (ip.is_ipv4(), *ip));
    addresses.dedup();
    addresses.truncate(discovery::record::MAX_ENDPOINTS);
    Whereabouts {
        port,
        endpoints: addresses
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect(),
    }
}

/// The libp2p addresses of a peer, its name resolved; nothing if it has none.
async fn addresses(peer: &PeerSettings) -> Option<Vec<String>> {
    let text = peer.address.as_ref()?;
    let mut parts = text.trim_start_matches('/').splitn(3, '/');
    let (family, host, rest) = (parts.next()?, parts.next()?, parts.next()?);
    if !matches!(family, "dns" | "dns4" | "dns6") {
        return Some(vec![text.clone()]);
    }
    let found = match timeout(RESOLVE, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(error)) => {
            debug!(name = host, %error, "Name does not resolve");
            Vec::new()
        }
        Err(_) => {
            debug!(name = host, "Name server does not answer");
            Vec::new()
        }
    };
    let fits = |ip: &IpAddr| match family {
        "dns4" => ip.is_ipv4(),
        "dns6" => ip.is_ipv6(),
        _ => true,
    };
    let text = |ip: IpAddr| {
        let family = if ip.is_ipv4() { "ip4" } else { "ip6" };
        format!("/{family}/{ip}/{rest}")
    };
    let found = found.into_iter().filter(fits).take(MAX_ADDRESSES);
    Some(found.map(text).collect())
}

/// Tells the node what was found.
async fn hear(events: &mut mpsc::Receiver<Event>, control: &Control) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Found(found) => on_found(found, control).await,
            Event::Looked { prefix, found } => {
                let found = found.and_then(|found| {
                    let node = NodeId::from_ed25519(found.key.0).ok()?;
                    control.plane.keep_anchors(found.key, found.anchors);
                    Some((node, found.endpoints))
                });
                answer(control, prefix, found).await;
            }
            Event::Introduction { from, message } => on_introduction(from, message, control).await,
            Event::Remember(memory) => remember(memory, &control.state, control),
            Event::Status(status) => *control.plane.status() = status,
            Event::Asked {
                number,
                from,
                message,
            } => {
                let told = control.node.call(move |node_loop, now| {
                    node_loop.node.handle_asked(number, from.0, &message, now);
                });
                if told.await.is_err() {
                    debug!("The node loop has no time for a guest");
                }
            }
            Event::Door { at, what } => on_door(at, what, control).await,
        }
    }
}

/// Something has happened where we want to be let in.
async fn on_door(at: SocketAddr, what: AtDoor, control: &Control) {
    let told = control.node.call(move |node_loop, now| {
        let node = &mut node_loop.node;
        match what {
            AtDoor::Open(key) => node.handle_door_open(at, key.0, now),
            AtDoor::Answer { message, endpoints } => {
                node.handle_door_answer(at, &message, endpoints, now);
            }
            AtDoor::Closed(why) => node.handle_door_closed(at, why, now),
        }
    });
    if told.await.is_err() {
        debug!("The node loop has no time to hear of a door");
    }
}

async fn on_introduction(from: NodeKey, message: Vec<u8>, control: &Control) {
    let Ok(from) = NodeId::from_ed25519(from.0) else {
        return;
    };
    let told = control.node.call(move |node_loop, now| {
        node_loop.node.handle_introduction(from, &message, now);
    });
    if told.await.is_err() {
        debug!("The node loop has no time for an introduction");
    }
}

async fn on_found(found: discovery::Found, control: &Control) {
    let Ok(node) = NodeId::from_ed25519(found.key.0) else {
        return;
    };
    let found = Found {
        node,
        endpoints: found.endpoints,
        source: Source::Control,
    };
    let told = control
        .node
        .call(move |node_loop, now| node_loop.node.handle_found(found, now));
    if told.await.is_err() {
        debug!("The node loop has no time to hear of a node");
    }
}

/// Tells the node how a look-up ended.
pub(crate) async fn answer(
    control: &Control,
    prefix: [u8; 8],
    found: Option<(NodeId, Vec<SocketAddr>)>,
) {
    let told = control
        .node
        .call(move |node_loop, now| node_loop.node.handle_looked(prefix, found, now));
    if told.await.is_err() {
        // It gives up by itself.
        debug!("The node loop has no time to hear of a look-up");
    }
}

fn remember(memory: Memory, state: &StateDir, control: &Control) {
    let written = state.write(&Remembered::from(memory));
    if let Err(error) = &written {
        warn!(error = chain(error), "Contacts not remembered");
    }
    note_write(&control.alerts, &written);
}

/// In builds for tests, SIGUSR1 makes the control plane panic, and SIGUSR2 hang for half a minute.
#[cfg(feature = "_sim")]
async fn fault(control: &Control) {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::user_defined1()),
        signal(SignalKind::user_defined2()),
    );
    let (Ok(mut first), Ok(mut second)) = signals else {
        return std::future::pending().await;
    };
    loop {
        let fault = tokio::select! {
            _ = first.recv() => discovery::Fault::Panic,
            _ = second.recv() => discovery::Fault::Stall(Duration::from_secs(30)),
        };
        control.plane.send(Command::Fault(fault));
    }
}

#[cfg(not(feature = "_sim"))]
async fn fault(_: &Control) {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::identity;

    #[test]
    fn the_prefix_of_a_key_is_that_of_the_node() {
        for n in 0..8 {
            let node = identity(n).node();
            let prefix = derive(&NodeKey(*node.ed25519())).unwrap();
            assert_eq!(node.prefix().network().octets()[..8], prefix);
        }
        assert_eq!(derive(&NodeKey([7; 32])), None);
    }

    #[test]
    fn the_vectors_of_the_protocol_hold() {
        let vectors: BTreeMap<_, _> = crate::testdata::vectors("endpoint-records")
            .into_iter()
            .collect();
        let seed: [u8; 32] = vectors["seed"][..].try_into().unwrap();
        let node = Identity::from_seed(Zeroizing::new(seed)).unwrap().node();
        let record = discovery::record::Record {
            network: "open".to_owned(),
            key: NodeKey(*node.ed25519()),
            sequence: 1_700_000_000_123,
            signed: 1_700_000_000,
            anchors: vec![Contact {
                key: NodeKey(vectors["anchor"][..].try_into().unwrap()),
                at: "203.0.113.7:51861".parse().unwrap(),
                carrier: Carrier::Quic,
            }],
            endpoints: vec![
                "[2001:db8::7]:51860".parse().unwrap(),
                "203.0.113.9:4711".parse().unwrap(),
            ],
        };
        let bytes = record.sign(&seed).unwrap();
        assert_eq!(bytes, vectors["record"]);
        let verified =
            discovery::record::Record::verify(&bytes, "open", derive, 1_700_000_000).unwrap();
        assert_eq!(verified.0, record);
        let place = discovery::record::place("open", &verified.1);
        assert_eq!(place[..], vectors["place"]);
    }

    #[test]
    fn what_is_remembered_is_read_back() {
        let contact = |n: usize, at: &str, carrier| Contact {
            key: NodeKey(*identity(n).node().ed25519()),
            at: at.parse().unwrap(),
            carrier,
        };
        let memory = Memory {
            contacts: vec![
                contact(1, "203.0.113.7:51861", Carrier::Tcp),
                contact(2, "[2001:db8::7]:51861", Carrier::Quic),
            ],
            sequence: 1 << 60,
        };
        let text = serde_json::to_string(&Remembered::from(memory.clone())).unwrap();
        let read: Remembered = serde_json::from_str(&text).unwrap();
        assert_eq!(Memory::from(read), memory);
    }

    #[test]
    fn we_are_at_our_addresses_those_of_ipv6_first() {
        let networks = ["192.168.1.2/24", "2001:db8::5/64"].map(|text| text.parse().unwrap());
        let told = whereabouts(51860, &networks);
        let endpoints: Vec<String> = told.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, ["[2001:db8::5]:51860", "192.168.1.2:51860"]);
        assert_eq!(
            on_link(&networks[0]),
            Some("192.168.1.0/24".parse().unwrap())
        );
        assert_eq!(on_link(&"10.0.0.1/0".parse().unwrap()), None);
    }
}
