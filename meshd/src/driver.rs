//! The daemon's threads, and who owns what.
//!
//! ```text
//!            TUN                                                      UDP sockets
//!             │ read                                             recvmmsg │
//!   ┌─────────▼─────────┐      the snapshot (ArcSwap<Fib>)      ┌─────────▼─────────┐
//!   │ inside (thread)   │◄───────────── publishes ─────────────►│ outside (thread)  │
//!   │ TUN → seal → UDP  │                   ▲                   │ UDP → open → TUN  │
//!   └─────────┬─────────┘                   │                   └────┬─────────┬────┘
//!             │ notices (bounded)           │        notices (bounded)│         │ handshakes (gate, bounded, dropped first)
//!             └──────────────────►┌─────────┴──────────┐◄─────────────┘ ┌───────▼──────────────┐
//!                                 │ node loop (thread) │◄───────────────┤ handshake (thread)   │
//!                                 │ owns Node alone    │  notices       │ ≤ 25 % of a core     │
//!                                 │                    │◄───────────────┤ key → known? → read  │
//!                                 │                    │  strangers     │ → engine → UDP       │
//!                                 │                    ├───────────────►│                      │
//!                                 └─────────▲──────────┘  admitted      └──────────────────────┘
//!                    calls (bounded)        │ requests (bounded): names to resolve
//!             ┌─────────────────────────────┴──────────┐
//!             │ control (main thread, tokio): admin    │
//!             │ socket, signals, resolver, netlink     │
//!             └────────────────────────────────────────┘
//! ```
//!
//! Packet threads never wait for anybody: a full queue costs a counted packet, not time. The node loop takes notices before calls and
//! calls before strangers. What others ask of a session's handshake is answered in the handshake thread; the node loop hears of it as
//! of traffic, by a notice that something was noted in the session, and of what was refused it hears nothing. Strangers it only lets in,
//! on an open node; their message goes back to be answered.
//!
//! The only lock is that of one session: for one batch of packets, or for one step of a handshake, for which packets of that session
//! (and of no other) wait 0.15 ms. Nobody ever holds two. Besides, whoever sends in a TCP stream locks that stream for a write that takes
//! what there is room for and does not wait.
//!
//! One more thread, `stream`, keeps the TCP streams (`stream/`), reads them as `outside` reads its sockets, and shares the TUN queue and the
//! sockets of the first shard. It alone may connect, and may open no file: it is started before the others lose the right to.
//!
//! Questions for names, from this host and what is behind this node, go to a thread `resolver` over a bounded queue; it answers from the
//! snapshot, to the TUN device or into the session of whoever asked.
//!
//! Probes of path agents, under tokens that were given away, come to the node loop over a queue of their own, after all that concerns
//! sessions. Sockets that are opened while the daemon runs have one more outside thread, `extra`, which mostly sleeps; the devices of
//! workloads have one more inside thread, `workloads`.
//!
//! On more than three processors there are several of inside and outside, in pairs, each with a queue of the TUN device and sockets of its
//! own; the first is the one that the node loop and the handshake thread use. Order inside a flow holds because the kernel keeps a flow in one
//! queue and a sender with one socket, and one thread carries each direction of those. A thread that ends ends the daemon.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use names::Directory;
use routing::origin::{Job, Outcome};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tracing::{debug, error, warn};
use wireguard::{Gate, Mac1, PublicKey};

use crate::{
    admin::Trace,
    bell::{self, Bell},
    config::{HostPort, MAX_QUEUES, Settings},
    discard::Reason,
    forward::{
        Device, Doors, Inside, Notice, Outbox, Outside, Probed, QUESTIONS, Resolver, Shared,
    },
    handshake::{HandshakeThread, Incoming, Stranger},
    identity::NodeId,
    io::{tun::Tun, wake::Wake},
    node::{Fresh, JoinFailure, Joined, Node, Output, Pong, derive},
    pulse::Pulse,
    resolved::Zones,
    stream::{self, StreamThread},
    workload::{AttachError, NoSuchWorkload, Wish, Workload},
};

