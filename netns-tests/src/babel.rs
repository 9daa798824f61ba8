//! Babel packets (RFC 8966) and what meshd adds to them (docs/protocol.md), written and read without meshd's code: as a second
//! opinion, and for what meshd would never write.
//!
//! Writing knows no rules, so that everything wrong can be written too. Reading is strict: it is for packets of meshd, which has no
//! excuse.

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;
use sha2::{Digest as _, Sha256};

/// UDP port of both ends.
pub const PORT: u16 = 6696;
/// The group that all speakers of a link listen to.
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);
/// The metric of what cannot be reached.
pub const INFINITY: u16 = u16::MAX;
/// The type of the sub-TLV that proves an update's origin.
pub const PROOF: u8 = 112;
/// The type of the TLV with messages of meshd.
pub const EXTENSION: u8 = 224;

/// An address that is none, or a wildcard.
const AE_NONE: u8 = 0;
const AE_IPV6: u8 = 2;
const AE_LINK_LOCAL: u8 = 3;
const ACK_REQUEST: u8 = 2;
const ACK: u8 = 3;
const HELLO: u8 = 4;
const IHU: u8 = 5;
const ROUTER_ID: u8 = 6;
const NEXT_HOP: u8 = 7;
const UPDATE: u8 = 8;
const ROUTE_REQUEST: u8 = 9;
const SEQNO_REQUEST: u8 = 10;
const TIMESTAMP: u8 = 3;

/// A packet of these TLVs.
///
/// # Panics
/// When they are longer than a packet can be.
pub fn packet(tlvs: &[Vec<u8>]) -> Vec<u8> {
    let body = tlvs.concat();
    let length = u16::try_from(body.len()).expect("a packet has less than 64 KiB");
    let mut packet = vec![42, 2];
    packet.extend(length.to_be_bytes());
    packet.extend(body);
    packet
}

/// A TLV, or a sub-TLV: both have the same form.
///
/// # Panics
/// When the body has more than 255 bytes.
pub fn tlv(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("a TLV has at most 255 bytes");
    let mut tlv = vec![kind, length];
    tlv.extend(body);
    tlv
}

/// A Hello to everybody, with its own sub-TLVs; the interval is in hundredths of a second.
pub fn hello(seqno: u16, interval: u16, sub_tlvs: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(seqno.to_be_bytes());
    body.extend(interval.to_be_bytes());
    body.extend(sub_tlvs);
    tlv(HELLO, &body)
}

/// An IHU for a neighbour, with its own sub-TLVs; the interval is in hundredths of a second.
pub fn ihu(to: Ipv6Addr, rxcost: u16, interval: u16, sub_tlvs: &[u8]) -> Vec<u8> {
    let mut body = vec![AE_LINK_LOCAL, 0];
    body.extend(rxcost.to_be_bytes());
    body.extend(interval.to_be_bytes());
    body.extend(&to.octets()[8..]);
    body.extend(sub_tlvs);
    tlv(IHU, &body)
}

/// The times of a Hello (RFC 9616): when it was sent, in microseconds.
pub fn sent_at(time: u32) -> Vec<u8> {
    tlv(TIMESTAMP, &time.to_be_bytes())
}

/// The times of an IHU (RFC 9616): when the neighbour's last Hello was sent by its clock, and received by ours.
pub fn echo(origin: u32, received: u32) -> Vec<u8> {
    tlv(
        TIMESTAMP,
        &[origin.to_be_bytes(), received.to_be_bytes()].concat(),
    )
}

/// The origin of the updates that follow it.
pub fn router_id(id: [u8; 8]) -> Vec<u8> {
    tlv(ROUTER_ID, &[&[0, 0], &id[..]].concat())
}

/// Asks for an update about a prefix, or about everything.
pub fn route_request(prefix: Option<Ipv6Network>) -> Vec<u8> {
    let body = prefix.map_or_else(
        || vec![AE_NONE, 0],
        |prefix| [vec![AE_IPV6, prefix.prefix()], bytes_of(prefix)].concat(),
    );
    tlv(ROUTE_REQUEST, &body)
}

