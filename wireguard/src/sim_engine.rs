//! An engine without cryptography, for simulations of many nodes (feature `_sim`).
//!
//! Same messages, same lengths, same replies, same refusals as the real one, whose proofs cover no index either, but a microsecond
//! instead of a hundred, and no clock and no randomness but what is passed in. What stands for a key agreement anyone could
//! compute: never for real traffic.

use std::sync::OnceLock;
use std::time::Instant;

use crate::constants::{INITIATION_LEN, OVERHEAD, RESPONSE_LEN};
use crate::handshake::HandshakeError;
use crate::key::{PresharedKey, PublicKey};
use crate::keypair::{Keypairs, Role};
use crate::message::{Mac1, Message, index_at};
use crate::rng::{Rng, mix};
use crate::session::{OpenError, SealError};
use crate::tunnel::FIRST_INDEX;

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

/// `now` as twelve bytes that grow with it, as TAI64N stamps do: nanoseconds from an arbitrary instant, then a sequence number.
fn timestamp(now: Instant, sequence: u32) -> [u8; 12] {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    const MIDDLE: u64 = 1 << 63;
    let epoch = *EPOCH.get_or_init(|| now);
    let nanos =
        |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(MIDDLE);
    let stamp = match now.checked_duration_since(epoch) {
        Some(after) => MIDDLE.saturating_add(nanos(after)),
        None => MIDDLE.saturating_sub(nanos(epoch.duration_since(now))),
    };
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&stamp.to_be_bytes());
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

const WINDOW_WORDS: usize = 16;
const WINDOW: u64 = 64 * WINDOW_WORDS as u64;

#[derive(Clone, Debug, Default)]
struct Window {
    /// One more than the greatest counter seen.
    next: u64,
    seen: [u64; WINDOW_WORDS],
}

