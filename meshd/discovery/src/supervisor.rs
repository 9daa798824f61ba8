//! Starts the worker, and starts it again when it panics, ends or hangs.
//!
//! A thread that hangs cannot be ended. It is told that it is not wanted any more, which it heeds when it wakes up, and another takes its
//! place. Its sockets stay open until then: where a port is fixed, the new worker shares it, or takes another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::{
    Admitted, Command, Event, Memory, NodeKey, Settings, Status,
    door::{COMMANDS, STALL},
    exchange::Whereabouts,
    worker,
};

/// How often the worker is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Wait before the worker is started again; doubled each time, up to the longest.
const BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// A worker that has run this long was a good one.
const GOOD: Duration = Duration::from_secs(300);
/// Threads that hang, at most; then we wait for one of them to end.
const MAX_HUNG: usize = 4;

/// What the supervisor hears.
#[derive(Debug)]
pub(crate) enum Order {
    /// From the daemon.
    Command(Command),
    /// The worker of this number has ended.
    Ended(u32),
    /// The worker of this number wants this to be remembered by the next one.
    Remember(Memory),
}

/// What a worker has to know, whenever it is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) admitted: Admitted,
    pub(crate) connect: BTreeMap<NodeKey, Vec<String>>,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) refused: Vec<IpNetwork>,
    pub(crate) shared: Vec<IpNetwork>,
    pub(crate) memory: Memory,
    pub(crate) restarts: u32,
}

impl Wanted {
    fn note(&mut self, command: &Command) {
        match command {
            Command::Admit(admitted) => self.admitted = admitted.clone(),
            Command::Connect(connect) => self.connect.clone_from(connect),
            Command::Whereabouts(whereabouts) => self.whereabouts = whereabouts.clone(),
            Command::Networks { refused, shared } => {
                self.refused.clone_from(refused);
                self.shared.clone_from(shared);
            }
            Command::Network(_)
            | Command::Lookup(_)
            | Command::Introduce { .. }
            | Command::Knock(_)
            | Command::Ask { .. }
            | Command::Answer { .. } => {}
            #[cfg(feature = "_fault")]
            Command::Fault(_) => {}
        }
    }
}

/// What supervisor and worker share.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Milliseconds from the start to the last beat.
    beat: AtomicU64,
    is_unwanted: AtomicBool,
}

impl Pulse {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            beat: AtomicU64::new(0),
            is_unwanted: AtomicBool::new(false),
        }
    }

    /// The worker is alive.
    pub(crate) fn beat(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(since, Ordering::Relaxed);
    }

    /// Whether the worker has to end.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.is_unwanted.load(Ordering::Relaxed)
    }

    fn silence(&self) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(beat)
    }
}

struct Worker {
    number: u32,
    pulse: Arc<Pulse>,
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
    started: Instant,
    /// It ends because it is asked to, for another to take its place.
    is_relieved: bool,
}

/// Runs until the daemon lets go of its door.
pub(crate) fn run(
    settings: &Settings,
    orders: &Receiver<Order>,
    ends: &SyncSender<Order>,
    events: &mpsc::Sender<Event>,
) {
    let mut wanted = Wanted {
        memory: settings.memory.clone(),
        refused: settings.refused.clone(),
        ..Wanted::default()
    };
    let mut supervisor = Supervisor {
        settings: settings.clone(),
        ends,
        events,
        worker: None,
        hung: Vec::new(),
        number: 0,
        back_off: BACK_OFF,
        start_at: Instant::now(),
    };
    let mut looked = Instant::now();
    loop {
        supervisor.start_if_due(&wanted);
        match orders.recv_timeout(LOOK) {
            Ok(Order::Command(Command::Network(network))) => supervisor.move_to(network),
            Ok(Order::Command(command)) => {
                wanted.note(&command);
                supervisor.hand_on(command);
            }
            Ok(Order::Remember(memory)) => {
                wanted.memory = memory.clone();
                tell(events, Event::Remember(memory));
            }
            Ok(Order::Ended(number)) => supervisor.on_end(number, &mut wanted),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if events.is_closed() {
            break;
        }
        // A look that comes late means that nobody ran: then the worker could not beat either.
        let was_held_up = looked.elapsed() > LOOK * 3;
        looked = Instant::now();
        if !was_held_up {
            supervisor.give_up_if_silent(&mut wanted);
        }
    }
    supervisor.stop();
}

/// Tells the daemon; what it has no room for it does not hear.
pub(crate) fn tell(events: &mpsc::Sender<Event>, event: Event) {
    if events.try_send(event).is_err() {
        debug!("The daemon does not take events");
    }
}

struct Supervisor<'a> {
    settings: Settings,
    ends: &'a SyncSender<Order>,
    events: &'a mpsc::Sender<Event>,
    worker: Option<Worker>,
    hung: Vec<JoinHandle<()>>,
    number: u32,
    back_off: Duration,
    start_at: Instant,
}

