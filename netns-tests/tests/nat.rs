//! Nodes behind routers that translate addresses: they talk through a public member at once, and straight soon, wherever that can be.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use netns_tests::nat::{Hairpin, WanInput};
use netns_tests::settings::PORT;
use netns_tests::traffic::{self, Stream};
use netns_tests::view::PathKind;
use netns_tests::wait::poll_until;
use netns_tests::{
    Daemon, Identity, Lab, Nat, NatBox, Port, Router, Settings, millis, secs, wait_until,
};

/// From the first packet to the first answer, whichever way it takes.
const USABLE: Duration = secs(1);
/// From the first packet to a straight way.
const DIRECT: Duration = secs(5);
/// The same where ports have to be guessed by the hundred.
const GUESSED: Duration = secs(10);

/// IPv4 alone, so that no path over IPv6 hides what is tried here.
const V4: [&str; 1] = ["0.0.0.0:51860"];
/// The same by another port: the lab's hairpin tells hosts apart by the ports that they have inside.
const V4_OTHER: [&str; 1] = ["0.0.0.0:51861"];
/// IPv6 alone.
const V6: [&str; 1] = ["[::]:51860"];

/// What the table promises for two routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// A straight way, in five seconds.
    Direct,
    /// One in ten, but for bad luck.
    Guessed,
    /// None.
    Relay,
}

/// Public members in the middle, and who is behind a router. All know the members, and let each other open a session.
struct Site<'lab> {
    lab: &'lab Lab,
    members: Vec<(Identity, Port)>,
    ids: Vec<Identity>,
    started: usize,
}

impl<'lab> Site<'lab> {
    /// So many members, which let in this many nodes.
    fn new(lab: &'lab Lab, members: usize, nodes: usize) -> Self {
        let ids: Vec<Identity> = (0..nodes).map(|_| lab.identity()).collect();
        let members: Vec<(Identity, Port)> = (0..members)
            .map(|n| {
                let host = lab.host(&format!("m{n}"));
                (lab.identity(), lab.internet().connect(&host))
            })
            .collect();
        for (at, (id, port)) in members.iter().enumerate() {
            let mut settings = Settings::new(id).allow(&ids).log_level("info");
            for (other, (id, port)) in members.iter().enumerate().filter(|(n, _)| *n != at) {
                let place = SocketAddr::new(port.v4.into(), PORT);
                settings = settings.peer(&format!("m{other}"), id, Some(place));
            }
            port.host.meshd(settings);
        }
        Self {
            lab,
            members,
            ids,
            started: 0,
        }
    }

    /// Starts the next node, behind that router, over one family of addresses.
    fn behind(&mut self, router: &Router, listen: &[&str]) -> (Daemon, Port) {
        let number = self.started;
        self.started += 1;
        let host = self.lab.host(&format!("n{number}"));
        let port = router.attach(&host);
        let id = &self.ids[number];
        let others = self.ids.iter().filter(|other| *other != id);
        let mut settings = Settings::new(id).listen(listen).allow(others);
        for (at, (member, port)) in self.members.iter().enumerate() {
            let place: IpAddr = if listen == V6 {
                port.v6.into()
            } else {
                port.v4.into()
            };
            let place = SocketAddr::new(place, PORT);
            settings = settings.peer(&format!("m{at}"), member, Some(place));
        }
        (host.launch_meshd(settings), port)
    }
}

/// What became of one pair.
#[derive(Debug)]
struct Met {
    what: String,
    promise: Promise,
    usable: Result<Duration, String>,
    /// How long it took until both had a straight way, if they got one.
    direct: Result<Duration, String>,
    /// Probes that both have sent.
    probes: u64,
    /// Why they have none.
    code: Option<String>,
}

impl Met {
    /// Whether the promise is kept; bad luck counts as kept here.
    fn is_kept(&self) -> bool {
        let expected = match self.promise {
            Promise::Direct => self.direct.is_ok(),
            Promise::Guessed => true,
            Promise::Relay => self.direct.is_err(),
        };
        expected && self.usable.is_ok()
    }
}

