//! A machine: one daemon with all its threads, run by hand, and the programs behind its TUN device.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use routing::origin::{Job, Outcome};
use tokio::sync::mpsc;
use wireguard::{Gate, PublicKey};

use super::host::{self, Arrival, Host};
use crate::{
    bell::{self, Bell},
    config::{Settings, Source},
    discard::{Discards, Reason},
    driver::{self, NodeHandle, NodeLoop, Parts, Request, Shard, Turn},
    ecn::Ecn,
    fib::{Fib, Own},
    forward::{Devices, Inside, Notice, Outbox, Outlet, Outside, RelayLimit, Shared, Sockets},
    handshake::{Desk, HandshakeThread, Strangers},
    identity::NodeId,
    io::{
        clock::Clock,
        simulated::{Datagram, Datagrams, Hand},
        tun::Tun,
        udp::{Received, UdpSocket},
    },
    node::{Fresh, Node, Seen, derive},
    testdata,
};

/// Turns of the node loop on one occasion: more would be one that never rests.
const MOST_TURNS: usize = 10_000;

/// What a machine still knows when its daemon is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its epoch, and where its peers were.
    State,
    /// Nothing but its key and its configuration.
    Nothing,
}

/// A machine.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) id: NodeId,
    /// The configuration file.
    pub(super) configuration: String,
    pub(super) host: Host,
    /// What its clock is ahead of the simulation's.
    pub(super) ahead: Duration,
    /// It neither hears nor does anything.
    pub(super) is_asleep: bool,
    /// How long its node loop and its other threads take to wake up.
    pub(super) lag: Duration,
    /// The daemon, while it runs.
    pub(super) daemon: Option<Daemon>,
    /// Which run of the daemon this is.
    pub(super) life: u32,
    /// When it wants to be woken, and when that is due already.
    pub(super) wake: Option<Duration>,
    pub(super) is_loop_due: bool,
    pub(super) is_handshake_due: bool,
    pub(super) is_inside_due: bool,
    /// Until when the thread that verifies is busy.
    pub(super) verifier: Duration,
    number: usize,
    hand: &'static Hand,
    clock: Clock,
    datagrams: Arc<Datagrams>,
    kept: Memory,
}

/// What is in the state directory.
#[derive(Debug, Default)]
struct Memory {
    epoch: Option<u32>,
    seen: BTreeMap<PublicKey, Seen>,
    /// When `seen` was written.
    at: Duration,
}

/// The threads of one run of the daemon.
pub(super) struct Daemon {
    pub(super) node_loop: NodeLoop,
    pub(super) fib: Arc<ArcSwap<Fib>>,
    pub(super) discards: Arc<Discards>,
    pub(super) jobs: Receiver<(u64, Job)>,
    pub(super) outcomes: bell::Sender<(u64, Outcome)>,
    handshake_thread: HandshakeThread,
    desk: Desk,
    outside: Outside,
    inside: Inside,
    outbox: Outbox,
    tun: Arc<Tun>,
    notices: Receiver<Notice>,
    requests: mpsc::Receiver<Request>,
    /// The node loop ends with its last handle.
    _handle: NodeHandle,
}

/// What a machine has done.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) sent: Vec<Datagram>,
    pub(super) arrived: Vec<Arrival>,
    /// Names to resolve.
    pub(super) requests: Vec<Request>,
    pub(super) wrongs: Vec<String>,
}

impl Machine {
    /// The `number`-th of the pool, switched off.
    pub(super) fn new(number: usize, name: String, configuration: String, base: Instant) -> Self {
        // Never given back: some hundred bytes for a machine of a test.
        let hand: &'static Hand = Box::leak(Box::default());
        Self {
            name,
            id: testdata::identity(number).node(),
            configuration,
            host: Host::default(),
            ahead: Duration::from_secs(3600),
            is_asleep: false,
            lag: Duration::from_micros(100),
            daemon: None,
            life: 0,
            wake: None,
            is_loop_due: false,
            is_handshake_due: false,
            is_inside_due: false,
            verifier: Duration::ZERO,
            number,
            hand,
            clock: Clock::simulated(base, hand),
            datagrams: Arc::default(),
            kept: Memory::default(),
        }
    }

    pub(super) fn address(&self) -> Ipv6Addr {
        self.id.address()
    }

    /// What its clock shows.
    pub(super) fn local(&self, now: Duration) -> Instant {
        self.hand.set(now + self.ahead);
        self.clock.now()
    }

    /// When its clock shows that.
    fn global(&self, local: Instant, now: Duration) -> Duration {
        let left = local.saturating_duration_since(self.local(now));
        now + left
    }