/// Notices of the packet threads: a burst of packets for a closed session at most.
pub const NOTICES: usize = 1024;
/// Handshake messages that wait for their thread: 0.1 s of its time if all come from strangers, 0.25 s if all are answered, both at a
/// quarter of a core, so that the wait stays short under a flood.
const HANDSHAKES: usize = 256;
/// Strangers that ask for a session: 5 ms of work for the node loop.
const STRANGERS: usize = 64;
/// Probes of path agents: a few milliseconds of work, and as many as a burst of birthday probing can bring.
const PROBES: usize = 256;
/// Proofs and records to verify: 20 ms of work.
const JOBS: usize = 256;
/// Commands of the control thread.
const CALLS: usize = 64;
/// Peers whose names wait to be resolved.
pub const REQUESTS: usize = 256;

const _: () = assert!(
    HANDSHAKES * size_of::<Incoming>() + STRANGERS * size_of::<Stranger>() <= 96 << 10,
    "strangers fill these queues"
);
const _: () = assert!(
    NOTICES * 1500 <= 2 << 20,
    "held packets pass through this queue"
);

/// How often it is looked whether threads have answered.
const LISTEN: Duration = Duration::from_millis(5);

/// Most notices, and most strangers, taken before timers are looked at again.
const NOTICES_A_TURN: usize = 256;
const STRANGERS_A_TURN: usize = 16;
/// And most probes.
const PROBES_A_TURN: usize = 64;

/// Something to do on the node loop.
type Call = Box<dyn FnOnce(&mut NodeLoop, Instant) + Send>;

/// The node loop's own end of everything.
pub struct NodeLoop {
    /// The node.
    pub node: Node,
    shared: Shared,
    bell: Bell,
    notices: Receiver<Notice>,
    strangers: Receiver<Stranger>,
    probes: Receiver<Probed>,
    handshakes: Sender<Incoming>,
    calls: Receiver<Call>,
    requests: mpsc::Sender<Request>,
    jobs: Sender<(u64, Job)>,
    outcomes: Receiver<(u64, Outcome)>,
    pongs: HashMap<u64, oneshot::Sender<Pong>>,
    traced: HashMap<u64, oneshot::Sender<Trace>>,
    joined: Option<oneshot::Sender<Result<Joined, JoinFailure>>>,
    changed: watch::Sender<()>,
    zones: watch::Sender<Zones>,
}

/// Work that the node loop gives to the control thread.
#[derive(Debug)]
pub enum Request {
    /// Names to resolve.
    Resolve {
        /// Whose endpoints.
        peer: PublicKey,
        /// All its endpoints, in the order of the configuration.
        endpoints: Vec<HostPort>,
    },
    /// A node to look for in the DHT.
    Lookup {
        /// The first eight bytes of its addresses.
        prefix: [u8; 8],
    },
    /// A message of the path agent for a node that there is no session with.
    Introduce {
        /// For whom.
        to: NodeId,
        /// What, up to 512 bytes.
        message: Vec<u8>,
    },
    /// An epoch to remember over a restart.
    Remember {
        /// The epoch.
        epoch: u32,
    },
    /// Workloads to remember over a restart: there are fewer.
    RememberWorkloads,
    /// The device of a workload to be removed, which takes the kernel a while.
    RemoveDevice(Arc<Tun>),
    /// Records to keep: the latest ones that there are by then.
    Keep,
    /// Something for the control plane about joining.
    Plane(discovery::Command),
}

/// A handle on the node loop, for the control thread.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    calls: bell::Sender<Call>,
    changed: watch::Receiver<()>,
    zones: watch::Receiver<Zones>,
}

/// The node loop has ended.
#[derive(Debug, thiserror::Error)]
#[error("the node loop has ended")]
pub struct Gone;

