//! Which addresses may be dialled, told to others, or believed: pure rules.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnetwork::IpNetwork;

/// Ports below this are services of somebody else, unless our own configuration says otherwise.
const FIRST_PORT: u16 = 1024;
/// Addresses that our own configuration named, kept at most.
const MAX_TRUSTED: usize = 4096;

/// Why an address is left alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Of the overlay, of a prefix announced in it, or of a tunnel of ours: the control plane would run in what it is to set up.
    #[error("inside the overlay or a tunnel")]
    Overlay,
    /// Unspecified, multicast, broadcast, or reserved.
    #[error("no unicast address")]
    NotUnicast,
    /// This machine itself.
    #[error("loopback")]
    Loopback,
    /// Private, shared or link-local, and not of a network that we are in.
    #[error("private, of a network that this machine is not in")]
    Private,
    /// Port 0, or one below 1024 that nobody but a stranger names.
    #[error("a port that no node uses")]
    Port,
}

/// Whether nodes on one machine may find each other by its loopback addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Loopback {
    /// No, as between machines.
    #[default]
    Refused,
    /// Yes: tests have whole networks on one machine.
    Allowed,
}

/// What decides about an address. An address named by our own configuration may be private and have any port; no configuration
/// can make an overlay address dialled.
#[derive(Clone, Debug, Default)]
pub struct Hygiene {
    refused: Vec<IpNetwork>,
    shared: Vec<IpNetwork>,
    trusted: BTreeSet<SocketAddr>,
    loopback: Loopback,
}

impl Hygiene {
    /// Rules that refuse what lies in these networks.
    #[must_use]
    pub fn new(refused: Vec<IpNetwork>, loopback: Loopback) -> Self {
        Self {
            refused,
            loopback,
            ..Self::default()
        }
    }

    /// Says which networks the overlay and our tunnels have, and which ones of the underlay this machine is in.
    pub fn set_networks(&mut self, refused: Vec<IpNetwork>, shared: Vec<IpNetwork>) {
        self.refused = refused;
        self.shared = shared;
    }

    /// Takes the word of our own configuration for these addresses.
    pub fn trust(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        for address in addresses {
            if self.trusted.len() < MAX_TRUSTED {
                self.trusted.insert(canonical(address));
            }
        }
    }

    /// Whether something may be sent there.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: SocketAddr) -> Result<(), Refused> {
        let address = canonical(address);
        let ip = address.ip();
        self.check_peer(ip)?;
        if address.port() == 0 {
            return Err(Refused::Port);
        }
        if is_no_unicast(ip) {
            return Err(Refused::NotUnicast);
        }
        if ip.is_loopback() && self.loopback == Loopback::Refused {
            return Err(Refused::Loopback);
        }
        if self.trusted.contains(&address) {
            return Ok(());
        }
        if is_private(ip) && !self.is_shared(ip) {
            return Err(Refused::Private);
        }
        if address.port() < FIRST_PORT {
            return Err(Refused::Port);
        }
        Ok(())
    }

    /// Whether somebody may call from there, or call us there.
    ///
    /// # Errors
    /// [`Refused::Overlay`].
    pub fn check_peer(&self, ip: IpAddr) -> Result<(), Refused> {
        let ip = ip.to_canonical();
        if self.refused.iter().any(|network| network.contains(ip)) {
            return Err(Refused::Overlay);
        }
        Ok(())
    }

    /// Whether an address of ours is one that others may be told: no overlay address, and none that means somebody else elsewhere.
    #[must_use]
    pub fn is_told(&self, ip: IpAddr) -> bool {
        let is_own = ip.is_loopback() && self.loopback == Loopback::Refused;
        let is_of_link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        self.check_peer(ip).is_ok() && !is_own && !is_of_link
    }

    /// Whether an address is of a network that this machine is in.
    #[must_use]
    pub fn is_shared(&self, ip: IpAddr) -> bool {
        self.shared.iter().any(|network| network.contains(ip))
    }
}

/// Whether an address may stand in a record that anybody can read: of the Internet, with a port of a node.
#[must_use]
pub fn is_public(address: SocketAddr) -> bool {
    let ip = address.ip();
    !is_no_unicast(ip) && !ip.is_loopback() && !is_private(ip) && address.port() != 0
}

/// The network that counts as one party when strangers are limited: the /24 of an IPv4 address, the /48 of an IPv6 address.
#[must_use]
pub fn party(ip: IpAddr) -> IpNetwork {
    network(ip, 24, 48)
}

