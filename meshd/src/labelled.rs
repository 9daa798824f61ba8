//! Labelled datagrams: how nodes of the mesh hand a session's datagrams on unread and as they are. `docs/protocol.md` has the layout.
//!
//! Before the datagram stand eight bytes: a label, which the receiver has given to the sender for one pair of nodes, and how many hops
//! are left. So a relay neither opens nor seals anything, and whole super-packets pass through it in one piece.

/// What stands before the datagram, in bytes.
pub const HEADER: usize = 8;

/// The first byte. Those of WireGuard end at 4.
const TYPE: u8 = 5;

/// What stands before a labelled datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// How many hops are left.
    pub hop_limit: u8,
    /// What the receiver calls the pair of nodes.
    pub label: u32,
}

impl Head {
    /// Reads it; nothing: this is no labelled datagram.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match datagram.split_first_chunk::<HEADER>()? {
            (&[TYPE, hop_limit, 0, 0, a, b, c, d], [_, ..]) => Some(Self {
                hop_limit,
                label: u32::from_be_bytes([a, b, c, d]),
            }),
            _ => None,
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; HEADER] {
        let [a, b, c, d] = self.label.to_be_bytes();
        [TYPE, self.hop_limit, 0, 0, a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::vectors;

    #[test]
    fn the_published_vector_holds() {
        let [(_, datagram), (_, labelled)] = &vectors("labelled")[..] else {
            panic!("two lines");
        };
        let head = Head {
            hop_limit: 64,
            label: 0x0a0b_0c0d,
        };
        assert_eq!([&head.bytes(), &datagram[..]].concat(), *labelled);
        assert_eq!(Head::of(labelled), Some(head));
    }

    #[test]
    fn everything_else_is_something_else() {
        let head = Head {
            hop_limit: 3,
            label: 9,
        };
        let right = [&head.bytes()[..], &[4]].concat();
        assert_eq!(Head::of(&right), Some(head));
        for at in [0, 2, 3] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(Head::of(&wrong), None, "byte {at}");
        }
        for length in 0..right.len() {
            assert_eq!(Head::of(&right[..length]), None, "{length} bytes");
        }
    }
}
