//! Fragments of packets between nodes (RFC 8200 §4.5), for paths through the overlay too narrow for a whole relayed datagram.
//!
//! A session carries packets of 1280 bytes over any path (RFC 8200 §5), which with all headers is 80 bytes more. Where a link in between
//! carries only 1280 itself, the end that seals cuts, and the other end puts together again.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use crate::{
    ecn::Ecn,
    packet::{FRAGMENT, HEADER, HeaderError, Ipv6Header, UDP},
};

const FRAGMENT_HEADER: usize = 8;

/// Packets that wait for the rest of their fragments: as many as a batch may bring from one busy peer.
const MAX_PENDING: usize = 64;
/// How long the rest may take. Fragments travel together: what is missing after this was lost.
const LIFETIME: Duration = Duration::from_secs(1);
/// The longest packet put together: a relayed datagram of the longest packet that is ever cut, with room.
const MAX_LENGTH: usize = 2048;
/// The most fragments of one packet: such a packet on a path of 1280 makes two.
const MAX_PARTS: usize = 4;

const _: () = assert!(
    MAX_PENDING * MAX_LENGTH <= 128 << 10,
    "strangers fill this table"
);

/// Cuts an IPv6 packet without extension headers into fragments of at most `mtu` bytes, in order; `id` names the packet among those
/// between its addresses. A packet that fits comes out as it is.
pub fn fragments(packet: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    if packet.len() <= mtu || packet.len() <= HEADER {
        return vec![packet.to_vec()];
    }
    let (header, payload) = packet.split_at(HEADER);
    let size = (mtu.saturating_sub(HEADER + FRAGMENT_HEADER) & !7).max(8);
    let count = payload.len().div_ceil(size);
    let cut = |(index, part): (usize, &[u8])| {
        let offset = (index * size) as u16;
        let more = u16::from(index + 1 < count);
        let mut fragment = Vec::with_capacity(HEADER + FRAGMENT_HEADER + part.len());
        fragment.extend_from_slice(header);
        fragment[4..6].copy_from_slice(&((FRAGMENT_HEADER + part.len()) as u16).to_be_bytes());
        fragment[6] = FRAGMENT;
        fragment.extend_from_slice(&[header[6], 0]);
        fragment.extend_from_slice(&(offset | more).to_be_bytes());
        fragment.extend_from_slice(&id.to_be_bytes());
        fragment.extend_from_slice(part);
        fragment
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// Why a fragment led to nothing, now or ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FragmentError {
    /// Not a fragment of a UDP packet, or one that contradicts itself or those before it (RFC 5722).
    #[error("malformed fragment")]
    Malformed,
    /// It completes a packet longer than any of ours.
    #[error("fragments of too long a packet")]
    TooLong,
}

/// Packets whose fragments have not all arrived.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    pending: Vec<Pending>,
    /// How many were given up, and not yet asked for by [`Self::take_given_up`].
    given_up: u64,
}

#[derive(Debug)]
struct Pending {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    id: u32,
    since: Instant,
    /// Whether a fragment came with a mark: then so did the packet (RFC 3168 §5.3).
    is_marked: bool,
    parts: Vec<Part>,
    /// Length of the payload, as soon as the last fragment is there.
    length: Option<usize>,
}

#[derive(Debug)]
struct Part {
    offset: usize,
    bytes: Vec<u8>,
}

impl Reassembly {
    /// Takes a fragment; returns the packet that it completes, without fragment headers.
    ///
    /// # Errors
    /// [`FragmentError`]; what belongs to the same packet is forgotten with it.
    pub fn push(
        &mut self,
        fragment: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, FragmentError> {
        let old = |pending: &Pending| now.saturating_duration_since(pending.since) > LIFETIME;
        let before = self.pending.len();
        self.pending.retain(|pending| !old(pending));
        self.given_up += (before - self.pending.len()) as u64;

        let (header, id, offset, more, bytes) = parse(fragment).ok_or(FragmentError::Malformed)?;
        let is_of = |pending: &Pending| {
            (pending.source, pending.destination, pending.id)
                == (header.source, header.destination, id)
        };
        let place = self.pending.iter().position(is_of).unwrap_or_else(|| {
            if self.pending.len() >= MAX_PENDING {
                self.pending.remove(0);
                self.given_up += 1;
            }
            self.pending.push(Pending {
                source: header.source,
                destination: header.destination,
                id,
                since: now,
                is_marked: false,
                parts: Vec::with_capacity(2),
                length: None,
            });
            self.pending.len() - 1
        });
        let pending = &mut self.pending[place];
        pending.is_marked |= Ecn::of(fragment) == Ecn::Ce;
        match pending.take(offset, more, bytes) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(self.pending.remove(place).packet(fragment))),
            Err(error) => {
                self.pending.remove(place);
                Err(error)
            }
        }
    }

    /// How many packets were given up since the last call, because fragments were missing.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }
}