/// Asks for a seqno of a prefix that is at least this one.
pub fn seqno_request(prefix: Ipv6Network, seqno: u16, hops: u8, router_id: [u8; 8]) -> Vec<u8> {
    let mut body = vec![AE_IPV6, prefix.prefix()];
    body.extend(seqno.to_be_bytes());
    body.extend([hops, 0]);
    body.extend(router_id);
    body.extend(bytes_of(prefix));
    tlv(SEQNO_REQUEST, &body)
}

/// Asks for an acknowledgment within so many hundredths of a second.
pub fn ack_request(opaque: u16, interval: u16) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(opaque.to_be_bytes());
    body.extend(interval.to_be_bytes());
    tlv(ACK_REQUEST, &body)
}

/// Answers a request for an acknowledgment.
pub fn ack(opaque: u16) -> Vec<u8> {
    tlv(ACK, &opaque.to_be_bytes())
}

/// A message of meshd.
pub fn extension(body: &[u8]) -> Vec<u8> {
    tlv(EXTENSION, body)
}

/// Those bytes of a prefix that are not beyond its length.
fn bytes_of(prefix: Ipv6Network) -> Vec<u8> {
    let length = usize::from(prefix.prefix()).div_ceil(8);
    prefix.network().octets()[..length].to_vec()
}

/// A route, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// To where; none: everything that was announced, in a retraction.
    pub prefix: Option<Ipv6Network>,
    /// Whose.
    pub router_id: [u8; 8],
    /// The origin's.
    pub seqno: u16,
    /// The announcer's; [`INFINITY`] in a retraction.
    pub metric: u16,
    /// When it comes again, in hundredths of a second.
    pub interval: u16,
    /// What proves that the origin made the seqno.
    pub proof: Option<Proof>,
}

impl Update {
    /// A route that is announced again every 16 seconds.
    pub const fn new(prefix: Ipv6Network, router_id: [u8; 8], seqno: u16, metric: u16) -> Self {
        Self {
            prefix: Some(prefix),
            router_id,
            seqno,
            metric,
            interval: 1600,
            proof: None,
        }
    }

    /// The same with other proof, or none.
    #[must_use]
    pub fn proven_by(mut self, proof: Option<Proof>) -> Self {
        self.proof = proof;
        self
    }

    /// The Router-Id and the Update that say so, with further sub-TLVs.
    pub fn tlvs_with(&self, sub_tlvs: &[u8]) -> Vec<u8> {
        let mut body = self.prefix.map_or_else(
            || vec![AE_NONE, 0, 0, 0],
            |prefix| vec![AE_IPV6, 0, prefix.prefix(), 0],
        );
        body.extend(self.interval.to_be_bytes());
        body.extend(self.seqno.to_be_bytes());
        body.extend(self.metric.to_be_bytes());
        body.extend(self.prefix.map(bytes_of).unwrap_or_default());
        if let Some(proof) = &self.proof {
            body.extend(tlv(PROOF, &proof.bytes()));
        }
        body.extend(sub_tlvs);
        [router_id(self.router_id), tlv(UPDATE, &body)].concat()
    }

    /// The Router-Id and the Update that say so.
    pub fn tlvs(&self) -> Vec<u8> {
        self.tlvs_with(&[])
    }
}

/// What proves that an origin made a seqno (docs/protocol.md, Proof).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The origin's.
    pub epoch: u32,
    /// Of the level of the metric.
    pub element: [u8; 20],
}

impl Proof {
    fn bytes(&self) -> Vec<u8> {
        [&self.epoch.to_be_bytes()[..], &self.element].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (epoch, element) = bytes.split_first_chunk()?;
        Some(Self {
            epoch: u32::from_be_bytes(*epoch),
            element: element.try_into().ok()?,
        })
    }

