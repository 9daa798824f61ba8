//! The thread that takes handshake messages, from the first key agreement to the answer on the wire, so that neither strangers nor
//! peers cost the node loop more than a look at the outcome, and what is refused costs it nothing.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use tracing::debug;
use wireguard::{Author, HandshakeError, PublicKey, Reader, Session, Transmit};

use crate::{
    bell,
    discard::Reason,
    fib::Fib,
    forward::{Egress, Handshake, Outlet},
    io::clock::Clock,
};

/// One part in this many of a core may go into handshakes.
const SHARE: u32 = 4;
/// Work that is done at once before that share is enforced, in time at that share: handshakes of some hundred peers.
const BURST: Duration = Duration::from_millis(100);

/// Something for the handshake thread.
#[derive(Debug)]
pub enum Incoming {
    /// A message that passed the gate.
    Message(Handshake),
    /// A message of a stranger, whom the node loop has let in.
    Admitted {
        /// The session that it has now.
        session: Arc<Session>,
        /// What was read from the message.
        author: Author,
        /// The message.
        handshake: Handshake,
    },
}

/// An authentic initiation of one who has no session: the node loop decides, and sends it back as [`Incoming::Admitted`].
#[derive(Debug)]
pub struct Stranger {
    /// Who asks for a session.
    pub key: PublicKey,
    /// What was read from the message.
    pub author: Author,
    /// The message.
    pub handshake: Handshake,
}

/// Takes handshake messages.
#[derive(Debug)]
pub struct HandshakeThread {
    /// Knows our key.
    pub reader: Reader,
    /// Who has a session.
    pub fib: Arc<ArcSwap<Fib>>,
    /// What passed the gate, and what comes back from the node loop.
    pub incoming: Receiver<Incoming>,
    /// Who asks the node loop for a session.
    pub strangers: bell::Sender<Stranger>,
    /// Where answers leave, and the node loop hears what its sessions came to.
    pub outlet: Outlet,
    /// The clock that everybody uses.
    pub clock: Clock,
}

/// Whether strangers are worked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// As far as the node admits any.
    Welcome,
    /// Those who are known come first.
    Wait,
}

/// Whose message it is.
#[derive(Debug)]
pub enum Whose<'fib> {
    /// Somebody with a session, or who claims to answer us in it.
    Peer(&'fib Arc<Session>),
    /// Somebody whom the node loop may let in.
    Stranger(PublicKey),
}

/// Reads a message and finds its session.
///
/// # Errors
/// Those of [`Reader::read`]; [`HandshakeError::UnknownIndex`].
pub fn read<'fib>(
    reader: &Reader,
    fib: &'fib Fib,
    datagram: &[u8],
    strangers: Strangers,
    now: Instant,
) -> Result<(Author, Whose<'fib>), HandshakeError> {
    let author = reader.read(datagram, |key| match fib.session(key) {
        Some(session) => session.admit(now),
        None if strangers == Strangers::Welcome && fib.admits(key) => Ok(()),
        None => Err(HandshakeError::Stranger(*key)),
    })?;
    let whose = match author {
        Author::Initiator { key, .. } => match fib.session(&key) {
            Some(session) => Whose::Peer(session),
            None => Whose::Stranger(key),
        },
        Author::Answerer { receiver } => {
            let carrier = fib.receiver(receiver);
            Whose::Peer(&carrier.ok_or(HandshakeError::UnknownIndex)?.session)
        }
    };
    Ok((author, whose))
}

/// What the thread sends with.
#[derive(Debug)]
pub(crate) struct Desk {
    sent: VecDeque<Transmit>,
    egress: Egress,
}

impl Desk {
    pub(crate) fn new(outlet: Outlet) -> Self {
        Self {
            sent: VecDeque::new(),
            egress: Egress::new(outlet, 0),
        }
    }
}

