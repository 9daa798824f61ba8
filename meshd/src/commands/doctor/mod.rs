//! `meshd doctor`

mod firewall;
mod lookup;
mod routes;

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use self::firewall::{Chain, Needs, Obstacle};
use super::failure::{Exit, Failure};
use super::program;
use super::table::duration;
use crate::admin::client::{Client, ClientError};
use crate::admin::{Netcheck, Schema, Status, WarningCode};
use crate::cli::Global;
use crate::config::{Settings, Source};
use crate::control::chain;
use crate::io::{netlink::MARK, udp::UdpSocket};
use crate::state::{Peers, StateDir};

/// The TUN device's file.
const TUN: &str = "/dev/net/tun";
/// The most that is read of what a program prints, in bytes: rulesets can be long.
const OUTPUT: u64 = 8 << 20;
/// Less than this cannot carry IPv6 (RFC 8200 §5); what is longer has to be cut.
const LEAST_MTU: u16 = 1280;

/// What `doctor --json` prints.
#[derive(Debug, Serialize)]
struct Visit {
    /// Nothing is wrong.
    ok: bool,
    checks: Vec<Check>,
}

impl Schema for Visit {
    const SCHEMA: &'static str = "meshd.doctor/1";
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    /// Stable; null if nothing was found.
    code: Option<String>,
    text: String,
    /// What to do; null if nothing.
    fix: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Nothing.
    Ok,
    /// Something that may be as it should be.
    Note,
    /// Something that stands in the way.
    Wrong,
    /// It could not be looked at.
    Unknown,
}

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let source = super::source(global)?;
    let mut visit = Visit {
        ok: true,
        checks: Vec::new(),
    };
    visit.examine(&source);
    let wrong = visit
        .checks
        .iter()
        .filter(|check| check.state == State::Wrong)
        .count();
    visit.ok = wrong == 0;
    if global.json {
        super::print_json(&visit, out)?;
    } else {
        visit.print(out)?;
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "one thing stands in the way")),
        many => Err(Failure::new(
            Exit::Failed,
            format!("{many} things stand in the way"),
        )),
    }
}

impl Schema for &Visit {
    const SCHEMA: &'static str = Visit::SCHEMA;
}

impl Visit {
    fn examine(&mut self, source: &Source) {
        let settings = self.configuration(source);
        let default = crate::config::Config::default().api.socket;
        let configured = settings
            .as_ref()
            .map_or(&default, |settings| &settings.api.socket);
        let client = Client::new(source.socket.as_ref().unwrap_or(configured));
        let status = self.daemon(client.status());
        let netcheck = status.as_ref().and_then(|_| client.netcheck().ok());
        if status.is_none() {
            self.tun();
            self.ports(settings.as_ref());
        }
        let interface = status.as_ref().map(|status| status.interface.name.clone());
        let interface = interface.or_else(|| Some(settings.as_ref()?.interface.name.clone()));
        let interface = interface.unwrap_or_else(|| "mesh0".to_owned());
        self.firewall(&interface, &ports(settings.as_ref(), netcheck.as_ref()));
        self.routes(&interface);
        if let Some(status) = &status {
            lookup::examine(self, status, settings.as_ref());
        }
        if let Some(netcheck) = &netcheck {
            self.mtu(netcheck);
        }
        self.clock(settings.as_ref());
    }

