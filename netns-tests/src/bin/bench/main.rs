//! Tunnels side by side, between namespaces of this machine.
//!
//! [`USAGE`] says what can be asked for, and what the columns mean. The repetition is the outer loop, with one system after the
//! other in each scene, so that what changes on the machine meanwhile meets them all; ratios are medians of ratios within one
//! repetition. All nodes share the machine's processors: compare within one run only; what carries over to other machines is
//! the processor time per byte. Run it by `sudo ./netns-tests/bench`, which builds with `--release`.
#![expect(clippy::print_stdout, reason = "it prints its results")]

mod crowd;
mod hook;
mod impaired;
mod line;
mod scene;
mod setup;
mod system;
mod table;
mod tunnels;

use anyhow::{Context as _, Result, bail, ensure};

use crate::hook::Hook;
use crate::scene::Scene;
use crate::system::System;
use crate::table::Table;

/// What it prints when it is asked for help, or asked wrongly.
const USAGE: &str = "\
usage: bench [-n REPETITIONS] [-t SECONDS] [--older MESHD] [--system NAME=COMMAND]... [SCENE]... [SYSTEM]...

  -n  how often everything is measured (3): printed are medians, and medians of ratios within one repetition
  -t  length of one measurement of TCP in seconds (3); those of `impaired` are four times as long

Scenes (all of them unless some are named; about 25 minutes with three repetitions of all systems):
  direct    two nodes on a link of 1500 bytes                                              20 s a system and repetition
  plain     the same link without offloads: packet by packet, as over a wire               20 s
  line      three nodes, the outer two without a link of their own                         20 s
  impaired  a link of 300 Mbit/s with 10 ms of round trip, 0.5 % lost and 1 % early        35 s
  setup     how long it takes until packets flow                                           15 s
  crowd     one meshd with 50 peers (meshd only)                                           45 s

Systems (all that are installed unless some are named):
  meshd           the one built together with this program, or $MESHD_BIN
  meshd-nested    only in `line`: two of it, and between them wireguard-go and babeld, which know no labels, so that the two nest
  wireguard-go    if it is on the PATH; one interface in each node, the kernel routes in the middle of a line
  boringtun       likewise, if boringtun-cli is on the PATH
  raw-veth        no tunnel: what the links carry

Columns:
  TCP 1, TCP 4    Mbit/s of one and of four streams (cubic)
  CPU s/GB        processor time of the programs of all nodes, system calls included, for 10^9 bytes of one stream
  64 B            packets of 64 bytes delivered, in thousands a second, and the percentage lost, sent as fast as it goes
  idle, load      round trips without load, and beside one stream of TCP
  RSS MB          the most memory that one of the programs had resident (2^20 bytes)
  hop, x hop      line: one stream over the first link alone, and the rate over both as a share of it
  cubic, bbr      impaired: Mbit/s of one stream of each
  late /M         impaired: packets that the receiving meshd refused as replayed or too late, per million frames sent to it
  start ms        setup: from before the programs are started and configured until the first answer over the tunnel
  pair ms         setup: first packet and its answer between two nodes at rest. meshd keeps the session of neighbours up; others shake hands now
  line ms         setup: the same over a line of three, whose outer nodes have no session yet
  hub MB, idle %  crowd: memory of the hub while ten peers send to it, and percent of one processor while all 50 are idle

--older MESHD adds the system meshd-older, only in `line`: MESHD, of a release that knows no labels, runs the middle node, so that
all three nest.

--system NAME=COMMAND adds any other program. COMMAND (split at spaces) is called as root, in the root of the repository, with
more arguments:
  up DIRECTORY [NAMESPACE ADDRESS NAMESPACE ADDRESS]...
                  Four words for each cable of a line of nodes, in order: the network namespace of one end and its IPv4 address
                  on the cable, then the other end. One cable: two nodes. Two cables: three nodes, the middle one is named twice,
                  once for each cable. It starts the nodes in their namespaces (`ip netns exec`) and returns without waiting for
                  a handshake, and prints one line `address ADDRESS` for each node but the first, in order: where the first
                  reaches it inside the tunnel; and one line `pid NUMBER` for every process whose cost counts. DIRECTORY is empty
                  and for its files. It ends with status 3 if it cannot do so many nodes: then it is left out there.
  down DIRECTORY  Ends what `up` has started. What still runs in the namespaces is killed.
netns-tests/systems/wireguard is one: --system 'mine=netns-tests/systems/wireguard /path/to/wireguard-go -f'";

struct Order {
    repetitions: u32,
    seconds: u8,
    scenes: Vec<Scene>,
    systems: Vec<System>,
}

fn main() -> Result<()> {
    let Some(order) = order(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let mut tables: Vec<Table> = order
        .scenes
        .iter()
        .map(|scene| Table::new(*scene))
        .collect();
    for repetition in 1..=order.repetitions {
        for table in &mut tables {
            let scene = table.scene();
            for system in order.systems.iter().filter(|it| scene.takes(it)) {
                let figures = scene
                    .measure(system, order.seconds, repetition)
                    .with_context(|| format!("{}, {}", scene.name(), system.name()))?;
                let counted = format!(
                    "{repetition}/{} {:8} {:13}",
                    order.repetitions,
                    scene.name(),
                    system.name()
                );
                match figures {
                    Some(figures) => {
                        println!("{counted} {figures:.2?}");
                        table.add(system, figures);
                    }
                    None => println!("{counted} left out: it cannot do this"),
                }
            }
        }
    }
    for table in &tables {
        print!("{table}");
    }
    Ok(())
}

/// What is asked for; nothing if it is help.
fn order(mut words: impl Iterator<Item = String>) -> Result<Option<Order>> {
    let mut order = Order {
        repetitions: 3,
        seconds: 3,
        scenes: Vec::new(),
        systems: Vec::new(),
    };
    let mut more = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "-n" => order.repetitions = value()?.parse().context("-n")?,
            "-t" => order.seconds = value()?.parse().context("-t")?,
            "--older" => more.push(System::MeshdOlder(value()?)),
            "--system" => more.push(System::Hook(Hook::parse(&value()?)?)),
            name => {
                if let Some(scene) = Scene::ALL.into_iter().find(|it| it.name() == name) {
                    order.scenes.push(scene);
                } else if let Some(system) = System::OWN.into_iter().find(|it| it.name() == name) {
                    order.systems.push(system);
                } else {
                    bail!("{name}: neither a scene nor a system\n\n{USAGE}");
                }
            }
        }
    }
    ensure!(
        order.repetitions > 0 && (1..=30).contains(&order.seconds),
        "at least one repetition, of 1 to 30 seconds"
    );
    if order.scenes.is_empty() {
        order.scenes.extend(Scene::ALL);
    }
    if order.systems.is_empty() {
        order.systems.extend(System::OWN);
    }
    for system in order.systems.extract_if(.., |system| !system.is_here()) {
        println!("{}: not installed, left out", system.name());
    }
    order.systems.extend(more);
    Ok(Some(order))
}
