//! What things look like in a text: each function finds the first of its kind at or after an offset.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{Detail, Redactor};

type Found = Option<(Range<usize>, String)>;

/// Length of a key in base64.
const KEY: usize = 44;
/// Hexadecimal digits that could be a secret; half of them could identify a machine.
const SEED: usize = 64;
/// Longest text of an IPv6 address.
const LONGEST_IPV6: usize = 45;
/// Fields of a log line whose value names somebody.
const NAMING: [&str; 7] = ["peer", "device", "name", "node", "group", "host", "user"];
/// Ends of file names and units, which look like domains.
const OWN_SUFFIXES: [&str; 11] = [
    "toml", "json", "key", "sock", "service", "target", "slice", "scope", "rs", "damaged", "conf",
];
/// First parts of our configuration's keys, which look like domains.
const TABLES: [&str; 11] = [
    "node",
    "interface",
    "wireguard",
    "control",
    "peers",
    "inbound",
    "workload",
    "api",
    "log",
    "metrics",
    "dns",
];

/// The first run of such characters.
pub(super) fn run(text: &str, from: usize, is_part: impl Fn(char) -> bool) -> Option<Range<usize>> {
    let start = from + text[from..].find(&is_part)?;
    let length = text[start..].find(|c| !is_part(c));
    Some(start..length.map_or(text.len(), |length| start + length))
}

fn before(text: &str, at: usize) -> Option<char> {
    text[..at].chars().next_back()
}

fn after(text: &str, at: usize) -> Option<char> {
    text[at..].chars().next()
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// 32 bytes in base64: a public key, or a private one that got where it does not belong.
pub(super) fn key(redactor: &mut Redactor, text: &str, from: usize) -> Found {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    let bytes = text.as_bytes();
    let span = (from..=bytes.len().checked_sub(KEY)?)
        .map(|start| start..start + KEY)
        .find(|span| {
            let (body, end) = bytes[span.clone()].split_at(KEY - 1);
            end == b"=" && body.iter().all(is_base64)
        })?;
    let thing = &text[span.clone()];
    let stand_in = match (redactor.keys.get(thing), redactor.detail) {
        (Some(_), Detail::Full) => thing.to_owned(),
        (Some(known), Detail::Redacted) => known.clone(),
        (None, Detail::Full) => "[key]".to_owned(),
        (None, Detail::Redacted) => redactor.stand_in("key", thing),
    };
    Some((span, stand_in))
}

/// Many hexadecimal digits: a seed, or the id of a machine.
pub(super) fn digits(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    let enough = match redactor.detail {
        Detail::Full => SEED,
        Detail::Redacted => SEED / 2,
    };
    loop {
        let span = run(text, from, |c| c.is_ascii_hexdigit())?;
        if span.len() >= enough {
            return Some((span, "[digits]".to_owned()));
        }
        from = span.end;
    }
}

pub(super) fn peer_id(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let span = run(text, from, |c| c.is_ascii_alphanumeric())?;
        let thing = &text[span.clone()];
        if thing.len() > 40 && (thing.starts_with("12D3Koo") || thing.starts_with("Qm")) {
            let known = redactor.keys.get(thing).cloned();
            return Some((
                span,
                known.unwrap_or_else(|| redactor.stand_in("id", thing)),
            ));
        }
        from = span.end;
    }
}

pub(super) fn mac(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let span = run(text, from, |c| c.is_ascii_hexdigit() || c == ':')?;
        let thing = &text[span.clone()];
        let is_mac = thing.len() == 17 && thing.split(':').all(|group| group.len() == 2);
        if is_mac && !matches!(thing, "00:00:00:00:00:00" | "ff:ff:ff:ff:ff:ff") {
            return Some((span, redactor.stand_in("mac", &thing.to_lowercase())));
        }
        from = span.end;
    }
}

pub(super) fn ipv6(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let span = run(text, from, |c| c.is_ascii_hexdigit() || ":.".contains(c))?;
        if let Some((span, address)) = longest_ipv6(text, &span) {
            return Some((span, redactor.address(IpAddr::V6(address))));
        }
        from = span.end;
    }
}

/// The longest address in a run of its characters: punctuation, or the end of a word before it, may be stuck to it.
fn longest_ipv6(text: &str, run: &Range<usize>) -> Option<(Range<usize>, Ipv6Addr)> {
    let is_start = |at: &usize| {
        *at == run.start && !is_word(before(text, *at)) || {
            *at > run.start && ":.".contains(&text[at - 1..*at])
        }
    };
    let is_end = |at: &usize| {
        *at == run.end && !is_word(after(text, *at)) || {
            *at < run.end && ":.".contains(&text[*at..at + 1])
        }
    };
    let starts = run.clone().filter(is_start);
    let spans = starts.flat_map(|start| {
        let last = run.end.min(start + LONGEST_IPV6);
        (start + 2..=last)
            .rev()
            .filter(is_end)
            .find_map(|end| Some((start..end, text[start..end].parse().ok()?)))
    });
    // Where a run is longer than an address, one begins at each of its groups.
    spans.max_by_key(|(span, _)| span.len())
}

