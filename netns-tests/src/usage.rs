//! What programs cost: traffic, processor time, memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::lab::Port;
use crate::topology::Topology;

/// Length of an Ethernet header, in bytes.
const ETHERNET: u64 = 14;

/// Packets and their bytes, counted since some time in the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many packets.
    pub packets: u64,
    /// How many bytes in all of them, with headers of Ethernet.
    pub bytes: u64,
}

impl Traffic {
    /// Packets whose bytes were counted from their IPv6 headers on, as they would be on an Ethernet.
    pub const fn on_ethernet(packets: u64, bytes: u64) -> Self {
        Self {
            packets,
            bytes: bytes + packets * ETHERNET,
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

impl std::iter::Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |sum, next| Self {
            packets: sum.packets + next.packets,
            bytes: sum.bytes + next.bytes,
        })
    }
}

/// What the ports of all hosts have sent, with the headers of Ethernet.
pub fn sent_by_ports(topology: &Topology) -> Traffic {
    let of = |(node, host): (usize, &crate::Host)| -> Traffic {
        let ports: Vec<&Port> = topology
            .graph
            .neighbours(node)
            .map(|neighbour| topology.port(node, neighbour))
            .collect();
        let table = host.inside(|| fs::read_to_string("/proc/thread-self/net/dev"));
        let table = table.unwrap_or_else(|err| panic!("{}: no counters: {err}", host.name()));
        let sent = |port: &&Port| {
            sent(&table, &port.interface)
                .unwrap_or_else(|| panic!("{}: no {}", host.name(), port.interface))
        };
        ports.iter().map(sent).sum()
    };
    topology.hosts.iter().enumerate().map(of).sum()
}

/// What an interface has sent, from the table of /proc/net/dev (proc(5)).
fn sent(table: &str, interface: &str) -> Option<Traffic> {
    let columns = table.lines().find_map(|line| {
        let (name, columns) = line.split_once(':')?;
        (name.trim() == interface).then_some(columns)
    })?;
    let columns: Vec<u64> = columns
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(Traffic {
        bytes: *columns.get(8)?,
        packets: *columns.get(9)?,
    })
}

/// What processes have used and hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time on a processor, of all their threads that live.
    pub processor: Duration,
    /// Resident memory, in KiB.
    pub resident_kib: u64,
    /// The same with what processes share divided between them, in KiB.
    pub proportional_kib: u64,
}

impl Usage {
    /// Of all these processes together.
    ///
    /// # Panics
    /// When one of them is gone.
    #[track_caller]
    pub fn of(ids: &[u32]) -> Self {
        let mut sum = Self::default();
        for id in ids {
            let Self {
                processor,
                resident_kib,
                proportional_kib,
            } = Self::of_one(*id).unwrap_or_else(|err| panic!("process {id}: {err}"));
            sum.processor += processor;
            sum.resident_kib += resident_kib;
            sum.proportional_kib += proportional_kib;
        }
        sum
    }

    /// The most memory that any one of these processes has had resident so far, in KiB.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn peak_resident_kib(ids: &[u32]) -> std::io::Result<u64> {
        let mut peak = 0;
        for id in ids {
            let status = Path::new("/proc").join(id.to_string()).join("status");
            peak = peak.max(kib(&fs::read_to_string(status)?, "VmHWM:"));
        }
        Ok(peak)
    }

    fn of_one(id: u32) -> std::io::Result<Self> {
        let process = Path::new("/proc").join(id.to_string());
        let mut processor = Duration::ZERO;
        for task in fs::read_dir(process.join("task"))? {
            // A thread may end in between.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let nanoseconds = text.split_whitespace().next().map(str::parse);
            processor += Duration::from_nanos(nanoseconds.and_then(Result::ok).unwrap_or(0));
        }
        let rollup = fs::read_to_string(process.join("smaps_rollup"))?;
        Ok(Self {
            processor,
            resident_kib: kib(&rollup, "Rss:"),
            proportional_kib: kib(&rollup, "Pss:"),
        })
    }
}

/// A number of a table of the kernel, 0 where it is not in it.
fn kib(table: &str, name: &str) -> u64 {
    let line = table.lines().find_map(|line| line.strip_prefix(name));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_sent_is_in_its_row() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  eth1: 10 20 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n";
        let traffic = Traffic {
            packets: 4,
            bytes: 300,
        };
        assert_eq!(sent(table, "eth1"), Some(traffic));
        assert_eq!(Traffic::on_ethernet(4, 300 - 4 * 14), traffic);
        assert_eq!(sent(table, "eth"), None);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let own = [std::process::id()];
        let usage = Usage::of(&own);
        assert!(usage.processor > Duration::ZERO);
        assert!(usage.resident_kib >= usage.proportional_kib && usage.proportional_kib > 100);
        let peak = Usage::peak_resident_kib(&own).unwrap();
        assert!(peak >= usage.resident_kib, "{peak} < {usage:?}");
    }
}