    fn note(
        &mut self,
        check: &'static str,
        state: State,
        code: &str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let fix = fix.into();
        self.checks.push(Check {
            check,
            state,
            code: Some(code.to_owned()),
            text: text.into(),
            fix: Some(fix).filter(|fix| !fix.is_empty()),
        });
    }

    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.checks.push(Check {
            check,
            state: State::Ok,
            code: None,
            text: text.into(),
            fix: None,
        });
    }

    fn unknown(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.checks.push(Check {
            check,
            state: State::Unknown,
            code: None,
            text: text.into(),
            fix: Some(fix.into()),
        });
    }

    fn configuration(&mut self, source: &Source) -> Option<Settings> {
        match source.load() {
            Ok(settings) => {
                self.ok("configuration", source.path.display().to_string());
                Some(settings)
            }
            Err(error) => {
                self.note(
                    "configuration",
                    State::Wrong,
                    "CONFIG",
                    chain(&error),
                    "meshd config check     (none yet: sudo meshd init)",
                );
                None
            }
        }
    }

    fn daemon(&mut self, status: Result<Status, ClientError>) -> Option<Status> {
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                self.note(
                    "daemon",
                    State::Wrong,
                    "DAEMON",
                    chain(&error),
                    "sudo systemctl start meshd     or: sudo meshd run",
                );
                return None;
            }
        };
        let up = duration(status.node.uptime_s);
        self.ok("daemon", format!("{}, up {up}", status.node.version));
        for warning in &status.warnings {
            let known = WarningCode::ALL
                .into_iter()
                .find(|code| code.to_string() == warning.code);
            let fix = known.and_then(|code| code.explanation().split_once("To do: "));
            let fix = fix.map_or_else(
                || format!("meshd help {}", warning.code),
                |(_, fix)| fix.to_owned(),
            );
            self.note(
                "daemon",
                State::Wrong,
                &warning.code,
                warning.text.as_str(),
                fix,
            );
        }
        Some(status)
    }

    fn tun(&mut self) {
        match OpenOptions::new().read(true).write(true).open(TUN) {
            Ok(_) => self.ok("tun", TUN),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.unknown("tun", format!("{TUN}: {error}"), "sudo meshd doctor");
            }
            Err(error) => {
                self.note(
                    "tun",
                    State::Wrong,
                    "NO-TUN",
                    format!("{TUN}: {error}"),
                    "sudo modprobe tun     (in a container: give it the device)",
                );
            }
        }
    }

    /// The daemon does not run: whether it could listen.
    fn ports(&mut self, settings: Option<&Settings>) {
        let addresses = settings.map_or(&[][..], |settings| &settings.listen);
        for address in addresses.iter().filter(|address| address.port() != 0) {
            match bind(*address) {
                Ok(()) => self.ok("port", format!("UDP {address} is free")),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    self.unknown(
                        "port",
                        format!("UDP {address}: {error}"),
                        "sudo meshd doctor",
                    );
                }
                Err(error) => {
                    let fix = format!(
                        "sudo ss -ulpn 'sport = :{}'     (who has it?)",
                        address.port()
                    );
                    self.note(
                        "port",
                        State::Wrong,
                        "PORT-IN-USE",
                        format!("UDP {address}: {error}"),
                        fix,
                    );
                }
            }
        }
    }

    fn firewall(&mut self, interface: &str, ports: &[u16]) {
        let needs = Needs { ports, interface };
        let judged = program::output("nft -j list ruleset", OUTPUT)
            .map_err(|error| error.to_string())
            .and_then(|text| firewall::judge(&text, needs).map_err(|_| text.trim().to_owned()));
        match judged {
            Err(error) => {
                let error = error.lines().next().unwrap_or_default();
                self.unknown(
                    "firewall",
                    format!("nft: {error}"),
                    "sudo meshd doctor     (with nft installed)",
                );
            }
            Ok(obstacles) if obstacles.is_empty() => {
                self.ok(
                    "firewall",
                    "no chain of nftables keeps out peers or the mesh",
                );
            }
            Ok(obstacles) => obstacles
                .iter()
                .for_each(|obstacle| self.obstacle(obstacle, interface)),
        }
    }

    fn obstacle(&mut self, obstacle: &Obstacle, interface: &str) {
        match obstacle {
            Obstacle::Port(chain, port) => self.note(
                "firewall",
                State::Wrong,
                "FIREWALL",
                format!("chain {} drops what no rule lets in, and none names UDP port {port}: peers cannot call this node", named(chain)),
                format!("sudo nft insert rule {} udp dport {port} accept     (and in the firewall's own configuration)", named(chain)),
            ),
            Obstacle::Interface(chain) => self.note(
                "firewall",
                State::Note,
                "FIREWALL-OVERLAY",
                format!("chain {} drops what no rule lets in, and none names {interface}: no service of this machine is reached over the mesh", named(chain)),
                format!("sudo nft insert rule {} iifname {interface} accept     (what may come in, [inbound] says)", named(chain)),
            ),
            Obstacle::Opaque(chain) => self.unknown(
                "firewall",
                format!("chain {} drops, by rules of iptables that are not understood here", named(chain)),
                "sudo iptables -S; sudo ip6tables -S     (is the WireGuard port let in?)",
            ),
        }
    }

    fn routes(&mut self, interface: &str) {
        let said = |line| program::output(line, OUTPUT).map_err(|error| error.to_string());
        let judged = said("ip -6 -j route show table all").and_then(|routes| {
            let rules = said("ip -6 -j rule show")?;
            routes::judge(&routes, &rules, interface).map_err(|error| error.to_string())
        });
        let foreign = match judged {
            Err(error) => {
                return self.unknown("routes", format!("ip: {error}"), "install iproute2");
            }
            Ok(foreign) => foreign,
        };
        if foreign.is_empty() {
            self.ok("routes", "the overlay is nobody else's");
        }
        for route in foreign {
            let (state, effect) = if route.wins {
                (State::Wrong, "packets for the mesh go there")
            } else {
                (State::Note, "without effect while meshd runs")
            };
            let text = format!(
                "{} leads to {} in table {}: {effect}",
                route.prefix, route.device, route.table
            );
            let fix = format!(
                "find out who made it:  ip -6 route show table {} {}",
                route.table, route.prefix
            );
            self.note("routes", state, "OVERLAY-ROUTE", text, fix);
        }
    }

    fn mtu(&mut self, netcheck: &Netcheck) {
        let whole = netcheck.interface_mtu;
        match netcheck.mtu {
            None => self.unknown("mtu", "no link is up, so nothing is known", "meshd links"),
            Some(mtu) if mtu >= whole => self.ok("mtu", format!("{whole}, all of it")),
            Some(mtu) => {
                let state = if mtu < LEAST_MTU {
                    State::Wrong
                } else {
                    State::Note
                };
                let text = format!(
                    "the widest link carries packets of {mtu} bytes, the interface takes {whole}: larger ones are slow to begin with"
                );
                let fix =
                    "find the tunnel or PPPoE on the way, or lower the MTU with [interface] mtu";
                self.note("mtu", state, "MTU-LOW", text, fix);
            }
        }
    }

    /// A handshake carries the time: peers refuse one from before the last.
    fn clock(&mut self, settings: Option<&Settings>) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let state = settings.and_then(|settings| StateDir::open(&settings.state_dir).ok());
        let known = state.and_then(|state| state.read::<Peers>().ok().flatten());
        let latest = known.and_then(|known| known.peers.iter().map(|peer| peer.seen).max());
        match latest {
            Some(latest) if latest > now => {
                let text = format!(
                    "the clock is {} behind the time when a peer was last heard: peers may refuse this node",
                    duration(latest - now)
                );
                self.note(
                    "clock",
                    State::Wrong,
                    "CLOCK-BEHIND",
                    text,
                    "timedatectl     (is the time right, and is it synchronized?)",
                );
            }
            Some(_) => self.ok("clock", "not behind what this node has seen"),
            None => self.unknown(
                "clock",
                "no peer was heard yet, or this may not be read",
                "sudo meshd doctor",
            ),
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for Check {
            check,
            state,
            code,
            text,
            fix,
        } in &self.checks
        {
            let word = match state {
                State::Ok => "ok",
                State::Note => "note",
                State::Wrong => "WRONG",
                State::Unknown => "?",
            };
            let code = code
                .as_ref()
                .map(|code| format!("{code}: "))
                .unwrap_or_default();
            let line = super::printable(&format!("{code}{text}"));
            writeln!(out, "{word:<5}  {check:<13}  {line}")?;
            if let Some(fix) = fix {
                for line in fix.lines() {
                    writeln!(out, "       fix: {}", super::printable(line))?;
                }
            }
        }
        Ok(())
    }
}

/// The ports that peers call at: those that the daemon has, else those of the configuration.
fn ports(settings: Option<&Settings>, netcheck: Option<&Netcheck>) -> Vec<u16> {
    let has = netcheck.map(|netcheck| {
        netcheck
            .ipv4
            .addresses
            .iter()
            .chain(&netcheck.ipv6.addresses)
    });
    let mut ports: Vec<u16> = has.into_iter().flatten().map(SocketAddr::port).collect();
    if ports.is_empty() {
        let listen = settings.map_or(&[][..], |settings| &settings.listen);
        ports.extend(listen.iter().map(SocketAddr::port));
    }
    ports.retain(|port| *port != 0);
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Takes an address as the daemon would, for a moment.
fn bind(address: SocketAddr) -> io::Result<()> {
    match UdpSocket::bind(address, MARK) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.source),
    }
}

fn named(chain: &Chain) -> String {
    format!("{} {} {}", chain.family, chain.table, chain.name)
}
