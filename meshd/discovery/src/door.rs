//! What passes between the daemon and the control plane.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    time::Duration,
};

use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    Admitted, Contact, Derive, NodeKey, Prefix,
    exchange::Whereabouts,
    hygiene::Loopback,
    supervisor::{self, Order},
};

/// Commands that wait for the supervisor, which only hands them on.
pub(crate) const COMMANDS: usize = 256;
/// Events that wait for the daemon.
pub(crate) const EVENTS: usize = 256;

const _: () = assert!(
    COMMANDS * (size_of::<Command>() + 1024) + EVENTS * (size_of::<Event>() + 1024) <= 1 << 20,
    "what waits at the door fits a mebibyte"
);

/// The part played in the DHT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dht {
    /// Asks; answers as well once others have shown that they reach it.
    Client,
    /// Asks, answers, and relays introductions.
    Server,
    /// Takes no part.
    Off,
}

/// What is remembered over a restart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Nodes that answered, latest first.
    pub contacts: Vec<Contact>,
    /// The sequence number of the last record.
    pub sequence: u64,
}

/// What the control plane is started with.
#[derive(Clone)]
pub struct Settings {
    /// The seed of the node's identity.
    pub seed: Zeroizing<[u8; 32]>,
    /// The network, until [`Command::Network`] says another: nodes of another one have nothing to do with each other.
    pub network: String,
    /// Multiaddresses to listen on. A port of TCP that the process may not bind again, such as one that the system draws for 0, serves
    /// those who call, but no dial can be made from it.
    pub listen: Vec<String>,
    /// Whether to look for nodes on the LAN, over IPv4.
    pub mdns: bool,
    /// The part played in the DHT.
    pub dht: Dht,
    /// Which prefix a key owns.
    pub derive: Derive,
    /// From the last run.
    pub memory: Memory,
    /// Networks that are never dialled: the overlay.
    pub refused: Vec<IpNetwork>,
    /// Whether loopback addresses may be dialled.
    pub loopback: Loopback,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("network", &self.network)
            .field("listen", &self.listen)
            .field("mdns", &self.mdns)
            .field("dht", &self.dht)
            .finish_non_exhaustive()
    }
}

/// What the daemon wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// The node is in this network now: everything begins anew there.
    Network(String),
    /// Only these may be connected.
    Admit(Admitted),
    /// Stay connected with these nodes, at these multiaddresses (of IP addresses, with or without the PeerId at the end), and with no
    /// others on purpose.
    Connect(BTreeMap<NodeKey, Vec<String>>),
    /// Where our WireGuard port is. Told to every node that is connected, and published as far as it is public.
    Whereabouts(Whereabouts),
    /// The networks of the overlay and of our tunnels, which are never dialled, and those of the underlay that this machine is in.
    Networks {
        /// Never dialled.
        refused: Vec<IpNetwork>,
        /// Private addresses in these may be dialled.
        shared: Vec<IpNetwork>,
    },
    /// Look for the node that owns a prefix; answered by [`Event::Looked`].
    Lookup(Prefix),
    /// Carry a message of up to 512 bytes to a node, through one of these if it is not connected. Not answered.
    Introduce {
        /// To whom.
        to: NodeKey,
        /// Who may relay it.
        anchors: Vec<Contact>,
        /// What.
        message: Vec<u8>,
    },
    /// Connect, as a guest, with whoever answers at this address of TCP; answered by [`Event::Door`].
    Knock(SocketAddr),
    /// Ask whoever answered there; answered by [`Event::Door`].
    Ask {
        /// Where.
        at: SocketAddr,
        /// What, up to [`MAX_JOIN`](crate::MAX_JOIN) bytes.
        message: Vec<u8>,
    },
    /// The answer to [`Event::Asked`]; none: there is none.
    Answer {
        /// To which.
        number: u64,
        /// What.
        message: Option<Vec<u8>>,
    },
    /// Misbehave.
    #[cfg(feature = "_fault")]
    Fault(Fault),
}

