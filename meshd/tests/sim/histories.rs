//! Random histories: whatever happens to machines and wires, who is connected is reachable soon after it stops happening.

use meshd::{
    discard::Reason,
    sim::{Kept, Net, Plan, dropping, millis, secs},
};

/// A mesh to which things happen.
pub(crate) struct History {
    pub(crate) net: Net,
    pub(crate) rng: fastrand::Rng,
    log: Vec<String>,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = rng.usize(3..=8);
        let mut plan = Plan::random(nodes, rng.usize(0..=4), seed);
        // Some pairs have two wires, and some wires only one who dials.
        let names = plan.names();
        if rng.bool() {
            plan = plan.wire("a", "b");
        }
        if rng.bool() {
            plan = plan.open();
        }
        plan = plan.with_all(|wire| {
            wire.latency = millis(rng.u64(1..40));
            wire.jitter = millis(rng.u64(0..4));
        });
        let mut net = plan.start();
        let (from, to) = (&names[rng.usize(..nodes)], &names[rng.usize(..nodes)]);
        if from != to {
            net.flow(from, to);
        }
        Self {
            net,
            rng,
            log: Vec::new(),
        }
    }

    fn name(&mut self) -> String {
        let names = self.net.names();
        names[self.rng.usize(..names.len())].clone()
    }

    /// One thing happens.
    pub(crate) fn happen(&mut self) {
        let wire = self.rng.usize(..self.net.wires());
        let name = self.name();
        let at = self.net.now();
        let what = match self.rng.u8(..16) {
            0 | 1 => {
                self.net.wire_mut(wire).is_open = [false; 2];
                format!("wire {wire} cut")
            }
            2 => {
                self.net.wire_mut(wire).is_open = [true, false];
                format!("wire {wire} cut one way")
            }
            3..=5 => {
                self.net.wire_mut(wire).is_open = [true; 2];
                format!("wire {wire} healed")
            }
            6 => {
                let loss = self.rng.u32(..300);
                self.net.wire_mut(wire).loss = loss;
                format!("wire {wire} loses {loss}")
            }
            7 => {
                let mtu = [1500, 1400, 1360, 1340][self.rng.usize(..4)];
                self.net.wire_mut(wire).mtu = mtu;
                format!("wire {wire} of {mtu}")
            }
            8 => {
                let kept = [Kept::State, Kept::Nothing][self.rng.usize(..2)];
                self.net.restart(&name, kept);
                format!("{name} restarted with {kept:?}")
            }
            9 => {
                self.net.kill(&name);
                format!("{name} killed")
            }
            10 => {
                self.net.suspend(&name);
                format!("{name} suspended")
            }
            11 => {
                self.net.resume(&name);
                format!("{name} resumed")
            }
            12 => {
                let leap = secs(self.rng.u64(..300));
                self.net.leap(&name, leap);
                format!("{name} leaps {leap:?}")
            }
            13 => {
                self.net.rebind(&name, wire);
                format!("{name} rebound on {wire}")
            }
            14 => {
                self.net.set_lag(&name, millis(self.rng.u64(..20)));
                format!("{name} is slow")
            }
            _ => {
                if self.rng.bool() {
                    self.net.corrupt(&name, dropping(|_| true));
                    format!("{name} corrupt")
                } else {
                    self.net.reform(&name);
                    format!("{name} reformed")
                }
            }
        };
        self.log.push(format!("{at:?}: {what}"));
    }

    /// Everything that is wrong with the world is put right, but for what wires are cut.
    pub(crate) fn calm(&mut self) {
        for name in self.net.names() {
            self.net.reform(&name);
            self.net.resume(&name);
            if !self.net.is_on(&name) {
                self.net.restart(&name, Kept::State);
            }
        }
        for wire in 0..self.net.wires() {
            let wire = self.net.wire_mut(wire);
            wire.loss = 0;
            if !wire.is_open_both_ways() {
                wire.is_open = [false; 2];
            }
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\n{:#?}", self.log)
    }
}

pub(crate) fn live(seed: u64) {
    let mut history = History::new(seed);
    history.net.run_for(secs(5));
    for _ in 0..3 {
        for _ in 0..6 {
            history.happen();
            let pause = millis(history.rng.u64(..4000));
            history.net.run_for(pause);
        }
        history.calm();
        history.net.run_for(secs(10));
        let pairs = history.net.connected_names();
        for (from, to) in pairs {
            // A session that its other end has lost costs the first packet.
            if (0..2).all(|_| history.net.ping(&from, &to).is_none()) {
                let path = history.net.path(&from, &to);
                let what = format!(
                    "seed {seed}: {from} does not reach {to} at {:?}: {path:?} routed {} {}",
                    history.net.now(),
                    history.net.is_routed(&from, &to),
                    history.net.is_routed(&to, &from)
                );
                let told = [from, to].map(|name| {
                    history.net.with_node(&name, |node, now| {
                        let drops = node.status(now).drops;
                        format!("{name} drops {drops:?}\n{:#?}", node.events(0).events)
                    })
                });
                history.fail(&format!("{what}\n{}", told.join("\n")));
            }
        }
        if !history.net.violations().is_empty() {
            history.fail(&format!("seed {seed}: {:#?}", history.net.violations()));
        }
        for name in history.net.names() {
            let out = history.net.count(&name, Reason::HopLimit);
            if out > 0 {
                history.fail(&format!("seed {seed}: {name} saw {out} hop limits run out"));
            }
        }
    }
}

macro_rules! histories {
    ($($name:ident: $seeds:expr,)*) => {
        $(#[test] fn $name() { $seeds.for_each(live); })*
    };
}

histories! {
    of_seeds_0_to_9: 0..10,
    of_seeds_10_to_19: 10..20,
    of_seeds_20_to_29: 20..30,
    of_seeds_30_to_39: 30..40,
    of_seeds_40_to_49: 40..50,
}