    /// The proof for the next higher level than `level`, as anybody can make it who has the one for that level.
    #[must_use]
    pub fn above(&self, level: u16, router_id: [u8; 8], seqno: u16) -> Self {
        let hash = Sha256::new()
            .chain_update(b"meshd chain v1")
            .chain_update(router_id)
            .chain_update(self.epoch.to_be_bytes())
            .chain_update(seqno.to_be_bytes())
            .chain_update(level.to_be_bytes())
            .chain_update(self.element)
            .finalize();
        Self {
            epoch: self.epoch,
            element: element(&hash),
        }
    }
}

/// The first bytes of a hash.
pub(crate) fn element(hash: &[u8]) -> [u8; 20] {
    *hash.first_chunk().expect("a hash has 32 bytes")
}

/// A TLV of a packet that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tlv {
    /// Is to be answered.
    AckRequest {
        /// To be repeated.
        opaque: u16,
    },
    /// An answer.
    Ack {
        /// From the request.
        opaque: u16,
    },
    /// The neighbour is there.
    Hello {
        /// Whether it counts Hellos to one neighbour.
        is_unicast: bool,
        /// Counts Hellos.
        seqno: u16,
        /// When the next comes, in hundredths of a second; 0: nobody knows.
        interval: u16,
        /// When it was sent, in microseconds.
        sent: Option<u32>,
        /// The types of its sub-TLVs.
        sub_tlvs: Vec<u8>,
    },
    /// The neighbour hears somebody.
    Ihu {
        /// Whom; none: whoever reads it.
        to: Option<Ipv6Addr>,
        /// How well.
        rxcost: u16,
        /// The types of its sub-TLVs.
        sub_tlvs: Vec<u8>,
    },
    /// A route.
    Update(Update),
    /// Is to be answered by an update.
    RouteRequest(Option<Ipv6Network>),
    /// Is to be answered by an update with this seqno or a newer one.
    SeqnoRequest {
        /// Of which prefix.
        prefix: Ipv6Network,
        /// The least that will do.
        seqno: u16,
        /// How many more nodes may pass it on.
        hops: u8,
        /// Of which origin.
        router_id: [u8; 8],
    },
    /// A message of meshd.
    Extension(Vec<u8>),
    /// Something else, of that type.
    Other(u8),
}

impl Tlv {
    /// The update, if it is one.
    pub const fn update(&self) -> Option<&Update> {
        if let Self::Update(update) = self {
            Some(update)
        } else {
            None
        }
    }
}

/// Reads the payload of a datagram.
///
/// # Errors
/// What is wrong with it.
pub fn read(packet: &[u8]) -> Result<Vec<Tlv>, String> {
    let Some(([42, 2, high, low], body)) = packet.split_first_chunk() else {
        return Err(format!("no Babel packet: {packet:02x?}"));
    };
    if usize::from(u16::from_be_bytes([*high, *low])) != body.len() {
        return Err(format!("{} bytes in a packet of {high}, {low}", body.len()));
    }
    let mut state = State::default();
    let mut read = Vec::new();
    for (kind, body) in parts(body)? {
        let said = state
            .read(kind, body)
            .ok_or_else(|| format!("a TLV of type {kind} that makes no sense: {body:02x?}"))?;
        read.extend(said);
    }
    Ok(read)
}

/// Types and bodies of TLVs, or of sub-TLVs, without padding.
fn parts(mut rest: &[u8]) -> Result<Vec<(u8, &[u8])>, String> {
    const PAD1: u8 = 0;
    const PADN: u8 = 1;
    let mut parts = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        rest = after;
        if *kind == PAD1 {
            continue;
        }
        let cut = rest
            .split_first()
            .and_then(|(length, after)| after.split_at_checked(usize::from(*length)));
        let Some((body, after)) = cut else {
            return Err(format!("a TLV of type {kind} that runs past the end"));
        };
        rest = after;
        if *kind != PADN {
            parts.push((*kind, body));
        }
    }
    Ok(parts)
}

/// What a TLV leaves to those that follow it (RFC 8966 §4.5).
#[derive(Default)]
struct State {
    router_id: Option<[u8; 8]>,
    prefix: [u8; 16],
}

