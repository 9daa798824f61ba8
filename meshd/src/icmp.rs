//! The ICMPv6 messages that a node itself sends (RFC 4443): errors about packets it cannot carry, and echo requests of `meshd ping`.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use crate::{
    packet::{self, ICMPV6, Ipv6Header},
    relayed,
};

/// An ICMPv6 error, by what happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unreachable {
    /// The packet is longer than this many bytes, which is what fits (type 2 code 0).
    TooBig(u32),
    /// No route to the destination (type 1 code 0).
    NoRoute,
    /// The destination is known but does not answer (type 1 code 3).
    Address,
    /// Communication with the destination is administratively prohibited (type 1 code 1).
    Prohibited,
    /// Nobody listens on the port (type 1 code 4).
    Port,
    /// The source address failed the ingress policy (type 1 code 5).
    SourcePolicy,
    /// The hop limit ran out (type 3 code 0).
    HopLimit,
}

impl Unreachable {
    const fn type_and_code(self) -> (u8, u8) {
        match self {
            Self::TooBig(_) => (2, 0),
            Self::NoRoute => (1, 0),
            Self::Prohibited => (1, 1),
            Self::Address => (1, 3),
            Self::Port => (1, 4),
            Self::SourcePolicy => (1, 5),
            Self::HopLimit => (3, 0),
        }
    }
}

/// An ICMPv6 error never makes a packet longer than this (RFC 4443 §2.4 c).
const MIN_MTU: usize = 1280;

/// The error about `offending`, from `own`, or nothing where RFC 4443 §2.4 (e) forbids one: about ICMPv6 errors and redirects, to
/// multicast or unspecified sources, and about fragments other than the first.
pub fn error(what: Unreachable, own: Ipv6Addr, offending: &[u8]) -> Option<Vec<u8>> {
    let header = Ipv6Header::parse(offending).ok()?;
    let source = header.source;
    if source.is_multicast() || source.is_unspecified() || header.destination.is_multicast() {
        return None;
    }
    let upper = packet::upper_layer(offending)?;
    if upper.is_later_fragment
        || (upper.protocol == ICMPV6
            && !offending
                .get(upper.offset)
                .is_some_and(|kind| *kind >= 128 && *kind != REDIRECT))
    {
        return None;
    }
    let (kind, code) = what.type_and_code();
    let quoted = &offending[..offending.len().min(MIN_MTU - packet::HEADER - 8)];
    let mut body = Vec::with_capacity(8 + quoted.len());
    body.extend_from_slice(&[kind, code, 0, 0]);
    let mtu = match what {
        Unreachable::TooBig(mtu) => mtu,
        Unreachable::NoRoute
        | Unreachable::Prohibited
        | Unreachable::Address
        | Unreachable::Port
        | Unreachable::SourcePolicy
        | Unreachable::HopLimit => 0,
    };
    body.extend_from_slice(&mtu.to_be_bytes());
    body.extend_from_slice(quoted);
    Some(packet::icmpv6(own, source, &body))
}

/// What a relay says about a datagram that got no further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RelayError<'a> {
    /// Which relay, by its own address.
    pub relay: Ipv6Addr,
    /// Type of the ICMPv6 message.
    pub kind: u8,
    /// The node that the datagram was for.
    pub destination: Ipv6Addr,
    /// As much of the datagram as is quoted.
    pub datagram: &'a [u8],
}

/// ICMPv6 type of Time Exceeded, for [`RelayError::kind`].
pub const TIME_EXCEEDED: u8 = 3;

impl<'a> RelayError<'a> {
    /// Reads an ICMPv6 error about a relayed datagram that its receiver had sent. Nothing: it is something else, or damaged.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = Ipv6Header::parse(packet).ok()?;
        let message = packet.get(packet::HEADER..packet::HEADER + header.payload)?;
        if header.next_header != ICMPV6
            || packet::checksum(header.source, header.destination, ICMPV6, message) != 0
        {
            return None;
        }
        let (quoted, datagram) = quoted(&header, message)?;
        Some(Self {
            relay: header.source,
            kind: message[0],
            destination: quoted,
            datagram,
        })
    }
}

/// Whether this is an ICMPv6 error from a node about a relayed datagram of its receiver's.
pub fn is_relay_error(header: &Ipv6Header, packet: &[u8]) -> bool {
    header.next_header == ICMPV6
        && packet
            .get(packet::HEADER..packet::HEADER + header.payload)
            .is_some_and(|message| quoted(header, message).is_some())
}

