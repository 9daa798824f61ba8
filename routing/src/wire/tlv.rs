//! Reading the TLVs of a packet, with the parser's state (RFC 8966 §4.3 to §4.6).

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

use super::address::{Encoding, Prefix, is_martian, link_local};
use super::skipped::{Skip, Skipped};
use super::sub_tlv::{self, SubTlvs};
use super::{Echo, HelloKind, Tlv, Update, kind};
use crate::types::{Interval, Metric, RouterId, Seqno};

/// P: the Update sets the default prefix of its encoding.
pub(super) const SETS_PREFIX: u8 = 0x80;
/// R: the Update sets the router-id.
const SETS_ROUTER_ID: u8 = 0x40;
/// U: the Hello belongs to the unicast series.
pub(super) const UNICAST: u16 = 0x8000;
/// The interval of an Update that is not repeated.
pub(super) const NEVER: u16 = 0xffff;

/// The TLVs of a packet that say something, each by itself. Work is linear in the packet's length, and nothing is allocated.
#[derive(Clone, Debug)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
    source: Ipv6Addr,
    state: State,
    skipped: Skipped,
}

impl<'a> Tlvs<'a> {
    pub(super) fn new(body: &'a [u8], source: Ipv6Addr) -> Self {
        Self {
            rest: body,
            source,
            state: State {
                prefixes: [None; 5],
                next_hop: Some(source),
                router_id: None,
            },
            skipped: Skipped::default(),
        }
    }

    /// What was skipped up to here.
    pub const fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Reads one TLV. `None`: it only changed the state, or was padding.
    fn read(&mut self, kind: u8, body: &'a [u8]) -> Result<Option<Tlv<'a>>, Skip> {
        match kind {
            kind::PAD_N => Ok(None),
            kind::ACK_REQUEST => ack_request(body).map(Some),
            kind::ACK => ack(body).map(Some),
            kind::HELLO => hello(body).map(Some),
            kind::IHU => ihu(body).map(Some),
            kind::ROUTER_ID => self.state.router_id(body).map(|()| None),
            kind::NEXT_HOP => self.state.next_hop(body).map(|()| None),
            kind::UPDATE => self.update(body).map(Some),
            kind::ROUTE_REQUEST => route_request(body).map(Some),
            kind::SEQNO_REQUEST => seqno_request(body).map(Some),
            kind::EXTENSION => Ok(Some(Tlv::Extension(body))),
            //= RFC 8966 §4.3 unknown
            _ => Err(Skip::UnknownType),
        }
    }

    fn update(&mut self, body: &'a [u8]) -> Result<Tlv<'a>, Skip> {
        let (fields, destination, sub_tlvs) = self.state.update(body)?;
        let mut proof = None;
        for sub_tlv in SubTlvs(sub_tlvs) {
            match sub_tlv? {
                (sub_tlv::PROOF, body) if proof.is_none() => proof = body.first_chunk().copied(),
                (sub_tlv::SOURCE_PREFIX, body) => {
                    return Err(source_specific(destination.encoding, body));
                }
                (kind, _) => sub_tlv::unknown(kind)?,
            }
        }
        let prefix = destination.ipv6()?;
        if prefix.is_some_and(is_martian) {
            return Err(Skip::Martian);
        }
        let metric = Metric(fields.metric);
        let interval = match fields.interval {
            NEVER => None,
            hundredths => Some(interval(hundredths)?),
        };
        let (router_id, next_hop) = if metric.is_finite() {
            //= RFC 8966 §4.6.9 finite-wildcard
            if prefix.is_none() {
                return Err(Skip::Malformed);
            }
            let router_id = self.state.router_id.ok_or(Skip::NoRouterId)?;
            //= RFC 8966 §4.6.9 next-hop
            let next_hop = self.state.next_hop.ok_or(Skip::NoNextHop)?;
            (Some(router_id), next_hop)
        } else {
            (None, self.source)
        };
        Ok(Tlv::Update(Update {
            prefix,
            router_id,
            next_hop,
            interval,
            seqno: Seqno(fields.seqno),
            metric,
            proof,
        }))
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, rest) = self.rest.split_first()?;
            if kind == kind::PAD_1 {
                self.rest = rest;
                continue;
            }
            let Some((body, rest)) = rest
                .split_first()
                .and_then(|(&length, rest)| rest.split_at_checked(length.into()))
            else {
                self.skipped.note(Skip::Overrun);
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            match self.read(kind, body) {
                Ok(Some(tlv)) => return Some(tlv),
                Ok(None) => {}
                Err(reason) => self.skipped.note(reason),
            }
        }
    }
}

/// What a TLV may leave to earlier ones of its packet (§4.5). A TLV that should have set something and cannot be read leaves it
/// undefined, so that what builds on it is skipped rather than misunderstood.
#[derive(Clone, Debug)]
struct State {
    /// Default prefixes, by the number of their encoding.
    prefixes: [Option<[u8; 16]>; 5],
    /// Of IPv6. There is none of IPv4, since no route of IPv4 is handed on.
    next_hop: Option<Ipv6Addr>,
    router_id: Option<RouterId>,
}

/// The fields of an Update that are no prefix.
struct UpdateFields {
    interval: u16,
    seqno: u16,
    metric: u16,
}

impl State {
    /// Takes what a Router-Id TLV says.
    fn router_id(&mut self, body: &[u8]) -> Result<(), Skip> {
        self.router_id = None;
        //= RFC 8966 §4.6.7 reserved
        let (&[_, _, ref id @ ..], sub_tlvs) = fixed::<10>(body)?;
        self.router_id = Some(router_id(*id)?);
        sub_tlv::none_known(sub_tlvs)
    }

