//! Babel packets (RFC 8966 §4): what a neighbour wrote, as values, and the way back.
//!
//! Nothing behind this module sees bytes. Reading is total: any bytes give TLVs, each of which was complete and made sense, and a
//! count of what was skipped. The parser's state of §4.5 (default prefixes, next hop, router-id) ends here too: a [`Tlv`]
//! stands for itself.

mod address;
mod packet;
mod skipped;
mod sub_tlv;
mod tlv;
mod writer;

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

use crate::types::{Interval, Metric, RouterId, Seqno};

pub use packet::{DecodeError, Packet, check_source};
pub use skipped::{Skip, Skipped};
pub use tlv::Tlvs;
pub use writer::{EncodeError, PacketBuf, PacketWriter};

/// The UDP port that Babel packets are sent from and to (§5).
pub const PORT: u16 = 6696;

/// The address of all Babel nodes on a link (§5).
pub const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);

/// The first byte of a packet (§4.2).
const MAGIC: u8 = 42;

/// The second byte: the version of the protocol (§4.2).
const VERSION: u8 = 2;

/// Magic, version and the body's length.
const HEADER_LEN: usize = 4;

/// The types of TLVs (§4.6).
mod kind {
    pub(super) const PAD_1: u8 = 0;
    pub(super) const PAD_N: u8 = 1;
    pub(super) const ACK_REQUEST: u8 = 2;
    pub(super) const ACK: u8 = 3;
    pub(super) const HELLO: u8 = 4;
    pub(super) const IHU: u8 = 5;
    pub(super) const ROUTER_ID: u8 = 6;
    pub(super) const NEXT_HOP: u8 = 7;
    pub(super) const UPDATE: u8 = 8;
    pub(super) const ROUTE_REQUEST: u8 = 9;
    pub(super) const SEQNO_REQUEST: u8 = 10;
    /// Ours, experimental.
    pub(super) const EXTENSION: u8 = crate::extension::TLV_TYPE;
}

/// One TLV that Babel, or one of the extensions understood here, defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv<'a> {
    /// Asks for [`Tlv::Ack`] within `interval` (§4.6.3).
    AckRequest {
        /// To be repeated in the answer.
        opaque: u16,
        /// How soon.
        interval: Interval,
    },
    /// Answers an [`Tlv::AckRequest`] (§4.6.4).
    Ack {
        /// From the request.
        opaque: u16,
    },
    /// The neighbour is there (§4.6.5).
    Hello {
        /// Which of the two series of seqnos it belongs to.
        kind: HelloKind,
        /// Counts Hellos of its kind.
        seqno: Seqno,
        /// When the next one of its kind comes at the latest; none: nobody knows.
        interval: Option<Interval>,
        /// When it was sent, in microseconds of the sender's clock, modulo 2^32 (RFC 9616).
        sent: Option<u32>,
    },
    /// How well the neighbour hears somebody (§4.6.6).
    Ihu {
        /// Whom; none: whoever the packet is addressed to, or the only other end of the link.
        address: Option<Ipv6Addr>,
        /// At what cost.
        rxcost: Metric,
        /// When the next one comes at the latest.
        interval: Interval,
        /// For measuring the round-trip time (RFC 9616).
        echo: Option<Echo>,
    },
    /// A route, or the end of one (§4.6.9).
    Update(Update),
    /// Asks for an update about a prefix, or about everything (§4.6.10).
    RouteRequest {
        /// None: everything.
        prefix: Option<Ipv6Network>,
    },
    /// Asks for a newer seqno (§4.6.11).
    SeqnoRequest {
        /// Of which prefix.
        prefix: Ipv6Network,
        /// Which seqno is new enough.
        seqno: Seqno,
        /// How many more nodes may pass it on; never 0.
        hop_count: u8,
        /// Of which origin.
        router_id: RouterId,
    },
    /// A message of ours (type 224, experimental: others ignore it). What is in it, `extension` knows.
    Extension(&'a [u8]),
}

/// The two series of Hellos (§3.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloKind {
    /// To all neighbours on the link; one may be sent to a unicast address all the same.
    Multicast,
    /// To one neighbour.
    Unicast,
}

/// Two times of the neighbour's last Hello, from which its receiver computes the round-trip time (RFC 9616), both in microseconds
/// modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// When it was sent, by the clock of whoever sent it and reads this.
    pub origin: u32,
    /// When it was received, by the clock of whoever writes this.
    pub received: u32,
}

/// An Update TLV with the parser's state filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which destinations; none: all that the sender has announced (only with an infinite metric).
    pub prefix: Option<Ipv6Network>,
    /// Who originates the route; none only in a retraction, which needs no origin.
    pub router_id: Option<RouterId>,
    /// Where packets go.
    pub next_hop: Ipv6Addr,
    /// When the next update comes at the latest; none: it is not repeated.
    pub interval: Option<Interval>,
    /// The origin's.
    pub seqno: Seqno,
    /// The sender's; infinite in a retraction.
    pub metric: Metric,
    /// What proves that the origin made this seqno (sub-TLV 112), unread.
    pub proof: Option<[u8; PROOF_LEN]>,
}

/// Length of the body of sub-TLV 112, in bytes: epoch (4), element (20).
pub const PROOF_LEN: usize = 24;
