//! Those who have connected and not proven yet who they are: few, and few from each network.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr},
};

/// So many wait at most, in all.
pub(super) const MAX: usize = 64;
/// And so many of one network: IPv4 /24, IPv6 /48.
pub(super) const MAX_OF_NETWORK: usize = 8;

/// Names one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub u64);

/// Who waits, the longest first.
///
/// Where it is full, a newcomer takes the place of the oldest that has said nothing (of its network, if that is what is full), and only
/// where all have begun well, of the oldest of those: whoever means it speaks within a round trip, and whoever only holds places gives them
/// up to the next of its kind.
#[derive(Debug, Default)]
pub struct Waiting(VecDeque<Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    network: Network,
    /// It has begun with a message to our key.
    has_spoken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = Ipv6Addr::segments(&v6);
                Self::V6([a, b, c])
            }
        }
    }
}

impl Waiting {
    /// One more waits, who has connected from there. Returns whose place it takes, if it takes somebody's: that connection is to be
    /// closed.
    pub fn admit(&mut self, place: Place, from: IpAddr) -> Option<Place> {
        let network = Network::of(from);
        let of_network = |entry: &Entry| entry.network == network;
        let is_network_full =
            self.0.iter().filter(|entry| of_network(entry)).count() >= MAX_OF_NETWORK;
        let left = if is_network_full {
            self.take_oldest(of_network)
        } else if self.0.len() >= MAX {
            self.take_oldest(|_| true)
        } else {
            None
        };
        self.0.push_back(Entry {
            place,
            network,
            has_spoken: false,
        });
        left
    }

    fn take_oldest(&mut self, may_go: impl Fn(&Entry) -> bool) -> Option<Place> {
        let silent = |entry: &Entry| may_go(entry) && !entry.has_spoken;
        let at = self.0.iter().position(silent);
        let at = at.or_else(|| self.0.iter().position(&may_go))?;
        self.0.remove(at).map(|entry| entry.place)
    }

    /// It has begun with a message to our key.
    pub fn note_spoken(&mut self, place: Place) {
        for entry in self.0.iter_mut().filter(|entry| entry.place == place) {
            entry.has_spoken = true;
        }
    }

    /// It waits no longer: it has proven who it is, or is gone.
    pub fn leave(&mut self, place: Place) {
        self.0.retain(|entry| entry.place != place);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_takes_no_place_of_another_until_all_are_taken() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.admit(Place(0), from("192.0.2.1")), None);
        let flood = |n: u64| IpAddr::from([198, 51, 100, (n % 256) as u8]);
        for n in 1..=2_000 {
            let left = waiting.admit(Place(n), flood(n));
            let oldest = n.checked_sub(MAX_OF_NETWORK as u64).filter(|n| *n > 0);
            assert_eq!(left, oldest.map(Place));
        }
        assert_eq!(waiting.len(), 1 + MAX_OF_NETWORK);
        for n in 0..MAX as u64 {
            waiting.admit(Place(5_000 + n), IpAddr::from([10, 0, n as u8, 1]));
        }
        assert_eq!(waiting.len(), MAX);
        waiting.leave(Place(5_000));
        assert_eq!(waiting.len(), MAX - 1);
    }

    #[test]
    fn who_has_spoken_goes_last() {
        let mut waiting = Waiting::default();
        let near = from("192.0.2.1");
        waiting.admit(Place(0), near);
        waiting.note_spoken(Place(0));
        for n in 1..100 {
            assert_ne!(waiting.admit(Place(n), near), Some(Place(0)));
            if n > 93 {
                waiting.note_spoken(Place(n));
            }
        }
        assert_eq!(waiting.admit(Place(100), near), Some(Place(93)));
        waiting.note_spoken(Place(100));
        assert_eq!(waiting.admit(Place(101), near), Some(Place(0)));
        assert_eq!(waiting.len(), MAX_OF_NETWORK);
    }

    #[test]
    fn networks_are_told_apart_by_24_and_48_bits() {
        let same = |one: &str, other: &str| Network::of(from(one)) == Network::of(from(other));
        assert!(same("192.0.2.1", "192.0.2.255") && !same("192.0.2.1", "192.0.3.1"));
        assert!(
            same("2001:db8:1:2::3", "2001:db8:1:9::1") && !same("2001:db8:1::", "2001:db8:2::")
        );
        assert!(same("::ffff:192.0.2.1", "192.0.2.9"));
    }
}
