//! The kernel's IPv6 routes of all hosts of a topology, from the moment they change: what routing daemons that leave forwarding to
//! the kernel have done. One socket of route events (rtnetlink(7)) in each namespace, and one thread that reads them all.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ipnetwork::Ipv6Network;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt::RcvBufForce,
};

use crate::fib::Change;
use crate::moment::Moment;
use crate::topology::Topology;

/// `RTMGRP_IPV6_ROUTE` of linux/rtnetlink.h.
const IPV6_ROUTES: u32 = 0x400;
/// Room for the events of a table that is filled while this thread is not scheduled.
const BUFFER: usize = 8 << 20;
/// How often the thread looks whether it should end, in milliseconds.
const LOOK: u16 = 100;
/// The main table, `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// Watches the kernel's routes until it is dropped.
#[derive(Debug)]
pub struct KernelFib {
    changes: Arc<Mutex<Vec<Change>>>,
    ended: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl KernelFib {
    /// Watches the routes to `destinations`, by number of the node that has them, on all hosts of a topology.
    ///
    /// # Panics
    /// When the kernel does not give such sockets.
    #[track_caller]
    pub fn watch(topology: &Topology, destinations: &[Ipv6Network]) -> Self {
        let mut nodes: Vec<Node> = (0..topology.hosts.len())
            .map(|node| Node::new(topology, node))
            .collect();
        let destinations: BTreeMap<Ipv6Network, usize> = destinations
            .iter()
            .enumerate()
            .map(|(node, prefix)| (*prefix, node))
            .collect();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (noted, end) = (changes.clone(), ended.clone());
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            while !end.load(Ordering::Relaxed) {
                for number in readable(&nodes) {
                    nodes[number].read(number, &destinations, &mut buffer, &noted);
                }
            }
        });
        Self {
            changes,
            ended,
            reader: Some(reader),
        }
    }

    /// What has changed since this was called last.
    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for KernelFib {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It has no result, and a panic of its own was printed.
        drop(self.reader.take().map(JoinHandle::join));
    }
}

fn readable(nodes: &[Node]) -> Vec<usize> {
    let mut asked: Vec<PollFd<'_>> = nodes
        .iter()
        .map(|node| PollFd::new(node.socket.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut asked, PollTimeout::from(LOOK)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(err) => panic!("cannot wait for route events: {err}"),
    }
    let is_ready =
        |(number, asked): (usize, &PollFd<'_>)| asked.any().unwrap_or(false).then_some(number);
    asked.iter().enumerate().filter_map(is_ready).collect()
}

struct Node {
    socket: OwnedFd,
    /// The neighbour behind an interface, by its index.
    neighbours: BTreeMap<u32, usize>,
    routes: BTreeMap<usize, Routes>,
}

impl Node {
    #[track_caller]
    fn new(topology: &Topology, node: usize) -> Self {
        let host = &topology.hosts[node];
        let neighbours: Vec<(usize, &str)> = topology
            .graph
            .neighbours(node)
            .map(|neighbour| {
                let port = topology.port(node, neighbour);
                (neighbour, port.interface.as_str())
            })
            .collect();
        let (socket, neighbours) = host.inside(|| {
            let index = |(neighbour, name): &(usize, &str)| {
                let index = if_nametoindex(*name).unwrap_or_else(|err| panic!("{name}: {err}"));
                (index, *neighbour)
            };
            (route_events(), neighbours.iter().map(index).collect())
        });
        Self {
            socket,
            neighbours,
            routes: BTreeMap::new(),
        }
    }

    fn read(
        &mut self,
        number: usize,
        destinations: &BTreeMap<Ipv6Network, usize>,
        buffer: &mut [u8],
        noted: &Mutex<Vec<Change>>,
    ) {
        loop {
            let length = match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return,
                Err(err) => panic!("route events of node {number} are lost: {err}"),
            };
            let at = Moment::now();
            for event in messages(&buffer[..length]).filter_map(Event::parse) {
                let Some(destination) = destinations.get(&event.prefix).copied() else {
                    continue;
                };
                let routes = self.routes.entry(destination).or_default();
                let before = routes.best();
                let next = event
                    .interface
                    .and_then(|index| self.neighbours.get(&index).copied());
                routes.apply(&event, next);
                let next = routes.best();
                if next != before {
                    noted
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Change {
                            at,
                            node: number,
                            destination,
                            next,
                        });
                }
            }
        }
    }
}

fn route_events() -> OwnedFd {
    let opened = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    );
    let socket = opened.unwrap_or_else(|err| panic!("cannot open a netlink socket: {err}"));
    setsockopt(&socket, RcvBufForce, &BUFFER)
        .and_then(|()| bind(socket.as_raw_fd(), &NetlinkAddr::new(0, IPV6_ROUTES)))
        .unwrap_or_else(|err| panic!("cannot listen for route events: {err}"));
    socket
}

/// All routes of a node to one destination: a daemon may have more than one at a time, of different priorities.
#[derive(Debug, Default)]
struct Routes(Vec<(u32, Option<usize>)>);

