//! What is special about BIRD: its configuration, its command line, and the tables of its client.

use std::path::Path;

use crate::stock::{StockNeighbour, StockRoute, StockSettings};

/// The metric of what cannot be reached.
const INFINITY: u16 = u16::MAX;
/// What is worth knowing when a test has failed.
pub(crate) const SHOWN: [&str; 5] = [
    "show babel interfaces",
    "show babel neighbors",
    "show babel entries",
    "show babel routes",
    "show route all",
];

pub(crate) fn configuration(settings: &StockSettings, stub: &str, log: &Path) -> String {
    let interfaces: Vec<String> = settings
        .interfaces
        .iter()
        .map(|interface| format!("\"{interface}\""))
        .collect();
    format!(
        "log \"{log}\" all;\n\
         # Babel's own is random, and this unused.\n\
         router id 10.0.0.1;\n\
         protocol device {{ scan time 60; }}\n\
         protocol direct {{ ipv6; interface \"{stub}\"; }}\n\
         protocol kernel {{ ipv6 {{ export where source = RTS_BABEL; }}; }}\n\
         protocol babel {{\n\
         \trandomize router id yes;\n\
         \tinterface {interfaces} {{ type wired; hello interval {hello} ms; update interval {update} ms; }};\n\
         \tipv6 {{ import all; export where source ~ [ RTS_DEVICE, RTS_BABEL ]; }};\n\
         }}\n",
        log = log.display(),
        interfaces = interfaces.join(", "),
        hello = settings.hello.as_millis(),
        update = settings.update.as_millis(),
    )
}

pub(crate) fn command(configuration: &Path, pid: &Path, socket: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    vec![
        "bird".into(),
        "-f".into(),
        "-c".into(),
        path(configuration),
        "-P".into(),
        path(pid),
        "-s".into(),
        path(socket),
    ]
}

/// The rows of a table whose first column is an address or a prefix.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| {
            words
                .first()
                .is_some_and(|word| word.matches(':').count() > 1)
        })
}

fn metric(word: &str) -> Option<u16> {
    word.parse().ok().filter(|metric| *metric != INFINITY)
}

/// Reads `show babel neighbors`.
pub(crate) fn neighbours(text: &str) -> Vec<StockNeighbour> {
    let neighbour = |words: Vec<&str>| match *words.as_slice() {
        [address, interface, cost, ..] => Some(StockNeighbour {
            address: address.parse().ok()?,
            interface: interface.to_owned(),
            cost: metric(cost),
            rtt_ms: None,
        }),
        _ => None,
    };
    rows(text).filter_map(neighbour).collect()
}

/// Reads `show babel routes`: `*` is selected, `+` could be.
pub(crate) fn routes(text: &str) -> Vec<StockRoute> {
    let route = |words: Vec<&str>| match *words.as_slice() {
        [prefix, via, interface, distance, flag, ..] => Some(StockRoute {
            prefix: prefix.parse().ok()?,
            via: via.parse().ok()?,
            interface: interface.to_owned(),
            metric: metric(distance),
            is_selected: flag == "*",
        }),
        _ => None,
    };
    rows(text).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let text = "BIRD 2.0.12 ready.\nbabel1:\n\
            IP address                Interface  Metric Routes Hellos Expires Auth\n\
            fe80::8008:2ff:fe50:6f87  e0             96      1      8   1.238 No  \n\
            fe80::1                   e1          65535      0      3   1.238 No  \n";
        let costs: Vec<_> = neighbours(text)
            .into_iter()
            .map(|neighbour| (neighbour.interface, neighbour.cost))
            .collect();
        assert_eq!(
            costs,
            [("e0".to_owned(), Some(96)), ("e1".to_owned(), None)]
        );

        let text = "BIRD 2.0.12 ready.\nbabel1:\n\
            Prefix                   Nexthop                   Interface Metric F Seqno Expires\n\
            600:0:0:b::/64           fe80::8008:2ff:fe50:6f87  e0            96 * 18021  10.993\n\
            600:0:0:c::/64           fe80::8008:2ff:fe50:6f87  e0         65535   18021  10.993\n";
        let found = routes(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].is_selected && found[0].metric == Some(96));
        assert!(!found[1].is_selected && found[1].metric.is_none());
    }
}
