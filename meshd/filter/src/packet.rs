//! What a packet is to the filter: where it comes from, where it goes, and which conversation it belongs to.

use std::net::Ipv6Addr;

/// Length of the fixed IPv6 header, in bytes (RFC 8200 §3).
const HEADER: usize = 40;
/// Extension headers looked through before giving up, as the delivery step does: no honest packet has more.
const MAX_EXTENSION_HEADERS: usize = 8;
/// Next headers that the walk knows.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;
const TCP: u8 = 6;
const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// As much of a TCP header as says everything that matters here; of UDP and ICMPv6, all of it.
const TCP_HEAD: usize = 14;
const SHORT_HEAD: usize = 8;
/// As much of TCP, UDP or an echo as names the conversation in what an error quotes.
const QUOTED_HEAD: usize = 8;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// A packet as far as the filter looks into it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Where it comes from.
    pub source: Ipv6Addr,
    /// Where it goes.
    pub destination: Ipv6Addr,
    /// Which part of a packet it is, if it has a fragment header that says it is not all of it.
    pub fragment: Option<Fragment>,
    /// What it carries; none: it is a fragment other than the first, which does not say.
    pub upper: Option<Upper>,
}

/// A part of a packet that was cut (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Says which packet, together with its addresses.
    pub identification: u32,
    /// Where the part belongs in what was cut, in bytes.
    pub start: u32,
    /// Where it ends there.
    pub end: u32,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Upper {
    /// TCP between these ports.
    Tcp {
        /// Of the sender.
        source: u16,
        /// Of the receiver.
        destination: u16,
        /// What its flags say.
        step: Step,
    },
    /// UDP between these ports.
    Udp {
        /// Of the sender.
        source: u16,
        /// Of the receiver.
        destination: u16,
    },
    /// An echo request with this identifier (RFC 4443 §4.1).
    EchoRequest(u16),
    /// An echo reply with this identifier.
    EchoReply(u16),
    /// An ICMPv6 error, and what it is about: the source and the destination of that packet, and what it carried. None: that cannot be
    /// told, or is an error itself.
    Error(Option<Quoted>),
    /// Another protocol, by its number, ICMPv6 of another kind among them.
    Other(u8),
}

/// A packet that an ICMPv6 error is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quoted {
    /// Who sent it.
    pub source: Ipv6Addr,
    /// Whom it was for.
    pub destination: Ipv6Addr,
    /// What it carried; never an error.
    pub upper: QuotedUpper,
}

/// What a quoted packet carried, as far as it names a conversation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QuotedUpper {
    /// TCP from the first port to the second.
    Tcp(u16, u16),
    /// UDP from the first port to the second.
    Udp(u16, u16),
    /// An echo request with this identifier.
    EchoRequest(u16),
    /// Another protocol but ICMPv6.
    Other(u8),
}

/// Where in the life of a TCP connection a segment belongs, by its flags (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// It asks for a connection: SYN without ACK, whatever else is set but RST.
    Begin,
    /// It grants one: SYN and ACK.
    Grant,
    /// It belongs to a connection that exists: ACK.
    Go,
    /// It ends one direction: FIN.
    End,
    /// It ends the connection: RST.
    Reset,
    /// None of the flags that a segment has.
    Stray,
}

/// Why bytes are not a packet that can be judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PacketError {
    /// Another IP version.
    #[error("not an IPv6 packet")]
    Version,
    /// Shorter than it says.
    #[error("truncated IPv6 packet")]
    Truncated,
    /// The extension headers do not lead to an upper layer whose header is all there; in the first fragment neither (RFC 7112 §5).
    #[error("extension headers that lead nowhere")]
    Chain,
    /// A routing header that names further hops: what is judged would not be where it ends.
    #[error("a routing header with hops left")]
    Routing,
}

impl Step {
    fn of(flags: u8) -> Self {
        let [fin, syn, rst, ack] = [0x01, 0x02, 0x04, 0x10];
        let has = |flag: u8| flags & flag != 0;
        match () {
            () if has(rst) => Self::Reset,
            () if has(syn) && has(ack) => Self::Grant,
            () if has(syn) => Self::Begin,
            () if has(fin) => Self::End,
            () if has(ack) => Self::Go,
            () => Self::Stray,
        }
    }
}

/// What the extension headers lead to.
struct Chain {
    protocol: u8,
    offset: usize,
    fragment: Option<(u32, u32, usize)>,
}

impl Packet {
    /// Reads a whole packet, or a whole fragment; what follows its own length is ignored.
    ///
    /// # Errors
    /// [`PacketError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PacketError> {
        let (header, payload) = fixed(bytes)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if length > payload.len() {
            return Err(PacketError::Truncated);
        }
        let bytes = &bytes[..HEADER + length];
        let chain = walk(header[6], bytes)?;
        let fragment = chain.fragment.map(|(identification, start, offset)| {
            let rest = u32::try_from(bytes.len() - offset).unwrap_or(u32::MAX);
            Fragment {
                identification,
                start,
                end: start.saturating_add(rest),
            }
        });
        let is_later = fragment.is_some_and(|fragment| fragment.start != 0);
        let upper = match is_later {
            true => None,
            false => Some(upper(&chain, bytes)?),
        };
        Ok(Self {
            source: address(header, 8),
            destination: address(header, 24),
            fragment,
            upper,
        })
    }
}

