//! The benchmark runs: what it prints is complete. No figure is judged.
#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::lab::{program, spawn_outside};
use netns_tests::{Lab, secs};

#[test]
fn the_benchmark_prints_a_whole_table_of_meshd_and_a_system_of_the_users() {
    let lab = Lab::new("the benchmark");
    let hook = format!(
        "mine={}/systems/wireguard wireguard-go -f",
        env!("CARGO_MANIFEST_DIR")
    );
    let bench = program("bench");
    let mut process = spawn_outside(
        &[
            &bench, "-n", "1", "-t", "1", "direct", "meshd", "--system", &hook,
        ],
        &lab.directory().join("bench.log"),
    );
    let status = process.wait(secs(90));
    let log = process.log();
    assert!(status.success(), "{log}");

    let mut lines = log.lines().skip_while(|line| *line != "direct: medians");
    lines.next().unwrap_or_else(|| panic!("no table: {log}"));
    let columns = lines
        .next()
        .unwrap()
        .split("  ")
        .filter(|it| !it.is_empty());
    let columns: Vec<&str> = columns.map(str::trim).collect();
    for name in [
        "TCP 1 Mbit/s",
        "CPU s/GB",
        "64 B kpps",
        "load p99 ms",
        "RSS MB",
    ] {
        assert!(columns.contains(&name), "{columns:?} without {name}");
    }
    let systems: Vec<&str> = lines
        .map(|row| {
            let mut words = row.split_whitespace();
            let system = words.next().unwrap_or_default();
            let figures: Vec<f64> = words.map(|word| word.parse().unwrap_or(f64::NAN)).collect();
            assert_eq!(figures.len(), columns.len(), "{row}");
            assert!(figures.iter().all(|figure| figure.is_finite()), "{row}");
            // Nothing that was measured of a tunnel is nothing, but the losses.
            let zeros = figures.iter().filter(|figure| **figure <= 0.0).count();
            assert!(zeros <= 1, "{row}");
            system
        })
        .collect();
    assert_eq!(systems, ["meshd", "mine"], "{log}");
}
