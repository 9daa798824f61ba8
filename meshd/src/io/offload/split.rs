//! Taking apart what the kernel left in one piece.

use super::{
    HEADER, IPV6_HEADER, Segmentation, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM,
    UDP_HEADER, VirtioHeader, be16, be32, pseudo_header,
};
use crate::io::checksum;

/// The longest headers that a segment may repeat: IPv6, extension headers, TCP with all its options.
const HEADERS: usize = 256;

const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Why a frame was refused. All of them mean that the virtio header and the packet do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The frame ends before the virtio header, the IPv6 header or the transport header does.
    #[error("frame is truncated")]
    Truncated,
    /// The length in the IPv6 header is not that of the packet.
    #[error("IPv6 payload length is wrong")]
    Length,
    /// The checksum field lies outside of the packet, or not where the protocol has it.
    #[error("checksum field is misplaced")]
    Checksum,
    /// A super-packet of a kind that was not enabled, or of another protocol than the packet's.
    #[error("segmentation type does not fit the packet")]
    Type,
    /// A super-packet with segments of zero bytes, without any payload, or with more than 256 bytes of headers.
    #[error("segment size is unusable")]
    Segment,
}

/// The packets of one frame, in order. Not an `Iterator`, since each packet lives in the frame only until the next.
#[derive(Debug)]
pub struct Segments<'frame> {
    packet: &'frame mut [u8],
    plan: Plan,
    /// Where the next segment's payload begins; the packet's length when there is none left.
    at: usize,
}

#[derive(Debug)]
enum Plan {
    Whole,
    Cut {
        protocol: u8,
        transport: usize,
        size: usize,
        sequence: u32,
        flags: u8,
        headers: [u8; HEADERS],
        length: usize,
    },
}

/// Checks a frame read from the TUN device (virtio header and packet) and prepares to take it apart.
///
/// Each packet comes out ready to be sealed: contiguous, lengths and checksums right, TCP sequence numbers advanced, PSH
/// and FIN on the last only, CWR on the first only. Nothing is copied but the headers: each segment's are written over
/// the end of the one before it. What is not IPv6 comes out as it is, for the caller to discard.
pub fn split(frame: &mut [u8]) -> Result<Segments<'_>, SplitError> {
    let Some((header, packet)) = frame.split_first_chunk_mut::<HEADER>() else {
        return Err(SplitError::Truncated);
    };
    let header = VirtioHeader::parse(*header);
    match packet.first() {
        None => return Err(SplitError::Truncated),
        Some(first) if first >> 4 != 6 => {
            return Ok(Segments {
                packet,
                plan: Plan::Whole,
                at: 0,
            });
        }
        Some(_) if packet.len() < IPV6_HEADER => return Err(SplitError::Truncated),
        Some(_) if packet.len() - IPV6_HEADER != usize::from(be16(packet, 4)) => {
            return Err(SplitError::Length);
        }
        Some(_) => {}
    }
    let protocol = match header.segmentation {
        Segmentation::None => {
            if header.needs_checksum {
                complete_checksum(packet, header)?;
            }
            return Ok(Segments {
                packet,
                plan: Plan::Whole,
                at: 0,
            });
        }
        Segmentation::Tcp6 => TCP,
        Segmentation::Udp => UDP,
        Segmentation::Tcp4 | Segmentation::Other(_) => return Err(SplitError::Type),
    };
    cut(packet, header, protocol)
}

