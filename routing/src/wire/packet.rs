//! The header of a packet, and who may send one (RFC 8966 §4 and §4.2).

use std::net::Ipv6Addr;

use thiserror::Error;

use super::tlv::Tlvs;
use super::{HEADER_LEN, MAGIC, PORT, VERSION};

/// Why a whole packet is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// From an address that is not link-local.
    #[error("a packet from {0}, which is not a link-local address")]
    Source(Ipv6Addr),
    /// From another port than Babel's.
    #[error("a packet from port {0}")]
    Port(u16),
    /// Shorter than a header.
    #[error("a packet of {0} bytes has no header")]
    NoHeader(usize),
    /// The first byte is another.
    #[error("a packet that begins with {0}")]
    Magic(u8),
    /// Another version of the protocol.
    #[error("a packet of version {0}")]
    Version(u8),
    /// The body is longer than what was received.
    #[error("a body of {body} bytes in a packet of {packet}")]
    Truncated {
        /// As the header has it.
        body: usize,
        /// What was received, header included.
        packet: usize,
    },
}

/// Whether a packet may come from here: to be asked before [`Packet::parse`].
///
/// # Errors
/// [`DecodeError::Source`] or [`DecodeError::Port`]: to be ignored without an answer.
pub const fn check_source(address: Ipv6Addr, port: u16) -> Result<(), DecodeError> {
    //= RFC 8966 §4 source
    if !address.is_unicast_link_local() {
        return Err(DecodeError::Source(address));
    }
    if port != PORT {
        return Err(DecodeError::Port(port));
    }
    Ok(())
}

/// A packet whose header was read.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the header of a UDP payload. The trailer is left alone: no TLV known here may stand in it but padding.
    ///
    /// # Errors
    /// [`DecodeError`]: the packet is to be ignored without an answer.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((&[magic, version, high, low], rest)) = datagram.split_first_chunk::<HEADER_LEN>()
        else {
            return Err(DecodeError::NoHeader(datagram.len()));
        };
        //= RFC 8966 §4.2 magic
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic));
        }
        //= RFC 8966 §4.2 version
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        //= RFC 8966 §4 receive
        //= RFC 8966 §4.2 trailer
        let length = usize::from(u16::from_be_bytes([high, low]));
        match rest.get(..length) {
            Some(body) => Ok(Self { body }),
            None => Err(DecodeError::Truncated {
                body: length,
                packet: datagram.len(),
            }),
        }
    }

    /// Its TLVs as they came, without the trailer.
    pub(crate) const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// What is in it, in its order. `source`, where the packet came from, is the next hop until it names another.
    ///
    /// At most 32,767 TLVs, since a body has at most 65,535 bytes and what is not padding at least two.
    pub fn tlvs(&self, source: Ipv6Addr) -> Tlvs<'a> {
        Tlvs::new(self.body, source)
    }
}
