//! Text without what tells who and where somebody is. The same thing always gets the same stand-in, so that the text still makes sense.
//!
//! | what | stand-in |
//! |---|---|
//! | this node: its name and the host's, its key, its PeerId, its `/64` | `self`, `key-of-self`, `id-of-self`, `self::1` |
//! | a peer or a stock device | `peer-1`, `key-of-peer-1`, `id-of-peer-1`, `peer-1::1` |
//! | other keys, PeerIds and overlay addresses | `key-1`, `id-1`, `node-1::1` |
//! | public addresses, link-local ones, Ethernet addresses | `ipv4-1`, `ipv6-1`, `link-local-1`, `mac-1` |
//! | host names, other names | `host-1`, `name-1` |
//! | 32 or more hexadecimal digits | `[digits]` |
//!
//! Private and loopback addresses, ports, and what is the same on every machine stay. A [`Redactor`] does not look at the machine: it is
//! told whom there is to know, and finds everything else by its shape.

mod find;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use serde_json::Value;
use wireguard::PublicKey;

use crate::identity::{NodeId, overlay};

/// What a text keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detail {
    /// Nothing that tells who or where somebody is.
    Redacted,
    /// Everything but keys that are not known to be public.
    Full,
}

/// Who is called by a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// This node.
    Own,
    /// Another node.
    Peer,
    /// A stock WireGuard device.
    Device,
    /// Something else that has a name here.
    Other,
}

