//! The daemon's side of the admin socket: who may ask, and what each request does.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use super::{
    AddDevice, DeviceAdded, DeviceRemoved, Devices, Document, ErrorBody, ErrorCode, Event, Events,
    EventsRequest, ExplainRequest, Links, MAX_EVENTS_TIMEOUT_MS, MAX_PING_TIMEOUT_MS,
    MAX_TRACE_TIMEOUT_MS, MAX_WAIT_S, Peers, PingAnswer, PingReply, PingRequest, Routes, Schema,
    Trace, TraceRequest, Wait, WaitRequest, WhyRequest,
    connection::{self, Access, Command, PATIENCE, to_json},
};
use crate::{
    control::Control,
    driver::Gone,
    identity::resolver_address,
    io::{
        handover::{HandoverStream, Received},
        peer_credentials,
    },
    node::{CommandError, millis},
};

/// Clients served at once; more wait in the listen queue.
const CONNECTIONS: usize = 128;
/// Once all places are taken, a client that has not sent all of its request for so long gives its place to the next.
const IDLE: Duration = Duration::from_millis(100);
/// MTU of a device's interface: what every network carries that it may be in, and every way behind this node.
const DEVICE_MTU: u16 = 1280;

/// Why the admin socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers on it.
    #[error("another daemon answers on this socket")]
    InUse,
    /// The group in the configuration does not exist.
    #[error("there is no group `{0}`")]
    NoSuchGroup(String),
    /// The system refused.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
}

/// The listening admin socket; the file goes when it is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: std::path::PathBuf,
    group: Option<u32>,
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "Socket file was gone already");
        }
    }
}

impl AdminSocket {
    /// Listens at `path`, for root, this user, and the members of `group`. A socket that a killed daemon left is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &FilePath, group: Option<&str>) -> Result<Self, BindError> {
        use std::os::unix::fs::{PermissionsExt, chown};
        let group = match group {
            None => None,
            Some(name) => match peer_credentials::group_by_name(name)
                .map_err(|error| BindError::Io("looking up the group", error))?
            {
                Some(group) => Some(group),
                None => return Err(BindError::NoSuchGroup(name.to_owned())),
            },
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| BindError::Io("making the socket's directory", error))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(BindError::InUse);
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BindError::Io("removing a stale socket", error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener =
            UnixListener::bind(path).map_err(|error| BindError::Io("listening", error))?;
        let socket = Self {
            listener,
            path: path.to_owned(),
            group,
        };
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        if group.is_some() {
            chown(path, None, group)
                .map_err(|error| BindError::Io("giving the socket to its group", error))?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| BindError::Io("restricting the socket", error))?;
        Ok(socket)
    }

    /// Serves clients for ever.
    pub async fn serve(&self, control: Arc<Control>) {
        let mut clients = Clients::default();
        loop {
            clients.make_room().await;
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: clients that leave give some back.
                    warn!(%error, "Admin client not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let access = access(&stream, self.group);
            clients.serve(stream, access, Arc::clone(&control));
        }
    }
}

/// The clients that are connected, the oldest first.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    places: VecDeque<Place>,
}

/// One client's place.
struct Place {
    task: AbortHandle,
    since: Instant,
    has_asked: Arc<AtomicBool>,
}

impl Clients {
    /// Returns when one more client may be accepted.
    async fn make_room(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            log_end(ended);
        }
        self.places.retain(|place| !place.task.is_finished());
        while self.places.len() >= CONNECTIONS {
            let idle = self
                .places
                .iter()
                .find(|place| !place.has_asked.load(Ordering::Relaxed));
            // Without an idle one, the next that ends makes room.
            let patience =
                idle.map_or(PATIENCE, |place| IDLE.saturating_sub(place.since.elapsed()));
            match (timeout(patience, self.tasks.join_next()).await, idle) {
                (Ok(Some(ended)), _) => log_end(ended),
                (Ok(None), _) => {}
                (Err(_), Some(idle)) if !idle.has_asked.load(Ordering::Relaxed) => {
                    idle.task.abort();
                    debug!("Idle admin client gave way");
                    if let Some(ended) = self.tasks.join_next().await {
                        log_end(ended);
                    }
                }
                (Err(_), _) => {}
            }
            self.places.retain(|place| !place.task.is_finished());
        }
    }

    /// Serves one request of a client.
    fn serve(&mut self, stream: UnixStream, access: Access, control: Arc<Control>) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&has_asked);
        let task = self.tasks.spawn(async move {
            let descriptor = Received::default();
            let stream = HandoverStream::receiving(stream, descriptor.clone());
            let answer = |command| carry_out(&control, command, descriptor.take());
            if let Err(error) = connection::serve(stream, access, &asked, answer).await {
                debug!(%error, "Admin client went away");
            }
        });
        self.places.push_back(Place {
            task,
            since: Instant::now(),
            has_asked,
        });
    }
}

