//! The daemon's life: set the machine up, start the threads, serve, reload, and take everything down again.

use std::{
    future::pending, io, net::SocketAddr, num::NonZeroU16, path::PathBuf, sync::Arc, time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::{TcpListener, lookup_host},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, error, info, warn};
use wireguard::PublicKey;

use crate::{
    admin::{
        AttachWorkload, WarningCode,
        server::{AdminSocket, BindError},
    },
    alerts::Alerts,
    bell::Bell,
    clock_watch::{self, ClockWatch, Reading},
    config::{HostPort, MAX_QUEUES, Settings, Source, StreamListen},
    control::{Control, Remembered, chain, note_write, remove_device},
    control_plane::{self, ListenPorts},
    discard::Discards,
    driver::{self, NodeHandle, Request, Vitals},
    fib::{Fib, Own},
    forward::{Devices, Outlet, RelayLimit, Shared, Sockets},
    identity::{Identity, resolver_address},
    io::{
        clock::Clock,
        hardening,
        netlink::{self, Netlink, NetlinkError},
        nft::Guard,
        tcp::{self, Listener},
        tun::{self, Tun},
        udp::{self, UdpSocket},
    },
    journal,
    lan::Lan,
    metrics,
    network::Network,
    network_watch,
    node::{Fresh, Kept, Seen},
    notify::Notifier,
    port_mapping::{Mapped, PortMapping},
    resolved::Resolved,
    state::{
        self, ControlPort, Membership, PeerSeen, Port, StateDir, StateError, StateLock, Stock,
    },
    stream::{self, Berth},
    telemetry::Telemetry,
    workload::Wish,
};

/// Packets that the interface queues for us; with offloads each may be a super-packet. Long enough for a burst of small packets,
/// short enough not to be a standing queue of megabytes.
const QUEUE: u32 = 256;
/// How often it is looked whether peers have moved, to remember it.
const REMEMBER: Duration = Duration::from_secs(30);
/// A name server has this long to answer.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long `status` tells that the wall clock was set.
const CLOCK_JUMP_SHOWN: Duration = Duration::from_secs(3600);
/// Addresses taken of one name.
const MAX_ADDRESSES: usize = 8;

