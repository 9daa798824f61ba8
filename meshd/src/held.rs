//! Packets that wait for their session to open: bounded for each peer and in all, oldest dropped first.

use std::collections::{BTreeMap, VecDeque};

use wireguard::PublicKey;

/// Packets held for one peer (the kernel module's MAX_STAGED_PACKETS).
const MAX_PACKETS: usize = 128;
/// Bytes held for all peers.
const MAX_BYTES: usize = 1 << 20;

/// Packets that wait for a session, by peer.
#[derive(Debug, Default)]
pub struct Held {
    packets: BTreeMap<PublicKey, VecDeque<Vec<u8>>>,
    bytes: usize,
}

impl Held {
    /// Holds a packet; returns how many had to be dropped for it: the peer's oldest ones, or itself where all peers together hold
    /// too much.
    pub fn push(&mut self, peer: PublicKey, packet: Vec<u8>) -> u64 {
        let mut dropped = 0;
        let queue = self.packets.entry(peer).or_default();
        while !queue.is_empty()
            && (queue.len() >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES)
        {
            self.bytes -= queue.pop_front().expect("not empty").len();
            dropped += 1;
        }
        if self.bytes + packet.len() > MAX_BYTES {
            if queue.is_empty() {
                self.packets.remove(&peer);
            }
            return dropped + 1;
        }
        self.bytes += packet.len();
        queue.push_back(packet);
        dropped
    }

    /// Takes everything held for a peer, oldest first.
    pub fn take(&mut self, peer: &PublicKey) -> VecDeque<Vec<u8>> {
        let packets = self.packets.remove(peer).unwrap_or_default();
        self.bytes -= packets.iter().map(Vec::len).sum::<usize>();
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::identity;

    fn peers() -> Vec<PublicKey> {
        (0..16).map(|n| identity(n).node().public_key()).collect()
    }

    #[test]
    fn gives_back_in_order_and_drops_the_oldest() {
        let (peer, mut held) = (peers()[0], Held::default());
        let dropped: u64 = (0..MAX_PACKETS + 3)
            .map(|i| held.push(peer, vec![u8::try_from(i % 251).unwrap(); 10]))
            .sum();
        assert_eq!(dropped, 3);
        let packets = held.take(&peer);
        assert_eq!(
            (packets.len(), packets[0][0], held.bytes),
            (MAX_PACKETS, 3, 0)
        );
        assert!(held.take(&peer).is_empty());
    }

    #[test]
    fn all_peers_together_are_bounded() {
        let mut held = Held::default();
        for peer in peers() {
            for _ in 0..100 {
                held.push(peer, vec![0; 1400]);
            }
        }
        assert!(held.bytes <= MAX_BYTES);
        for peer in peers() {
            held.take(&peer);
        }
        assert_eq!(held.bytes, 0);
        assert!(held.packets.is_empty());
    }
}
