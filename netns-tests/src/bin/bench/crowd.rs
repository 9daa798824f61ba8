//! One meshd with many peers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use netns_tests::settings::PORT;
use netns_tests::traffic::{Stream, tcp_serve};
use netns_tests::usage::Usage;
use netns_tests::wait::{pace, poll_until};
use netns_tests::{Daemon, Host, Identity, Lab, Settings, millis, secs};

use crate::scene::peak_mb;

/// Peers of the hub, each in a namespace of its own.
const PEERS: usize = 50;
/// So many of them send at the same time.
const SENDERS: usize = 10;
/// What each of these sends, and how fast at most (bytes, a second).
const BYTES: u64 = 64 << 20;
const NO_LIMIT: u64 = 0;
/// How long the hub is looked at while all are idle.
const IDLE: Duration = secs(20);
/// The hub is at rest when two looks of this length differ by less than [`ALIKE`], or after so many.
const LOOK: Duration = secs(5);
const LOOKS: usize = 12;
const ALIKE: f64 = 0.1;
/// Where the server is.
const SERVER: u16 = 7000;

pub(crate) fn measure() -> Result<Vec<f64>> {
    let lab = Lab::new("bench");
    let switch = lab.switch("lan");
    let hosts: Vec<Host> = (0..=PEERS).map(|n| lab.host(&format!("n{n}"))).collect();
    let ids: Vec<Identity> = hosts.iter().map(|_| lab.identity()).collect();
    let at_hub = SocketAddr::new(switch.plug(&hosts[0]).v4.into(), PORT);
    let settings = |number: usize| Settings::new(&ids[number]).log_level("info");
    let hub = (1..=PEERS).fold(settings(0), |settings, peer| {
        settings.peer(&format!("n{peer}"), &ids[peer], None)
    });
    let hub = hosts[0].meshd(hub);
    let peers: Vec<Daemon> = (1..=PEERS)
        .map(|number| {
            let _port = switch.plug(&hosts[number]);
            hosts[number].launch_meshd(settings(number).peer("n0", &ids[0], Some(at_hub)))
        })
        .collect();
    for peer in &peers {
        let links = || match hub.links() {
            Ok(links) if links.iter().any(|link| link.address == peer.address()) => Ok(()),
            Ok(links) => Err(format!("{} links", links.len())),
            Err(err) => Err(err),
        };
        poll_until(secs(120), links).map_err(|late| Error::msg(late.last))?;
        poll_until(secs(60), || hosts[0].ping(peer.address()))
            .map_err(|late| Error::msg(late.last))?;
    }
    let idle = idle_percent(&hub);

    let target = SocketAddr::new(hub.address().into(), SERVER);
    let _server = tcp_serve(&hosts[0], target);
    let streams: Vec<Stream> = hosts[1..=SENDERS]
        .iter()
        .map(|host| Stream::start(host, target, BYTES, NO_LIMIT))
        .collect();
    for stream in streams {
        stream.finish(secs(120)).map_err(Error::msg)?;
    }
    Ok(vec![peak_mb(&[hub.id()])?, idle])
}

/// Percent of one processor that a node uses once it is at rest.
fn idle_percent(node: &Daemon) -> f64 {
    let id = [node.id()];
    let used = |length: Duration| {
        let before = Usage::of(&id).processor;
        let start = Instant::now();
        pace(start + length);
        let used = Usage::of(&id).processor.saturating_sub(before);
        used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0
    };
    pace(Instant::now() + millis(500));
    let mut last = used(LOOK);
    for _ in 1..LOOKS {
        let now = used(LOOK);
        let is_alike = (now - last).abs() < ALIKE * now.max(last);
        last = now;
        if is_alike {
            break;
        }
    }
    used(IDLE)
}