/// Why the daemon could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory.
    #[error("cannot use the state directory")]
    State(#[from] StateError),
    /// A listening socket.
    #[error("cannot listen")]
    Listen(#[from] udp::BindError),
    /// A listening socket for streams.
    #[error("cannot listen for streams")]
    ListenStreams(#[from] tcp::BindError),
    /// The TUN device.
    #[error("cannot make the overlay interface")]
    Tun(#[from] tun::OpenError),
    /// Address, routes or rules.
    #[error("cannot configure the overlay interface")]
    Netlink(#[from] NetlinkError),
    /// The admin socket.
    #[error("cannot open the admin socket {}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: BindError,
    },
    /// Threads, signals or the runtime.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The address of `[metrics]`.
    #[error("cannot listen for scrapers on {address}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// A thread that must not end has ended.
    #[error("{0}")]
    Ended(String),
}

/// A state file that the node can do without; one that cannot be understood is set aside.
fn read_or_set_aside<T: state::Record>(
    state: &StateDir,
    alerts: &Alerts,
) -> Result<Option<T>, StateError> {
    match state.read() {
        Err(error @ StateError::Damaged { .. }) => {
            let aside = match state.set_aside::<T>() {
                Ok(path) => format!("set aside as {}", path.display()),
                Err(error) => format!("it stays where it is: {}", chain(&error)),
            };
            let text = format!("{}; {aside}", chain(&error));
            warn!("{text}");
            alerts.raise(WarningCode::StateDamaged, text);
            Ok(None)
        }
        read => read,
    }
}

/// What a daemon is started with.
#[derive(Debug)]
pub struct Launch {
    /// The checked configuration.
    pub settings: Settings,
    /// Where it came from, for reloads.
    pub source: Source,
    /// Who the node is.
    pub identity: Identity,
    /// The state directory.
    pub state: StateDir,
    /// That it is ours alone.
    pub lock: StateLock,
    /// The running log.
    pub telemetry: Telemetry,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`]: the machine could not be set up, or a thread ended. What was set up has been taken down again.
pub fn run(launch: Launch) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Start)?;
    runtime.block_on(live(launch))
}

async fn live(launch: Launch) -> Result<(), RunError> {
    let Launch {
        settings,
        source,
        identity,
        state,
        lock: _lock,
        telemetry,
    } = launch;
    let mut signals = Signals::new().map_err(RunError::Start)?;
    let notifier = Notifier::from_env();
    let node = identity.node();
    for warning in &settings.warnings {
        warn!(code = warning.code, "{}", warning.text);
    }

    // Whatever can fail comes before anything that would have to be taken down again.
    let alerts = Arc::new(Alerts::default());
    let clock = Clock::new();
    let started = Reading::now(clock);
    let contacts = read_or_set_aside::<control_plane::Remembered>(&state, &alerts)?;
    let own_identity = identity.clone();
    let (fresh, discards) = fresh(&state, identity, &alerts, started)?;
    if let Some((_, text)) = settings.twice(&fresh.added) {
        warn!("{text}");
        alerts.raise(WarningCode::DeviceTwice, text);
    }
    let admin = AdminSocket::bind(&settings.api.socket, settings.api.group.as_deref()).map_err(
        |source| RunError::Socket {
            path: settings.api.socket.clone(),
            source,
        },
    )?;
    let scrapers = match settings.metrics {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|source| RunError::Metrics { address, source })?,
        ),
        None => None,
    };
    let (sockets, port) = bind(&settings.listen, &state, &alerts)?;
    let listeners = listeners(&settings)?;
    // After all others, whose ports are not to be drawn.
    let libp2p_ports = libp2p_ports(&settings, &state, &alerts)?;
    let tun = Tun::open(&settings.interface.name)?;
    let lan =
        Lan::open(&settings, node, &sockets, tun.index(), clock.now()).map_err(RunError::Random)?;
    let shards = shards(queues(&settings), &tun, &sockets)?;
    let netlink = Netlink::new()?;
    let interface = tun.index();
    let overlay = netlink::Interface {
        index: interface,
        address: node.address(),
        mtu: settings.interface.mtu.into(),
        queue_length: QUEUE,
    };
    journal::open(&state, &netlink).await?;
    if let Err(error) = netlink.configure(&overlay).await {
        take_down(&netlink, &state).await;
        return Err(error.into());
    }

    let _guard = guard(interface, &alerts);
    let own = Own {
        address: node.address(),
        prefix: node.prefix(),
        link_local: node.link_local(),
        token: fresh.token,
    };
    let empty = Fib::new(own, [], []);
    let (notices_in, notices) = Bell::default().queue(driver::NOTICES);
    let (table, commands) = stream::table().map_err(RunError::Start)?;
    let shared = Shared {
        fib: Arc::new(ArcSwap::from_pointee(empty)),
        tun: Arc::new(tun),
        devices: Arc::new(Devices::new().map_err(RunError::Start)?),
        clock,
        relay_limit: Arc::new(RelayLimit::new(clock.now())),
        outlet: Outlet {
            sockets: Arc::new(
                Sockets::new(sockets)
                    .map_err(RunError::Start)?
                    .with_streams(table),
            ),
            discards: Arc::clone(&discards),
            notices: notices_in,
        },
        questions: None,
    };
    let others = shards
        .into_iter()
        .map(|(tun, sockets)| shared.shard(tun, sockets))
        .collect();
    let (tell_mapped, mapped) = mpsc::channel(1);
    let (network_changed, _) = watch::channel(());
    let port_mapping = NonZeroU16::new(port)
        .filter(|_| settings.port_mapping)
        .map(|port| PortMapping::start(port, network_changed.subscribe(), tell_mapped))
        .transpose()
        .map_err(RunError::Start)?;
    let records = fresh.kept.records.as_ref();
    let network = records.map_or_else(Network::default, |records| {
        Network::private(&records.network())
    });
    let contacts = contacts.unwrap_or_default();
    let (plane, plane_events) =
        control_plane::start(&settings, &own_identity, &network, contacts, libp2p_ports)
            .map_err(RunError::Start)?;
    drop(own_identity);
    let (ended, mut endings) = mpsc::channel(4);
    // Before all others, which lose the right to connect.
    let berth = Berth::new(&ended).map_err(RunError::Start)?;
    confine(&settings, &source, &state, &alerts);
    let streams = stream::Setup {
        berth,
        commands,
        listeners,
    };
    let (requests, names) = mpsc::channel(driver::REQUESTS);
    let threads = driver::start(
        &settings, fresh, shared, others, notices, requests, streams, &ended,
    )
    .map_err(RunError::Start)?;
    info!(node = settings.name, address = %node.address(), interface = settings.interface.name, port, "Node up");

    let dns = settings.dns.mode;
    let control = Arc::new(Control {
        node: threads.node(),
        source,
        own: node,
        running: Mutex::new(settings),
        state,
        port,
        netlink,
        network_changed,
        telemetry,
        notifier,
        alerts,
        clock,
        started,
        plane,
        network: watch::Sender::new(network),
    });
    control.notifier.ready(&control.summary());
    let vitals = threads.vitals();
    let server = resolver_address(node.prefix());
    let mut resolved = Resolved::new(dns, interface, server);
    let mut remembered = Remembered::default();
    let result = tokio::select! {
        () = admin.serve(Arc::clone(&control)) => Err(RunError::Ended("the admin socket has closed".to_owned())),
        () = serve_node(names, &control) => Err(RunError::Ended("the resolver has ended".to_owned())),
        error = network_watch::watch(&control, &overlay) => Err(error),
        () = lan.run(&control, &discards) => Err(RunError::Ended("the search on the LAN has ended".to_owned())),
        () = control_plane::serve(plane_events, &control, interface) => Err(RunError::Ended("the control plane's supervisor has ended".to_owned())),
        () = metrics::serve(scrapers, Arc::clone(&control)) => Err(RunError::Ended("the metrics server has ended".to_owned())),
        () = watch_clocks(&control) => Err(RunError::Ended("the clock has ended".to_owned())),
        () = resolved.serve(control.node.zones(), &control.alerts) => Err(RunError::Ended("the link to systemd-resolved has ended".to_owned())),
        () = tell_mapped_ports(mapped, &control) => Err(RunError::Ended("the node loop has ended".to_owned())),
        () = remember(&control, &mut remembered) => Err(RunError::Ended("the clock has ended".to_owned())),
        () = signals.until_stopped(&control) => Ok(()),
        () = feed_watchdog(&control.notifier, &vitals) => Err(RunError::Ended("the watchdog's feeder has ended".to_owned())),
        Some(thread) = endings.recv() => Err(RunError::Ended(thread)),
    };
    control.notifier.stopping();
    drop(vitals);
    control.remember(&mut Remembered::default()).await;
    drop(admin);
    resolved.stop().await;
    if let Some(port_mapping) = port_mapping {
        port_mapping.stop();
    }
    say_goodbye(&control.node).await;
    threads.stop();
    take_down(&control.netlink, &control.state).await;
    info!("Node down");
    result
}

/// Tells the node what the router lets in. Ends when the node loop does; without port mappings there is nothing to tell.
async fn tell_mapped_ports(mut mapped: mpsc::Receiver<Option<Mapped>>, control: &Control) {
    while let Some(mapped) = mapped.recv().await {
        let told = control
            .node
            .call(move |node_loop, now| node_loop.node.handle_mapped(mapped, now));
        if told.await.is_err() {
            return;
        }
    }
    pending().await
}

/// Neighbours hear that nothing can be reached through this node any more, so that they need not find out.
async fn say_goodbye(node: &NodeHandle) {
    let goodbye = node.call(|node_loop, now| node_loop.node.handle_stop(now));
    // The second call is answered when the outputs of the first have left.
    if goodbye.await.is_err() || node.call(|_, _| ()).await.is_err() {
        debug!("The node loop had no time for a goodbye");
    }
}

/// Closes the overlay's addresses to other interfaces; without the kernel's packet filter, says that they are open.
fn guard(interface: u32, alerts: &Alerts) -> Option<Guard> {
    match Guard::install(interface) {
        Ok(guard) => Some(guard),
        Err(error) => {
            let text = format!("the packet filter does not guard the overlay: {error}");
            warn!("{text}");
            alerts.raise(WarningCode::NoNft, text);
            None
        }
    }
}

/// Removes what a killed daemon left in the kernel, by its journal and by the fixed numbers. The caller has the state directory's lock.
///
/// # Errors
/// [`RunError`]: not permitted, for instance.
pub fn clean_up(state: Option<&StateDir>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Start)?;
    runtime.block_on(async {
        let netlink = Netlink::new()?;
        if let Some(state) = state {
            journal::open(state, &netlink).await?;
        }
        netlink.remove().await?;
        if let Some(state) = state {
            journal::close(state);
        }
        Ok(())
    })
}

/// Gives up what the running daemon does not need. What the kernel cannot take is shown in `status`.
fn confine(settings: &Settings, source: &Source, state: &StateDir, alerts: &Alerts) {
    let parent = |path: &std::path::Path| path.parent().map(PathBuf::from);
    let needs = hardening::Needs {
        readable: parent(&source.path).into_iter().collect(),
        writable: parent(&settings.api.socket)
            .into_iter()
            .chain([state.path().to_owned()])
            .collect(),
        listen: Vec::new(),
    };
    let missing: Vec<String> = hardening::confine(&needs)
        .iter()
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        let text = format!("the daemon is not confined by {}", missing.join("; "));
        warn!("{text}");
        alerts.raise(WarningCode::NoSandbox, text);
    }
}

/// Removes what outlives the interface.
async fn take_down(netlink: &Netlink, state: &StateDir) {
    match netlink.remove().await {
        Ok(()) => journal::close(state),
        Err(error) => {
            warn!(%error, "Routes or rules of the overlay may have stayed behind: ip -6 rule; ip -6 route show table 5277")
        }
    }
}

/// What the node starts with.
fn fresh(
    state: &StateDir,
    identity: Identity,
    alerts: &Alerts,
    started: Reading,
) -> Result<(Fresh, Arc<Discards>), RunError> {
    let discards = Arc::new(Discards::default());
    let (mut seed, mut token) = ([0; 8], [0; 8]);
    getrandom::fill(&mut seed).map_err(RunError::Random)?;
    getrandom::fill(&mut token).map_err(RunError::Random)?;
    let unix = started.unix(started);
    let now = unix.as_secs();
    let known = read_or_set_aside::<state::Peers>(state, alerts)?
        .unwrap_or_default()
        .peers;
    if let Some(latest) = known.iter().map(|peer| peer.seen).max()
        && latest > now
    {
        let text = format!(
            "the wall clock is {} s behind the time when a peer was last seen",
            latest - now
        );
        warn!("{text}");
        alerts.raise(WarningCode::ClockJump, text);
    }
    let seen = |peer: PeerSeen| {
        let age = Duration::from_secs(now.saturating_sub(peer.seen));
        (
            peer.public_key,
            Seen {
                endpoints: peer.endpoints,
                age,
            },
        )
    };
    let fresh = Fresh {
        identity,
        added: state.read::<Stock>()?.unwrap_or_default().devices,
        workloads: remembered_workloads(state, alerts)?,
        seen: known.into_iter().map(seen).collect(),
        seed: u64::from_ne_bytes(seed),
        token,
        epoch: read_or_set_aside::<state::Routing>(state, alerts)?.map(|routing| routing.epoch),
        kept: kept(state, alerts, unix)?,
        discards: Arc::clone(&discards),
    };
    Ok((fresh, discards))
}

/// The workloads that were attached before.
fn remembered_workloads(state: &StateDir, alerts: &Alerts) -> Result<Vec<Wish>, StateError> {
    let kept = read_or_set_aside::<state::Workloads>(state, alerts)?.unwrap_or_default();
    let wish = |workload: AttachWorkload| {
        let name = workload.name.clone();
        let wish = workload.wish();
        wish.inspect_err(|error| warn!(workload = name, error = chain(error), "Workload forgotten"))
            .ok()
    };
    Ok(kept.workloads.into_iter().filter_map(wish).collect())
}

/// The private network that the node is in. Records that are damaged are had from other members.
fn kept(state: &StateDir, alerts: &Alerts, unix: Duration) -> Result<Kept, StateError> {
    let none = Kept {
        unix,
        ..Kept::default()
    };
    let Some(file) = read_or_set_aside::<Membership>(state, alerts)? else {
        return Ok(none);
    };
    let Some((records, damaged)) = file.records() else {
        let aside = state.set_aside::<Membership>()?;
        let text = format!(
            "the records of the network make no sense; set aside as {}: join again",
            aside.display()
        );
        warn!("{text}");
        alerts.raise(WarningCode::StateDamaged, text);
        return Ok(none);
    };
    if damaged > 0 {
        warn!(
            damaged,
            "Records of the network are damaged, and asked for again"
        );
    }
    Ok(Kept {
        key: state.network_key(&records.network())?,
        records: Some(records),
        unix,
    })
}

/// Opens the WireGuard sockets. Addresses with port 0 share one random port, which is remembered.
fn bind(
    listen: &[SocketAddr],
    state: &StateDir,
    alerts: &Alerts,
) -> Result<(Vec<UdpSocket>, u16), RunError> {
    let remembered = read_or_set_aside::<Port>(state, alerts)?.map(|port| port.port);
    if let Some(port) = remembered {
        match bind_all(listen, port) {
            Ok(bound) => return Ok(bound),
            Err(error)
                if error.source.kind() == io::ErrorKind::AddrInUse
                    && listen.iter().any(|address| address.port() == 0) =>
            {
                warn!(port, "The remembered port is in use, taking another");
            }
            Err(error) => return Err(error.into()),
        }
    }
    // A port that is free over one address family may be taken over the other: try a few.
    let mut tries = (0..RANDOM_PORTS).map(|_| bind_all(listen, 0));
    let (sockets, port) = match tries.find(Result::is_ok) {
        Some(bound) => bound?,
        None => bind_all(listen, 0)?,
    };
    if listen.iter().any(|address| address.port() == 0) {
        // Without it the next start has another port, which peers find out; without a start they find nothing.
        let written = state.write(&Port { port });
        if let Err(error) = &written {
            warn!(error = chain(error), "Port not remembered");
        }
        note_write(alerts, &written);
    }
    Ok((sockets, port))
}

/// Takes the ports that libp2p will listen on. Addresses with port 0 share one random port, which is remembered.
fn libp2p_ports(
    settings: &Settings,
    state: &StateDir,
    alerts: &Alerts,
) -> Result<ListenPorts, RunError> {
    if !settings.control.enabled {
        return Ok(ListenPorts::default());
    }
    let remembered = read_or_set_aside::<ControlPort>(state, alerts)?.map(|port| port.port);
    let ports = ListenPorts::take(&settings.control.listen, remembered);
    if let Some(port) = ports.random()
        && remembered != Some(port)
    {
        // Without it the next start has another port, which those who know this one do not find.
        let written = state.write(&ControlPort { port });
        if let Err(error) = &written {
            warn!(error = chain(error), "libp2p port not remembered");
        }
        note_write(alerts, &written);
    }
    Ok(ports)
}

/// Opens the sockets that streams are taken at. One that nobody has asked for by its address may be missing.
fn listeners(settings: &Settings) -> Result<Vec<Listener>, RunError> {
    let mut listeners = Vec::new();
    for (address, wish) in settings.stream_addresses() {
        match (Listener::bind(address, netlink::MARK), wish) {
            (Ok(listener), _) => listeners.push(listener),
            (Err(error), StreamListen::At(_)) => return Err(error.into()),
            (Err(error), StreamListen::Auto) => {
                warn!(%address, error = chain(&error), "No streams are taken here: peers whose network lets no UDP out cannot connect");
            }
        }
    }
    Ok(listeners)
}

/// How many queues packets have, each with two threads.
fn queues(settings: &Settings) -> usize {
    let for_processors = || {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (processors / 2).clamp(1, usize::from(MAX_QUEUES.get()))
    };
    settings
        .interface
        .queues
        .map_or_else(for_processors, |queues| queues.get().into())
}

/// The further queues of the device and sockets on the same addresses, for so many queues in all.
fn shards(
    queues: usize,
    tun: &Tun,
    sockets: &[UdpSocket],
) -> Result<Vec<(Tun, Vec<UdpSocket>)>, RunError> {
    (1..queues)
        .map(|_| {
            let again: Result<_, udp::BindError> = sockets
                .iter()
                .map(|socket| socket.shard(netlink::MARK))
                .collect();
            Ok((tun.queue()?, again?))
        })
        .collect()
}

/// How many random ports are tried at start.
const RANDOM_PORTS: usize = 8;

/// Opens all sockets, with `port` in place of 0 (0: the first socket's random port); returns the port of those, else of the first.
fn bind_all(listen: &[SocketAddr], mut port: u16) -> Result<(Vec<UdpSocket>, u16), udp::BindError> {
    let mut sockets: Vec<UdpSocket> = Vec::with_capacity(listen.len());
    for address in listen {
        let is_random = address.port() == 0;
        let address = SocketAddr::new(address.ip(), if is_random { port } else { address.port() });
        let socket = UdpSocket::bind(address, netlink::MARK)?;
        if is_random {
            port = socket.local_addr().port();
        }
        sockets.push(socket);
    }
    let port = if port == 0 {
        sockets
            .first()
            .map_or(0, |socket| socket.local_addr().port())
    } else {
        port
    };
    Ok((sockets, port))
}

/// Does what the node loop cannot: resolves names of endpoints, writes to the state directory, and speaks with the control plane.
async fn serve_node(mut requests: mpsc::Receiver<Request>, control: &Control) {
    let (names_in, names) = mpsc::channel(driver::REQUESTS);
    tokio::select! {
        () = serve_requests(&mut requests, &names_in, control) => {}
        () = resolve(names, control) => {}
    }
}

/// All but names, which may take long to resolve, and are handed on.
async fn serve_requests(
    requests: &mut mpsc::Receiver<Request>,
    names: &mpsc::Sender<(PublicKey, Vec<HostPort>)>,
    control: &Control,
) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Resolve { peer, endpoints } => {
                // The node asks again when its peer stays silent.
                if names.try_send((peer, endpoints)).is_err() {
                    debug!(peer = %peer.short(), "Resolver is busy");
                }
            }
            Request::Introduce { to, message } => {
                control.plane.introduce(&to, message);
            }
            Request::Keep => {
                control.keep_records().await;
            }
            Request::Plane(command) => {
                control.plane.hand_over(command, control).await;
            }
            Request::Lookup { prefix } => {
                if !control.plane.look_up(prefix) {
                    control_plane::answer(control, prefix, None).await;
                }
            }
            Request::RememberWorkloads => {
                if let Err(error) = control.remember_workloads().await {
                    warn!(error = error.error, "Workloads not remembered");
                }
                continue;
            }
            Request::RemoveDevice(device) => {
                remove_device(device).await;
                continue;
            }
            Request::Remember { epoch } => {
                let written = control.state.write(&state::Routing { epoch });
                if let Err(error) = &written {
                    warn!(error = chain(error), "Epoch not remembered");
                }
                note_write(&control.alerts, &written);
            }
        }
    }
}

/// Resolves names of endpoints, one peer after the other.
async fn resolve(mut names: mpsc::Receiver<(PublicKey, Vec<HostPort>)>, control: &Control) {
    while let Some((peer, endpoints)) = names.recv().await {
        let mut addresses = Vec::new();
        for endpoint in endpoints {
            addresses.push(match endpoint.address() {
                Some(address) => vec![address],
                None => look_up(&endpoint).await,
            });
        }
        if control
            .node
            .call(move |node_loop, now| node_loop.node.handle_resolved(&peer, addresses, now))
            .await
            .is_err()
        {
            return;
        }
    }
}

async fn look_up(endpoint: &HostPort) -> Vec<SocketAddr> {
    let name = endpoint.to_string();
    match tokio::time::timeout(RESOLVE, lookup_host(&name)).await {
        Ok(Ok(addresses)) => addresses.take(MAX_ADDRESSES).collect(),
        Ok(Err(error)) => {
            debug!(name, %error, "Name does not resolve");
            Vec::new()
        }
        Err(_) => {
            debug!(name, "Name server does not answer");
            Vec::new()
        }
    }
}

async fn remember(control: &Control, last: &mut Remembered) {
    let mut ticks = interval(REMEMBER);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        control.remember(last).await;
    }
}

/// Feeds the service manager's watchdog, twice in its time, for as long as every thread of the packet path answers.
async fn feed_watchdog(notifier: &Notifier, vitals: &Vitals) {
    let Some(time) = notifier.watchdog() else {
        return pending().await;
    };
    let mut ticks = interval((time / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match vitals.check(time / 4).await {
            Ok(()) => notifier.alive(),
            Err(silent) => error!(error = %silent, "The watchdog is not fed"),
        }
    }
}

/// Renews sessions after a pause that the node loop would sleep through: its own timers stand still while the machine sleeps. Says in
/// `status` when the wall clock is set.
async fn watch_clocks(control: &Control) {
    let mut watch = ClockWatch::new(Reading::now(control.clock));
    let mut ticks = interval(clock_watch::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reading = Reading::now(control.clock);
        let noticed = watch.handle_reading(reading);
        if let Some(set_by) = noticed.set_by_ms {
            let text = format!(
                "the wall clock was {} while the daemon ran",
                clock_watch::in_words(set_by)
            );
            warn!("{text}");
            let until = reading.own + CLOCK_JUMP_SHOWN;
            control
                .alerts
                .raise_until(WarningCode::ClockJump, text, until);
        }
        if noticed.set_by_ms.is_some() || noticed.slept {
            let unix = reading.unix(control.started);
            let told = control
                .node
                .call(move |node_loop, now| node_loop.node.handle_wall_clock(unix, now));
            if told.await.is_err() {
                debug!("Node loop is too busy to be told how late it is");
            }
        }
        if noticed.slept {
            let resumed = control
                .node
                .call(|node_loop, now| node_loop.handle_resume(now))
                .await;
            if resumed.is_err() {
                debug!("Node loop is too busy to be told of a pause");
            }
        }
    }
}

/// The signals that the daemon hears.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads on SIGHUP; returns on SIGTERM and SIGINT.
    async fn until_stopped(&mut self, control: &Control) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                Some(()) = self.hangup.recv() => {
                    if let Err(error) = control.reload().await {
                        error!(error = error.error, "Configuration not reloaded");
                    }
                }
            }
        }
    }
}
