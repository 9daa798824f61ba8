//! The programs behind a TUN device, and the kernel that answers for them: echo replies, flows, and what ICMPv6 errors say.

use std::{collections::BTreeMap, net::Ipv6Addr, time::Duration};

use crate::{
    ecn::Ecn,
    io::offload::{self, VirtioHeader},
    packet::{self, HEADER, ICMPV6, Ipv6Header, UDP},
};

/// Port of flows.
const PORT: u16 = 7000;
/// Marks the packets of flows.
const CANARY: [u8; 4] = *b"flow";
const UDP_HEADER: usize = 8;
/// Canary, kind, number of the flow, number of the packet.
const HEAD: usize = 4 + 1 + 4 + 8;
/// The shortest packet of a flow.
pub(super) const LEAST: usize = HEADER + UDP_HEADER + HEAD;
/// The shortest echo request.
pub const LEAST_ECHO: usize = HEADER + 8;

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// What became of one echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing is known yet.
    Open,
    /// It was answered, so long after it was sent.
    Answered(Duration),
    /// It was too long: so many bytes would fit.
    TooBig(u32),
    /// It did not get there, for this reason (code of ICMPv6 type 1, or another type).
    Unreachable(u8, u8),
}

/// One machine's programs.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Echo requests by number, with when they were sent.
    echoes: BTreeMap<u32, (Duration, Fate)>,
    next_echo: u32,
    /// ICMPv6 errors about other packets: type and code.
    pub(super) errors: Vec<(u8, u8)>,
}

/// What came up to the programs of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A packet of a flow.
    Flow {
        /// Which flow.
        flow: usize,
        /// Which of its packets.
        number: u64,
        /// Whether it is an answer.
        is_answer: bool,
        /// From where.
        source: Ipv6Addr,
        /// What was said on its way.
        ecn: Ecn,
    },
    /// Nothing that anybody waits for.
    Other,
    /// Something that must not come up here.
    Wrong(&'static str),
}

impl Host {
    /// An echo request of `length` bytes, and its number.
    pub(super) fn echo(
        &mut self,
        own: Ipv6Addr,
        to: Ipv6Addr,
        length: usize,
        now: Duration,
    ) -> (u32, Vec<u8>) {
        let number = self.next_echo;
        self.next_echo += 1;
        self.echoes.insert(number, (now, Fate::Open));
        let mut body = vec![0x5a; length.max(LEAST_ECHO) - HEADER];
        body[..4].copy_from_slice(&[ECHO_REQUEST, 0, 0, 0]);
        body[4..8].copy_from_slice(&number.to_be_bytes());
        (number, packet::icmpv6(own, to, &body))
    }

    pub(super) fn fate(&self, number: u32) -> Fate {
        self.echoes.get(&number).map_or(Fate::Open, |echo| echo.1)
    }

    /// Takes a packet that the daemon delivered; what the kernel answers at once goes into `answers`.
    pub(super) fn take(
        &mut self,
        own: Ipv6Addr,
        packet: &[u8],
        now: Duration,
        answers: &mut Vec<Vec<u8>>,
    ) -> Arrival {
        let Ok(header) = Ipv6Header::parse(packet) else {
            return Arrival::Wrong("not IPv6");
        };
        if header.destination != own {
            return Arrival::Wrong("for somebody else");
        }
        let payload = &packet[HEADER..HEADER + header.payload];
        if packet::checksum(header.source, own, header.next_header, payload) != 0 {
            return Arrival::Wrong("damaged");
        }
        match header.next_header {
            ICMPV6 => self.take_icmp(own, &header, payload, now, answers),
            UDP => flow_of(&header, Ecn::of(packet), payload),
            _ => Arrival::Other,
        }
    }

    fn take_icmp(
        &mut self,
        own: Ipv6Addr,
        header: &Ipv6Header,
        message: &[u8],
        now: Duration,
        answers: &mut Vec<Vec<u8>>,
    ) -> Arrival {
        let Some((head, rest)) = message.split_first_chunk::<8>() else {
            return Arrival::Wrong("cut short");
        };
        let number = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        match head[0] {
            ECHO_REQUEST => {
                let mut reply = message.to_vec();
                reply[0] = ECHO_REPLY;
                answers.push(packet::icmpv6(own, header.source, &reply));
            }
            ECHO_REPLY => {
                if let Some((sent, fate)) = self.echoes.get_mut(&number) {
                    *fate = Fate::Answered(now.saturating_sub(*sent));
                }
            }
            // An error quotes what it is about.
            kind @ 1..=4 => {
                let echo = rest
                    .get(HEADER..)
                    .and_then(|quoted| quoted.first_chunk::<8>())
                    .filter(|quoted| rest[6] == ICMPV6 && quoted[0] == ECHO_REQUEST)
                    .map(|it| u32::from_be_bytes([it[4], it[5], it[6], it[7]]));
                match echo.and_then(|echo| self.echoes.get_mut(&echo)) {
                    Some((_, fate)) if kind == 2 => *fate = Fate::TooBig(number),
                    Some((_, fate)) => *fate = Fate::Unreachable(kind, head[1]),
                    None => self.errors.push((kind, head[1])),
                }
            }
            _ => {}
        }
        Arrival::Other
    }
}

/// A packet of a flow, `length` bytes long, whose sender understands marks.
pub(super) fn flow_packet(
    from: Ipv6Addr,
    to: Ipv6Addr,
    flow: usize,
    number: u64,
    is_answer: bool,
    length: usize,
) -> Vec<u8> {
    let mut payload = Vec::with_capacity(length);
    payload.extend_from_slice(&CANARY);
    payload.push(u8::from(is_answer));
    payload.extend_from_slice(&(flow as u32).to_be_bytes());
    payload.extend_from_slice(&number.to_be_bytes());
    payload.resize(length.max(LEAST) - HEADER - UDP_HEADER, 0xa5);
    let mut packet = packet::udp_between(from, to, PORT, &payload);
    Ecn::Ect0.write(&mut packet);
    packet
}

fn flow_of(header: &Ipv6Header, ecn: Ecn, payload: &[u8]) -> Arrival {
    let Some((head, _)) = payload
        .get(UDP_HEADER..)
        .and_then(|rest| rest.split_first_chunk::<HEAD>())
        .filter(|(head, _)| head[..4] == CANARY)
    else {
        return Arrival::Other;
    };
    let flow = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let number = head[9..]
        .first_chunk()
        .map_or(0, |it| u64::from_be_bytes(*it));
    Arrival::Flow {
        flow: flow as usize,
        number,
        is_answer: head[4] == 1,
        source: header.source,
        ecn,
    }
}

/// A packet as the TUN device hands it over.
pub(super) fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = VirtioHeader::default().emit().to_vec();
    frame.extend_from_slice(packet);
    frame
}

/// The packets in a frame that was written to the TUN device.
pub(super) fn packets(mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    if let Ok(mut segments) = offload::split(&mut frame) {
        while let Some(packet) = segments.next_packet() {
            packets.push(packet.to_vec());
        }
    }
    packets
}
