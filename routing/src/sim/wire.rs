//! Wires between nodes.

use std::ops::Add;
use std::time::Duration;

use crate::config::LinkConfig;

/// Headers of Ethernet, IPv6 and UDP.
const FRAMING: usize = 14 + 40 + 8;

/// From which end to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the first end to the second.
    There,
    /// From the second to the first.
    Back,
}

impl Direction {
    pub(super) const fn from_end(end: usize) -> Self {
        if end == 0 { Self::There } else { Self::Back }
    }

    pub(super) const fn end(self) -> usize {
        match self {
            Self::There => 0,
            Self::Back => 1,
        }
    }
}

/// What has been sent, lost or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the headers of Ethernet, IPv6 and UDP.
    pub bytes: u64,
}

impl Traffic {
    pub(super) const fn note(&mut self, payload: usize) {
        self.packets += 1;
        self.bytes += (payload + FRAMING) as u64;
    }

    /// What has come since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
        }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// A wire: a link of two nodes.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The nodes at its ends.
    pub ends: [usize; 2],
    /// How long a packet takes, by the end it comes from.
    pub latency: [Duration; 2],
    /// Up to so much longer, at random.
    pub jitter: Duration,
    /// Of a thousand packets, so many are lost.
    pub loss: u32,
    /// Whether packets pass, by the end they come from.
    pub is_open: [bool; 2],
    /// How much longer packets take while a flow goes over it.
    pub load: Duration,
    pub(super) is_loaded: bool,
    /// What was sent, by the end it came from.
    pub traffic: [Traffic; 2],
    pub(super) configs: [LinkConfig; 2],
}

impl Wire {
    pub(super) fn new(ends: [usize; 2], configs: [LinkConfig; 2]) -> Self {
        Self {
            ends,
            latency: [Duration::from_millis(1); 2],
            jitter: Duration::ZERO,
            loss: 0,
            is_open: [true; 2],
            load: Duration::ZERO,
            is_loaded: false,
            traffic: [Traffic::default(); 2],
            configs,
        }
    }

    /// Sets how long packets take, both ways.
    pub fn set_latency(&mut self, latency: Duration) {
        self.latency = [latency; 2];
    }
}
