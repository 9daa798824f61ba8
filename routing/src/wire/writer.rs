//! Writing TLVs into packets (RFC 8966 §4).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use thiserror::Error;

use super::address::{Encoding, Prefix, shortest};
use super::tlv::{NEVER, SETS_PREFIX, UNICAST};
use super::{Echo, HEADER_LEN, HelloKind, MAGIC, Tlv, Update, VERSION, kind, sub_tlv};
use crate::types::{Interval, RouterId, Seqno};

/// Headers of IPv6 and UDP.
const LOWER_HEADERS: u16 = 48;

/// What any link must carry (§4).
const LEAST_LIMIT: u16 = 512;

/// Of an Acknowledgment Request, in bytes.
const ACK_REQUEST_LEN: usize = 8;

/// Why a TLV was not written: the RFC forbids to send it like this. Nothing of it is in any packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A Multicast Hello without an interval: BIRD takes it for the end of its neighbour.
    #[error("a multicast hello that promises no other")]
    UnscheduledHello,
    /// An interval of 0.
    #[error("an interval of 0")]
    ZeroInterval,
    /// Times in an IHU whose packet has no Hello with a time (RFC 9616 §3.2). The next packet may have one.
    #[error("an echo in a packet without a timestamped hello")]
    EchoWithoutHello,
    /// An Acknowledgment or a Unicast Hello to all.
    #[error("a message for one neighbour in a packet to all")]
    NotForAll,
    /// A router-id that is reserved, or a route without any.
    #[error("no usable router-id")]
    RouterId,
    /// A route to nowhere in particular: all destinations can only be retracted.
    #[error("a route without a destination")]
    NoDestination,
    /// A seqno request that may not travel.
    #[error("a hop count of 0")]
    ZeroHopCount,
    /// More than a TLV can hold.
    #[error("an extension of {0} bytes")]
    TooLong(usize),
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketBuf {
    /// The UDP payload.
    pub bytes: Vec<u8>,
    /// Where in it the time of sending belongs, if there is a place for it: four bytes, see [`Self::stamp`].
    pub sent_at: Option<usize>,
    /// What an Acknowledgment of this packet repeats, if one was asked for.
    pub opaque: Option<u16>,
}

impl PacketBuf {
    /// Notes the time of sending, in microseconds modulo 2^32, if there is a place for it. To be called as late as possible.
    pub fn stamp(&mut self, now: u32) {
        let place = self
            .sent_at
            .and_then(|at| self.bytes.get_mut(at..)?.first_chunk_mut());
        if let Some(place) = place {
            *place = now.to_be_bytes();
        }
    }
}

/// Who gets the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    All,
    One,
}

/// Lays TLVs into as few packets as their order allows, each no longer than its link carries, and compresses updates.
///
/// Order is kept, but for [`Self::push_updates`], which sorts. A Hello begins a packet: no packet has two, and a neighbour that wants one
/// before anything else finds it there.
#[derive(Debug)]
pub struct PacketWriter {
    source: Ipv6Addr,
    cast: Cast,
    limit: usize,
    acks: Option<Acks>,
    open: Open,
    closed: Vec<PacketBuf>,
}

/// The Acknowledgments to be asked for.
#[derive(Clone, Copy, Debug)]
struct Acks {
    next: u16,
    interval: Interval,
}

impl PacketWriter {
    /// Packets to all neighbours on a link of this MTU, from `source`, our address there.
    pub fn multicast(mtu: u16, source: Ipv6Addr) -> Self {
        Self::new(mtu, source, Cast::All)
    }

    /// Packets to one neighbour on a link of this MTU, from `source`, our address there.
    pub fn unicast(mtu: u16, source: Ipv6Addr) -> Self {
        Self::new(mtu, source, Cast::One)
    }

    fn new(mtu: u16, source: Ipv6Addr, cast: Cast) -> Self {
        //= RFC 8966 §4 longest
        //= RFC 8966 §4 jumbogram
        let limit = mtu.saturating_sub(LOWER_HEADERS).max(LEAST_LIMIT).into();
        Self {
            source,
            cast,
            limit,
            acks: None,
            open: Open::new(source, limit),
            closed: Vec::new(),
        }
    }

