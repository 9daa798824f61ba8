//! What waits between the TUN device and the seal: fair to nodes and to flows, short for all who do not fill it themselves.
//!
//! FQ-CoDel (RFC 8290) over frames: a frame is one super-packet and counts by its bytes. Flows are served in turns, those that have
//! not been waiting lately first, so that a lone packet never stands behind somebody's megabyte. A flow's turn is the smaller the more
//! flows its destination's node has waiting, so that nodes are served alike however many flows each has. When all is full, the flow with
//! most in it loses from its head.
//!
//! The kernel's queue in front of this one is emptied before every turn; it is only there for as long as a turn takes.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use super::codel::Codel;
use crate::{
    io::offload::{FRAME, HEADER},
    packet::HEADER as IPV6,
};

/// What waits at most, by the room it takes: 5 ms at 6 Gbit/s.
const LIMIT: usize = 4 << 20;
/// What flows may have waiting before their senders are told at once, in bytes of frames: what the thread seals in about 2 ms. TCP would
/// fill whatever is there, and what is not here then waits at the other end, where flows cannot be told apart.
const STANDING: usize = 1 << 20;
/// A flow with less than this waiting is not told so: one super-packet in hand and one behind it are no queue.
const LEAST_STANDING: usize = 2 << 16;
/// A sender is told of that this often at most: it can slow down once in a round trip.
const PATIENCE: Duration = Duration::from_millis(10);
/// Frames up to this long are moved to a buffer of this size: a queue of lone packets must not take 64 KB for each.
const SMALL: usize = 2048;
/// Places for flows. Two flows in one place share its turns, no more.
const FLOWS: usize = 512;
/// Places for destinations.
const NODES: usize = 256;
/// What a flow may send before the next one has its turn, if it is its node's only one.
const QUANTUM: i64 = 1 << 16;
/// The smallest turn, which is also that of a flow that has just begun: a few packets.
const LEAST_QUANTUM: i64 = 4096;
/// One flow loses so many frames in a row at most, so that finding out which is not done for each (RFC 8290 §4.1.2).
const LOST: usize = 16;

