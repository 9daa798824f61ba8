//! Secrets and numbers from one secret seed, so that a run can be repeated.

use blake2::{
    Blake2sMac,
    digest::{FixedOutput, KeyInit, Update, consts::U32},
};

/// A generator whose numbers nobody can tell without its seed: BLAKE2s, keyed with the seed, of a counter.
pub(super) struct Random {
    mac: Blake2sMac<U32>,
    count: u64,
}

impl Random {
    /// `seed` must be secret, and another one in each run.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self {
            mac: <Blake2sMac<U32> as KeyInit>::new_from_slice(seed)
                .expect("a BLAKE2s key has at most 32 bytes"),
            count: 0,
        }
    }

    /// 32 bytes.
    pub(super) fn block(&mut self) -> [u8; 32] {
        self.count += 1;
        let mut mac = self.mac.clone();
        mac.update(&self.count.to_be_bytes());
        mac.finalize_fixed().into()
    }

    /// Any number.
    pub(super) fn word(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.block();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Random").finish_non_exhaustive()
    }
}
