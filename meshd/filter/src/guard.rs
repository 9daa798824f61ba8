//! The judgement over what one party sends, and what is remembered for it.

use std::{net::Ipv6Addr, time::Instant};

use crate::{
    Port, Ports,
    flows::{Budget, Flow, Flows, Side, Stage, Topic},
    fragments::Fragments,
    packet::{FRAGMENT, ICMPV6, Packet, Quoted, QuotedUpper, Step, Upper},
    rules::{Question, Rules},
    selector::Standing,
};

/// What becomes of a packet from a party.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It goes on.
    Pass,
    /// It goes no further.
    Refuse(Refusal),
}

/// Why a packet is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It belongs to nothing that this node began, and no rule lets it in.
    Denied,
    /// A fragment of a packet whose first fragment was not let in before it, or that would change it.
    Fragment,
    /// Headers that cannot be judged: cut off, without end, or with further hops.
    Headers,
}

/// Until when TCP connections are taken for open ones that nobody has seen begin: a restart should not break them.
#[derive(Clone, Copy, Debug)]
pub struct PickUp {
    /// If the other party, being a member, goes on with one.
    pub theirs: Instant,
    /// If this node goes on with one.
    pub ours: Instant,
}

/// What is remembered of what goes on with one party.
#[derive(Debug)]
pub struct Guard {
    flows: Flows,
    fragments: Fragments,
    pick_up: PickUp,
}

impl Guard {
    /// Nothing goes on yet.
    pub fn new(pick_up: PickUp, budget: Budget) -> Self {
        Self {
            flows: Flows::new(budget),
            fragments: Fragments::default(),
            pick_up,
        }
    }

    /// How many conversations are remembered.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// A packet that the party sends to this node or to what is behind it; `publish` is open there to everybody. Its source must have
    /// been found to be the party's.
    pub fn judge(
        &mut self,
        rules: &Rules,
        publish: &[Ports],
        packet: &[u8],
        now: Instant,
    ) -> Judgement {
        let Ok(packet) = Packet::parse(packet) else {
            return Judgement::Refuse(Refusal::Headers);
        };
        let (theirs, ours) = (packet.source, packet.destination);
        let is_allowed = |port| {
            let question = Question {
                source: theirs,
                destination: ours,
                port,
                publish,
            };
            rules.allow(&question).is_some()
        };
        let Some(upper) = packet.upper else {
            // Where everything is let in, what a fragment is about does not matter.
            return if self.fragments.may_follow(&packet, now) || is_allowed(Port::Other(FRAGMENT)) {
                Judgement::Pass
            } else {
                Judgement::Refuse(Refusal::Fragment)
            };
        };
        let flow = |topic| Flow {
            theirs,
            ours,
            topic,
        };
        let passes = match upper {
            Upper::Tcp {
                source,
                destination,
                step,
            } => {
                let flow = flow(Topic::Tcp {
                    theirs: source,
                    ours: destination,
                });
                let is_allowed = || is_allowed(Port::Tcp(destination));
                self.admit(flow, Some(step), rules.standing(), is_allowed, now)
            }
            Upper::Udp {
                source,
                destination,
            } => {
                let flow = flow(Topic::Udp {
                    theirs: source,
                    ours: destination,
                });
                let is_allowed = || is_allowed(Port::Udp(destination));
                self.admit(flow, None, rules.standing(), is_allowed, now)
            }
            Upper::EchoRequest(_) => is_allowed(Port::Icmp),
            Upper::EchoReply(id) => {
                self.is_ours(&flow(Topic::Echo(id)), now) || is_allowed(Port::Other(ICMPV6))
            }
            Upper::Error(about) => {
                about.is_some_and(|about| self.is_related(&about, ours, rules, publish, now))
                    || is_allowed(Port::Other(ICMPV6))
            }
            Upper::Other(ICMPV6) => is_allowed(Port::Other(ICMPV6)),
            Upper::Other(protocol) => {
                let is_allowed = || is_allowed(Port::Other(protocol));
                let flow = flow(Topic::Other(protocol));
                self.admit(flow, None, rules.standing(), is_allowed, now)
            }
        };
        if !passes {
            return Judgement::Refuse(Refusal::Denied);
        }
        self.fragments.note(&packet, now);
        Judgement::Pass
    }

