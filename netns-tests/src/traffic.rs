//! Traffic inside the lab, and what became of it. The generators are in this package's program `netns-probe`, save for ping
//! and iperf3.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::host::Host;
use crate::lab::program;
use crate::process::Process;
use crate::wait::{poll_until, secs, wait_until};

/// Longest time any generator may take beyond what its own work needs.
const PATIENCE: Duration = secs(60);
/// How long iperf3's server may be busy with the test before.
const BUSY: Duration = secs(10);
/// Where iperf3 listens unless told otherwise.
const IPERF_PORT: u16 = 5201;

/// Starts a server of `netns-probe` and waits until it serves.
#[track_caller]
fn serve(host: &Host, arguments: &str) -> Process {
    let mut process = host.spawn(&format!("{} {arguments}", program("netns-probe")));
    wait_until(secs(5), &format!("netns-probe {arguments} serves"), || {
        if process.is_running() && process.log().contains("ready") {
            Ok(())
        } else {
            Err(process.log())
        }
    });
    process
}

/// Runs a client of `netns-probe` and returns the JSON it prints.
fn ask(host: &Host, arguments: &str, within: Duration) -> Result<Value, String> {
    let text = host
        .output(&format!("{} {arguments}", program("netns-probe")), within)?
        .success()?;
    serde_json::from_str(&text)
        .map_err(|err| format!("netns-probe {arguments} printed {text:?}: {err}"))
}

/// Returns every datagram to its sender, while the process lives.
#[track_caller]
pub fn udp_echo(host: &Host, listen: SocketAddr) -> Process {
    serve(host, &format!("udp-echo {listen}"))
}

/// As [`udp_echo`], after one datagram to `knock`, which makes NATs on the way remember the listening port.
#[track_caller]
pub fn udp_echo_after_knock(host: &Host, listen: SocketAddr, knock: SocketAddr) -> Process {
    serve(host, &format!("udp-echo {listen} {knock}"))
}

/// Sends one datagram of every payload size to an echo server, one after the other, and compares what returns.
///
/// # Errors
/// Which sizes did not return within a second, or returned altered.
pub fn udp_sizes(
    host: &Host,
    target: SocketAddr,
    sizes: RangeInclusive<u16>,
) -> Result<(), String> {
    let (first, last) = (sizes.start(), sizes.end());
    let result = ask(
        host,
        &format!("udp-sizes {target} {first} {last}"),
        PATIENCE + secs(u64::from(last - first) / 50),
    )?;
    let count = |name: &str| result[name].as_array().map_or(0, Vec::len);
    if count("missing") + count("altered") == 0 {
        Ok(())
    } else {
        Err(result.to_string())
    }
}

/// Counts the datagrams it gets until none came for a while; ask for the result by [`SinkReport::wait`].
#[track_caller]
pub fn udp_sink(host: &Host, listen: SocketAddr) -> Process {
    serve(host, &format!("udp-sink {listen}"))
}

/// What a sink counted.
#[derive(Clone, Copy, Debug)]
pub struct SinkReport {
    /// Different datagrams received.
    pub received: u64,
    /// Datagrams received again.
    pub duplicates: u64,
    /// Datagrams that came after one sent later.
    pub reordered: u64,
    /// Payload bits per second between the first and the last, duplicates included.
    pub bits_per_second: f64,
    /// Shortest way from sender to receiver, in milliseconds.
    pub delay_min_ms: f64,
    /// Median of the same.
    pub delay_median_ms: f64,
}

impl SinkReport {
    /// Waits for the sink's report: it ends a second and a half after the last datagram.
    #[track_caller]
    pub fn wait(mut sink: Process) -> Self {
        assert!(
            sink.wait(PATIENCE).success(),
            "the sink failed: {}",
            sink.log()
        );
        let log = sink.log();
        let report: Value = log
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        let number = |name: &str| {
            report[name]
                .as_f64()
                .unwrap_or_else(|| panic!("the sink said {log}"))
        };
        let count = |name: &str| {
            report[name]
                .as_u64()
                .unwrap_or_else(|| panic!("the sink said {log}"))
        };
        Self {
            received: count("received"),
            duplicates: count("duplicates"),
            reordered: count("reordered"),
            bits_per_second: number("bits_per_second"),
            delay_min_ms: number("delay_min_ms"),
            delay_median_ms: number("delay_median_ms"),
        }
    }
}

