//! Devices without a kernel behind them (feature `_sim`), so that the daemon's own threads can be run by hand in virtual time.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeSet, VecDeque},
    io::IoSlice,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use super::udp::{Outcome, Outgoing};
use crate::ecn::Ecn;

/// What a [`Clock`](super::clock::Clock) shows that somebody sets.
#[derive(Debug, Default)]
pub struct Hand(AtomicU64);

impl Hand {
    /// Makes the clock show so much time since its base.
    pub fn set(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Relaxed);
    }

    pub(super) fn shows(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

/// Frames of a TUN device: a virtio header and a packet each.
#[derive(Debug, Default)]
pub struct Frames {
    /// What the host has written and the daemon has not read.
    from_host: Mutex<VecDeque<Vec<u8>>>,
    /// The other way.
    to_host: Mutex<VecDeque<Vec<u8>>>,
}

impl Frames {
    /// The host sends a frame.
    pub fn push(&self, frame: Vec<u8>) {
        self.from_host.lock().push_back(frame);
    }

    /// The next frame for the host.
    pub fn pop(&self) -> Option<Vec<u8>> {
        self.to_host.lock().pop_front()
    }

    /// Whether there is a frame that the daemon has not read.
    pub fn is_waiting(&self) -> bool {
        !self.from_host.lock().is_empty()
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        let frame = self.from_host.lock().pop_front()?;
        let length = frame.len().min(buffer.len());
        buffer[..length].copy_from_slice(&frame[..length]);
        Some(length)
    }

    pub(super) fn write(&self, frame: &[IoSlice<'_>]) {
        let frame = frame.iter().flat_map(|slice| slice.iter().copied());
        self.to_host.lock().push_back(frame.collect());
    }
}

/// One datagram that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where to.
    pub to: SocketAddr,
    /// From which of our addresses; none: the kernel chooses.
    pub source: Option<IpAddr>,
    /// With which ECN field.
    pub ecn: Ecn,
    /// What.
    pub payload: Vec<u8>,
}

/// What was sent by a UDP socket.
#[derive(Debug, Default)]
pub struct Datagrams {
    sent: Mutex<VecDeque<Datagram>>,
    /// The addresses that this machine has.
    own: Mutex<BTreeSet<IpAddr>>,
}

impl Datagrams {
    /// The next datagram.
    pub fn pop(&self) -> Option<Datagram> {
        self.sent.lock().pop_front()
    }

    /// The machine has these addresses from now on; sending from others works without them only.
    pub fn set_own(&self, own: BTreeSet<IpAddr>) {
        *self.own.lock() = own;
    }

    pub(super) fn send(&self, messages: &[Outgoing<'_>], outcomes: &mut [Outcome]) {
        let own = self.own.lock();
        for (message, outcome) in messages.iter().zip(outcomes) {
            let source = message.source.filter(|source| own.contains(source));
            if source != message.source {
                *outcome = Outcome::StaleSource;
            }
            let segment = match message.segment {
                0 => usize::MAX,
                segment => segment,
            };
            let datagrams = message.data.chunks(segment).map(|payload| Datagram {
                to: message.to,
                source,
                ecn: message.ecn,
                payload: payload.to_vec(),
            });
            self.sent.lock().extend(datagrams);
        }
    }
}