    /// A packet that this node, or what is behind it, sends to the party: what it begins is answered.
    pub fn note(&mut self, packet: &[u8], now: Instant) {
        let Ok(packet) = Packet::parse(packet) else {
            return;
        };
        let flow = |topic| Flow {
            theirs: packet.destination,
            ours: packet.source,
            topic,
        };
        match packet.upper {
            Some(Upper::Tcp {
                source,
                destination,
                step,
            }) => {
                let flow = flow(Topic::Tcp {
                    theirs: destination,
                    ours: source,
                });
                let is_known = self.flows.find(&flow, now);
                let begins_anew = is_known.is_none_or(|state| {
                    state.began == Side::Theirs || state.stage != Stage::Opening
                });
                match (step, is_known) {
                    (Step::Begin, _) if begins_anew => {
                        self.flows.begin(flow, Side::Ours, Stage::Opening, now);
                    }
                    (Step::Go, None) if now < self.pick_up.ours => {
                        self.flows.begin(flow, Side::Ours, Stage::Open, now);
                    }
                    (step, _) => self.flows.touch(&flow, Side::Ours, Some(step), now),
                }
            }
            Some(Upper::Udp {
                source,
                destination,
            }) => self.begin_or_touch(
                flow(Topic::Udp {
                    theirs: destination,
                    ours: source,
                }),
                now,
            ),
            Some(Upper::EchoRequest(id)) => self.begin_or_touch(flow(Topic::Echo(id)), now),
            Some(Upper::EchoReply(_) | Upper::Error(_) | Upper::Other(ICMPV6)) | None => {}
            Some(Upper::Other(protocol)) => {
                self.begin_or_touch(flow(Topic::Other(protocol)), now);
            }
        }
    }

    fn begin_or_touch(&mut self, flow: Flow, now: Instant) {
        match self.flows.find(&flow, now) {
            Some(_) => self.flows.touch(&flow, Side::Ours, None, now),
            None => self.flows.begin(flow, Side::Ours, Stage::Opening, now),
        }
    }

    /// Whether a packet of a conversation passes. Who began it is remembered: what this node began is answered; what the party began is
    /// up to the rules of the moment, packet by packet, so that it ends when the rules do.
    fn admit(
        &mut self,
        flow: Flow,
        step: Option<Step>,
        standing: Standing,
        is_allowed: impl FnOnce() -> bool,
        now: Instant,
    ) -> bool {
        let state = self.flows.find(&flow, now);
        // Whoever asks for a connection begins one, unless both ends ask at once (RFC 9293 §3.5).
        let is_answer = state.is_some_and(|state| {
            state.began == Side::Ours
                && (step != Some(Step::Begin) || state.stage == Stage::Opening)
        });
        if is_answer {
            self.flows.touch(&flow, Side::Theirs, step, now);
            return true;
        }
        if is_allowed() {
            match (state, step) {
                (Some(_), step) if step != Some(Step::Begin) => {
                    self.flows.touch(&flow, Side::Theirs, step, now);
                }
                (_, Some(Step::Go | Step::Grant)) => {
                    self.flows.begin(flow, Side::Theirs, Stage::Open, now);
                }
                (_, Some(Step::End | Step::Reset | Step::Stray)) => {}
                (_, Some(Step::Begin) | None) => {
                    self.flows.begin(flow, Side::Theirs, Stage::Opening, now);
                }
            }
            return true;
        }
        let picks_up = state.is_none()
            && standing == Standing::Member
            && matches!(step, Some(Step::Go | Step::End))
            && now < self.pick_up.theirs;
        if picks_up {
            self.flows.begin(flow, Side::Ours, Stage::Open, now);
            self.flows.touch(&flow, Side::Theirs, step, now);
        }
        picks_up
    }

    fn is_ours(&mut self, flow: &Flow, now: Instant) -> bool {
        let state = self.flows.find(flow, now);
        let is_ours = state.is_some_and(|state| state.began == Side::Ours);
        if is_ours {
            self.flows.touch(flow, Side::Theirs, None, now);
        }
        is_ours
    }

    /// Whether an error is about something that was sent from the address it came to, in a conversation that goes on or that the rules let
    /// the other end begin.
    fn is_related(
        &self,
        about: &Quoted,
        to: Ipv6Addr,
        rules: &Rules,
        publish: &[Ports],
        now: Instant,
    ) -> bool {
        if about.source != to {
            return false;
        }
        let (topic, port) = match about.upper {
            QuotedUpper::Tcp(ours, theirs) => (Topic::Tcp { theirs, ours }, Port::Tcp(ours)),
            QuotedUpper::Udp(ours, theirs) => (Topic::Udp { theirs, ours }, Port::Udp(ours)),
            QuotedUpper::EchoRequest(id) => (Topic::Echo(id), Port::Other(ICMPV6)),
            QuotedUpper::Other(protocol) => (Topic::Other(protocol), Port::Other(protocol)),
        };
        let flow = Flow {
            theirs: about.destination,
            ours: about.source,
            topic,
        };
        let question = Question {
            source: about.destination,
            destination: about.source,
            port,
            publish,
        };
        match self.flows.find(&flow, now) {
            Some(state) if state.began == Side::Ours => true,
            Some(_) | None => rules.allow(&question).is_some(),
        }
    }
}
