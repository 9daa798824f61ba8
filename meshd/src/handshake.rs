//! The thread that reads handshake messages from anybody, so that strangers cost the node loop nothing.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use tracing::debug;
use wireguard::{Author, HandshakeError, Reader};

use crate::{
    discard::{Discards, Reason},
    fib::Fib,
    forward::Handshake,
    io::clock::Clock,
};

/// One part in this many of a core may go into reading what strangers send.
const SHARE: u32 = 4;
/// Work that is done at once before that share is enforced, in time at that share: handshakes of some hundred peers.
const BURST: Duration = Duration::from_millis(100);

/// A handshake message whose author is known.
#[derive(Debug)]
pub struct Authentic {
    /// Who made it.
    pub author: Author,
    /// The message, and where it came from.
    pub handshake: Handshake,
}

/// Reads handshake messages.
#[derive(Debug)]
pub struct HandshakeReader {
    /// Knows our key.
    pub reader: Reader,
    /// Who may have a session.
    pub fib: Arc<ArcSwap<Fib>>,
    /// What passed the gate.
    pub incoming: Receiver<Handshake>,
    /// What the node loop is to hear about.
    pub authentic: Sender<Authentic>,
    /// The counters of discarded packets.
    pub discards: Arc<Discards>,
    /// The clock that everybody uses.
    pub clock: Clock,
}

impl HandshakeReader {
    /// Reads until the queue of incoming messages is closed.
    pub fn run(self) {
        let mut budget = Budget::new(self.clock.now());
        for handshake in &self.incoming {
            let begun = self.clock.now();
            let has_time = budget.has_time(begun);
            let fib = self.fib.load();
            let author = self.reader.read(handshake.datagram(), |key| {
                fib.knows(key) || (has_time && fib.admits_strangers())
            });
            match author {
                Ok(author) => self.pass_on(Authentic { author, handshake }),
                Err(error) => {
                    debug!(%handshake.from.remote, %error, "Handshake message refused");
                    self.discards.discard(reason(error), 1);
                }
            }
            let now = self.clock.now();
            let pause = budget.spend(now.saturating_duration_since(begun), now);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    }

    fn pass_on(&self, authentic: Authentic) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.authentic.try_send(authentic)
        {
            self.discards.discard(Reason::HandshakeQueueFull, 1);
        }
    }
}

/// Why a handshake message led to nothing, for the counters.
pub fn reason(error: HandshakeError) -> Reason {
    if matches!(error, HandshakeError::Stranger(_)) {
        Reason::Stranger
    } else {
        Reason::HandshakeRefused
    }
}

/// How much time has been spent, against a share of all time.
#[derive(Debug)]
struct Budget {
    /// When everything spent so far has been waited for.
    square: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { square: now }
    }

    /// Whether strangers may be worked for: not while half the burst is used up, so that those who are known come first.
    fn has_time(&self, now: Instant) -> bool {
        self.square.saturating_duration_since(now) < BURST / 2
    }

    /// Notes time spent, and says how long to pause.
    fn spend(&mut self, spent: Duration, now: Instant) -> Duration {
        self.square = self.square.max(now) + spent * SHARE;
        self.square
            .saturating_duration_since(now)
            .saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Admission, testdata::identity};
    use crossbeam_channel::bounded;
    use wireguard::{Device, Endpoint, Kind, Peer, Upkeep};

    /// What an initiation of `initiator` to `responder` comes to, where the responder knows `known`.
    fn read(
        initiator: usize,
        responder: usize,
        known: usize,
        admission: Admission,
    ) -> (Vec<Authentic>, Arc<Discards>) {
        let clock = Clock::new();
        let (ours, key) = (identity(responder), |n| identity(n).node().public_key());
        let peer = |n| Peer {
            key: key(n),
            preshared: None,
            kind: Kind::Mesh,
            allowed: Vec::new(),
            endpoints: vec!["192.0.2.1:7".parse().unwrap()],
            persistent_keepalive: None,
            upkeep: Upkeep::OnDemand,
        };
        let mut client = Device::new(identity(initiator).private_key().clone(), 1);
        client.add_peer(peer(responder), clock.now()).unwrap();
        client.initiate(&key(responder), clock.now());
        let initiation = client.poll_transmit().unwrap().payload;
        let mut device = Device::new(ours.private_key().clone(), 1);
        let session = device.add_peer(peer(known), clock.now()).unwrap();
        let node = ours.node();
        let fib = Fib::new(
            node.address(),
            node.prefix(),
            [0; 8],
            [(session, Vec::new())],
        );

        let (outside, incoming) = bounded(1);
        let (authentic, node_loop) = bounded(1);
        let discards = Arc::new(Discards::default());
        let from = Endpoint::unproven("192.0.2.1:7".parse().unwrap());
        outside
            .send(Handshake::new(from, &initiation).unwrap())
            .unwrap();
        drop(outside);
        let reader = HandshakeReader {
            reader: device.reader().clone(),
            fib: Arc::new(ArcSwap::from_pointee(fib.admitting(admission))),
            incoming,
            authentic,
            discards: Arc::clone(&discards),
            clock,
        };
        reader.run();
        (node_loop.try_iter().collect(), discards)
    }

    #[test]
    fn the_node_loop_hears_of_those_it_knows() {
        let (heard, _) = read(0, 1, 0, Admission::Listed);
        let author = Author::Initiator(identity(0).node().public_key());
        assert_eq!(
            heard.iter().map(|one| one.author).collect::<Vec<_>>(),
            [author]
        );
    }

    #[test]
    fn the_node_loop_never_hears_of_strangers_unless_it_is_open() {
        let (heard, discards) = read(0, 1, 2, Admission::Listed);
        assert!(heard.is_empty());
        assert_eq!(discards.count(Reason::Stranger), 1);
        let (heard, _) = read(0, 1, 2, Admission::Open);
        assert_eq!(heard.len(), 1);
    }

    const WORK: Duration = Duration::from_millis(1);

    #[test]
    fn a_flood_gets_a_quarter_of_the_time() {
        let start = Clock::new().now();
        let (mut budget, mut now, mut worked) = (Budget::new(start), start, Duration::ZERO);
        while now < start + Duration::from_secs(10) {
            now += WORK;
            worked += WORK;
            now += budget.spend(WORK, now);
        }
        let quarter = Duration::from_millis(2_500);
        assert!((quarter..quarter + BURST).contains(&worked), "{worked:?}");
        assert!(!budget.has_time(now), "known peers come first");
    }

    #[test]
    fn a_few_handshakes_never_wait() {
        let start = Clock::new().now();
        let mut budget = Budget::new(start);
        for n in 0..1000 {
            let now = start + 10 * n * WORK;
            assert!(budget.has_time(now));
            assert_eq!(budget.spend(WORK, now), Duration::ZERO);
        }
    }
}