/// Says so if a client's task panicked, which would be a defect of ours.
fn log_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && !error.is_cancelled()
    {
        warn!(%error, "Admin client ended badly");
    }
}

/// Root, the user of the daemon, and members of the group may do everything; others nothing.
fn access(stream: &UnixStream, group: Option<u32>) -> Access {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            warn!(%error, "Admin client without credentials");
            return Access::Nothing;
        }
    };
    let is_member = |group: u32| {
        credentials.gid() == group
            || peer_credentials::groups(stream).is_ok_and(|groups| groups.contains(&group))
    };
    if credentials.uid() == 0
        || credentials.uid() == peer_credentials::own_user()
        || group.is_some_and(is_member)
    {
        Access::Everything
    } else {
        Access::Nothing
    }
}

/// Does what a client asks, with the descriptor that came with it, and gives back what to tell it.
async fn carry_out(
    control: &Control,
    command: Command,
    descriptor: Option<OwnedFd>,
) -> Result<Vec<u8>, ErrorBody> {
    match command {
        Command::Status => control.status().await.map(document),
        Command::Peers => Ok(document(Peers {
            peers: control
                .node
                .call(|node_loop, now| node_loop.node.reports(now))
                .await?,
        })),
        Command::Links => Ok(document(Links {
            links: control
                .node
                .call(|node_loop, now| node_loop.node.links(now))
                .await?,
        })),
        Command::Netcheck => {
            let netcheck = control.node.call(|node_loop, _| node_loop.node.netcheck());
            Ok(document(netcheck.await?))
        }
        Command::Routes => Ok(document(Routes {
            routes: control
                .node
                .call(|node_loop, _| node_loop.node.routes())
                .await?,
        })),
        Command::Trace(request) => trace(control, request).await.map(document),
        Command::Why(WhyRequest { target }) => {
            let why = move |node_loop: &mut crate::driver::NodeLoop, now| {
                node_loop.node.why(&target, now)
            };
            Ok(document(control.node.call(why).await??))
        }
        Command::Explain(ExplainRequest { from, to, port }) => {
            let explain = move |node_loop: &mut crate::driver::NodeLoop, _| {
                node_loop.node.explain(&from, &to, &port)
            };
            Ok(document(control.node.call(explain).await??))
        }
        Command::Events(request) => events(control, request).await.map(document),
        Command::Ping(request) => ping(control, request).await.map(document),
        Command::Wait(request) => wait(control, request).await.map(document),
        Command::Reload => control.reload().await.map(document),
        Command::LogLines => Ok(document(control.log_lines())),
        Command::SetLog(log) => {
            control.set_log_level(log.level);
            Ok(document(log))
        }
        Command::Devices => Ok(document(Devices {
            devices: control
                .node
                .call(|node_loop, now| node_loop.node.devices(now))
                .await?,
        })),
        Command::AddDevice(request) => add_device(control, request).await.map(document),
        Command::RemoveDevice(name) => {
            control.remove_device(&name).await?;
            Ok(document(DeviceRemoved { name }))
        }
        Command::Workloads => control.workloads().await.map(document),
        Command::AttachWorkload(request) => {
            let attached = control.attach_workload(request, descriptor);
            attached.await.map(document)
        }
        Command::DetachWorkload(name) => control.detach_workload(&name).await.map(document),
        Command::Network => control.network_report().await.map(document),
        Command::CreateNetwork(request) => control.create_network(request).await.map(document),
        Command::Invite(request) => control.invite(request).await.map(document),
        Command::Join(request) => control.join(request).await.map(document),
        Command::Members => control.members().await.map(document),
        Command::Approve(request) => control.approve(request).await.map(document),
        Command::Revoke(request) => control.revoke(request).await.map(document),
        Command::Leave => control.leave().await.map(document),
        Command::Whois(request) => control.whois(request).await.map(document),
    }
}

async fn ping(control: &Control, request: PingRequest) -> Result<PingAnswer, ErrorBody> {
    let PingRequest {
        target,
        seq,
        timeout_ms,
    } = request;
    let sent = move |node_loop: &mut crate::driver::NodeLoop, now| {
        let sent = node_loop.node.ping(&target, now)?;
        let reply = node_loop.await_pong(sent.number);
        Ok::<_, CommandError>((sent, reply))
    };
    let (sent, reply) = control.node.call(sent).await??;
    let patience = Duration::from_millis(timeout_ms.clamp(1, MAX_PING_TIMEOUT_MS).into());
    let reply = match timeout(patience, reply).await {
        Ok(Ok(pong)) => PingReply {
            seq,
            rtt_ms: pong.blocked_by.is_none().then(|| millis(pong.rtt)),
            path: pong.path,
            blocked_by: pong.blocked_by,
        },
        Ok(Err(_)) | Err(_) => PingReply {
            seq,
            rtt_ms: None,
            path: sent.path,
            blocked_by: None,
        },
    };
    Ok(PingAnswer {
        target: sent.address,
        reply,
    })
}