    /// Takes what a Next Hop TLV says.
    fn next_hop(&mut self, body: &[u8]) -> Result<(), Skip> {
        //= RFC 8966 §4.6.8 reserved
        let (&[encoding, _], rest) = fixed(body)?;
        match Encoding::of(encoding) {
            Some(encoding @ (Encoding::Ipv6 | Encoding::LinkLocal)) => {
                self.next_hop = None;
                let (address, sub_tlvs) = address(encoding, rest)?;
                if is_martian(address.into()) && !address.is_unicast_link_local() {
                    return Err(Skip::Martian);
                }
                self.next_hop = Some(address);
                sub_tlv::none_known(sub_tlvs)
            }
            Some(Encoding::Ipv4) => Err(Skip::Ipv4),
            //= RFC 8966 §4.6.8 encoding
            Some(Encoding::Wildcard | Encoding::Ipv4ViaIpv6) | None => Err(Skip::Encoding),
        }
    }

    /// Reads an Update up to its sub-TLVs, and takes what its flags say.
    fn update<'a>(&mut self, body: &'a [u8]) -> Result<(UpdateFields, Prefix, &'a [u8]), Skip> {
        let Ok((&[encoding, flags, length, omitted, i0, i1, s0, s1, m0, m1], rest)) = fixed(body)
        else {
            self.prefixes = [None; 5];
            self.router_id = None;
            return Err(Skip::Malformed);
        };
        let default = self.prefixes.get_mut(usize::from(encoding));
        let omissible = default.as_deref().copied().flatten();
        let read = Encoding::of(encoding)
            //= RFC 8966 §4.6.9 encoding
            .ok_or(Skip::Encoding)
            .and_then(|encoding| Prefix::read(encoding, length, omitted, omissible, rest));
        let prefix = read.ok().map(|(prefix, _)| prefix);
        //= RFC 8966 §4.5 state
        //= RFC 8966 §4.6.9 flags
        if flags & SETS_PREFIX != 0
            && let Some(default) = default
        {
            *default = prefix.map(|prefix| prefix.bytes);
        }
        if flags & SETS_ROUTER_ID != 0 {
            self.router_id = prefix
                .map(|prefix| prefix.router_id())
                .filter(|id| !id.is_reserved());
        }
        let (prefix, sub_tlvs) = read?;
        let fields = UpdateFields {
            interval: u16::from_be_bytes([i0, i1]),
            seqno: u16::from_be_bytes([s0, s1]),
            metric: u16::from_be_bytes([m0, m1]),
        };
        Ok((fields, prefix, sub_tlvs))
    }
}

fn ack_request(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    //= RFC 8966 §4.6.3 reserved
    let (&[_, _, o0, o1, i0, i1], sub_tlvs) = fixed(body)?;
    sub_tlv::none_known(sub_tlvs)?;
    Ok(Tlv::AckRequest {
        opaque: u16::from_be_bytes([o0, o1]),
        interval: interval(u16::from_be_bytes([i0, i1]))?,
    })
}

fn ack(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    let (&opaque, sub_tlvs) = fixed(body)?;
    sub_tlv::none_known(sub_tlvs)?;
    Ok(Tlv::Ack {
        opaque: u16::from_be_bytes(opaque),
    })
}

fn hello(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    let (&[f0, f1, s0, s1, i0, i1], sub_tlvs) = fixed(body)?;
    let mut sent = None;
    for sub_tlv in SubTlvs(sub_tlvs) {
        match sub_tlv? {
            (sub_tlv::TIMESTAMP, body) if sent.is_none() => {
                sent = body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            }
            (kind, _) => sub_tlv::unknown(kind)?,
        }
    }
    Ok(Tlv::Hello {
        //= RFC 8966 §4.6.5 flags
        kind: if u16::from_be_bytes([f0, f1]) & UNICAST == 0 {
            HelloKind::Multicast
        } else {
            HelloKind::Unicast
        },
        seqno: Seqno(u16::from_be_bytes([s0, s1])),
        interval: interval(u16::from_be_bytes([i0, i1])).ok(),
        sent,
    })
}