/// Sends numbered datagrams at a steady pace.
#[track_caller]
pub fn udp_source(host: &Host, target: SocketAddr, count: u32, per_second: u32, size: u16) {
    let patience = PATIENCE + secs(u64::from(count / per_second.max(1)));
    let sent = ask(
        host,
        &format!("udp-source {target} {count} {per_second} {size}"),
        patience,
    );
    sent.unwrap_or_else(|err| panic!("udp-source: {err}"));
}

/// Takes any number of TCP streams and checks that each brings what its sender's seed says.
#[track_caller]
pub fn tcp_serve(host: &Host, listen: SocketAddr) -> Process {
    serve(host, &format!("tcp-serve {listen}"))
}

/// Sends TCP streams side by side, each with contents of its own, to [`tcp_serve`]; returns how long that took.
///
/// # Errors
/// Which streams broke, or were found altered by the server.
pub fn tcp_send(
    host: &Host,
    target: SocketAddr,
    streams: u16,
    bytes: u64,
) -> Result<Duration, String> {
    let report = ask(
        host,
        &format!("tcp-send {target} {streams} {bytes} 0"),
        PATIENCE,
    )?;
    took(&report)
}

/// What a sender's report says of its time.
fn took(report: &Value) -> Result<Duration, String> {
    let seconds = report["seconds"].as_f64();
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("no time in {report}"))
}

/// One TCP stream that goes on while the test does something to the network.
#[derive(Debug)]
pub struct Stream(Process);

impl Stream {
    /// Sends `bytes` at `per_second` to [`tcp_serve`], in the background.
    #[track_caller]
    pub fn start(host: &Host, target: SocketAddr, bytes: u64, per_second: u64) -> Self {
        Self(host.spawn(&format!(
            "{} tcp-send {target} 1 {bytes} {per_second}",
            program("netns-probe")
        )))
    }

    /// Bytes that the kernel took so far, in whole 64 KiB.
    pub fn progress(&self) -> u64 {
        let log = self.0.log();
        log.lines()
            .filter_map(|line| line.strip_prefix("progress ")?.parse().ok())
            .next_back()
            .unwrap_or(0)
    }

    /// Waits for the end of the stream, and returns how long it took.
    ///
    /// # Errors
    /// When it broke, or its contents did not arrive as they were sent.
    #[track_caller]
    pub fn finish(mut self, within: Duration) -> Result<Duration, String> {
        let status = self.0.wait(within);
        let log = self.0.log();
        let report = log.lines().last().map(serde_json::from_str);
        match report {
            Some(Ok(report)) if status.success() => took(&report),
            _ => Err(format!("{status}: {log}")),
        }
    }
}

/// Serves `bytes` bytes over HTTP at every path.
#[track_caller]
pub fn http_serve(host: &Host, listen: SocketAddr, bytes: u64) -> Process {
    serve(host, &format!("http-serve {listen} {bytes}"))
}

/// Fetches from [`http_serve`], checks the content, and returns its length in bytes.
///
/// # Errors
/// When nobody serves there, or the content is not what was served.
pub fn http_get(host: &Host, target: SocketAddr) -> Result<u64, String> {
    let result = ask(host, &format!("http-get {target}"), PATIENCE)?;
    result["bytes"].as_u64().ok_or_else(|| result.to_string())
}

/// What a NAT does with mappings and answers, as a host behind it finds out (RFC 5780).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// `endpoint independent`, `address dependent`, `address and port dependent` or `blocked`.
    pub mapping: String,
    /// The same words.
    pub filtering: String,
    /// Whether the external port is the internal one.
    pub keeps_port: bool,
    /// The external ports seen by the two ports of each of the server's two addresses.
    pub ports: Vec<u16>,
}

/// Answers NAT probes on two ports (3478, 3479) of each of two addresses.
#[track_caller]
pub fn nat_serve(host: &Host, addresses: [IpAddr; 2]) -> Process {
    serve(
        host,
        &format!("nat-serve {} {}", addresses[0], addresses[1]),
    )
}

