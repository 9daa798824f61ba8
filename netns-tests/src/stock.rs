//! Routing daemons of others, from Debian, that speak Babel: what our own must get along with, and be compared with.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnetwork::Ipv6Network;

use crate::host::Host;
use crate::process::Process;
use crate::wait::{secs, wait_until};
use crate::{babeld, bird};

/// How long one may take from its start until it answers.
const START: Duration = secs(10);
/// The bridge, without ports, that what a router announces lies on.
const STUB: &str = "stub";

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Software {
    /// The reference implementation, version 1.12.1 in Debian 12.
    Babeld,
    /// BIRD's Babel, version 2.0.12 in Debian 12.
    Bird,
}

impl Software {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Babeld, Self::Bird];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Babeld => "babeld",
            Self::Bird => "bird",
        }
    }
}

/// What one is configured with.
#[derive(Clone, Debug)]
pub struct StockSettings {
    pub(crate) interfaces: Vec<String>,
    pub(crate) hello: Duration,
    pub(crate) update: Duration,
    pub(crate) announce: Vec<Ipv6Network>,
}

impl StockSettings {
    /// Babel on these interfaces, at both daemons' own default pace: Hellos every 4 seconds, updates every 16.
    pub fn on(interfaces: &[&str]) -> Self {
        Self {
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            hello: secs(4),
            update: secs(16),
            announce: Vec::new(),
        }
    }

    /// Another pace.
    #[must_use]
    pub const fn every(mut self, hello: Duration, update: Duration) -> Self {
        self.hello = hello;
        self.update = update;
        self
    }

    /// Announces a prefix, and has the first address of it (`…::1`).
    #[must_use]
    pub fn announce(mut self, prefix: Ipv6Network) -> Self {
        self.announce.push(prefix);
        self
    }
}

/// A neighbour, as the daemon sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct StockNeighbour {
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Where it is.
    pub interface: String,
    /// What a packet to it costs; none: it is not usable.
    pub cost: Option<u16>,
    /// The round-trip time to it in milliseconds, where the daemon measures it.
    pub rtt_ms: Option<f64>,
}

/// A route, as the daemon sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockRoute {
    /// To where.
    pub prefix: Ipv6Network,
    /// Link-local address of the neighbour that announced it.
    pub via: Ipv6Addr,
    /// Towards that neighbour.
    pub interface: String,
    /// How far; none: retracted.
    pub metric: Option<u16>,
    /// Whether it is the one that packets take.
    pub is_selected: bool,
}

/// A running daemon. Cheap to clone; all clones are the same, which ends with the lab.
#[derive(Clone, Debug)]
pub struct StockRouter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    software: Software,
    host: Host,
    argv: Vec<String>,
    socket: PathBuf,
    process: Mutex<Option<Process>>,
}

impl StockRouter {
    /// Starts one on a host and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed or not ready in ten seconds.
    #[track_caller]
    pub fn start(software: Software, host: &Host, settings: &StockSettings) -> Self {
        let router = Self::launch(software, host, settings);
        router.wait_until_ready();
        router
    }

    /// Starts one and does not wait.
    #[track_caller]
    pub fn launch(software: Software, host: &Host, settings: &StockSettings) -> Self {
        if !settings.announce.is_empty() {
            host.run(&format!("ip link add {STUB} type bridge"));
            host.link_up(STUB);
        }
        for prefix in &settings.announce {
            host.set_address(STUB, &format!("{}/{}", first(*prefix), prefix.prefix()));
        }
        let name = software.name();
        let file = |ending: &str| host.directory().join(format!("{name}.{ending}"));
        let socket = host.sockets().join(format!("{}.{name}", host.name()));
        let (text, argv) = match software {
            Software::Babeld => (
                babeld::configuration(settings),
                babeld::command(&file("conf"), &file("state"), &file("log"), &socket),
            ),
            Software::Bird => (
                bird::configuration(settings, STUB, &file("log")),
                bird::command(&file("conf"), &file("pid"), &socket),
            ),
        };
        std::fs::write(file("conf"), text)
            .unwrap_or_else(|err| panic!("cannot write the configuration of {name}: {err}"));
        let router = Self(Arc::new(Inner {
            software,
            host: host.clone(),
            argv,
            socket,
            process: Mutex::default(),
        }));
        let witness = router.clone();
        host.witness(&format!("{name}.txt"), move || witness.dump());
        router.run();
        router
    }

    #[track_caller]
    fn run(&self) {
        let argv: Vec<&str> = self.0.argv.iter().map(String::as_str).collect();
        *self.process() = Some(self.0.host.spawn_argv(&argv));
    }

