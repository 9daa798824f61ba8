//! The daemon's threads, and who owns what.
//!
//! ```text
//!            TUN                                                      UDP sockets
//!             │ read                                             recvmmsg │
//!   ┌─────────▼─────────┐      the snapshot (ArcSwap<Fib>)      ┌─────────▼─────────┐
//!   │ inside (thread)   │◄───────────── publishes ─────────────►│ outside (thread)  │
//!   │ TUN → seal → UDP  │                   ▲                   │ UDP → open → TUN  │
//!   └─────────┬─────────┘                   │                   └────┬─────────┬────┘
//!             │ notices (bounded)           │        notices (bounded)│         │ handshakes (bounded, dropped first)
//!             └──────────────────►┌─────────┴──────────┐◄─────────────┘         │
//!                                 │ node loop (thread) │◄───────────────────────┘
//!                                 │ owns Node alone    │
//!                                 └─────────▲──────────┘
//!                    calls (bounded)        │ requests (bounded): names to resolve
//!             ┌─────────────────────────────┴──────────┐
//!             │ control (main thread, tokio): admin    │
//!             │ socket, signals, resolver, netlink     │
//!             └────────────────────────────────────────┘
//! ```
//!
//! Packet threads never wait for anybody: a full queue costs a counted packet, not time. The node loop takes notices before calls and
//! calls before handshakes. The only lock is that of one session, for one batch, never two at once. Order inside a flow holds because
//! one thread carries each direction. A thread that ends ends the daemon.

use std::{
    collections::HashMap,
    fmt, io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error};
use wireguard::{Mac1, PublicKey};

use crate::{
    config::{HostPort, Settings},
    forward::{Handshake, Inside, Notice, Outbox, Outside, Shared},
    io::wake::Wake,
    node::{Fresh, Node, Output, Pong},
};

/// Notices of the packet threads: a burst of packets for a closed session at most.
pub const NOTICES: usize = 1024;
/// Handshake messages waiting: half a second's work at 0.15 ms each would be 3,000; fewer keep the wait short under a flood.
const HANDSHAKES: usize = 256;
/// Commands of the control thread.
const CALLS: usize = 64;
/// Peers whose names wait to be resolved.
pub const REQUESTS: usize = 256;

const _: () = assert!(
    HANDSHAKES * size_of::<Handshake>() <= 64 << 10,
    "strangers fill this queue"
);
const _: () = assert!(
    NOTICES * 1500 <= 2 << 20,
    "held packets pass through this queue"
);

/// Most notices, and most handshakes, taken before timers are looked at again.
const NOTICES_A_TURN: usize = 256;
const HANDSHAKES_A_TURN: usize = 16;

/// Something to do on the node loop.
type Call = Box<dyn FnOnce(&mut NodeLoop, Instant) + Send>;

/// The node loop's own end of everything.
pub struct NodeLoop {
    /// The node.
    pub node: Node,
    shared: Shared,
    notices: Receiver<Notice>,
    handshakes: Receiver<Handshake>,
    calls: Receiver<Call>,
    requests: mpsc::Sender<Request>,
    pongs: HashMap<u64, oneshot::Sender<Pong>>,
    changed: watch::Sender<()>,
}

/// Work that the node loop gives to the control thread.
#[derive(Debug)]
pub struct Request {
    /// Whose endpoints to resolve.
    pub peer: PublicKey,
    /// All its endpoints, in the order of the configuration.
    pub endpoints: Vec<HostPort>,
}

/// A handle on the node loop, for the control thread.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    calls: Sender<Call>,
    changed: watch::Receiver<()>,
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
}

/// The running threads.
#[derive(Debug)]
pub struct Threads {
    node: NodeHandle,
    stop: Arc<Wake>,
    packets: Vec<JoinHandle<()>>,
}