/// Remembers what it has replaced by what. Grows with what it is told and with what it finds.
#[derive(Debug)]
pub struct Redactor {
    detail: Detail,
    /// Names and host names as they are written.
    words: BTreeMap<String, String>,
    /// Public keys and PeerIds that are known, as text.
    keys: BTreeMap<String, String>,
    /// The upper halves of the overlay addresses of known nodes.
    nodes: BTreeMap<u64, String>,
    /// Everything that was found by its shape, by kind.
    found: BTreeMap<(&'static str, String), String>,
    counts: BTreeMap<&'static str, usize>,
}

/// Part of a text on its way through the passes.
enum Piece {
    /// To be looked at.
    Raw(String),
    /// Looked at: a stand-in, or something that stays.
    Done(String),
}

/// Looks for the first thing at or after an offset: where it stands, and what comes in its place.
type Find = fn(&mut Redactor, &str, usize) -> Option<(Range<usize>, String)>;

/// What a quotation may say without being anybody's secret: our threads.
const OWN_QUOTES: [&str; 4] = ["inside", "outside", "node", "handshake"];
/// Fields of JSON whose values are words of ours.
const OWN_FIELDS: [&str; 6] = ["schema", "kind", "code", "version", "origin", "level"];
/// Fields of the configuration that name a place on this machine.
const PLACES: [&str; 2] = ["state_dir", "socket"];
/// Fields of the configuration whose values are one of a few words.
const CHOICES: [&str; 8] = [
    "relay", "trust", "dht", "inbound", "default", "level", "format", "mode",
];
/// Words of the configuration's other values that say nothing about anybody: protocols, and defaults.
const PLAIN: [&str; 19] = [
    "ip4", "ip6", "dns", "dns4", "dns6", "tcp", "udp", "quic-v1", "p2p", "internal", "icmp", "any",
    "member", "tag", "peer", "leaf", "workload", "key", "node",
];
/// In front of a stand-in: its key.
const KEY_OF: &str = "key-of-";

impl Redactor {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(detail: Detail) -> Self {
        Self {
            detail,
            words: BTreeMap::new(),
            keys: BTreeMap::new(),
            nodes: BTreeMap::new(),
            found: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Takes note of somebody. Whoever is known by key or by name already keeps the stand-in.
    pub fn know(&mut self, who: Who, name: Option<&str>, key: Option<&PublicKey>) {
        // A peer without a name is called by its address, which needs no note.
        let name = name.filter(|name| !name.is_empty() && name.parse::<IpAddr>().is_err());
        let by_key = key.and_then(|key| self.keys.get(&key.to_string())?.strip_prefix(KEY_OF));
        let by_name = || Some(self.words.get(name?)?.as_str());
        let stand_in = match by_key.or_else(by_name) {
            Some(known) => known.to_owned(),
            None => match who {
                Who::Own => "self".to_owned(),
                Who::Peer => self.number("peer"),
                Who::Device => self.number("device"),
                Who::Other => self.number("name"),
            },
        };
        if let Some(key) = key {
            self.keys
                .insert(key.to_string(), format!("{KEY_OF}{stand_in}"));
            if let Ok(node) = NodeId::from_public_key(key) {
                self.keys
                    .insert(node.peer_id(), format!("id-of-{stand_in}"));
                self.nodes.insert(upper(node.address()), stand_in.clone());
            }
        }
        if let Some(name) = name {
            self.words.entry(name.to_owned()).or_insert(stand_in);
        }
    }

    /// Takes note of the host of a `host:port` as somebody wrote it; the daemon writes it in lower case.
    pub fn know_endpoint(&mut self, endpoint: &str) {
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        let host = host.trim_end_matches('.');
        if host.is_empty() || host.starts_with('[') || host.parse::<IpAddr>().is_ok() {
            return;
        }
        let lower = host.to_lowercase();
        let stand_in = self.stand_in("host", &lower);
        for host in [host.to_owned(), lower] {
            self.words.entry(host).or_insert_with(|| stand_in.clone());
        }
    }

    /// Takes note of a word that stays although it is somebody's choice.
    pub fn keep(&mut self, word: &str) {
        self.words.insert(word.to_owned(), word.to_owned());
    }

    /// What a program or the kernel printed.
    pub fn text(&mut self, text: &str) -> String {
        join(self.pieces(text, &[&SHAPES]))
    }

    /// What the log says, a warning, an error: it may also hold names of which nobody told us.
    pub fn prose(&mut self, text: &str) -> String {
        self.quoting(text, &['`'])
    }

    /// What is wrong with a configuration: what it quotes may be anything that somebody typed.
    pub fn fault(&mut self, text: &str) -> String {
        self.quoting(text, &['`', '"'])
    }

    /// Every string of an answer of the daemon.
    pub fn json(&mut self, value: &mut Value) {
        self.walk(value, "", &mut |redactor, field, text| {
            if OWN_FIELDS.contains(&field) {
                text.to_owned()
            } else {
                redactor.prose(text)
            }
        });
    }

    /// Every string of a configuration. What is neither replaced nor known to be harmless is left out.
    pub fn config(&mut self, value: &mut Value) {
        self.walk(value, "", &mut |redactor, field, text| {
            if redactor.detail == Detail::Full || PLACES.contains(&field) {
                redactor.text(text)
            } else if CHOICES.contains(&field) {
                text.to_owned()
            } else {
                redactor.value(text)
            }
        });
    }

    fn walk(
        &mut self,
        value: &mut Value,
        field: &str,
        replace: &mut impl FnMut(&mut Self, &str, &str) -> String,
    ) {
        match value {
            Value::String(text) => *text = replace(self, field, text),
            Value::Array(items) => {
                for item in items {
                    self.walk(item, field, replace);
                }
            }
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.walk(value, field, replace);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn value(&mut self, text: &str) -> String {
        let is_plain =
            |word: &str| word.bytes().all(|byte| byte.is_ascii_digit()) || PLAIN.contains(&word);
        let mut out = String::new();
        for piece in self.pieces(text, &[&SHAPES]) {
            let raw = match piece {
                Piece::Done(text) => {
                    out += &text;
                    continue;
                }
                Piece::Raw(raw) => raw,
            };
            let mut from = 0;
            while let Some(word) =
                find::run(&raw, from, |c| c.is_alphanumeric() || "_-".contains(c))
            {
                out += &raw[from..word.start];
                let text = &raw[word.clone()];
                out += if is_plain(text) { text } else { "…" };
                from = word.end;
            }
            out += &raw[from..];
        }
        out
    }

    /// What stands between two equal marks is replaced whole, unless something in it was or it is ours.
    fn quoting(&mut self, text: &str, marks: &[char]) -> String {
        if self.detail == Detail::Full {
            return self.text(text);
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(marks) {
            let mark = rest[start..].chars().next().unwrap_or_default();
            let (before, after) = (&rest[..start], &rest[start + mark.len_utf8()..]);
            let Some(end) = after.find(mark) else { break };
            out += &join(self.pieces(before, &[&SHAPES, &PROSE]));
            let quoted = &after[..end];
            let told = join(self.pieces(quoted, &[&SHAPES, &PROSE]));
            out.push(mark);
            out += if told == quoted && !OWN_QUOTES.contains(&quoted) && !quoted.is_empty() {
                "…"
            } else {
                &told
            };
            out.push(mark);
            rest = &after[end + mark.len_utf8()..];
        }
        out + &join(self.pieces(rest, &[&SHAPES, &PROSE]))
    }

    fn pieces(&mut self, text: &str, passes: &[&[Find]]) -> Vec<Piece> {
        let secrets: &[&[Find]] = &[&SECRETS];
        let passes = match self.detail {
            Detail::Redacted => passes,
            Detail::Full => secrets,
        };
        let mut pieces = vec![Piece::Raw(text.to_owned())];
        for pass in passes.iter().copied().flatten() {
            let mut next = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Raw(raw) => self.pass(&raw, *pass, &mut next),
                    done @ Piece::Done(_) => next.push(done),
                }
            }
            pieces = next;
        }
        pieces
    }

    fn pass(&mut self, raw: &str, pass: Find, out: &mut Vec<Piece>) {
        let mut from = 0;
        while let Some((span, stand_in)) = pass(self, raw, from) {
            if span.start > from {
                out.push(Piece::Raw(raw[from..span.start].to_owned()));
            }
            out.push(Piece::Done(stand_in));
            from = span.end;
        }
        if from < raw.len() {
            out.push(Piece::Raw(raw[from..].to_owned()));
        }
    }

    /// The stand-in of something that was found by its shape.
    fn stand_in(&mut self, kind: &'static str, thing: &str) -> String {
        let of = (kind, thing.to_owned());
        if let Some(known) = self.found.get(&of) {
            return known.clone();
        }
        let stand_in = self.number(kind);
        self.found.insert(of, stand_in.clone());
        stand_in
    }

    fn number(&mut self, kind: &'static str) -> String {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        format!("{kind}-{count}")
    }

    /// An address as it may be shown.
    fn address(&mut self, address: IpAddr) -> String {
        match address {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                let is_shared = first == 100 && (64..128).contains(&second);
                if v4.is_private()
                    || v4.is_loopback()
                    || v4.is_unspecified()
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || first >= 240
                    || is_shared
                {
                    v4.to_string()
                } else {
                    self.stand_in("ipv4", &v4.to_string())
                }
            }
            IpAddr::V6(v6) => {
                if let Some(v4) = v6.to_ipv4_mapped() {
                    format!("::ffff:{}", self.address(v4.into()))
                } else if overlay().contains(v6) {
                    self.overlay_address(v6)
                } else if v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unique_local()
                {
                    v6.to_string()
                } else if v6.is_unicast_link_local() {
                    // Its lower half may be an Ethernet address.
                    self.stand_in("link-local", &v6.to_string())
                } else {
                    self.stand_in("ipv6", &v6.to_string())
                }
            }
        }
    }

    fn overlay_address(&mut self, address: Ipv6Addr) -> String {
        if address == overlay().network() {
            return address.to_string();
        }
        let node = match self.nodes.get(&upper(address)) {
            Some(node) => node.clone(),
            None => self.stand_in("node", &format!("{:x}", upper(address))),
        };
        match (address.to_bits() & u128::from(u64::MAX)) as u64 {
            0 => format!("{node}::"),
            small @ ..0x1_0000 => format!("{node}::{small:x}"),
            leaf => format!("{node}::{}", self.stand_in("leaf", &format!("{leaf:x}"))),
        }
    }
}

/// In every text, secrets first: what they are must not be mistaken for something harmless.
const SHAPES: [Find; 8] = [
    find::key,
    find::digits,
    find::peer_id,
    find::mac,
    find::ipv6,
    find::ipv4,
    find::home,
    find::word,
];
/// In prose, after those.
const PROSE: [Find; 3] = [find::named_field, find::domain, find::host_and_port];
/// In a full text.
const SECRETS: [Find; 2] = [find::key, find::digits];

fn join(pieces: Vec<Piece>) -> String {
    pieces
        .into_iter()
        .map(|(Piece::Raw(text) | Piece::Done(text))| text)
        .collect()
}

/// The half of an address that names the node.
fn upper(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests;
