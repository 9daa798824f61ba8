//! What a stranger's bytes are as a packet: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::net::Ipv6Addr;

use routing::wire::{Packet, Tlv, Update};

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Reads the bytes as a packet, and as the body of one. What comes out is complete, and no more than the bytes can hold.
pub(crate) fn read(bytes: &[u8]) {
    let body = &bytes[..bytes.len().min(0xffff)];
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let whole = [&[42, 2], &length[..], body].concat();
    for datagram in [bytes, &whole] {
        let Ok(packet) = Packet::parse(datagram) else {
            continue;
        };
        let mut tlvs = packet.tlvs(SOURCE);
        let mut count = 0;
        for tlv in tlvs.by_ref() {
            count += 1;
            check(&tlv);
        }
        assert!(count + tlvs.skipped().total() <= datagram.len() as u64 / 2);
        assert_eq!(tlvs.next(), None, "nothing comes after the end");
    }
}

fn check(tlv: &Tlv<'_>) {
    match *tlv {
        Tlv::AckRequest { interval, .. } | Tlv::Ihu { interval, .. } => assert_ne!(interval.0, 0),
        Tlv::Hello { interval, .. } => assert!(interval.is_none_or(|interval| interval.0 > 0)),
        Tlv::Update(update) => check_update(&update),
        Tlv::SeqnoRequest {
            prefix,
            hop_count,
            router_id,
            ..
        } => {
            assert_eq!(prefix.ip(), prefix.network());
            assert!(hop_count > 0 && !router_id.is_reserved());
        }
        Tlv::RouteRequest { prefix } => {
            assert!(prefix.is_none_or(|prefix| prefix.ip() == prefix.network()));
        }
        Tlv::Ack { .. } => {}
        Tlv::Extension(body) => assert!(body.len() <= 255),
    }
}

fn check_update(update: &Update) {
    assert!(update.interval.is_none_or(|interval| interval.0 > 0));
    assert!(
        update
            .prefix
            .is_none_or(|prefix| prefix.ip() == prefix.network() && !prefix.ip().is_multicast())
    );
    assert!(!update.next_hop.is_multicast() && !update.next_hop.is_unspecified());
    if update.metric.is_finite() {
        assert!(update.prefix.is_some());
        assert!(update.router_id.is_some_and(|id| !id.is_reserved()));
    } else {
        assert_eq!((update.router_id, update.next_hop), (None, SOURCE));
    }
}
