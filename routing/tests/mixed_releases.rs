//! Nodes of different releases route together. `releases/*.hex` is what nodes of earlier wire formats have said to a new neighbour, each
//! packet with the milliseconds at which it arrived. Whoever changes the format adds a file, and keeps those before:
//! `RELEASE=2 cargo test -p routing --test mixed_releases` writes `releases/2.hex`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and any time to begin at will do"
)]

mod common;
mod lab;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{block, hex, packet};
use lab::{address, derive, overlay, own};
use routing::extension::TLV_TYPE;
use routing::sim::{millis, owner, secs};
use routing::wire::{Packet, Tlv};
use routing::{Cast, Config, Event, LinkConfig, LinkId, Reason, Router, Trust};

/// How long a recording is.
const SPAN: Duration = secs(4);
const LATENCY: Duration = millis(2);
const MTU: u16 = 1_420;

/// A node of this release.
fn node(number: usize, neighbours: &[usize], now: Instant) -> Router {
    let mut router = Router::new(Config::new(overlay()), own(number, None), 1, now);
    router.announce(owner(number).prefix, now);
    for &neighbour in neighbours {
        let mut config = LinkConfig::meshd(
            address(number),
            address(neighbour),
            owner(neighbour).router_id,
            MTU,
        );
        config.tag = Some(number.max(neighbour) as u32);
        router.add_link(LinkId(neighbour as u32), config, now);
    }
    router
}

/// What a router has to say now: to whom, and the packet.
fn drain(router: &mut Router, now: Instant) -> Vec<(usize, Vec<u8>)> {
    let mut said = Vec::new();
    loop {
        while let Some(event) = router.poll_event() {
            if let Event::Verify { id, job } = event {
                router.handle_outcome(id, job.run(derive), now);
            }
        }
        let Some(transmit) = router.poll_transmit() else {
            return said;
        };
        said.push((transmit.link.0 as usize, transmit.packet.bytes));
    }
}

fn hear(router: &mut Router, from: usize, to: usize, bytes: &[u8], now: Instant) {
    let (link, cast) = (LinkId(from as u32), Cast::Unicast(address(to)));
    router
        .handle_packet(link, address(from), cast, bytes, now, now)
        .unwrap();
}

/// What node 1 says to node 0, which it has not met before, while it has node 2 behind it: packets, and when they arrive.
fn record() -> Vec<(Duration, Vec<u8>)> {
    let start = Instant::now();
    let mut routers = [
        node(0, &[1], start),
        node(1, &[0, 2], start),
        node(2, &[1], start),
    ];
    let mut under_way: VecDeque<(Duration, usize, usize, Vec<u8>)> = VecDeque::new();
    let mut recording = Vec::new();
    let mut elapsed = Duration::ZERO;
    while elapsed < SPAN {
        let now = start + elapsed;
        while let Some((_, from, to, bytes)) =
            under_way.pop_front_if(|(arrives, ..)| *arrives <= elapsed)
        {
            hear(&mut routers[to], from, to, &bytes, now);
            if (from, to) == (1, 0) {
                recording.push((elapsed, bytes));
            }
        }
        for (number, router) in routers.iter_mut().enumerate() {
            router.handle_timeout(now);
            for (to, bytes) in drain(router, now) {
                under_way.push_back((elapsed + LATENCY, number, to, bytes));
            }
        }
        elapsed += millis(1);
    }
    recording
}

/// A node of this release hears a recording.
fn replay(recording: &[(Duration, Vec<u8>)]) -> (Router, Vec<Vec<u8>>) {
    let start = Instant::now();
    let mut router = node(0, &[1], start);
    let mut said = Vec::new();
    let mut rest = recording.iter().peekable();
    let mut elapsed = Duration::ZERO;
    while elapsed < SPAN {
        let now = start + elapsed;
        while let Some((_, bytes)) = rest.next_if(|(at, _)| *at <= elapsed) {
            hear(&mut router, 1, 0, bytes, now);
        }
        router.handle_timeout(now);
        said.extend(drain(&mut router, now).into_iter().map(|(_, bytes)| bytes));
        elapsed += millis(1);
    }
    (router, said)
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases");
    if let Ok(release) = std::env::var("RELEASE") {
        let mut text = format!("# What a node of wire format {release} says to a new neighbour.\n");
        for (at, bytes) in record() {
            let digits = bytes.iter().fold(String::new(), |mut digits, byte| {
                write!(digits, "{byte:02x}").unwrap();
                digits
            });
            writeln!(text, "{} {digits}", at.as_millis()).unwrap();
        }
        fs::write(folder.join(format!("{release}.hex")), text).unwrap();
    }
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn read(path: &Path) -> Vec<(Duration, Vec<u8>)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (at, digits) = line.split_once(' ').unwrap();
            (millis(at.parse().unwrap()), hex(digits))
        })
        .collect()
}

