//! Packets that came cut: what is let in of them is decided by the first fragment, which alone says what it is about.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use hashlink::LinkedHashMap;

use crate::packet::Packet;

/// Packets of one party whose fragments are still awaited; the oldest gives way.
pub const MAX_CUT: usize = 64;
/// The rest of a packet is awaited for so long (RFC 8200 §4.5: reassembly is given up after 60 s).
pub const REASSEMBLY: Duration = Duration::from_secs(60);

/// Packets whose first fragment was let in.
#[derive(Debug, Default)]
pub(crate) struct Fragments(LinkedHashMap<(Ipv6Addr, Ipv6Addr, u32), First>);

#[derive(Clone, Copy, Debug)]
struct First {
    /// Where the first fragment ends: what lies before that has been judged.
    end: u32,
    came: Instant,
}

impl Fragments {
    /// A packet, or its first fragment, is let in.
    pub(crate) fn note(&mut self, packet: &Packet, now: Instant) {
        let Some(fragment) = packet.fragment else {
            return;
        };
        if self.0.len() >= MAX_CUT {
            self.0.pop_front();
        }
        let name = (packet.source, packet.destination, fragment.identification);
        let first = First {
            end: fragment.end,
            came: now,
        };
        self.0.insert(name, first);
    }

    /// Whether a fragment other than the first may follow it: the first was let in, and this one changes nothing of that
    /// (RFC 5722 §3: fragments do not overlap).
    pub(crate) fn may_follow(&self, packet: &Packet, now: Instant) -> bool {
        let Some(fragment) = packet.fragment else {
            return false;
        };
        let name = (packet.source, packet.destination, fragment.identification);
        self.0.get(&name).is_some_and(|first| {
            let is_awaited = now.saturating_duration_since(first.came) < REASSEMBLY;
            is_awaited && fragment.start >= first.end
        })
    }
}
