//! ChaCha20-Poly1305 (RFC 8439, section 2.8) for WireGuard's data messages: nonces are message counters, and nothing besides the
//! text is authenticated.
//!
//! Where the processor has AVX-512 with 52-bit multiplication, sixteen blocks of ChaCha20 and eight of Poly1305 are computed side by
//! side, at about twice the speed of [`ring`], which does the work everywhere else. Before the former is used for the first time, its
//! results are compared with those of the latter: a processor, a compiler or a hypervisor that gets it wrong costs speed only.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail by panic"))]

#[cfg(target_arch = "x86_64")]
mod chacha20;
#[cfg(target_arch = "x86_64")]
mod poly1305;
#[cfg(target_arch = "x86_64")]
mod wide;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Bytes that a sealed text is longer than the text.
pub const TAG: usize = 16;

/// Texts shorter than this, in bytes, are not worth the powers that the wide Poly1305 begins with.
#[cfg(target_arch = "x86_64")]
const WORTHWHILE: usize = 256;

/// The message was not sealed with this key and counter, or was changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

impl std::fmt::Display for Forged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("authentication failed")
    }
}

impl std::error::Error for Forged {}

/// The key of one direction of a session. Its memory is wiped when it is dropped.
pub struct Key {
    bytes: Zeroizing<[u8; 32]>,
    suite: Suite,
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    Ring,
    #[cfg(target_arch = "x86_64")]
    Wide(wide::Wide),
}

impl Suite {
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = wide::Wide::trusted() {
            return Self::Wide(wide);
        }
        Self::Ring
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Takes over the key.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let suite = Suite::best();
        Self { bytes, suite }
    }

    /// The same, but the work is done by `ring` whatever the processor could do: to compare with.
    pub const fn by_ring(bytes: Zeroizing<[u8; 32]>) -> Self {
        let suite = Suite::Ring;
        Self { bytes, suite }
    }

    /// Seals `packet`, followed by as many zeros as there is room for, into the whole of `out`. No two messages of a key may have one
    /// counter.
    ///
    /// # Panics
    /// If `out` is less than [`TAG`] bytes longer than `packet`.
    pub fn seal(&self, counter: u64, packet: &[u8], out: &mut [u8]) {
        assert!(out.len() >= packet.len() + TAG, "no room for the message");
        let (text, tag) = out.split_at_mut(out.len() - TAG);
        let made = match self.suite {
            #[cfg(target_arch = "x86_64")]
            Suite::Wide(wide) if text.len() >= WORTHWHILE => {
                wide.seal(&self.bytes, counter, packet, text)
            }
            _ => {
                text[..packet.len()].copy_from_slice(packet);
                text[packet.len()..].fill(0);
                let sealed =
                    self.ring()
                        .seal_in_place_separate_tag(nonce(counter), Aad::empty(), text);
                let mut made = [0; TAG];
                made.copy_from_slice(sealed.expect("a packet is not too long").as_ref());
                made
            }
        };
        tag.copy_from_slice(&made);
    }

    /// Opens what [`Self::seal`] made into the beginning of `out`, and returns the text with its zeros.
    ///
    /// # Errors
    /// [`Forged`]; what is in `out` then is nothing that was sealed.
    ///
    /// # Panics
    /// If `sealed` has no room for a tag, or `out` none for the text.
    pub fn open<'a>(
        &self,
        counter: u64,
        sealed: &[u8],
        out: &'a mut [u8],
    ) -> Result<&'a mut [u8], Forged> {
        let (text, tag) = sealed
            .split_last_chunk::<TAG>()
            .expect("a message has a tag");
        let out = &mut out[..text.len()];
        match self.suite {
            #[cfg(target_arch = "x86_64")]
            Suite::Wide(wide) if text.len() >= WORTHWHILE => {
                wide.open(&self.bytes, counter, text, tag, out)?
            }
            _ => {
                out.copy_from_slice(text);
                self.ring()
                    .open_in_place_separate_tag(
                        nonce(counter),
                        Aad::empty(),
                        (*tag).into(),
                        out,
                        0..,
                    )
                    .map_err(|_| Forged)?;
            }
        }
        Ok(out)
    }

    /// Made anew for each message, which takes no time, since it could not be wiped.
    fn ring(&self) -> LessSafeKey {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.bytes);
        LessSafeKey::new(key.expect("a key has 32 bytes"))
    }
}

/// Four bytes of zero, then the counter (white paper, section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests;
