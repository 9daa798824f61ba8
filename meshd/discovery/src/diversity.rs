//! Who may stand in the table of the DHT: nobody's neighbours fill it, however many keys they have.
//!
//! Pure. The table itself is libp2p's; this says whom to put there. An attacker has as many keys as it likes to mine, but addresses cost
//! money: in one bucket there are at most two nodes of one /24 (IPv6: /48), in the whole table at most five of one /16 (IPv6: /32).
//! Private addresses, which nobody on the Internet can have, share one larger limit: on a LAN all nodes are of one network.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::{
    NodeKey,
    hygiene::{is_private, party, provider},
};

/// Nodes of one /24 or /48 in one bucket.
pub const MAX_PER_PARTY: usize = 2;
/// Nodes of one /16 or /32 in the table.
pub const MAX_PER_PROVIDER: usize = 5;
/// Nodes with private addresses in one bucket, and in the table.
pub const MAX_PRIVATE: (usize, usize) = (8, 64);

/// Why a node does not get into the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Crowded {
    /// The bucket has enough nodes of its network.
    #[error("the bucket has enough nodes of its network")]
    Bucket,
    /// The table has enough nodes of its provider.
    #[error("the table has enough nodes of its provider")]
    Table,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    bucket: u32,
    party: IpNetwork,
    provider: IpNetwork,
    is_private: bool,
}

/// Who stands in the table, and from where.
#[derive(Clone, Debug, Default)]
pub struct Diversity {
    seats: BTreeMap<NodeKey, Seat>,
}

impl Diversity {
    /// Seats a node in a bucket (the logarithm of its distance) if its network has not enough seats. Who has a seat keeps it, under a new
    /// address only if there is room for that.
    ///
    /// # Errors
    /// Why it gets none.
    pub fn seat(&mut self, key: NodeKey, bucket: u32, ip: std::net::IpAddr) -> Result<(), Crowded> {
        let seat = Seat {
            bucket,
            party: party(ip),
            provider: provider(ip),
            is_private: is_private(ip) || ip.is_loopback(),
        };
        let others = || {
            let others = self.seats.iter().filter(|(other, _)| **other != key);
            others.map(|(_, seat)| seat)
        };
        let (in_bucket, in_table, most) = if seat.is_private {
            let private = || others().filter(|other| other.is_private);
            let in_bucket = private().filter(|other| other.bucket == bucket).count();
            (in_bucket, private().count(), MAX_PRIVATE)
        } else {
            let neighbours = others().filter(|other| other.party == seat.party);
            let in_bucket = neighbours.filter(|other| other.bucket == bucket).count();
            let in_table = others().filter(|other| other.provider == seat.provider);
            (
                in_bucket,
                in_table.count(),
                (MAX_PER_PARTY, MAX_PER_PROVIDER),
            )
        };
        if in_bucket >= most.0 {
            return Err(Crowded::Bucket);
        }
        if in_table >= most.1 {
            return Err(Crowded::Table);
        }
        self.seats.insert(key, seat);
        Ok(())
    }

    /// Somebody left the table.
    pub fn leave(&mut self, key: &NodeKey) {
        self.seats.remove(key);
    }

    /// How many stand in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn key(n: u32) -> NodeKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        NodeKey(key)
    }

    fn ip(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
        Ipv4Addr::new(a, b, c, d).into()
    }

    #[test]
    fn two_hundred_sybils_of_one_provider_get_five_seats() {
        let mut table = Diversity::default();
        let sybils = (0..200u32).filter(|n| {
            let bytes = n.to_be_bytes();
            table.seat(key(*n), n % 20, ip(11, 22, bytes[3], 1)).is_ok()
        });
        assert_eq!(sybils.count(), MAX_PER_PROVIDER);
        let honest = (0..20u8).filter(|n| {
            let key = key(1000 + u32::from(*n));
            table.seat(key, 3, ip(30 + n, 1, 1, 1)).is_ok()
        });
        assert_eq!(honest.count(), 20);
    }

    #[test]
    fn a_bucket_has_two_nodes_of_one_network() {
        let mut table = Diversity::default();
        assert_eq!(table.seat(key(1), 7, ip(11, 2, 3, 4)), Ok(()));
        assert_eq!(table.seat(key(2), 7, ip(11, 2, 3, 5)), Ok(()));
        assert_eq!(table.seat(key(3), 7, ip(11, 2, 3, 6)), Err(Crowded::Bucket));
        assert_eq!(table.seat(key(3), 8, ip(11, 2, 3, 6)), Ok(()));
        table.leave(&key(1));
        assert_eq!(table.seat(key(4), 7, ip(11, 2, 3, 7)), Ok(()));
    }

    #[test]
    fn who_has_a_seat_keeps_it() {
        let mut table = Diversity::default();
        for n in 0..2 {
            table.seat(key(n), 7, ip(11, 2, 3, 4)).unwrap();
        }
        assert_eq!(table.seat(key(1), 7, ip(11, 2, 3, 9)), Ok(()));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_lan_has_room_but_not_all_of_it() {
        let mut table = Diversity::default();
        let seated = (0..200u32).filter(|n| {
            let last = n.to_be_bytes()[3];
            table.seat(key(*n), n % 16, ip(192, 168, 1, last)).is_ok()
        });
        assert_eq!(seated.count(), MAX_PRIVATE.1);
        assert_eq!(table.seat(key(999), 0, ip(11, 1, 1, 1)), Ok(()));
    }
}
