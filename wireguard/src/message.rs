//! What kind of message a datagram is, and whether it was meant for us: all that can be told without any secret.

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac};

use crate::constants::{COOKIE_LEN, INITIATION_LEN, OVERHEAD, RESPONSE_LEN};
use crate::key::PublicKey;

/// A WireGuard message by its clear header (white paper, section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Type 1: somebody wants a session.
    Initiation,
    /// Type 2: the answer to an initiation of ours.
    Response,
    /// Type 3: a peer under load wants our initiation to carry a proof of our address.
    Cookie {
        /// The index in our message that this answers.
        receiver: u32,
    },
    /// Type 4: a sealed packet.
    Data {
        /// The index we gave the keypair; [`crate::Indices::session`] tells which session's it is.
        receiver: u32,
        /// The sender's message counter.
        counter: u64,
    },
}

impl Message {
    /// Reads the header. `None`: not WireGuard (another type, reserved bytes not zero, wrong length).
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let (kind, rest) = datagram.split_first_chunk::<4>()?;
        match (u32::from_le_bytes(*kind), datagram.len()) {
            (1, INITIATION_LEN) => Some(Self::Initiation),
            (2, RESPONSE_LEN) => Some(Self::Response),
            (3, COOKIE_LEN) => Some(Self::Cookie {
                receiver: u32::from_le_bytes(*rest.first_chunk()?),
            }),
            (4, OVERHEAD..) => {
                let (receiver, rest) = rest.split_first_chunk()?;
                let (counter, _) = rest.split_first_chunk()?;
                Some(Self::Data {
                    receiver: u32::from_le_bytes(*receiver),
                    counter: u64::from_le_bytes(*counter),
                })
            }
            _ => None,
        }
    }
}

/// The four bytes at `offset`, as the index they are in a message whose length was checked.
pub(crate) fn index_at(message: &[u8], offset: usize) -> u32 {
    message
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Length of what comes before the sealed part of a data message.
pub(crate) const HEADER_LEN: usize = 16;

/// The header of a data message (type 4).
pub(crate) fn data_header(receiver: u32, counter: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = 4;
    header[4..8].copy_from_slice(&receiver.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
    header
}

/// The first MAC of handshake messages to one key (white paper, section 5.4.4): it shows that the sender knows the
/// receiver's public key, and costs 0.4 µs to check.
#[derive(Clone)]
pub struct Mac1(Blake2sMac<U16>);

impl Mac1 {
    /// For messages to `receiver`: ours to check what arrives, a peer's to write.
    #[expect(
        clippy::missing_panics_doc,
        reason = "a key of 32 bytes is always accepted"
    )]
    pub fn new(receiver: &PublicKey) -> Self {
        let key = Blake2s256::new()
            .chain_update(b"mac1----")
            .chain_update(receiver.as_bytes())
            .finalize();
        Self(
            <Blake2sMac<U16> as KeyInit>::new_from_slice(&key)
                .expect("a BLAKE2s key has at most 32 bytes"),
        )
    }

    /// Whether `message`, of type 1 or 2, carries the right first MAC. Other lengths are never right.
    pub fn verify(&self, message: &[u8]) -> bool {
        if !matches!(message.len(), INITIATION_LEN | RESPONSE_LEN) {
            return false;
        }
        let (covered, macs) = message.split_at(message.len() - 32);
        self.0
            .clone()
            .chain_update(covered)
            .verify_slice(&macs[..16])
            .is_ok()
    }

    /// Writes the MAC into `message`, of type 1 or 2, and clears the second.
    pub fn write(&self, message: &mut [u8]) {
        let Some(length) = message.len().checked_sub(32) else {
            return;
        };
        let (covered, macs) = message.split_at_mut(length);
        let (first, second) = macs.split_at_mut(16);
        first.copy_from_slice(&self.0.clone().chain_update(covered).finalize_fixed());
        second.fill(0);
    }
}

impl std::fmt::Debug for Mac1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mac1(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use proptest::prelude::*;

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = kind;
        message
    }

    #[test]
    fn each_type_has_its_length() {
        assert_eq!(Message::of(&message(1, 148)), Some(Message::Initiation));
        assert_eq!(Message::of(&message(2, 92)), Some(Message::Response));
        assert_eq!(
            Message::of(&message(3, 64)),
            Some(Message::Cookie { receiver: 0 })
        );
        assert_eq!(
            Message::of(&message(4, 32)),
            Some(Message::Data {
                receiver: 0,
                counter: 0
            })
        );
        for (kind, length) in [
            (1, 147),
            (1, 149),
            (2, 91),
            (2, 93),
            (3, 63),
            (3, 65),
            (4, 31),
            (0, 148),
            (5, 148),
        ] {
            assert_eq!(
                Message::of(&message(kind, length)),
                None,
                "type {kind}, {length} bytes"
            );
        }
        for length in 0..4 {
            assert_eq!(Message::of(&vec![1; length]), None);
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for reserved in 1..4 {
            let mut initiation = message(1, 148);
            initiation[reserved] = 1;
            assert_eq!(Message::of(&initiation), None);
        }
    }

    #[test]
    fn a_mac_covers_every_byte_before_it_and_the_receiver() {
        let (ours, other) = (
            PrivateKey::from_bytes([1; 32]).public(),
            PrivateKey::from_bytes([2; 32]).public(),
        );
        let mac1 = Mac1::new(&ours);
        for length in [148, 92] {
            let mut right = message(1, length);
            mac1.write(&mut right);
            assert!(mac1.verify(&right));
            assert!(!Mac1::new(&other).verify(&right));
            for byte in 0..length - 16 {
                let mut wrong = right.clone();
                wrong[byte] ^= 1;
                assert!(!mac1.verify(&wrong), "byte {byte} is not covered");
            }
        }
        assert!(!mac1.verify(&message(3, 64)));
        assert!(!mac1.verify(&[]));
    }

    proptest! {
        #[test]
        fn reading_a_header_never_panics(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::of(&datagram);
            let _ = Mac1::new(&PrivateKey::from_bytes([1; 32]).public()).verify(&datagram);
        }

        #[test]
        fn the_header_of_a_data_message_is_read_back(receiver: u32, counter: u64, length in 32_usize..100) {
            let mut data = message(4, length);
            data[4..8].copy_from_slice(&receiver.to_le_bytes());
            data[8..16].copy_from_slice(&counter.to_le_bytes());
            prop_assert_eq!(Message::of(&data), Some(Message::Data { receiver, counter }));
        }
    }
}
