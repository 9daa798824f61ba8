//! Where a node's libp2p port is, and which of them are worth remembering.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::{NodeKey, hygiene::provider};

/// Contacts that are remembered over a restart.
pub const MAX_CONTACTS: usize = 64;

/// How a node's libp2p port is spoken to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Carrier {
    /// TCP.
    Tcp,
    /// QUIC, version 1.
    Quic,
}

/// A node's libp2p port.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Contact {
    /// Who it is.
    pub key: NodeKey,
    /// Where the port is.
    pub at: SocketAddr,
    /// How it is spoken to.
    pub carrier: Carrier,
}

impl Contact {
    /// The address without the PeerId.
    pub(crate) fn address(&self) -> Multiaddr {
        let ip = match self.at.ip() {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        };
        let address = Multiaddr::empty().with(ip);
        match self.carrier {
            Carrier::Tcp => address.with(Protocol::Tcp(self.at.port())),
            Carrier::Quic => address
                .with(Protocol::Udp(self.at.port()))
                .with(Protocol::QuicV1),
        }
    }

    /// A node at a direct address; nothing for circuits, names, and transports that are not ours.
    pub(crate) fn new(key: NodeKey, address: &Multiaddr) -> Option<Self> {
        let (at, carrier) = split(address)?;
        Some(Self { key, at, carrier })
    }
}

/// Socket address and transport of a direct address, with or without a PeerId behind.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "libp2p knows many protocols, and only those named here are ours"
)]
pub(crate) fn split(address: &Multiaddr) -> Option<(SocketAddr, Carrier)> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (port, carrier) = match parts.next()? {
        Protocol::Tcp(port) => (port, Carrier::Tcp),
        Protocol::Udp(port) => match parts.next()? {
            Protocol::QuicV1 => (port, Carrier::Quic),
            _ => return None,
        },
        _ => return None,
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some((SocketAddr::new(ip, port), carrier)),
        _ => None,
    }
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::P2pCircuit))
}

/// The last good address of the nodes that were dialled, of mixed providers: one network's outage, or capture, leaves the others.
#[derive(Clone, Debug, Default)]
pub struct Contacts {
    /// By node; the number grows with every time that one was good.
    good: BTreeMap<NodeKey, (u64, Contact)>,
    next: u64,
}

impl Contacts {
    /// Those of the last run, best last.
    #[must_use]
    pub fn new(contacts: impl IntoIterator<Item = Contact>) -> Self {
        let mut fresh = Self::default();
        for contact in contacts {
            fresh.note(contact);
        }
        fresh
    }

    /// This one answered. Where there are too many, the one that was good longest ago goes, of the provider that has most of them.
    /// Returns whether there is something new to remember.
    pub fn note(&mut self, contact: Contact) -> bool {
        self.next += 1;
        let old = self.good.insert(contact.key, (self.next, contact));
        if self.good.len() > MAX_CONTACTS {
            let mut counts: BTreeMap<_, usize> = BTreeMap::new();
            for (_, contact) in self.good.values() {
                *counts.entry(provider(contact.at.ip())).or_default() += 1;
            }
            let worst = self.good.values().max_by_key(|(number, contact)| {
                let crowd = counts.get(&provider(contact.at.ip()));
                (crowd.copied(), std::cmp::Reverse(*number))
            });
            let worst = worst.map(|(_, contact)| contact.key);
            if let Some(worst) = worst {
                self.good.remove(&worst);
            }
        }
        old.is_none_or(|(_, old)| old != contact)
    }

    /// All of them, latest first.
    #[must_use]
    pub fn latest_first(&self) -> Vec<Contact> {
        let mut all: Vec<_> = self.good.values().copied().collect();
        all.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        all.into_iter().map(|(_, contact)| contact).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(n: u8, at: &str) -> Contact {
        Contact {
            key: NodeKey([n; 32]),
            at: at.parse().unwrap(),
            carrier: Carrier::Quic,
        }
    }

    #[test]
    fn addresses_are_read_back() {
        for carrier in [Carrier::Tcp, Carrier::Quic] {
            for at in ["203.0.113.7:51861", "[2001:db8::7]:51861"] {
                let contact = Contact {
                    carrier,
                    ..contact(1, at)
                };
                let address = contact.address();
                assert_eq!(Contact::new(contact.key, &address), Some(contact));
            }
        }
    }

    #[test]
    fn circuits_and_names_are_no_contacts() {
        let peer = "12D3KooWQcwLALg9c91J6vDqVzYsNJpfZp5Ry6u9KVNMf5HUaH5T";
        let circuit: Multiaddr = format!("/ip4/203.0.113.7/tcp/1/p2p/{peer}/p2p-circuit")
            .parse()
            .unwrap();
        assert!(is_circuit(&circuit));
        let name = "/dns4/vps1.example.org/tcp/51861".parse().unwrap();
        let other = "/ip4/203.0.113.7/udp/51861".parse().unwrap();
        for address in [circuit, name, other] {
            assert_eq!(split(&address), None, "{address}");
        }
    }

    #[test]
    fn one_provider_does_not_displace_the_others() {
        let mut contacts = Contacts::default();
        for n in 0..8 {
            contacts.note(contact(n, &format!("11.{n}.1.1:9000")));
        }
        for n in 8..200 {
            contacts.note(contact(n, &format!("99.1.{n}.1:9000")));
        }
        let all = contacts.latest_first();
        assert_eq!(all.len(), MAX_CONTACTS);
        let others = all.iter().filter(|contact| contact.key.0[0] < 8);
        assert_eq!(others.count(), 8);
        assert_eq!(all[0].key.0[0], 199);
    }

    #[test]
    fn the_same_again_is_nothing_new() {
        let mut contacts = Contacts::default();
        assert!(contacts.note(contact(1, "11.1.1.1:9000")));
        assert!(!contacts.note(contact(1, "11.1.1.1:9000")));
        assert!(contacts.note(contact(1, "11.1.1.2:9000")));
    }
}
