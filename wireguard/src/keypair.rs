//! The keypairs of a session: which exist, how old they are, which one sends.

use crate::constants::REJECT_AFTER_TIME;
use crate::engine::Keys;
use crate::window::Window;

/// Which side asked for a keypair. Only the initiator renews it when traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// One agreed pair of keys.
#[derive(Debug)]
pub(crate) struct Keypair {
    /// Receiver index: what the peer writes into its messages to us.
    pub(crate) index: u32,
    pub(crate) role: Role,
    pub(crate) keys: Keys,
    /// When it was agreed on, in milliseconds of the device's time.
    pub(crate) born: u64,
    /// Messages sealed with it: the counter of the next one.
    pub(crate) sent: u64,
    /// Which of the peer's messages have come.
    pub(crate) window: Window,
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

/// The one that sends, the one before it, whose messages may still be on their way, and two that the peer has yet to confirm: it may have
/// asked a second time before our first answer came.
const SLOTS: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Keypairs {
    /// From the oldest to the newest.
    slots: Vec<Keypair>,
    /// Receiver index of the one that sends.
    current: Option<u32>,
}

impl Keypairs {
    /// Takes over a keypair that a handshake has made. The initiator may send with it at once, the responder only after
    /// [`Self::used`] on it (white paper, section 5.4.3).
    pub(crate) fn insert(&mut self, index: u32, role: Role, keys: Keys, now: u64) {
        self.slots.retain(|keypair| keypair.is_alive(now));
        if self.slots.len() >= SLOTS {
            let current = self.current;
            let oldest = self
                .slots
                .iter()
                .position(|keypair| Some(keypair.index) != current);
            self.slots.remove(oldest.unwrap_or_default());
        }
        self.slots.push(Keypair {
            index,
            role,
            keys,
            born: now,
            sent: 0,
            window: Window::default(),
            confirmed: role == Role::Initiator,
        });
        if role == Role::Initiator {
            self.current = Some(index);
        }
    }

    /// A data message opened on the keypair with this receiver index. It becomes the one that sends unless that is newer: a late message
    /// does not bring an old one back.
    pub(crate) fn used(&mut self, index: u32) -> Use {
        // Of all messages but one: what sends is confirmed.
        if self.current == Some(index) {
            return Use::Ordinary;
        }
        let place = |index| {
            self.slots
                .iter()
                .position(|keypair| Some(keypair.index) == index)
        };
        let Some(at) = place(Some(index)) else {
            return Use::Ordinary;
        };
        if place(self.current).is_none_or(|current| at > current) {
            self.current = Some(index);
        }
        if std::mem::replace(&mut self.slots[at].confirmed, true) {
            Use::Ordinary
        } else {
            Use::Confirmed
        }
    }

    /// The keypair to open a message to `index` with, whatever its age.
    pub(crate) fn find(&mut self, index: u32) -> Option<&mut Keypair> {
        self.slots.iter_mut().find(|keypair| keypair.index == index)
    }

    /// The keypair to send with, whatever its age.
    pub(crate) fn current(&self) -> Option<&Keypair> {
        self.slots
            .iter()
            .find(|keypair| Some(keypair.index) == self.current)
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut Keypair> {
        self.find(self.current?)
    }

    /// When the last keypair was made.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.slots.last().map(|keypair| keypair.born)
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(keypairs: &mut Keypairs, index: u32, role: Role, now: u64) {
        keypairs.insert(index, role, Keys::none(), now);
    }

    fn current(keypairs: &Keypairs) -> Option<u32> {
        keypairs.current().map(|keypair| keypair.index)
    }

    #[test]
    fn a_late_message_on_an_old_keypair_does_not_bring_it_back() {
        let mut keypairs = Keypairs::default();
        insert(&mut keypairs, 1, Role::Initiator, 0);
        insert(&mut keypairs, 2, Role::Initiator, 120_000);
        assert_eq!(keypairs.used(1), Use::Ordinary);
        assert_eq!(current(&keypairs), Some(2));
    }

    #[test]
    fn a_responder_sends_only_after_the_first_message_on_the_keypair() {
        let mut keypairs = Keypairs::default();
        insert(&mut keypairs, 1, Role::Responder, 0);
        assert_eq!(current(&keypairs), None);
        assert_eq!(keypairs.used(1), Use::Confirmed);
        assert_eq!(keypairs.used(1), Use::Ordinary);
        assert_eq!(current(&keypairs), Some(1));
    }

    #[test]
    fn handshakes_that_nobody_confirms_take_no_place_of_the_one_that_sends() {
        let mut keypairs = Keypairs::default();
        insert(&mut keypairs, 1, Role::Initiator, 0);
        for index in 2..20 {
            insert(&mut keypairs, index, Role::Responder, 1);
        }
        assert_eq!(current(&keypairs), Some(1));
        assert_eq!(keypairs.slots.len(), SLOTS);
        assert!(keypairs.find(16).is_none() && keypairs.find(17).is_some());
        assert_eq!(keypairs.used(19), Use::Confirmed);
        assert_eq!(current(&keypairs), Some(19));
    }

    #[test]
    fn one_that_is_too_old_goes_when_another_comes() {
        let mut keypairs = Keypairs::default();
        insert(&mut keypairs, 1, Role::Initiator, 0);
        insert(&mut keypairs, 2, Role::Responder, 180_000);
        assert!(keypairs.find(1).is_none());
        assert_eq!(current(&keypairs), None);
    }

    #[test]
    fn an_older_keypair_may_be_confirmed_without_becoming_the_one_that_sends() {
        let mut keypairs = Keypairs::default();
        insert(&mut keypairs, 1, Role::Responder, 0);
        insert(&mut keypairs, 2, Role::Initiator, 0);
        assert_eq!(keypairs.used(1), Use::Confirmed);
        assert_eq!(current(&keypairs), Some(2));
    }
}