async fn trace(control: &Control, request: TraceRequest) -> Result<Trace, ErrorBody> {
    let target = request.target.clone();
    let started = move |node_loop: &mut crate::driver::NodeLoop, now| {
        let number = node_loop.node.trace(&target, now)?;
        Ok::<_, CommandError>(node_loop.await_trace(number))
    };
    let ended = control.node.call(started).await??;
    let patience = request.timeout_ms.clamp(1, MAX_TRACE_TIMEOUT_MS);
    match timeout(Duration::from_millis(patience.into()), ended).await {
        Ok(Ok(trace)) => Ok(trace),
        Ok(Err(_)) => Err(Gone.into()),
        Err(_) => Err(refusal(
            ErrorCode::Unreachable,
            &format!("the way to {} was not found in time", request.target),
            "meshd routes",
        )),
    }
}

async fn events(control: &Control, request: EventsRequest) -> Result<Events, ErrorBody> {
    let patience = request.timeout_ms.min(MAX_EVENTS_TIMEOUT_MS);
    let deadline = Instant::now() + Duration::from_millis(patience.into());
    let mut changes = control.node.changes();
    loop {
        let from = request.from;
        let since = control
            .node
            .call(move |node_loop, _| node_loop.node.events(from))
            .await?;
        let is_over = !since.events.is_empty() || Instant::now() >= deadline;
        if is_over || !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            let event = |(at, what)| Event {
                t_us: control.clock.boot_micros(at),
                what,
            };
            return Ok(Events {
                next: since.next,
                missed: since.missed,
                events: since.events.into_iter().map(event).collect(),
            });
        }
    }
}

async fn wait(control: &Control, request: WaitRequest) -> Result<Wait, ErrorBody> {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(request.timeout_s.min(MAX_WAIT_S).into());
    let mut changes = control.node.changes();
    loop {
        let WaitRequest { peer, route, .. } = request.clone();
        let is_so = move |node_loop: &mut crate::driver::NodeLoop, _| {
            let has_peer = peer.map_or(Ok(true), |peer| node_loop.node.is_open(&peer))?;
            Ok::<_, CommandError>(
                has_peer && route.is_none_or(|route| node_loop.node.has_route(route)),
            )
        };
        if control.node.call(is_so).await?? {
            return Ok(Wait {
                waited_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        match timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Gone.into()),
            Err(_) => {
                let what = request
                    .peer
                    .clone()
                    .or_else(|| request.route.map(|route| route.to_string()))
                    .unwrap_or_default();
                return Err(refusal(
                    ErrorCode::Unreachable,
                    &format!("{what} was not reachable in time"),
                    "meshd status",
                ));
            }
        }
    }
}

async fn add_device(control: &Control, request: AddDevice) -> Result<DeviceAdded, ErrorBody> {
    let address = control
        .add_device(&request.name, request.public_key)
        .await?;
    let listen_port = control.listen_port();
    let endpoint = control
        .guess_address()
        .await
        .map(|address| SocketAddr::new(address, listen_port));
    Ok(DeviceAdded {
        name: request.name,
        address,
        gateway_public_key: control.own.public_key(),
        listen_port,
        mtu: DEVICE_MTU,
        endpoint,
        resolver: Some(resolver_address(control.own.prefix())),
    })
}

fn document<T: Schema + Serialize>(body: T) -> Vec<u8> {
    to_json(&Document::new(body))
}

/// An answer that says no.
pub(crate) fn refusal(code: ErrorCode, error: &str, hint: &str) -> ErrorBody {
    ErrorBody {
        error: error.to_owned(),
        hint: hint.to_owned(),
        code,
    }
}

impl From<Gone> for ErrorBody {
    fn from(_: Gone) -> Self {
        refusal(
            ErrorCode::Failed,
            "the daemon is stopping or too busy to answer",
            "try again; if it stays so: systemctl restart meshd",
        )
    }
}

impl From<CommandError> for ErrorBody {
    fn from(error: CommandError) -> Self {
        let (code, hint) = match &error {
            CommandError::NoSuchName(_) => (ErrorCode::NoSuchName, "meshd peers"),
            CommandError::NotHere(_) => (
                ErrorCode::Usage,
                "the same on that node; here: meshd why NAME     (has it refused something?)",
            ),
            CommandError::Ports(_) | CommandError::ManyPorts(_) => {
                (ErrorCode::Usage, "meshd explain laptop node tcp/22")
            }
            CommandError::NameTaken(_) | CommandError::Peer(_) => {
                (ErrorCode::Exists, "meshd wg list")
            }
            CommandError::Configured(_) => (
                ErrorCode::Failed,
                "remove its [[wireguard.stock]] entry, then: meshd reload",
            ),
        };
        let source = std::error::Error::source(&error)
            .map(|source| format!(": {source}"))
            .unwrap_or_default();
        refusal(code, &format!("{error}{source}"), hint)
    }
}