/// Sends from `a` to `b` and sees which way it takes.
fn meet(what: &str, a: &Daemon, b: &Daemon, promise: Promise) -> Met {
    let start = Instant::now();
    let traffic = a
        .host()
        .spawn(&format!("ping -n -q -i 0.1 {}", b.address()));
    let usable = poll_until(USABLE, || a.host().ping_within(b.address(), millis(300)))
        .map(|()| start.elapsed())
        .map_err(|late| late.last);
    let within = match promise {
        Promise::Direct => DIRECT,
        Promise::Guessed | Promise::Relay => GUESSED,
    };
    let is_direct = || {
        let kinds = [(a, b), (b, a)].map(|(from, to)| from.path_to(to.address()));
        match &kinds {
            [Ok(one), Ok(other)] if [one, other].iter().all(|p| p.kind == PathKind::Direct) => {
                Ok(())
            }
            _ => Err(format!("{kinds:?}")),
        }
    };
    let direct = poll_until(within.saturating_sub(start.elapsed()), is_direct)
        .map(|()| start.elapsed())
        .map_err(|late| late.last);
    let answers = a.host().ping(b.address());
    drop(traffic);
    let why = [(a, b), (b, a)].map(|(from, to)| from.json(&format!("why {}", to.address())));
    let sent = |why: &serde_json::Value| -> u64 {
        let candidates = why["candidates"].as_array().into_iter().flatten();
        candidates.filter_map(|tried| tried["sent"].as_u64()).sum()
    };
    Met {
        what: what.to_owned(),
        promise,
        usable: usable.and_then(|took| answers.map(|()| took)),
        direct,
        probes: why.iter().map(sent).sum(),
        code: why[0]["code"].as_str().map(str::to_owned),
    }
}

/// Prints what became of all, and fails if a promise was broken.
#[track_caller]
fn judge(met: &[Met]) {
    let took = |time: &Result<Duration, String>| match time {
        Ok(time) => format!("{:.2} s", time.as_secs_f64()),
        Err(_) => "-".to_owned(),
    };
    for met in met {
        println!(
            "{:<44} {:<8} usable {:>7}  direct {:>7}  {:>5} probes  {}",
            met.what,
            format!("{:?}", met.promise),
            took(&met.usable),
            took(&met.direct),
            met.probes,
            met.code.as_deref().unwrap_or_default(),
        );
    }
    let broken: Vec<&Met> = met.iter().filter(|met| !met.is_kept()).collect();
    assert!(broken.is_empty(), "broken: {broken:#?}");
    let guessed = || met.iter().filter(|met| met.promise == Promise::Guessed);
    // Each fails once in a hundred times.
    assert!(
        guessed().next().is_none() || guessed().any(|met| met.direct.is_ok()),
        "nobody has guessed a port"
    );
}

/// Waits until every node has a route to every other.
#[track_caller]
fn wait_for_all(nodes: &[&Daemon]) {
    for node in nodes {
        for other in nodes
            .iter()
            .filter(|other| other.address() != node.address())
        {
            node.wait_for_route(other.address(), secs(30));
        }
    }
}

/// The routers of the table, from the kindest.
const KINDS: [(&str, Nat); 5] = [
    ("full cone", Nat::FullCone),
    ("restricted", Nat::Restricted),
    ("port restricted", Nat::PortRestricted),
    ("sequential", Nat::SymmetricSequential),
    ("random", Nat::SymmetricRandom),
];

const fn promise(left: usize, right: usize) -> Promise {
    let (kind, hard) = if left < right {
        (left, right)
    } else {
        (right, left)
    };
    match (kind, hard) {
        (2, 4) => Promise::Guessed,
        (3 | 4, 4) => Promise::Relay,
        _ => Promise::Direct,
    }
}

#[test]
fn a_straight_way_is_found_wherever_the_table_says_that_there_is_one() {
    let lab = Lab::new("nat table");
    let mut site = Site::new(&lab, 2, 2 * KINDS.len());
    let mut side = |name: &str| -> Vec<Daemon> {
        let nodes = KINDS.iter().enumerate().map(|(n, (_, nat))| {
            let router = lab.router(&format!("{name}{n}")).online().nat(*nat);
            site.behind(&router, &V4).0
        });
        nodes.collect()
    };
    let (lefts, rights) = (side("l"), side("r"));
    wait_for_all(&lefts.iter().chain(&rights).collect::<Vec<_>>());
    let mut met = Vec::new();
    // In every round each node meets one other.
    for round in 0..KINDS.len() {
        let pairs = (0..KINDS.len()).map(|left| (left, (left + round) % KINDS.len()));
        std::thread::scope(|scope| {
            let meeting = pairs.map(|(left, right)| {
                let (a, b) = (&lefts[left], &rights[right]);
                let what = format!("{} x {}", KINDS[left].0, KINDS[right].0);
                scope.spawn(move || meet(&what, a, b, promise(left, right)))
            });
            let meeting: Vec<_> = meeting.collect();
            met.extend(meeting.into_iter().map(|thread| thread.join().unwrap()));
        });
    }
    judge(&met);
}