/// The fixed header and what follows it.
fn fixed(bytes: &[u8]) -> Result<(&[u8; HEADER], &[u8]), PacketError> {
    if bytes.first().is_some_and(|first| first >> 4 != 6) {
        return Err(PacketError::Version);
    }
    bytes.split_first_chunk().ok_or(PacketError::Truncated)
}

/// Walks the extension headers to the upper layer, or to the end of what a fragment other than the first has of them.
fn walk(next_header: u8, bytes: &[u8]) -> Result<Chain, PacketError> {
    let mut chain = Chain {
        protocol: next_header,
        offset: HEADER,
        fragment: None,
    };
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let rest = bytes.get(chain.offset..).ok_or(PacketError::Chain)?;
        let length = match chain.protocol {
            HOP_BY_HOP | ROUTING | OPTIONS | MOBILITY | HIP | SHIM6 => {
                let head = rest.first_chunk::<8>().ok_or(PacketError::Chain)?;
                if chain.protocol == ROUTING && head[3] != 0 {
                    return Err(PacketError::Routing);
                }
                (usize::from(head[1]) + 1) * 8
            }
            AUTHENTICATION => {
                let head = rest.first_chunk::<2>().ok_or(PacketError::Chain)?;
                (usize::from(head[1]) + 2) * 4
            }
            FRAGMENT => {
                let head = rest.first_chunk::<8>().ok_or(PacketError::Chain)?;
                let place = u16::from_be_bytes([head[2], head[3]]);
                let (start, is_last) = (place & !7, place & 1 == 0);
                // One that is all of its packet is no fragment (RFC 6946).
                if start != 0 || !is_last {
                    let identification = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                    chain.fragment = Some((identification, start.into(), chain.offset + 8));
                }
                if start != 0 {
                    chain.protocol = head[0];
                    chain.offset += 8;
                    return Ok(chain);
                }
                8
            }
            _ => return Ok(chain),
        };
        chain.protocol = rest[0];
        chain.offset += length;
    }
    Err(PacketError::Chain)
}

fn upper(chain: &Chain, bytes: &[u8]) -> Result<Upper, PacketError> {
    let message = bytes.get(chain.offset..).ok_or(PacketError::Chain)?;
    let field = |at: usize| -> u16 { u16::from_be_bytes([message[at], message[at + 1]]) };
    let least = match chain.protocol {
        TCP => TCP_HEAD,
        UDP | ICMPV6 => SHORT_HEAD,
        _ => 0,
    };
    if message.len() < least {
        return Err(PacketError::Chain);
    }
    Ok(match chain.protocol {
        TCP => Upper::Tcp {
            source: field(0),
            destination: field(2),
            step: Step::of(message[13]),
        },
        UDP => Upper::Udp {
            source: field(0),
            destination: field(2),
        },
        ICMPV6 => match message[0] {
            0..ECHO_REQUEST => Upper::Error(quoted(&message[8..])),
            ECHO_REQUEST => Upper::EchoRequest(field(4)),
            ECHO_REPLY => Upper::EchoReply(field(4)),
            _ => Upper::Other(ICMPV6),
        },
        protocol => Upper::Other(protocol),
    })
}

/// What an error is about: as much of the packet as fitted, so it may end before it says it does.
fn quoted(bytes: &[u8]) -> Option<Quoted> {
    let (header, _) = fixed(bytes).ok()?;
    let chain = walk(header[6], bytes).ok()?;
    if chain.fragment.is_some_and(|(_, start, _)| start != 0) {
        return None;
    }
    let message = bytes.get(chain.offset..)?;
    let head = message.first_chunk::<QUOTED_HEAD>();
    let field = |at: usize| head.map(|head| u16::from_be_bytes([head[at], head[at + 1]]));
    let upper = match chain.protocol {
        TCP => QuotedUpper::Tcp(field(0)?, field(2)?),
        UDP => QuotedUpper::Udp(field(0)?, field(2)?),
        ICMPV6 if *message.first()? == ECHO_REQUEST => QuotedUpper::EchoRequest(field(4)?),
        ICMPV6 => return None,
        protocol => QuotedUpper::Other(protocol),
    };
    Some(Quoted {
        source: address(header, 8),
        destination: address(header, 24),
        upper,
    })
}

fn address(header: &[u8; HEADER], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = header[at..at + 16]
        .try_into()
        .expect("sixteen bytes of forty");
    Ipv6Addr::from(octets)
}
