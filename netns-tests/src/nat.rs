//! Routers that translate addresses, as homes, carriers and companies have them, made of nftables.
//!
//! Names of behaviours follow RFC 4787: how the external port of a flow is chosen (mapping) and who may answer (filtering).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::host::Host;
use crate::lab::{Cable, Lab, Port};
use crate::wait::secs;

/// First external port of mappings that do not keep the port.
const FIRST_PORT: u32 = 20_000;
/// How many such ports there are.
const PORTS: u32 = 4_000;

/// How a router translates. Without anything else said, answers are let in only from the address and port written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// None: a firewall that lets in only answers. The IPv4 addresses behind it reach nobody outside.
    None,
    /// One mapping for all destinations, port kept where free: stock Linux masquerade, most home routers.
    PortRestricted,
    /// As [`Self::PortRestricted`], with another external port than the internal one.
    PortChanging,
    /// One mapping for all destinations, and anybody may answer.
    FullCone,
    /// One mapping for all destinations, and any port of an address written to may answer.
    Restricted,
    /// One mapping for each destination address.
    AddressDependent,
    /// A random external port for each destination address and port.
    SymmetricRandom,
    /// The next external port for each destination address and port.
    SymmetricSequential,
}

/// What happens to UDP from the LAN to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    /// It passes.
    Open,
    /// It is dropped.
    Blocked,
    /// It is dropped, and of TCP only port 443 passes; the rest is refused.
    BlockedAndTcp443Only,
}

/// What the router does with UDP addressed to itself that belongs to no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WanInput {
    /// It is dropped in silence.
    Drop,
    /// It is answered by an ICMP error.
    Reject,
    /// It is taken in, which lets a stranger's packet occupy the mapping that an own one is about to make.
    Open,
}

/// Whether two hosts of the LAN reach each other by the router's external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// They do not.
    Off,
    /// They do, and see each other under the external address.
    On,
}

/// A NAT with everything that can be said about it.
#[derive(Clone, Copy, Debug)]
pub struct NatBox {
    /// How it translates.
    pub nat: Nat,
    /// What it lets out.
    pub udp: Udp,
    /// How it treats what is addressed to itself.
    pub wan_input: WanInput,
    /// Whether it turns packets round.
    pub hairpin: Hairpin,
    /// How long it remembers a flow of UDP: (after one packet, after answers), in whole seconds. `None`: the kernel's 30 s, 120 s.
    pub udp_timeouts: Option<(Duration, Duration)>,
}

impl From<Nat> for NatBox {
    fn from(nat: Nat) -> Self {
        Self {
            nat,
            udp: Udp::Open,
            wan_input: WanInput::Drop,
            hairpin: Hairpin::Off,
            udp_timeouts: None,
        }
    }
}

impl NatBox {
    /// A home router that forgets a flow of UDP after two seconds, or five once it was answered.
    pub fn forgetful() -> Self {
        Self {
            udp_timeouts: Some((secs(2), secs(5))),
            ..Nat::PortRestricted.into()
        }
    }

    /// A home router that lets no UDP out.
    pub fn udp_blocked() -> Self {
        Self {
            udp: Udp::Blocked,
            ..Nat::PortRestricted.into()
        }
    }
}

/// The lab's public internet: a router in the middle, where everything online hangs off.
#[derive(Clone, Debug)]
pub struct Internet {
    host: Host,
    customers: Arc<AtomicU8>,
}

impl Internet {
    #[track_caller]
    pub(crate) fn new(host: Host) -> Self {
        host.forward();
        Self {
            host,
            customers: Arc::default(),
        }
    }

    /// Gives a host its own public addresses (`203.0.113.n/30`, `2001:db8:n::2/64`) and default routes.
    ///
    /// # Panics
    /// When more than 62 hosts are online.
    #[track_caller]
    pub fn connect(&self, host: &Host) -> Port {
        let interface = host.next_interface();
        self.connect_by(host, interface).0
    }

    /// As [`Self::connect`] by an interface of that name; with the interface at this side and the customer's number.
    #[track_caller]
    fn connect_by(&self, host: &Host, interface: String) -> (Port, String, u8) {
        let number = self.customers.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(number <= 62, "the internet of a lab has 62 customers");
        let here = format!("customer{number}");
        Cable::default().lay((&self.host, &here), (host, &interface));
        let v4 = |last| Ipv4Addr::new(203, 0, 113, number * 4 + last);
        let v6 = |last| Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, last);
        self.host.set_address(&here, &format!("{}/30", v4(1)));
        self.host.set_address(&here, &format!("{}/64", v6(1)));
        host.set_address(&interface, &format!("{}/30", v4(2)));
        host.set_address(&interface, &format!("{}/64", v6(2)));
        host.route_by(v4(1));
        host.route_by(v6(1));
        (
            Port {
                host: host.clone(),
                interface,
                v4: v4(2),
                v6: v6(2),
            },
            here,
            number,
        )
    }

    /// The router itself.
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// A router with a LAN behind it: interface `wan` outside, bridge `lan` inside.
#[derive(Clone, Debug)]
pub struct Router {
    internet: Option<Internet>,
    host: Host,
    network: u16,
    hosts: Arc<AtomicU8>,
    wan: Option<Port>,
}