fn cut(packet: &mut [u8], header: VirtioHeader, protocol: u8) -> Result<Segments<'_>, SplitError> {
    let transport = usize::from(header.checksum_start);
    let size = usize::from(header.segment_size);
    // Extension headers are the kernel's business: it says where the transport header is.
    if transport < IPV6_HEADER || (transport == IPV6_HEADER && packet[6] != protocol) {
        return Err(SplitError::Type);
    }
    let (minimum, checksum_offset) = if protocol == TCP {
        (TCP_HEADER, TCP_CHECKSUM)
    } else {
        (UDP_HEADER, UDP_CHECKSUM)
    };
    if !header.needs_checksum || usize::from(header.checksum_offset) != checksum_offset {
        return Err(SplitError::Checksum);
    }
    if packet.len() < transport + minimum {
        return Err(SplitError::Truncated);
    }
    let (length, sequence, flags) = if protocol == TCP {
        let data = usize::from(packet[transport + 12] >> 4) * 4;
        if data < TCP_HEADER {
            return Err(SplitError::Truncated);
        }
        (
            transport + data,
            be32(packet, transport + 4),
            packet[transport + TCP_FLAGS],
        )
    } else {
        (transport + UDP_HEADER, 0, 0)
    };
    if size == 0 || length > HEADERS || length >= packet.len() {
        return Err(SplitError::Segment);
    }
    let mut headers = [0; HEADERS];
    headers[..length].copy_from_slice(&packet[..length]);
    let plan = Plan::Cut {
        protocol,
        transport,
        size,
        sequence,
        flags,
        headers,
        length,
    };
    Ok(Segments {
        packet,
        plan,
        at: length,
    })
}

/// Completes the checksum of a single packet (virtio 1.2 §5.1.6.2): its field holds the pseudo-header's sum.
fn complete_checksum(packet: &mut [u8], header: VirtioHeader) -> Result<(), SplitError> {
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    if start < IPV6_HEADER || field + 2 > packet.len() {
        return Err(SplitError::Checksum);
    }
    let value = checksum::finish(checksum::sum(&packet[start..], 0));
    packet[field..field + 2].copy_from_slice(&value);
    Ok(())
}

impl Segments<'_> {
    /// The next packet; `None` after the last.
    pub fn next_packet(&mut self) -> Option<&mut [u8]> {
        if self.at >= self.packet.len() {
            return None;
        }
        let Plan::Cut {
            protocol,
            transport,
            size,
            sequence,
            flags,
            ref headers,
            length,
        } = self.plan
        else {
            self.at = self.packet.len();
            return Some(self.packet);
        };
        let (first, payload) = (self.at == length, size.min(self.packet.len() - self.at));
        let offset = self.at - length;
        self.at += payload;
        let last = self.at == self.packet.len();

        // The headers go right before the payload, over bytes of the segment before, which the caller has had.
        let segment = &mut self.packet[offset..offset + length + payload];
        segment[..length].copy_from_slice(&headers[..length]);
        let ip_payload = (length + payload - IPV6_HEADER) as u16;
        segment[4..6].copy_from_slice(&ip_payload.to_be_bytes());
        let transport_length = length + payload - transport;
        let field = if protocol == TCP {
            let sequence = sequence.wrapping_add(offset as u32);
            segment[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let cleared = if last { 0 } else { FIN | PSH } | if first { 0 } else { CWR };
            segment[transport + TCP_FLAGS] = flags & !cleared;
            transport + TCP_CHECKSUM
        } else {
            segment[transport + 4..transport + 6]
                .copy_from_slice(&(transport_length as u16).to_be_bytes());
            transport + UDP_CHECKSUM
        };
        segment[field..field + 2].fill(0);
        let pseudo = pseudo_header(segment, protocol, transport_length);
        let value = checksum::finish(checksum::sum(&segment[transport..], pseudo));
        segment[field..field + 2].copy_from_slice(&value);
        Some(segment)
    }

    /// How many packets are still to come.
    pub fn remaining(&self) -> usize {
        match self.plan {
            Plan::Whole => usize::from(self.at < self.packet.len()),
            Plan::Cut { size, .. } => (self.packet.len() - self.at).div_ceil(size),
        }
    }

    /// Length of the longest packet to come, in bytes.
    pub fn longest(&self) -> usize {
        let left = self.packet.len() - self.at;
        match self.plan {
            Plan::Whole => left,
            Plan::Cut { length, size, .. } => length + size.min(left),
        }
    }

    /// The frame's packet as it was read, for looking at addresses: every segment has the same.
    ///
    /// Meaningful only before the first [`next_packet`](Self::next_packet).
    pub fn packet(&self) -> &[u8] {
        self.packet
    }
}