impl State {
    /// The outer `None`: it makes no sense; the inner: it says nothing by itself.
    fn read(&mut self, kind: u8, body: &[u8]) -> Option<Option<Tlv>> {
        let half = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        let sub_tlvs = |at: usize| parts(body.get(at..)?).ok();
        let kinds = |subs: &[(u8, &[u8])]| subs.iter().map(|sub| sub.0).collect::<Vec<_>>();
        Some(Some(match kind {
            ACK_REQUEST => Tlv::AckRequest { opaque: half(2)? },
            ACK => Tlv::Ack { opaque: half(0)? },
            HELLO => {
                let subs = sub_tlvs(6)?;
                let sent = subs.iter().find(|sub| sub.0 == TIMESTAMP);
                let sent = match sent {
                    Some((_, time)) => Some(u32::from_be_bytes((*time).try_into().ok()?)),
                    None => None,
                };
                Tlv::Hello {
                    is_unicast: half(0)? & 0x8000 != 0,
                    seqno: half(2)?,
                    interval: half(4)?,
                    sent,
                    sub_tlvs: kinds(&subs),
                }
            }
            IHU => {
                let (to, end) = match *body.first()? {
                    AE_NONE => (None, 6),
                    AE_LINK_LOCAL => {
                        let mut octets = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).octets();
                        octets[8..].copy_from_slice(body.get(6..14)?);
                        (Some(octets.into()), 14)
                    }
                    AE_IPV6 => (Some(Ipv6Addr::from(*body.get(6..)?.first_chunk()?)), 22),
                    _ => return None,
                };
                Tlv::Ihu {
                    to,
                    rxcost: half(2)?,
                    sub_tlvs: kinds(&sub_tlvs(end)?),
                }
            }
            ROUTER_ID => {
                self.router_id = Some(*body.get(2..)?.first_chunk()?);
                return Some(None);
            }
            NEXT_HOP => return Some(None),
            UPDATE => self.update(body)?,
            ROUTE_REQUEST => match *body.first()? {
                AE_NONE => Tlv::RouteRequest(None),
                AE_IPV6 => Tlv::RouteRequest(Some(prefix(*body.get(1)?, body.get(2..)?)?)),
                _ => return None,
            },
            SEQNO_REQUEST => Tlv::SeqnoRequest {
                prefix: prefix(*body.get(1)?, body.get(14..)?)?,
                seqno: half(2)?,
                hops: *body.get(4)?,
                router_id: *body.get(6..)?.first_chunk()?,
            },
            EXTENSION => Tlv::Extension(body.to_vec()),
            other => Tlv::Other(other),
        }))
    }

    fn update(&mut self, body: &[u8]) -> Option<Tlv> {
        const DEFAULT_PREFIX: u8 = 0x80;
        const DEFAULT_ROUTER_ID: u8 = 0x40;
        let (head, rest) = body.split_first_chunk::<10>()?;
        let &[ae, flags, length, omitted, a, b, c, d, e, f] = head;
        let of_prefix = usize::from(length)
            .div_ceil(8)
            .checked_sub(usize::from(omitted))?;
        let (named, subs) = rest.split_at_checked(of_prefix)?;
        let mut octets = [0; 16];
        let omitted = usize::from(omitted);
        octets
            .get_mut(..omitted)?
            .copy_from_slice(&self.prefix[..omitted]);
        octets
            .get_mut(omitted..omitted + named.len())?
            .copy_from_slice(named);
        if flags & DEFAULT_PREFIX != 0 {
            self.prefix = octets;
        }
        if flags & DEFAULT_ROUTER_ID != 0 {
            self.router_id = octets.last_chunk().copied();
        }
        let metric = u16::from_be_bytes([e, f]);
        // A retraction needs no origin.
        let router_id = self
            .router_id
            .or_else(|| (metric == INFINITY).then_some([0; 8]))?;
        let prefix = match ae {
            AE_NONE => None,
            AE_IPV6 => Some(Ipv6Network::new(octets.into(), length).ok()?),
            _ => return None,
        };
        let subs = parts(subs).ok()?;
        let proof = match subs.iter().find(|sub| sub.0 == PROOF) {
            Some((_, proof)) => Some(Proof::read(proof)?),
            None => None,
        };
        Some(Tlv::Update(Update {
            prefix,
            router_id,
            seqno: u16::from_be_bytes([c, d]),
            metric,
            interval: u16::from_be_bytes([a, b]),
            proof,
        }))
    }
}

