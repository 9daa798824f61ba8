//! Super-packets: what the kernel hands over and takes when a TUN device has `IFF_VNET_HDR`.
//!
//! [`split()`] takes apart what was read, [`Coalescer`] puts together what will be written. Pure: bytes in, bytes out.
//! Only IPv6 is taken apart or put together, since the overlay carries nothing else.
#![forbid(unsafe_code)]

mod coalesce;
mod split;

pub use coalesce::{Coalescer, SEGMENTS};
pub use split::{Segments, SplitError, split};

use crate::io::checksum;

/// Length of the virtio header before every packet of the TUN device.
pub const HEADER: usize = 10;

/// The longest packet: what the length fields of IP can say.
pub const PACKET: usize = 65535;

/// The longest frame: virtio header and packet. A buffer for [`Tun::read`](super::tun::Tun::read) holds this much.
pub const FRAME: usize = HEADER + PACKET;

pub(super) const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// `struct virtio_net_hdr` (virtio 1.2 §5.1.6) in its 10-byte form, fields in native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioHeader {
    /// The checksum field holds the pseudo-header's sum only; whoever sends the packet on must complete it.
    pub needs_checksum: bool,
    /// Whether, and how, the packet is to be cut into segments.
    pub segmentation: Segmentation,
    /// Length of all headers (a hint; [`split()`] reads the packet instead).
    pub header_length: u16,
    /// Payload bytes in each segment but the last.
    pub segment_size: u16,
    /// Where the checksummed part begins, from the start of the packet.
    pub checksum_start: u16,
    /// Where the checksum field is, from `checksum_start`.
    pub checksum_offset: u16,
}

/// The `gso_type` of a virtio header, without its ECN bit (TCP's CWR flag says the same).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Segmentation {
    /// One packet.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of equal length, the last one may be shorter.
    Udp,
    /// A type that was not asked for (UDP fragmentation) or is not known.
    Other(u8),
}

const NEEDS_CHECKSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

impl VirtioHeader {
    /// Reads the header of a frame.
    pub fn parse(bytes: [u8; HEADER]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            segmentation: match bytes[1] & !GSO_ECN {
                0 => Segmentation::None,
                1 => Segmentation::Tcp4,
                4 => Segmentation::Tcp6,
                5 => Segmentation::Udp,
                other => Segmentation::Other(other),
            },
            header_length: field(2),
            segment_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        }
    }

    /// The bytes to write before a packet.
    pub fn emit(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = if self.needs_checksum {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = match self.segmentation {
            Segmentation::None => 0,
            Segmentation::Tcp4 => 1,
            Segmentation::Tcp6 => 4,
            Segmentation::Udp => 5,
            Segmentation::Other(other) => other,
        };
        let fields = [
            self.header_length,
            self.segment_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (to, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// The 16-bit field at `at` of a packet whose length has been checked.
fn be16(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// The 32-bit field at `at` of a packet whose length has been checked.
fn be32(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// Sum of the IPv6 pseudo-header (RFC 8200 §8.1) for `length` bytes of `protocol`; the packet has a whole IPv6 header.
fn pseudo_header(packet: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = checksum::sum(&packet[8..IPV6_HEADER], 0);
    addresses + u64::from(u16::from(protocol).to_be()) + u64::from((length as u16).to_be())
}

#[cfg(test)]
mod kernel;
#[cfg(test)]
mod laws;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
