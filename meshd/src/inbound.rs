//! The filter as packet threads meet it: the rules of a party, and what is remembered of what goes on with it.
//!
//! Packet threads lock what is remembered for one batch, or for one packet on the way out, and never while they hold a session's lock.
//! Of those who are trusted there is nothing here, so that their packets cost nothing.

use std::{sync::Arc, time::Instant};

use filter::{Guard, Judgement, Ports, Refusal, Rules, Standing};
use parking_lot::{Mutex, MutexGuard};

use crate::discard::Reason;

/// What is between a party and this node. Another set of rules is another of these, about the same conversations.
#[derive(Clone, Debug)]
pub struct Inbound {
    rules: Arc<Rules>,
    guard: Arc<Mutex<Guard>>,
}

/// The same, locked for a batch of packets.
#[derive(Debug)]
pub struct Watch<'a> {
    rules: &'a Rules,
    guard: MutexGuard<'a, Guard>,
}

impl Inbound {
    /// Rules for a party of which nothing is known.
    pub fn new(rules: Rules, guard: Guard) -> Self {
        Self {
            rules: Arc::new(rules),
            guard: Arc::new(Mutex::new(guard)),
        }
    }

    /// The same party under other rules.
    #[must_use]
    pub fn under(&self, rules: Rules) -> Self {
        // Mostly nothing has changed, and packet threads need not notice.
        let rules = if *self.rules == rules {
            Arc::clone(&self.rules)
        } else {
            Arc::new(rules)
        };
        Self {
            rules,
            guard: Arc::clone(&self.guard),
        }
    }

    /// For packets from the party.
    pub fn watch(&self) -> Watch<'_> {
        Watch {
            rules: &self.rules,
            guard: self.guard.lock(),
        }
    }

    /// This node, or what is behind it, sends this packet, or several of which this is the first, to the party.
    pub fn note(&self, packet: &[u8], now: Instant) {
        self.guard.lock().note(packet, now);
    }

    /// Whether the party is told of refusals.
    pub fn tells(&self) -> bool {
        self.rules.standing() == Standing::Member
    }
}

impl Watch<'_> {
    /// A packet of the party for this node, or for what is behind it, where `publish` is open to all.
    pub fn judge(&mut self, publish: &[Ports], packet: &[u8], now: Instant) -> Judgement {
        self.guard.judge(self.rules, publish, packet, now)
    }
}

/// Under which reason a refused packet is counted.
pub const fn reason(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Denied => Reason::InboundDenied,
        Refusal::Fragment => Reason::InboundFragment,
        Refusal::Headers => Reason::InboundHeaders,
    }
}