    /// Asks for an Acknowledgment of every packet within `interval`: of the first by the number `opaque`, of each other by the next.
    ///
    /// # Errors
    /// [`EncodeError::ZeroInterval`].
    pub fn asking_for_acks(self, opaque: u16, interval: Interval) -> Result<Self, EncodeError> {
        check_interval(interval)?;
        let acks = Some(Acks {
            next: opaque,
            interval,
        });
        Ok(Self { acks, ..self })
    }

    /// Writes one TLV: into a new packet if it does not fit into this one.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn push(&mut self, tlv: &Tlv<'_>) -> Result<(), EncodeError> {
        self.check(tlv)?;
        if matches!(tlv, Tlv::Hello { .. }) {
            self.close();
        }
        let (length, state) = (self.open.bytes.len(), self.open.state);
        self.open.write(tlv);
        if self.open.bytes.len() > self.limit - self.acks.map_or(0, |_| ACK_REQUEST_LEN) {
            self.open.bytes.truncate(length);
            self.open.state = state;
            self.close();
            self.check(tlv)?;
            self.open.write(tlv);
        }
        Ok(())
    }

    /// Into which packet the last TLV went, counted from 0 in the order of [`Self::finish`].
    pub const fn packet(&self) -> usize {
        self.closed.len()
    }

    /// Sorts updates so that they are short, and writes them: those of one router-id one after the other, else by prefix.
    ///
    /// # Errors
    /// [`EncodeError`] of the first that may not be sent; those before it are written.
    pub fn push_updates(&mut self, updates: &mut [Update]) -> Result<(), EncodeError> {
        let mut first = BTreeMap::new();
        for update in &*updates {
            let first = first.entry(update.router_id).or_insert(update.prefix);
            *first = update.prefix.min(*first);
        }
        updates.sort_by_cached_key(|update| {
            let prefix = update.prefix;
            match update.router_id {
                Some(_) => (first[&update.router_id], update.router_id, prefix),
                None => (prefix, None, prefix),
            }
        });
        updates
            .iter()
            .try_for_each(|update| self.push(&Tlv::Update(*update)))
    }

    /// The packets, in the order in which they are to be sent. None is empty.
    pub fn finish(mut self) -> Vec<PacketBuf> {
        self.close();
        self.closed
    }

    /// Ends the packet, unless nothing is in it.
    fn close(&mut self) {
        if self.open.bytes.len() == HEADER_LEN {
            return;
        }
        let open = Open::new(self.source, self.limit);
        let Open {
            mut bytes, sent_at, ..
        } = std::mem::replace(&mut self.open, open);
        let opaque = self.acks.as_mut().map(|acks| {
            let opaque = acks.next;
            acks.next = opaque.wrapping_add(1);
            ack_request(&mut bytes, opaque, acks.interval);
            opaque
        });
        let length = (bytes.len() - HEADER_LEN) as u16;
        bytes[2..HEADER_LEN].copy_from_slice(&length.to_be_bytes());
        self.closed.push(PacketBuf {
            bytes,
            sent_at,
            opaque,
        });
    }

    /// Whether this may be sent, in the packet as it is now.
    fn check(&self, tlv: &Tlv<'_>) -> Result<(), EncodeError> {
        match tlv {
            //= RFC 8966 §4.6.3 interval
            Tlv::AckRequest { interval, .. } => check_interval(*interval),
            //= RFC 8966 §3.3 unicast
            //= RFC 8966 §4.6.4 unicast
            Tlv::Ack { .. } => self.check_cast(),
            Tlv::Hello { kind, interval, .. } => {
                match (kind, interval) {
                    //= RFC 8966 §4.6.5 to-one
                    (HelloKind::Unicast, _) => self.check_cast()?,
                    (HelloKind::Multicast, None) => return Err(EncodeError::UnscheduledHello),
                    (HelloKind::Multicast, Some(_)) => {}
                }
                interval.map_or(Ok(()), check_interval)
            }
            Tlv::Ihu { interval, echo, .. } => {
                if echo.is_some() && self.open.sent_at.is_none() {
                    return Err(EncodeError::EchoWithoutHello);
                }
                //= RFC 8966 §4.6.6 interval
                check_interval(*interval)
            }
            Tlv::Update(update) => check_update(update),
            Tlv::RouteRequest { .. } => Ok(()),
            Tlv::SeqnoRequest {
                hop_count,
                router_id,
                ..
            } => {
                //= RFC 8966 §4.6.11 hop-count
                if *hop_count == 0 {
                    return Err(EncodeError::ZeroHopCount);
                }
                //= RFC 8966 §4.6.11 router-id
                check_router_id(Some(*router_id))
            }
            Tlv::Extension(body) if body.len() > 255 => Err(EncodeError::TooLong(body.len())),
            Tlv::Extension(_) => Ok(()),
        }
    }

    /// Whether a message for one neighbour may be sent.
    const fn check_cast(&self) -> Result<(), EncodeError> {
        match self.cast {
            Cast::All => Err(EncodeError::NotForAll),
            Cast::One => Ok(()),
        }
    }
}