/// How to misbehave, for tests.
#[cfg(feature = "_fault")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The worker panics.
    Panic,
    /// The worker stops answering for this long.
    Stall(Duration),
}

/// How something was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// The node itself said so over an authenticated connection.
    Told,
    /// It stands in a record that the node has signed.
    Record,
}

/// Where the WireGuard port of a node may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// Who.
    pub key: NodeKey,
    /// Where, up to eight addresses.
    pub endpoints: Vec<SocketAddr>,
    /// Who passes introductions on to it.
    pub anchors: Vec<Contact>,
    /// How it was found.
    pub how: How,
}

/// What the daemon is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connected node said where it is.
    Found(Found),
    /// A node has sent an introduction.
    Introduction {
        /// Who, by its key.
        from: NodeKey,
        /// What.
        message: Vec<u8>,
    },
    /// A look-up has ended.
    Looked {
        /// What was looked for.
        prefix: Prefix,
        /// Who was found.
        found: Option<Found>,
    },
    /// A guest has asked something; its key is authentic. Answered by [`Command::Answer`].
    Asked {
        /// Names the question.
        number: u64,
        /// Who asks.
        from: NodeKey,
        /// What.
        message: Vec<u8>,
    },
    /// What came of [`Command::Knock`] and [`Command::Ask`].
    Door {
        /// Where.
        at: SocketAddr,
        /// What.
        what: AtDoor,
    },
    /// To be remembered.
    Remember(Memory),
    /// How the control plane is.
    Status(Status),
}

/// What happens at a door where we are guests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AtDoor {
    /// This node answers.
    Open(NodeKey),
    /// It has answered a question.
    Answer {
        /// What.
        message: Vec<u8>,
        /// Where its WireGuard port may be.
        endpoints: Vec<SocketAddr>,
    },
    /// Nobody answers, or not any more, because of this.
    Closed(String),
}

/// How the control plane is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// Whether the worker runs.
    pub is_running: bool,
    /// How many times the worker had to be started again.
    pub restarts: u32,
    /// Nodes that are connected.
    pub peers: usize,
    /// Nodes in the table of the DHT.
    pub table: usize,
    /// Records kept for others.
    pub records: usize,
    /// Whether others have shown that they reach us.
    pub is_reachable: bool,
    /// Multiaddresses that are listened on.
    pub listening: Vec<String>,
    /// Addresses of TCP among them, where guests may ask.
    pub doors: Vec<SocketAddr>,
}

/// The command was not taken: too many wait already.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the control plane is busy")]
pub struct Busy;

/// The way to the control plane, which ends when this is dropped.
#[derive(Clone, Debug)]
pub struct Door {
    orders: SyncSender<Order>,
}

impl Door {
    /// Hands a command over; never waits.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn send(&self, command: Command) -> Result<(), Busy> {
        match self.orders.try_send(Order::Command(command)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
        }
    }
}

/// Starts the control plane. `prepare` runs on its thread before anything else, for instance to give up rights; this waits for it, and
/// for nothing else.
///
/// # Errors
/// The system gives no thread.
pub fn start(
    settings: Settings,
    prepare: impl FnOnce() + Send + 'static,
) -> io::Result<(Door, mpsc::Receiver<Event>)> {
    let (orders, incoming) = sync_channel(COMMANDS);
    let (events_in, events) = mpsc::channel(EVENTS);
    let (ready_in, ready) = sync_channel(1);
    let ends = orders.clone();
    std::thread::Builder::new()
        .name("discovery".to_owned())
        .spawn(move || {
            prepare();
            // Whoever starts us waits for it.
            let _ = ready_in.send(());
            supervisor::run(&settings, &incoming, &ends, &events_in);
        })?;
    ready
        .recv()
        .map_err(|_| io::Error::other("the control plane ended at its start"))?;
    Ok((Door { orders }, events))
}

/// How long the worker may take until it is given up.
pub(crate) const STALL: Duration = Duration::from_secs(10);
