//! Packets of other Babel speakers say what they said: `vectors/*.hex`, captured between namespaces.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::hex;
use routing::Interval;
use routing::wire::{HelloKind, Packet, Tlv};

/// What a TLV says, in words that can be compared with `tcpdump -vvv`.
fn words(tlv: &Tlv<'_>) -> String {
    let every = |interval: Option<Interval>| match interval {
        Some(interval) => format!("every {:.2} s", interval.duration().as_secs_f64()),
        None => "once".to_owned(),
    };
    match tlv {
        Tlv::AckRequest { opaque, interval } => format!("ack request {opaque} {interval:?}"),
        Tlv::Ack { opaque } => format!("ack {opaque}"),
        Tlv::Hello {
            kind,
            seqno,
            interval,
            sent,
        } => {
            let kind = match kind {
                HelloKind::Multicast => "hello",
                HelloKind::Unicast => "unicast hello",
            };
            let mut words = format!("{kind} {} {}", seqno.0, every(*interval));
            if let Some(sent) = sent {
                write!(words, " sent {sent}").unwrap();
            }
            words
        }
        Tlv::Ihu {
            address,
            rxcost,
            interval,
            echo,
        } => {
            let whom = address.map_or_else(|| "you".to_owned(), |address| address.to_string());
            let mut words = format!("ihu {whom} rxcost {rxcost} {}", every(Some(*interval)));
            if let Some(echo) = echo {
                write!(words, " origin {} received {}", echo.origin, echo.received).unwrap();
            }
            words
        }
        Tlv::Update(update) => {
            let prefix = update
                .prefix
                .map_or_else(|| "everything".to_owned(), |prefix| prefix.to_string());
            let every = every(update.interval);
            let (seqno, metric) = (update.seqno.0, update.metric);
            match update.router_id {
                Some(id) => {
                    let via = update.next_hop;
                    format!(
                        "update {prefix} of {id} via {via} seqno {seqno} metric {metric} {every}"
                    )
                }
                None => format!("retraction {prefix} seqno {seqno} metric {metric} {every}"),
            }
        }
        Tlv::RouteRequest { prefix: None } => "request for everything".to_owned(),
        Tlv::RouteRequest {
            prefix: Some(prefix),
        } => format!("request for {prefix}"),
        Tlv::SeqnoRequest {
            prefix,
            seqno,
            hop_count,
            router_id,
        } => format!(
            "request for {prefix} of {router_id} seqno {} hop count {hop_count}",
            seqno.0
        ),
        Tlv::Extension(body) => format!("extension of {} bytes", body.len()),
    }
}

#[test]
fn other_speakers_are_understood() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut count = 0;
    for file in fs::read_dir(vectors).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let (packet, expected) = text.split_once("\ngives\n").unwrap();
        let (_, packet) = packet.split_once("\nfrom ").unwrap();
        let (source, dump) = packet.split_once('\n').unwrap();
        let bytes = hex(dump);
        let mut tlvs = Packet::parse(&bytes).unwrap().tlvs(source.parse().unwrap());
        let mut found = String::new();
        for tlv in tlvs.by_ref() {
            writeln!(found, "{}", words(&tlv)).unwrap();
        }
        for (reason, count) in tlvs.skipped().iter() {
            writeln!(found, "skipped {count} {}", reason.name()).unwrap();
        }
        assert_eq!(found, expected, "{}", path.display());
        count += 1;
    }
    assert!(count >= 12, "{count} vectors");
}
