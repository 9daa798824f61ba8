//! The worker: one thread with a runtime of its own, which drives the Swarm.

mod anchors;
mod calls;
mod events;
mod introductions;
mod joins;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use libp2p::{Multiaddr, PeerId, Swarm, core::transport::ListenerId, swarm::ConnectionId};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tracing::{debug, error, info, warn};

use self::{anchors::Anchors, calls::Calls, introductions::Introductions, joins::Joins};
use crate::{
    Command, Event, Memory, NodeKey, Prefix, Settings, Status,
    admission::Admission,
    behaviour::{Behaviour, Protocols, swarm},
    contact::{Contacts, split},
    dht::{Lookups, Outcome, Own, Publisher},
    diversity::Diversity,
    door::Dht,
    exchange::Whereabouts,
    guard::Rules,
    hygiene::Hygiene,
    supervisor::{Order, Pulse, Wanted, tell},
};

/// Heartbeat, and everything that is done now and then.
const TICK: Duration = Duration::from_secs(1);
/// What changed is remembered at most this often.
const REMEMBER: Duration = Duration::from_secs(30);
/// Where we are is told to everybody again this long after it changed.
const TELL: Duration = Duration::from_secs(1);
/// Listeners have this long to say where they listen, before anybody is called: calls are made from there.
const SETTLING: Duration = Duration::from_millis(100);
/// An address that could not be listened on is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);

/// Runs until it is not wanted any more, or nobody commands it.
pub(crate) fn run(
    settings: &Settings,
    wanted: Wanted,
    commands: mpsc::Receiver<Command>,
    orders: &SyncSender<Order>,
    events: &mpsc::Sender<Event>,
    pulse: &Pulse,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "The control plane has no runtime");
            return;
        }
    };
    pulse.beat();
    runtime.block_on(async {
        match Worker::new(settings, wanted, orders, events) {
            Ok(worker) => worker.live(commands, pulse).await,
            Err(error) => error!(%error, "The control plane does not start"),
        }
    });
    // Tasks of connections may be in the middle of something; none of them is waited for.
    runtime.shutdown_background();
}

/// One connection.
#[derive(Debug)]
struct Connection {
    /// Where the other is, as the transport says.
    remote: Multiaddr,
    /// Whether we dialled.
    is_ours: bool,
}

struct Worker<'a> {
    settings: &'a Settings,
    key: NodeKey,
    /// Ours, if we are a node: tests have others.
    prefix: Option<Prefix>,
    rules: Rules,
    swarm: Swarm<Behaviour>,
    connections: HashMap<ConnectionId, (PeerId, Connection)>,
    /// Nodes that have been identified as of our network.
    identified: BTreeSet<NodeKey>,
    calls: Calls,
    contacts: Contacts,
    diversity: Diversity,
    lookups: Lookups,
    publisher: Publisher,
    anchors: Anchors,
    introductions: Introductions,
    joins: Joins,
    whereabouts: Whereabouts,
    /// When everybody is to be told where we are.
    tell_at: Option<Instant>,
    /// When something new is to be remembered.
    remember_at: Option<Instant>,
    /// What is listened on, and what is to be tried again.
    listeners: HashMap<ListenerId, Multiaddr>,
    /// At the start: listeners that have yet to say where they listen.
    awaited: Option<HashSet<ListenerId>>,
    unlistened: Vec<Multiaddr>,
    listen_at: Instant,
    /// Addresses at which others have reached us.
    confirmed: BTreeSet<Multiaddr>,
    status: Status,
    restarts: u32,
    orders: &'a SyncSender<Order>,
    events: &'a mpsc::Sender<Event>,
}