impl Supervisor<'_> {
    fn start_if_due(&mut self, wanted: &Wanted) {
        self.hung.retain(|thread| !thread.is_finished());
        if self.worker.is_some() || Instant::now() < self.start_at || self.hung.len() >= MAX_HUNG {
            return;
        }
        self.number += 1;
        let number = self.number;
        let pulse = Arc::new(Pulse::new());
        let (commands, incoming) = mpsc::channel(COMMANDS);
        let (settings, wanted) = (self.settings.clone(), wanted.clone());
        let (ends, events) = (self.ends.clone(), self.events.clone());
        let shared = Arc::clone(&pulse);
        let spawned = Builder::new().name("libp2p".to_owned()).spawn(move || {
            // Sent however the worker ends. The supervisor takes orders for as long as it lives, and looks besides.
            struct Obituary(u32, SyncSender<Order>);
            impl Drop for Obituary {
                fn drop(&mut self) {
                    let _ = self.1.try_send(Order::Ended(self.0));
                }
            }
            let obituary = Obituary(number, ends);
            worker::run(&settings, wanted, incoming, &obituary.1, &events, &shared);
        });
        match spawned {
            Ok(thread) => {
                self.worker = Some(Worker {
                    number,
                    pulse,
                    commands,
                    thread,
                    started: Instant::now(),
                    is_relieved: false,
                });
            }
            Err(error) => {
                error!(%error, "The control plane has no thread");
                self.wait();
            }
        }
    }

    /// The node is in another network: the worker makes room for one that speaks that network's protocols. It ends at once, since nobody
    /// commands it any more, and leaves its ports to the other.
    fn move_to(&mut self, network: String) {
        if self.settings.network == network {
            return;
        }
        self.settings.network = network;
        if let Some(worker) = &mut self.worker {
            worker.is_relieved = true;
            // The only sender goes, which ends the worker.
            worker.commands = mpsc::channel(1).0;
        }
    }

    fn hand_on(&self, command: Command) {
        if let Some(worker) = &self.worker
            && !worker.is_relieved
            && worker.commands.try_send(command).is_err()
        {
            debug!("The control plane is busy, a command is lost");
        }
    }

    /// The worker has ended, or its thread has without a word.
    fn on_end(&mut self, number: u32, wanted: &mut Wanted) {
        let Some(worker) = self.worker.take_if(|worker| worker.number == number) else {
            return;
        };
        if worker.started.elapsed() >= GOOD {
            self.back_off = BACK_OFF;
        }
        let how = match worker.thread.join() {
            Ok(()) if worker.is_relieved => {
                self.start_at = Instant::now();
                return;
            }
            Ok(()) => "ended",
            Err(_) => "panicked",
        };
        self.restart(how, wanted);
    }

    fn give_up_if_silent(&mut self, wanted: &mut Wanted) {
        let Some(worker) = &self.worker else {
            return;
        };
        if worker.thread.is_finished() {
            let number = worker.number;
            return self.on_end(number, wanted);
        }
        if worker.pulse.silence() <= STALL {
            return;
        }
        if let Some(worker) = self.worker.take() {
            worker.pulse.is_unwanted.store(true, Ordering::Relaxed);
            self.hung.push(worker.thread);
            self.restart("hangs", wanted);
        }
    }

    fn restart(&mut self, how: &str, wanted: &mut Wanted) {
        wanted.restarts += 1;
        warn!(
            after_s = self.back_off.as_secs(),
            "The control plane {how}, starting it again"
        );
        tell(
            self.events,
            Event::Status(Status {
                restarts: wanted.restarts,
                ..Status::default()
            }),
        );
        self.wait();
    }

    fn wait(&mut self) {
        self.start_at = Instant::now() + self.back_off;
        self.back_off = (self.back_off * 2).min(LONGEST_BACK_OFF);
    }

    /// Lets the worker end by itself; the process does not wait for one that hangs.
    fn stop(self) {
        let Some(worker) = self.worker else {
            return;
        };
        worker.pulse.is_unwanted.store(true, Ordering::Relaxed);
        drop(worker.commands);
        info!("Control plane down");
    }
}