/// Finds out what is between a host and [`nat_serve`].
#[track_caller]
pub fn nat_probe(host: &Host, server: [IpAddr; 2]) -> Behaviour {
    let found = ask(
        host,
        &format!("nat-probe {} {}", server[0], server[1]),
        secs(20),
    );
    let found = found.unwrap_or_else(|err| panic!("nat-probe: {err}"));
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    let ports = found["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64);
    Behaviour {
        mapping: text("mapping"),
        filtering: text("filtering"),
        keeps_port: found["keeps_port"] == true,
        ports: ports.filter_map(|port| u16::try_from(port).ok()).collect(),
    }
}

/// Whether an answer that comes so long after the question still passes the NAT.
#[track_caller]
pub fn nat_remembers(host: &Host, server: IpAddr, answer_after: Duration) -> bool {
    let found = ask(
        host,
        &format!("nat-late {server} {}", answer_after.as_millis()),
        secs(20) + answer_after,
    );
    found.unwrap_or_else(|err| panic!("nat-late: {err}"))["answered"] == true
}

/// Round trip times of a row of echo requests.
#[derive(Clone, Debug)]
pub struct Pings {
    /// How many were sent.
    pub sent: u32,
    /// Those of the answered ones, in milliseconds, the shortest first.
    pub rtt_ms: Vec<f64>,
}

impl Pings {
    /// Sends `count` echo requests, one every `interval`.
    ///
    /// # Errors
    /// When `ping` cannot run. Loss is no error.
    pub fn send(
        host: &Host,
        target: IpAddr,
        count: u32,
        interval: Duration,
    ) -> Result<Self, String> {
        let line = format!(
            "ping -n -c {count} -i {} -W 1 {target}",
            interval.as_secs_f64()
        );
        let output = host.output(&line, PATIENCE + interval * count)?;
        Ok(Self {
            sent: count,
            rtt_ms: Self::parse(&output.stdout),
        })
    }

    fn parse(text: &str) -> Vec<f64> {
        let time = |line: &str| {
            line.split_once("time=")?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        let mut rtt_ms: Vec<f64> = text.lines().filter_map(time).collect();
        rtt_ms.sort_by(f64::total_cmp);
        rtt_ms
    }

    /// The time that this share of the answered requests (0..1) did not exceed; NaN without any.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.rtt_ms.len().checked_sub(1) else {
            return f64::NAN;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into the list itself"
        )]
        let index = (last as f64 * share.clamp(0.0, 1.0)) as usize;
        self.rtt_ms[index]
    }
}

/// What makes a sender of TCP slow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Every loss, as by default on Linux.
    Cubic,
    /// What the path was measured to carry; not every kernel has it.
    Bbr,
}

impl Congestion {
    /// What the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }

    /// Whether the kernel can do it on this host.
    #[track_caller]
    pub fn is_here(self, host: &Host) -> bool {
        let known = host.run("sysctl -n net.ipv4.tcp_available_congestion_control");
        known.split_whitespace().any(|name| name == self.name())
    }
}

/// A measurement by iperf3, towards the server.
#[derive(Clone, Debug)]
pub struct Iperf {
    /// Delivered, in bits per second.
    pub bits_per_second: f64,
    /// Delivered, in bytes.
    pub bytes: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// UDP packets delivered per second.
    pub packets_per_second: f64,
    /// UDP packets lost, as a share (0..1).
    pub loss: f64,
}

impl Iperf {
    /// Starts a server and waits until it listens.
    #[track_caller]
    pub fn serve(host: &Host) -> Process {
        let process = host.spawn("iperf3 -s -J");
        wait_until(secs(5), "iperf3 listens", || {
            host.run("ss -Hltn").contains(&format!(":{IPERF_PORT} "))
        });
        process
    }

    /// Sends TCP for so many seconds over parallel streams.
    ///
    /// # Errors
    /// What iperf3 says.
    pub fn tcp(host: &Host, server: IpAddr, streams: u8, seconds: u8) -> Result<Self, String> {
        Self::tcp_by(host, server, streams, seconds, Congestion::Cubic)
    }

    /// As [`Self::tcp`], held back by that algorithm.
    ///
    /// # Errors
    /// What iperf3 says, also when the kernel does not have the algorithm.
    pub fn tcp_by(
        host: &Host,
        server: IpAddr,
        streams: u8,
        seconds: u8,
        congestion: Congestion,
    ) -> Result<Self, String> {
        let algorithm = congestion.name();
        Self::run(
            host,
            &format!("iperf3 -c {server} -J -t {seconds} -P {streams} -C {algorithm}"),
            seconds,
        )
    }

    /// Sends UDP of so many payload bytes as fast as it goes.
    ///
    /// # Errors
    /// What iperf3 says.
    pub fn udp(host: &Host, server: IpAddr, payload: u16, seconds: u8) -> Result<Self, String> {
        Self::run(
            host,
            &format!("iperf3 -c {server} -J -t {seconds} -u -b 0 -l {payload} --get-server-output"),
            seconds,
        )
    }