    /// Its addresses of the underlay.
    pub(super) fn set_addresses(&self, addresses: BTreeSet<IpAddr>) {
        self.datagrams.set_own(addresses);
    }

    /// What the configuration says.
    pub(super) fn settings(&self) -> Settings {
        let source = Source {
            path: "meshd.toml".into(),
            state_dir: None,
            socket: None,
        };
        source
            .check(&self.configuration, Some(self.id))
            .unwrap_or_else(|error| panic!("configuration of {}: {error}", self.name))
    }

    /// Starts the daemon.
    pub(super) fn start(&mut self, kept: Kept, seed: u64, now: Duration) -> io::Result<()> {
        let settings = self.settings();
        let local = self.local(now);
        let memory = match kept {
            Kept::State => std::mem::take(&mut self.kept),
            Kept::Nothing => Memory::default(),
        };
        let since = now.saturating_sub(memory.at);
        let seen = memory.seen.into_iter().map(|(key, mut seen)| {
            seen.age += since;
            (key, seen)
        });
        let discards = Arc::new(Discards::default());
        let token = seed.to_be_bytes();
        let fresh = Fresh {
            identity: testdata::identity(self.number),
            added: Vec::new(),
            workloads: Vec::new(),
            seen: seen.collect(),
            seed,
            token,
            epoch: memory.epoch,
            discards: Arc::clone(&discards),
            kept: crate::node::Kept {
                unix: now,
                ..crate::node::Kept::default()
            },
        };
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 51860);
        let socket = UdpSocket::simulated(any, Arc::clone(&self.datagrams))?;
        let tun = Arc::new(Tun::simulated()?);
        let own = Own {
            address: self.id.address(),
            prefix: self.id.prefix(),
            link_local: self.id.link_local(),
            token,
        };
        let fib = Arc::new(ArcSwap::from_pointee(Fib::new(own, [], [])));
        let (notices_in, notices) = Bell::default().queue(driver::NOTICES);
        let (requests_in, requests) = mpsc::channel(driver::REQUESTS);
        let shared = Shared {
            fib: Arc::clone(&fib),
            tun: Arc::clone(&tun),
            devices: Arc::new(Devices::new()?),
            clock: self.clock,
            relay_limit: Arc::new(RelayLimit::new(self.clock.now())),
            outlet: Outlet {
                sockets: Arc::new(Sockets::new(vec![socket])?),
                discards: Arc::clone(&discards),
                notices: notices_in,
            },
            questions: None,
        };
        let outlet = shared.outlet.clone();
        let gate = Gate::new(&self.id.public_key(), &[self.number as u8; 32]);
        let node = Node::simulated(&settings, fresh, local);
        let Parts {
            mut node_loop,
            handshake_thread,
            outside,
            inside,
            shards: _,
            jobs,
            outcomes,
            handle,
            doors: _,
        } = Parts::new(
            node,
            Shard {
                shared,
                gate,
                seeds: [seed as u32, (seed >> 32) as u32],
            },
            [],
            notices.clone(),
            requests_in,
        );
        let mut outbox = Outbox::default();
        node_loop.drain(&mut outbox);
        self.life += 1;
        self.wake = None;
        (self.is_loop_due, self.is_handshake_due, self.is_inside_due) = (false, false, false);
        self.verifier = now;
        self.daemon = Some(Daemon {
            node_loop,
            fib,
            discards,
            jobs,
            outcomes,
            handshake_thread,
            desk: Desk::new(outlet),
            outside,
            inside,
            outbox,
            tun,
            notices,
            requests,
            _handle: handle,
        });
        Ok(())
    }

    /// Stops the daemon without a word. What it has remembered by then stays.
    pub(super) fn stop(&mut self, now: Duration) {
        let local = self.local(now);
        if let Some(daemon) = self.daemon.take() {
            self.kept.seen = daemon.node_loop.node.seen(local);
            self.kept.at = now;
        }
        self.life += 1;
        self.wake = None;
    }

    pub(super) fn remember(&mut self, epoch: u32) {
        self.kept.epoch = Some(epoch);
    }

    /// Datagrams come in, in one batch.
    pub(super) fn receive(
        &mut self,
        from: SocketAddr,
        local: IpAddr,
        ecn: Ecn,
        datagram: &mut [u8],
        now: Duration,
    ) {
        self.local(now);
        if let Some(daemon) = &mut self.daemon {
            let received = Received {
                from,
                local: Some(local),
                segment: datagram.len().max(1),
                waited: Duration::ZERO,
                ecn,
                data: datagram,
            };
            daemon.outside.take(std::iter::once(received), 0);
        }
    }

    /// The programs send packets.
    pub(super) fn send(&mut self, packets: Vec<Vec<u8>>, now: Duration) {
        self.local(now);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if let Some(frames) = daemon.tun.frames() {
            for packet in packets {
                frames.push(host::frame(&packet));
            }
        }
    }

    /// The thread `inside` does what is to be done.
    pub(super) fn run_inside(&mut self, now: Duration) -> io::Result<()> {
        self.local(now);
        let Some(daemon) = &mut self.daemon else {
            return Ok(());
        };
        let is_waiting = |tun: &Tun| tun.frames().is_some_and(|frames| frames.is_waiting());
        while !daemon.inside.turn(&daemon.tun)? || is_waiting(&daemon.tun) {}
        Ok(())
    }

    /// The handshake thread takes one message.
    pub(super) fn run_handshake(&mut self, now: Duration) {
        let local = self.local(now);
        let Some(daemon) = &mut self.daemon else {
            return;
        };
        if let Ok(incoming) = daemon.handshake_thread.incoming.try_recv()
            && let Err(reason) =
                daemon
                    .handshake_thread
                    .take(incoming, Strangers::Welcome, local, &mut daemon.desk)
        {
            daemon.discards.discard(reason, 1);
        }
    }

    /// The node loop does what is to be done. Says whether it came to rest.
    pub(super) fn run_loop(&mut self, now: Duration) -> bool {
        self.local(now);
        let Some(daemon) = &mut self.daemon else {
            return true;
        };
        for _ in 0..MOST_TURNS {
            let turn = daemon.node_loop.take_turn();
            daemon.node_loop.drain(&mut daemon.outbox);
            match turn {
                Turn::Busy => {}
                Turn::Idle | Turn::Over => return true,
            }
        }
        false
    }

    /// Calls the node, as the control thread does.
    pub(super) fn call<T>(
        &mut self,
        now: Duration,
        call: impl FnOnce(&mut NodeLoop, Instant) -> T,
    ) -> Option<T> {
        let local = self.local(now);
        let daemon = self.daemon.as_mut()?;
        let result = call(&mut daemon.node_loop, local);
        daemon.node_loop.drain(&mut daemon.outbox);
        Some(result)
    }

    /// Everything that has come out since the last time.
    pub(super) fn collect(&mut self, now: Duration) -> Done {
        let mut done = Done::default();
        while let Some(datagram) = self.datagrams.pop() {
            done.sent.push(datagram);
        }
        let own = self.address();
        let Some(daemon) = &mut self.daemon else {
            return done;
        };
        let mut answers = Vec::new();
        if let Some(frames) = daemon.tun.frames() {
            while let Some(frame) = frames.pop() {
                let packets = host::packets(frame);
                if packets.is_empty() {
                    done.wrongs
                        .push("wrote a frame that cannot be read".to_owned());
                }
                for packet in packets {
                    done.arrived
                        .push(self.host.take(own, &packet, now, &mut answers));
                }
            }
            for answer in answers {
                frames.push(host::frame(&answer));
            }
        }
        while let Ok(request) = daemon.requests.try_recv() {
            done.requests.push(request);
        }
        done
    }

    /// When the node wants to be woken.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let (due, _) = self.daemon.as_ref()?.node_loop.node.poll_timeout()?;
        Some(self.global(due, now))
    }

    /// Whether the node loop has something to do, the handshake thread, and the thread `inside`.
    pub(super) fn is_waited_for(&self) -> [bool; 3] {
        let Some(daemon) = &self.daemon else {
            return [false; 3];
        };
        [
            !daemon.notices.is_empty() || !daemon.handshake_thread.strangers.is_empty(),
            !daemon.handshake_thread.incoming.is_empty(),
            daemon
                .tun
                .frames()
                .is_some_and(|frames| frames.is_waiting()),
        ]
    }

    /// Jobs to verify.
    pub(super) fn jobs(&mut self) -> VecDeque<(u64, Outcome)> {
        let mut outcomes = VecDeque::new();
        if let Some(daemon) = &mut self.daemon {
            while let Ok((id, job)) = daemon.jobs.try_recv() {
                outcomes.push_back((id, job.run(derive)));
            }
        }
        outcomes
    }

    /// How many packets were discarded for a reason.
    pub(super) fn count(&self, reason: Reason) -> u64 {
        self.daemon
            .as_ref()
            .map_or(0, |daemon| daemon.discards.count(reason))
    }
}
