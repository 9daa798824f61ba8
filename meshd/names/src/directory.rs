//! All that has a name, as a snapshot.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    net::Ipv6Addr,
};

use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use hickory_proto::rr::Name;
use ipnetwork::Ipv6Network;

/// The label before the domain under which nodes are called by their keys.
const BY_KEY: &str = "id";
/// The reverse zone of the overlay block, `0600::/8`.
const REVERSE: &str = "6.0.ip6.arpa.";
/// First byte of every address of the overlay.
const OVERLAY_BYTE: u8 = 0x06;
/// Nibbles of an address.
const NIBBLES: usize = 32;
/// Those that the reverse zone has in common.
const ZONE_NIBBLES: usize = 2;

/// How addresses follow from keys and names.
#[derive(Clone, Copy, Debug)]
pub struct Derivation {
    /// The /64 of the node with this WireGuard public key; none if no node may have it.
    pub node: fn(&[u8; 32]) -> Option<Ipv6Network>,
    /// The address of the workload with this name on the node with this prefix.
    pub workload: fn(Ipv6Network, &str) -> Ipv6Addr,
}

/// Why there cannot be a directory under these names.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// The domain is not a name in DNS, or leaves no room for names in it.
    #[error("`{0}` cannot be the domain of a mesh's names")]
    Domain(String),
    /// The network's name is no label.
    #[error("`{0}` cannot be the name of a network in DNS")]
    Network(String),
}

/// A snapshot of all that has a name.
#[derive(Clone)]
pub struct Directory {
    /// `NET.DOMAIN`
    zone: Name,
    /// `id.DOMAIN`
    by_key: Name,
    /// Of the overlay block.
    reverse: Name,
    derivation: Derivation,
    nodes: BTreeMap<String, Node>,
    by_address: BTreeMap<Ipv6Addr, Name>,
}

#[derive(Clone, Debug)]
struct Node {
    prefix: Ipv6Network,
    inside: Inside,
}

/// What is called by a name below a node's.
#[derive(Clone, Debug)]
enum Inside {
    /// These, and nothing else: it is this node.
    Listed(BTreeMap<String, Ipv6Addr>),
    /// Workloads with any name: it is another node.
    Derived,
}

/// What there is under a name of a zone.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Found<'a> {
    /// Something with this address.
    Address(Ipv6Addr),
    /// The name of an address.
    Pointer(&'a Name),
    /// The zone itself.
    Apex,
    /// Nothing, but there are names below it.
    Empty,
    /// Nothing at all.
    Nothing,
}

impl Directory {
    /// Longest domain, in bytes of text: the longest three labels fit before it (RFC 1035 §2.3.4).
    const MAX_DOMAIN: usize = 253 - 3 * 64;

    /// A directory without nodes, of the network `network` under `domain`.
    ///
    /// # Errors
    /// [`NameError`]: these make no names.
    pub fn new(domain: &str, network: &str, derivation: Derivation) -> Result<Self, NameError> {
        let bad_domain = || NameError::Domain(domain.to_owned());
        let labels = domain.strip_suffix('.').unwrap_or(domain).split('.');
        if domain.len() > Self::MAX_DOMAIN || !labels.clone().all(is_label) {
            return Err(bad_domain());
        }
        let domain = Name::from_labels(labels.map(str::as_bytes)).map_err(|_| bad_domain())?;
        if !is_label(network) {
            return Err(NameError::Network(network.to_owned()));
        }
        let zone = domain.prepend_label(network).map_err(|_| bad_domain())?;
        let by_key = domain.prepend_label(BY_KEY).map_err(|_| bad_domain())?;
        Ok(Self {
            zone,
            by_key,
            reverse: Name::from_ascii(REVERSE).map_err(|_| bad_domain())?,
            derivation,
            nodes: BTreeMap::new(),
            by_address: BTreeMap::new(),
        })
    }

    /// Adds this node, with what it has inside: workloads and stock devices, by name. What is no label, or is there already, is left out.
    pub fn add_own(
        &mut self,
        name: &str,
        prefix: Ipv6Network,
        inside: impl IntoIterator<Item = (String, Ipv6Addr)>,
    ) {
        let mut listed = BTreeMap::new();
        for (below, address) in inside {
            if is_label(&below)
                && let btree_map::Entry::Vacant(vacant) = listed.entry(below)
            {
                if let Some(fqdn) = self.name_of(&[vacant.key(), name]) {
                    self.by_address.entry(address).or_insert(fqdn);
                }
                vacant.insert(address);
            }
        }
        self.insert(name, prefix, Inside::Listed(listed));
    }

    /// Adds another node. If the name is taken, its bearer keeps it; what is no label is left out.
    pub fn add_node(&mut self, name: &str, prefix: Ipv6Network) {
        self.insert(name, prefix, Inside::Derived);
    }

    fn insert(&mut self, name: &str, prefix: Ipv6Network, inside: Inside) {
        if !is_label(name) || self.nodes.contains_key(name) {
            return;
        }
        if let Some(fqdn) = self.name_of(&[name]) {
            let address = node_address(prefix);
            self.by_address.entry(address).or_insert(fqdn);
        }
        self.nodes.insert(name.to_owned(), Node { prefix, inside });
    }

