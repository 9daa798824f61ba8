//! What `meshd` shows about links, routes and ways, as values: of each JSON object only the fields that tests look at.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::Ipv6Network;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::daemon::Daemon;
use crate::usage::Traffic;
use crate::wait::{Observation, hold_for, wait_until};

/// A link, of `meshd links`.
#[derive(Clone, Debug, Deserialize)]
pub struct LinkView {
    /// The neighbour's name.
    pub peer: String,
    /// The neighbour's own overlay address.
    pub address: Ipv6Addr,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Whether it works.
    pub state: LinkState,
    /// The smoothed round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// What it costs the neighbour to send to us.
    pub rxcost: Option<u16>,
    /// What it costs us to send to the neighbour.
    pub txcost: Option<u16>,
    /// Bytes of routing packets sent, with their IPv6 headers.
    #[serde(default)]
    pub tx_bytes: u64,
    /// Routing packets sent.
    #[serde(default)]
    pub tx_packets: u64,
}

impl LinkView {
    /// What routing has sent on it, as it would be on an Ethernet.
    pub const fn sent(&self) -> Traffic {
        Traffic::on_ethernet(self.tx_packets, self.tx_bytes)
    }
}

/// Whether a link works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Both ends hear each other.
    Up,
    /// Something is overdue.
    Suspect,
    /// Nothing is routed over it.
    Down,
}

/// A route, of `meshd routes`.
#[derive(Clone, Debug, Deserialize)]
pub struct RouteView {
    /// Which destinations.
    pub prefix: Ipv6Network,
    /// Whether packets take it.
    pub selected: bool,
    /// How far it is; none: unreachable.
    pub metric: Option<u16>,
    /// Overlay address of the neighbour that it leads through; none: it is our own, or a stock router's.
    pub next_hop: Option<Ipv6Addr>,
    /// The neighbour's name.
    #[serde(default)]
    pub via: Option<String>,
    /// Whether it can be used without the risk of a loop.
    pub feasible: bool,
    /// Why it is believed.
    pub origin: RouteOrigin,
}

/// Why a route is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOrigin {
    /// Its origin has proven it.
    Proven,
    /// It is the node's own.
    Own,
    /// A stock router that is trusted with it says so.
    Legacy,
}

/// The way of a session's packets, of `meshd status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathView {
    /// Which kind of way.
    pub kind: PathKind,
    /// Where the peer is, on a direct path.
    pub endpoint: Option<SocketAddr>,
    /// Through whom, by name or address; empty on a direct path.
    #[serde(default)]
    pub via: Vec<String>,
    /// How many links it crosses.
    pub hops: Option<u32>,
}

/// Which kind of way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Straight over the underlay.
    Direct,
    /// Through other nodes.
    Relay,
    /// Over TCP.
    Stream,
    /// There is none.
    None,
}

/// The way to a node, of `meshd trace`.
#[derive(Clone, Debug, Deserialize)]
pub struct TraceView {
    /// Node by node, the last one the target if it answered.
    pub hops: Vec<HopView>,
    /// Other routes that could be used at once, best first.
    pub backup: Vec<BackupView>,
}

/// One node on the way.
#[derive(Clone, Debug, Deserialize)]
pub struct HopView {
    /// Its name or address; none: it did not answer.
    pub node: Option<String>,
    /// Round-trip time to it in milliseconds; none: it did not answer.
    pub rtt_ms: Option<f64>,
    /// How far it is.
    pub metric: Option<u16>,
}

/// A route that could be used at once.
#[derive(Clone, Debug, Deserialize)]
pub struct BackupView {
    /// The neighbour's name.
    pub via: String,
    /// How far it is that way.
    pub metric: u16,
}

impl Daemon {
    /// `meshd links`.
    ///
    /// # Errors
    /// It does not answer, or shows something else.
    pub fn links(&self) -> Result<Vec<LinkView>, String> {
        self.shown("links", "links")
    }

    /// `meshd routes`.
    ///
    /// # Errors
    /// It does not answer, or shows something else.
    pub fn routes(&self) -> Result<Vec<RouteView>, String> {
        self.shown("routes", "routes")
    }

    /// `meshd trace` to an address.
    ///
    /// # Errors
    /// It does not answer, the target does not, or something else is shown.
    pub fn trace(&self, target: Ipv6Addr) -> Result<TraceView, String> {
        let shown = self.try_json(&format!("trace {target}"))?;
        read(shown)
    }

    /// The route that packets to an address take.
    ///
    /// # Errors
    /// It does not answer, or has none; then all that it has.
    pub fn route_to(&self, address: Ipv6Addr) -> Result<RouteView, String> {
        let routes = self.routes()?;
        routes
            .iter()
            .filter(|route| route.selected && route.metric.is_some())
            .filter(|route| route.prefix.contains(address))
            .max_by_key(|route| route.prefix.prefix())
            .cloned()
            .ok_or_else(|| format!("no route to {address}: {routes:?}"))
    }

    /// The way of the session with the node of that address, which need not be a configured peer.
    ///
    /// # Errors
    /// It does not answer, or there is no session; then what there is.
    pub fn path_to(&self, address: Ipv6Addr) -> Result<PathView, String> {
        let status = self.try_status()?;
        let mut peers = status["peers"].as_array().into_iter().flatten();
        let peer = peers
            .find(|peer| peer["address"] == address.to_string())
            .ok_or_else(|| format!("no session with {address}: {}", status["peers"]))?;
        read(peer["path"].clone())
    }