impl Router {
    #[track_caller]
    pub(crate) fn new(lab: &Lab, host: Host, network: u16) -> Self {
        host.forward();
        host.run("ip link add lan type bridge");
        // Bridged packets must not pass the router's own rules a second time (they undo what a hairpin translates).
        if host
            .try_run("test -e /proc/sys/net/bridge/bridge-nf-call-iptables")
            .is_ok()
        {
            host.run("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0");
        }
        host.link_up("lan");
        let router = Self {
            internet: Some(lab.internet()),
            host,
            network,
            hosts: Arc::new(AtomicU8::new(10)),
            wan: None,
        };
        router
            .host
            .set_address("lan", &format!("{}/24", router.lan4(1)));
        router
    }

    /// Gives it a public address, and its LAN a public IPv6 prefix.
    #[must_use]
    #[track_caller]
    pub fn online(mut self) -> Self {
        let internet = self
            .internet
            .clone()
            .expect("a router knows its lab's internet");
        let (wan, there, number) = internet.connect_by(&self.host, "wan".to_owned());
        let prefix = |last| Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 1, 0, 0, 0, last);
        internet.host.run(&format!(
            "ip -6 route add {}/64 via {} dev {there}",
            prefix(0),
            wan.v6
        ));
        self.host.set_address("lan", &format!("{}/64", prefix(1)));
        self.wan = Some(wan);
        self
    }

    /// Puts it behind another router, as a home behind a carrier's NAT. Its LAN then has IPv4 alone.
    #[must_use]
    #[track_caller]
    pub fn behind(mut self, carrier: &Self) -> Self {
        self.wan = Some(carrier.plug(&self.host, "wan".to_owned()));
        self
    }

    /// Makes it translate, and keep out what nobody inside asked for (IPv6 too).
    ///
    /// # Panics
    /// When it has no outside yet.
    #[must_use]
    #[track_caller]
    pub fn nat(self, nat: impl Into<NatBox>) -> Self {
        let nat = nat.into();
        let rules = rules(&nat, self.external(), &format!("{}/24", self.lan4(0)));
        let loaded = self
            .host
            .output_of(&["nft", "-f", "-"], &rules, secs(10))
            .and_then(crate::process::Output::success);
        loaded.unwrap_or_else(|err| {
            panic!("{}: nft refuses {nat:?}: {err}\n{rules}", self.host.name())
        });
        if let Some((alone, answered)) = nat.udp_timeouts {
            let (alone, answered) = (alone.as_secs(), answered.as_secs());
            self.host.run(&format!(
                "sysctl -qw net.netfilter.nf_conntrack_udp_timeout={alone} net.netfilter.nf_conntrack_udp_timeout_stream={answered}"
            ));
        }
        self
    }

    /// Plugs a host into the LAN, with the next free addresses and default routes.
    #[track_caller]
    pub fn attach(&self, host: &Host) -> Port {
        let interface = host.next_interface();
        self.plug(host, interface)
    }

    #[track_caller]
    fn plug(&self, host: &Host, interface: String) -> Port {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let here = format!("lan{number}");
        Cable::default().lay((&self.host, &here), (host, &interface));
        self.host.run(&format!("ip link set {here} master lan"));
        let v4 = self.lan4(number);
        host.set_address(&interface, &format!("{v4}/24"));
        host.route_by(self.lan4(1));
        let mut v6 = Ipv6Addr::UNSPECIFIED;
        if let Some(wan) = self.wan.as_ref().filter(|wan| !wan.v6.is_unspecified()) {
            let mut segments = wan.v6.segments();
            (segments[3], segments[7]) = (1, u16::from(number));
            v6 = segments.into();
            host.set_address(&interface, &format!("{v6}/64"));
            segments[7] = 1;
            host.route_by(Ipv6Addr::from(segments));
        }
        Port {
            host: host.clone(),
            interface,
            v4,
            v6,
        }
    }

    /// Forgets every flow, as a router does that restarts.
    #[track_caller]
    pub fn reboot(&self) {
        self.host.run("conntrack -F");
    }

    /// Lets no UDP through any more, in either direction, whatever was let through before.
    #[track_caller]
    pub fn block_udp(&self) {
        let rules = "table inet no-udp {\nchain forward {\ntype filter hook forward priority -10;\nmeta l4proto udp drop\n}\n}\n";
        let loaded = self
            .host
            .output_of(&["nft", "-f", "-"], rules, secs(10))
            .and_then(crate::process::Output::success);
        loaded.unwrap_or_else(|err| panic!("{}: nft: {err}", self.host.name()));
    }

    /// Lets UDP through again, after [`Self::block_udp`].
    #[track_caller]
    pub fn unblock_udp(&self) {
        self.host.run("nft delete table inet no-udp");
    }

    /// Its external IPv4 address.
    ///
    /// # Panics
    /// When it has no outside yet.
    #[track_caller]
    pub fn external(&self) -> Ipv4Addr {
        self.wan
            .as_ref()
            .map(|wan| wan.v4)
            .expect("a router has an external address once it is online or behind another")
    }

    /// The namespace it lives in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn lan4(&self, last: u8) -> Ipv4Addr {
        let network = u8::try_from(self.network).expect("a lab has fewer than 256 networks");
        Ipv4Addr::new(192, 168, network, last)
    }
}

