//! What a `meshd` of the lab is configured with.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::Ipv6Network;

use crate::identity::Identity;

/// The port servers listen on.
pub const PORT: u16 = 51860;
/// The port of servers for libp2p.
pub const LIBP2P_PORT: u16 = 51861;

/// What a stock router may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Announce this prefix of the node's /64, which it has.
    Stub(Ipv6Network),
    /// Carry what is for these prefixes, whosever they are.
    Legacy(Vec<Ipv6Network>),
}

/// What one daemon is configured with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) identity: Identity,
    listen: Vec<String>,
    stream_listen: Option<Vec<String>>,
    allowed: Vec<String>,
    mtu: Option<u16>,
    queues: Option<u8>,
    log_level: String,
    node: String,
    wireguard: String,
    api: String,
    control: String,
    inbound: String,
    tables: String,
    pub(crate) wrapper: String,
    pub(crate) program: Option<String>,
}

impl Settings {
    /// The node with this identity, on port 51860 of all addresses, without libp2p. Whoever may open a session may reach it, unless
    /// [`Self::inbound`] says otherwise.
    pub fn new(identity: &Identity) -> Self {
        let listen = vec![format!("[::]:{PORT}"), format!("0.0.0.0:{PORT}")];
        Self {
            identity: identity.clone(),
            listen,
            stream_listen: None,
            allowed: Vec::new(),
            mtu: None,
            queues: None,
            log_level: "debug".into(),
            node: String::new(),
            wireguard: String::new(),
            api: String::new(),
            control: "enabled = false\n".into(),
            inbound: "default = \"allow\"".into(),
            tables: String::new(),
            wrapper: String::new(),
            program: None,
        }
    }

    /// The two ends of a link: nodes that know each other's key and endpoint.
    pub fn pair(a: (&Identity, IpAddr), b: (&Identity, IpAddr)) -> (Self, Self) {
        let at = |address| SocketAddr::new(address, PORT);
        (
            Self::new(a.0).peer("b", b.0, Some(at(b.1))),
            Self::new(b.0).peer("a", a.0, Some(at(a.1))),
        )
    }

    /// A peer, by what this node calls it, where it is to be found if that is known.
    #[must_use]
    pub fn peer(self, name: &str, peer: &Identity, endpoint: Option<SocketAddr>) -> Self {
        let endpoint = endpoint
            .map(|endpoint| format!("endpoint = \"{endpoint}\"\n"))
            .unwrap_or_default();
        self.table(&format!(
            "[[peers]]\nname = \"{name}\"\npublic_key = \"{}\"\n{endpoint}",
            peer.public_key
        ))
    }

    /// A peer that is to be found at several endpoints, with one link to each.
    #[must_use]
    pub fn peer_at(self, name: &str, peer: &Identity, endpoints: &[SocketAddr]) -> Self {
        let endpoints = list(endpoints);
        self.table(&format!(
            "[[peers]]\nname = \"{name}\"\npublic_key = \"{}\"\nendpoint = {endpoints}\n",
            peer.public_key
        ))
    }

    /// With libp2p, on port 51861 of all addresses over TCP and QUIC, and these lines in its table.
    #[must_use]
    pub fn libp2p(mut self, lines: &str) -> Self {
        let listen = [
            format!("/ip6/::/tcp/{LIBP2P_PORT}"),
            format!("/ip4/0.0.0.0/tcp/{LIBP2P_PORT}"),
            format!("/ip6/::/udp/{LIBP2P_PORT}/quic-v1"),
            format!("/ip4/0.0.0.0/udp/{LIBP2P_PORT}/quic-v1"),
        ];
        self.control = format!("listen = {}\n{lines}\n", list(&listen));
        self
    }

    /// With libp2p as it is without configuration, on a random port of all addresses over TCP and QUIC, and these lines in its table.
    #[must_use]
    pub fn libp2p_at_random_port(mut self, lines: &str) -> Self {
        self.control = format!("{lines}\n");
        self
    }

    /// With libp2p, without a port of its own for it, and these lines in its table.
    #[must_use]
    pub fn libp2p_without_port(mut self, lines: &str) -> Self {
        self.control = format!("listen = []\n{lines}\n");
        self
    }

    /// A peer of which only the libp2p address is known: port 51861 over TCP.
    #[must_use]
    pub fn peer_by_libp2p(self, name: &str, peer: &Identity, at: impl Into<IpAddr>) -> Self {
        self.peer_by_libp2p_at(name, peer, SocketAddr::new(at.into(), LIBP2P_PORT))
    }

    /// As [`Self::peer_by_libp2p`], on another port.
    #[must_use]
    pub fn peer_by_libp2p_at(self, name: &str, peer: &Identity, at: SocketAddr) -> Self {
        self.peer_at_multiaddress(name, peer, &format!("tcp/{}", at.port()), at.ip())
    }

    /// As [`Self::peer_by_libp2p`], over QUIC.
    #[must_use]
    pub fn peer_by_quic(self, name: &str, peer: &Identity, at: impl Into<IpAddr>) -> Self {
        let transport = format!("udp/{LIBP2P_PORT}/quic-v1");
        self.peer_at_multiaddress(name, peer, &transport, at.into())
    }

    fn peer_at_multiaddress(
        self,
        name: &str,
        peer: &Identity,
        transport: &str,
        at: IpAddr,
    ) -> Self {
        let family = if at.is_ipv4() { "ip4" } else { "ip6" };
        let peer_id = peer.peer_id();
        self.table(&format!(
            "[[peers]]\nname = \"{name}\"\naddress = \"/{family}/{at}/{transport}/p2p/{peer_id}\"\n"
        ))
    }