impl Pending {
    /// Adds a fragment; returns whether the packet is complete.
    fn take(&mut self, offset: usize, more: bool, bytes: &[u8]) -> Result<bool, FragmentError> {
        let end = offset + bytes.len();
        if end > MAX_LENGTH {
            return Err(FragmentError::TooLong);
        }
        let overlaps = |part: &Part| offset < part.offset + part.bytes.len() && part.offset < end;
        let contradicts = match self.length {
            Some(length) => end > length || !more,
            None => !more && self.parts.iter().any(|part| part.offset > offset),
        };
        // An overlap is an attack, or a fragment that came twice: either way the packet is forgotten (RFC 5722 §4).
        if contradicts || self.parts.iter().any(overlaps) || self.parts.len() >= MAX_PARTS {
            return Err(FragmentError::Malformed);
        }
        if !more {
            self.length = Some(end);
        }
        self.parts.push(Part {
            offset,
            bytes: bytes.to_vec(),
        });
        let have: usize = self.parts.iter().map(|part| part.bytes.len()).sum();
        Ok(self.length == Some(have))
    }

    /// The whole packet, with the fixed header of `fragment`, one of its fragments.
    fn packet(mut self, fragment: &[u8]) -> Vec<u8> {
        self.parts.sort_by_key(|part| part.offset);
        let mut packet = fragment[..HEADER].to_vec();
        for part in &self.parts {
            packet.extend_from_slice(&part.bytes);
        }
        let length = (packet.len() - HEADER) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[6] = UDP;
        if self.is_marked {
            Ecn::Ce.decapsulate(&mut packet);
        }
        packet
    }
}

