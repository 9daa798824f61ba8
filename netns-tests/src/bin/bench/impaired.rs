//! A link that loses and reorders.

use anyhow::{Error, Result};
use netns_tests::traffic::Congestion;
use netns_tests::{Impairment, Lab, millis};

use crate::line::Line;
use crate::system::System;
use crate::tunnels::Tunnels;

/// Each way; the round trip is twice as long.
const DELAY_MS: u64 = 5;
const RATE_KBIT: u64 = 300_000;
/// Of the frames of each direction.
const LOSS: f64 = 0.005;
const EARLY: f64 = 0.01;
/// By chance, a rate differs from one second to the next.
const LONGER: u8 = 4;

pub(crate) fn measure(system: &System, seconds: u8, repetition: u32) -> Result<Option<Vec<f64>>> {
    let lab = Lab::new("bench");
    let hosts = Line::hosts(&lab, 2);
    let impairment = Impairment {
        delay: millis(DELAY_MS),
        rate_kbit: Some(RATE_KBIT),
        loss: LOSS,
        early: EARLY,
        // One row of chances for all systems of a repetition.
        seed: Some(repetition.into()),
        ..Impairment::default()
    };
    let (link, wire) = lab.wire(&hosts[0], &hosts[1], impairment);
    let line = Line {
        hosts,
        links: vec![link],
    };
    let Some(tunnels) = Tunnels::start(system, &lab, &line)? else {
        return Ok(None);
    };
    let way = line.stretch(1, &tunnels)?;
    let rate = |congestion: Congestion| {
        if congestion.is_here(line.first()) {
            way.tcp(1, seconds * LONGER, congestion)
                .map(|rate| rate.mbit)
        } else {
            Ok(f64::NAN)
        }
    };
    let cubic = rate(Congestion::Cubic).map_err(Error::msg)?;
    let bbr = rate(Congestion::Bbr).map_err(Error::msg)?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let late = tunnels.nodes().last().map_or(f64::NAN, |node| {
        let refused = node.drops().get("replayed").copied().unwrap_or(0);
        refused as f64 * 1e6 / wire.frames()[0].sent as f64
    });
    tunnels.end()?;
    Ok(Some(vec![cubic, bbr, late]))
}
