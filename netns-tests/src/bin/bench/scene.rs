//! What is measured.

use anyhow::{Context as _, Error, Result};
use netns_tests::traffic::Congestion;
use netns_tests::usage::Usage;
use netns_tests::{Cable, Lab, Offloads};

use crate::line::Line;
use crate::system::System;
use crate::tunnels::Tunnels;
use crate::{crowd, impaired, setup};

/// A network, and what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    Direct,
    Plain,
    Line,
    Impaired,
    Setup,
    Crowd,
}

/// A figure of a scene. The usage text says what it means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// Whether it is worth comparing with that of other systems.
    pub(crate) is_compared: bool,
}

const fn compared(name: &'static str) -> Column {
    Column {
        name,
        is_compared: true,
    }
}

const fn alone(name: &'static str) -> Column {
    Column {
        name,
        is_compared: false,
    }
}

const DIRECT: [Column; 10] = [
    compared("TCP 1 Mbit/s"),
    compared("TCP 4 Mbit/s"),
    compared("CPU s/GB"),
    compared("64 B kpps"),
    alone("64 B loss %"),
    compared("idle p50 us"),
    alone("idle p99 us"),
    compared("load p50 ms"),
    alone("load p99 ms"),
    alone("RSS MB"),
];
const IMPAIRED: [Column; 3] = [
    compared("cubic Mbit/s"),
    compared("bbr Mbit/s"),
    alone("late /M"),
];
const SETUP: [Column; 3] = [
    compared("start ms"),
    compared("pair ms"),
    compared("line ms"),
];
const CROWD: [Column; 2] = [alone("hub MB"), alone("idle %")];
const LINE: [Column; 8] = [
    compared("TCP 1 Mbit/s"),
    alone("hop Mbit/s"),
    alone("x hop"),
    compared("CPU s/GB"),
    compared("idle p50 us"),
    compared("load p50 ms"),
    alone("load p99 ms"),
    alone("RSS MB"),
];

impl Scene {
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Plain,
        Self::Line,
        Self::Impaired,
        Self::Setup,
        Self::Crowd,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Plain => "plain",
            Self::Line => "line",
            Self::Impaired => "impaired",
            Self::Setup => "setup",
            Self::Crowd => "crowd",
        }
    }

    pub(crate) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Direct | Self::Plain => &DIRECT,
            Self::Line => &LINE,
            Self::Impaired => &IMPAIRED,
            Self::Setup => &SETUP,
            Self::Crowd => &CROWD,
        }
    }

    /// Whether it has anything to ask of that system.
    pub(crate) fn takes(self, system: &System) -> bool {
        let is_nested = matches!(system, System::MeshdNested | System::MeshdOlder(_));
        match self {
            Self::Direct | Self::Plain | Self::Impaired => !is_nested,
            Self::Line => true,
            Self::Setup => !is_nested && *system != System::Veth,
            Self::Crowd => *system == System::Meshd,
        }
    }

    /// Figures in the order of its columns, not a number where there is none; nothing if the system cannot do this.
    pub(crate) fn measure(
        self,
        system: &System,
        seconds: u8,
        repetition: u32,
    ) -> Result<Option<Vec<f64>>> {
        match self {
            Self::Direct => direct(system, seconds, Offloads::On),
            Self::Plain => direct(system, seconds, Offloads::Off),
            Self::Line => line(system, seconds),
            Self::Impaired => impaired::measure(system, seconds, repetition),
            Self::Setup => setup::measure(system),
            Self::Crowd => crowd::measure().map(Some),
        }
    }
}

fn direct(system: &System, seconds: u8, offloads: Offloads) -> Result<Option<Vec<f64>>> {
    let lab = Lab::new("bench");
    let cable = Cable {
        offloads,
        ..Cable::default()
    };
    let line = Line::lay(&lab, 2, cable);
    let Some(tunnels) = Tunnels::start(system, &lab, &line)? else {
        return Ok(None);
    };
    let way = line.stretch(1, &tunnels)?;
    let tcp = |streams| {
        let rate = way.tcp(streams, seconds, Congestion::Cubic);
        rate.map_err(Error::msg)
    };
    let (one, four) = (tcp(1)?, tcp(4)?);
    let small = way.small(seconds.min(2)).map_err(Error::msg)?;
    let idle = way.idle(seconds).map_err(Error::msg)?;
    let loaded = way.loaded(seconds).map_err(Error::msg)?;
    let figures = vec![
        one.mbit,
        four.mbit,
        one.processor_per_gb,
        small.kpps,
        small.loss_percent,
        idle.quantile(0.5) * 1e3,
        idle.quantile(0.99) * 1e3,
        loaded.quantile(0.5),
        loaded.quantile(0.99),
        peak_mb(&tunnels.ids())?,
    ];
    tunnels.end()?;
    Ok(Some(figures))
}

fn line(system: &System, seconds: u8) -> Result<Option<Vec<f64>>> {
    let lab = Lab::new("bench");
    let line = Line::lay(&lab, 3, Cable::default());
    let Some(tunnels) = Tunnels::start(system, &lab, &line)? else {
        return Ok(None);
    };
    // A stock router in the middle is nobody whom users' packets are for.
    let hop = if tunnels.address(1).is_some() {
        let rate = line
            .stretch(1, &tunnels)?
            .tcp(1, seconds, Congestion::Cubic);
        rate.map_err(Error::msg)?.mbit
    } else {
        f64::NAN
    };
    let way = line.stretch(2, &tunnels)?;
    let idle = way.idle(seconds).map_err(Error::msg)?;
    let both = way.tcp(1, seconds, Congestion::Cubic).map_err(Error::msg)?;
    let loaded = way.loaded(seconds).map_err(Error::msg)?;
    let figures = vec![
        both.mbit,
        hop,
        both.mbit / hop,
        both.processor_per_gb,
        idle.quantile(0.5) * 1e3,
        loaded.quantile(0.5),
        loaded.quantile(0.99),
        peak_mb(&tunnels.ids())?,
    ];
    tunnels.end()?;
    Ok(Some(figures))
}

/// The largest of the processes' peaks.
pub(crate) fn peak_mb(ids: &[u32]) -> Result<f64> {
    let peak = Usage::peak_resident_kib(ids).context("a program has ended")?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    Ok(peak as f64 / 1024.0)
}
