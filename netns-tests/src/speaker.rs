//! A speaker of Babel under the test's control, on an interface of a host: it keeps up the adjacency, and says and hears whatever the
//! test wants. Usually the interface is a stock WireGuard tunnel, and the other end of it meshd.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn6, bind, setsockopt, socket,
    sockopt::{BindToDevice, Ipv6Ttl, ReuseAddr},
};

use crate::babel::{self, GROUP, PORT, Tlv, Update};
use crate::host::Host;
use crate::identity::Identity;
use crate::moment::Moment;
use crate::wait::{millis, secs, wait_until};
use crate::wireguard::{Key, WireGuard};

/// How often it says Hello.
const HELLO: Duration = millis(1000);
/// The same as Babel writes it, and three times as much for IHUs.
const HELLO_INTERVAL: u16 = 100;
/// What packets from the neighbour cost, as it tells it: the least that there is.
const COST: u16 = 96;
/// The kind of meshd's messages that asks for an origin's record.
const RECORD_REQUEST: u8 = 1;
/// How long it listens at a time.
const LISTEN: Duration = millis(20);

/// A speaker. Cheap to clone; all clones are the same, which falls silent when the last is dropped.
#[derive(Clone, Debug)]
pub struct Speaker(Arc<Handle>);

/// A place next to a node, held by a stock WireGuard tunnel and a speaker on it.
#[derive(Debug)]
pub struct Seat {
    /// Who speaks.
    pub speaker: Speaker,
    /// The tunnel to the node.
    pub tunnel: WireGuard,
}

impl Seat {
    /// Next to the node with that key and endpoint, which knows the member as its peer and waits to be called.
    #[track_caller]
    pub fn of_member(
        host: &Host,
        member: &Identity,
        node: &Identity,
        endpoint: SocketAddr,
    ) -> Self {
        let address = Some(member.link_local());
        Self::take(host, &Key::of(member), address, node, endpoint)
    }

    /// Next to a node that knows the key as that of a stock device with which it speaks Babel.
    #[track_caller]
    pub fn of_stock(host: &Host, key: &Key, node: &Identity, endpoint: SocketAddr) -> Self {
        Self::take(host, key, None, node, endpoint)
    }

    #[track_caller]
    fn take(
        host: &Host,
        key: &Key,
        link_local: Option<Ipv6Addr>,
        node: &Identity,
        endpoint: SocketAddr,
    ) -> Self {
        let tunnel = WireGuard::start_for_routing(host, key, link_local);
        tunnel.neighbour(&node.public_key, Some(endpoint));
        let speaker = Speaker::on(host, tunnel.interface());
        Self { speaker, tunnel }
    }
}

#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    host: Host,
    socket: UdpSocket,
    index: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    manner: Manner,
    seqno: u16,
    /// The last one that was heard, and when its last Hello was sent (by its clock) and received.
    neighbour: Option<Ipv6Addr>,
    hello: Option<(u32, u32)>,
    /// What is announced again with every Hello, by a name that the test gives it.
    announced: BTreeMap<String, Vec<u8>>,
    /// The bodies of messages with origin records, by router-id: answers to requests.
    records: BTreeMap<[u8; 8], Vec<u8>>,
    heard: Vec<(Moment, Tlv)>,
    /// What could not be read.
    malformed: Vec<String>,
}

/// How it behaves besides what it is told to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Hellos, IHUs and acknowledgments as an honest neighbour gives them, without times.
    #[default]
    Polite,
    /// The same with times (RFC 9616), but it says that it got every Hello so much earlier than it did.
    Hasty(Duration),
    /// It says nothing by itself.
    Silent,
}

impl Speaker {
    /// Begins to speak on an interface, from its link-local address.
    ///
    /// # Panics
    /// When the interface is not there, or has no link-local address within five seconds.
    #[track_caller]
    pub fn on(host: &Host, interface: &str) -> Self {
        wait_until(
            secs(5),
            &format!("{interface} has a link-local address"),
            || {
                host.run(&format!("ip -6 addr show dev {interface} scope link"))
                    .contains("fe80::")
            },
        );
        let (socket, index) = host.inside(|| {
            let index =
                if_nametoindex(interface).unwrap_or_else(|err| panic!("{interface}: {err}"));
            let socket = open(interface, index);
            let socket = socket.unwrap_or_else(|err| panic!("{interface}: no socket: {err}"));
            (socket, index)
        });
        let inner = Arc::new(Inner {
            host: host.clone(),
            socket,
            index,
            state: Mutex::default(),
        });
        let ended = Arc::new(AtomicBool::new(false));
        let (speaker, end) = (inner.clone(), ended.clone());
        let thread = thread::spawn(move || speaker.run(&end));
        Self(Arc::new(Handle {
            inner,
            ended,
            thread: Some(thread),
        }))
    }