/// The queue of one packet thread.
#[derive(Debug)]
pub(super) struct Queue {
    flows: Box<[Flow]>,
    /// Flows with frames that have not had a whole turn since they began, in order.
    new: VecDeque<u16>,
    /// Flows in order of their turns.
    old: VecDeque<u16>,
    /// How many waiting flows each destination has.
    nodes: Box<[u16]>,
    room: usize,
    /// Makes it unpredictable which flows share a place.
    seed: u64,
    /// Buffers to use again, of both sizes.
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

#[derive(Debug, Default)]
struct Flow {
    frames: VecDeque<Frame>,
    /// Room that its frames take.
    room: usize,
    /// Their lengths.
    bytes: usize,
    /// When its sender was last told that it has too much waiting.
    told: Option<Instant>,
    /// What it may still send in this turn.
    deficit: i64,
    codel: Codel,
    node: u16,
    turn: Turn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// In neither list.
    #[default]
    Idle,
    New,
    Old,
}

impl Flow {
    /// Accounts for a frame that leaves; says whether it is chosen. `is_long` says whether more waited than should.
    fn sends(&mut self, frame: &Frame, is_long: bool, now: Instant) -> bool {
        self.deficit -= frame.length as i64;
        // The last frame of a flow is no queue.
        let waited = if self.frames.is_empty() {
            Duration::ZERO
        } else {
            now.saturating_duration_since(frame.arrived)
        };
        let mut is_chosen = self.codel.chooses(waited, now);
        is_chosen |= is_long
            && self
                .told
                .is_none_or(|told| now.saturating_duration_since(told) >= PATIENCE);
        if is_chosen {
            self.told = Some(now);
        }
        is_chosen
    }
}

#[derive(Debug)]
struct Frame {
    bytes: Box<[u8]>,
    length: usize,
    arrived: Instant,
}

/// A frame that has its turn. To be given back by [`Queue::recycle`].
#[derive(Debug)]
pub(super) struct Next {
    bytes: Box<[u8]>,
    length: usize,
    /// Whether its sender should be told to slow down, by a mark or a lost packet.
    pub(super) is_chosen: bool,
}

impl Next {
    /// Virtio header and packet.
    pub(super) fn frame(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Queue {
    /// An empty one. `seed` should be nobody's to guess.
    pub(super) fn new(seed: u32) -> Self {
        Self {
            flows: (0..FLOWS).map(|_| Flow::default()).collect(),
            new: VecDeque::with_capacity(FLOWS),
            old: VecDeque::with_capacity(FLOWS),
            nodes: vec![0; NODES].into(),
            room: 0,
            seed: (u64::from(seed) << 32) | u64::from(seed) | 1,
            small: Vec::new(),
            large: Vec::new(),
        }
    }

    /// A buffer of [`FRAME`] bytes for [`Self::push`].
    pub(super) fn buffer(&mut self) -> Box<[u8]> {
        self.large.pop().unwrap_or_else(|| vec![0; FRAME].into())
    }

    /// Whether no frame waits.
    pub(super) fn is_empty(&self) -> bool {
        self.room == 0
    }

    /// Adds the frame of `length` bytes in a buffer from [`Self::buffer`]. Returns how many frames were lost, of this or another flow,
    /// because there was no room.
    pub(super) fn push(&mut self, mut buffer: Box<[u8]>, length: usize, now: Instant) -> usize {
        if length <= SMALL {
            let mut bytes = self.small.pop().unwrap_or_else(|| vec![0; SMALL].into());
            bytes[..length].copy_from_slice(&buffer[..length]);
            self.keep(mem::replace(&mut buffer, bytes));
        }
        let packet = buffer.get(HEADER..length).unwrap_or_default();
        let flow = self.flow_of(packet);
        if self.flows[usize::from(flow)].turn == Turn::Idle {
            let node = self.node_of(packet);
            let place = &mut self.flows[usize::from(flow)];
            place.turn = Turn::New;
            place.deficit = LEAST_QUANTUM;
            place.node = node;
            self.new.push_back(flow);
            self.nodes[usize::from(node)] += 1;
        }
        let place = &mut self.flows[usize::from(flow)];
        place.room += buffer.len();
        place.bytes += length;
        self.room += buffer.len();
        place.frames.push_back(Frame {
            bytes: buffer,
            length,
            arrived: now,
        });
        if self.room > LIMIT { self.shorten() } else { 0 }
    }

    /// The frame whose turn it is.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Next> {
        loop {
            let (is_new, at) = match (self.new.front(), self.old.front()) {
                (Some(at), _) => (true, *at),
                (None, Some(at)) => (false, *at),
                (None, None) => return None,
            };
            let share = (STANDING / (self.new.len() + self.old.len())).max(LEAST_STANDING);
            let flow = &self.flows[usize::from(at)];
            if flow.deficit > 0 {
                let is_long = flow.bytes > share;
                if let Some(frame) = self.take(usize::from(at)) {
                    return Some(Next {
                        is_chosen: self.flows[usize::from(at)].sends(&frame, is_long, now),
                        bytes: frame.bytes,
                        length: frame.length,
                    });
                }
                // A new flow that is done goes to the end of the others all the same, or it could be new again at once and have every
                // turn (RFC 8290 §4.2).
                self.leave(is_new);
                if is_new && !self.old.is_empty() {
                    self.queue_up(at);
                } else {
                    let flow = &mut self.flows[usize::from(at)];
                    flow.turn = Turn::Idle;
                    self.nodes[usize::from(flow.node)] -= 1;
                }
            } else {
                let alike = i64::from(self.nodes[usize::from(flow.node)].max(1));
                self.flows[usize::from(at)].deficit += (QUANTUM / alike).max(LEAST_QUANTUM);
                self.leave(is_new);
                self.queue_up(at);
            }
        }
    }

    /// Takes back the buffer of a frame that was sent.
    pub(super) fn recycle(&mut self, next: Next) {
        self.keep(next.bytes);
    }

    /// Takes back a buffer.
    pub(super) fn keep(&mut self, bytes: Box<[u8]>) {
        if bytes.len() == SMALL {
            self.small.push(bytes);
        } else {
            self.large.push(bytes);
        }
    }

    fn leave(&mut self, is_new: bool) {
        if is_new {
            self.new.pop_front();
        } else {
            self.old.pop_front();
        }
    }

    fn queue_up(&mut self, at: u16) {
        self.flows[usize::from(at)].turn = Turn::Old;
        self.old.push_back(at);
    }

    /// The first frame of a flow.
    fn take(&mut self, flow: usize) -> Option<Frame> {
        let flow = &mut self.flows[flow];
        let frame = flow.frames.pop_front()?;
        flow.room -= frame.bytes.len();
        flow.bytes -= frame.length;
        self.room -= frame.bytes.len();
        Some(frame)
    }

    /// Takes frames from the head of the flow that has most, which tells its sender soonest.
    fn shorten(&mut self) -> usize {
        let Some(fattest) = (0..FLOWS).max_by_key(|&at| self.flows[at].room) else {
            return 0;
        };
        let mut lost = 0;
        let half = self.flows[fattest].room / 2;
        while lost < LOST && (self.room > LIMIT || self.flows[fattest].room > half) {
            let Some(frame) = self.take(fattest) else {
                break;
            };
            self.keep(frame.bytes);
            lost += 1;
        }
        lost
    }

    fn node_of(&self, packet: &[u8]) -> u16 {
        let prefix = packet.get(24..32).unwrap_or_default();
        (self.hash([prefix]) % NODES as u64) as u16
    }

    /// Addresses, protocol, and the ports where they are at once behind: what is behind other headers counts as one flow.
    fn flow_of(&self, packet: &[u8]) -> u16 {
        let addresses = packet.get(8..IPV6).unwrap_or_default();
        let protocol = packet.get(6..7).unwrap_or_default();
        let ports = match protocol {
            [6 | 17] => packet.get(IPV6..IPV6 + 4).unwrap_or_default(),
            _ => &[],
        };
        (self.hash([addresses, protocol, ports]) % FLOWS as u64) as u16
    }

    fn hash<const N: usize>(&self, parts: [&[u8]; N]) -> u64 {
        let mut hash = self.seed;
        for chunk in parts.iter().flat_map(|part| part.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let product = u128::from(hash ^ u64::from_le_bytes(word)) * 0x9E37_79B9_7F4A_7C15;
            hash = (product as u64) ^ (product >> 64) as u64 ^ self.seed.rotate_left(17);
        }
        hash
    }
}

#[cfg(test)]
mod tests;
