//! Ports as people write them: in rules, in what a workload publishes, in questions.

use std::{fmt, str::FromStr};

/// What of a destination is meant: some ports of TCP or UDP, ICMP, or everything.
///
/// Written `tcp/22`, `udp/53`, `tcp/8000-8010`, `tcp/*`, `udp/*`, `icmp` or `any`; read by [`FromStr`], and written back by
/// [`fmt::Display`] in the shortest form.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Ports {
    /// Ports of TCP.
    Tcp(PortRange),
    /// Ports of UDP.
    Udp(PortRange),
    /// ICMPv6 that asks for something, as an echo request does.
    Icmp,
    /// Whatever IPv6 carries.
    Any,
}

/// A port, or several in a row, from the first to the last; never empty.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// One thing that can be asked for at a destination.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Port {
    /// A port of TCP.
    Tcp(u16),
    /// A port of UDP.
    Udp(u16),
    /// ICMPv6 that asks for something, as an echo request does.
    Icmp,
    /// Another protocol, by its number in the IPv6 header.
    Other(u8),
}

/// Why a text names no ports.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortsError {
    /// A number, and nothing that says of which protocol.
    #[error("`{0}` names no protocol: write tcp/{0} or udp/{0}")]
    Protocol(u16),
    /// Another word.
    #[error("`{0}` is none of tcp/PORT, udp/PORT, icmp and any")]
    Form(String),
    /// Behind the protocol is no port.
    #[error("`{0}` is not a port from 1 to 65535, a range such as 8000-8010, or *")]
    Port(String),
    /// A range that ends before it begins.
    #[error("`{0}` ends before it begins")]
    Backwards(String),
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// From `first` to `last`, both in it; none if `last` is before `first`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether a port is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Ports {
    /// Whether this port is meant.
    pub fn contains(self, port: Port) -> bool {
        match (self, port) {
            (Self::Any, _) | (Self::Icmp, Port::Icmp) => true,
            (Self::Tcp(range), Port::Tcp(port)) | (Self::Udp(range), Port::Udp(port)) => {
                range.contains(port)
            }
            (Self::Tcp(_) | Self::Udp(_) | Self::Icmp, _) => false,
        }
    }

    /// The port, if it is a single one that is meant.
    pub fn single(self) -> Option<Port> {
        match self {
            Self::Tcp(range) if range.first == range.last => Some(Port::Tcp(range.first)),
            Self::Udp(range) if range.first == range.last => Some(Port::Udp(range.first)),
            Self::Icmp => Some(Port::Icmp),
            Self::Tcp(_) | Self::Udp(_) | Self::Any => None,
        }
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        match text.split_once('/') {
            Some(("tcp", ports)) => Ok(Self::Tcp(ports.parse()?)),
            Some(("udp", ports)) => Ok(Self::Udp(ports.parse()?)),
            None if text == "icmp" => Ok(Self::Icmp),
            None if text == "any" => Ok(Self::Any),
            None => Err(match port(text) {
                Some(port) => PortsError::Protocol(port),
                None => PortsError::Form(text.to_owned()),
            }),
            Some(_) => Err(PortsError::Form(text.to_owned())),
        }
    }
}

impl FromStr for PortRange {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        if text == "*" {
            return Ok(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            return Err(PortsError::Port(text.to_owned()));
        };
        Self::new(first, last).ok_or_else(|| PortsError::Backwards(text.to_owned()))
    }
}

/// A port as one writes it: digits only, and not 0.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|&port| port != 0)?;
    is_plain.then_some(port)
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(range) => write!(f, "tcp/{range}"),
            Self::Udp(range) => write!(f, "udp/{range}"),
            Self::Icmp => f.write_str("icmp"),
            Self::Any => f.write_str("any"),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        match *self {
            Self::ALL => f.write_str("*"),
            _ if first == last => write!(f, "{first}"),
            _ => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Icmp => f.write_str("icmp"),
            Self::Other(protocol) => write!(f, "protocol {protocol}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Ports, String> {
        text.parse().map_err(|error: PortsError| error.to_string())
    }

    #[test]
    fn ports_are_read_and_written_alike() {
        for text in [
            "tcp/22",
            "udp/53",
            "tcp/8000-8010",
            "tcp/*",
            "udp/*",
            "icmp",
            "any",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("tcp/5-5").unwrap().to_string(), "tcp/5");
    }

    #[test]
    fn what_names_no_ports_is_refused_with_a_reason() {
        let refused = [
            ("22", "`22` names no protocol: write tcp/22 or udp/22"),
            ("", "`` is none of tcp/PORT, udp/PORT, icmp and any"),
            ("*", "`*` is none of tcp/PORT, udp/PORT, icmp and any"),
            (
                "TCP/22",
                "`TCP/22` is none of tcp/PORT, udp/PORT, icmp and any",
            ),
            (
                "icmp/8",
                "`icmp/8` is none of tcp/PORT, udp/PORT, icmp and any",
            ),
            (
                "tcp/",
                "`` is not a port from 1 to 65535, a range such as 8000-8010, or *",
            ),
            (
                "tcp/0",
                "`0` is not a port from 1 to 65535, a range such as 8000-8010, or *",
            ),
            (
                "tcp/+22",
                "`+22` is not a port from 1 to 65535, a range such as 8000-8010, or *",
            ),
            (
                "tcp/65536",
                "`65536` is not a port from 1 to 65535, a range such as 8000-8010, or *",
            ),
            (
                "udp/1-2-3",
                "`1-2-3` is not a port from 1 to 65535, a range such as 8000-8010, or *",
            ),
            ("udp/10-9", "`10-9` ends before it begins"),
        ];
        for (text, reason) in refused {
            assert_eq!(parse(text), Err(reason.to_owned()));
        }
    }

    #[test]
    fn a_single_port_is_one() {
        let single = |text| parse(text).unwrap().single();
        assert_eq!(single("tcp/22"), Some(Port::Tcp(22)));
        assert_eq!(single("icmp"), Some(Port::Icmp));
        assert_eq!(single("udp/1-2"), None);
        assert_eq!(single("any"), None);
    }

    proptest! {
        #[test]
        fn a_range_has_what_is_between_its_ends(first in 1..=u16::MAX, last in 1..=u16::MAX, port: u16) {
            let text = format!("tcp/{first}-{last}");
            match text.parse::<Ports>() {
                Ok(ports) => {
                    let is_between = first <= port && port <= last;
                    prop_assert_eq!(ports.contains(Port::Tcp(port)), is_between);
                    prop_assert!(!ports.contains(Port::Udp(port)));
                    prop_assert_eq!(ports.to_string().parse(), Ok(ports));
                }
                Err(_) => prop_assert!(last < first),
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            if let Ok(ports) = text.parse::<Ports>() {
                prop_assert_eq!(ports.to_string().parse(), Ok(ports));
            }
        }
    }
}
