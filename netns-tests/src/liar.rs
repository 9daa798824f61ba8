//! Members of a mesh that do not do as they say: what a speaker and a stock tunnel cannot do by themselves.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::babel::{self, Proof, Tlv, Update};
use crate::host::Host;
use crate::speaker::Speaker;
use crate::wait::{millis, pace};

/// UDP port of relayed sessions on both ends.
const SESSION_PORT: u16 = 51820;
/// The least cost of a link between nodes, and so the metric of one level of an origin's proof.
const LEVEL: u16 = 96;

/// Work that goes on until it is dropped.
#[derive(Debug)]
struct Work {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Work {
    fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                step();
            }
        });
        Self {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It has no result, and a panic of its own was printed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// A member that passes on routes, with the least metrics that it can prove, and no packets.
#[derive(Debug)]
pub struct BlackHole {
    _work: Work,
}

impl BlackHole {
    /// Between the neighbours of two speakers, which are heard by nobody else meanwhile.
    pub fn between(a: &Speaker, b: &Speaker) -> Self {
        let (a, b) = (a.clone(), b.clone());
        let work = Work::start(move || {
            pass_on(&a, &b);
            pass_on(&b, &a);
            pace(Instant::now() + millis(10));
        });
        Self { _work: work }
    }
}

fn pass_on(from: &Speaker, to: &Speaker) {
    const LINK_TAG: u8 = 3;
    let mut tlvs = Vec::new();
    for (_, tlv) in from.take() {
        tlvs.extend(match tlv {
            Tlv::Update(update) => Some(flattered(&update).tlvs()),
            Tlv::RouteRequest(prefix) => Some(babel::route_request(prefix)),
            Tlv::SeqnoRequest {
                prefix,
                seqno,
                hops,
                router_id,
            } => Some(babel::seqno_request(
                prefix,
                seqno,
                hops.saturating_sub(1),
                router_id,
            )),
            Tlv::Extension(body) => {
                (body.get(1) != Some(&LINK_TAG)).then(|| babel::extension(&body))
            }
            Tlv::AckRequest { .. }
            | Tlv::Ack { .. }
            | Tlv::Hello { .. }
            | Tlv::Ihu { .. }
            | Tlv::Other(_) => None,
        });
    }
    for tlvs in tlvs.chunks(4) {
        to.say(tlvs);
    }
}

/// The same route as announced by somebody who adds as little as can be proven: one level if it comes from the origin itself, else
/// nothing.
fn flattered(update: &Update) -> Update {
    if update.metric >= LEVEL {
        return update.clone();
    }
    let above = |proof: Proof| proof.above(0, update.router_id, update.seqno);
    Update {
        metric: LEVEL,
        ..update.clone().proven_by(update.proof.map(above))
    }
}

/// A relay that posts the datagrams it is to forward also straight to where they go, from elsewhere, and more than once.
#[derive(Debug)]
pub struct Reposter {
    posted: Arc<AtomicU64>,
    _work: Work,
}

impl Reposter {
    /// Takes what passes `interface` of `relay` for the node `victim`, and posts `copies` of it from `elsewhere` to `target`.
    #[track_caller]
    pub fn start(
        relay: &Host,
        interface: &str,
        victim: Ipv6Addr,
        elsewhere: &Host,
        target: SocketAddr,
        copies: u64,
    ) -> Self {
        let index = relay.inside(|| if_nametoindex(interface));
        let index = index.unwrap_or_else(|err| panic!("{interface}: {err}"));
        let index = usize::try_from(index).expect("a number of an interface");
        let tap = relay.inside(|| {
            let tap = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            setsockopt(&tap, ReceiveTimeout, &TimeVal::milliseconds(20))?;
            Ok::<_, nix::Error>(tap)
        });
        let tap = tap.unwrap_or_else(|err| panic!("{}: no tap: {err}", relay.name()));
        let post = elsewhere.inside(|| {
            let any = if target.is_ipv6() {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            UdpSocket::bind(any)
        });
        let post = post.unwrap_or_else(|err| panic!("{}: no socket: {err}", elsewhere.name()));
        let posted = Arc::new(AtomicU64::new(0));
        let count = posted.clone();
        let mut buffer = vec![0; 1 << 16];
        let work = Work::start(move || {
            let Ok((length, Some(from))) = recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut buffer)
            else {
                return;
            };
            let Some(datagram) = relayed(&buffer[..length], victim) else {
                return;
            };
            if from.ifindex() == index {
                for _ in 0..copies {
                    let sent = post.send_to(datagram, target);
                    count.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
                }
            }
        });
        Self {
            posted,
            _work: work,
        }
    }

    /// How many datagrams it has posted.
    pub fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }
}

/// The session's datagram in a packet that relays it to a node.
fn relayed(packet: &[u8], to: Ipv6Addr) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let (header, rest) = packet.split_at_checked(40)?;
    let (udp, datagram) = rest.split_at_checked(8)?;
    let is_session = header[0] >> 4 == 6
        && header[6] == UDP
        && header[24..] == to.octets()
        && udp[2..4] == SESSION_PORT.to_be_bytes();
    is_session.then_some(datagram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_relayed_to_the_victim_is_taken() {
        let to: Ipv6Addr = "6d4::1".parse().unwrap();
        let mut packet = vec![0; 50];
        packet[0] = 0x60;
        packet[6] = 17;
        packet[24..40].copy_from_slice(&to.octets());
        packet[42..44].copy_from_slice(&SESSION_PORT.to_be_bytes());
        assert_eq!(relayed(&packet, to), Some(&[0, 0][..]));
        assert_eq!(relayed(&packet, Ipv6Addr::LOCALHOST), None);
        assert_eq!(relayed(&packet[..47], to), None);
        packet[43] ^= 1;
        assert_eq!(relayed(&packet, to), None);
    }

    #[test]
    fn a_metric_is_flattered_as_far_as_it_can_be_proven() {
        let proof = Proof {
            epoch: 1,
            element: [3; 20],
        };
        let update = |metric| {
            Update::new("6d4::/64".parse().unwrap(), [1; 8], 8, metric).proven_by(Some(proof))
        };
        assert_eq!(flattered(&update(200)), update(200));
        let near = flattered(&update(0));
        assert_eq!(near.metric, LEVEL);
        assert_eq!(near.proof, Some(proof.above(0, [1; 8], 8)));
    }
}