    /// The name in this network with these labels before.
    fn name_of(&self, labels: &[&str]) -> Option<Name> {
        let labels = labels.iter().map(|label| label.as_bytes());
        Name::from_labels(labels.chain(self.zone.iter())).ok()
    }

    /// The zones, for whoever is to ask this node about them and nobody else.
    pub fn zones(&self) -> [String; 3] {
        [&self.zone, &self.by_key, &self.reverse].map(Name::to_ascii)
    }

    /// How many nodes have a name here.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node has a name here.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The zone that a name is in, and what there is under it; none if it is in no zone of ours.
    pub(crate) fn look_up(&self, name: &Name) -> Option<(&Name, Found<'_>)> {
        // The zone of keys before the network's, so that no network's name hides it.
        type Find = for<'a> fn(&'a Directory, &[&[u8]]) -> Found<'a>;
        let zones: [(&Name, Find); 3] = [
            (&self.by_key, |this, labels| found(this.by_key(labels))),
            (&self.zone, |this, labels| found(this.by_name(labels))),
            (&self.reverse, Self::by_nibbles),
        ];
        let (zone, labels, find) = zones
            .into_iter()
            .find_map(|(zone, find)| Some((zone, labels_before(name, zone)?, find)))?;
        let found = if labels.is_empty() {
            Found::Apex
        } else {
            find(self, &labels)
        };
        Some((zone, found))
    }

    fn by_name(&self, labels: &[&[u8]]) -> Option<Ipv6Addr> {
        let (node, below) = split(labels)?;
        let node = self.nodes.get(&node)?;
        match (below, &node.inside) {
            (None, _) => Some(node_address(node.prefix)),
            (Some(below), Inside::Listed(listed)) => listed.get(&below).copied(),
            (Some(below), Inside::Derived) => self.workload(node.prefix, &below),
        }
    }

    fn by_key(&self, labels: &[&[u8]]) -> Option<Ipv6Addr> {
        let (key, below) = split(labels)?;
        let prefix = (self.derivation.node)(&parse_key(&key)?)?;
        let own = self.nodes.values().find(|node| node.prefix == prefix);
        match (below, own.map(|node| &node.inside)) {
            (None, _) => Some(node_address(prefix)),
            (Some(below), Some(Inside::Listed(listed))) => listed.get(&below).copied(),
            (Some(below), Some(Inside::Derived) | None) => self.workload(prefix, &below),
        }
    }

    fn workload(&self, prefix: Ipv6Network, name: &str) -> Option<Ipv6Addr> {
        is_label(name).then(|| (self.derivation.workload)(prefix, name))
    }

    /// What there is under so many nibbles of an address, the last first.
    fn by_nibbles(&self, labels: &[&[u8]]) -> Found<'_> {
        let known = labels.len() + ZONE_NIBBLES;
        let mut bits = u128::from(OVERLAY_BYTE);
        for label in labels.iter().rev() {
            let digit = match label {
                [digit] => char::from(*digit).to_digit(16),
                _ => None,
            };
            let (Some(digit), true) = (digit, known <= NIBBLES) else {
                return Found::Nothing;
            };
            bits = bits << 4 | u128::from(digit);
        }
        let shift = (NIBBLES - known) * 4;
        let first = Ipv6Addr::from_bits(bits << shift);
        let last = Ipv6Addr::from_bits(bits << shift | ((1 << shift) - 1));
        match self.by_address.range(first..=last).next() {
            Some((_, name)) if known == NIBBLES => Found::Pointer(name),
            Some(_) => Found::Empty,
            None => Found::Nothing,
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("zone", &self.zone)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// Whether a text is a label of a host's name as it stands (RFC 1123 §2.1), in lower case.
pub fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What the node with this WireGuard public key is called in `id.DOMAIN`.
pub fn key_label(key: &[u8; 32]) -> String {
    BASE32_NOPAD.encode(key).to_ascii_lowercase()
}

/// The key that is written so; none if it is not written as [`key_label`] would.
fn parse_key(label: &str) -> Option<[u8; 32]> {
    let bytes = BASE32_NOPAD_NOCASE.decode(label.as_bytes()).ok()?;
    bytes.try_into().ok()
}

fn found(address: Option<Ipv6Addr>) -> Found<'static> {
    address.map_or(Found::Nothing, Found::Address)
}

/// The labels that a name has before those of a zone; none if it is not in the zone.
fn labels_before<'a>(name: &'a Name, zone: &Name) -> Option<Vec<&'a [u8]>> {
    let count = name.iter().count().checked_sub(zone.iter().count())?;
    let is_in = name
        .iter()
        .skip(count)
        .zip(zone.iter())
        .all(|(a, b)| a.eq_ignore_ascii_case(b));
    is_in.then(|| name.iter().take(count).collect())
}

/// The label of a node and the one below it, in lower case; none if there are more, or it is no text.
fn split(labels: &[&[u8]]) -> Option<(String, Option<String>)> {
    let text = |label: &[u8]| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase());
    match labels {
        [node] => Some((text(node)?, None)),
        [below, node] => Some((text(node)?, Some(text(below)?))),
        _ => None,
    }
}

/// A node's own address: the first of its prefix.
fn node_address(prefix: Ipv6Network) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.network().to_bits() | 1)
}
