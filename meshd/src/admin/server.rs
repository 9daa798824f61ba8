//! The daemon's side of the admin socket: who may ask, and what each request does.

use std::{
    convert::Infallible, io, net::SocketAddr, path::Path as FilePath, sync::Arc, time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use super::{
    AddDevice, DeviceAdded, DeviceRemoved, Devices, Document, ErrorBody, ErrorCode, Log,
    MAX_PING_TIMEOUT_MS, MAX_WAIT_S, Peers, PingAnswer, PingReply, PingRequest, Schema, VERSION,
    VERSION_HEADER, Wait, WaitRequest,
};
use crate::{
    daemon::Control,
    driver::Gone,
    io::peer_credentials,
    node::{CommandError, millis},
};

/// Clients served at once; more wait in the listen queue.
const CONNECTIONS: usize = 64;
/// Largest request, in bytes: a request names a device and a key.
const MAX_REQUEST: usize = 64 << 10;
/// A client has this long to send a request's head, and then its body.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
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
            let control = Arc::clone(&control);
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, &control, access));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .max_buf_size(MAX_REQUEST)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    debug!(%error, "Admin client went away");
                }
                drop(slot);
            });
        }
    }
}

/// What a client may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Access {
    Everything,
    Nothing,
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

async fn answer(
    request: Request<Incoming>,
    control: &Control,
    access: Access,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match route(request, control, access).await {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.code.status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, to_json(&error))
        }
    };
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .header(VERSION_HEADER, VERSION);
    Ok(response
        .body(Full::new(body.into()))
        .unwrap_or_else(|_| Response::new(Full::default())))
}

async fn route(
    request: Request<Incoming>,
    control: &Control,
    access: Access,
) -> Result<Vec<u8>, ErrorBody> {
    if access == Access::Nothing {
        return Err(refusal(
            ErrorCode::Permission,
            "only root and the group of [api] may talk to the daemon",
            "run the command with sudo",
        ));
    }
    let version = request
        .headers()
        .get(VERSION_HEADER)
        .and_then(|value| value.to_str().ok());
    if version != Some(&VERSION.to_string()) {
        let hint = "use the meshd program of the running daemon's version, or restart the daemon: systemctl restart meshd";
        return Err(refusal(
            ErrorCode::Version,
            "this client and the daemon are of different versions",
            hint,
        ));
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => control.status().await.map(document),
        (&Method::GET, "/v1/peers") => Ok(document(Peers {
            peers: control
                .node
                .call(|node_loop, now| node_loop.node.reports(now))
                .await?,
        })),
        (&Method::POST, "/v1/ping") => ping(control, body(request).await?).await.map(document),
        (&Method::POST, "/v1/wait") => wait(control, body(request).await?).await.map(document),
        (&Method::POST, "/v1/reload") => control.reload().await.map(document),
        (&Method::POST, "/v1/log") => {
            let log: Log = body(request).await?;
            control.set_log_level(log.level);
            Ok(document(log))
        }
        (&Method::GET, "/v1/wg") => Ok(document(Devices {
            devices: control
                .node
                .call(|node_loop, now| node_loop.node.devices(now))
                .await?,
        })),
        (&Method::POST, "/v1/wg") => add_device(control, body(request).await?)
            .await
            .map(document),
        (&Method::DELETE, path) if path.starts_with("/v1/wg/") => {
            let name = path.trim_start_matches("/v1/wg/").to_owned();
            control.remove_device(&name).await?;
            Ok(document(DeviceRemoved { name }))
        }
        (_, path) => Err(refusal(
            ErrorCode::Usage,
            &format!("there is no {method} {path}"),
            "meshd help",
        )),
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
            rtt_ms: Some(millis(pong.rtt)),
            path: pong.path,
        },
        Ok(Err(_)) | Err(_) => PingReply {
            seq,
            rtt_ms: None,
            path: sent.path,
        },
    };
    Ok(PingAnswer {
        target: sent.address,
        reply,
    })
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
    let (gateway_public_key, mtu) = control
        .node
        .call(|node_loop, _| node_loop.node.gateway())
        .await?;
    let listen_port = control.listen_port();
    let endpoint = control
        .guess_address()
        .await
        .map(|address| SocketAddr::new(address, listen_port));
    Ok(DeviceAdded {
        name: request.name,
        address,
        gateway_public_key,
        listen_port,
        mtu,
        endpoint,
    })
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, ErrorBody> {
    let usage = |error: &dyn std::fmt::Display| {
        refusal(
            ErrorCode::Usage,
            &format!("cannot read the request: {error}"),
            "meshd help",
        )
    };
    let collected = timeout(
        PATIENCE,
        Limited::new(request.into_body(), MAX_REQUEST).collect(),
    )
    .await
    .map_err(|error| usage(&error))?;
    let bytes = collected.map_err(|error| usage(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| usage(&error))
}

fn document<T: Schema + Serialize>(body: T) -> Vec<u8> {
    to_json(&Document::new(body))
}

fn to_json<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("answers have string keys and no failing serializers")
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
