//! A node: a router, what it forwards by, and what it remembers when it is restarted.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use ipnetwork::Ipv6Network;

use super::clock::LocalClock;
use crate::config::Config;
use crate::event::{Event, FibAction, FibOp};
use crate::origin::{Outcome, Own, Owner};
use crate::router::Router;
use crate::types::RouterId;

/// So many events are kept.
const MOST_EVENTS: usize = 1 << 14;

/// What a node still knows when it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its epoch.
    State,
    /// Nothing.
    Nothing,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its router.
    pub router: Router,
    /// Its clock.
    pub clock: LocalClock,
    /// Whether it is switched on.
    pub is_alive: bool,
    /// Whether it drops what it should forward.
    pub is_black_hole: bool,
    /// How much too early its packets are stamped on arrival.
    pub stamp_delay: Duration,
    fib: BTreeMap<Ipv6Network, FibAction>,
    /// By which wire it forwards to which node: what is asked for most of the time.
    pub(super) hops: Vec<Option<usize>>,
    pub(super) wake: Option<Duration>,
    /// When it was woken last, and how often at that very moment.
    pub(super) woken: (Duration, u32),
    pub(super) life: u32,
    pub(super) epoch: Option<u32>,
    pub(super) outcomes: BTreeMap<usize, (u64, Outcome)>,
    pub(super) verifications: usize,
    key: [u8; 32],
    events: Vec<Event>,
}

/// What belongs to the key of a node.
pub fn owner(node: usize) -> Owner {
    let number = node as u64 + 1;
    // Spread like hashes, so that prefixes compress as badly as real ones.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8;
    let bits = u128::from(0x0600_0000_0000_0000 | spread) << 64;
    Owner {
        router_id: RouterId(number.wrapping_mul(0xd129_0d3a_95b1_f3a7).to_be_bytes()),
        prefix: Ipv6Network::new(Ipv6Addr::from(bits), 64).expect("64 bits are a prefix"),
    }
}

/// The link-local address of a node, on all its links.
pub(super) fn address(node: usize) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | (node as u128 + 1))
}

impl Node {
    pub(super) fn new(number: usize, now: Duration, seed: u64) -> Self {
        let clock = LocalClock::new();
        let own = own(number, None);
        let key = *own.record().key();
        let mut node = Self {
            router: Router::new(config(), own, seed, clock.local(now)),
            clock,
            is_alive: true,
            is_black_hole: false,
            stamp_delay: Duration::ZERO,
            fib: BTreeMap::new(),
            hops: Vec::new(),
            wake: None,
            woken: (Duration::ZERO, 0),
            life: 0,
            epoch: None,
            outcomes: BTreeMap::new(),
            verifications: 0,
            key,
            events: Vec::new(),
        };
        node.announce(number, now);
        node
    }

    pub(super) fn kill(&mut self) {
        self.is_alive = false;
        self.fib.clear();
        self.hops.clear();
        self.wake = None;
        self.life += 1;
        self.outcomes.clear();
    }

    pub(super) fn restart(&mut self, number: usize, kept: Kept, now: Duration, seed: u64) {
        self.kill();
        self.is_alive = true;
        let last = match kept {
            Kept::State => self.epoch,
            Kept::Nothing => None,
        };
        let now_here = self.clock.local(now);
        self.router = Router::new(config(), own(number, last), seed, now_here);
        self.announce(number, now);
    }

    /// The epoch it remembers when it is restarted.
    pub const fn keep_epoch(&mut self, epoch: u32) {
        self.epoch = Some(epoch);
    }

    fn announce(&mut self, number: usize, now: Duration) {
        let now = self.clock.local(now);
        self.router.announce(owner(number).prefix, now);
    }

    /// Its Ed25519 key.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// What it forwards by.
    pub fn fib(&self, prefix: Ipv6Network) -> Option<FibAction> {
        self.fib.get(&prefix).copied()
    }

    /// What its router has reported: all but changes of what it forwards by.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many destinations it has a route to.
    pub fn installed(&self) -> usize {
        let routes = self.fib.values();
        routes
            .filter(|action| matches!(action, FibAction::Via { .. }))
            .count()
    }

    /// Does what the router says; `to` is the node that the destination belongs to.
    pub(super) fn apply(&mut self, op: FibOp, to: Option<usize>) {
        if let Some(to) = to {
            self.hops.resize(self.hops.len().max(to + 1), None);
            self.hops[to] = match op.action {
                FibAction::Via { link, .. } => Some(link.0 as usize),
                FibAction::Unreachable | FibAction::Remove => None,
            };
        }
        match op.action {
            FibAction::Remove => {
                self.fib.remove(&op.prefix);
            }
            FibAction::Via { .. } | FibAction::Unreachable => {
                self.fib.insert(op.prefix, op.action);
            }
        }
    }

    pub(super) fn log(&mut self, event: Event) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }
}

fn config() -> Config {
    let overlay = Ipv6Network::new(Ipv6Addr::new(0x600, 0, 0, 0, 0, 0, 0, 0), 8);
    Config::new(overlay.expect("8 bits are a prefix"))
}

fn own(number: usize, last: Option<u32>) -> Own {
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Own::new(&seed, owner(number), last)
}
