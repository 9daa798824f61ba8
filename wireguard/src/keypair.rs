//! Our own account of the engine's keypairs: which exist, how old they are, which one sends.
//!
//! The engine keeps the keys themselves in a ring of eight and picks the sending one, but tells nobody, and its clock is not
//! ours. So every rule about age is applied here, before the engine is asked, and the choice of the sending keypair follows
//! the engine's rule exactly (see `tunnel.rs`).

use crate::constants::REJECT_AFTER_TIME;

/// Which side asked for a keypair. Only the initiator renews it when traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// One agreed pair of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keypair {
    /// Receiver index: what the peer writes into its messages to us.
    pub(crate) index: u32,
    /// What the engine calls it.
    pub(crate) engine: u32,
    pub(crate) role: Role,
    /// When it was agreed on, in milliseconds of the device's time.
    pub(crate) born: u64,
    /// Messages sealed with it.
    pub(crate) sent: u64,
    /// The engine's order: the number of [`Keypairs::advance`] calls before it was made.
    epoch: u64,
    /// Whether the peer has shown that it has the keys too.
    confirmed: bool,
}

impl Keypair {
    pub(crate) const fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.born)
    }

    pub(crate) const fn is_alive(&self, now: u64) -> bool {
        self.age(now) < REJECT_AFTER_TIME.as_millis() as u64
    }
}

/// What a data message that opened meant for its keypair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// The first on a keypair that we answered for: from here on we may send with it.
    Confirmed,
    Ordinary,
}

const SLOTS: usize = 8;

#[derive(Clone, Debug, Default)]
pub(crate) struct Keypairs {
    slots: [Option<Keypair>; SLOTS],
    /// What the engine calls the sending keypair; it may have lost its slot since.
    current: u32,
    epoch: u64,
}

const fn slot(engine: u32) -> usize {
    engine as usize % SLOTS
}

impl Keypairs {
    /// The engine's clock has moved: what is made from here on is newer than what was made before.
    pub(crate) const fn advance(&mut self) {
        self.epoch += 1;
    }

    /// Takes over a keypair that a handshake has made. The initiator may send with it at once, the responder only after
    /// [`Self::used`] on it (white paper, section 5.4.3).
    pub(crate) fn insert(&mut self, index: u32, engine: u32, role: Role, now: u64) {
        self.slots[slot(engine)] = Some(Keypair {
            index,
            engine,
            role,
            born: now,
            sent: 0,
            epoch: self.epoch,
            confirmed: role == Role::Initiator,
        });
        if role == Role::Initiator {
            self.set_current(engine);
        }
    }

    /// A data message opened on the keypair that the engine calls so.
    pub(crate) fn used(&mut self, engine: u32) -> Use {
        self.set_current(engine);
        match &mut self.slots[slot(engine)] {
            Some(keypair) if keypair.engine == engine && !keypair.confirmed => {
                keypair.confirmed = true;
                Use::Confirmed
            }
            _ => Use::Ordinary,
        }
    }

    fn set_current(&mut self, engine: u32) {
        let newer = match (&self.slots[slot(self.current)], &self.slots[slot(engine)]) {
            (Some(current), Some(new)) => new.epoch >= current.epoch,
            (None, _) => true,
            (Some(_), None) => false,
        };
        if newer {
            self.current = engine;
        }
    }

    /// The keypair to open a message to `index` with, whatever its age.
    pub(crate) fn find(&self, index: u32) -> Option<&Keypair> {
        self.slots
            .iter()
            .flatten()
            .find(|keypair| keypair.index == index)
    }

    /// The keypair to send with, whatever its age.
    pub(crate) fn current(&self) -> Option<&Keypair> {
        self.slots[slot(self.current)]
            .as_ref()
            .filter(|keypair| keypair.engine == self.current)
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut Keypair> {
        let current = self.current;
        self.slots[slot(current)]
            .as_mut()
            .filter(|keypair| keypair.engine == current)
    }

    /// When the last keypair was made.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.slots
            .iter()
            .flatten()
            .map(|keypair| keypair.born)
            .max()
    }

    /// Forgets the keypair to send with, because the engine did.
    pub(crate) fn forget_current(&mut self) {
        let current = self.current;
        self.slots[slot(current)].take_if(|keypair| keypair.engine == current);
    }

    /// Forgets all of them, because the engine did.
    pub(crate) fn clear(&mut self) {
        self.slots = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some receiver index for what the engine calls so.
    const fn wire(engine: u32) -> u32 {
        engine.wrapping_mul(0x9e37_79b9)
    }

    #[test]
    fn a_late_message_on_an_old_keypair_does_not_bring_it_back() {
        let mut keypairs = Keypairs::default();
        keypairs.advance();
        keypairs.insert(wire(0x101), 0x101, Role::Initiator, 0);
        keypairs.advance();
        keypairs.insert(wire(0x102), 0x102, Role::Initiator, 120_000);
        assert_eq!(keypairs.used(0x101), Use::Ordinary);
        assert_eq!(keypairs.current().unwrap().engine, 0x102);
    }

    #[test]
    fn a_responder_sends_only_after_the_first_message_on_the_keypair() {
        let mut keypairs = Keypairs::default();
        keypairs.advance();
        keypairs.insert(wire(0x101), 0x101, Role::Responder, 0);
        assert!(keypairs.current().is_none());
        assert_eq!(keypairs.used(0x101), Use::Confirmed);
        assert_eq!(keypairs.used(0x101), Use::Ordinary);
        assert_eq!(keypairs.current().unwrap().engine, 0x101);
    }

    #[test]
    fn a_keypair_that_lost_its_slot_is_not_sent_with() {
        let mut keypairs = Keypairs::default();
        keypairs.insert(wire(0x101), 0x101, Role::Initiator, 0);
        for index in 0x102..=0x109 {
            keypairs.advance();
            keypairs.insert(wire(index), index, Role::Responder, 1);
        }
        assert!(
            keypairs.current().is_none(),
            "slot 1 holds 0x109, which the peer has not confirmed"
        );
        assert!(keypairs.find(wire(0x101)).is_none());
        assert_eq!(keypairs.used(0x109), Use::Confirmed);
        assert_eq!(keypairs.current().unwrap().engine, 0x109);
    }
}
