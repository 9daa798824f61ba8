//! The underlay: wires between machines, each with an address of its own at either end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Headers of IPv4 and UDP, which an MTU of the underlay counts too.
pub const HEADERS: usize = 28;

/// The WireGuard port of every machine.
const PORT: u16 = 51860;

/// A wire.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// What is at its ends.
    pub ends: [End; 2],
    /// How long a datagram takes.
    pub latency: Duration,
    /// Up to so much longer, at random.
    pub jitter: Duration,
    /// Of a thousand datagrams, so many are lost.
    pub loss: u32,
    /// IP packets that are longer vanish.
    pub mtu: usize,
    /// Whether a queue stands in it always: what may be marked comes out with a mark (ECN).
    pub is_congested: bool,
    /// Whether datagrams pass, by the end that they come from.
    pub is_open: [bool; 2],
    /// What passed, lost or not, by the end that it came from.
    pub traffic: [Traffic; 2],
}

/// One end of a wire.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Which machine.
    pub machine: usize,
    /// Its address there.
    pub address: SocketAddr,
    /// As which the other end sees it: another one behind a NAT.
    pub seen_as: SocketAddr,
}

/// Datagrams that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub datagrams: u64,
    /// Their bytes, with headers of IPv4 and UDP.
    pub bytes: u64,
}

impl Wire {
    /// The `number`-th wire, between these machines: 2 ms long and without faults.
    pub(super) fn new(number: usize, machines: [usize; 2]) -> Self {
        let end = |end: usize| {
            let address = address(number, end as u8 + 1);
            End {
                machine: machines[end],
                address,
                seen_as: address,
            }
        };
        Self {
            ends: [end(0), end(1)],
            latency: Duration::from_millis(2),
            jitter: Duration::ZERO,
            loss: 0,
            mtu: 1500,
            is_congested: false,
            is_open: [true; 2],
            traffic: [Traffic::default(); 2],
        }
    }

    /// Whether it joins these two, in whatever order.
    pub(super) fn joins(&self, a: usize, b: usize) -> bool {
        let [one, other] = self.ends.map(|end| end.machine);
        (one, other) == (a, b) || (one, other) == (b, a)
    }

    /// The end of a machine; none if it has none.
    pub(super) fn end_of(&self, machine: usize) -> Option<usize> {
        self.ends.iter().position(|end| end.machine == machine)
    }

    /// Whether datagrams pass both ways.
    pub fn is_open_both_ways(&self) -> bool {
        self.is_open == [true; 2]
    }
}

/// The `host`-th address of the network of a wire.
pub(super) fn address(number: usize, host: u8) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    let ip = Ipv4Addr::new(10, high, low, host);
    SocketAddr::new(IpAddr::V4(ip), PORT)
}