impl NodeHandle {
    /// Runs something on the node loop and waits for what it returns.
    ///
    /// # Errors
    /// [`Gone`] while the daemon stops, or while it is so busy that the queue stays full.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut NodeLoop, Instant) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        let call: Call = Box::new(move |node_loop, now| {
            // The caller may have gone away, for instance because its client hung up.
            let _ = reply.send(call(node_loop, now));
        });
        self.calls.try_send(call).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Resolves whenever sessions or routes may have changed since the last time.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.clone()
    }

    /// The zones of names that this node answers, as they are and whenever they change.
    pub fn zones(&self) -> watch::Receiver<Zones> {
        self.zones.clone()
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Threads {
    node: NodeHandle,
    stop: Arc<Wake>,
    packets: Vec<JoinHandle<()>>,
    pulses: Vec<Arc<Pulse>>,
}

impl Threads {
    /// A handle on the node loop, which runs for as long as there is one.
    pub fn node(&self) -> NodeHandle {
        self.node.clone()
    }

    /// For asking whether the threads still run.
    pub fn vitals(&self) -> Vitals {
        Vitals {
            node: self.node(),
            pulses: self.pulses.clone(),
        }
    }

    /// Stops the packet threads and waits for them.
    pub fn stop(self) {
        if let Err(error) = self.stop.wake() {
            error!(%error, "Packet threads cannot be woken");
            return;
        }
        for thread in self.packets {
            if thread.join().is_err() {
                error!("A packet thread had panicked");
            }
        }
    }
}

/// Whether the threads still run.
#[derive(Debug)]
pub struct Vitals {
    node: NodeHandle,
    pulses: Vec<Arc<Pulse>>,
}

/// This thread has not answered in time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("thread `{0}` does not answer")]
pub struct Silent(pub &'static str);

impl Vitals {
    /// Asks the threads of the packet path and the node loop, and waits for all answers, at most for `within`.
    ///
    /// # Errors
    /// The first that has not answered.
    pub async fn check(&self, within: Duration) -> Result<(), Silent> {
        for pulse in &self.pulses {
            pulse.ask().map_err(|_| Silent(pulse.thread))?;
        }
        let mut node_answers = false;
        let answers = async {
            // A queue that is full for the moment is no silence.
            while self.node.call(|_, _| ()).await.is_err() {
                sleep(LISTEN).await;
            }
            node_answers = true;
            while !self.pulses.iter().all(|pulse| pulse.has_answered()) {
                sleep(LISTEN).await;
            }
        };
        if timeout(within, answers).await.is_ok() {
            return Ok(());
        }
        let silent = self.pulses.iter().find(|pulse| !pulse.has_answered());
        Err(match silent {
            _ if !node_answers => Silent("node"),
            Some(pulse) => Silent(pulse.thread),
            // It answered just after the deadline, which is too late all the same.
            None => Silent("inside"),
        })
    }
}

/// Names of the packet threads, shard by shard; there are never more shards.
const NAMES: [[&str; 2]; MAX_QUEUES.get() as usize] = [
    ["outside", "inside"],
    ["outside-1", "inside-1"],
    ["outside-2", "inside-2"],
    ["outside-3", "inside-3"],
    ["outside-4", "inside-4"],
    ["outside-5", "inside-5"],
    ["outside-6", "inside-6"],
    ["outside-7", "inside-7"],
];

/// Starts the node loop and the packet threads, two for each shard. Whichever ends for another reason than being stopped is named on `ended`.
///
/// # Errors
/// The system gives no threads or descriptors.
pub fn start(
    settings: &Settings,
    fresh: Fresh,
    first: Shared,
    others: Vec<Shared>,
    notices: Receiver<Notice>,
    requests: mpsc::Sender<Request>,
    streams: stream::Setup,
    ended: &mpsc::Sender<String>,
) -> io::Result<Threads> {
    let key = fresh.identity.node().public_key();
    let node = Node::new(settings, fresh, first.clock.now());
    let (questions_in, questions) = bounded(QUESTIONS);
    let asking = |shared: Shared| Shared {
        questions: Some(questions_in.clone()),
        ..shared
    };
    let (first, others) = (asking(first), others.into_iter().map(asking));
    let mut seed = [0; 4];
    getrandom::fill(&mut seed)?;
    let resolver = Resolver::new(first.clone(), questions, u32::from_ne_bytes(seed));
    let extra = Shard::new(first.clone(), &key)?;
    let (shared, for_streams) = (first.clone(), Shard::new(first.clone(), &key)?);
    let first = Shard::new(first, &key)?;
    let others: io::Result<Vec<Shard>> = others.map(|shared| Shard::new(shared, &key)).collect();
    let Parts {
        mut node_loop,
        handshake_thread,
        outside,
        inside,
        shards,
        jobs,
        outcomes,
        handle,
        doors,
    } = Parts::new(node, first, others?, notices, requests);
    let stop = Arc::new(Wake::new()?);
    // The first snapshot is there before the first datagram: who calls meanwhile is no stranger.
    node_loop.drain(&mut Outbox::default());
    // Not joined: it ends when the last handle does.
    spawn("node", ended, move || {
        node_loop.run();
        Ok(())
    })?;
    // Not joined: it ends when the node loop does.
    spawn("proof", ended, move || {
        prove(&jobs, &outcomes);
        Ok(())
    })?;
    // Not joined: it ends when the node loop and all of `outside` have.
    spawn("handshake", ended, move || {
        handshake_thread.run();
        Ok(())
    })?;
    let workloads = Inside::of_workloads(shared.clone(), seed_of_workloads()?);
    // Not joined: it ends when the node loop and all packet threads have.
    spawn("resolver", ended, move || {
        resolver.run();
        Ok(())
    })?;
    let extra = extra.outside(&doors);
    let for_streams = for_streams.outside(&doors);
    drop(doors);
    let (mut packets, mut pulses) = (Vec::new(), Vec::new());
    let shards = std::iter::once((outside, inside)).chain(shards);
    type Run = Box<dyn FnOnce(&Wake, &Pulse) -> io::Result<()> + Send>;
    let mut carry = |name, run: Run| -> io::Result<()> {
        let (stop, pulse) = (Arc::clone(&stop), Arc::new(Pulse::new(name)?));
        pulses.push(Arc::clone(&pulse));
        packets.push(spawn(name, ended, move || run(&stop, &pulse))?);
        Ok(())
    };
    for ((outside, inside), names) in shards.zip(NAMES) {
        carry(names[0], Box::new(|stop, pulse| outside.run(stop, pulse)))?;
        carry(names[1], Box::new(|stop, pulse| inside.run(stop, pulse)))?;
    }
    carry(
        "workloads",
        Box::new(|stop, pulse| workloads.run_workloads(stop, pulse)),
    )?;
    carry(
        "extra",
        Box::new(|stop, pulse| extra.run_extra(stop, pulse)),
    )?;
    if let Some(table) = shared.outlet.sockets.streams().map(Arc::clone) {
        let stream::Setup {
            berth,
            commands,
            listeners,
        } = streams;
        let mac1 = Mac1::new(&key);
        let thread = StreamThread::new(shared, for_streams, mac1, table, commands, listeners);
        let (stop, pulse) = (Arc::clone(&stop), Arc::new(Pulse::new("stream")?));
        pulses.push(Arc::clone(&pulse));
        packets.push(berth.run(Box::new(move || thread.run(&stop, &pulse)))?);
    }
    Ok(Threads {
        node: handle,
        stop,
        packets,
        pulses,
    })
}

/// It begins the names of fragments.
fn seed_of_workloads() -> io::Result<u32> {
    let mut seed = [0; 4];
    getrandom::fill(&mut seed)?;
    Ok(u32::from_ne_bytes(seed))
}

/// What the threads are made of, joined by their queues.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) node_loop: NodeLoop,
    pub(crate) handshake_thread: HandshakeThread,
    pub(crate) outside: Outside,
    pub(crate) inside: Inside,
    /// The packet threads of further queues.
    pub(crate) shards: Vec<(Outside, Inside)>,
    /// What is to be verified, and where it goes then.
    pub(crate) jobs: Receiver<(u64, Job)>,
    pub(crate) outcomes: bell::Sender<(u64, Outcome)>,
    pub(crate) handle: NodeHandle,
    /// Where packet threads hand over what strangers send.
    pub(crate) doors: Doors,
}

impl Parts {
    /// The node loop and the handshake thread send and deliver by the first shard.
    pub(crate) fn new(
        node: Node,
        first: Shard,
        others: impl IntoIterator<Item = Shard>,
        notices: Receiver<Notice>,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        let shared = first.shared.clone();
        let (handshakes_in, handshakes) = bounded(HANDSHAKES);
        let bell = shared.outlet.notices.bell().clone();
        let (strangers_in, strangers) = bell.queue(STRANGERS);
        let (probes_in, probes) = bell.queue(PROBES);
        let (calls_in, calls) = bell.queue(CALLS);
        let (jobs_in, jobs) = bounded(JOBS);
        let (outcomes_in, outcomes) = bell.queue(JOBS);
        let (changed, changes) = watch::channel(());
        let (zones_in, zones) = watch::channel(None);
        let handshake_thread = HandshakeThread {
            reader: node.reader().clone(),
            fib: Arc::clone(&shared.fib),
            incoming: handshakes,
            strangers: strangers_in,
            outlet: shared.outlet.clone(),
            clock: shared.clock,
        };
        let node_loop = NodeLoop {
            node,
            shared,
            bell,
            notices,
            strangers,
            probes,
            handshakes: handshakes_in.clone(),
            calls,
            requests,
            jobs: jobs_in,
            outcomes,
            pongs: HashMap::new(),
            traced: HashMap::new(),
            joined: None,
            changed,
            zones: zones_in,
        };
        let doors = Doors {
            handshakes: handshakes_in,
            probes: probes_in,
        };
        let (outside, inside) = first.threads(&doors);
        Self {
            node_loop,
            handshake_thread,
            outside,
            inside,
            shards: others
                .into_iter()
                .map(|shard| shard.threads(&doors))
                .collect(),
            doors,
            jobs,
            outcomes: outcomes_in,
            handle: NodeHandle {
                calls: calls_in,
                changed: changes,
                zones,
            },
        }
    }
}

/// What the two threads of one queue need.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) shared: Shared,
    /// A source's datagrams stay with one shard for as long as its address and port do.
    pub(crate) gate: Gate,
    /// They begin the names of fragments of the threads `outside` and `inside`, and are nobody's to guess.
    pub(crate) seeds: [u32; 2],
}