impl<'a> Worker<'a> {
    fn new(
        settings: &'a Settings,
        wanted: Wanted,
        orders: &'a SyncSender<Order>,
        events: &'a mpsc::Sender<Event>,
    ) -> std::io::Result<Self> {
        let keys = libp2p::identity::Keypair::ed25519_from_bytes(*settings.seed)
            .map_err(std::io::Error::other)?;
        let key = NodeKey::of_peer(&keys.public().to_peer_id())
            .ok_or_else(|| std::io::Error::other("no key of a node"))?;
        let rules = Rules::new(Hygiene::new(settings.refused.clone(), settings.loopback));
        let Wanted {
            admitted,
            connect,
            whereabouts,
            refused,
            shared,
            memory,
            restarts,
        } = wanted;
        let admission = Admission::new(key, admitted, settings.derive);
        let swarm = swarm(settings, admission, &rules)?;
        let unlistened = settings.listen.iter().filter_map(|text| {
            let parsed: Result<Multiaddr, _> = text.parse();
            parsed
                .inspect_err(|error| error!(address = text, %error, "No address to listen on"))
                .ok()
        });
        let mut worker = Self {
            settings,
            key,
            prefix: (settings.derive)(&key),
            rules,
            swarm,
            connections: HashMap::new(),
            identified: BTreeSet::new(),
            calls: Calls::new(memory.contacts.clone()),
            contacts: Contacts::new(memory.contacts.iter().rev().copied()),
            diversity: Diversity::default(),
            lookups: Lookups::default(),
            publisher: Publisher::new(memory.sequence),
            anchors: Anchors::default(),
            introductions: Introductions::default(),
            joins: Joins::default(),
            whereabouts: Whereabouts::default(),
            tell_at: None,
            remember_at: None,
            listeners: HashMap::new(),
            awaited: Some(HashSet::new()),
            unlistened: unlistened.collect(),
            listen_at: Instant::now(),
            confirmed: BTreeSet::new(),
            status: Status::default(),
            restarts,
            orders,
            events,
        };
        worker.on_networks(refused, shared);
        worker.on_connect(connect);
        worker.on_whereabouts(whereabouts);
        Ok(worker)
    }