const fn check_interval(interval: Interval) -> Result<(), EncodeError> {
    match interval {
        Interval(0) => Err(EncodeError::ZeroInterval),
        Interval(_) => Ok(()),
    }
}

fn check_router_id(id: Option<RouterId>) -> Result<(), EncodeError> {
    if id.is_none_or(|id| id.is_reserved()) {
        return Err(EncodeError::RouterId);
    }
    Ok(())
}

fn check_update(update: &Update) -> Result<(), EncodeError> {
    if update.metric.is_finite() {
        //= RFC 8966 §4.6.9 finite-sent
        if update.prefix.is_none() {
            return Err(EncodeError::NoDestination);
        }
        //= RFC 8966 §4.1.3 sent
        //= RFC 8966 §4.6.7 router-id
        check_router_id(update.router_id)?;
    }
    //= RFC 8966 §4.6.9 interval
    update.interval.map_or(Ok(()), check_interval)
}

/// The packet being written.
#[derive(Debug)]
struct Open {
    bytes: Vec<u8>,
    sent_at: Option<usize>,
    state: State,
}

/// What the reader of a packet knows at this point of it.
#[derive(Clone, Copy, Debug)]
struct State {
    prefix: Option<[u8; 16]>,
    next_hop: Ipv6Addr,
    router_id: Option<RouterId>,
}

impl Open {
    fn new(source: Ipv6Addr, limit: usize) -> Self {
        let mut bytes = Vec::with_capacity(limit);
        bytes.extend([MAGIC, VERSION, 0, 0]);
        Self {
            bytes,
            sent_at: None,
            state: State {
                prefix: None,
                next_hop: source,
                router_id: None,
            },
        }
    }

    /// Appends a TLV, with what has to stand before it.
    fn write(&mut self, tlv: &Tlv<'_>) {
        let bytes = &mut self.bytes;
        match *tlv {
            Tlv::AckRequest { opaque, interval } => ack_request(bytes, opaque, interval),
            Tlv::Ack { opaque } => block(bytes, kind::ACK, |bytes| put(bytes, opaque)),
            Tlv::Hello {
                kind,
                seqno,
                interval,
                sent,
            } => self.hello(kind, seqno, interval, sent),
            Tlv::Ihu {
                address,
                rxcost,
                interval,
                echo,
            } => block(bytes, kind::IHU, |bytes| {
                let octets = address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
                let (encoding, written) = match address {
                    None => (Encoding::Wildcard, &[][..]),
                    Some(_) => shortest(&octets),
                };
                bytes.extend([encoding.number(), 0]);
                put(bytes, rxcost.0);
                put(bytes, interval.0);
                bytes.extend(written);
                if let Some(Echo { origin, received }) = echo {
                    block(bytes, sub_tlv::TIMESTAMP, |bytes| {
                        bytes.extend(origin.to_be_bytes());
                        bytes.extend(received.to_be_bytes());
                    });
                }
            }),
            Tlv::Update(ref update) => self.update(update),
            Tlv::RouteRequest { prefix } => block(bytes, kind::ROUTE_REQUEST, |bytes| {
                let prefix = Prefix::of(prefix);
                bytes.extend([prefix.encoding.number(), prefix.length]);
                bytes.extend(prefix.written(0));
            }),
            Tlv::SeqnoRequest {
                prefix,
                seqno,
                hop_count,
                router_id,
            } => block(bytes, kind::SEQNO_REQUEST, |bytes| {
                //= RFC 8966 §4.6.11 wildcard
                let prefix = Prefix::of(Some(prefix));
                bytes.extend([prefix.encoding.number(), prefix.length]);
                put(bytes, seqno.0);
                bytes.extend([hop_count, 0]);
                bytes.extend(router_id.0);
                bytes.extend(prefix.written(0));
            }),
            Tlv::Extension(body) => block(bytes, kind::EXTENSION, |bytes| bytes.extend(body)),
        }
    }

