//! One client's connection: one request is read, one answer written. What it asks for is a [`Command`].

use std::{
    convert::Infallible,
    fmt, io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
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
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};

use super::{
    AddDevice, ApproveRequest, AttachWorkload, CreateNetwork, ErrorBody, ErrorCode, EventsRequest,
    ExplainRequest, InviteRequest, JoinRequest, Log, PingRequest, RevokeRequest, TraceRequest,
    VERSION, VERSION_HEADER, WaitRequest, WhoisRequest, WhyRequest, server::refusal,
};

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Largest request, in bytes: a request names a device and a key.
const MAX_REQUEST: usize = 64 << 10;
/// A client has this long to send a request's head, then its body, and then to read the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a client may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Everything.
    Everything,
    /// Nothing.
    Nothing,
}

/// What a client asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the table of the module above explains each")]
pub enum Command {
    Status,
    Peers,
    Links,
    Netcheck,
    Routes,
    Trace(TraceRequest),
    /// How a node is reached.
    Why(WhyRequest),
    Explain(ExplainRequest),
    Events(EventsRequest),
    Ping(PingRequest),
    Wait(WaitRequest),
    Reload,
    LogLines,
    SetLog(Log),
    Devices,
    AddDevice(AddDevice),
    RemoveDevice(String),
    Workloads,
    AttachWorkload(AttachWorkload),
    DetachWorkload(String),
    Network,
    CreateNetwork(CreateNetwork),
    Invite(InviteRequest),
    Join(JoinRequest),
    Members,
    Approve(ApproveRequest),
    Revoke(RevokeRequest),
    Leave,
    Whois(WhoisRequest),
}

/// Serves one request. `has_asked` is set when all of it has been read; `answer` gives the answer's body.
///
/// # Errors
/// The connection broke, was not HTTP, or its client does not read.
pub async fn serve<A: Future<Output = Result<Vec<u8>, ErrorBody>>>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    access: Access,
    has_asked: &AtomicBool,
    answer: impl Fn(Command) -> A,
) -> io::Result<()> {
    let answered = Notify::new();
    let service = service_fn(|request| async {
        let body = match read(request, access, has_asked).await {
            Ok(command) => answer(command).await,
            Err(error) => Err(error),
        };
        answered.notify_one();
        Ok::<_, Infallible>(respond(body))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let unread = async {
        answered.notified().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        ended = connection => ended.map_err(io::Error::other),
        () = unread => Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not read")),
    }
}

fn respond(body: Result<Vec<u8>, ErrorBody>) -> Response<Full<Bytes>> {
    let (status, body) = match body {
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
    response
        .body(Full::new(body.into()))
        .unwrap_or_else(|_| Response::new(Full::default()))
}

async fn read(
    request: Request<Incoming>,
    access: Access,
    has_asked: &AtomicBool,
) -> Result<Command, ErrorBody> {
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
    let body = collect(request).await?;
    has_asked.store(true, Ordering::Relaxed);
    match (&method, path.as_str()) {
        (&Method::GET, "/v1/status") => Ok(Command::Status),
        (&Method::GET, "/v1/peers") => Ok(Command::Peers),
        (&Method::GET, "/v1/links") => Ok(Command::Links),
        (&Method::GET, "/v1/netcheck") => Ok(Command::Netcheck),
        (&Method::GET, "/v1/routes") => Ok(Command::Routes),
        (&Method::POST, "/v1/trace") => parse(&body).map(Command::Trace),
        (&Method::POST, "/v1/why") => parse(&body).map(Command::Why),
        (&Method::POST, "/v1/explain") => parse(&body).map(Command::Explain),
        (&Method::POST, "/v1/events") => parse(&body).map(Command::Events),
        (&Method::POST, "/v1/ping") => parse(&body).map(Command::Ping),
        (&Method::POST, "/v1/wait") => parse(&body).map(Command::Wait),
        (&Method::POST, "/v1/reload") => Ok(Command::Reload),
        (&Method::GET, "/v1/log") => Ok(Command::LogLines),
        (&Method::POST, "/v1/log") => parse(&body).map(Command::SetLog),
        (&Method::GET, "/v1/wg") => Ok(Command::Devices),
        (&Method::POST, "/v1/wg") => parse(&body).map(Command::AddDevice),
        (&Method::DELETE, path) if path.starts_with("/v1/wg/") => {
            let name = path.trim_start_matches("/v1/wg/").to_owned();
            Ok(Command::RemoveDevice(name))
        }
        (&Method::GET, "/v1/workloads") => Ok(Command::Workloads),
        (&Method::POST, "/v1/workloads") => parse(&body).map(Command::AttachWorkload),
        (&Method::DELETE, path) if path.starts_with("/v1/workloads/") => {
            let name = path.trim_start_matches("/v1/workloads/").to_owned();
            Ok(Command::DetachWorkload(name))
        }
        (&Method::GET, "/v1/network") => Ok(Command::Network),
        (&Method::POST, "/v1/network") => parse(&body).map(Command::CreateNetwork),
        (&Method::POST, "/v1/invite") => parse(&body).map(Command::Invite),
        (&Method::POST, "/v1/join") => parse(&body).map(Command::Join),
        (&Method::GET, "/v1/members") => Ok(Command::Members),
        (&Method::POST, "/v1/approve") => parse(&body).map(Command::Approve),
        (&Method::POST, "/v1/revoke") => parse(&body).map(Command::Revoke),
        (&Method::POST, "/v1/leave") => Ok(Command::Leave),
        (&Method::POST, "/v1/whois") => parse(&body).map(Command::Whois),
        (_, path) => Err(refusal(
            ErrorCode::Usage,
            &format!("there is no {method} {path}"),
            "meshd help",
        )),
    }
}

/// All of a request's body.
async fn collect(request: Request<Incoming>) -> Result<Bytes, ErrorBody> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let collected = timeout(PATIENCE, body)
        .await
        .map_err(|error| unreadable(&error))?;
    Ok(collected.map_err(|error| unreadable(&error))?.to_bytes())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ErrorBody> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn fmt::Display) -> ErrorBody {
    refusal(
        ErrorCode::Usage,
        &format!("cannot read the request: {error}"),
        "meshd help",
    )
}

pub(super) fn to_json<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("answers have string keys and no failing serializers")
}