    fn run(host: &Host, line: &str, seconds: u8) -> Result<Self, String> {
        let measured = poll_until(BUSY, || {
            let output = host.output(line, secs(20 + u64::from(seconds)))?;
            match Self::parse(&output.stdout) {
                // A server takes one test at a time, and some time to end one.
                Err(err) if err.contains("busy") => Err(err),
                result => {
                    Ok(result.map_err(|err| format!("{line}: {err} {}", output.stderr.trim())))
                }
            }
        });
        measured.map_err(|late| format!("{line}: {}", late.last))?
    }

    /// Reads what `iperf3 --json` prints.
    ///
    /// # Errors
    /// iperf3's own, or that the text is not its report.
    pub fn parse(text: &str) -> Result<Self, String> {
        let report: Value =
            serde_json::from_str(text).map_err(|err| format!("not a report of iperf3 ({err})"))?;
        if let Some(error) = report["error"].as_str() {
            return Err(error.to_owned());
        }
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let end = &report["end"];
        if let Some(bytes) = end["sum_received"]["bytes"]
            .as_u64()
            .filter(|_| report["start"]["test_start"]["protocol"] == "TCP")
        {
            return Ok(Self {
                bits_per_second: number(&end["sum_received"]["bits_per_second"]),
                bytes,
                retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
                packets_per_second: 0.0,
                loss: 0.0,
            });
        }
        // What arrived is known to the server alone.
        let sum = &report["server_output_json"]["end"]["sum"];
        let (packets, lost, seconds) = (
            number(&sum["packets"]),
            number(&sum["lost_packets"]),
            number(&sum["seconds"]),
        );
        if packets == 0.0 || seconds == 0.0 {
            return Err("the server got nothing".into());
        }
        let delivered = packets - lost;
        let payload = number(&report["start"]["test_start"]["blksize"]);
        Ok(Self {
            bits_per_second: delivered * payload * 8.0 / seconds,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of bytes, not negative"
            )]
            bytes: (delivered * payload).max(0.0) as u64,
            retransmits: 0,
            packets_per_second: delivered / seconds,
            loss: lost / packets,
        })
    }
}

/// Sends initiations that lead nowhere to the holder of a WireGuard key, from 65,000 addresses that `host` must own.
#[track_caller]
pub fn initiations(
    host: &Host,
    target: SocketAddr,
    key: &str,
    count: u32,
    per_second: u32,
) -> Process {
    serve(
        host,
        &format!("initiations {target} {key} {count} {per_second}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read_from_what_ping_prints() {
        let text = "PING ::1\n64 bytes from ::1: icmp_seq=1 ttl=64 time=0.30 ms\n64 bytes from ::1: icmp_seq=2 ttl=64 time=0.10 ms\n\n2 packets\n";
        let pings = Pings {
            sent: 3,
            rtt_ms: Pings::parse(text),
        };
        assert_eq!(pings.rtt_ms, [0.1, 0.3]);
        assert_eq!((pings.quantile(0.0), pings.quantile(1.0)), (0.1, 0.3));
    }

    #[test]
    fn a_tcp_report_gives_what_the_receiver_got() {
        let text = r#"{"start":{"test_start":{"protocol":"TCP"}},
            "end":{"sum_sent":{"retransmits":4},"sum_received":{"bytes":1000,"bits_per_second":8000.0}}}"#;
        let report = Iperf::parse(text).unwrap();
        assert_eq!((report.bytes, report.retransmits), (1000, 4));
    }

    #[test]
    fn a_udp_report_gives_what_the_server_counted() {
        let text = r#"{"start":{"test_start":{"protocol":"UDP","blksize":64}},"end":{"sum":{}},
            "server_output_json":{"end":{"sum":{"packets":1000,"lost_packets":100,"seconds":2.0}}}}"#;
        let report = Iperf::parse(text).unwrap();
        assert!(
            (report.packets_per_second - 450.0).abs() < 1e-9 && (report.loss - 0.1).abs() < 1e-9
        );
    }

    #[test]
    fn what_iperf3_complains_about_is_an_error() {
        assert_eq!(
            Iperf::parse(r#"{"error":"unable to connect"}"#).unwrap_err(),
            "unable to connect"
        );
        assert!(Iperf::parse("").is_err());
    }
}