    fn hello(
        &mut self,
        kind: HelloKind,
        seqno: Seqno,
        interval: Option<Interval>,
        sent: Option<u32>,
    ) {
        let flags = match kind {
            //= RFC 8966 §4.6.5 flags-sent
            HelloKind::Multicast => 0,
            HelloKind::Unicast => UNICAST,
        };
        block(&mut self.bytes, kind::HELLO, |bytes| {
            put(bytes, flags);
            put(bytes, seqno.0);
            put(bytes, interval.map_or(0, |interval| interval.0));
            if let Some(sent) = sent {
                block(bytes, sub_tlv::TIMESTAMP, |bytes| {
                    self.sent_at = Some(bytes.len());
                    bytes.extend(sent.to_be_bytes());
                });
            }
        });
    }

    /// The R flag is never used: it would save a Router-Id TLV only where a router-id is the last half of an address.
    fn update(&mut self, update: &Update) {
        let (bytes, state) = (&mut self.bytes, &mut self.state);
        if update.metric.is_finite() {
            if state.next_hop != update.next_hop {
                block(bytes, kind::NEXT_HOP, |bytes| {
                    let octets = update.next_hop.octets();
                    //= RFC 8966 §4.6.8 wildcard
                    let (encoding, written) = shortest(&octets);
                    bytes.extend([encoding.number(), 0]);
                    bytes.extend(written);
                });
                state.next_hop = update.next_hop;
            }
            if state.router_id != update.router_id
                && let Some(id) = update.router_id
            {
                block(bytes, kind::ROUTER_ID, |bytes| {
                    put(bytes, 0);
                    bytes.extend(id.0);
                });
                state.router_id = update.router_id;
            }
        }
        let prefix = Prefix::of(update.prefix);
        let (flags, omitted) = match update.prefix {
            //= RFC 8966 §4.6.9 flags-sent
            //= RFC 8966 §4.6.9 wildcard-sent
            Some(_) => (SETS_PREFIX, prefix.omissible(state.prefix)),
            None => (0, 0),
        };
        block(bytes, kind::UPDATE, |bytes| {
            bytes.extend([prefix.encoding.number(), flags, prefix.length, omitted]);
            // The longest interval would say that there is none.
            put(
                bytes,
                update.interval.map_or(NEVER, |it| it.0.min(NEVER - 1)),
            );
            put(bytes, update.seqno.0);
            put(bytes, update.metric.0);
            bytes.extend(prefix.written(omitted));
            if let Some(proof) = update.proof {
                block(bytes, sub_tlv::PROOF, |bytes| bytes.extend(proof));
            }
        });
        if update.prefix.is_some() {
            state.prefix = Some(prefix.bytes);
        }
    }
}

fn ack_request(bytes: &mut Vec<u8>, opaque: u16, interval: Interval) {
    block(bytes, kind::ACK_REQUEST, |bytes| {
        put(bytes, 0);
        put(bytes, opaque);
        put(bytes, interval.0);
    });
}

/// A TLV or sub-TLV with what `body` writes.
fn block(bytes: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend([kind, 0]);
    let start = bytes.len();
    body(bytes);
    bytes[start - 1] = (bytes.len() - start) as u8;
}

fn put(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_be_bytes());
}
