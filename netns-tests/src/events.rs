//! What nodes say has happened (`meshd events`), and what all of them together do with packets. The names of its fields are in
//! [`Event`] and [`What`] and nowhere else.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv6Network;
use serde::Deserialize;

use crate::daemon::Daemon;
use crate::fib::Change;
use crate::mesh::Mesh;
use crate::moment::Moment;
use crate::process::Process;
use crate::view::{LinkState, PathView};
use crate::wait::wait_until;

/// Something that has happened on a node.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// When, by the machine's boot-time clock.
    #[serde(rename = "t_us", deserialize_with = "moment")]
    pub at: Moment,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen, as far as tests care.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum What {
    /// Packets to a prefix take another way.
    Fib {
        /// Which destinations.
        prefix: Ipv6Network,
        /// Through which neighbour, by its overlay address; none: no way.
        via: Option<Ipv6Addr>,
    },
    /// A link has come, has gone, or works better or worse.
    Link {
        /// The neighbour's overlay address.
        address: Ipv6Addr,
        /// Whether it works.
        state: LinkState,
    },
    /// A session's packets take another way.
    Path {
        /// The peer's overlay address.
        address: Ipv6Addr,
        /// The way.
        path: PathView,
    },
    /// A session has opened or closed.
    Peer {
        /// The peer's overlay address.
        address: Ipv6Addr,
        /// Whether there is a session.
        session: bool,
    },
    /// Something else.
    #[serde(other)]
    Other,
}

fn moment<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Moment, D::Error> {
    Ok(Moment(u64::deserialize(deserializer)?))
}

/// The events of one node, from those that it remembers on.
#[derive(Debug)]
pub struct Events {
    name: String,
    stream: Mutex<(Process, usize)>,
}

impl Events {
    /// Listens to a node.
    #[track_caller]
    pub fn of(daemon: &Daemon) -> Self {
        Self {
            name: daemon.host().name().to_owned(),
            stream: Mutex::new((daemon.spawn_command("events --json"), 0)),
        }
    }

    /// What has happened since this was asked last.
    ///
    /// # Panics
    /// When the node says something that is no event.
    #[track_caller]
    pub fn take(&self) -> Vec<Event> {
        let (process, done) = &mut *self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let log = process.log_from(*done);
        // A line counts once its end was written.
        let complete = log.rfind('\n').map_or("", |end| &log[..=end]);
        *done += complete.len();
        let mut events = Vec::new();
        for line in complete.lines() {
            match serde_json::from_str(line) {
                Ok(event) => events.push(event),
                Err(err) if process.is_running() => panic!("{}: {err}: {line}", self.name),
                // Its last words, when the node has ended.
                Err(_) => {}
            }
        }
        events
    }
}

/// What all nodes of a mesh do with packets for each other.
#[derive(Debug)]
pub struct MeshFib<'a> {
    mesh: &'a Mesh,
    events: Vec<Events>,
    by_address: BTreeMap<Ipv6Addr, usize>,
    by_prefix: BTreeMap<Ipv6Network, usize>,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// When a node had a session with a neighbour for the first time.
    sessions: BTreeMap<(usize, usize), Moment>,
    /// What nobody has taken yet.
    changes: Vec<Change>,
}

impl<'a> MeshFib<'a> {
    /// Follows the nodes of a mesh from their start.
    #[track_caller]
    pub fn watch(mesh: &'a Mesh) -> Self {
        let nodes = mesh.nodes.iter().enumerate();
        Self {
            mesh,
            events: mesh.nodes.iter().map(Events::of).collect(),
            by_address: nodes
                .clone()
                .map(|(node, it)| (it.address(), node))
                .collect(),
            by_prefix: nodes
                .map(|(node, it)| (it.identity().prefix(), node))
                .collect(),
            read: Mutex::default(),
        }
    }

    /// What has changed since this was asked last.
    #[track_caller]
    pub fn take(&self) -> Vec<Change> {
        let mut read = self.read();
        std::mem::take(&mut read.changes)
    }

    /// Waits until all neighbours have shaken hands, and returns when the last two had, as both of them saw it.
    ///
    /// # Panics
    /// When some have not in that time.
    #[track_caller]
    pub fn wait_for_handshakes(&self, within: Duration) -> Moment {
        let edges = self.mesh.topology.graph.edges().iter();
        let pairs: Vec<_> = edges.flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        wait_until(within, "all neighbours have shaken hands", || {
            let read = self.read();
            pairs.iter().try_fold(Moment(0), |latest, pair| {
                let at = read.sessions.get(pair).copied();
                at.map(|at| latest.max(at))
                    .ok_or_else(|| format!("nothing between {pair:?}"))
            })
        })
    }

    #[track_caller]
    fn read(&self) -> MutexGuard<'_, Read> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, events) in self.events.iter().enumerate() {
            for Event { at, what } in events.take() {
                match what {
                    What::Fib { prefix, via } => {
                        let Some(destination) = self.by_prefix.get(&prefix).copied() else {
                            continue;
                        };
                        let next = via.and_then(|via| self.by_address.get(&via).copied());
                        read.changes.push(Change {
                            at,
                            node,
                            destination,
                            next,
                        });
                    }
                    What::Peer {
                        address,
                        session: true,
                    } => {
                        if let Some(peer) = self.by_address.get(&address) {
                            read.sessions.entry((node, *peer)).or_insert(at);
                        }
                    }
                    What::Peer { .. } | What::Link { .. } | What::Path { .. } | What::Other => {}
                }
            }
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_those_of_later_releases_are_ignored() {
        let read = |line| serde_json::from_str::<Event>(line).unwrap();
        let event = read(
            r#"{"schema":"meshd.event/1","t_us":12000345,"event":"fib","prefix":"6d4:97b8:38a7:2b6e::/64","via":"6d4:97b8:38a7:2b6e::1","link":2}"#,
        );
        assert_eq!(event.at, Moment(12_000_345));
        assert!(matches!(event.what, What::Fib { via: Some(_), .. }));
        let event = read(
            r#"{"t_us":1,"event":"fib","prefix":"6d4:97b8:38a7:2b6e::/64","via":null,"link":null}"#,
        );
        assert!(matches!(event.what, What::Fib { via: None, .. }));
        let event = read(
            r#"{"t_us":1,"event":"peer","peer":"a","address":"6d4:97b8:38a7:2b6e::1","session":true}"#,
        );
        assert!(matches!(event.what, What::Peer { session: true, .. }));
        let event = read(r#"{"t_us":1,"event":"moon","phase":"full"}"#);
        assert!(matches!(event.what, What::Other));
    }
}
