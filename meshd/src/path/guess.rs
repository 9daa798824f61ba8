//! Guessing of ports, where one router gives out ports at random and the other lets in only what was asked for.
//!
//! The side behind the first, the hard one, sends a probe from each of many sockets to the other side's one address, so that many ports
//! of its router lead to it. The other, the easy side, sends probes to ports at random until one meets. With 256 sockets, 200 probes a
//! second meet within a second in nine of twenty cases, within four in 19 of 20, within six in 99 of 100.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use wireguard::PublicKey;

/// Sockets of the hard side.
pub const SOCKETS: u16 = 256;
/// Between two probes of the easy side.
const EVERY: Duration = Duration::from_millis(5);
/// How long the easy side goes on.
pub(super) const LASTS: Duration = Duration::from_secs(8);
/// How long after the beginning of an attempt it is clear that nothing cheaper helps.
pub(super) const AFTER: Duration = Duration::from_millis(1500);
/// How often the hard side says that it is ready, and how long it waits in between.
const SAID: u8 = 3;
const AGAIN: Duration = Duration::from_secs(1);
/// The ports that routers give out.
const FIRST_PORT: u16 = 1024;
/// How many of them there are.
const PORTS: u32 = 65536 - FIRST_PORT as u32;
/// With one peer, ports are guessed once in this time.
const SELDOM: Duration = Duration::from_secs(600);
/// With all peers, so often in the same time: it costs up to 1,600 probes each.
const IN_ALL: usize = 16;

/// What this node does to meet a peer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// Its sockets are about to be opened, or are open.
    Hard {
        /// Where the peer is.
        to: SocketAddr,
        /// When to say so again, since messages get lost.
        again: Option<Instant>,
        /// How often it was said.
        said: u8,
    },
    /// It sends to ports at random.
    Easy {
        /// Where the peer's router is.
        to: Ipv4Addr,
        /// When the next probe goes out.
        next: Instant,
        /// When there were enough.
        until: Instant,
        /// How many have gone.
        count: u32,
        /// Steps through the ports in an order that nobody knows and that takes each once.
        step: u32,
        /// Where that begins.
        start: u32,
    },
}

/// Guessing with one peer; with no other at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guess {
    pub(super) peer: PublicKey,
    pub(super) side: Side,
}

impl Guess {
    /// The easy side's. `random` gives the order of the ports.
    pub(super) fn easy(peer: PublicKey, to: Ipv4Addr, random: u64, now: Instant) -> Self {
        let (high, low) = ((random >> 32) as u32, random as u32);
        // Without a factor in common with their number, which is 2^10 · 3^2 · 7.
        let step = (high % PORTS..)
            .find(|step| step % 2 != 0 && step % 3 != 0 && step % 7 != 0)
            .unwrap_or(1);
        Self {
            peer,
            side: Side::Easy {
                to,
                next: now,
                until: now + LASTS,
                count: 0,
                step,
                start: low % PORTS,
            },
        }
    }

    /// When it has something to send.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.side {
            Side::Hard { again, .. } => again,
            Side::Easy { next, .. } => Some(next),
        }
    }

    /// Whether the hard side has to say now that it is ready.
    pub(super) fn says(&mut self, now: Instant) -> bool {
        let Side::Hard { again, said, .. } = &mut self.side else {
            return false;
        };
        if again.is_none_or(|at| at > now) {
            return false;
        }
        *said += 1;
        *again = (*said < SAID).then_some(now + AGAIN);
        true
    }

    /// Where to send a probe at `now`, if it is time.
    pub(super) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        let Side::Easy {
            to,
            next,
            until,
            count,
            step,
            start,
        } = &mut self.side
        else {
            return None;
        };
        if *next > now || *next >= *until {
            return None;
        }
        // What a late timer has left out is not made good.
        *next = (*next + EVERY).max(now);
        *count += 1;
        let place = (u64::from(*start) + u64::from(*step) * u64::from(*count)) % u64::from(PORTS);
        let port = FIRST_PORT + u16::try_from(place).expect("below the number of ports");
        Some(SocketAddr::from((*to, port)))
    }

    /// Whether the easy side has sent enough.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.side, Side::Easy { next, until, .. } if next >= until)
    }
}

/// When ports were guessed with whom.
#[derive(Debug, Default)]
pub(super) struct Guessed(VecDeque<(Instant, PublicKey)>);

impl Guessed {
    /// Whether it may be done with a peer now; if so, it is counted.
    pub(super) fn take(&mut self, peer: PublicKey, now: Instant) -> bool {
        while let Some((first, _)) = self.0.front()
            && now.saturating_duration_since(*first) >= SELDOM
        {
            self.0.pop_front();
        }
        if self.0.len() >= IN_ALL || self.has(peer) {
            return false;
        }
        self.0.push_back((now, peer));
        true
    }

    /// Whether it was done with a peer lately.
    pub(super) fn has(&self, peer: PublicKey) -> bool {
        self.0.iter().any(|(_, of)| *of == peer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::path::tests::key;

    #[test]
    fn every_port_is_guessed_once_at_most_two_hundred_a_second() {
        let start = Instant::now();
        for random in [0, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut guess = Guess::easy(key(0), Ipv4Addr::LOCALHOST, random, start);
            let mut ports = BTreeSet::new();
            let mut now = start;
            while let Some(at) = guess.due().filter(|_| !guess.is_over()) {
                now = at;
                let to = guess.next(now).unwrap();
                assert!(to.port() >= FIRST_PORT && ports.insert(to.port()), "{to}");
                assert_eq!(guess.next(now), None);
            }
            assert_eq!(ports.len(), 1600);
            assert_eq!(now - start, LASTS - EVERY);
        }
    }

    #[test]
    fn ports_are_guessed_seldom() {
        let now = Instant::now();
        let mut guessed = Guessed::default();
        assert!(guessed.take(key(1), now));
        assert!(!guessed.take(key(1), now));
        assert_eq!((2..100).filter(|n| guessed.take(key(*n), now)).count(), 15);
        assert!(guessed.take(key(1), now + SELDOM));
    }
}