    /// Waits until it answers.
    ///
    /// # Panics
    /// When it does not in ten seconds, or has ended.
    #[track_caller]
    pub fn wait_until_ready(&self) {
        let what = format!(
            "{} on {} is ready",
            self.0.software.name(),
            self.0.host.name()
        );
        wait_until(START, &what, || {
            if self
                .process()
                .as_mut()
                .is_none_or(|process| !process.is_running())
            {
                panic!("it has ended: {}", self.dump());
            }
            self.neighbours()
        });
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.0
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Which program it is.
    pub fn software(&self) -> Software {
        self.0.software
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it was killed.
    #[track_caller]
    pub fn id(&self) -> u32 {
        self.process().as_ref().expect("the router runs").id()
    }

    /// Whom it hears.
    ///
    /// # Errors
    /// It does not answer.
    pub fn neighbours(&self) -> Result<Vec<StockNeighbour>, String> {
        match self.0.software {
            Software::Babeld => Ok(babeld::neighbours(&babeld::dump(&self.0.socket)?)),
            Software::Bird => Ok(bird::neighbours(&self.birdc("show babel neighbors")?)),
        }
    }

    /// All routes that it has heard of, also those it does not use.
    ///
    /// # Errors
    /// It does not answer.
    pub fn routes(&self) -> Result<Vec<StockRoute>, String> {
        match self.0.software {
            Software::Babeld => Ok(babeld::routes(&babeld::dump(&self.0.socket)?)),
            Software::Bird => Ok(bird::routes(&self.birdc("show babel routes")?)),
        }
    }

    /// The selected route that packets to an address take.
    ///
    /// # Errors
    /// It does not answer, or has none; then what it has.
    pub fn route_to(&self, address: Ipv6Addr) -> Result<StockRoute, String> {
        let routes = self.routes()?;
        routes
            .iter()
            .filter(|route| route.is_selected && route.metric.is_some())
            .filter(|route| route.prefix.contains(address))
            .max_by_key(|route| route.prefix.prefix())
            .cloned()
            .ok_or_else(|| format!("{routes:?}"))
    }

    /// Waits for a route to an address.
    ///
    /// # Panics
    /// When it has none in that time.
    #[track_caller]
    pub fn wait_for_route(&self, address: Ipv6Addr, within: Duration) -> StockRoute {
        let what = format!("{} has a route to {address}", self.0.host.name());
        wait_until(within, &what, || self.route_to(address))
    }

    /// Waits until the neighbour on an interface is usable both ways.
    ///
    /// # Panics
    /// When there is none in that time.
    #[track_caller]
    pub fn wait_for_neighbour(&self, interface: &str, within: Duration) -> StockNeighbour {
        let what = format!("{} has a neighbour on {interface}", self.0.host.name());
        wait_until(within, &what, || {
            let neighbours = self.neighbours()?;
            neighbours
                .iter()
                .find(|neighbour| neighbour.interface == interface && neighbour.cost.is_some())
                .cloned()
                .ok_or_else(|| format!("{neighbours:?}"))
        })
    }

    /// Asks it to end, and returns once it has.
    #[track_caller]
    pub fn stop(&self) {
        let mut process = self.process().take().expect("the router runs");
        let ended = process.stop();
        assert!(ended.is_some(), "it had to be killed: {}", process.log());
    }

    /// Kills it; its routes stay in the kernel.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again after [`Self::stop`] or [`Self::kill`], and waits until it answers.
    #[track_caller]
    pub fn start_again(&self) {
        self.run();
        self.wait_until_ready();
    }

    /// Sends it a signal by name (`STOP`, `CONT`).
    #[track_caller]
    pub fn signal(&self, name: &str) {
        self.process()
            .as_mut()
            .expect("the router runs")
            .signal(name);
    }

    /// What it has complained of: everything it has written besides its being started.
    pub fn complaints(&self) -> String {
        let log = self
            .0
            .host
            .directory()
            .join(format!("{}.log", self.0.software.name()));
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.ends_with("<INFO> Started"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn birdc(&self, command: &str) -> Result<String, String> {
        let socket = self.0.socket.display();
        self.0
            .host
            .try_run(&format!("birdc -r -s {socket} {command}"))
    }

    /// Everything it knows, as text.
    fn dump(&self) -> String {
        let said = match self.0.software {
            Software::Babeld => babeld::dump(&self.0.socket),
            Software::Bird => bird::SHOWN
                .iter()
                .map(|command| self.birdc(command))
                .collect::<Result<Vec<_>, _>>()
                .map(|texts| texts.join("\n")),
        };
        said.unwrap_or_else(|err| err)
    }
}

/// The first address of a prefix, which whoever announces it has.
pub fn first(prefix: Ipv6Network) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix.network()) | 1)
}
