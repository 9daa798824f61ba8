//! Where handshake messages come in: what may queue for the handshake thread, and what is answered or discarded at once.

use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError};
use wireguard::{Endpoint, Gate, Load, Passage};

use super::{Egress, Handshake, Shared, demux::Way};
use crate::{discard::Reason, fib::Fib, handshake::Incoming, relayed};

/// When this part of the queue of handshakes is full, senders have to prove their addresses (kernel module).
const HEAVY_PART: usize = 8;

/// The gate, and the queue behind it.
#[derive(Debug)]
pub(super) struct Entrance {
    handshakes: Sender<Incoming>,
    gate: Gate,
}

impl Entrance {
    /// Only what passes `gate` gets into `handshakes`.
    pub(super) fn new(handshakes: Sender<Incoming>, gate: Gate) -> Self {
        Self { handshakes, gate }
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
            Way::Session(_) | Way::Labelled(_) | Way::Discard(_) => {
                return shared.discard(Reason::NotWireguard, 1);
            }
        }
        let source = match from {
            Endpoint::Underlay(underlay) => underlay.remote,
            Endpoint::Overlay(node) => (node, relayed::PORT).into(),
        };
        let many = self.handshakes.capacity().unwrap_or(usize::MAX) / HEAVY_PART;
        let load = if self.handshakes.len() < many {
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
            self.handshakes.try_send(Incoming::Message(handshake))
        {
            shared.discard(Reason::HandshakeQueueFull, 1);
        }
    }
}
