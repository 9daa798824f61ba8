//! The client's side of the admin socket: one request, one answer.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{
    AddDevice, ApproveRequest, AttachWorkload, CreateNetwork, DeviceAdded, DeviceRemoved, Devices,
    Document, ErrorBody, Events, EventsRequest, Explain, ExplainRequest, Governed, InviteRequest,
    Invited, JoinRequest, JoinedNetwork, LeftNetwork, Links, Log, LogLines, MAX_BODY, Members,
    Netcheck, Network, Peers, PingAnswer, PingRequest, Reload, RevokeRequest, Routes, Schema,
    Status, Trace, TraceRequest, VERSION, VERSION_HEADER, Wait, WaitRequest, Whois, WhoisRequest,
    Why, WhyRequest, WorkloadAttached, WorkloadDetached, Workloads,
};
use crate::io::handover::HandoverStream;

/// How long the daemon may take for what takes no time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// And for what takes records to disk or messages to a member and back.
const JOIN_TIMEOUT: Duration = Duration::from_secs(40);

/// A daemon, by its socket. Every call connects anew, so that a restart in between does no harm.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the daemon does not run: nobody listens at {}", socket.display())]
    NotRunning {
        /// Where.
        socket: PathBuf,
    },
    /// The socket may not be used.
    #[error("no permission to talk to the daemon at {}", socket.display())]
    Permission {
        /// Where.
        socket: PathBuf,
    },
    /// The system refused something else.
    #[error("connecting to {}", socket.display())]
    Io {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or what listens there does not speak HTTP.
    #[error("talking to the daemon")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("the daemon does not answer")]
    Timeout,
    /// The answer is longer than [`MAX_BODY`].
    #[error("the daemon's answer is longer than {MAX_BODY} bytes")]
    TooLarge,
    /// The daemon speaks another version of the API.
    #[error("this meshd speaks version {VERSION} of the admin API, and the daemon speaks {}", .daemon.as_deref().unwrap_or("none"))]
    Version {
        /// What the daemon said, if anything.
        daemon: Option<String>,
    },
    /// The answer is not what was asked for.
    #[error("the daemon's answer makes no sense")]
    Answer(#[source] serde_json::Error),
    /// The daemon says no.
    #[error("{}", .0.error)]
    Refused(ErrorBody),
}

impl Client {
    /// A client of the daemon that listens at `socket`. Connects later.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The process that listens; nothing if it is not to be seen from here.
    pub fn process(&self) -> Result<Option<u32>, ClientError> {
        self.run(async {
            let stream = self.connect().await?;
            let credentials = stream.peer_cred().map_err(|source| self.io(source))?;
            // 0: in another PID namespace.
            let id = credentials.pid().and_then(|id| u32::try_from(id).ok());
            Ok(id.filter(|id| *id > 0))
        })
    }

    /// `GET /v1/status`
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status")
    }

    /// `GET /v1/peers`
    pub fn peers(&self) -> Result<Peers, ClientError> {
        self.get("/v1/peers")
    }

    /// `GET /v1/links`
    pub fn links(&self) -> Result<Links, ClientError> {
        self.get("/v1/links")
    }

    /// `GET /v1/routes`
    pub fn routes(&self) -> Result<Routes, ClientError> {
        self.get("/v1/routes")
    }

    /// `POST /v1/trace`
    pub fn trace(&self, request: &TraceRequest) -> Result<Trace, ClientError> {
        let patience = TIMEOUT + Duration::from_millis(request.timeout_ms.into());
        self.call(Method::POST, "/v1/trace", body(request)?, patience)
    }

    /// `GET /v1/netcheck`
    pub fn netcheck(&self) -> Result<Netcheck, ClientError> {
        self.get("/v1/netcheck")
    }

    /// `POST /v1/explain`
    pub fn explain(&self, request: &ExplainRequest) -> Result<Explain, ClientError> {
        self.call(Method::POST, "/v1/explain", body(request)?, TIMEOUT)
    }

    /// `POST /v1/why`
    pub fn why(&self, request: &WhyRequest) -> Result<Why, ClientError> {
        self.call(Method::POST, "/v1/why", body(request)?, TIMEOUT)
    }

    /// `POST /v1/events`
    pub fn events(&self, request: &EventsRequest) -> Result<Events, ClientError> {
        let patience = TIMEOUT + Duration::from_millis(request.timeout_ms.into());
        self.call(Method::POST, "/v1/events", body(request)?, patience)
    }

    /// `POST /v1/ping`
    pub fn ping(&self, request: &PingRequest) -> Result<PingAnswer, ClientError> {
        let patience = TIMEOUT + Duration::from_millis(request.timeout_ms.into());
        self.call(Method::POST, "/v1/ping", body(request)?, patience)
    }

    /// `POST /v1/reload`
    pub fn reload(&self) -> Result<Reload, ClientError> {
        self.call(Method::POST, "/v1/reload", Bytes::new(), TIMEOUT)
    }

    /// `GET /v1/log`
    pub fn log_lines(&self) -> Result<LogLines, ClientError> {
        self.get("/v1/log")
    }

    /// `POST /v1/log`
    pub fn set_log(&self, request: &Log) -> Result<Log, ClientError> {
        self.call(Method::POST, "/v1/log", body(request)?, TIMEOUT)
    }

    /// `POST /v1/wait`
    pub fn wait(&self, request: &WaitRequest) -> Result<Wait, ClientError> {
        let patience = TIMEOUT + Duration::from_secs(request.timeout_s.into());
        self.call(Method::POST, "/v1/wait", body(request)?, patience)
    }

    /// `GET /v1/wg`
    pub fn devices(&self) -> Result<Devices, ClientError> {
        self.get("/v1/wg")
    }

    /// `POST /v1/wg`
    pub fn add_device(&self, request: &AddDevice) -> Result<DeviceAdded, ClientError> {
        self.call(Method::POST, "/v1/wg", body(request)?, TIMEOUT)
    }

    /// `DELETE /v1/wg/NAME`
    pub fn remove_device(&self, name: &str) -> Result<DeviceRemoved, ClientError> {
        self.call(
            Method::DELETE,
            &format!("/v1/wg/{}", escape(name)),
            Bytes::new(),
            TIMEOUT,
        )
    }

    /// `GET /v1/workloads`
    pub fn workloads(&self) -> Result<Workloads, ClientError> {
        self.get("/v1/workloads")
    }

    /// `POST /v1/workloads`, with the device as a descriptor.
    pub fn attach_workload(
        &self,
        request: &AttachWorkload,
        device: Option<OwnedFd>,
    ) -> Result<WorkloadAttached, ClientError> {
        self.call_with(
            Method::POST,
            "/v1/workloads",
            body(request)?,
            device,
            TIMEOUT,
        )
    }

    /// `DELETE /v1/workloads/NAME`
    pub fn detach_workload(&self, name: &str) -> Result<WorkloadDetached, ClientError> {
        self.call(
            Method::DELETE,
            &format!("/v1/workloads/{}", escape(name)),
            Bytes::new(),
            TIMEOUT,
        )
    }

    /// `GET /v1/network`
    pub fn network(&self) -> Result<Network, ClientError> {
        self.get("/v1/network")
    }

    /// `POST /v1/network`
    pub fn create_network(&self, request: &CreateNetwork) -> Result<Network, ClientError> {
        self.call(Method::POST, "/v1/network", body(request)?, JOIN_TIMEOUT)
    }

    /// `POST /v1/invite`
    pub fn invite(&self, request: &InviteRequest) -> Result<Invited, ClientError> {
        self.call(Method::POST, "/v1/invite", body(request)?, JOIN_TIMEOUT)
    }

    /// `POST /v1/join`
    pub fn join(&self, request: &JoinRequest) -> Result<JoinedNetwork, ClientError> {
        self.call(Method::POST, "/v1/join", body(request)?, JOIN_TIMEOUT)
    }

    /// `GET /v1/members`
    pub fn members(&self) -> Result<Members, ClientError> {
        self.get("/v1/members")
    }

    /// `POST /v1/approve`
    pub fn approve(&self, request: &ApproveRequest) -> Result<Governed, ClientError> {
        self.call(Method::POST, "/v1/approve", body(request)?, JOIN_TIMEOUT)
    }

    /// `POST /v1/revoke`
    pub fn revoke(&self, request: &RevokeRequest) -> Result<Governed, ClientError> {
        self.call(Method::POST, "/v1/revoke", body(request)?, JOIN_TIMEOUT)
    }

    /// `POST /v1/leave`
    pub fn leave(&self) -> Result<LeftNetwork, ClientError> {
        self.call(Method::POST, "/v1/leave", Bytes::new(), JOIN_TIMEOUT)
    }

    /// `POST /v1/whois`
    pub fn whois(&self, request: &WhoisRequest) -> Result<Whois, ClientError> {
        self.call(Method::POST, "/v1/whois", body(request)?, TIMEOUT)
    }

    fn get<T: Schema + DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new(), TIMEOUT)
    }

    /// One request on a connection of its own, answered within `patience`.
    fn call<T: Schema + DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, ClientError> {
        self.call_with(method, path, body, None, patience)
    }

    fn call_with<T: Schema + DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        descriptor: Option<OwnedFd>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let bytes = self.run(async {
            tokio::time::timeout(patience, self.exchange(method, path, body, descriptor))
                .await
                .map_err(|_elapsed| ClientError::Timeout)?
        })?;
        let document: Document<T> = serde_json::from_slice(&bytes).map_err(ClientError::Answer)?;
        Ok(document.body)
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| self.io(source))?;
        runtime.block_on(work)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.socket)
            .await
            .map_err(|error| connect_error(&self.socket, error))
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            socket: self.socket.clone(),
            source,
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        descriptor: Option<OwnedFd>,
    ) -> Result<Bytes, ClientError> {
        let stream = HandoverStream::sending(self.connect().await?, descriptor);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "meshd")
            .header(VERSION_HEADER, VERSION)
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("method, path and headers are valid: names are escaped");
        let answer = async {
            let response = sender.send_request(request).await?;
            let daemon = response
                .headers()
                .get(VERSION_HEADER)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            if daemon.as_deref() != Some(VERSION.to_string().as_str()) {
                return Err(ClientError::Version { daemon });
            }
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(body_error)?
                .to_bytes();
            if status == StatusCode::OK {
                Ok(body)
            } else {
                Err(serde_json::from_slice(&body)
                    .map_or_else(ClientError::Answer, ClientError::Refused))
            }
        };
        tokio::pin!(answer);
        // The connection is driven until the answer is there; if it ends before, the answer says so.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }
}

fn body(request: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(request)
        .map(Bytes::from)
        .map_err(ClientError::Answer)
}

fn connect_error(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    let kind = source.kind();
    // No socket, or one that nobody serves any more.
    let unserved = kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused;
    if unserved && !is_other_file(&socket) {
        ClientError::NotRunning { socket }
    } else if kind == io::ErrorKind::PermissionDenied {
        ClientError::Permission { socket }
    } else {
        ClientError::Io { socket, source }
    }
}

/// Whether there is something that is no socket; then it is the path that is wrong.
fn is_other_file(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| !meta.file_type().is_socket())
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> ClientError {
    if error.is::<LengthLimitError>() {
        return ClientError::TooLarge;
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => ClientError::Http(*error),
        // `Limited` has no other errors; an unreadable body is a senseless answer.
        Err(error) => ClientError::Answer(serde::de::Error::custom(error)),
    }
}

/// Percent-encodes what may not stand in a path segment (RFC 3986 §2.3).
fn escape(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}