impl HandshakeThread {
    /// Takes messages until nobody can send any more.
    pub fn run(self) {
        let mut desk = Desk::new(self.outlet.clone());
        let mut budget = Budget::new(self.clock.now());
        for incoming in &self.incoming {
            let begun = self.clock.now();
            if let Err(reason) = self.take(incoming, budget.strangers(begun), begun, &mut desk) {
                self.outlet.discards.discard(reason, 1);
            }
            let now = self.clock.now();
            let pause = budget.spend(now.saturating_duration_since(begun), now);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
    }

    /// Takes one message, or says why it leads to nothing.
    pub(crate) fn take(
        &self,
        incoming: Incoming,
        strangers: Strangers,
        now: Instant,
        desk: &mut Desk,
    ) -> Result<(), Reason> {
        let handshake = match incoming {
            Incoming::Message(handshake) => handshake,
            Incoming::Admitted {
                session,
                author,
                handshake,
            } => return self.step(&session, author, &handshake, now, desk),
        };
        let fib = self.fib.load();
        let (author, whose) = read(&self.reader, &fib, handshake.datagram(), strangers, now)
            .map_err(|error| refused(&handshake, error))?;
        match whose {
            Whose::Peer(session) => self.step(session, author, &handshake, now, desk),
            Whose::Stranger(key) => {
                let stranger = Stranger {
                    key,
                    author,
                    handshake,
                };
                let asked = self.strangers.try_send(stranger);
                asked.map_err(|_| Reason::HandshakeQueueFull)
            }
        }
    }

    /// The session's part, under its lock. Packets of that session wait meanwhile, and those of no other.
    fn step(
        &self,
        session: &Session,
        author: Author,
        handshake: &Handshake,
        now: Instant,
        desk: &mut Desk,
    ) -> Result<(), Reason> {
        let mut batch = session.lock(now);
        let result =
            batch.handle_handshake(author, handshake.from, handshake.datagram(), &mut desk.sent);
        let signals = batch.finish();
        let fib = self.fib.load();
        for Transmit { endpoint, payload } in desk.sent.drain(..) {
            desk.egress.reply(endpoint, &payload, &fib, now);
        }
        desk.egress.flush(now);
        desk.egress.signal(session.key(), signals);
        result.map_err(|error| refused(handshake, error))
    }
}

fn refused(handshake: &Handshake, error: HandshakeError) -> Reason {
    debug!(%handshake.from, %error, "Handshake message refused");
    reason(error)
}

/// Why a handshake message led to nothing, for the counters.
pub fn reason(error: HandshakeError) -> Reason {
    match error {
        HandshakeError::Stranger(_) => Reason::Stranger,
        HandshakeError::UnknownIndex => Reason::UnknownReceiver,
        HandshakeError::NotHandshake
        | HandshakeError::Mac1
        | HandshakeError::Ephemeral(_)
        | HandshakeError::Static(_)
        | HandshakeError::OwnKey
        | HandshakeError::TooSoon
        | HandshakeError::Unexpected
        | HandshakeError::Replayed
        | HandshakeError::Misplaced
        | HandshakeError::Forged => Reason::HandshakeRefused,
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

    /// Strangers have to wait while half the burst is used up.
    fn strangers(&self, now: Instant) -> Strangers {
        if self.square.saturating_duration_since(now) < BURST / 2 {
            Strangers::Welcome
        } else {
            Strangers::Wait
        }
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
    use crate::{
        bell::Bell,
        discard::Discards,
        fib::{Admits, Carrier, Own, Role},
        forward::{Notice, Sockets},
        io::udp::UdpSocket,
        testdata::identity,
    };
    use crossbeam_channel::bounded;
    use std::net::{SocketAddr, UdpSocket as Plain};
    use wireguard::{Device, Endpoint, Kind, Mac1, Peer, Upkeep};

    const OURS: usize = 0;
    const THEIRS: usize = 1;
    const LOCALHOST: &str = "127.0.0.1:0";

    fn key(n: usize) -> PublicKey {
        identity(n).node().public_key()
    }

    fn device(n: usize) -> Device {
        Device::new(identity(n).private_key().clone(), 1)
    }

    fn peer(n: usize) -> Peer {
        Peer {
            key: key(n),
            preshared: None,
            kind: Kind::Mesh,
            allowed: Vec::new(),
            endpoints: vec![Endpoint::unproven("192.0.2.1:7".parse().unwrap())],
            persistent_keepalive: None,
            upkeep: Upkeep::OnDemand,
        }
    }

    /// Two devices that know each other since a minute; ours has the thread, and no other.
    struct Bench {
        ours: Device,
        theirs: Device,
        /// Where they are.
        socket: Plain,
        clock: Clock,
        then: Instant,
        admits: Admits,
    }

    /// What the thread did.
    struct Done {
        notices: Vec<Notice>,
        strangers: Vec<Stranger>,
        discards: Arc<Discards>,
        replies: Vec<Vec<u8>>,
    }

    impl Bench {
        fn new() -> Self {
            let clock = Clock::new();
            let then = clock.now().checked_sub(Duration::from_secs(60)).unwrap();
            let (mut ours, mut theirs) = (device(OURS), device(THEIRS));
            ours.add_peer(peer(THEIRS), then).unwrap();
            theirs.add_peer(peer(OURS), then).unwrap();
            let socket = Plain::bind(LOCALHOST).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self {
                ours,
                theirs,
                socket,
                clock,
                then,
                admits: Admits::Nobody,
            }
        }

        fn from(&self) -> Endpoint {
            Endpoint::unproven(self.socket.local_addr().unwrap())
        }

        fn initiation(from: &mut Device, to: usize, now: Instant) -> Vec<u8> {
            from.initiate(&key(to), now);
            from.poll_transmit().unwrap().payload
        }

        fn message(&self, datagram: &[u8]) -> Incoming {
            Incoming::Message(Handshake::new(self.from(), datagram).unwrap())
        }

        /// Gives these to the thread, and waits until it is done.
        fn run(&self, messages: Vec<Incoming>) -> Done {
            let node = identity(OURS).node();
            let carriers = self.ours.sessions().map(|session| Carrier {
                session: Arc::clone(session),
                owns: Vec::new(),
                role: Role::Leaf,
                stats: Arc::default(),
                inbound: None,
            });
            let own = Own {
                address: node.address(),
                prefix: node.prefix(),
                link_local: node.link_local(),
                token: [0; 8],
            };
            let fib = Fib::new(own, carriers, []);
            let (outside, incoming) = bounded(8);
            let (strangers, asked) = Bell::default().queue(8);
            let (notices, heard) = Bell::default().queue(8);
            for message in messages {
                outside.send(message).unwrap();
            }
            drop(outside);
            let discards = Arc::new(Discards::default());
            let local: SocketAddr = LOCALHOST.parse().unwrap();
            let sockets = Sockets::new(vec![UdpSocket::bind(local, 0).unwrap()]).unwrap();
            let thread = HandshakeThread {
                reader: self.ours.reader().clone(),
                fib: Arc::new(ArcSwap::from_pointee(fib.admitting(self.admits.clone()))),
                incoming,
                strangers,
                outlet: Outlet {
                    sockets: Arc::new(sockets),
                    discards: Arc::clone(&discards),
                    notices,
                },
                clock: self.clock,
            };
            thread.run();
            let mut buffer = [0; 256];
            let replies = std::iter::from_fn(|| {
                let length = self.socket.recv(&mut buffer).ok()?;
                Some(buffer[..length].to_vec())
            });
            Done {
                notices: heard.try_iter().collect(),
                strangers: asked.try_iter().collect(),
                discards,
                replies: replies.collect(),
            }
        }
    }

    impl Done {
        /// That the node loop hears nothing, nobody gets an answer, and what was refused is counted.
        fn ends_here(&self, reason: Reason, times: u64) {
            assert!(self.notices.is_empty() && self.strangers.is_empty());
            assert!(self.replies.is_empty());
            assert_eq!(self.discards.count(reason), times, "{:?}", self.discards);
        }

        fn tells_of(&self, peer: usize) -> bool {
            matches!(self.notices.as_slice(), [Notice::Signal(told)] if *told == key(peer))
        }
    }

    #[test]
    fn a_peer_is_answered_from_here_and_the_node_loop_told() {
        let mut bench = Bench::new();
        let initiation = Bench::initiation(&mut bench.theirs, OURS, bench.then);
        let done = bench.run(vec![bench.message(&initiation)]);
        assert!(done.tells_of(THEIRS) && done.strangers.is_empty());
        let [response] = done.replies.as_slice() else {
            panic!("{:?}", done.replies)
        };
        let taken = bench
            .theirs
            .handle_datagram(bench.from(), response, bench.clock.now());
        assert_eq!(taken, Ok(()));
    }

    #[test]
    fn a_replayed_initiation_ends_here() {
        let mut bench = Bench::new();
        let initiation = Bench::initiation(&mut bench.theirs, OURS, bench.then);
        let (from, then) = (bench.from(), bench.then);
        bench.ours.handle_datagram(from, &initiation, then).unwrap();
        let replays = (0..5).map(|_| bench.message(&initiation)).collect();
        bench.run(replays).ends_here(Reason::HandshakeRefused, 5);
    }

    #[test]
    fn an_initiation_too_soon_after_the_last_ends_here() {
        let mut bench = Bench::new();
        let first = Bench::initiation(&mut bench.theirs, OURS, bench.then);
        let later = bench.then + Duration::from_secs(10);
        bench.theirs.handle_timeout(later);
        let second = bench.theirs.poll_transmit().unwrap().payload;
        let now = bench.clock.now();
        let from = bench.from();
        bench.ours.handle_datagram(from, &first, now).unwrap();
        let soon = vec![bench.message(&second)];
        bench.run(soon).ends_here(Reason::HandshakeRefused, 1);
    }

    #[test]
    fn a_forged_response_ends_here_and_the_right_one_does_not() {
        let mut bench = Bench::new();
        let (from, then) = (bench.from(), bench.then);
        let initiation = Bench::initiation(&mut bench.ours, THEIRS, then);
        bench
            .theirs
            .handle_datagram(from, &initiation, then)
            .unwrap();
        let response = bench.theirs.poll_transmit().unwrap().payload;
        let mut forged = response.clone();
        forged[50] ^= 1;
        Mac1::new(&key(OURS)).write(&mut forged);
        let forgeries = (0..5).map(|_| bench.message(&forged)).collect();
        bench.run(forgeries).ends_here(Reason::HandshakeRefused, 5);

        let done = bench.run(vec![bench.message(&response)]);
        assert!(done.tells_of(THEIRS));
        assert_eq!(done.replies.len(), 1, "the keepalive that confirms");
        assert!(bench.ours.session(&key(THEIRS)).unwrap().is_established());
    }

    #[test]
    fn an_answer_to_nobody_ends_here() {
        let bench = Bench::new();
        let mut response = vec![0; 92];
        response[0] = 2;
        response[12] = 9;
        Mac1::new(&key(OURS)).write(&mut response);
        let done = bench.run(vec![bench.message(&response)]);
        done.ends_here(Reason::UnknownReceiver, 1);
    }

    #[test]
    fn the_node_loop_never_hears_of_strangers_unless_it_is_open() {
        let mut bench = Bench::new();
        let mut stranger = device(2);
        stranger.add_peer(peer(OURS), bench.then).unwrap();
        let initiation = Bench::initiation(&mut stranger, OURS, bench.then);
        let done = bench.run(vec![bench.message(&initiation)]);
        done.ends_here(Reason::Stranger, 1);

        bench.admits = Admits::Everybody;
        let mut done = bench.run(vec![bench.message(&initiation)]);
        assert!(done.notices.is_empty() && done.replies.is_empty());
        let Stranger {
            key: named,
            author,
            handshake,
        } = done.strangers.pop().unwrap();
        assert_eq!(named, key(2));
        let session = bench.ours.add_peer(peer(2), bench.then).unwrap();
        let admitted = Incoming::Admitted {
            session,
            author,
            handshake,
        };
        let done = bench.run(vec![admitted]);
        assert!(done.tells_of(2) && done.replies.len() == 1);
    }

    #[test]
    fn who_was_removed_before_its_turn_gets_no_answer() {
        let mut bench = Bench::new();
        let initiation = Bench::initiation(&mut bench.theirs, OURS, bench.then);
        let author = bench.ours.reader().read(&initiation, |_| Ok(())).unwrap();
        let session = Arc::clone(bench.ours.session(&key(THEIRS)).unwrap());
        bench.ours.remove_peer(&key(THEIRS));
        let late = Incoming::Admitted {
            session,
            author,
            handshake: Handshake::new(bench.from(), &initiation).unwrap(),
        };
        bench.run(vec![late]).ends_here(Reason::Stranger, 1);
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
        assert_eq!(budget.strangers(now), Strangers::Wait);
    }

    #[test]
    fn a_few_handshakes_never_wait() {
        let start = Clock::new().now();
        let mut budget = Budget::new(start);
        for n in 0..1000 {
            let now = start + 10 * n * WORK;
            assert_eq!(budget.strangers(now), Strangers::Welcome);
            assert_eq!(budget.spend(WORK, now), Duration::ZERO);
        }
    }
}
