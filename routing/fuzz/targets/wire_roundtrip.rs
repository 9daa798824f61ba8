//! What was read is written, and read again: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::net::Ipv6Addr;

use routing::Interval;
use routing::wire::{EncodeError, Packet, PacketBuf, PacketWriter, Tlv, Update};

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Takes the first two bytes as the MTU of a link and the rest as the body of a packet that was received, and passes on what it
/// said: in its order, with Acknowledgments asked for, and with its updates sorted. Nothing may be lost, added or changed, and no packet may be too long.
pub(crate) fn pass_on(bytes: &[u8]) {
    let Some((mtu, body)) = bytes.split_first_chunk() else {
        return;
    };
    let mtu = u16::from_be_bytes(*mtu);
    let body = &body[..body.len().min(0xffff)];
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let packet = [&[42, 2], &length[..], body].concat();
    let said = read(&packet);

    let plain = PacketWriter::unicast(mtu, SOURCE);
    let (packets, written) = write(plain, &said);
    check(&packets, mtu);
    assert_eq!(read_all(&packets), written);

    let Ok(asking) = PacketWriter::unicast(mtu, SOURCE).asking_for_acks(7, Interval(50)) else {
        unreachable!("the interval is not 0");
    };
    let (packets, written) = write(asking, &said);
    check(&packets, mtu);
    let mut opaque = 7_u16;
    let mut received = vec![];
    for packet in &packets {
        let mut tlvs = read(&packet.bytes);
        let expected = Tlv::AckRequest {
            opaque,
            interval: Interval(50),
        };
        assert_eq!((tlvs.pop(), packet.opaque), (Some(expected), Some(opaque)));
        received.extend(tlvs);
        opaque = opaque.wrapping_add(1);
    }
    assert_eq!(received, written);

    let mut updates: Vec<Update> = (said.iter())
        .filter_map(|tlv| {
            if let Tlv::Update(update) = tlv {
                Some(*update)
            } else {
                None
            }
        })
        .collect();
    let count = updates.len();
    let mut writer = PacketWriter::multicast(mtu, SOURCE);
    assert_eq!(writer.push_updates(&mut updates), Ok(()));
    let packets = writer.finish();
    check(&packets, mtu);
    let expected: Vec<_> = updates.into_iter().map(Tlv::Update).collect();
    assert_eq!(read_all(&packets), expected);
    assert_eq!(expected.len(), count);
}

/// Writes what may be written, and says what that was.
fn write<'a>(mut writer: PacketWriter, said: &[Tlv<'a>]) -> (Vec<PacketBuf>, Vec<Tlv<'a>>) {
    let mut written = vec![];
    for tlv in said {
        match writer.push(tlv) {
            Ok(()) => written.push(*tlv),
            Err(EncodeError::UnscheduledHello | EncodeError::EchoWithoutHello) => {}
            Err(error) => panic!("{tlv:?} was received and cannot be sent: {error}"),
        }
    }
    (writer.finish(), written)
}

fn read(packet: &[u8]) -> Vec<Tlv<'_>> {
    let Ok(packet) = Packet::parse(packet) else {
        panic!("the header is right");
    };
    packet.tlvs(SOURCE).collect()
}

fn read_all(packets: &[PacketBuf]) -> Vec<Tlv<'_>> {
    (packets.iter())
        .flat_map(|packet| read(&packet.bytes))
        .collect()
}

/// No packet is empty or too long, a Hello comes first, and the time of sending lies in it.
fn check(packets: &[PacketBuf], mtu: u16) {
    for packet in packets {
        assert!(packet.bytes.len() <= usize::from(mtu.max(560) - 48));
        let Ok(parsed) = Packet::parse(&packet.bytes) else {
            panic!("the header is right");
        };
        let mut tlvs = parsed.tlvs(SOURCE);
        let first = tlvs.next();
        assert!(first.is_some());
        assert!(!tlvs.by_ref().any(|tlv| matches!(tlv, Tlv::Hello { .. })));
        assert_eq!(tlvs.skipped().total(), 0);

        let mut stamped = packet.clone();
        stamped.stamp(0x0102_0304);
        let time = match read(&stamped.bytes).first() {
            Some(Tlv::Hello { sent, .. }) => *sent,
            _ => None,
        };
        assert_eq!(time, packet.sent_at.map(|_| 0x0102_0304));
    }
}
