//! An engine without cryptography, for simulations of many nodes (feature `_sim`).
//!
//! Same messages, same lengths, same replies, same refusals as the real one, but a microsecond instead of a hundred, and no randomness
//! but what is passed in. What stands for a key agreement anyone could
//! compute: never for real traffic.

use crate::constants::{INITIATION_LEN, RESPONSE_LEN};
use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PublicKey};
use crate::rng::{Rng, mix};
use crate::stamp::Stamp;

/// What a sum over some bytes is worth, for a secret: stands for every MAC and tag.
fn tag(secret: u64, bytes: &[u8]) -> [u8; 16] {
    let mut state = mix(secret ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = mix(state ^ u64::from_le_bytes(word)).wrapping_add(secret);
    }
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&state.to_le_bytes());
    tag[8..].copy_from_slice(&mix(state.wrapping_add(1)).to_le_bytes());
    tag
}

/// Eight bytes of a sum, as a secret for the next.
fn secret(from: u64, bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&tag(from, bytes)[..8]);
    u64::from_le_bytes(word)
}

/// An initiation of ours that may be answered.
#[derive(Clone, Debug)]
pub(crate) struct Initiated {
    ephemeral: [u8; 32],
}

/// Stands for [`crate::noise::Noise`].
#[derive(Debug)]
pub(crate) struct Simulated {
    ours: PublicKey,
    theirs: PublicKey,
    preshared: u64,
    rng: Rng,
}

impl Simulated {
    pub(crate) fn new(
        ours: PublicKey,
        theirs: PublicKey,
        preshared: Option<&PresharedKey>,
        seed: u64,
    ) -> Self {
        Self {
            ours,
            theirs,
            preshared: preshared.map_or(0, |key| secret(1, key.as_bytes())),
            rng: Rng::new(seed),
        }
    }

    pub(crate) fn initiator(initiation: &[u8]) -> Option<[u8; 32]> {
        let (covered, rest) = initiation.get(8..)?.split_at_checked(64)?;
        let (proof, _) = rest.split_at_checked(16)?;
        (tag(2, covered) == proof).then_some(covered[32..].first_chunk().copied()?)
    }

    fn ephemeral(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes[..24].chunks_mut(8) {
            chunk.copy_from_slice(&self.rng.next().to_le_bytes());
        }
        bytes[24] = 9; // neither of low order nor beyond p
        bytes
    }

    pub(crate) fn initiate(&mut self, index: u32, stamp: Stamp) -> (Vec<u8>, Initiated) {
        let ephemeral = self.ephemeral();
        let mut message = vec![0; INITIATION_LEN];
        message[0] = 1;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..40].copy_from_slice(&ephemeral);
        message[40..72].copy_from_slice(self.ours.as_bytes());
        let proof = tag(2, &message[8..72]);
        message[72..88].copy_from_slice(&proof);
        message[88..100].copy_from_slice(stamp.as_bytes());
        let proof = tag(self.pair_secret(), &message[8..100]);
        message[100..116].copy_from_slice(&proof);
        (message, Initiated { ephemeral })
    }

    /// Known to both ends of a pair of static keys.
    fn pair_secret(&self) -> u64 {
        secret(3, self.ours.as_bytes()) ^ secret(3, self.theirs.as_bytes())
    }

    /// The secrets are those of messages to the responder and to the initiator.
    pub(crate) fn respond(
        &mut self,
        message: &[u8],
        index: u32,
    ) -> Result<(Vec<u8>, [u64; 2]), HandshakeError> {
        if message.len() != INITIATION_LEN
            || Self::initiator(message) != Some(*self.theirs.as_bytes())
            || tag(self.pair_secret(), &message[8..100]) != message[100..116]
        {
            return Err(HandshakeError::Forged);
        }
        let ephemeral = self.ephemeral();
        let agreed = self.agreed(&message[8..40], &ephemeral);
        let mut answer = vec![0; RESPONSE_LEN];
        answer[0] = 2;
        answer[4..8].copy_from_slice(&index.to_le_bytes());
        answer[8..12].copy_from_slice(&message[4..8]);
        answer[12..44].copy_from_slice(&ephemeral);
        let proof = tag(agreed, &answer[12..44]);
        answer[44..60].copy_from_slice(&proof);
        Ok((answer, split(agreed)))
    }

    pub(crate) fn complete(
        &self,
        initiated: &Initiated,
        message: &[u8],
    ) -> Result<[u64; 2], HandshakeError> {
        if message.len() != RESPONSE_LEN {
            return Err(HandshakeError::NotHandshake);
        }
        let agreed = self.agreed(&initiated.ephemeral, &message[12..44]);
        if tag(agreed, &message[12..44]) != message[44..60] {
            return Err(HandshakeError::Forged);
        }
        Ok(split(agreed))
    }

    fn agreed(&self, initiator: &[u8], responder: &[u8]) -> u64 {
        secret(
            secret(self.pair_secret() ^ self.preshared, initiator),
            responder,
        )
    }
}

const fn split(agreed: u64) -> [u64; 2] {
    [mix(agreed ^ 4), mix(agreed ^ 5)]
}

/// Stands for [`chapoly::Key::seal`].
pub(crate) fn seal(secret: u64, counter: u64, packet: &[u8], out: &mut [u8]) {
    let (text, proof) = out.split_at_mut(out.len() - 16);
    text[..packet.len()].copy_from_slice(packet);
    text[packet.len()..].fill(0);
    proof.copy_from_slice(&tag(secret ^ mix(counter), text));
}

/// Stands for [`chapoly::Key::open`].
pub(crate) fn open<'a>(
    secret: u64,
    counter: u64,
    sealed: &[u8],
    out: &'a mut [u8],
) -> Result<&'a mut [u8], chapoly::Forged> {
    let (text, proof) = sealed.split_at(sealed.len() - 16);
    if tag(secret ^ mix(counter), text) != proof {
        return Err(chapoly::Forged);
    }
    let out = &mut out[..text.len()];
    out.copy_from_slice(text);
    Ok(out)
}