    /// Waits for a route to an address.
    ///
    /// # Panics
    /// When there is none in that time.
    #[track_caller]
    pub fn wait_for_route(&self, address: Ipv6Addr, within: Duration) -> RouteView {
        self.wait(within, &format!("has a route to {address}"), || {
            self.route_to(address)
        })
    }

    /// Waits for the route to an address to lead through a neighbour.
    ///
    /// # Panics
    /// When it does not in that time.
    #[track_caller]
    pub fn wait_for_route_via(
        &self,
        address: Ipv6Addr,
        neighbour: Ipv6Addr,
        within: Duration,
    ) -> RouteView {
        let what = format!("goes to {address} through {neighbour}");
        self.wait(within, &what, || {
            let route = self.route_to(address)?;
            if route.next_hop == Some(neighbour) {
                Ok(route)
            } else {
                Err(format!("{route:?}"))
            }
        })
    }

    /// Waits until there is no route to an address.
    ///
    /// # Panics
    /// When there is one still after that time.
    #[track_caller]
    pub fn wait_without_route(&self, address: Ipv6Addr, within: Duration) {
        self.wait(within, &format!("has no route to {address}"), || {
            let routes = self.routes()?;
            let left = routes
                .iter()
                .find(|route| route.metric.is_some() && route.prefix.contains(address));
            left.map_or(Ok(()), |route| Err(format!("{route:?}")))
        });
    }

    /// Waits for as many working links to a neighbour.
    ///
    /// # Panics
    /// When there are more or fewer after that time.
    #[track_caller]
    pub fn wait_for_links(&self, neighbour: Ipv6Addr, count: usize, within: Duration) {
        let what = format!("has {count} links to {neighbour}");
        self.wait(within, &what, || {
            let links = self.links()?;
            let is_up = |link: &&LinkView| link.address == neighbour && link.state == LinkState::Up;
            if links.iter().filter(is_up).count() == count {
                Ok(())
            } else {
                Err(format!("{links:?}"))
            }
        });
    }

    /// Waits for the session with a node to take a way of that kind.
    ///
    /// # Panics
    /// When it does not in that time.
    #[track_caller]
    pub fn wait_for_path(&self, address: Ipv6Addr, kind: PathKind, within: Duration) -> PathView {
        let what = format!("has a {kind:?} path to {address}");
        self.wait(within, &what, || {
            let path = self.path_to(address)?;
            if path.kind == kind {
                Ok(path)
            } else {
                Err(format!("{path:?}"))
            }
        })
    }

    /// Waits until it reaches an address.
    ///
    /// # Panics
    /// When it does not in that time.
    #[track_caller]
    pub fn wait_for_answer(&self, address: Ipv6Addr, within: Duration) {
        self.wait(within, &format!("reaches {address}"), || self.ping(address));
    }

    /// Looks all that time whether no packet for `address` is routed through `neighbour`.
    ///
    /// # Panics
    /// As soon as one is.
    #[track_caller]
    pub fn never_routes_through(&self, address: Ipv6Addr, neighbour: Ipv6Addr, length: Duration) {
        let what = format!("{} goes to {address} past {neighbour}", self.host().name());
        hold_for(length, &what, || match self.route_to(address) {
            Ok(route) if route.next_hop == Some(neighbour) => Err(format!("{route:?}")),
            _ => Ok(()),
        });
    }

    /// What routing has sent on all links.
    ///
    /// # Errors
    /// It does not answer.
    pub fn sent_by_routing(&self) -> Result<Traffic, String> {
        Ok(self.links()?.iter().map(LinkView::sent).sum())
    }

    #[track_caller]
    fn wait<O: Observation>(
        &self,
        within: Duration,
        what: &str,
        observe: impl FnMut() -> O,
    ) -> O::Value {
        wait_until(within, &format!("{} {what}", self.host().name()), observe)
    }

    fn shown<T: DeserializeOwned>(&self, line: &str, list: &str) -> Result<Vec<T>, String> {
        let mut shown = self.try_json(line)?;
        read(shown[list].take())
    }
}

fn read<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|err| format!("meshd shows something else: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_shown_is_read_and_unknown_fields_are_ignored() {
        let link: LinkView = read(json!({
            "peer": "vps1", "address": "6a3:9c1e:77b0:1f42::1", "endpoint": "203.0.113.7:51860", "state": "up",
            "rtt_ms": 10.9, "rxcost": 96, "txcost": null, "since_s": 5, "tx_bytes": 100, "tx_packets": 2,
        }))
        .unwrap();
        assert_eq!((link.state, link.txcost), (LinkState::Up, None));
        assert_eq!(link.sent().bytes, 128);
        let route: RouteView = read(json!({
            "prefix": "6a3:9c1e:77b0:1f42::/64", "selected": true, "metric": 96, "next_hop": null,
            "router_id": "00ff", "feasible": true, "age_s": 1, "origin": "proven",
        }))
        .unwrap();
        assert_eq!((route.origin, route.next_hop), (RouteOrigin::Proven, None));
        let path: PathView =
            read(json!({ "kind": "relay", "endpoint": null, "via": ["vps1"], "hops": 2 })).unwrap();
        assert_eq!((path.kind, path.hops), (PathKind::Relay, Some(2)));
        let trace: TraceView = read(json!({
            "hops": [{ "node": "vps1", "address": null, "rtt_ms": 1.0, "metric": 96 }],
            "backup": [{ "via": "nas", "metric": 512, "feasible": true }],
        }))
        .unwrap();
        assert_eq!(trace.backup[0].metric, 512);
        assert!(read::<PathView>(json!({ "kind": "magic" })).is_err());
    }
}
