//! Tunnels side by side, between two namespaces joined by a veth pair of 1500 bytes.
//!
//! ```text
//! bench [-n REPETITIONS] [-t SECONDS] [SYSTEM ...]
//! ```
//! The repetition is the outer loop, one system after the other, so that what changes on the machine meanwhile meets them all.
//! The ratios are medians of ratios within one repetition. Both ends share the machine's processors: compare within one run
//! only; what carries over to other machines is the CPU time per byte. Run it by `sudo ./netns-tests/bench`, which builds
//! with `--release`.
#![expect(clippy::print_stdout, reason = "it prints its results")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::traffic::{Iperf, Pings};
use netns_tests::wireguard::{Key, WireGuard};
use netns_tests::{Host, Lab, Link, Settings, millis, secs, wait_until};

/// What all others are compared with, besides meshd.
const REFERENCE: System = System::WireGuardGo;
/// Payload of the small packets, in bytes.
const SMALL: u16 = 64;
/// The kernel counts processor time in hundredths of a second for user space (`USER_HZ`, fixed on all of Linux).
const TICKS: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum System {
    Meshd,
    WireGuardGo,
    BoringTun,
    Veth,
}

impl System {
    const ALL: [Self; 4] = [Self::Meshd, Self::WireGuardGo, Self::BoringTun, Self::Veth];

    const fn name(self) -> &'static str {
        match self {
            Self::Meshd => "meshd",
            Self::WireGuardGo => "wireguard-go",
            Self::BoringTun => "boringtun",
            Self::Veth => "raw veth",
        }
    }

    fn is_here(self) -> bool {
        let on_path = |program: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|directory| directory.join(program).exists())
        };
        match self {
            Self::Meshd | Self::Veth => true,
            Self::WireGuardGo => on_path("wireguard-go"),
            Self::BoringTun => on_path("boringtun-cli"),
        }
    }
}

fn main() -> Result<()> {
    let (mut repetitions, mut seconds, mut systems) = (3_u32, 3_u8, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-n" => {
                repetitions = words
                    .next()
                    .context("-n needs a number")?
                    .parse()
                    .context("-n")?
            }
            "-t" => {
                seconds = words
                    .next()
                    .context("-t needs a number")?
                    .parse()
                    .context("-t")?
            }
            name => match System::ALL
                .into_iter()
                .find(|system| system.name().replace(' ', "-") == name)
            {
                Some(system) => systems.push(system),
                None => bail!(
                    "usage: bench [-n REPETITIONS] [-t SECONDS] [meshd] [wireguard-go] [boringtun] [raw-veth]"
                ),
            },
        }
    }
    ensure!(
        repetitions > 0 && seconds > 0,
        "at least one repetition of one second"
    );
    if systems.is_empty() {
        systems.extend(System::ALL);
    }
    for system in systems.extract_if(.., |system| !system.is_here()) {
        println!("{}: not installed, left out", system.name());
    }
    let mut results: BTreeMap<System, Vec<Figures>> = BTreeMap::new();
    for repetition in 1..=repetitions {
        for &system in &systems {
            let figures = measure(system, seconds)
                .with_context(|| format!("{}, repetition {repetition}", system.name()))?;
            println!(
                "{repetition}/{repetitions} {:13} {figures:.2?}",
                system.name()
            );
            results.entry(system).or_default().push(figures);
        }
    }
    print_table(&results);
    Ok(())
}

/// Measurements in the order of [`COLUMNS`].
type Figures = [f64; COLUMNS.len()];

const COLUMNS: [&str; 10] = [
    "TCP 1 Mbit/s",
    "TCP 4 Mbit/s",
    "CPU s/GB",
    "64 B kpps",
    "64 B loss %",
    "idle p50 us",
    "idle p99 us",
    "load p50 ms",
    "load p99 ms",
    "RSS MB",
];
/// Columns whose ratios are of interest: the two rates of TCP, processor time, small packets, idle and loaded median.
const RATIOS: [usize; 6] = [0, 1, 2, 3, 5, 7];

fn measure(system: System, seconds: u8) -> Result<Figures> {
    let lab = Lab::new("bench");
    let (a, b) = (lab.host("a"), lab.host("b"));
    let link = lab.link(&a, &b);
    let (target, tunnels) = start(system, &lab, &link);
    let ids = tunnels.ids();
    wait_until(
        secs(20),
        &format!("{} reaches the other end", system.name()),
        || a.ping(target),
    );

    let _server = Iperf::serve(&b);
    let run = |streams| Iperf::tcp(&a, target, streams, seconds).map_err(anyhow::Error::msg);
    let before = cpu_seconds(&ids)?;
    let one = run(1)?;
    let cpu = cpu_seconds(&ids)? - before;
    let four = run(4)?;
    let small = Iperf::udp(&a, target, SMALL, 2).map_err(anyhow::Error::msg)?;
    // The flood has filled every queue: begin from silence.
    wait_until(secs(10), "the queues are empty", || {
        a.ping_within(target, millis(20))
    });
    let pings =
        |count, interval| Pings::send(&a, target, count, interval).map_err(anyhow::Error::msg);
    let idle = pings(300, millis(5))?;
    let mut load = a.spawn(&format!("iperf3 -c {target} -t 4 -C cubic"));
    let loaded = pings(250, millis(10))?;
    let ended = load.wait(secs(20));
    ensure!(
        ended.success(),
        "there was no load beside the pings: {}",
        load.log()
    );
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let gigabytes = one.bytes as f64 / 1e9;
    Ok([
        one.bits_per_second / 1e6,
        four.bits_per_second / 1e6,
        cpu / gigabytes,
        small.packets_per_second / 1e3,
        small.loss * 100.0,
        idle.quantile(0.5) * 1e3,
        idle.quantile(0.99) * 1e3,
        loaded.quantile(0.5),
        loaded.quantile(0.99),
        peak_memory_mb(&ids)?,
    ])
}

