//! Receiver indices: what a peer writes, in the clear, into every message to us (white paper, section 5.4).
//!
//! They have to lead us to the session and its keypair, and must tell nobody else anything: not that two of them belong to one
//! session, not how often it was renewed, not how many sessions there are. So each message of a handshake has another one: the place of
//! the session among those of its device and a serial number, in one block, encrypted with a key that is a secret of this run of the device.
//!
//! - Decrypting leads to the session, so the snapshot in which packet threads look it up changes with the peers only, and not
//!   with every keypair. Random indices in a table would have to be published to them at each handshake.
//! - An index in use is never given out again: encryption is one to one, no two sessions have one place, and a serial number comes
//!   again after 131,072 others. It starts at random, as places are given at random, so that a place which is used again does not
//!   repeat the indices of the session that had it before.
//! - The cipher is Speck32/64 (Beaulieu and others, Cryptology ePrint Archive 2013/404), whose block is as long as an index and
//!   whose 22 rounds take 30 ns. Its key has 64 bits. That is enough for what hangs on it, which is not the secrecy of any packet: who
//!   found the key could tell which indices of one run belong together.

use blake2::Blake2sMac;
use blake2::digest::consts::U8;
use blake2::digest::{FixedOutput, KeyInit, Mac as _};
use x25519_dalek::PublicKey as Point;

use crate::constants::MAX_PEERS;
use crate::key::PrivateKey;

/// Bits of an index that number the handshakes of one session; the others are its place.
const SERIAL_BITS: u32 = 17;
const SERIALS: u32 = 1 << SERIAL_BITS;

/// One more than the greatest place.
pub(crate) const PLACES: u32 = 1 << (32 - SERIAL_BITS);

const _: () = assert!(
    PLACES as usize >= 2 * MAX_PEERS,
    "a free place is found at random"
);

const ROUNDS: usize = 22;

/// The indices of one device: which session gave out which.
#[derive(Clone, Copy)]
pub struct Indices([u16; ROUNDS]);

impl Indices {
    /// Those of the device with this key that was made with this seed; another seed gives others.
    pub(crate) fn new(key: &PrivateKey, seed: u64) -> Self {
        // What the key agrees on with itself nobody else can compute either, and the key leaves no copy in a hash.
        let own = Point::from(key.secret());
        let agreed = key.secret().diffie_hellman(&own);
        let secret = <Blake2sMac<U8> as KeyInit>::new_from_slice(agreed.as_bytes())
            .expect("a BLAKE2s key has at most 32 bytes")
            .chain_update(b"meshd receiver indices v1")
            .chain_update(seed.to_le_bytes())
            .finalize_fixed();
        let [a, b, c, d, e, f, g, h] = secret.into();
        let word = |low, high| u16::from_le_bytes([low, high]);
        Self::with(word(a, b), [word(c, d), word(e, f), word(g, h)])
    }

    /// The schedule of round keys: the key's first word is the first of them.
    fn with(first: u16, rest: [u16; 3]) -> Self {
        let (mut key, mut words) = (first, rest);
        let mut rounds = [0; ROUNDS];
        for (number, round) in (0..).zip(&mut rounds) {
            *round = key;
            let word = &mut words[usize::from(number) % rest.len()];
            *word = key.wrapping_add(word.rotate_right(7)) ^ number;
            key = key.rotate_left(2) ^ *word;
        }
        Self(rounds)
    }

    fn encrypt(&self, block: u32) -> u32 {
        let (mut x, mut y) = ((block >> 16) as u16, block as u16);
        for round in self.0 {
            x = x.rotate_right(7).wrapping_add(y) ^ round;
            y = y.rotate_left(2) ^ x;
        }
        u32::from(x) << 16 | u32::from(y)
    }

    fn decrypt(&self, block: u32) -> u32 {
        let (mut x, mut y) = ((block >> 16) as u16, block as u16);
        for round in self.0.into_iter().rev() {
            y = (y ^ x).rotate_right(2);
            x = (x ^ round).wrapping_sub(y).rotate_left(7);
        }
        u32::from(x) << 16 | u32::from(y)
    }

    /// The [`crate::Session::index`] of the session that gave out this receiver index; of some session or none if nobody did.
    pub fn session(&self, receiver: u32) -> u32 {
        self.decrypt(receiver) >> SERIAL_BITS
    }
}

impl std::fmt::Debug for Indices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Indices(..)")
    }
}

/// The indices that one session gives out, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    indices: Indices,
    place: u32,
    serial: u32,
}

impl Series {
    /// That of the session at `place`, below [`PLACES`], beginning anywhere.
    pub(crate) const fn new(indices: Indices, place: u32, start: u32) -> Self {
        Self {
            indices,
            place,
            serial: start % SERIALS,
        }
    }

    pub(crate) const fn indices(&self) -> Indices {
        self.indices
    }

    pub(crate) const fn place(&self) -> u32 {
        self.place
    }

    /// An index that was not given out for as long as it can matter.
    pub(crate) fn next(&mut self) -> u32 {
        self.serial = (self.serial + 1) % SERIALS;
        self.indices
            .encrypt(self.place << SERIAL_BITS | self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn indices(seed: u64) -> Indices {
        Indices::new(&PrivateKey::from_bytes([7; 32]), seed)
    }

    #[test]
    fn the_cipher_is_speck() {
        // The example of the paper's appendix.
        let indices = Indices::with(0x0100, [0x0908, 0x1110, 0x1918]);
        assert_eq!(indices.encrypt(0x6574_694c), 0xa868_42f2);
        assert_eq!(indices.decrypt(0xa868_42f2), 0x6574_694c);
    }

    #[test]
    fn a_series_repeats_nothing_and_names_its_session() {
        let indices = indices(1);
        let mut given = Vec::new();
        for place in [0, 5, PLACES - 1] {
            let mut series = Series::new(indices, place, u32::MAX);
            let of_one = (0..SERIALS).map(|_| series.next());
            given.extend(of_one.inspect(|&index| assert_eq!(indices.session(index), place)));
        }
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 3 * SERIALS as usize);
    }

    #[test]
    fn another_run_gives_other_indices() {
        let of = |indices| Series::new(indices, 5, 0).next();
        assert_eq!(of(indices(1)), of(indices(1)));
        assert_ne!(of(indices(1)), of(indices(2)));
        let other = Indices::new(&PrivateKey::from_bytes([8; 32]), 1);
        assert_ne!(of(indices(1)), of(other));
        assert_ne!(other.session(of(indices(1))), 5);
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", indices(1)), "Indices(..)");
    }

    proptest! {
        #[test]
        fn decrypting_undoes_encrypting(seed: u64, block: u32) {
            let indices = indices(seed);
            prop_assert_eq!(indices.decrypt(indices.encrypt(block)), block);
            prop_assert_eq!(indices.encrypt(indices.decrypt(block)), block);
        }
    }
}