    async fn live(mut self, mut commands: mpsc::Receiver<Command>, pulse: &Pulse) {
        info!(peer_id = %self.swarm.local_peer_id(), "Control plane up");
        self.listen();
        self.awaited = Some(self.listeners.keys().copied().collect());
        self.settle();
        let settling = tokio::time::sleep(SETTLING);
        tokio::pin!(settling);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    // Whoever comes next knows as much.
                    None => return self.remember(),
                },
                () = &mut settling, if self.awaited.is_some() => {
                    self.awaited = Some(HashSet::new());
                    self.settle();
                }
                _ = ticks.tick() => {
                    pulse.beat();
                    self.on_tick(Instant::now());
                }
            }
            if pulse.is_unwanted() {
                debug!("The control plane has been replaced");
                return;
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Admit(admitted) => {
                let fence = &mut self.swarm.behaviour_mut().fence;
                let connected: Vec<PeerId> = fence.connected().copied().collect();
                fence.admission.set(admitted, connected.iter());
            }
            // The supervisor's.
            Command::Network(_) => {}
            Command::Connect(connect) => {
                self.on_connect(connect);
                self.call(Instant::now());
            }
            Command::Whereabouts(whereabouts) => self.on_whereabouts(whereabouts),
            Command::Networks { refused, shared } => self.on_networks(refused, shared),
            Command::Lookup(prefix) => self.on_lookup(prefix),
            Command::Introduce {
                to,
                anchors,
                message,
            } => self.introduce(to, &anchors, message),
            Command::Knock(at) => self.knock(at),
            Command::Ask { at, message } => self.ask(at, message),
            Command::Answer { number, message } => self.answer_guest(number, message),
            #[cfg(feature = "_fault")]
            Command::Fault(crate::Fault::Panic) => panic!("asked to, by a test"),
            #[cfg(feature = "_fault")]
            Command::Fault(crate::Fault::Stall(time)) => std::thread::sleep(time),
        }
    }

    fn on_networks(
        &mut self,
        refused: Vec<ipnetwork::IpNetwork>,
        shared: Vec<ipnetwork::IpNetwork>,
    ) {
        let all = self.settings.refused.iter().copied().chain(refused);
        let all = all.collect();
        self.rules.change(|rules| rules.set_networks(all, shared));
        // Whoever could not be reached may be reachable now.
        self.calls.try_again(Instant::now());
    }

    fn on_connect(&mut self, connect: BTreeMap<NodeKey, Vec<String>>) {
        let wanted = connect.into_iter().map(|(key, texts)| {
            let addresses: Vec<Multiaddr> = texts
                .iter()
                .filter_map(|text| {
                    let parsed: Result<Multiaddr, _> = text.parse();
                    parsed
                        .inspect_err(|error| warn!(address = text, %error, "No libp2p address"))
                        .ok()
                })
                .collect();
            (key, addresses)
        });
        let wanted: Vec<_> = wanted.collect();
        let named = wanted.iter().flat_map(|(_, addresses)| addresses);
        let named: Vec<_> = named.filter_map(split).map(|(at, _)| at).collect();
        self.rules.change(|rules| rules.trust(named));
        self.calls.want(wanted, Instant::now());
    }

    fn on_whereabouts(&mut self, whereabouts: Whereabouts) {
        if self.whereabouts == whereabouts {
            return;
        }
        self.whereabouts = whereabouts;
        let now = Instant::now();
        self.tell_at = Some(now + TELL);
        self.publisher.note_change(now);
        self.calls.try_again(now);
    }

    fn on_lookup(&mut self, prefix: Prefix) {
        let network = &self.settings.network;
        let begun = match protocols(&mut self.swarm).kad.as_mut() {
            Some(kad) => self.lookups.begin(kad, network, prefix),
            None => false,
        };
        if !begun {
            self.on_outcome(Outcome {
                prefix,
                found: None,
            });
        }
    }

    fn on_outcome(&self, outcome: Outcome) {
        let Outcome { prefix, found } = outcome;
        debug!(found = found.is_some(), "Look-up has ended");
        tell(self.events, Event::Looked { prefix, found });
    }

    fn on_tick(&mut self, now: Instant) {
        if now >= self.listen_at {
            self.listen_at = now + LISTEN_AGAIN;
            self.listen();
        }
        self.call(now);
        self.tend_anchors(now);
        self.introductions.forget(now);
        self.tend_guests(now);
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            for key in self.identified.clone() {
                self.tell_whereabouts(&key);
            }
        }
        if self.publish(now) {
            self.remember_at = Some(self.remember_at.unwrap_or(now + REMEMBER));
        }
        if self.remember_at.is_some_and(|at| at <= now) {
            self.remember();
        }
        self.tell_status();
    }

    fn remember(&mut self) {
        let memory = Memory {
            contacts: self.contacts.latest_first(),
            sequence: self.publisher.sequence(),
        };
        // Full only while the supervisor has much to do; then it is tried again.
        if self.orders.try_send(Order::Remember(memory)).is_ok() {
            self.remember_at = None;
        }
    }

    fn publish(&mut self, now: Instant) -> bool {
        let Some(prefix) = self.prefix else {
            return false;
        };
        // Without anybody who could keep it there is no use in it.
        if self.diversity.is_empty() {
            return false;
        }
        let own = Own {
            network: &self.settings.network,
            key: self.key,
            prefix,
            seed: &self.settings.seed,
        };
        let anchors = self.anchors.confirmed();
        match protocols(&mut self.swarm).kad.as_mut() {
            Some(kad) => self
                .publisher
                .publish_if_due(kad, &own, &self.whereabouts, &anchors, now),
            None => false,
        }
    }

    fn tell_status(&mut self) {
        let mut listening: Vec<String> = self.swarm.listeners().map(ToString::to_string).collect();
        listening.sort();
        let records = protocols(&mut self.swarm).kad.as_mut();
        let status = Status {
            is_running: true,
            restarts: self.restarts,
            peers: self.identified.len(),
            table: self.diversity.len(),
            records: records.map_or(0, |kad| kad.store_mut().len()),
            is_reachable: !self.confirmed.is_empty(),
            listening,
            doors: self.doors(),
        };
        if status != self.status {
            self.status = status.clone();
            tell(self.events, Event::Status(status));
        }
    }

    // ---- listening -----------------------------------------------------------------------------------------------------------

    fn listen(&mut self) {
        for address in std::mem::take(&mut self.unlistened) {
            match self.swarm.listen_on(address.clone()) {
                Ok(id) => {
                    self.listeners.insert(id, address);
                }
                Err(error) => {
                    warn!(%address, error = %causes(&error), "Not listened on");
                    // The port may be a hung worker's, or another program's by now: another one is better than none.
                    if let Some(other) = with_port(&address, 0)
                        && other != address
                        && let Ok(id) = self.swarm.listen_on(other)
                    {
                        self.listeners.insert(id, address);
                    } else {
                        self.unlistened.push(address);
                    }
                }
            }
        }
    }

    /// Begins to call if no listener is waited for any more.
    fn settle(&mut self) {
        if self.awaited.as_ref().is_some_and(HashSet::is_empty) {
            self.awaited = None;
            self.call(Instant::now());
        }
    }

    /// Whether a peer is connected, and not as a guest.
    fn is_connected(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().fence.is_connected(peer)
    }

    fn is_server(&self) -> bool {
        self.settings.dht == Dht::Server
    }
}

/// The protocols of the network.
fn protocols(swarm: &mut Swarm<Behaviour>) -> &mut Protocols {
    &mut swarm.behaviour_mut().fence.inner
}

/// The same address with another port; 0: one that the system chooses.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "libp2p knows many protocols, and only those named here are ours"
)]
fn with_port(address: &Multiaddr, port: u16) -> Option<Multiaddr> {
    use libp2p::multiaddr::Protocol;
    let (_, _) = split(address)?;
    let parts = address.iter().map(|part| match part {
        Protocol::Tcp(_) => Protocol::Tcp(port),
        Protocol::Udp(_) => Protocol::Udp(port),
        other => other,
    });
    Some(parts.collect())
}

/// An error and what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}
