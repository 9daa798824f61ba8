//! Flows: packets that one node sends to another at a steady pace, and what becomes of them.

use std::{collections::BTreeSet, time::Duration};

use crate::ecn::Ecn;

/// A flow. Every packet that arrives is answered, and the answers are counted too.
#[derive(Debug)]
pub struct Flow {
    /// From which machine.
    pub from: usize,
    /// To which.
    pub to: usize,
    /// One packet is sent so often.
    pub interval: Duration,
    /// So long are packets, in bytes.
    pub size: usize,
    /// Whether it goes on.
    pub is_on: bool,
    /// Packets sent.
    pub sent: u64,
    /// Those whose answer came back, each once.
    pub answered: u64,
    /// Packets that arrived more than once.
    pub duplicates: u64,
    /// Packets that arrived with a mark (ECN).
    pub marked: u64,
    /// Numbers of packets that arrived.
    arrived: BTreeSet<u64>,
    /// Numbers of packets whose answers came.
    answers: BTreeSet<u64>,
    /// When an answer came last; at first, when the flow began.
    last: Duration,
    /// The longest time without an answer, until `last`.
    longest: Duration,
}

impl Flow {
    pub(super) fn new(
        from: usize,
        to: usize,
        interval: Duration,
        size: usize,
        now: Duration,
    ) -> Self {
        Self {
            from,
            to,
            interval,
            size,
            is_on: true,
            sent: 0,
            answered: 0,
            duplicates: 0,
            marked: 0,
            arrived: BTreeSet::new(),
            answers: BTreeSet::new(),
            last: now,
            longest: Duration::ZERO,
        }
    }

    /// How many packets have arrived, each counted once.
    pub fn arrived(&self) -> u64 {
        self.arrived.len() as u64
    }

    /// How many have not arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived()
    }

    /// A packet arrived.
    pub(super) fn note_arrival(&mut self, number: u64, ecn: Ecn) {
        if !self.arrived.insert(number) {
            self.duplicates += 1;
        }
        self.marked += u64::from(ecn == Ecn::Ce);
    }

    /// An answer arrived.
    pub(super) fn note_answer(&mut self, number: u64, now: Duration) {
        if self.answers.insert(number) {
            self.answered += 1;
        }
        self.longest = self.gap(now);
        self.last = now;
    }

    /// The longest time without an answer since [`Self::mark`], or since it began.
    pub fn gap(&self, now: Duration) -> Duration {
        self.longest.max(now.saturating_sub(self.last))
    }

    /// Begins to measure anew.
    pub(super) fn mark(&mut self, now: Duration) {
        self.longest = Duration::ZERO;
        self.last = now;
    }
}
