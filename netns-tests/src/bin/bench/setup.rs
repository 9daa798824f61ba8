//! How long it takes until packets flow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use netns_tests::speed::first_answer;
use netns_tests::traffic::udp_echo;
use netns_tests::{Cable, Lab, Process, secs};

use crate::line::Line;
use crate::system::System;
use crate::table::median;
use crate::tunnels::Tunnels;

/// How often it is tried in each repetition.
const TRIES: usize = 3;
/// Where the echo is.
const PORT: u16 = 7000;
const PATIENCE: Duration = secs(30);

/// When the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// Before anything of the system is there.
    Start,
    /// When it is at rest, and the first packet is sent.
    FirstPacket,
}

pub(crate) fn measure(system: &System) -> Result<Option<Vec<f64>>> {
    let columns = [
        (2, From::Start),
        (2, From::FirstPacket),
        (3, From::FirstPacket),
    ];
    let mut figures = Vec::new();
    for (hosts, from) in columns {
        let mut tries = Vec::new();
        for _ in 0..TRIES {
            let time = attempt(system, hosts, from)?;
            tries.push(time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3));
        }
        figures.push(median(tries));
    }
    Ok(Some(figures))
}

/// One try, on hosts of its own.
fn attempt(system: &System, hosts: usize, from: From) -> Result<Option<Duration>> {
    let lab = Lab::new("bench");
    let line = Line::lay(&lab, hosts, Cable::default());
    let _echo: Process = udp_echo(line.last(), SocketAddr::from(([0; 8], PORT)));
    let mut start = Instant::now();
    let Some(tunnels) = Tunnels::start(system, &lab, &line)? else {
        return Ok(None);
    };
    if from == From::FirstPacket {
        tunnels.settle();
        start = Instant::now();
    }
    let target = tunnels.address(hosts - 1).context("no way to the end")?;
    let answered = first_answer(line.first(), SocketAddr::new(target, PORT), start, PATIENCE);
    let answered = answered.map_err(Error::msg)?;
    tunnels.end()?;
    Ok(Some(answered))
}
