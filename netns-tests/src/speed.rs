//! How fast one host reaches another, and what that costs: what the benchmarks have in common.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::process::Process;
use crate::traffic::{Congestion, Iperf, Pings};
use crate::usage::Usage;
use crate::wait::{millis, pace, secs, wait_until};

/// Payload of small packets, in bytes.
const SMALL: u16 = 64;
/// Pings of one second without load, and beside load.
const IDLE_PINGS: u32 = 100;
const LOADED_PINGS: u32 = 80;
/// So long after one datagram another is sent, while the answer to the first is waited for.
const AGAIN: Duration = millis(5);

/// A way from one host to another, with a server of iperf3 at its end and the programs that carry it.
#[derive(Debug)]
pub struct Stretch {
    from: Host,
    target: IpAddr,
    ids: Vec<u32>,
    _server: Process,
}

/// A measurement of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Delivered, in Mbit/s.
    pub mbit: f64,
    /// Processor time of the programs on the way, in seconds per 10^9 bytes delivered.
    pub processor_per_gb: f64,
}

/// Packets of 64 bytes, sent as fast as it goes.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// Delivered, in thousands a second.
    pub kpps: f64,
    /// Lost, in percent.
    pub loss_percent: f64,
}

impl Stretch {
    /// The way from a host to an address of another; `ids` are the processes whose cost is asked for.
    ///
    /// # Panics
    /// When iperf3 cannot serve there.
    #[track_caller]
    pub fn new(from: &Host, to: &Host, target: IpAddr, ids: Vec<u32>) -> Self {
        Self {
            from: from.clone(),
            target,
            ids,
            _server: Iperf::serve(to),
        }
    }

    /// Sends TCP for so many seconds over parallel streams.
    ///
    /// # Errors
    /// What iperf3 says.
    pub fn tcp(&self, streams: u8, seconds: u8, congestion: Congestion) -> Result<Rate, String> {
        let before = Usage::of(&self.ids).processor;
        let sent = Iperf::tcp_by(&self.from, self.target, streams, seconds, congestion)?;
        let used = Usage::of(&self.ids).processor.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let gigabytes = sent.bytes as f64 / 1e9;
        Ok(Rate {
            mbit: sent.bits_per_second / 1e6,
            processor_per_gb: used.as_secs_f64() / gigabytes,
        })
    }

    /// Sends packets of 64 bytes for so many seconds, and waits until the queues that they have filled are empty again.
    ///
    /// # Errors
    /// What iperf3 says.
    ///
    /// # Panics
    /// When the queues are not empty after ten seconds.
    pub fn small(&self, seconds: u8) -> Result<Small, String> {
        let sent = Iperf::udp(&self.from, self.target, SMALL, seconds)?;
        wait_until(secs(10), "the queues are empty", || {
            self.from.ping_within(self.target, millis(20))
        });
        Ok(Small {
            kpps: sent.packets_per_second / 1e3,
            loss_percent: sent.loss * 100.0,
        })
    }

    /// Round trips for about half of so many seconds, while nothing else is sent.
    ///
    /// # Errors
    /// When `ping` cannot run.
    pub fn idle(&self, seconds: u8) -> Result<Pings, String> {
        let count = IDLE_PINGS * u32::from(seconds);
        Pings::send(&self.from, self.target, count, millis(5))
    }

    /// Round trips for about so many seconds, beside one stream of TCP.
    ///
    /// # Errors
    /// When `ping` cannot run, or iperf3 has not sent all the time.
    pub fn loaded(&self, seconds: u8) -> Result<Pings, String> {
        let target = self.target;
        let length = u64::from(seconds) + 1;
        let mut load = self
            .from
            .spawn(&format!("iperf3 -c {target} -t {length} -C cubic"));
        let count = LOADED_PINGS * u32::from(seconds);
        let pings = Pings::send(&self.from, target, count, millis(10))?;
        if load.wait(secs(20) + secs(length)).success() {
            Ok(pings)
        } else {
            Err(format!(
                "there was no load beside the pings: {}",
                load.log()
            ))
        }
    }
}

/// How long after `from` the first answer of a [UDP echo](crate::traffic::udp_echo) came, which is asked every 5 ms.
///
/// # Errors
/// That there was none `within` that time.
pub fn first_answer(
    host: &Host,
    echo: SocketAddr,
    from: Instant,
    within: Duration,
) -> Result<Duration, String> {
    host.inside(|| {
        let failed = |err: std::io::Error| err.to_string();
        let socket = UdpSocket::bind(("::", 0)).map_err(failed)?;
        socket.set_read_timeout(Some(AGAIN)).map_err(failed)?;
        let mut seen = "no answer".to_owned();
        while from.elapsed() < within {
            let due = Instant::now() + AGAIN;
            // Until there is a way, the kernel refuses at once.
            if let Err(err) = socket.send_to(b"first answer", echo) {
                seen = err.to_string();
                pace(due);
                continue;
            }
            match socket.recv_from(&mut [0; 64]) {
                Ok(_) => return Ok(from.elapsed()),
                Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(err) => seen = err.to_string(),
            }
            pace(due);
        }
        Err(format!(
            "{echo} has not answered in {:.1} s: {seen}",
            within.as_secs_f64()
        ))
    })
}