/// What runs at both ends, and must not be dropped before the measurement is over.
enum Tunnels {
    None,
    Meshd([u32; 2]),
    WireGuard([WireGuard; 2]),
}

impl Tunnels {
    fn ids(&self) -> Vec<u32> {
        match self {
            Self::None => Vec::new(),
            Self::Meshd(ids) => ids.to_vec(),
            Self::WireGuard(ends) => ends.iter().map(|end| end.process().id()).collect(),
        }
    }
}

fn start(system: System, lab: &Lab, link: &Link) -> (IpAddr, Tunnels) {
    match system {
        System::Veth => (link.b.v6.into(), Tunnels::None),
        System::Meshd => {
            let (id_a, id_b) = (lab.identity(), lab.identity());
            let (for_a, for_b) =
                Settings::pair((&id_a, link.a.v4.into()), (&id_b, link.b.v4.into()));
            let quiet = |settings: Settings| settings.log_level("info");
            let (a, b) = (
                link.a.host.meshd(quiet(for_a)),
                link.b.host.meshd(quiet(for_b)),
            );
            (b.address().into(), Tunnels::Meshd([a.id(), b.id()]))
        }
        System::WireGuardGo => wireguard(link, &["wireguard-go", "-f"]),
        System::BoringTun => wireguard(
            link,
            &["boringtun-cli", "--foreground", "--disable-drop-privileges"],
        ),
    }
}

fn wireguard(link: &Link, program: &[&str]) -> (IpAddr, Tunnels) {
    let end = |host: &Host, number: u16| {
        let key = Key::generate(host);
        let end = WireGuard::start_program(
            host,
            program,
            &key,
            [0xfd78, 0, 0, 0, 0, 0, 0, number].into(),
        );
        end.listen(51820);
        end
    };
    let (a, b) = (end(&link.a.host, 1), end(&link.b.host, 2));
    a.peer(
        &b.key().public,
        "fd78::2/128",
        Some(SocketAddr::new(link.b.v4.into(), 51820)),
    );
    b.peer(
        &a.key().public,
        "fd78::1/128",
        Some(SocketAddr::new(link.a.v4.into(), 51820)),
    );
    (
        IpAddr::from([0xfd78, 0, 0, 0, 0, 0, 0, 2_u16]),
        Tunnels::WireGuard([a, b]),
    )
}

/// User and system time spent by these processes so far.
fn cpu_seconds(ids: &[u32]) -> Result<f64> {
    let mut total = 0.0;
    for id in ids {
        let path = Path::new("/proc").join(id.to_string()).join("stat");
        let stat =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // The name, in parentheses, may hold anything; fields 14 and 15 follow it as the 12th and 13th (proc(5)).
        let (_, fields) = stat.rsplit_once(')').context("the process has no name")?;
        for field in fields.split_whitespace().skip(11).take(2) {
            total += field.parse::<f64>().context("processor time")? / TICKS;
        }
    }
    Ok(total)
}

/// The larger of the processes' peaks.
fn peak_memory_mb(ids: &[u32]) -> Result<f64> {
    let mut peak = 0.0_f64;
    for id in ids {
        let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .context("no VmHWM")?;
        let kilobytes: f64 = line
            .split_whitespace()
            .next()
            .context("no VmHWM")?
            .parse()?;
        peak = peak.max(kilobytes / 1024.0);
    }
    Ok(peak)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

fn print_table(results: &BTreeMap<System, Vec<Figures>>) {
    let head = COLUMNS.map(|column| format!("{column:>14}")).concat();
    println!("\nmedians\n{:13}{head}", "");
    for (system, figures) in results {
        let row: String = (0..COLUMNS.len())
            .map(|column| {
                format!(
                    "{:>14.2}",
                    median(figures.iter().map(|figures| figures[column]).collect())
                )
            })
            .collect();
        println!("{:13}{row}", system.name());
    }
    for base in [REFERENCE, System::Veth] {
        let Some(bases) = results.get(&base) else {
            continue;
        };
        let head: String = RATIOS
            .iter()
            .map(|column| format!("{:>14}", COLUMNS[*column]))
            .collect();
        println!(
            "\nx {} (medians of the ratios within one repetition)\n{:13}{head}",
            base.name(),
            ""
        );
        for (system, figures) in results {
            let ratio = |column: usize| {
                median(
                    figures
                        .iter()
                        .zip(bases)
                        .map(|(own, base)| own[column] / base[column])
                        .collect(),
                )
            };
            let row: String = RATIOS
                .iter()
                .map(|column| format!("{:>14.2}", ratio(*column)))
                .collect();
            println!("{:13}{row}", system.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_leaves_out_what_is_no_number() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, f64::NAN, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = [std::process::id()];
        assert!(cpu_seconds(&own).is_ok_and(|seconds| seconds >= 0.0));
        assert!(peak_memory_mb(&own).is_ok_and(|megabytes| megabytes > 0.5));
    }
}
