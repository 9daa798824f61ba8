//! What is special about babeld: its configuration, its command line, and what it says on its local socket.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::Ipv6Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ipnetwork::Ipv6Network;

use crate::stock::{StockNeighbour, StockRoute, StockSettings};
use crate::wait::secs;

/// The metric of what cannot be reached.
const INFINITY: u16 = u16::MAX;

pub(crate) fn configuration(settings: &StockSettings) -> String {
    const WRITES: &str = "a string takes all that is written";
    let mut text = "skip-kernel-setup true\nrandom-id true\n".to_owned();
    // Of type tunnel: it measures round-trip times.
    writeln!(
        text,
        "default type tunnel hello-interval {} update-interval {}",
        settings.hello.as_secs_f64(),
        settings.update.as_secs_f64()
    )
    .expect(WRITES);
    for interface in &settings.interfaces {
        writeln!(text, "interface {interface}").expect(WRITES);
    }
    for prefix in &settings.announce {
        writeln!(
            text,
            "redistribute ip {prefix} eq {} allow",
            prefix.prefix()
        )
        .expect(WRITES);
    }
    text + "redistribute local deny\nredistribute deny\n"
}

pub(crate) fn command(
    configuration: &Path,
    state: &Path,
    log: &Path,
    socket: &Path,
) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    vec![
        "babeld".into(),
        "-d0".into(),
        "-c".into(),
        path(configuration),
        "-S".into(),
        path(state),
        "-L".into(),
        path(log),
        "-g".into(),
        path(socket),
        // No file with its process id, which it would not start beside.
        "-I".into(),
        String::new(),
    ]
}

/// Everything it knows.
pub(crate) fn dump(socket: &Path) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(secs(2)))?;
        answer(&mut stream)?;
        stream.write_all(b"dump\n")?;
        answer(&mut stream)
    };
    ask().map_err(|err| format!("babeld at {}: {err}", socket.display()))
}

/// Reads to the end of an answer.
fn answer(stream: &mut UnixStream) -> std::io::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !text.ends_with(b"ok\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.extend_from_slice(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A line `add KIND ID NAME VALUE NAME VALUE …`, as the values by their names.
struct Line<'a>(Vec<&'a str>);

impl<'a> Line<'a> {
    fn all(dump: &'a str, kind: &str) -> impl Iterator<Item = Self> {
        let start = format!("add {kind} ");
        dump.lines().filter_map(move |line| {
            let words = line.strip_prefix(start.as_str())?;
            Some(Self(words.split_whitespace().skip(1).collect()))
        })
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().step_by(2).position(|word| *word == name)?;
        self.0.get(2 * at + 1).copied()
    }

    fn value<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    fn metric(&self, name: &str) -> Option<u16> {
        self.value(name).filter(|metric| *metric != INFINITY)
    }
}

pub(crate) fn neighbours(dump: &str) -> Vec<StockNeighbour> {
    let neighbour = |line: Line<'_>| {
        Some(StockNeighbour {
            address: line.value::<Ipv6Addr>("address")?,
            interface: line.text("if")?.to_owned(),
            cost: line.metric("cost"),
            rtt_ms: line.value("rtt"),
        })
    };
    Line::all(dump, "neighbour").filter_map(neighbour).collect()
}

pub(crate) fn routes(dump: &str) -> Vec<StockRoute> {
    let route = |line: Line<'_>| {
        Some(StockRoute {
            prefix: line.value::<Ipv6Network>("prefix")?,
            via: line.value("via")?,
            interface: line.text("if")?.to_owned(),
            metric: line.metric("metric"),
            is_selected: line.text("installed") == Some("yes"),
        })
    };
    Line::all(dump, "route").filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_read() {
        let dump = "add interface wga up true ipv6 fe80::1\n\
            add neighbour 555d address fe80::2 if wga reach ff00 ureach 0000 rxcost 96 txcost 96 rtt 1.643 rttcost 0 cost 96\n\
            add neighbour 556d address fe80::3 if wgb reach 0000 ureach 0000 rxcost 65535 txcost 96 cost 65535\n\
            add xroute 600::/64-::/0 prefix 600::/64 from ::/0 metric 0\n\
            add route 777d prefix 600:0:0:a::/64 from ::/0 installed yes id 63:84:47:94:0a:00:00:01 metric 96 refmetric 0 via fe80::2 if wga\n\
            ok\n";
        let [near, lost] = &neighbours(dump)[..] else {
            panic!("{:?}", neighbours(dump));
        };
        assert_eq!((near.cost, near.rtt_ms), (Some(96), Some(1.643)));
        assert_eq!((lost.cost, lost.interface.as_str()), (None, "wgb"));
        let route = StockRoute {
            prefix: "600:0:0:a::/64".parse().unwrap(),
            via: "fe80::2".parse().unwrap(),
            interface: "wga".into(),
            metric: Some(96),
            is_selected: true,
        };
        assert_eq!(routes(dump), [route]);
    }
}