/// The rules of one box, for `nft -f -`.
fn rules(nat: &NatBox, external: Ipv4Addr, lan: &str) -> String {
    let (mut maps, mut learn, mut inward, mut outward) =
        (String::new(), Vec::new(), Vec::new(), Vec::new());
    let ports = || {
        let port = |n: u32| format!("{n} : {external} . {}", FIRST_PORT + n);
        (0..PORTS).map(port).collect::<Vec<_>>().join(", ")
    };
    // A map that the outgoing packets themselves fill, and that the incoming ones are looked up in.
    let mut learned = |name: &str, key: &str, on_way_out: &str| {
        maps.push_str(&format!(
            "map {name} {{\ntype {key} : ipv4_addr . inet_service\nflags dynamic,timeout\ntimeout 60s\nsize 65535\n}}\n"
        ));
        learn.push(format!(
            "oifname wan meta l4proto udp ip saddr {lan} update @{name} {{ {on_way_out} timeout 60s : ip saddr . udp sport }}"
        ));
    };
    match nat.nat {
        Nat::None | Nat::PortRestricted => {}
        Nat::PortChanging => outward.push(format!(
            "oifname wan meta l4proto udp snat ip addr . port to jhash ip saddr . udp sport mod {PORTS} map {{ {} }}",
            ports()
        )),
        Nat::AddressDependent => outward.push(format!(
            "oifname wan meta l4proto udp snat ip addr . port to jhash ip saddr . udp sport . ip daddr mod {PORTS} map {{ {} }}",
            ports()
        )),
        Nat::SymmetricSequential => outward.push(format!(
            "oifname wan meta l4proto udp snat ip addr . port to numgen inc mod {PORTS} map {{ {} }}",
            ports()
        )),
        Nat::SymmetricRandom => outward.push("oifname wan meta l4proto { tcp, udp } masquerade fully-random".into()),
        Nat::FullCone => {
            learned("cone", "inet_service", "udp sport");
            inward.push(format!(
                "iifname wan ip daddr {external} meta l4proto udp dnat ip addr . port to udp dport map @cone"
            ));
        }
        Nat::Restricted => {
            learned("known", "ipv4_addr . inet_service", "ip daddr . udp sport");
            inward.push(format!(
                "iifname wan ip daddr {external} meta l4proto udp dnat ip addr . port to ip saddr . udp dport map @known"
            ));
        }
    }
    if nat.hairpin == Hairpin::On {
        learned("turned", "inet_service", "udp sport");
        inward.push(format!(
            "iifname lan ip daddr {external} meta l4proto udp dnat ip addr . port to udp dport map @turned"
        ));
        outward.insert(
            0,
            format!("iifname lan oifname lan ct status dnat snat to {external}"),
        );
    }
    if nat.nat != Nat::None {
        outward.push("oifname wan masquerade".into());
    }
    let mut forward: Vec<String> = Vec::new();
    match nat.udp {
        Udp::Open => {}
        Udp::Blocked => forward.push("iifname lan oifname wan meta l4proto udp drop".into()),
        Udp::BlockedAndTcp443Only => forward.extend([
            "iifname lan oifname wan meta l4proto udp drop".into(),
            "iifname lan oifname wan tcp dport != 443 reject with tcp reset".into(),
        ]),
    }
    forward.extend([
        "ct state established,related accept".into(),
        "iifname lan accept".into(),
        "ct status dnat accept".into(),
    ]);
    let input = match nat.wan_input {
        WanInput::Open => None,
        WanInput::Drop => Some("drop"),
        WanInput::Reject => Some("reject"),
    };
    let input = input.map(|verdict| format!("iifname wan meta l4proto udp {verdict}"));
    let input: Vec<String> = ["ct state established,related accept".to_owned()]
        .into_iter()
        .chain(input)
        .collect();
    let chain = |name: &str, hook: &str, body: &[String]| {
        format!("chain {name} {{\ntype {hook}\n{}\n}}\n", body.join("\n"))
    };
    [
        "table ip nat {\n".into(),
        maps,
        // A filter chain right before source translation: it still sees the inner address.
        chain("learn", "filter hook postrouting priority 90;", &learn),
        chain("inward", "nat hook prerouting priority -100;", &inward),
        chain("outward", "nat hook postrouting priority 100;", &outward),
        "}\ntable inet firewall {\n".into(),
        chain(
            "forward",
            "filter hook forward priority 0; policy drop;",
            &forward,
        ),
        chain(
            "input",
            "filter hook input priority 0; policy accept;",
            &input,
        ),
        "}\n".into(),
    ]
    .concat()
}