impl Shard {
    fn new(shared: Shared, key: &PublicKey) -> io::Result<Self> {
        let (mut secret, mut outside, mut inside) = ([0; 32], [0; 4], [0; 4]);
        getrandom::fill(&mut secret)?;
        getrandom::fill(&mut outside)?;
        getrandom::fill(&mut inside)?;
        Ok(Self {
            shared,
            gate: Gate::new(key, &secret),
            seeds: [outside, inside].map(u32::from_ne_bytes),
        })
    }

    fn threads(self, doors: &Doors) -> (Outside, Inside) {
        let inside = Inside::new(self.shared.clone(), self.seeds[1]);
        (self.outside(doors), inside)
    }

    fn outside(self, doors: &Doors) -> Outside {
        Outside::new(self.shared, doors.clone(), self.gate, self.seeds[0])
    }
}

/// Runs a thread that says on `ended` when it ends, however it does.
pub(crate) fn spawn(
    name: &'static str,
    ended: &mpsc::Sender<String>,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    struct Obituary(&'static str, mpsc::Sender<String>);
    impl Drop for Obituary {
        fn drop(&mut self) {
            let how = if thread::panicking() {
                "has panicked"
            } else {
                "has ended"
            };
            // Nobody listens any more while the daemon stops; and one obituary is enough.
            let _ = self.1.try_send(format!("thread `{}` {how}", self.0));
        }
    }
    let obituary = Obituary(name, ended.clone());
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _obituary = obituary;
        if let Err(error) = run() {
            error!(thread = name, %error, "Thread ends");
        }
    })
}