fn prefix(length: u8, bytes: &[u8]) -> Option<Ipv6Network> {
    let mut octets = [0; 16];
    let bytes = bytes.get(..usize::from(length).div_ceil(8))?;
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Ipv6Network::new(octets.into(), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv6Network {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let proof = Proof {
            epoch: 7,
            element: [9; 20],
        };
        let near: Ipv6Addr = "fe80::2743:8fc2:586:61aa".parse().unwrap();
        let route =
            Update::new(net("6d4:97b8:38a7:2b6e::/64"), [1; 8], 8, 96).proven_by(Some(proof));
        let end = Update {
            metric: INFINITY,
            ..Update::new(net("6d4:97b8:38a7:2b6e:5555::/80"), [2; 8], 1, 0)
        };
        let bytes = packet(&[
            hello(5, 100, &sent_at(77)),
            ihu(near, 96, 300, &echo(1, 2)),
            route.tlvs(),
            vec![0],
            tlv(1, &[0; 3]),
            end.tlvs_with(&tlv(113, b"later")),
            route_request(None),
            seqno_request(net("6d4:97b8:38a7:2b6e::/64"), 9, 64, [1; 8]),
            ack_request(11, 50),
            extension(&[1, 3, 0, 0, 0, 1]),
        ]);
        let read = read(&bytes).unwrap();
        assert_eq!(
            read,
            [
                Tlv::Hello {
                    is_unicast: false,
                    seqno: 5,
                    interval: 100,
                    sent: Some(77),
                    sub_tlvs: vec![3],
                },
                Tlv::Ihu {
                    to: Some(near),
                    rxcost: 96,
                    sub_tlvs: vec![3],
                },
                Tlv::Update(route),
                Tlv::Update(end),
                Tlv::RouteRequest(None),
                Tlv::SeqnoRequest {
                    prefix: net("6d4:97b8:38a7:2b6e::/64"),
                    seqno: 9,
                    hops: 64,
                    router_id: [1; 8],
                },
                Tlv::AckRequest { opaque: 11 },
                Tlv::Extension(vec![1, 3, 0, 0, 0, 1]),
            ]
        );
        for cut in 0..bytes.len() {
            assert!(super::read(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn omitted_bytes_come_from_the_prefix_before() {
        let first = [
            AE_IPV6, 0x80, 64, 0, 6, 64, 0, 1, 0, 96, 6, 0xd4, 1, 2, 3, 4, 5, 6,
        ];
        let second = [AE_IPV6, 0, 64, 4, 6, 64, 0, 1, 0, 96, 7, 7, 7, 7];
        let bytes = packet(&[router_id([1; 8]), tlv(UPDATE, &first), tlv(UPDATE, &second)]);
        let prefixes: Vec<_> = read(&bytes)
            .unwrap()
            .iter()
            .filter_map(|tlv| tlv.update()?.prefix)
            .collect();
        assert_eq!(
            prefixes,
            [net("6d4:102:304:506::/64"), net("6d4:102:707:707::/64")]
        );
    }

    /// The first vector for routing of docs/protocol.md.
    #[test]
    fn the_proof_of_a_level_gives_that_of_the_next() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(digits).collect()
        };
        let proof = |hex| Proof::read(&bytes(hex)).unwrap();
        let router_id = 0x15d3_166e_b4ba_2948_u64.to_be_bytes();
        assert_eq!(
            proof("000000017dd3694d676d1b16ebd9e58c1811c3ad31c3d7c0").above(0, router_id, 15),
            proof("00000001f5f0599c0fd6eae30d52d3e1c99602c5299e0787"),
        );
    }

    #[test]
    fn an_update_without_origin_makes_no_sense() {
        let mut update = Update::new(net("600::/64"), [1; 8], 1, 0).tlvs();
        update.drain(..12);
        assert!(read(&packet(&[update])).is_err());
    }
}