impl Routes {
    fn apply(&mut self, event: &Event, next: Option<usize>) {
        let route = (event.priority, next);
        if event.kind != Kind::Added {
            let replaces = event.kind == Kind::Replaced;
            self.0
                .retain(|old| *old != route && !(replaces && old.0 == event.priority));
        }
        if event.kind != Kind::Deleted {
            self.0.push(route);
        }
    }

    /// The route that packets take, of those of the lowest priority number the first.
    fn best(&self) -> Option<usize> {
        self.0.iter().min_by_key(|route| route.0)?.1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Added,
    Replaced,
    Deleted,
}

/// One route event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    kind: Kind,
    prefix: Ipv6Network,
    priority: u32,
    /// None of a route that says unreachable.
    interface: Option<u32>,
}

impl Event {
    /// Reads one message: its type, its flags, its body. None: it is not about a unicast route of the main table.
    fn parse((kind, flags, body): (u16, u16, &[u8])) -> Option<Self> {
        const HEADER: usize = 12;
        let kind = match kind {
            libc::RTM_NEWROUTE if i32::from(flags) & libc::NLM_F_REPLACE != 0 => Kind::Replaced,
            libc::RTM_NEWROUTE => Kind::Added,
            libc::RTM_DELROUTE => Kind::Deleted,
            _ => return None,
        };
        let (header, attributes) = body.split_at_checked(HEADER)?;
        let &[family, length, _, _, table, _, _, route_type, ..] = header else {
            return None;
        };
        let is_unicast = route_type == libc::RTN_UNICAST;
        let is_unreachable = route_type == libc::RTN_UNREACHABLE;
        if i32::from(family) != libc::AF_INET6 || !(is_unicast || is_unreachable) {
            return None;
        }
        let (mut to, mut priority, mut interface) = ([0; 16], 0, None);
        let mut table = u32::from(table);
        for (kind, value) in attributes_of(attributes) {
            let number = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            match (kind, number) {
                (libc::RTA_DST, _) => to = value.try_into().ok()?,
                (libc::RTA_OIF, number) => interface = number.filter(|_| is_unicast),
                (libc::RTA_PRIORITY, Some(number)) => priority = number,
                (libc::RTA_TABLE, Some(number)) => table = number,
                _ => {}
            }
        }
        let prefix = Ipv6Network::new(to.into(), length).ok()?;
        (table == MAIN).then_some(Self {
            kind,
            prefix,
            priority,
            interface,
        })
    }
}

/// Type, flags and body of each message in a datagram of netlink.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = rest.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length >= HEADER)?;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        Some((kind, u16::from_ne_bytes([header[6], header[7]]), body))
    })
}

/// Type and value of each attribute.
fn attributes_of(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    fn route(route_type: u8, interface: u32, priority: u32) -> Vec<u8> {
        let mut body = vec![10, 64, 0, 0, 254, 42, 0, route_type, 0, 0, 0, 0];
        let mut attribute = |kind: u16, value: &[u8]| {
            body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
        };
        let to: std::net::Ipv6Addr = "600:0:0:7::".parse().unwrap();
        attribute(libc::RTA_DST, &to.octets());
        attribute(libc::RTA_OIF, &interface.to_ne_bytes());
        attribute(libc::RTA_PRIORITY, &priority.to_ne_bytes());
        body
    }

    #[test]
    fn route_events_are_read_and_nonsense_is_not() {
        let mut bytes = message(libc::RTM_NEWROUTE, 0x600, &route(1, 3, 1024));
        bytes.extend(message(libc::RTM_NEWROUTE, 0x100, &route(7, 1, 32)));
        bytes.extend(message(libc::RTM_DELROUTE, 0, &route(1, 3, 1024)));
        let read = |bytes: &[u8]| messages(bytes).filter_map(Event::parse).collect::<Vec<_>>();
        let event = |kind, priority, interface| Event {
            kind,
            prefix: "600:0:0:7::/64".parse().unwrap(),
            priority,
            interface,
        };
        assert_eq!(
            read(&bytes),
            [
                event(Kind::Added, 1024, Some(3)),
                event(Kind::Replaced, 32, None),
                event(Kind::Deleted, 1024, Some(3)),
            ]
        );
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).len() < 3);
        }
    }

    #[test]
    fn the_route_of_the_lowest_priority_number_counts() {
        let prefix = "600:0:0:7::/64".parse().unwrap();
        let mut routes = Routes::default();
        let mut apply = |kind, priority, next| {
            let event = Event {
                kind,
                prefix,
                priority,
                interface: None,
            };
            routes.apply(&event, next);
            routes.best()
        };
        assert_eq!(apply(Kind::Added, 1024, Some(1)), Some(1));
        assert_eq!(apply(Kind::Added, 32, Some(2)), Some(2));
        assert_eq!(apply(Kind::Replaced, 32, Some(3)), Some(3));
        assert_eq!(apply(Kind::Deleted, 32, Some(3)), Some(1));
        assert_eq!(apply(Kind::Replaced, 1024, None), None);
        assert_eq!(apply(Kind::Deleted, 1024, None), None);
    }
}