impl Window {
    fn accept(&mut self, counter: u64) -> bool {
        if counter.saturating_add(WINDOW) < self.next {
            return false;
        }
        if counter >= self.next {
            for passed in self.next.max(counter.saturating_sub(WINDOW - 1))..=counter {
                self.seen[Self::word(passed)] &= !(1 << (passed % 64));
            }
            self.next = counter + 1;
        }
        let (word, bit) = (Self::word(counter), 1 << (counter % 64));
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    const fn word(counter: u64) -> usize {
        (counter / 64 % WINDOW_WORDS as u64) as usize
    }
}

/// The secrets of one keypair.
#[derive(Clone, Debug)]
struct Keys {
    local: u32,
    remote: u32,
    sending: u64,
    receiving: u64,
    counter: u64,
    window: Window,
}

#[derive(Clone, Debug)]
struct Initiated {
    index: u32,
    ephemeral: [u8; 32],
}

/// Stands for `boringtun::noise::Tunn`.
#[derive(Debug)]
pub(crate) struct Simulated {
    ours: PublicKey,
    theirs: PublicKey,
    theirs_mac1: Mac1,
    preshared: u64,
    rng: Rng,
    next_index: u32,
    sequence: u32,
    /// The two last initiations: either may be answered.
    initiated: [Option<Initiated>; 2],
    last_heard: [u8; 12],
    keypairs: Keypairs,
    keys: Vec<Keys>,
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
            theirs_mac1: Mac1::new(&theirs),
            preshared: preshared.map_or(0, |key| secret(1, key.as_bytes())),
            rng: Rng::new(seed),
            next_index: FIRST_INDEX,
            sequence: 0,
            initiated: [None, None],
            last_heard: [0; 12],
            keypairs: Keypairs::default(),
            keys: Vec::new(),
        }
    }

    pub(crate) fn initiator(initiation: &[u8]) -> Option<[u8; 32]> {
        let (covered, rest) = initiation.get(8..)?.split_at_checked(64)?;
        let (proof, _) = rest.split_at_checked(16)?;
        (tag(2, covered) == proof).then_some(covered[32..].first_chunk().copied()?)
    }

    pub(crate) fn has_current(&self) -> bool {
        self.keypairs.current().is_some()
    }

    fn next_index(&mut self) -> u32 {
        self.next_index = (self.next_index & !0xff) | (self.next_index.wrapping_add(1) & 0xff);
        self.next_index
    }

    fn ephemeral(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes[..24].chunks_mut(8) {
            chunk.copy_from_slice(&self.rng.next().to_le_bytes());
        }
        bytes[24] = 9; // neither of low order nor beyond p
        bytes
    }

    pub(crate) fn initiate(&mut self, now: Instant) -> Vec<u8> {
        let index = self.next_index();
        let ephemeral = self.ephemeral();
        self.sequence += 1;
        let mut message = vec![0; INITIATION_LEN];
        message[0] = 1;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message[8..40].copy_from_slice(&ephemeral);
        message[40..72].copy_from_slice(self.ours.as_bytes());
        let proof = tag(2, &message[8..72]);
        message[72..88].copy_from_slice(&proof);
        message[88..100].copy_from_slice(&timestamp(now, self.sequence));
        let proof = tag(self.pair_secret(), &message[8..100]);
        message[100..116].copy_from_slice(&proof);
        self.theirs_mac1.write(&mut message);
        self.keypairs.advance();
        let [last, _] = std::mem::take(&mut self.initiated);
        self.initiated = [Some(Initiated { index, ephemeral }), last];
        message
    }

    /// Known to both ends of a pair of static keys.
    fn pair_secret(&self) -> u64 {
        secret(3, self.ours.as_bytes()) ^ secret(3, self.theirs.as_bytes())
    }

    pub(crate) fn handle(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        match (Message::of(message), message.len()) {
            (Some(Message::Initiation), INITIATION_LEN) => self.handle_initiation(message),
            (Some(Message::Response), RESPONSE_LEN) => self.handle_response(message),
            _ => Err(HandshakeError::NotHandshake),
        }
    }

    fn handle_initiation(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        if Self::initiator(message) != Some(*self.theirs.as_bytes())
            || tag(self.pair_secret(), &message[8..100]) != message[100..116]
        {
            return Err(HandshakeError::Forged);
        }
        let mut stamp = [0; 12];
        stamp.copy_from_slice(&message[88..100]);
        if stamp <= self.last_heard {
            return Err(HandshakeError::Replayed);
        }
        self.last_heard = stamp;
        let index = self.next_index();
        let ephemeral = self.ephemeral();
        let agreed = self.agreed(&message[8..40], &ephemeral);
        let mut answer = vec![0; RESPONSE_LEN];
        answer[0] = 2;
        answer[4..8].copy_from_slice(&index.to_le_bytes());
        answer[8..12].copy_from_slice(&message[4..8]);
        answer[12..44].copy_from_slice(&ephemeral);
        let proof = tag(agreed, &answer[12..44]);
        answer[44..60].copy_from_slice(&proof);
        self.theirs_mac1.write(&mut answer);
        self.keypairs.advance();
        self.take(Role::Responder, index, index_at(message, 4), agreed);
        Ok(answer)
    }

    fn handle_response(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let receiver = index_at(message, 8);
        let waiting = |initiated: &Option<Initiated>| {
            initiated
                .as_ref()
                .is_some_and(|initiated| initiated.index == receiver)
        };
        let place = self
            .initiated
            .iter()
            .position(waiting)
            .ok_or(HandshakeError::Unexpected)?;
        let initiated = self.initiated[place]
            .clone()
            .ok_or(HandshakeError::Unexpected)?;
        let agreed = self.agreed(&initiated.ephemeral, &message[12..44]);
        if tag(agreed, &message[12..44]) != message[44..60] {
            return Err(HandshakeError::Forged);
        }
        self.initiated[place] = None;
        self.take(Role::Initiator, receiver, index_at(message, 4), agreed);
        let mut keepalive = vec![0; OVERHEAD];
        self.seal(&[], &mut keepalive)
            .map_err(|_| HandshakeError::Unexpected)?;
        Ok(keepalive)
    }

    fn agreed(&self, initiator: &[u8], responder: &[u8]) -> u64 {
        secret(
            secret(self.pair_secret() ^ self.preshared, initiator),
            responder,
        )
    }

    fn take(&mut self, role: Role, local: u32, remote: u32, agreed: u64) {
        let (to_responder, to_initiator) = (mix(agreed ^ 4), mix(agreed ^ 5));
        let (sending, receiving) = match role {
            Role::Initiator => (to_responder, to_initiator),
            Role::Responder => (to_initiator, to_responder),
        };
        self.keypairs.insert(local, local, role, 0);
        self.keys
            .retain(|keys| self.keypairs.find(keys.local).is_some() && keys.local != local);
        self.keys.push(Keys {
            local,
            remote,
            sending,
            receiving,
            counter: 0,
            window: Window::default(),
        });
    }

    fn keys(&mut self, index: u32) -> Option<&mut Keys> {
        self.keys.iter_mut().find(|keys| keys.local == index)
    }

    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let current = self
            .keypairs
            .current()
            .ok_or(SealError::NotEstablished)?
            .index;
        let keys = self.keys(current).ok_or(SealError::NotEstablished)?;
        let length = packet.len() + OVERHEAD;
        let (covered, rest) = out.split_at_mut(length - 16);
        covered[..4].copy_from_slice(&4_u32.to_le_bytes());
        covered[4..8].copy_from_slice(&keys.remote.to_le_bytes());
        covered[8..16].copy_from_slice(&keys.counter.to_le_bytes());
        covered[16..].copy_from_slice(packet);
        rest[..16].copy_from_slice(&tag(keys.sending, &covered[8..]));
        keys.counter += 1;
        Ok(length)
    }

    pub(crate) fn open(&mut self, message: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let Some(Message::Data { receiver, counter }) = Message::of(message) else {
            return Err(OpenError::NotData);
        };
        let keys = self.keys(receiver).ok_or(OpenError::UnknownIndex)?;
        let (covered, proof) = message.split_at(message.len() - 16);
        if tag(keys.receiving, &covered[8..]) != proof {
            return Err(OpenError::Forged);
        }
        if !keys.window.accept(counter) {
            return Err(OpenError::Replayed);
        }
        self.keypairs.used(receiver);
        let packet = &covered[16..];
        out[..packet.len()].copy_from_slice(packet);
        let length = match packet {
            [] => 0,
            [first, ..] if first >> 4 == 6 && packet.len() >= 40 => {
                40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))
            }
            [first, ..] if first >> 4 == 4 && packet.len() >= 20 => {
                usize::from(u16::from_be_bytes([packet[2], packet[3]]))
            }
            _ => return Err(OpenError::Malformed),
        };
        let headers = if packet.is_empty() { 0 } else { 20 };
        if (headers..=packet.len()).contains(&length) {
            Ok(length)
        } else {
            Err(OpenError::Malformed)
        }
    }
}