    /// Behaves differently from now on.
    pub fn behave(&self, manner: Manner) {
        self.0.inner.state().manner = manner;
    }

    /// Counts its next Hellos on from so many later.
    pub fn skip_hellos(&self, count: u16) {
        let mut state = self.0.inner.state();
        state.seqno = state.seqno.wrapping_add(count);
    }

    /// Says this now, once, to all on the link.
    #[track_caller]
    pub fn say(&self, tlvs: &[Vec<u8>]) {
        self.say_raw(&babel::packet(tlvs));
    }

    /// Sends these bytes as a packet.
    #[track_caller]
    pub fn say_raw(&self, packet: &[u8]) {
        let sent = self.0.inner.send(packet, GROUP);
        sent.unwrap_or_else(|err| panic!("cannot send {} bytes: {err}", packet.len()));
    }

    /// Sends these bytes as a packet from one of the host's addresses and a port of one's choice, to an address and Babel's port.
    #[track_caller]
    pub fn say_from(&self, from: Ipv6Addr, from_port: u16, to: Ipv6Addr, packet: &[u8]) {
        let index = self.0.inner.index;
        let sent = self.0.inner.host.inside(|| {
            let socket = bound(SocketAddrV6::new(from, from_port, 0, index), None)?;
            socket.send_to(packet, SocketAddrV6::new(to, PORT, 0, index))
        });
        sent.unwrap_or_else(|err| panic!("cannot send from {from} to {to}: {err}"));
    }

    /// Says this now and again with every Hello, under a name by which it can be changed.
    #[track_caller]
    pub fn announce(&self, name: &str, tlvs: Vec<u8>) {
        self.say(std::slice::from_ref(&tlvs));
        let mut state = self.0.inner.state();
        state.announced.insert(name.to_owned(), tlvs);
    }

    /// Ceases to announce what goes by that name.
    pub fn cease(&self, name: &str) {
        self.0.inner.state().announced.remove(name);
    }

    /// Answers requests for an origin's record with that message.
    pub fn vouch(&self, router_id: [u8; 8], record: Vec<u8>) {
        self.0.inner.state().records.insert(router_id, record);
    }

    /// The neighbour's link-local address, once it was heard.
    pub fn neighbour(&self) -> Option<Ipv6Addr> {
        self.0.inner.state().neighbour
    }

    /// Everything that was heard since this was called last.
    pub fn take(&self) -> Vec<(Moment, Tlv)> {
        std::mem::take(&mut self.0.inner.state().heard)
    }

    /// Waits until it has heard, since [`Self::take`] was called last, what `choose` has something to say about.
    ///
    /// # Panics
    /// When it does not in that time; the message says what it heard instead.
    #[track_caller]
    pub fn wait_to_hear<T>(
        &self,
        within: Duration,
        what: &str,
        choose: impl Fn(&Tlv) -> Option<T>,
    ) -> T {
        wait_until(within, &format!("the speaker hears {what}"), || {
            let state = self.0.inner.state();
            let found = state.heard.iter().find_map(|(_, tlv)| choose(tlv));
            found.ok_or_else(|| format!("{:?}", state.heard))
        })
    }

    /// Waits for an update about a prefix that satisfies `fits`, and returns it.
    ///
    /// # Panics
    /// When there is none in that time.
    #[track_caller]
    pub fn wait_for_update(
        &self,
        prefix: Ipv6Network,
        within: Duration,
        fits: impl Fn(&Update) -> bool,
    ) -> Update {
        self.wait_to_hear(within, &format!("an update of {prefix}"), |tlv| {
            let update = tlv.update()?;
            (update.prefix == Some(prefix) && fits(update)).then(|| update.clone())
        })
    }

