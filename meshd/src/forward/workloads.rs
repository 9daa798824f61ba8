//! From workloads to outside, to the host and to each other: all their devices, one thread.
//!
//! What is read from a device and does not come from its workload's own address goes no further, and its sender is told so. From here on a
//! packet's source is who sent it. The rest is as for the host's packets ([`Inside`]).

use std::{
    io::{self, IoSlice},
    net::Ipv6Addr,
    os::fd::AsFd,
    time::Instant,
};

use super::{Device, Inside, Notice, Shared, inside::Senders};
use crate::{
    discard::Reason,
    icmp::{self, Unreachable},
    io::{
        offload::{self, VirtioHeader},
        poll::Poll,
        wake::Wake,
    },
    packet::{HeaderError, Ipv6Header, is_neighbour_discovery, upper_layer},
    pulse::Pulse,
};

/// What is read from one device in a row at most, so that all have their turn.
const FRAMES: usize = 64;
/// The same in bytes.
const BYTES: usize = 4 << 16;

impl Inside {
    /// A carrier of what workloads send.
    pub fn of_workloads(shared: Shared, seed: u32) -> Self {
        Self {
            senders: Senders::Workloads,
            ..Self::new(shared, seed)
        }
    }

    /// Carries packets of workloads until `stop` is woken, and answers `pulse`.
    ///
    /// # Errors
    /// Waiting failed.
    pub fn run_workloads(mut self, stop: &Wake, pulse: &Pulse) -> io::Result<()> {
        let devices = self.shared.devices.clone();
        let mut is_done = true;
        loop {
            let table = devices.table();
            let mut descriptors = vec![stop.as_fd(), pulse.as_fd(), devices.wake().as_fd()];
            let fixed = descriptors.len();
            descriptors.extend(table.0.iter().map(|device| device.tun.as_fd()));
            let mut poll = Poll::new(&descriptors);
            loop {
                let deadline = (!is_done).then(|| self.shared.clock.now());
                poll.wait(deadline, &self.shared.clock)?;
                if poll.is_ready(0) {
                    return Ok(());
                }
                if poll.is_ready(1) {
                    pulse.answer()?;
                }
                let now = self.shared.clock.now();
                for (position, device) in table.0.iter().enumerate() {
                    if poll.is_ready(position + fixed)
                        && self.read_from(device, now).is_err()
                        // Unheard, it is told again in the next turn.
                        && self.shared.outlet.reaches(Notice::WorkloadGone(device.id))
                    {
                        poll.ignore(position + fixed);
                    }
                }
                is_done = self.send(now);
                // What is in the table from here on is there after this.
                if poll.is_ready(2) {
                    devices.wake().clear()?;
                    break;
                }
            }
        }
    }

