//! `meshd events`

use std::io::{self, Write};

use super::{Failure, links};
use crate::admin::{Document, Event, EventsRequest, Happening, MAX_EVENTS_TIMEOUT_MS};
use crate::cli::Global;

pub(super) fn run(global: &Global, once: bool, out: &mut impl Write) -> Result<(), Failure> {
    let client = super::client(global)?;
    let mut from = 0;
    loop {
        let timeout_ms = if once { 0 } else { MAX_EVENTS_TIMEOUT_MS };
        let answer = client.events(&EventsRequest { from, timeout_ms })?;
        if answer.missed > 0 && from > 0 && !global.json {
            writeln!(
                out,
                "({} events are not remembered any more)",
                answer.missed
            )?;
        }
        for event in answer.events {
            if global.json {
                serde_json::to_writer(&mut *out, &Document::new(event)).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                writeln!(out, "{}", super::printable(&line(&event)))?;
            }
        }
        out.flush()?;
        if once {
            return Ok(());
        }
        from = answer.next;
    }
}

/// `1234.567890  link vps1 up: heard again`
fn line(event: &Event) -> String {
    let what = match &event.what {
        Happening::Link {
            link,
            peer,
            state,
            why,
            ..
        } => format!("link {link} to {peer} {}: {why}", links::state(*state)),
        Happening::Route {
            prefix,
            metric: Some(metric),
            next_hop: Some(next_hop),
            ..
        } => format!("route {prefix} via {next_hop}, metric {metric}"),
        Happening::Route { prefix, .. } => format!("route {prefix} lost"),
        Happening::Fib {
            prefix,
            via: Some(via),
            ..
        } => format!("packets to {prefix} go to {via}"),
        Happening::Fib { prefix, .. } => format!("packets to {prefix} go nowhere"),
        Happening::Path { peer, path, .. } => {
            format!("path to {peer}: {}", super::status::path(path))
        }
        Happening::Peer { peer, session, .. } => {
            let verb = if *session { "opened" } else { "closed" };
            format!("session with {peer} {verb}")
        }
        Happening::Warning { code, text } => format!("! {code} {text}"),
    };
    format!(
        "{}.{:06}  {what}",
        event.t_us / 1_000_000,
        event.t_us % 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{LinkState, Path};

    #[test]
    fn an_event_is_one_line_of_words_and_one_of_json() {
        let address = "6d4:97b8:38a7:2b6e::1".parse().unwrap();
        let event = |what| Event {
            t_us: 12_000_345,
            what,
        };
        let events = [
            event(Happening::Link {
                link: 2,
                peer: "vps1".into(),
                address,
                state: LinkState::Suspect,
                why: "a hello is overdue".into(),
            }),
            event(Happening::Fib {
                prefix: "6d4:97b8:38a7:2b6e::/64".parse().unwrap(),
                via: Some(address),
                link: Some(2),
            }),
            event(Happening::Path {
                peer: "pi".into(),
                address,
                path: Path::direct("192.0.2.1:5".parse().unwrap()),
            }),
        ];
        let lines: Vec<String> = events.iter().map(line).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        12.000345  link 2 to vps1 suspect: a hello is overdue
        12.000345  packets to 6d4:97b8:38a7:2b6e::/64 go to 6d4:97b8:38a7:2b6e::1
        12.000345  path to pi: direct 192.0.2.1:5
        ");
        let json = serde_json::to_string(&Document::new(events[1].clone())).unwrap();
        assert_eq!(
            json,
            r#"{"schema":"meshd.event/1","t_us":12000345,"event":"fib","prefix":"6d4:97b8:38a7:2b6e::/64","via":"6d4:97b8:38a7:2b6e::1","link":2}"#
        );
    }
}
