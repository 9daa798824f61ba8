//! What no honest peer and no honest client sends: the work of the verbs of `netns-probe` that begin with `abuse-`. Every load is
//! bounded and ends by itself; seeds are fixed, so that a failure comes again.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket,
    sockopt::{ReceiveTimeout, UdpGsoSegment},
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::{Value, json};

use crate::pcap::{self, Ip};
use crate::wait::{millis, pace, secs};

/// The largest payload of UDP over IPv4.
const LARGEST: usize = 65_507;
/// The most segments that Linux takes in one send (`UDP_MAX_SEGMENTS` of older kernels).
const SEGMENTS: usize = 64;
/// Sent at once before the pace is looked at.
const BURST: u64 = 32;
/// Extension headers in the longest chain.
const CHAIN: usize = 60;

/// Numbers that a seed determines (xorshift64*).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// A row of its own for every seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit as u64).expect("less than a usize")
    }

    /// Overwrites all of it.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            let word = self.roll().to_le_bytes();
            eight.copy_from_slice(&word[..eight.len()]);
        }
    }
}

/// A sender at a steady pace that counts what comes back.
struct Sender {
    socket: UdpSocket,
    start: Instant,
    per_second: u64,
    sent: u64,
    answers: u64,
    cookies: u64,
}

impl Sender {
    fn new(target: SocketAddr, per_second: u64) -> Result<Self> {
        let any = if target.is_ipv6() {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            start: Instant::now(),
            per_second,
            sent: 0,
            answers: 0,
            cookies: 0,
        })
    }

    /// Sends `datagrams` datagrams in one call.
    fn send(&mut self, bytes: &[u8], datagrams: u64) -> Result<()> {
        if self.sent % BURST + datagrams >= BURST {
            let due = secs(1) * u32::try_from(self.sent)? / u32::try_from(self.per_second)?;
            pace(self.start + due);
            self.listen();
        }
        loop {
            match self.socket.send(bytes) {
                Ok(length) => {
                    ensure!(length == bytes.len(), "sent {length} of {}", bytes.len());
                    self.sent += datagrams;
                    return Ok(());
                }
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock) => {
                    pace(Instant::now() + millis(1));
                }
                Err(err) => return Err(err).context("send"),
            }
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.answers += 1;
            // A cookie reply of WireGuard.
            self.cookies += u64::from(length == 64 && buffer[..4] == [3, 0, 0, 0]);
        }
    }

    /// What was sent, and what came back until half a second after that.
    fn finish(mut self) -> Value {
        pace(Instant::now() + millis(500));
        self.listen();
        json!({ "sent": self.sent, "answers": self.answers, "cookies": self.cookies })
    }
}

/// A datagram of every length in the range with every first byte and random bytes behind it, and each type of WireGuard's messages
/// once more with the zero bytes that belong behind it.
///
/// # Errors
/// The datagrams cannot be sent.
pub fn every_datagram(
    target: SocketAddr,
    first: usize,
    last: usize,
    per_second: u64,
) -> Result<Value> {
    ensure!(last <= LARGEST && per_second > 0, "too long, or no pace");
    let mut sender = Sender::new(target, per_second)?;
    let mut dice = Dice::new(1);
    let mut bytes = vec![0; last];
    for length in first..=last {
        dice.fill(&mut bytes[..length]);
        let heads = (0..=u8::MAX).map(|byte| (byte, None));
        let typed = (1..=4).map(|kind| (kind, Some([0; 3])));
        for (byte, zeros) in heads.chain(typed) {
            let datagram = &mut bytes[..length];
            if let Some(head) = datagram.first_mut() {
                *head = byte;
            }
            for (slot, zero) in datagram.iter_mut().skip(1).zip(zeros.unwrap_or_default()) {
                if zeros.is_some() {
                    *slot = zero;
                }
            }
            sender.send(datagram, 1)?;
        }
    }
    Ok(sender.finish())
}

/// The largest datagrams, and trains of datagrams that the kernel cuts out of one send: of one byte, of the length of each of
/// WireGuard's messages, with and without a shorter one at the end.
///
/// # Errors
/// The datagrams cannot be sent, or the kernel does not cut.
pub fn trains(target: SocketAddr) -> Result<Value> {
    let mut sender = Sender::new(target, 20_000)?;
    let mut dice = Dice::new(2);
    let mut bytes = vec![0; LARGEST];
    for round in 0..200 {
        dice.fill(&mut bytes);
        bytes[..4].copy_from_slice(&[round % 5, 0, 0, 0]);
        sender.send(&bytes, 1)?;
    }
    for segment in [1_u16, 31, 32, 33, 64, 92, 148, 149, 1000, 1452] {
        setsockopt(&sender.socket, UdpGsoSegment, &segment.into())
            .context("the kernel does not cut datagrams")?;
        let segment = usize::from(segment);
        for round in 0..100_u8 {
            let count = SEGMENTS.min(60_000 / segment);
            let short = usize::from(round % 2) * (segment / 2);
            let length = count * segment - short;
            dice.fill(&mut bytes[..length]);
            for datagram in bytes[..length].chunks_mut(segment) {
                for (slot, byte) in datagram.iter_mut().zip([round % 5, 0, 0, 0]) {
                    *slot = byte;
                }
            }
            sender.send(&bytes[..length], count as u64)?;
        }
    }
    Ok(sender.finish())
}

