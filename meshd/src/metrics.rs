//! What [`Status`], [`Link`]s and [`Route`]s say, as samples for Prometheus; and the little server that it scrapes.
//!
//! The server is for programs of this machine: it listens on loopback only, answers `GET /metrics` only, and refuses what a web page
//! could send there: a request with an `Origin`, or for another `Host` than loopback (DNS rebinding).

use std::{
    collections::BTreeMap, convert::Infallible, fmt::Write as _, net::SocketAddr, sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HOST, ORIGIN},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::{debug, warn};

use crate::{
    admin::{
        ErrorBody, Link, LinkState, PathKind, Peer, Route, Schema, Status, Workload, WorkloadState,
    },
    control::Control,
};

/// Peers with series of their own: those with most traffic. The bytes of all others are summed under [`OTHERS`].
const MAX_PEERS: usize = 256;
/// Links with series of their own: more than the configuration of most nodes makes, and some that others have opened.
const MAX_LINKS: usize = 256;
/// No name of a peer can be this.
const OTHERS: &str = "_others";
/// Scrapers served at once.
const CONNECTIONS: usize = 4;
/// A scraper has this long to send its request and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every sample, as `meshd metrics --json` prints them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Samples of one name stand together.
    pub samples: Vec<Sample>,
}

impl Schema for Metrics {
    const SCHEMA: &'static str = "meshd.metrics/1";
}

/// One value at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What is measured; the unit is in the name.
    pub name: String,
    /// Of what.
    pub labels: BTreeMap<String, String>,
    /// How much.
    pub value: f64,
}

impl Metrics {
    /// What a status, the links and the routes say.
    pub fn of(status: &Status, links: &[Link], routes: &[Route]) -> Self {
        let mut samples = Vec::new();
        let mut add = |name: &str, labels: &[(&str, &str)], value: f64| {
            let label = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            samples.push(Sample {
                name: name.to_owned(),
                labels: labels.iter().map(label).collect(),
                value,
            });
        };
        add(
            "meshd_build_info",
            &[("version", &status.node.version)],
            1.0,
        );
        add("meshd_uptime_seconds", &[], status.node.uptime_s as f64);
        for (reason, count) in &status.drops {
            add("meshd_drops_total", &[("reason", reason)], *count as f64);
        }
        for warning in &status.warnings {
            add("meshd_health", &[("code", &warning.code)], 1.0);
        }
        for (state, name) in [
            (WorkloadState::Attached, "attached"),
            (WorkloadState::Waiting, "waiting"),
        ] {
            let count = status.workloads.iter();
            let count = count.filter(|workload| workload.state == state).count();
            add("meshd_workloads", &[("state", name)], count as f64);
        }
        // There are MAX_WORKLOADS at most.
        type Bytes = fn(&Workload) -> u64;
        let bytes: [(&str, Bytes); 2] = [
            ("meshd_workload_rx_bytes_total", |workload| {
                workload.rx_bytes
            }),
            ("meshd_workload_tx_bytes_total", |workload| {
                workload.tx_bytes
            }),
        ];
        for (name, value) in bytes {
            for workload in &status.workloads {
                add(
                    name,
                    &[("workload", &workload.name)],
                    value(workload) as f64,
                );
            }
        }
        let mut peers: Vec<&Peer> = status.peers.iter().collect();
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.rx_bytes.saturating_add(peer.tx_bytes)));
        let (shown, others) = peers.split_at(peers.len().min(MAX_PEERS));
        type Value = fn(&Peer) -> Option<f64>;
        let gauges: [(&str, Value); 4] = [
            ("meshd_peer_reachable", |peer| {
                Some(f64::from(u8::from(peer.path.kind != PathKind::None)))
            }),
            ("meshd_peer_rtt_seconds", |peer| {
                peer.rtt_ms.map(|ms| ms / 1000.0)
            }),
            ("meshd_peer_loss_ratio", |peer| peer.loss),
            ("meshd_peer_last_handshake_seconds", |peer| {
                peer.last_handshake_s.map(|age| age as f64)
            }),
        ];
        for (name, value) in gauges {
            for peer in shown {
                if let Some(value) = value(peer) {
                    add(name, &[("peer", &peer.name)], value);
                }
            }
        }
        type Count = fn(&Peer) -> u64;
        let counters: [(&str, Count); 2] = [
            ("meshd_peer_rx_bytes_total", |peer| peer.rx_bytes),
            ("meshd_peer_tx_bytes_total", |peer| peer.tx_bytes),
        ];
        for (name, value) in counters {
            for peer in shown {
                add(name, &[("peer", &peer.name)], value(peer) as f64);
            }
            if !others.is_empty() {
                let sum: f64 = others.iter().map(|peer| value(peer) as f64).sum();
                add(name, &[("peer", OTHERS)], sum);
            }
        }
        type Measure = fn(&Link) -> Option<f64>;
        let measures: [(&str, Measure); 5] = [
            ("meshd_link_up", |link| {
                Some(f64::from(u8::from(link.state == LinkState::Up)))
            }),
            ("meshd_link_rtt_seconds", |link| {
                link.rtt_ms.map(|ms| ms / 1000.0)
            }),
            ("meshd_link_cost", |link| link.txcost.map(f64::from)),
            ("meshd_link_routing_rx_bytes_total", |link| {
                Some(link.rx_bytes as f64)
            }),
            ("meshd_link_routing_tx_bytes_total", |link| {
                Some(link.tx_bytes as f64)
            }),
        ];
        for (name, value) in measures {
            for link in links.iter().take(MAX_LINKS) {
                if let Some(value) = value(link) {
                    let id = link.id.to_string();
                    add(name, &[("peer", &link.peer), ("link", &id)], value);
                }
            }
        }
        let (selected, others): (Vec<_>, Vec<_>) = routes.iter().partition(|route| route.selected);
        let feasible = others.iter().filter(|route| route.feasible).count();
        for (state, count) in [
            ("selected", selected.len()),
            ("feasible", feasible),
            ("other", others.len() - feasible),
        ] {
            add("meshd_routes", &[("state", state)], count as f64);
        }
        Self { samples }
    }

    /// The text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for Sample {
            name,
            labels,
            value,
        } in &self.samples
        {
            if name != last {
                let kind = if name.ends_with("_total") {
                    "counter"
                } else {
                    "gauge"
                };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "# TYPE {name} {kind}");
                last = name;
            }
            text += name;
            if !labels.is_empty() {
                let label =
                    |(key, value): (&String, &String)| format!("{key}=\"{}\"", escape(value));
                let labels: Vec<String> = labels.iter().map(label).collect();
                text += &format!("{{{}}}", labels.join(","));
            }
            let _ = writeln!(text, " {value}");
        }
        text
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Answers scrapers for ever; without an address to listen on, nobody.
pub async fn serve(listener: Option<TcpListener>, control: Arc<Control>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "Scraper not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| answer(request, &control)),
                );
            match tokio::time::timeout(PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "Scraper went away"),
                Err(_) => debug!("Scraper was too slow"),
            }
            drop(slot);
        });
    }
}