#[test]
fn a_straight_way_is_found_behind_other_routers_too() {
    let lab = Lab::new("nat others");
    let mut site = Site::new(&lab, 2, 16);
    let home = |name: &str, nat: NatBox| lab.router(name).online().nat(nat);
    let prc: NatBox = Nat::PortRestricted.into();
    let (open, hairpin) = (
        NatBox {
            wan_input: WanInput::Open,
            ..prc
        },
        NatBox {
            hairpin: Hairpin::On,
            ..prc
        },
    );
    let mut cases = Vec::new();
    let mut pair = |what: &'static str, promise, a: &Router, b: &Router, listen: [&[&str]; 2]| {
        let nodes = [(a, listen[0]), (b, listen[1])].map(|(router, at)| site.behind(router, at).0);
        cases.push((what, promise, nodes));
    };
    let carrier = home("carrier", prc);
    let double = lab.router("double").behind(&carrier).nat(prc);
    pair(
        "double x port restricted",
        Promise::Direct,
        &double,
        &home("c0", prc),
        [&V4, &V4],
    );
    let changing = home("changing", Nat::PortChanging.into());
    pair(
        "port changing x port restricted",
        Promise::Direct,
        &changing,
        &home("c1", prc),
        [&V4, &V4],
    );
    let same = home("same", prc);
    pair(
        "one home, no hairpin",
        Promise::Direct,
        &same,
        &same,
        [&V4, &V4],
    );
    let turning = home("turning", hairpin);
    let inner = ["h0", "h1"].map(|name| lab.router(name).behind(&turning).nat(prc));
    pair(
        "two homes of one carrier, hairpin",
        Promise::Direct,
        &inner[0],
        &inner[1],
        [&V4, &V4_OTHER],
    );
    let plain = home("plain", prc);
    let inner = ["p0", "p1"].map(|name| lab.router(name).behind(&plain).nat(prc));
    pair(
        "two homes of one carrier, no hairpin",
        Promise::Relay,
        &inner[0],
        &inner[1],
        [&V4, &V4],
    );
    let walls = ["w0", "w1"].map(|name| home(name, Nat::None.into()));
    pair(
        "two firewalls of IPv6",
        Promise::Direct,
        &walls[0],
        &walls[1],
        [&V6, &V6],
    );
    let opens = ["o0", "o1"].map(|name| home(name, open));
    pair(
        "two with open inputs",
        Promise::Direct,
        &opens[0],
        &opens[1],
        [&V4, &V4],
    );
    let short = ["s0", "s1"].map(|name| home(name, NatBox::forgetful()));
    pair(
        "two that forget soon",
        Promise::Direct,
        &short[0],
        &short[1],
        [&V4, &V4],
    );

    let nodes: Vec<&Daemon> = cases.iter().flat_map(|(_, _, nodes)| nodes).collect();
    wait_for_all(&nodes);
    let mut met = Vec::new();
    for group in cases.chunks(4) {
        std::thread::scope(|scope| {
            let meeting = group
                .iter()
                .map(|(what, promise, [a, b])| scope.spawn(move || meet(what, a, b, *promise)));
            let meeting: Vec<_> = meeting.collect();
            met.extend(meeting.into_iter().map(|thread| thread.join().unwrap()));
        });
    }
    judge(&met);
}

/// Two homes with a straight way and a stream over it, which may stand still for so long when something changes.
fn streaming(lab: &Lab, nats: [Nat; 2], gap: Duration, change: impl FnOnce(&Router, &Port)) {
    let mut site = Site::new(lab, 2, 2);
    let [left, right] =
        [("r0", nats[0]), ("r1", nats[1])].map(|(name, nat)| lab.router(name).online().nat(nat));
    let (a, at_a) = site.behind(&left, &V4);
    let (b, _) = site.behind(&right, &V4);
    wait_for_all(&[&a, &b]);
    judge(&[meet("before", &a, &b, Promise::Direct)]);
    let at = SocketAddr::new(b.address().into(), 7001);
    let _server = traffic::tcp_serve(b.host(), at);
    let stream = Stream::start(a.host(), at, 40_000_000, 4_000_000);
    wait_until(secs(10), "the stream flows", || {
        stream.progress() > 4_000_000
    });
    change(&left, &at_a);
    let (before, changed) = (stream.progress(), Instant::now());
    // Two megabytes take half a second, and are more than waits in buffers.
    wait_until(gap + millis(500), "the stream flows on", || {
        stream.progress() > before + 2_000_000
    });
    println!("two megabytes {:.0?} after the change", changed.elapsed());
    stream.finish(secs(40)).unwrap();
    let again = meet("after", &a, &b, Promise::Direct);
    judge(&[again]);
}

#[test]
fn a_stream_survives_another_address_behind_the_same_router() {
    let lab = Lab::new("nat address change");
    streaming(&lab, [Nat::PortRestricted; 2], secs(3), |_, port| {
        let [a, b, c, _] = port.v4.octets();
        let other = Ipv4Addr::new(a, b, c, 99);
        let (old, new) = (format!("{}/24", port.v4), format!("{other}/24"));
        port.host.replace_address(&port.interface, &old, &new);
        port.host.route_by(Ipv4Addr::new(a, b, c, 1));
    });
}

#[test]
fn a_stream_survives_a_router_that_forgets_everything() {
    let lab = Lab::new("nat rebinding");
    // The next packet out says where the sender is now; what was lost before it, TCP sends again.
    let nats = [Nat::SymmetricRandom, Nat::FullCone];
    streaming(&lab, nats, secs(1), |router, _| router.reboot());
}