/// Initiations whose first MAC is wrong, in trains that the kernel cuts out of one send, for so many seconds.
///
/// # Errors
/// The datagrams cannot be sent, or the kernel does not cut.
pub fn bad_mac1(target: SocketAddr, per_second: u64, seconds: u64) -> Result<Value> {
    const INITIATION: usize = 148;
    let mut sender = Sender::new(target, per_second)?;
    setsockopt(&sender.socket, UdpGsoSegment, &i32::try_from(INITIATION)?)
        .context("the kernel does not cut datagrams")?;
    let mut dice = Dice::new(6);
    let mut train = vec![0; SEGMENTS * INITIATION];
    while sender.sent < per_second * seconds {
        dice.fill(&mut train);
        for datagram in train.chunks_mut(INITIATION) {
            datagram[..4].copy_from_slice(&[1, 0, 0, 0]);
        }
        sender.send(&train, SEGMENTS as u64)?;
    }
    let seconds = sender.start.elapsed().as_secs_f64();
    let mut report = sender.finish();
    report["seconds"] = seconds.into();
    Ok(report)
}

/// The UDP payloads of a capture, each as it was and then with one bit changed, `rounds` times.
///
/// # Errors
/// The capture cannot be read, or holds no UDP.
pub fn replay(target: SocketAddr, capture: &str, rounds: usize) -> Result<Value> {
    let file = fs::read(capture).with_context(|| capture.to_owned())?;
    let payloads = udp_payloads(&file);
    let count = |kind: u8| {
        let first = |payload: &&&[u8]| payload.first() == Some(&kind);
        payloads.iter().filter(first).count()
    };
    let kinds = [1, 2, 3, 4].map(count);
    ensure!(!payloads.is_empty(), "{capture} holds no UDP");
    let mut sender = Sender::new(target, 10_000)?;
    let mut dice = Dice::new(3);
    for _ in 0..rounds {
        for payload in &payloads {
            sender.send(payload, 1)?;
            let mut changed = payload.to_vec();
            let bit = dice.below(changed.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            sender.send(&changed, 1)?;
        }
    }
    let mut report = sender.finish();
    report["initiations"] = kinds[0].into();
    report["responses"] = kinds[1].into();
    report["data"] = kinds[3].into();
    Ok(report)
}

/// The payloads of all UDP over IPv4 in a capture.
fn udp_payloads(file: &[u8]) -> Vec<&[u8]> {
    let payload = |packet| {
        let packet = Ip::parse(packet).filter(|packet| packet.source.is_ipv4())?;
        let (_, payload) = packet.carried().filter(|_| packet.protocol == pcap::UDP)?;
        (!payload.is_empty()).then_some(payload)
    };
    pcap::packets(file)
        .into_iter()
        .filter_map(payload)
        .collect()
}

/// Who is spoken of in [`inner`].
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// What the sender's key owns.
    pub source: Ipv6Addr,
    /// The node.
    pub node: Ipv6Addr,
    /// A leaf of the node.
    pub leaf: Ipv6Addr,
    /// A UDP port of both.
    pub port: u16,
}

/// Packets that a stock WireGuard device would never put into its tunnel, put into its interface.
///
/// # Errors
/// There is no such interface, or it does not take them.
pub fn inner(interface: &str, who: Inner, rounds: u64) -> Result<Value> {
    let index = usize::try_from(if_nametoindex(interface)?)?;
    let raw = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::EthAll,
    )?;
    setsockopt(&raw, ReceiveTimeout, &TimeVal::seconds(2))?;
    // An interface's address as such a socket wants it is learned from a packet that passes it.
    UdpSocket::bind((who.source, 0))?.send_to(b"hello", (who.node, who.port))?;
    let device = loop {
        let (_, from) = recvfrom::<LinkAddr>(raw.as_raw_fd(), &mut [0; 2048])?;
        match from {
            Some(from) if from.ifindex() == index => break from,
            _ => {}
        }
    };
    let packets = inner_packets(who);
    let start = Instant::now();
    for round in 0..rounds {
        for (number, packet) in packets.iter().enumerate() {
            let sent = round * packets.len() as u64 + number as u64;
            pace(start + millis(sent));
            put(&raw, &device, packet).with_context(|| format!("packet {number}"))?;
        }
    }
    Ok(json!({ "sent": rounds * packets.len() as u64 }))
}

fn put(raw: &OwnedFd, device: &LinkAddr, packet: &[u8]) -> Result<()> {
    let length = sendto(raw.as_raw_fd(), packet, device, MsgFlags::empty())?;
    ensure!(length == packet.len(), "sent {length} of {}", packet.len());
    Ok(())
}