pub(super) fn ipv4(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    loop {
        let span = run(text, from, is_part)?;
        from = span.end;
        let start = span.end - text[span.clone()].trim_start_matches('.').len();
        // A fifth number is a port.
        let end = text[start..span.end].match_indices('.').nth(3);
        let end = end.map_or(span.end, |(length, _)| start + length);
        if let Ok(address) = text[start..end].parse::<Ipv4Addr>() {
            return Some((start..end, redactor.address(address.into())));
        }
    }
}

/// Whose home a path is in.
pub(super) fn home(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    const HOME: &str = "/home/";
    loop {
        let start = from + text[from..].find(HOME)? + HOME.len();
        let span = run(text, start, |c| c.is_alphanumeric() || "._-".contains(c))?;
        if span.start == start {
            let stand_in = redactor.stand_in("name", &text[span.clone()]);
            return Some((span, stand_in));
        }
        from = start;
    }
}

/// A name or host name that is known, unless it is the name of a field or part of a Rust path.
pub(super) fn word(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    let is_part = |c: char| c.is_alphanumeric() || "_-".contains(c);
    loop {
        // A host name with its dots, or else one of its labels.
        let long = run(text, from, |c| is_part(c) || c == '.')?;
        let short = run(text, from, is_part)?;
        for span in [long, short.clone()] {
            let thing = text[span.clone()].trim_start_matches('.');
            let start = span.end - thing.len();
            let thing = thing.trim_end_matches('.');
            let end = start + thing.len();
            let is_field = text[end..].starts_with('=') || text[end..].starts_with("\":");
            let is_path = text[end..].starts_with("::") || text[..start].ends_with("::");
            let known = redactor.words.get(thing).or_else(|| {
                let is_host = thing.contains('.');
                is_host.then(|| redactor.words.get(&thing.to_lowercase()))?
            });
            if let Some(stand_in) = known.filter(|_| !is_field && !is_path) {
                return Some((start..end, stand_in.clone()));
            }
        }
        from = short.end;
    }
}

/// `peer=somebody`, `"peer":"somebody"`: a name that nobody told us.
pub(super) fn named_field(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let field = run(text, from, |c| c.is_alphanumeric() || c == '_')?;
        from = field.end;
        if !NAMING.contains(&&text[field.clone()]) {
            continue;
        }
        let rest = &text[field.end..];
        let Some(mark) = ["=\"", "=", "\":\""]
            .iter()
            .find(|mark| rest.starts_with(**mark))
        else {
            continue;
        };
        let start = field.end + mark.len();
        let is_end = |c: char| c == '"' || (c.is_whitespace() && !mark.ends_with('"'));
        let end = text[start..].find(is_end).map_or(text.len(), |n| start + n);
        if end > start {
            return Some((start..end, redactor.stand_in("name", &text[start..end])));
        }
    }
}

fn is_host(c: char) -> bool {
    c.is_alphanumeric() || "-._".contains(c)
}

/// Whether somebody else than us calls something so.
fn is_foreign(name: &str) -> bool {
    let labels = || name.split('.');
    let is_ours = labels()
        .next_back()
        .is_some_and(|last| OWN_SUFFIXES.contains(&last))
        || labels().next().is_some_and(|first| TABLES.contains(&first));
    !is_ours && name.contains(char::is_alphabetic)
}

pub(super) fn domain(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let span = run(text, from, is_host)?;
        from = span.end;
        let thing = text[span.clone()].trim_end_matches('.');
        let Some((labels, last)) = thing.rsplit_once('.') else {
            continue;
        };
        let is_name =
            !labels.is_empty() && last.len() >= 2 && last.chars().all(char::is_alphabetic);
        let is_file = text[..span.start].ends_with('/') && !text[..span.start].ends_with("//");
        if is_name && !is_file && is_foreign(thing) {
            let stand_in = redactor.stand_in("host", &thing.to_lowercase());
            return Some((span.start..span.start + thing.len(), stand_in));
        }
    }
}

pub(super) fn host_and_port(redactor: &mut Redactor, text: &str, mut from: usize) -> Found {
    loop {
        let span = run(text, from, is_host)?;
        from = span.end;
        let port = text[span.end..]
            .strip_prefix(':')
            .and_then(|rest| run(rest, 0, |c| c.is_ascii_digit()).filter(|port| port.start == 0));
        let has_port = port.is_some_and(|port| {
            let rest = &text[span.end + 1 + port.end..];
            // Another number behind it makes it a time of day.
            let is_time = rest
                .strip_prefix(':')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            (2..=5).contains(&port.len()) && !is_word(rest.chars().next()) && !is_time
        });
        let thing = &text[span.clone()];
        if has_port && is_foreign(thing) {
            let stand_in = redactor.stand_in("host", &thing.to_lowercase());
            return Some((span, stand_in));
        }
    }
}