/// Whom the relayed datagram was for that an error quotes, and what is quoted of it.
fn quoted<'a>(header: &Ipv6Header, message: &'a [u8]) -> Option<(Ipv6Addr, &'a [u8])> {
    let (head, quoted) = message.split_first_chunk::<8>()?;
    let (fixed, rest) = quoted.split_at_checked(packet::HEADER)?;
    // A datagram that was cut is known by its first fragment.
    let rest = match fixed[6] {
        packet::UDP => rest,
        packet::FRAGMENT => {
            let (fragment, rest) = rest.split_first_chunk::<8>()?;
            let is_first = fragment[2] == 0 && fragment[3] & !7 == 0;
            (fragment[0] == packet::UDP && is_first).then_some(rest)?
        }
        _ => return None,
    };
    let (udp, datagram) = rest.split_first_chunk::<8>()?;
    let address = |at: usize| -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(*fixed.get(at..)?.first_chunk::<16>()?))
    };
    let (source, destination) = (address(8)?, address(24)?);
    let [high, low] = relayed::PORT.to_be_bytes();
    let is_about_ours = fixed[0] >> 4 == 6
        && udp[..4] == [high, low, high, low]
        && source == header.destination
        && [header.source, source, destination]
            .into_iter()
            .all(relayed::is_node);
    ((1..=4).contains(&head[0]) && is_about_ours).then_some((destination, datagram))
}

const REDIRECT: u8 = 137;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// ICMPv6 header, token and sequence number of ours.
const ECHO_LENGTH: usize = 8 + 16;

/// The secret of this run that marks the echo requests of `meshd ping`, so that their replies are told from the host's own.
pub type EchoToken = [u8; 8];

/// An echo request from `own` to `destination`, marked with our token and a number that names the request.
pub fn echo_request(
    own: Ipv6Addr,
    destination: Ipv6Addr,
    token: EchoToken,
    number: u64,
) -> Vec<u8> {
    let mut body = [0; ECHO_LENGTH];
    body[0] = ECHO_REQUEST;
    body[4..6].copy_from_slice(&token[..2]);
    body[6..8].copy_from_slice(&number.to_be_bytes()[6..]);
    body[8..16].copy_from_slice(&token);
    body[16..].copy_from_slice(&number.to_be_bytes());
    packet::icmpv6(own, destination, &body)
}

/// The number of the request that this packet answers, if it is the reply to an echo request of ours.
pub fn echo_reply(datagram: &[u8], token: EchoToken) -> Option<u64> {
    let body = datagram.get(packet::HEADER..)?;
    let is_ours = datagram[6] == ICMPV6
        && body.len() == ECHO_LENGTH
        && body[..2] == [ECHO_REPLY, 0]
        && body[8..16] == token;
    is_ours.then(|| u64::from_be_bytes(body[16..].try_into().expect("eight bytes, length checked")))
}

/// What a node hears of its own in packets for its host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Heard {
    /// The reply to the echo request of ours with this number.
    Reply(u64),
    /// The sender prohibits what was sent to it.
    Prohibited,
}

/// What the node itself is to hear of a packet for its host; mostly nothing.
pub fn heard(packet: &[u8], token: EchoToken) -> Option<Heard> {
    if packet.get(6) != Some(&ICMPV6) {
        return None;
    }
    match packet.get(packet::HEADER..)? {
        [ECHO_REPLY, ..] => echo_reply(packet, token).map(Heard::Reply),
        [1, 1, ..] => Some(Heard::Prohibited),
        _ => None,
    }
}

/// The number of the echo request of ours that an ICMPv6 error without extension headers is about.
pub fn quoted_request(error: &[u8], token: EchoToken) -> Option<u64> {
    let request = error.get(packet::HEADER + 8..)?;
    let body = request.get(packet::HEADER..packet::HEADER + ECHO_LENGTH)?;
    let is_ours = request[6] == ICMPV6 && body[..2] == [ECHO_REQUEST, 0] && body[8..16] == token;
    is_ours.then(|| u64::from_be_bytes(body[16..].try_into().expect("eight bytes, length checked")))
}

/// How many ICMPv6 errors a node sends: a token bucket (RFC 4443 §2.4 f).
#[derive(Debug)]
pub struct ErrorLimit {
    tokens: u32,
    refilled: Instant,
}

/// A burst of errors, and errors a second.
const ERRORS: u32 = 100;