fn inner_packets(
    Inner {
        source,
        node,
        leaf,
        port,
    }: Inner,
) -> Vec<Vec<u8>> {
    /// An IPv6 header with these claims.
    fn ipv6(from: Ipv6Addr, to: Ipv6Addr, claims: (usize, u8, u8), rest: &[u8]) -> Vec<u8> {
        let (length, next, hops) = claims;
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, hops];
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(rest);
        packet
    }
    let udp = |to: Ipv6Addr| {
        let mut udp = [port.to_be_bytes(), port.to_be_bytes()].concat();
        udp.extend([0, 12, 0, 0]);
        udp.extend(b"evil");
        let mut words = [
            source.octets().as_slice(),
            &to.octets(),
            &[0, 12, 0, 17],
            &udp,
        ]
        .concat();
        words.resize(words.len().next_multiple_of(2), 0);
        let mut sum: u32 = words
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).expect("folded to 16 bits");
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    };
    let chain = |kind: u8, count: usize, to: Ipv6Addr| {
        let mut rest = Vec::new();
        for number in 0..count {
            let next = if number + 1 < count { kind } else { 17 };
            // One option that pads four bytes.
            rest.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        rest.extend(udp(to));
        rest
    };
    let plain = udp(node);
    let mut packets = Vec::new();
    // Chains: options for the destination, routing headers, and both with a length that runs past the end.
    for kind in [60, 43] {
        let rest = chain(kind, CHAIN, node);
        packets.push(ipv6(source, node, (rest.len(), kind, 64), &rest));
        packets.push(ipv6(source, leaf, (rest.len(), kind, 64), &rest));
    }
    for kind in [0, 43, 44, 51, 60, 135] {
        packets.push(ipv6(
            source,
            node,
            (8, kind, 64),
            &[17, 255, 0, 0, 0, 9, 0, 0],
        ));
        packets.push(ipv6(source, node, (1, kind, 64), &[60]));
    }
    // Lengths: more than there is (one more could be WireGuard's padding, to 16 bytes); a jumbogram (RFC 2675), with and without its option.
    for length in [plain.len() + 16, plain.len() + 1400, usize::from(u16::MAX)] {
        packets.push(ipv6(source, node, (length, 17, 64), &plain));
    }
    let mut jumbo = vec![17, 0, 0xC2, 4, 0, 1, 0, 0];
    jumbo.extend(&plain);
    packets.push(ipv6(source, node, (0, 0, 64), &jumbo));
    packets.push(ipv6(source, node, (0, 60, 64), &plain));
    // Not enough of a header, other versions, and IPv4 in whole.
    packets.push(ipv6(source, node, (0, 0, 0), &[])[..40].to_vec());
    for version in [4_u8, 4, 0, 5, 7, 15] {
        let mut packet = ipv6(source, node, (plain.len(), 17, 64), &plain);
        packet[0] = version << 4 | 5;
        packets.push(packet);
    }
    let mut ipv4 = vec![
        0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 9, 9, 10, 77, 1, 1,
    ];
    ipv4.extend(&plain);
    packets.push(ipv4);
    // No hop left on the way to a leaf.
    let to_leaf = udp(leaf);
    for hops in [0, 1] {
        packets.push(ipv6(source, leaf, (to_leaf.len(), 17, hops), &to_leaf));
    }
    // Somebody else's address, loopback, multicast, the node's own.
    for from in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        node,
        leaf,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    ] {
        packets.push(ipv6(from, node, (plain.len(), 17, 64), &plain));
    }
    // To where nothing of a peer's belongs.
    for to in [
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::UNSPECIFIED,
    ] {
        let rest = udp(to);
        packets.push(ipv6(source, to, (rest.len(), 17, 64), &rest));
    }
    packets
}

/// One honest datagram from `source` to an echo server, for a test to see that it can be reached at all.
///
/// # Errors
/// It cannot be sent, or no echo comes within five seconds.
pub fn honest(source: Ipv6Addr, target: SocketAddr) -> Result<Value> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.set_read_timeout(Some(secs(5)))?;
    socket.send_to(b"good", target)?;
    let mut buffer = [0; 8];
    ensure!(
        socket.recv(&mut buffer).context("no echo")? == 4,
        "another echo"
    );
    Ok(json!({ "sent": 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_a_capture_are_found_and_nonsense_is_not() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 1, 0, 2, 0, 11, 0, 0, 4, 5, 6]);
        // Of Ethernet.
        let mut file = vec![0; 24];
        file[20] = 1;
        for frame in [&frame, &vec![0; 60], &frame] {
            file.extend([0; 8]);
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            file.extend([length, length].concat());
            file.extend(frame);
        }
        assert_eq!(udp_payloads(&file), [[4, 5, 6], [4, 5, 6]]);
        for cut in 0..file.len() {
            assert!(udp_payloads(&file[..cut]).len() < 2);
        }
    }
}