    /// Lets these nodes open a session, without being peers of this one.
    #[must_use]
    pub fn allow<'a>(mut self, nodes: impl IntoIterator<Item = &'a Identity>) -> Self {
        let keys = nodes.into_iter().map(|node| node.public_key.clone());
        self.allowed.extend(keys);
        self
    }

    /// A stock WireGuard device next to this node that speaks Babel with it; it is called at `endpoint`, or calls.
    #[must_use]
    pub fn router(
        self,
        name: &str,
        public_key: &str,
        role: &Role,
        endpoint: Option<SocketAddr>,
    ) -> Self {
        let endpoint = endpoint
            .map(|endpoint| format!("endpoint = \"{endpoint}\"\n"))
            .unwrap_or_default();
        let role = match role {
            Role::Stub(prefix) => format!("trust = \"stub\"\nallowed = [\"{prefix}\"]\n"),
            Role::Legacy(prefixes) => {
                format!("trust = \"legacy\"\nlegacy_allow = {}\n", list(prefixes))
            }
        };
        self.table(&format!(
            "[[wireguard.stock]]\nname = \"{name}\"\npublic_key = \"{public_key}\"\nbabel = true\n{role}{endpoint}"
        ))
    }

    /// A stock WireGuard device that is a leaf of this node, with its address there.
    #[must_use]
    pub fn stock(
        self,
        name: &str,
        public_key: &str,
        allowed: Ipv6Addr,
        endpoint: Option<SocketAddr>,
    ) -> Self {
        let endpoint = endpoint
            .map(|endpoint| format!("endpoint = \"{endpoint}\"\n"))
            .unwrap_or_default();
        self.table(&format!(
            "[[wireguard.stock]]\nname = \"{name}\"\npublic_key = \"{public_key}\"\nallowed = [\"{allowed}/128\"]\n{endpoint}"
        ))
    }

    /// These lines in the table `[inbound]`; none: as shipped.
    #[must_use]
    pub fn inbound(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.inbound);
        self
    }

    /// Lines of the table `[wireguard]`.
    #[must_use]
    pub fn wireguard(mut self, lines: &str) -> Self {
        self.wireguard = format!("{lines}\n");
        self
    }

    /// Lets members of this group talk to the daemon, besides root.
    #[must_use]
    pub fn api_group(mut self, group: &str) -> Self {
        self.api = format!("group = \"{group}\"\n");
        self
    }

    /// Listens there instead.
    #[must_use]
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(ToString::to_string).collect();
        self
    }

    /// Takes TCP streams there instead.
    #[must_use]
    pub fn stream_listen(mut self, addresses: &[&str]) -> Self {
        self.stream_listen = Some(addresses.iter().map(ToString::to_string).collect());
        self
    }

    /// So many queues of packets, whatever the number of processors.
    #[must_use]
    pub const fn queues(mut self, queues: u8) -> Self {
        self.queues = Some(queues);
        self
    }

    /// Another MTU of the overlay interface than the default.
    #[must_use]
    pub const fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Another level than `debug`.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }

    /// A line of the table `[node]`.
    #[must_use]
    pub fn node(mut self, line: &str) -> Self {
        self.node.push_str(line);
        self.node.push('\n');
        self
    }

    /// The program that starts it, with arguments (`env A=b`, `setpriv …`); it must become the daemon by `exec`.
    #[must_use]
    pub fn started_by(mut self, wrapper: &str) -> Self {
        wrapper.clone_into(&mut self.wrapper);
        self
    }

    /// Another `meshd` than the one under test, by its path.
    #[must_use]
    pub fn program(mut self, path: &str) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// A further table, as text.
    #[must_use]
    pub fn table(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self.tables.push('\n');
        self
    }

    pub(crate) fn toml(&self, name: &str, paths: &Paths) -> String {
        let mut text = String::new();
        let mtu = self
            .mtu
            .map(|mtu| format!("mtu = {mtu}\n"))
            .unwrap_or_default();
        let queues = self
            .queues
            .map(|queues| format!("queues = {queues}\n"))
            .unwrap_or_default();
        let listen = list(&self.listen);
        let stream_listen = self
            .stream_listen
            .as_deref()
            .map(|addresses| format!("stream_listen = {}\n", list(addresses)))
            .unwrap_or_default();
        write!(
            text,
            "[node]\nname = \"{name}\"\nstate_dir = \"{state}\"\nallow_keys = {allowed}\n{node}\n[interface]\nname = \"mesh0\"\n{mtu}{queues}\n[wireguard]\nlisten = {listen}\n{stream_listen}{wireguard}\n\
             [api]\nsocket = \"{socket}\"\n{api}\n[log]\nlevel = \"{level}\"\nformat = \"text\"\n\n[control]\n{control}\n[inbound]\n{inbound}\n\n{tables}",
            state = paths.state.display(),
            level = self.log_level,
            allowed = list(&self.allowed),
            node = self.node,
            wireguard = self.wireguard,
            api = self.api,
            socket = paths.socket.display(),
            control = self.control,
            inbound = self.inbound,
            tables = self.tables,
        )
        .expect("a string takes all that is written");
        text
    }
}

/// A list of strings, as TOML has it.
fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", items.join(", "))
}

/// Where the files of one daemon are.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) config: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
}