impl ErrorLimit {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: ERRORS,
            refilled: now,
        }
    }

    /// Whether one more error may be sent.
    pub fn allows(&mut self, now: Instant) -> bool {
        let step = Duration::from_secs(1) / ERRORS;
        let steps = now.saturating_duration_since(self.refilled).as_nanos() / step.as_nanos();
        if steps > 0 {
            self.tokens = u32::try_from(steps).map_or(ERRORS, |steps| {
                self.tokens.saturating_add(steps).min(ERRORS)
            });
            self.refilled = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecn::Ecn;

    const OWN: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0x600, 9, 9, 9, 0, 0, 0, 1);
    const TOKEN: EchoToken = *b"mesh-tok";

    #[test]
    fn an_error_quotes_the_packet_and_carries_a_right_checksum() {
        let offending = packet::icmpv6(OTHER, OWN, &[128, 0, 0, 0, 1, 2, 3, 4, 5]);
        let error = error(Unreachable::SourcePolicy, OWN, &offending).unwrap();
        let header = Ipv6Header::parse(&error).unwrap();
        assert_eq!(
            (header.source, header.destination, header.next_header),
            (OWN, OTHER, ICMPV6)
        );
        assert_eq!(&error[40..42], &[1, 5]);
        assert_eq!(&error[48..], &offending[..]);
        assert_eq!(packet::checksum(OWN, OTHER, ICMPV6, &error[40..]), 0);
    }

    #[test]
    fn errors_are_not_answered_with_errors() {
        let unreachable = packet::icmpv6(OTHER, OWN, &[1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(error(Unreachable::NoRoute, OWN, &unreachable), None);
        let redirect = packet::icmpv6(OTHER, OWN, &[REDIRECT, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(error(Unreachable::NoRoute, OWN, &redirect), None);
        let from_multicast = packet::icmpv6(
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            OWN,
            &[128, 0, 0, 0, 0, 0, 0, 0],
        );
        assert_eq!(error(Unreachable::NoRoute, OWN, &from_multicast), None);
        let later_fragment = packet::ipv6(
            OTHER,
            OWN,
            44,
            &[17, 0, 0, 8, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9],
        );
        assert_eq!(error(Unreachable::NoRoute, OWN, &later_fragment), None);
    }

    #[test]
    fn no_error_is_longer_than_the_minimum_mtu() {
        let offending = packet::ipv6(OTHER, OWN, 17, &[0; 1400]);
        assert_eq!(
            error(Unreachable::HopLimit, OWN, &offending).unwrap().len(),
            MIN_MTU
        );
    }

    #[test]
    fn only_replies_to_our_own_requests_are_recognised() {
        let request = echo_request(OWN, OTHER, TOKEN, 77);
        assert_eq!(echo_reply(&request, TOKEN), None, "a request is no reply");
        let mut reply = request;
        reply[40] = ECHO_REPLY;
        assert_eq!(echo_reply(&reply, TOKEN), Some(77));
        assert_eq!(echo_reply(&reply, *b"otherone"), None);
        assert_eq!(echo_reply(&reply[..60], TOKEN), None);
    }

    #[test]
    fn an_error_about_a_first_fragment_is_one_about_its_datagram() {
        let mut whole = vec![0; relayed::OVERHEAD];
        whole.extend_from_slice(&[4; 1400]);
        relayed::write_headers(&mut whole, OTHER, OWN, 64, Ecn::NotEct);
        let relay = Ipv6Addr::new(0x600, 5, 5, 5, 0, 0, 0, 1);
        let fragments = crate::fragment::fragments(&whole, 1300, 7);
        for about in [&whole, &fragments[0]] {
            let error = error(Unreachable::TooBig(1280), relay, about).unwrap();
            let read = RelayError::parse(&error).unwrap();
            assert_eq!((read.relay, read.destination), (relay, OWN));
            assert!(read.datagram.starts_with(&[4; 16]));
        }
        let later = packet::icmpv6(
            relay,
            OTHER,
            &[[2, 0, 0, 0, 0, 0, 5, 0].as_slice(), &fragments[1]].concat(),
        );
        assert_eq!(RelayError::parse(&later), None);
    }

    #[test]
    fn errors_are_limited_to_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut limit = ErrorLimit::new(start);
        let burst = (0..1000).filter(|_| limit.allows(start)).count();
        assert_eq!(burst, 100);
        let later = (0..1000u64)
            .filter(|i| limit.allows(start + Duration::from_millis(*i)))
            .count();
        assert!((99..=101).contains(&later), "{later} errors in one second");
    }
}
