//! Tickets: an invite as text.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

use crate::{
    InviteSeed, NetworkId,
    keys::{first, from_base32, to_base32},
};

/// What every ticket begins with, and what a text is known by.
const HEAD: &str = "MESH";
/// The only version of the layout that there is.
const VERSION: u8 = 1;
/// What precedes the rest of a ticket where its checksum is computed.
const CHECKSUM: &[u8] = b"meshd ticket v1";
const CHECKSUM_LEN: usize = 4;

/// What an admin gives to whoever shall join. Secret, since it carries the seed of the invite.
#[derive(Clone)]
pub struct Ticket {
    /// The network.
    pub network: NetworkId,
    /// The secret of the invite.
    pub seed: InviteSeed,
    /// Where a member takes libp2p connections over TCP, if it is known. Of an IPv6 address, no more than address and port is kept.
    pub endpoint: Option<SocketAddr>,
}

/// Why a text is no ticket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin as tickets do, or has characters that none has.
    #[error("not a ticket: tickets begin with {HEAD} and have letters and digits")]
    Format,
    /// The checksum is wrong: a character is missing or wrong.
    #[error("a ticket with a wrong or missing character")]
    Checksum,
    /// Of a later release.
    #[error("a ticket of a later release of meshd")]
    Version,
}

impl Ticket {
    /// Longest text, in characters.
    pub const MAX_TEXT: usize = 110;
    /// Longest text that is read, with all white space in it.
    const MAX_READ: usize = 1_024;

    /// The text: upper-case letters and digits, at most [`Self::MAX_TEXT`], so that a QR code of it is small.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.push(VERSION);
        bytes.extend(self.network.0);
        bytes.extend(self.seed.0);
        match self.endpoint {
            None => {}
            Some(endpoint) => {
                match endpoint.ip() {
                    IpAddr::V4(ip) => bytes.extend(ip.octets()),
                    IpAddr::V6(ip) => bytes.extend(ip.octets()),
                }
                bytes.extend(endpoint.port().to_be_bytes());
            }
        }
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        let body = Zeroizing::new(to_base32(&bytes));
        let mut text = Zeroizing::new(String::with_capacity(Self::MAX_TEXT));
        text.push_str(HEAD);
        text.extend(body.chars().map(|character| character.to_ascii_uppercase()));
        text
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (network, rest) = bytes.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let endpoint = match rest.split_last_chunk() {
            None if rest.is_empty() => None,
            None => return None,
            Some((ip, port)) => {
                let ip = if let Ok(octets) = <[u8; 4]>::try_from(ip) {
                    IpAddr::V4(Ipv4Addr::from(octets))
                } else {
                    IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?))
                };
                Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
            }
        };
        Some(Self {
            network: NetworkId(*network),
            seed: InviteSeed(*seed),
            endpoint,
        })
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads [`Self::to_text`], in either case, with white space or hyphens anywhere.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.len() > Self::MAX_READ {
            return Err(TicketError::Format);
        }
        // Sized at once, so that no half-filled copy of the secret is left behind by a reallocation.
        let mut plain = Zeroizing::new(String::with_capacity(text.len()));
        plain.extend(
            text.chars()
                .filter(|&character| !character.is_whitespace() && character != '-'),
        );
        let (head, body) = plain
            .split_at_checked(HEAD.len())
            .ok_or(TicketError::Format)?;
        let is_base32 = |byte: u8| byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(&byte);
        if !head.eq_ignore_ascii_case(HEAD) || !body.bytes().all(is_base32) {
            return Err(TicketError::Format);
        }
        let bytes = from_base32(body).ok_or(TicketError::Checksum)?;
        let (ticket, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(TicketError::Checksum)?;
        // The text is checked against errors, not against attackers: who knows a seed has no use for a wrong sum.
        if checksum(ticket) != *sum {
            return Err(TicketError::Checksum);
        }
        let (version, rest) = ticket.split_first().ok_or(TicketError::Checksum)?;
        if *version != VERSION {
            return Err(TicketError::Version);
        }
        Self::of_bytes(rest).ok_or(TicketError::Format)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("network", &self.network)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Blake2s256::new()
        .chain_update(CHECKSUM)
        .chain_update(bytes)
        .finalize();
    first(&hash.into())
}