/// Header, identification, offset, whether more follow, and what is in a fragment of a UDP packet.
fn parse(fragment: &[u8]) -> Option<(Ipv6Header, u32, usize, bool, &[u8])> {
    let header = match Ipv6Header::parse(fragment) {
        Ok(header) if header.next_header == FRAGMENT => header,
        Ok(_) | Err(HeaderError::Version | HeaderError::Truncated) => return None,
    };
    let payload = fragment.get(HEADER..HEADER + header.payload)?;
    let (head, bytes) = payload.split_first_chunk::<FRAGMENT_HEADER>()?;
    let field = u16::from_be_bytes([head[2], head[3]]);
    let (offset, more) = (usize::from(field & !7), field & 1 != 0);
    let id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let is_sound = head[0] == UDP && !bytes.is_empty() && (!more || bytes.len().is_multiple_of(8));
    is_sound.then_some((header, id, offset, more, bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::ipv6;

    const A: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x6aa, 9, 9, 9, 0, 0, 0, 1);

    fn packet(length: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..length).map(|i| i as u8).collect();
        ipv6(A, B, UDP, &payload)
    }

    #[test]
    fn fragments_in_any_order_become_the_packet_again() {
        let now = Instant::now();
        let whole = packet(1320);
        let cut = fragments(&whole, 1280, 7);
        assert_eq!(cut.len(), 2);
        assert!(cut.iter().all(|fragment| fragment.len() <= 1280));
        for order in [[0, 1], [1, 0]] {
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.push(&cut[order[0]], now), Ok(None));
            assert_eq!(
                reassembly.push(&cut[order[1]], now),
                Ok(Some(whole.clone()))
            );
            assert_eq!(reassembly.pending.len(), 0);
        }
    }

    #[test]
    fn a_mark_on_any_fragment_is_one_on_the_packet() {
        let now = Instant::now();
        for (sent, marked, whole) in [
            (Ecn::Ect0, [true, false], Ecn::Ce),
            (Ecn::Ect1, [false, true], Ecn::Ce),
            (Ecn::Ect0, [false, false], Ecn::Ect0),
            (Ecn::NotEct, [false, false], Ecn::NotEct),
            (Ecn::NotEct, [true, false], Ecn::NotEct),
        ] {
            let mut packet = packet(1320);
            sent.write(&mut packet);
            let mut cut = fragments(&packet, 1280, 7);
            assert!(cut.iter().all(|fragment| Ecn::of(fragment) == sent));
            for (fragment, is_marked) in cut.iter_mut().zip(marked) {
                if is_marked {
                    Ecn::Ce.write(fragment);
                }
            }
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.push(&cut[0], now), Ok(None));
            whole.write(&mut packet);
            let result = reassembly.push(&cut[1], now);
            assert_eq!(result, Ok(Some(packet)), "{sent:?} {marked:?}");
        }
    }

    #[test]
    fn packets_of_other_nodes_and_other_numbers_do_not_mix() {
        let now = Instant::now();
        let whole = packet(1320);
        let (first, second) = (fragments(&whole, 1280, 7), fragments(&whole, 1280, 8));
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.push(&first[0], now), Ok(None));
        assert_eq!(reassembly.push(&second[1], now), Ok(None));
        let mut elsewhere = first[1].clone();
        elsewhere[9] ^= 1;
        assert_eq!(reassembly.push(&elsewhere, now), Ok(None));
        assert_eq!(reassembly.pending.len(), 3);
    }

    #[test]
    fn an_overlap_ends_the_packet() {
        let now = Instant::now();
        let cut = fragments(&packet(1320), 1280, 7);
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.push(&cut[0], now), Ok(None));
        assert_eq!(reassembly.push(&cut[0], now), Err(FragmentError::Malformed));
        assert_eq!(reassembly.push(&cut[1], now), Ok(None), "forgotten");
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_time() {
        let now = Instant::now();
        let whole = packet(1320);
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            assert_eq!(
                reassembly.push(&fragments(&whole, 1280, id)[0], now),
                Ok(None)
            );
        }
        assert_eq!(reassembly.pending.len(), MAX_PENDING);
        assert_eq!(reassembly.take_given_up(), 1000 - MAX_PENDING as u64);
        let later = now + LIFETIME + Duration::from_millis(1);
        assert_eq!(
            reassembly.push(&fragments(&whole, 1280, 999)[1], later),
            Ok(None),
            "its first half was given up"
        );
        assert_eq!(reassembly.pending.len(), 1);
        assert_eq!(reassembly.take_given_up(), MAX_PENDING as u64);
    }

    #[test]
    fn a_packet_longer_than_any_of_ours_is_refused() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let cut = fragments(&packet(4000), 1280, 1);
        let results: Vec<_> = cut.iter().map(|cut| reassembly.push(cut, now)).collect();
        assert!(
            results.contains(&Err(FragmentError::TooLong)),
            "{results:?}"
        );
        assert!(!results.iter().any(|result| matches!(result, Ok(Some(_)))));
    }

    proptest! {
        #[test]
        fn every_packet_of_ours_survives(length in 1_usize..1990, mtu in 600_usize..1500, id: u32) {
            let now = Instant::now();
            let whole = packet(length);
            let cut = fragments(&whole, mtu, id);
            prop_assert!(cut.iter().all(|fragment| fragment.len() <= mtu));
            if cut.len() > 1 && cut.len() <= MAX_PARTS {
                let mut reassembly = Reassembly::default();
                let last = cut.iter().map(|cut| reassembly.push(cut, now)).last().unwrap();
                prop_assert_eq!(last, Ok(Some(whole)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..20)) {
            let now = Instant::now();
            let mut reassembly = Reassembly::default();
            for mut frame in frames {
                if let Some(first) = frame.first_mut() {
                    *first = 0x60;
                }
                if frame.len() > 48 {
                    let length = (frame.len() - HEADER) as u8;
                    frame[4..8].copy_from_slice(&[0, length, FRAGMENT, 64]);
                    frame[40] = UDP;
                }
                let _ = reassembly.push(&frame, now);
            }
        }
    }
}