    /// What was received and is no Babel, or no sense.
    pub fn malformed(&self) -> Vec<String> {
        self.0.inner.state().malformed.clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It has no result, and a panic of its own was printed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, packet: &[u8], to: Ipv6Addr) -> std::io::Result<()> {
        let to = SocketAddrV6::new(to, PORT, 0, self.index);
        self.socket.send_to(packet, to).map(drop)
    }

    fn run(&self, ended: &AtomicBool) {
        let mut due = Instant::now();
        let mut buffer = vec![0; 1 << 16];
        while !ended.load(Ordering::Relaxed) {
            if Instant::now() >= due {
                due = (due + HELLO).max(Instant::now());
                let packet = self.state().greeting();
                if let Some(packet) = packet {
                    // A tunnel without session yet refuses; the next greeting may pass.
                    drop(self.send(&packet, GROUP));
                }
            }
            let Ok((length, SocketAddr::V6(from))) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            let answer = self.state().hear(*from.ip(), &buffer[..length]);
            if let Some(answer) = answer {
                drop(self.send(&answer, *from.ip()));
            }
        }
    }
}

impl State {
    /// Hello, IHU, and what is announced.
    fn greeting(&mut self) -> Option<Vec<u8>> {
        let early = match self.manner {
            Manner::Silent => return None,
            Manner::Polite => None,
            Manner::Hasty(early) => Some(u32::try_from(early.as_micros()).unwrap_or(u32::MAX)),
        };
        self.seqno = self.seqno.wrapping_add(1);
        let time = early.map(|_| babel::sent_at(clock())).unwrap_or_default();
        let mut tlvs = vec![babel::hello(self.seqno, HELLO_INTERVAL, &time)];
        if let Some(neighbour) = self.neighbour {
            let echo = early.zip(self.hello).map(|(early, (origin, received))| {
                babel::echo(origin, received.wrapping_sub(early))
            });
            tlvs.push(babel::ihu(
                neighbour,
                COST,
                3 * HELLO_INTERVAL,
                &echo.unwrap_or_default(),
            ));
        }
        tlvs.extend(self.announced.values().cloned());
        Some(babel::packet(&tlvs))
    }

    fn hear(&mut self, from: Ipv6Addr, packet: &[u8]) -> Option<Vec<u8>> {
        let (now, time) = (Moment::now(), clock());
        self.neighbour = Some(from);
        let tlvs = match babel::read(packet) {
            Ok(tlvs) => tlvs,
            Err(err) => {
                self.malformed.push(err);
                return None;
            }
        };
        let mut answers = Vec::new();
        for tlv in tlvs {
            if let Tlv::AckRequest { opaque } = tlv
                && self.manner != Manner::Silent
            {
                answers.push(babel::ack(opaque));
            }
            if let Tlv::Extension(body) = &tlv
                && let [1, RECORD_REQUEST, fields @ ..] = body.as_slice()
                && let Some(record) = fields.first_chunk().and_then(|id| self.records.get(id))
            {
                answers.push(babel::extension(record));
            }
            if let Tlv::Hello {
                sent: Some(sent), ..
            } = tlv
            {
                self.hello = Some((sent, time));
            }
            self.heard.push((now, tlv));
        }
        (!answers.is_empty()).then(|| babel::packet(&answers))
    }
}

/// Microseconds, modulo 2^32.
fn clock() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "that is the modulo")]
    let time = Moment::now().0 as u32;
    time
}

/// A socket of Babel's port and group on one interface alone.
fn open(interface: &str, index: u32) -> std::io::Result<UdpSocket> {
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0);
    let socket = bound(any, Some(interface))?;
    socket.join_multicast_v6(&GROUP, index)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_read_timeout(Some(LISTEN))?;
    Ok(socket)
}

/// A socket at an address that others may be at too, whose packets go no further than the link.
fn bound(at: SocketAddrV6, interface: Option<&str>) -> std::io::Result<UdpSocket> {
    let socket: OwnedFd = socket(
        AddressFamily::Inet6,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    if let Some(interface) = interface {
        setsockopt(&socket, BindToDevice, &interface.into())?;
    }
    setsockopt(&socket, ReuseAddr, &true)?;
    setsockopt(&socket, Ipv6Ttl, &1)?;
    bind(socket.as_raw_fd(), &SockaddrIn6::from(at))?;
    Ok(UdpSocket::from(socket))
}