    /// Takes what waits in a workload's device.
    ///
    /// # Errors
    /// The device is gone.
    fn read_from(&mut self, device: &Device, now: Instant) -> io::Result<()> {
        let mut bytes = 0;
        for _ in 0..FRAMES {
            let mut buffer = self.queue.buffer();
            let length = match device.tun.read(&mut buffer) {
                Ok(Some(length)) => length,
                Ok(None) => {
                    self.queue.keep(buffer);
                    return Ok(());
                }
                Err(error) => {
                    self.queue.keep(buffer);
                    return Err(error);
                }
            };
            bytes += length;
            let packet = buffer.get(offload::HEADER..length).unwrap_or_default();
            match judge(device.address, packet) {
                Ok(()) => {
                    device.stats.note_sent(packet.len());
                    let lost = self.queue.push(buffer, length, now);
                    self.shared.discard(Reason::QueueFull, lost as u64);
                }
                Err(reason) => {
                    self.refuse_source(device, reason, &mut buffer[..length], now);
                    self.queue.keep(buffer);
                }
            }
            if bytes >= BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Counts a frame that goes no further; tells a sender with a foreign source so.
    fn refuse_source(&mut self, device: &Device, reason: Reason, frame: &mut [u8], now: Instant) {
        if reason == Reason::InsideSource
            && self.errors.allows(now)
            && let Some(packet) = frame.get(offload::HEADER..)
            && let own = self.shared.fib.load().own().address
            && let Some(error) = icmp::error(Unreachable::SourcePolicy, own, packet)
        {
            let header = VirtioHeader::default().emit();
            let answer = [IoSlice::new(&header), IoSlice::new(&error)];
            if device.tun.write(&answer).is_err() {
                self.shared.discard(Reason::TunWrite, 1);
            }
        }
        let packets = offload::split(frame).map_or(1, |segments| segments.remaining());
        self.shared.discard(reason, packets as u64);
    }
}

/// Whether a workload with this address may send this packet, or the beginning of a super-packet; otherwise why not.
fn judge(address: Ipv6Addr, packet: &[u8]) -> Result<(), Reason> {
    let header = Ipv6Header::parse(packet).map_err(|error| match error {
        HeaderError::Version => Reason::NotIpv6,
        HeaderError::Truncated => Reason::Malformed,
    })?;
    let Ipv6Header {
        source,
        destination,
        ..
    } = header;
    let is_of_link = |address: Ipv6Addr| {
        address.is_unicast_link_local() || address.is_multicast() || address.is_unspecified()
    };
    if is_of_link(source) || is_of_link(destination) {
        return Err(Reason::LinkScope);
    }
    if source != address {
        return Err(Reason::InsideSource);
    }
    match upper_layer(packet) {
        None => Err(Reason::Malformed),
        Some(upper) if is_neighbour_discovery(&upper, packet) => Err(Reason::LinkScope),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{icmpv6, ipv6, udp_between};

    const WORKLOAD: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0x4000, 0, 0, 7);
    const NODE: Ipv6Addr = Ipv6Addr::new(0x600, 1, 2, 3, 0, 0, 0, 1);
    const FAR: Ipv6Addr = Ipv6Addr::new(0x6aa, 9, 9, 9, 0, 0, 0, 1);
    const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn a_workload_sends_from_its_own_address_and_nothing_of_the_link() {
        let udp = |source, destination| udp_between(source, destination, 7, b"x");
        let discovery = |kind| icmpv6(WORKLOAD, FAR, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        // A neighbour advertisement behind a destination options header.
        let hidden = ipv6(
            WORKLOAD,
            FAR,
            60,
            &[&[58, 0, 1, 4, 0, 0, 0, 0, 136, 0][..], &[0; 22]].concat(),
        );
        let refused = |reason| Err::<(), _>(reason);
        let cases = [
            ("to another node", udp(WORKLOAD, FAR), Ok(())),
            ("to its own node", udp(WORKLOAD, NODE), Ok(())),
            ("an echo request", discovery(128), Ok(())),
            ("as its node", udp(NODE, FAR), refused(Reason::InsideSource)),
            (
                "as another node",
                udp(FAR, NODE),
                refused(Reason::InsideSource),
            ),
            (
                "link-local",
                udp(LINK_LOCAL, FAR),
                refused(Reason::LinkScope),
            ),
            (
                "to a link",
                udp(WORKLOAD, LINK_LOCAL),
                refused(Reason::LinkScope),
            ),
            (
                "to a group",
                udp(WORKLOAD, ALL_ROUTERS),
                refused(Reason::LinkScope),
            ),
            (
                "from nowhere",
                udp(Ipv6Addr::UNSPECIFIED, FAR),
                refused(Reason::LinkScope),
            ),
            (
                "a router solicitation",
                discovery(133),
                refused(Reason::LinkScope),
            ),
            (
                "a router advertisement",
                discovery(134),
                refused(Reason::LinkScope),
            ),
            (
                "a neighbour solicitation",
                discovery(135),
                refused(Reason::LinkScope),
            ),
            ("a redirect", discovery(137), refused(Reason::LinkScope)),
            ("hidden discovery", hidden, refused(Reason::LinkScope)),
            ("IPv4", vec![0x45; 40], refused(Reason::NotIpv6)),
            ("nothing", Vec::new(), refused(Reason::Malformed)),
        ];
        for (what, packet, expected) in cases {
            assert_eq!(judge(WORKLOAD, &packet), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_has_the_workloads_source(mut packet in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(first) = packet.first_mut() {
                *first = 0x60;
            }
            if judge(WORKLOAD, &packet).is_ok() {
                prop_assert_eq!(&packet[8..24], &WORKLOAD.octets());
            }
        }
    }
}
