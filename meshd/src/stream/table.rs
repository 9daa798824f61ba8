//! All streams, as those see them who send.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use wireguard::Underlay;

use super::{Command, Line};
use crate::{
    discard::{Discards, Reason},
    io::wake::Wake,
};

/// Commands of the node loop that wait.
const COMMANDS: usize = 64;

/// The streams that can be sent in, by the address of their other end, and the way to the thread that keeps them.
#[derive(Debug)]
pub struct Table {
    lines: ArcSwap<HashMap<SocketAddr, Arc<Line>>>,
    commands: Sender<Command>,
    wake: Wake,
}

/// An empty table, and what the thread takes of it.
///
/// # Errors
/// The process is out of descriptors.
pub fn table() -> io::Result<(Arc<Table>, Receiver<Command>)> {
    let (commands, receiver) = bounded(COMMANDS);
    let table = Table {
        lines: ArcSwap::default(),
        commands,
        wake: Wake::new()?,
    };
    Ok((Arc::new(table), receiver))
}

impl Table {
    /// Asks the thread for something; whether it will hear of it.
    pub fn ask(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok() && self.wake.wake().is_ok()
    }

    /// Readable when the thread has something to see to.
    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Sends datagrams that lie end to end, `segment` bytes each but for a shorter last one, in the stream that `to` names. What it does
    /// not take at once is dropped, and counted.
    pub fn send(
        &self,
        to: &Underlay,
        bytes: &[u8],
        segment: usize,
        discards: &Discards,
        now: Instant,
    ) {
        let lines = self.lines.load();
        let Some(line) = lines.get(&to.remote) else {
            return discards.discard(Reason::StreamGone, bytes.len().div_ceil(segment) as u64);
        };
        let written = line.write(bytes, segment, now);
        discards.discard(Reason::StreamFull, written.full);
        discards.discard(Reason::StreamGone, written.gone);
        discards.discard(Reason::StreamTooLong, written.too_long);
        if written.needs_care {
            // Should that fail, the thread looks again within a second.
            let _ = self.wake.wake();
        }
    }

    /// Whether there is a stream that `to` names.
    pub(super) fn has(&self, to: &Underlay) -> bool {
        self.lines.load().contains_key(&to.remote)
    }

    /// Lets datagrams go there; returns the stream that was there before.
    pub(super) fn insert(&self, line: &Arc<Line>) -> Option<Arc<Line>> {
        let mut lines = HashMap::clone(&self.lines.load());
        let before = lines.insert(line.endpoint().remote, Arc::clone(line));
        self.lines.store(Arc::new(lines));
        before
    }

    /// Lets none go there any more.
    pub(super) fn remove(&self, line: &Arc<Line>) {
        let mut lines = HashMap::clone(&self.lines.load());
        let remote = line.endpoint().remote;
        if lines
            .get(&remote)
            .is_some_and(|other| Arc::ptr_eq(other, line))
        {
            lines.remove(&remote);
            self.lines.store(Arc::new(lines));
        }
    }
}
