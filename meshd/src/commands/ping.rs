//! `meshd ping [-c N] NAME|ADDR`

use std::io::Write;
use std::time::Duration;

use super::failure::{Exit, Failure};
use super::status;
use crate::admin::{PathKind, Ping, PingReply, PingRequest};
use crate::cli::Global;

/// Requests sent when nobody says how many, unless the path becomes direct before.
const DEFAULT_COUNT: u32 = 10;
/// How long one reply may take.
const TIMEOUT_MS: u32 = 2000;
/// From one reply to the next request.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(
    global: &Global,
    count: Option<u32>,
    target: &str,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let client = super::client(global)?;
    let mut address = None;
    let mut replies: Vec<PingReply> = Vec::new();
    for seq in 1..=count.unwrap_or(DEFAULT_COUNT) {
        if seq > 1 {
            std::thread::sleep(INTERVAL);
        }
        let answer = client.ping(&PingRequest {
            target: target.to_owned(),
            seq,
            timeout_ms: TIMEOUT_MS,
        })?;
        address = Some(answer.target);
        let before = replies.last().map(|reply| reply.path.kind);
        if !global.json {
            writeln!(out, "{}", line(&answer.reply, before))?;
            out.flush()?;
        }
        let direct = answer.reply.rtt_ms.is_some() && answer.reply.path.kind == PathKind::Direct;
        replies.push(answer.reply);
        if direct && count.is_none() {
            break;
        }
    }
    let Some(address) = address else {
        return Err(Failure::new(Exit::Usage, "nothing was to be sent"));
    };
    let ping = summary(address, replies);
    let received = ping.received;
    let blocked_by = ping
        .replies
        .iter()
        .rev()
        .find_map(|reply| reply.blocked_by.clone());
    if global.json {
        super::print_json(ping, out)?;
    }
    if let (0, Some(by)) = (received, blocked_by) {
        let what = format!("{target} is reached, but pings are blocked by {by}");
        let next = "on that node, [inbound] icmp_echo = true, or a rule for icmp";
        return Err(Failure::new(Exit::Denied, what).next(next));
    }
    if received == 0 {
        return Err(
            Failure::new(Exit::Unreachable, format!("{target} does not answer"))
                .next("meshd status"),
        );
    }
    Ok(())
}

fn summary(target: std::net::Ipv6Addr, replies: Vec<PingReply>) -> Ping {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let sent = count(replies.len());
    let received = count(
        replies
            .iter()
            .filter(|reply| reply.rtt_ms.is_some())
            .count(),
    );
    let loss = f64::from(sent - received) / f64::from(sent.max(1));
    Ping {
        target,
        sent,
        received,
        loss,
        replies,
    }
}

/// `3  direct 198.51.100.9:41002    19.4 ms   switched`
fn line(reply: &PingReply, before: Option<PathKind>) -> String {
    let path = super::printable(&status::path(&reply.path));
    let rtt = match (reply.rtt_ms, &reply.blocked_by) {
        (Some(rtt), _) => format!("{rtt:.1} ms"),
        (None, Some(by)) => format!("blocked by {}", super::printable(by)),
        (None, None) => "no reply".to_owned(),
    };
    let switched = if before.is_some_and(|before| before != reply.path.kind) {
        "   switched"
    } else {
        ""
    };
    format!("{}  {path:<27} {rtt}{switched}", reply.seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Path;

    #[test]
    fn lines_show_when_the_path_changes() {
        let direct = Path::direct("198.51.100.9:41002".parse().unwrap());
        let reply = PingReply {
            seq: 3,
            rtt_ms: Some(19.42),
            path: direct.clone(),
            blocked_by: None,
        };
        assert_eq!(
            line(&reply, Some(PathKind::Relay)),
            "3  direct 198.51.100.9:41002   19.4 ms   switched"
        );
        let lost = PingReply {
            seq: 4,
            rtt_ms: None,
            path: direct,
            blocked_by: None,
        };
        assert_eq!(
            line(&lost, Some(PathKind::Direct)),
            "4  direct 198.51.100.9:41002   no reply"
        );
        let blocked = PingReply {
            blocked_by: Some("pi".to_owned()),
            ..lost
        };
        assert_eq!(
            line(&blocked, Some(PathKind::Direct)),
            "4  direct 198.51.100.9:41002   blocked by pi"
        );
    }

    #[test]
    fn the_summary_counts_what_was_lost() {
        let reply = |seq, rtt_ms| PingReply {
            seq,
            rtt_ms,
            path: Path::none(),
            blocked_by: None,
        };
        let ping = summary(
            std::net::Ipv6Addr::LOCALHOST,
            vec![
                reply(1, Some(1.0)),
                reply(2, None),
                reply(3, None),
                reply(4, None),
            ],
        );
        assert_eq!((ping.sent, ping.received, ping.loss), (4, 1, 0.75));
    }
}