/// The network that counts as one provider: the /16 of an IPv4 address, the /32 of an IPv6 address.
#[must_use]
pub fn provider(ip: IpAddr) -> IpNetwork {
    network(ip, 16, 32)
}

/// The network that counts as one host: an IPv4 address, the /64 of an IPv6 address.
#[must_use]
pub fn host(ip: IpAddr) -> IpNetwork {
    network(ip, 32, 64)
}

fn network(ip: IpAddr, v4: u8, v6: u8) -> IpNetwork {
    let (ip, length) = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4)).unwrap_or(0);
            (Ipv4Addr::from_bits(ip.to_bits() & mask).into(), v4)
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6)).unwrap_or(0);
            (Ipv6Addr::from_bits(ip.to_bits() & mask).into(), v6)
        }
    };
    IpNetwork::new(ip, length).expect("the lengths above are those of their families")
}

/// Without an IPv4 address hidden in an IPv6 one.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn is_no_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.octets()[0] >= 224,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    }
}

/// Private (RFC 1918), shared (RFC 6598), unique local (RFC 4193), or link-local.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || ip.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn rules() -> Hygiene {
        let mut rules = Hygiene::default();
        rules.set_networks(
            vec!["600::/8".parse().unwrap(), "fd99::/64".parse().unwrap()],
            vec![
                "192.168.7.0/24".parse().unwrap(),
                "fd77:1::/64".parse().unwrap(),
            ],
        );
        rules.trust([at("10.1.1.1:443"), at("[600::1]:51861")]);
        rules
    }

    #[test]
    fn what_is_dialled_is_unicast_and_outside_of_every_tunnel() {
        let rules = rules();
        let verdicts = [
            ("203.0.113.7:51861", Ok(())),
            ("[2001:db8::7]:51861", Ok(())),
            ("203.0.113.7:0", Err(Refused::Port)),
            ("203.0.113.7:443", Err(Refused::Port)),
            ("127.0.0.1:51861", Err(Refused::Loopback)),
            ("[::1]:51861", Err(Refused::Loopback)),
            ("[::ffff:127.0.0.1]:51861", Err(Refused::Loopback)),
            ("0.0.0.0:51861", Err(Refused::NotUnicast)),
            ("[::]:51861", Err(Refused::NotUnicast)),
            ("224.0.0.251:5353", Err(Refused::NotUnicast)),
            ("255.255.255.255:9999", Err(Refused::NotUnicast)),
            ("[ff02::1]:51861", Err(Refused::NotUnicast)),
            ("[6a3:1::1]:51861", Err(Refused::Overlay)),
            ("[fd99::5]:51861", Err(Refused::Overlay)),
            ("10.0.0.9:51861", Err(Refused::Private)),
            ("100.64.0.9:51861", Err(Refused::Private)),
            ("169.254.169.254:8080", Err(Refused::Private)),
            ("[fd00::9]:51861", Err(Refused::Private)),
            ("[fe80::9]:51861", Err(Refused::Private)),
            ("192.168.7.9:51861", Ok(())),
            ("192.168.7.9:22", Err(Refused::Port)),
            ("[fd77:1::9]:51861", Ok(())),
        ];
        for (address, verdict) in verdicts {
            assert_eq!(rules.check(at(address)), verdict, "{address}");
        }
    }

    #[test]
    fn our_configuration_is_believed_but_never_about_the_overlay() {
        let rules = rules();
        assert_eq!(rules.check(at("10.1.1.1:443")), Ok(()));
        assert_eq!(rules.check(at("10.1.1.1:444")), Err(Refused::Private));
        assert_eq!(rules.check(at("[600::1]:51861")), Err(Refused::Overlay));
    }

    #[test]
    fn parties_and_providers_are_networks() {
        let networks = |ip: &str| {
            let ip = ip.parse().unwrap();
            [host(ip), party(ip), provider(ip)].map(|network| network.to_string())
        };
        assert_eq!(
            networks("198.51.100.9"),
            ["198.51.100.9/32", "198.51.100.0/24", "198.51.0.0/16"]
        );
        assert_eq!(
            networks("2001:db8:1:2::3"),
            ["2001:db8:1:2::/64", "2001:db8:1::/48", "2001:db8::/32"]
        );
        assert_eq!(networks("::ffff:198.51.100.9")[1], "198.51.100.0/24");
    }
}
