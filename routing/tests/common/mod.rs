//! Packets for tests.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]
#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::net::Ipv6Addr;

use routing::wire::{Packet, Skip, Skipped, Tlv, Update};
use routing::{Interval, Metric, RouterId, Seqno};

/// Where packets come from here.
pub(crate) const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Whose routes are read and written here.
pub(crate) const ID: RouterId = RouterId([1, 2, 3, 4, 5, 6, 7, 8]);

/// An update about `prefix` from [`ID`]: interval 16 s, seqno 5, metric 256.
pub(crate) fn update(prefix: &str) -> Update {
    Update {
        prefix: Some(prefix.parse().unwrap()),
        router_id: Some(ID),
        next_hop: SOURCE,
        interval: Some(Interval(1600)),
        seqno: Seqno(5),
        metric: Metric(256),
        proof: None,
    }
}

/// A packet with this body.
pub(crate) fn packet(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[42, 2], &length[..], body].concat()
}

/// A TLV or sub-TLV.
pub(crate) fn block(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(body.len()).unwrap()], body].concat()
}

/// Reads a packet to its end.
pub(crate) fn read(packet: &[u8]) -> (Vec<Tlv<'_>>, Skipped) {
    let mut tlvs = Packet::parse(packet).unwrap().tlvs(SOURCE);
    let read = tlvs.by_ref().collect();
    (read, *tlvs.skipped())
}

/// The bytes of a dump in hexadecimal: spaces, line ends and what follows a `#` do not count.
pub(crate) fn hex(dump: &str) -> Vec<u8> {
    let digits: Vec<u8> = dump
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|char| !char.is_whitespace())
        .map(|char| u8::try_from(char.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Expects that a body gives exactly these TLVs, and that one was skipped for each of these reasons.
#[track_caller]
pub(crate) fn expect(body: &[u8], tlvs: &[Tlv<'_>], skips: &[Skip]) {
    let packet = packet(body);
    let (read, skipped) = read(&packet);
    assert_eq!(read, tlvs);
    let mut expected = skips.to_vec();
    expected.sort();
    let found: Vec<Skip> = skipped
        .iter()
        .flat_map(|(reason, count)| std::iter::repeat_n(reason, usize::try_from(count).unwrap()))
        .collect();
    assert_eq!(found, expected);
}