async fn measure(control: &Control) -> Result<Metrics, ErrorBody> {
    let status = control.status().await?;
    let (links, routes) = control
        .node
        .call(|node_loop, now| (node_loop.node.links(now), node_loop.node.routes()))
        .await?;
    Ok(Metrics::of(&status, &links, &routes))
}

async fn answer(
    request: Request<Incoming>,
    control: &Control,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, body) = match judge(request.method(), request.uri().path(), request.headers()) {
        StatusCode::OK => match measure(control).await {
            Ok(metrics) => (StatusCode::OK, metrics.text()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.error),
        },
        refused => (refused, String::new()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// Whether a request is one of a scraper on this machine.
fn judge(method: &Method, path: &str, headers: &HeaderMap) -> StatusCode {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if headers.contains_key(ORIGIN) || hosts.next().is_some() || !host.is_some_and(is_loopback) {
        StatusCode::FORBIDDEN
    } else if path != "/metrics" {
        StatusCode::NOT_FOUND
    } else if method != Method::GET {
        StatusCode::METHOD_NOT_ALLOWED
    } else {
        StatusCode::OK
    }
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        Some(_) | None => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn judged(method: &Method, path: &str, host: &str, origin: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        judge(method, path, &headers).as_u16()
    }

    #[test]
    fn only_a_scraper_of_this_machine_is_answered() {
        for host in [
            "localhost",
            "localhost:9586",
            "127.0.0.1:9586",
            "[::1]:9586",
            "[::1]",
        ] {
            assert_eq!(judged(&Method::GET, "/metrics", host, None), 200, "{host}");
        }
        for host in [
            "",
            "evil.example:9586",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1:9586",
            "[2001:db8::1]:9586",
        ] {
            assert_eq!(judged(&Method::GET, "/metrics", host, None), 403, "{host}");
        }
        assert_eq!(
            judged(
                &Method::GET,
                "/metrics",
                "localhost",
                Some("http://localhost")
            ),
            403
        );
        assert_eq!(judged(&Method::GET, "/", "localhost", None), 404);
        assert_eq!(judged(&Method::POST, "/metrics", "localhost", None), 405);
        assert_eq!(
            judge(&Method::GET, "/metrics", &HeaderMap::new()).as_u16(),
            403
        );
    }

    #[test]
    fn text_is_typed_and_escaped() {
        let sample = |name: &str, value| Sample {
            name: name.into(),
            labels: BTreeMap::from([("peer".into(), "a\"b\\c\nd".into())]),
            value,
        };
        let metrics = Metrics {
            samples: vec![sample("meshd_x_total", 3.0), sample("meshd_y", 0.25)],
        };
        assert_eq!(
            metrics.text(),
            "# TYPE meshd_x_total counter\nmeshd_x_total{peer=\"a\\\"b\\\\c\\nd\"} 3\n\
             # TYPE meshd_y gauge\nmeshd_y{peer=\"a\\\"b\\\\c\\nd\"} 0.25\n"
        );
    }
}