/// That a node has the routes of nodes 1 and 2, and has found nothing wrong with their proofs.
#[track_caller]
fn knows_both(router: &Router, what: &str) {
    for (number, metric) in [(1, 96), (2, 192)] {
        let route = router
            .routes()
            .find(|route| route.prefix == owner(number).prefix && route.is_selected);
        let found = route.map(|route| (route.trust, route.metric.0));
        assert_eq!(
            found,
            Some((Trust::Proven, metric)),
            "{what}: node {number}"
        );
    }
    for reason in [Reason::WrongProof, Reason::StaleProof] {
        assert_eq!(router.discards().count(reason), 0, "{what}: {reason:?}");
    }
}

/// What kinds of messages there are in packets, and how long those of ours are.
fn kinds<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    for bytes in packets {
        let mut tlvs = Packet::parse(bytes).unwrap().tlvs(address(1));
        kinds.extend(tlvs.by_ref().map(|tlv| match tlv {
            Tlv::Hello { kind, sent, .. } => format!("{kind:?} hello, timed: {}", sent.is_some()),
            Tlv::Ihu { echo, .. } => format!("ihu, timed: {}", echo.is_some()),
            Tlv::Update(update) => {
                format!("update, proof: {:?}", update.proof.map(|proof| proof.len()))
            }
            Tlv::AckRequest { .. } => "ack request".to_owned(),
            Tlv::Ack { .. } => "ack".to_owned(),
            Tlv::RouteRequest { .. } => "route request".to_owned(),
            Tlv::SeqnoRequest { .. } => "seqno request".to_owned(),
            Tlv::Extension(body) => {
                format!("version {} kind {} of {}", body[0], body[1], body.len())
            }
        }));
        assert_eq!(tlvs.skipped().total(), 0);
    }
    kinds
}

#[test]
fn what_earlier_releases_say_is_understood() {
    let files = files();
    for file in &files {
        let recording = read(file);
        let (router, _) = replay(&recording);
        knows_both(&router, &file.display().to_string());
        assert_eq!(router.discards().count(Reason::UnknownMessage), 0);
    }
    assert!(!files.is_empty());
}

#[test]
fn nothing_is_said_that_the_last_release_would_not_know() {
    let newest = files().into_iter().max().unwrap();
    let theirs = read(&newest);
    let known = kinds(theirs.iter().map(|(_, bytes)| bytes));
    let (_, answers) = replay(&theirs);
    let ours = record();
    let said = kinds(answers.iter().chain(ours.iter().map(|(_, bytes)| bytes)));
    // Node 0 asks for the record of node 2, which node 1 never does here.
    let mut new: Vec<_> = said.difference(&known).collect();
    new.retain(|kind| !kind.starts_with("version 1 kind 1 of 14"));
    assert!(new.is_empty(), "{new:?}; known: {known:?}");
}

#[test]
fn what_later_releases_may_say_is_passed_over() {
    let recording = record();
    let version_of = |version: u8, kind: u8| block(TLV_TYPE, &[version, kind, 1, 2, 3, 4, 5]);
    let strange: Vec<Vec<u8>> = vec![
        // A later version of ours, a kind that is not known, a TLV and an optional sub-TLV that are not.
        version_of(2, 1),
        version_of(1, 77),
        block(250, &[9; 20]),
        block(4, &[0, 0, 0, 7, 0, 67, 100, 3, 1, 2, 3]),
    ];
    let recording: Vec<_> = recording
        .into_iter()
        .map(|(at, bytes)| {
            let hello = Packet::parse(&bytes)
                .unwrap()
                .tlvs(address(1))
                .find_map(|tlv| {
                    if let Tlv::Hello { seqno, .. } = tlv {
                        Some(seqno.0.to_be_bytes())
                    } else {
                        None
                    }
                });
            let mut body = Vec::new();
            for tlv in &strange {
                let mut tlv = tlv.clone();
                match (tlv[0], hello) {
                    // The same Hello as the one it precedes.
                    (4, Some(seqno)) => tlv[4..6].copy_from_slice(&seqno),
                    (4, None) => continue,
                    _ => {}
                }
                body.extend(tlv);
            }
            body.extend(&bytes[4..]);
            (at, packet(&body))
        })
        .collect();
    let (router, _) = replay(&recording);
    knows_both(&router, "with strange messages");
    // And counted.
    assert!(router.discards().count(Reason::UnknownMessage) > 0);
    let skipped: u64 = router.links().map(|link| link.skipped.total()).sum();
    assert!(skipped > 0);
}