impl Threads {
    /// A handle on the node loop, which runs for as long as there is one.
    pub fn node(&self) -> NodeHandle {
        self.node.clone()
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

/// Starts the node loop and the packet threads. Whichever ends for another reason than being stopped is named on `ended`.
///
/// # Errors
/// The system gives no threads or descriptors.
pub fn start(
    settings: &Settings,
    fresh: Fresh,
    shared: Shared,
    notices: Receiver<Notice>,
    requests: mpsc::Sender<Request>,
    ended: &mpsc::Sender<String>,
) -> io::Result<Threads> {
    let (handshakes_in, handshakes) = bounded(HANDSHAKES);
    let (calls_in, calls) = bounded(CALLS);
    let (changed, changes) = watch::channel(());
    let mac1 = Mac1::new(&fresh.identity.node().public_key());
    let stop = Arc::new(Wake::new()?);

    let node = Node::new(settings, fresh, shared.clock.now());
    let node_loop = NodeLoop {
        node,
        shared: shared.clone(),
        notices,
        handshakes,
        calls,
        requests,
        pongs: HashMap::new(),
        changed,
    };
    // Not joined: it ends when the last handle does.
    spawn("node", ended, move || {
        node_loop.run();
        Ok(())
    })?;
    let outside = Outside::new(shared.clone(), handshakes_in, mac1);
    let inside = Inside::new(shared);
    let (stop_outside, stop_inside) = (Arc::clone(&stop), Arc::clone(&stop));
    let packets = vec![
        spawn("outside", ended, move || outside.run(&stop_outside))?,
        spawn("inside", ended, move || inside.run(&stop_inside))?,
    ];
    Ok(Threads {
        node: NodeHandle {
            calls: calls_in,
            changed: changes,
        },
        stop,
        packets,
    })
}

/// Runs a thread that says on `ended` when it ends, however it does.
fn spawn(
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

    /// Addresses or routes of the underlay changed.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.shared.sockets.note_change();
        self.node.handle_network_change(now);
    }

    /// Time went by without us.
    pub fn handle_resume(&mut self, now: Instant) {
        self.shared.sockets.note_change();
        self.node.handle_resume(now);
    }

    fn run(mut self) {
        let mut outbox = Outbox::default();
        loop {
            let took = self.take_turn();
            self.drain(&mut outbox);
            if took == 0 && !self.wait() {
                return;
            }
        }
    }

    /// One turn of inputs, the important ones first; returns how many there were.
    fn take_turn(&mut self) -> usize {
        let mut took = 0;
        let now = self.shared.clock.now();
        if self.node.has_slept(now) {
            self.handle_resume(now);
        }
        for notice in self
            .notices
            .try_iter()
            .take(NOTICES_A_TURN)
            .collect::<Vec<_>>()
        {
            took += 1;
            let now = self.shared.clock.now();
            match notice {
                Notice::Signal(peer) => self.node.handle_signal(&peer, now),
                Notice::Unsent { peer, packet } => self.node.handle_unsent(peer, packet, now),
                Notice::EchoReply { number, received } => {
                    self.node.handle_echo_reply(number, received)
                }
            }
        }
        while let Ok(call) = self.calls.try_recv() {
            took += 1;
            let now = self.shared.clock.now();
            call(self, now);
        }
        for _ in 0..HANDSHAKES_A_TURN {
            let Ok(handshake) = self.handshakes.try_recv() else {
                break;
            };
            took += 1;
            self.node.handle_datagram(
                handshake.from,
                handshake.datagram(),
                self.shared.clock.now(),
            );
        }
        let now = self.shared.clock.now();
        if self
            .node
            .poll_timeout()
            .is_some_and(|(deadline, _)| deadline <= now)
        {
            took += 1;
            self.node.handle_timeout(now);
        }
        took
    }

    /// Carries out what the node wants.
    fn drain(&mut self, outbox: &mut Outbox) {
        let mut has_changed = false;
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Transmit(transmit) => outbox.transmit(&transmit, &self.shared.discards),
                Output::Deliver(packet) => self.shared.deliver(&packet),
                Output::Publish(fib) => {
                    self.shared.fib.store(Arc::new(fib));
                    has_changed = true;
                }
                Output::Changed => has_changed = true,
                Output::Resolve { peer, endpoints } => {
                    // Full only while the resolver hangs; the node asks again when its peer stays silent.
                    if self.requests.try_send(Request { peer, endpoints }).is_err() {
                        debug!(peer = %peer.short(), "Resolver is busy");
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
            &self.shared.sockets,
            &self.shared.discards,
            self.shared.clock.now(),
        );
        if has_changed {
            self.changed.send_replace(());
        }
    }

    /// Sleeps until there is an input or a deadline; false once the control thread has gone.
    fn wait(&self) -> bool {
        let mut select = Select::new();
        select.recv(&self.notices);
        let calls = select.recv(&self.calls);
        select.recv(&self.handshakes);
        let ready = match self.node.poll_timeout() {
            None => select.ready(),
            Some((deadline, _)) => {
                let now = self.shared.clock.now();
                match select.ready_timeout(deadline.saturating_duration_since(now)) {
                    Ok(ready) => ready,
                    Err(_) => return true,
                }
            }
        };
        // A closed channel is always ready: without callers the loop is not wanted any more.
        ready != calls
            || !self.calls.is_empty()
            || !matches!(self.calls.try_recv(), Err(TryRecvError::Disconnected))
    }
}