/// Verifies proofs until there is nobody to ask for it.
fn prove(jobs: &Receiver<(u64, Job)>, outcomes: &bell::Sender<(u64, Outcome)>) {
    for (id, job) in jobs {
        if outcomes.send((id, job.run(derive))).is_err() {
            return;
        }
    }
}

impl fmt::Debug for NodeLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLoop")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl NodeLoop {
    /// Waits for a reply to the echo request with this number; its sender is dropped when the node gives up.
    pub fn await_pong(&mut self, number: u64) -> oneshot::Receiver<Pong> {
        let (sender, receiver) = oneshot::channel();
        self.pongs.retain(|_, waiting| !waiting.is_closed());
        self.pongs.insert(number, sender);
        receiver
    }

    /// Waits for the end of the trace with this number; its sender is dropped when the node gives up.
    pub fn await_trace(&mut self, number: u64) -> oneshot::Receiver<Trace> {
        let (sender, receiver) = oneshot::channel();
        self.traced.retain(|_, waiting| !waiting.is_closed());
        self.traced.insert(number, sender);
        receiver
    }

    /// Attaches a workload by the device that was handed over for it.
    ///
    /// # Errors
    /// [`AttachError`]; the device is dropped then.
    pub fn attach(
        &mut self,
        wish: Wish,
        tun: Arc<Tun>,
        now: Instant,
    ) -> Result<Workload, AttachError> {
        let workload = self.node.attach(wish, now)?;
        if let Some(attached) = &workload.attached {
            self.shared.devices.add(Device {
                id: attached.id,
                address: workload.address,
                tun,
                stats: Arc::clone(&attached.stats),
            });
        }
        Ok(workload)
    }

    /// Detaches a workload. Returns what it was, and its device, if it had one.
    ///
    /// # Errors
    /// [`NoSuchWorkload`].
    pub fn detach(&mut self, name: &str) -> Result<(Workload, Option<Arc<Tun>>), NoSuchWorkload> {
        let workload = self.node.detach(name)?;
        let attached = workload.attached.as_ref();
        let device = attached.and_then(|attached| self.shared.devices.remove(attached.id));
        Ok((workload, device))
    }

    /// Waits for the end of the attempt to join that has just begun; its sender is dropped when another begins.
    pub fn await_joined(&mut self) -> oneshot::Receiver<Result<Joined, JoinFailure>> {
        let (sender, receiver) = oneshot::channel();
        self.joined = Some(sender);
        receiver
    }

    /// Addresses or routes of the underlay changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.shared.outlet.sockets.note_change();
        self.node.handle_network_change(now);
    }

    /// Time went by without us.
    pub fn handle_resume(&mut self, now: Instant) {
        self.shared.outlet.sockets.note_change();
        self.node.handle_resume(now);
    }

    fn run(mut self) {
        let mut outbox = Outbox::default();
        self.bell.listen();
        loop {
            let turn = self.take_turn();
            self.drain(&mut outbox);
            match turn {
                Turn::Busy => {}
                Turn::Idle => self.wait(),
                Turn::Over => return,
            }
        }
    }

    /// One turn of inputs, the important ones first.
    pub(crate) fn take_turn(&mut self) -> Turn {
        let mut turn = Turn::Idle;
        let now = self.shared.clock.now();
        if self.node.has_slept(now) {
            self.handle_resume(now);
        }
        for _ in 0..NOTICES_A_TURN {
            let Ok(notice) = self.notices.try_recv() else {
                break;
            };
            turn = Turn::Busy;
            let now = self.shared.clock.now();
            match notice {
                Notice::Signal(peer) => self.node.handle_signal(&peer, now),
                Notice::Unsent { peer, packet } => self.node.handle_unsent(peer, packet, now),
                Notice::EchoReply { number, received } => {
                    self.node.handle_echo_reply(number, received);
                }
                Notice::FirstContact(packet) => self.node.handle_first_contact(packet, now),
                Notice::WorkloadGone(id) => {
                    self.shared.devices.remove(id);
                    self.node.handle_workload_gone(id);
                }
                Notice::Stream(event) => self.node.handle_stream(event, now),
                Notice::UnknownLabel { from, label } => {
                    self.node.handle_unknown_label(from, label, now);
                }
                Notice::Packet {
                    peer,
                    from,
                    topic,
                    packet,
                    received,
                    queued,
                } => {
                    drop(queued);
                    self.node
                        .handle_packet(peer, from, topic, &packet, received, now);
                }
            }
        }
        for _ in 0..JOBS {
            let Ok((id, outcome)) = self.outcomes.try_recv() else {
                break;
            };
            turn = Turn::Busy;
            self.node
                .handle_outcome(id, outcome, self.shared.clock.now());
        }
        for _ in 0..CALLS {
            match self.calls.try_recv() {
                Ok(call) => {
                    turn = Turn::Busy;
                    let now = self.shared.clock.now();
                    call(self, now);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Turn::Over,
            }
        }
        for _ in 0..PROBES_A_TURN {
            let Ok(Probed { from, datagram }) = self.probes.try_recv() else {
                break;
            };
            turn = Turn::Busy;
            let now = self.shared.clock.now();
            self.node.handle_probe(from, &datagram, now);
        }
        for _ in 0..STRANGERS_A_TURN {
            let Ok(stranger) = self.strangers.try_recv() else {
                break;
            };
            turn = Turn::Busy;
            self.admit(stranger);
        }
        let now = self.shared.clock.now();
        let deadline = self.node.poll_timeout();
        if deadline.is_some_and(|(deadline, _)| deadline <= now) {
            turn = Turn::Busy;
            self.node.handle_timeout(now);
        }
        turn
    }

    /// Gives a stranger a session, if it may have one, and its message back to be answered.
    fn admit(&mut self, stranger: Stranger) {
        let now = self.shared.clock.now();
        let refused = match self.node.admit_caller(stranger.key, now) {
            None => Some(Reason::Stranger),
            Some(session) => {
                let admitted = Incoming::Admitted {
                    session,
                    author: stranger.author,
                    handshake: stranger.handshake,
                };
                let sent = self.handshakes.try_send(admitted);
                sent.is_err().then_some(Reason::HandshakeQueueFull)
            }
        };
        if let Some(reason) = refused {
            self.shared.outlet.discards.discard(reason, 1);
        }
    }

    /// Carries out what the node wants.
    pub(crate) fn drain(&mut self, outbox: &mut Outbox) {
        let mut has_changed = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit { to, datagram } => {
                    outbox.transmit(to, &datagram, &self.shared.outlet.discards);
                }
                Output::Probe {
                    to,
                    hop_limit,
                    datagram,
                } => outbox.probe(to, hop_limit, &datagram, &self.shared.outlet.discards),
                Output::OpenSockets { peer, count } => self.open_sockets(peer, count),
                Output::CloseSockets(indices) => {
                    self.shared.outlet.sockets.extra().close(&indices);
                }
                Output::Introduce { to, message } => {
                    let request = Request::Introduce { to, message };
                    if self.requests.try_send(request).is_err() {
                        self.shared
                            .outlet
                            .discards
                            .discard(Reason::NotIntroduced, 1);
                    }
                }
                Output::Deliver(packet) => self.shared.deliver(&packet),
                Output::Publish(fib) => {
                    let zones = fib.directory().map(Directory::zones);
                    self.zones.send_if_modified(|told| {
                        let has_changed = *told != zones;
                        *told = zones;
                        has_changed
                    });
                    self.shared.fib.store(Arc::new(fib));
                    has_changed = true;
                }
                Output::Changed => has_changed = true,
                Output::Stream(command) => {
                    // A command that is not heard leads to nothing, as an address that nobody answers at.
                    let streams = self.shared.outlet.sockets.streams();
                    if !streams.is_some_and(|streams| streams.ask(command)) {
                        debug!("No thread for streams has time");
                    }
                }
                Output::Resolve { peer, endpoints } => {
                    // Full only while the resolver hangs; the node asks again when its peer stays silent.
                    let request = Request::Resolve { peer, endpoints };
                    if self.requests.try_send(request).is_err() {
                        debug!(peer = %peer.short(), "Resolver is busy");
                    }
                }
                Output::Lookup { prefix } => {
                    // Full only while the control thread is held up; the node gives up by itself.
                    if self.requests.try_send(Request::Lookup { prefix }).is_err() {
                        debug!("Nobody has time for a look-up");
                    }
                }
                Output::Keep => {
                    // Full only while the control thread is held up.
                    if self.requests.try_send(Request::Keep).is_err() {
                        debug!("Nobody has time to keep records");
                        self.node.handle_unheard();
                    }
                }
                Output::Knock(at) => self.ask_plane(discovery::Command::Knock(at)),
                Output::Ask { at, message } => {
                    self.ask_plane(discovery::Command::Ask { at, message });
                }
                Output::Answer { number, message } => {
                    self.ask_plane(discovery::Command::Answer { number, message });
                }
                Output::Joined(ended) => {
                    if let Some(waiting) = self.joined.take() {
                        // Whoever asked may have hung up.
                        let _ = waiting.send(ended);
                    }
                }
                Output::Remember { epoch } => {
                    // An epoch that is not remembered costs the next start a round trip to a neighbour.
                    if self.requests.try_send(Request::Remember { epoch }).is_err() {
                        debug!(epoch, "Epoch not remembered");
                    }
                }
                Output::RememberWorkloads => {
                    // What is not forgotten now is found dead by the next `meshd attach --restore`.
                    if self.requests.try_send(Request::RememberWorkloads).is_err() {
                        debug!("Workloads not remembered");
                    }
                }
                Output::DetachWorkload(id) => {
                    if let Some(device) = self.shared.devices.remove(id)
                        && self
                            .requests
                            .try_send(Request::RemoveDevice(device))
                            .is_err()
                    {
                        warn!("A workload's interface stays in its namespace");
                    }
                }
                // Full under a flood of proofs only; the router asks for what it still wants.
                Output::Verify { id, job } => {
                    if self.jobs.try_send((id, job)).is_err() {
                        self.shared
                            .outlet
                            .discards
                            .discard(Reason::ProofQueueFull, 1);
                    }
                }
                Output::Traced { number, trace } => {
                    if let Some(waiting) = self.traced.remove(&number) {
                        // Whoever asked may have hung up.
                        let _ = waiting.send(trace);
                    }
                }
                Output::Pong(pong) => {
                    if let Some(waiting) = self.pongs.remove(&pong.number) {
                        // Whoever asked may have hung up.
                        let _ = waiting.send(pong);
                    }
                }
            }
        }
        outbox.flush(
            &self.shared.outlet.sockets,
            &self.shared.outlet.discards,
            self.shared.clock.now(),
        );
        if has_changed {
            self.changed.send_replace(());
        }
    }

    /// Hands something to the control plane. Lost only while the control thread is held up: whoever joins gives up by itself.
    fn ask_plane(&self, command: discovery::Command) {
        if self.requests.try_send(Request::Plane(command)).is_err() {
            debug!("Nobody has time for one who joins");
        }
    }

    /// Opens sockets for mappings in a NAT, which are an affair of IPv4.
    fn open_sockets(&mut self, peer: PublicKey, count: u16) {
        let sockets = &self.shared.outlet.sockets;
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let first = sockets.addresses().find(SocketAddr::is_ipv4);
        let opened = sockets
            .extra()
            .open(first.unwrap_or(any), usize::from(count));
        let indices = opened.unwrap_or_else(|error| {
            warn!(%error, "No extra sockets");
            Vec::new()
        });
        self.node
            .handle_sockets(peer, indices, self.shared.clock.now());
    }

    /// The addresses of this machine in the underlay are these.
    pub fn handle_hosts(&mut self, hosts: &[IpAddr], now: Instant) {
        let sockets: Vec<SocketAddr> = self.shared.outlet.sockets.addresses().collect();
        let by = |ip: &IpAddr| {
            let takes = |socket: &&SocketAddr| {
                let is_any = socket.ip().is_unspecified() && socket.is_ipv4() == ip.is_ipv4();
                is_any || socket.ip() == *ip
            };
            let socket = sockets.iter().find(takes)?;
            Some(SocketAddr::new(*ip, socket.port()))
        };
        self.node
            .handle_hosts(hosts.iter().filter_map(by).collect(), now);
    }

    /// Sleeps until there is an input or a deadline; the next turn looks at both. A closed channel counts as an input.
    fn wait(&self) {
        let deadline = self.node.poll_timeout();
        self.bell.wait(
            deadline
                .map(|(deadline, _)| deadline.saturating_duration_since(self.shared.clock.now())),
        );
    }
}

/// What a turn of the node loop found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// Something; there may be more.
    Busy,
    /// Nothing.
    Idle,
    /// Nobody has a [`NodeHandle`] any more.
    Over,
}
