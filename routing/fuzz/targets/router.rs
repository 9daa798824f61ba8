//! What neighbours, the data plane and time do to a router: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use std::net::Ipv6Addr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use routing::origin::{Own, Owner};
use routing::wire::PacketWriter;
use routing::{
    Cast, Config, Event, Hint, LinkConfig, LinkId, Peer, Router, RouterId, Verdict, wire,
};

/// The most that happens in one life.
const STEPS: usize = 48;
const MTU: u16 = 1_420;

/// Bytes that run out, and are 0 then.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(self.0.len().min(length));
        self.0 = rest;
        taken
    }
}

fn address(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into())
}

fn prefix(bits: u128, length: u8) -> Ipv6Network {
    Ipv6Network::new(Ipv6Addr::from(bits), length).expect("a length of a prefix")
}

fn overlay() -> Ipv6Network {
    prefix(0x600 << 112, 8)
}

/// Two neighbours of the router's kind, and one of each plain kind.
fn config(link: u8) -> LinkConfig {
    let local = address(100);
    match link {
        0 | 1 => LinkConfig::meshd(local, address(link), RouterId([link + 1; 8]), MTU),
        2 => LinkConfig::stock(
            local,
            Peer::Legacy {
                allow: vec![overlay(), prefix(0x2001 << 112, 16)],
            },
            MTU,
        ),
        _ => LinkConfig::stock(
            local,
            Peer::Stub {
                prefixes: vec![prefix(0x601_u128 << 112, 64)],
            },
            MTU,
        ),
    }
}

fn owner() -> Owner {
    Owner {
        router_id: RouterId([0x77; 8]),
        prefix: prefix(0x601_u128 << 112, 64),
    }
}

/// Does what the bytes say, one thing after the other, and looks after each whether all is sound and every deadline is kept.
pub(crate) fn live(bytes: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "any beginning will do")]
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let mut bytes = Bytes(bytes);
    let mut now = *START;
    let own = Own::new(&[7; 32], owner(), None);
    let mut router = Router::new(Config::new(overlay()), own, 1, now);
    router.announce(owner().prefix, now);
    for link in 0..4 {
        router.add_link(LinkId(link.into()), config(link), now);
    }
    for _ in 0..STEPS {
        if bytes.0.is_empty() {
            break;
        }
        let what = bytes.byte();
        let number = what >> 4 & 3;
        let link = LinkId(number.into());
        match what & 15 {
            0..=6 => {
                let length = usize::from(bytes.byte()) * 4;
                let body = bytes.take(length);
                let header = [42, 2, (body.len() >> 8) as u8, body.len() as u8];
                let packet = [&header, body].concat();
                // A packet that cannot be read is nothing special here.
                let _read =
                    router.handle_packet(link, address(number), Cast::Multicast, &packet, now, now);
            }
            7 => {
                let mut writer = PacketWriter::unicast(MTU, address(number));
                let hello = wire::Tlv::Hello {
                    kind: wire::HelloKind::Multicast,
                    seqno: routing::Seqno(bytes.byte().into()),
                    interval: Some(routing::Interval(65)),
                    sent: None,
                };
                let ihu = wire::Tlv::Ihu {
                    address: None,
                    rxcost: routing::NOMINAL,
                    interval: routing::Interval(195),
                    echo: None,
                };
                for tlv in [hello, ihu] {
                    writer.push(&tlv).expect("a greeting may be sent");
                }
                for packet in writer.finish() {
                    let from = address(number);
                    router
                        .handle_packet(link, from, Cast::Multicast, &packet.bytes, now, now)
                        .expect("a greeting can be read");
                }
            }
            8 => {
                let hints = [
                    Hint::Silent,
                    Hint::Heard,
                    Hint::CarrierLost,
                    Hint::CarrierBack,
                ];
                router.handle_hint(link, hints[usize::from(bytes.byte() & 3)], now);
            }
            9 => {
                let to = prefix(u128::from(bytes.byte()) << 64 | 0x600 << 112, 64);
                let verdict = if bytes.byte() & 1 == 0 {
                    Verdict::Failed
                } else {
                    Verdict::Answered
                };
                router.handle_feedback(to, link, verdict, now);
            }
            10 => router.remove_link(link, now),
            11 => router.add_link(link, config(number), now),
            12 => router.announce(prefix(u128::from(bytes.byte()) << 112, 16), now),
            13 => router.withdraw(prefix(u128::from(bytes.byte()) << 112, 16), now),
            14 => now += Duration::from_millis(u64::from(bytes.byte()) * 10),
            _ => now += Duration::from_secs(bytes.byte().into()),
        }
        settle(&mut router, now);
    }
}

/// Takes out all there is, and does what is due.
fn settle(router: &mut Router, now: Instant) {
    for turn in 0.. {
        assert!(turn < 64, "{:?} is never done", router.poll_timeout());
        while let Some(event) = router.poll_event() {
            if let Event::Verify { id, job } = event {
                let outcome = job.run(|_| None);
                router.handle_outcome(id, outcome, now);
            }
        }
        while let Some(transmit) = router.poll_transmit() {
            let packet = wire::Packet::parse(&transmit.packet.bytes).expect("our own packets");
            let mut tlvs = packet.tlvs(address(100));
            tlvs.by_ref().for_each(drop);
            assert_eq!(tlvs.skipped().total(), 0, "our own packets");
        }
        router.check().expect("all is sound");
        match router.poll_timeout() {
            Some((at, _)) if at <= now => router.handle_timeout(now),
            Some(_) | None => break,
        }
    }
}