fn ihu(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    //= RFC 8966 §4.6.6 reserved
    let (&[encoding, _, r0, r1, i0, i1], rest) = fixed(body)?;
    let (address, sub_tlvs) = match Encoding::of(encoding) {
        Some(Encoding::Wildcard) => (None, rest),
        Some(encoding @ (Encoding::Ipv6 | Encoding::LinkLocal)) => {
            let (address, rest) = address(encoding, rest)?;
            (Some(address), rest)
        }
        Some(Encoding::Ipv4) => return Err(Skip::Ipv4),
        //= RFC 8966 §4.6.6 encoding
        Some(Encoding::Ipv4ViaIpv6) | None => return Err(Skip::Encoding),
    };
    let mut echo = None;
    for sub_tlv in SubTlvs(sub_tlvs) {
        match sub_tlv? {
            (sub_tlv::TIMESTAMP, body) if echo.is_none() => {
                echo = body
                    .first_chunk()
                    .map(|&[o0, o1, o2, o3, r0, r1, r2, r3]| Echo {
                        origin: u32::from_be_bytes([o0, o1, o2, o3]),
                        received: u32::from_be_bytes([r0, r1, r2, r3]),
                    });
            }
            (kind, _) => sub_tlv::unknown(kind)?,
        }
    }
    Ok(Tlv::Ihu {
        address,
        rxcost: Metric(u16::from_be_bytes([r0, r1])),
        interval: interval(u16::from_be_bytes([i0, i1]))?,
        echo,
    })
}

fn route_request(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    let (&[encoding, length], rest) = fixed(body)?;
    let prefix = requested(encoding, length, rest)?;
    Ok(Tlv::RouteRequest { prefix })
}

fn seqno_request(body: &[u8]) -> Result<Tlv<'_>, Skip> {
    //= RFC 8966 §4.6.11 reserved
    let (&[encoding, length, s0, s1, hop_count, _, ref id @ ..], rest) = fixed::<14>(body)?;
    let prefix = requested(encoding, length, rest)?.ok_or(Skip::Malformed)?;
    if hop_count == 0 {
        return Err(Skip::ZeroHopCount);
    }
    Ok(Tlv::SeqnoRequest {
        prefix,
        seqno: Seqno(u16::from_be_bytes([s0, s1])),
        hop_count,
        router_id: router_id(*id)?,
    })
}

/// The prefix of a request, whose sub-TLVs are looked through too.
fn requested(encoding: u8, length: u8, bytes: &[u8]) -> Result<Option<Ipv6Network>, Skip> {
    let encoding = Encoding::of(encoding).ok_or(Skip::Encoding)?;
    let (prefix, sub_tlvs) = Prefix::read(encoding, length, 0, None, bytes)?;
    for sub_tlv in SubTlvs(sub_tlvs) {
        match sub_tlv? {
            (sub_tlv::SOURCE_PREFIX, body) => return Err(source_specific(encoding, body)),
            (kind, _) => sub_tlv::unknown(kind)?,
        }
    }
    prefix.ipv6()
}

/// Why a TLV with this source prefix is skipped (RFC 9079 §7.1).
fn source_specific(encoding: Encoding, body: &[u8]) -> Skip {
    let read = match body.split_first() {
        None | Some((0, _)) => Err(Skip::Malformed),
        Some((&length, prefix)) => Prefix::read(encoding, length, 0, None, prefix),
    };
    read.err().unwrap_or(Skip::SourceSpecific)
}

/// An address of IPv6 in full or in short, and what follows.
fn address(encoding: Encoding, bytes: &[u8]) -> Result<(Ipv6Addr, &[u8]), Skip> {
    if encoding == Encoding::LinkLocal {
        let (last, rest) = fixed(bytes)?;
        Ok((link_local(*last), rest))
    } else {
        let (whole, rest) = fixed::<16>(bytes)?;
        Ok(((*whole).into(), rest))
    }
}

/// The fixed part of a TLV, and what follows.
fn fixed<const LENGTH: usize>(bytes: &[u8]) -> Result<(&[u8; LENGTH], &[u8]), Skip> {
    bytes.split_first_chunk().ok_or(Skip::Malformed)
}

fn interval(hundredths: u16) -> Result<Interval, Skip> {
    if hundredths == 0 {
        return Err(Skip::ZeroInterval);
    }
    Ok(Interval(hundredths))
}

fn router_id(bytes: [u8; 8]) -> Result<RouterId, Skip> {
    let id = RouterId(bytes);
    //= RFC 8966 §4.1.3 received
    if id.is_reserved() {
        return Err(Skip::ReservedRouterId);
    }
    Ok(id)
}
