//! Where handshake messages come in: what may queue for the handshake thread, and what is answered or discarded at once.

use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use wireguard::{Endpoint, Gate, Load, Passage, Underlay};

use super::{Egress, Handshake, Probed, Shared, demux::Way};
use crate::{bell, discard::Reason, fib::Fib, handshake::Incoming, relayed};

/// When this part of the queue of handshakes is full, senders have to prove their addresses (kernel module).
const HEAVY_PART: usize = 8;

/// The queues that strangers can put something into.
#[derive(Clone, Debug)]
pub struct Doors {
    /// To the handshake thread: what has passed the gate.
    pub handshakes: Sender<Incoming>,
    /// To the node loop: probes under tokens that were given away.
    pub probes: bell::Sender<Probed>,
}

/// The gate, and the queues behind it.
#[derive(Debug)]
pub(super) struct Entrance {
    doors: Doors,
    gate: Gate,
}

impl Entrance {
    /// Only what passes `gate` gets into the queue of handshakes.
    pub(super) fn new(doors: Doors, gate: Gate) -> Self {
        Self { doors, gate }
    }

    /// Takes a probe to the node loop.
    pub(super) fn take_probe(&self, from: Underlay, datagram: &[u8], shared: &Shared) {
        let probed = Probed {
            from,
            datagram: datagram.to_vec(),
        };
        if self.doors.probes.try_send(probed).is_err() {
            shared.discard(Reason::ProbeQueueFull, 1);
        }
    }

    /// Takes a handshake message, which the demultiplexer has sent this way.
    pub(super) fn take(
        &mut self,
        way: Way<'_>,
        from: Endpoint,
        datagram: &[u8],
        fib: &Fib,
        shared: &Shared,
        egress: &mut Egress,
        now: Instant,
    ) {
        match way {
            Way::Gate => {}
            Way::Cookie => return self.hand_over(from, datagram, shared),
            Way::Session(_) | Way::Labelled(_) | Way::Probe | Way::Discard(_) => {
                return shared.discard(Reason::NotWireguard, 1);
            }
        }
        let source = match from {
            Endpoint::Underlay(underlay) => underlay.remote,
            Endpoint::Overlay(node) => (node, relayed::PORT).into(),
        };
        let many = self.doors.handshakes.capacity().unwrap_or(usize::MAX) / HEAVY_PART;
        let load = if self.doors.handshakes.len() < many {
            Load::Light
        } else {
            Load::Heavy
        };
        let reason = match self.gate.judge(datagram, source, load, now) {
            Passage::Pass => return self.hand_over(from, datagram, shared),
            Passage::Prove(reply) => {
                egress.reply(from, &reply, fib, now);
                Reason::AddressUnproven
            }
            Passage::Mac1 => Reason::BadMac1,
            Passage::Limited => Reason::SourceLimit,
        };
        shared.discard(reason, 1);
    }

    fn hand_over(&self, from: Endpoint, datagram: &[u8], shared: &Shared) {
        let Some(handshake) = Handshake::new(from, datagram) else {
            return shared.discard(Reason::NotWireguard, 1);
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.doors.handshakes.try_send(Incoming::Message(handshake))
        {
            shared.discard(Reason::HandshakeQueueFull, 1);
        }
    }
}
