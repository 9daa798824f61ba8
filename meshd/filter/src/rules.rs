//! What the configuration says: rules as written, and what they come to for one party.

use std::{fmt, net::Ipv6Addr};

use ipnetwork::Ipv6Network;

use crate::{
    Port, Ports,
    selector::{From, Standing, Subject, To, Within},
};

/// `[inbound]`: what those may reach who are not trusted altogether.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// What becomes of what no rule lets in.
    pub default: Fate,
    /// What becomes of echo requests that no rule lets in.
    pub icmp_echo: Fate,
    /// What is let in besides, in the order of the configuration.
    pub allow: Vec<Rule>,
}

/// What becomes of a packet that begins something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is let in.
    Allow,
    /// It is refused.
    Deny,
}

/// One rule: who may reach what here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Who.
    pub from: From,
    /// Where.
    pub to: To,
    /// What; nothing if empty.
    pub ports: Vec<Ports>,
}

/// What names stand for.
pub trait Places {
    /// The address of the subject's workload with this name; none if it can have none.
    fn theirs(&self, workload: &str) -> Option<Ipv6Addr>;

    /// The addresses on this node that are meant; empty if nobody has the name.
    fn ours(&self, to: &To) -> Vec<Ipv6Network>;
}

/// What a [`Policy`] comes to for one party.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rules {
    default: Fate,
    icmp_echo: Fate,
    standing: Standing,
    openings: Vec<Opening>,
}

/// A rule that means the party.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Opening {
    /// Which rule it was.
    number: usize,
    /// From there only; none: from all that the party answers for.
    source: Option<Ipv6Network>,
    /// To one of these.
    destinations: Vec<Ipv6Network>,
    ports: Vec<Ports>,
}

/// What somebody wants to reach.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// From which address.
    pub source: Ipv6Addr,
    /// At which address of this node.
    pub destination: Ipv6Addr,
    /// What.
    pub port: Port,
    /// What is open to all who get that far: the ports that a workload publishes.
    pub publish: &'a [Ports],
}

/// Why something is let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The workload publishes these ports.
    Published(Ports),
    /// This rule, by its place in [`Policy::allow`], from 0.
    Rule(usize),
    /// Echo requests are answered.
    Echo,
    /// Everything is let in.
    Default,
}

/// An answer to a [`Question`], with its reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Explanation {
    /// It is let in.
    Allowed(Why),
    /// It is refused, though there is this rule that would nearly let it in.
    Denied(Option<Near>),
}

/// A rule that does not let something in, and why not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Near {
    /// Its place in [`Policy::allow`], from 0.
    pub rule: usize,
    /// What does not fit, at least one.
    pub lacks: Vec<Lack>,
}

/// What about a rule does not fit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lack {
    /// It is for others.
    From,
    /// It is for another address of theirs.
    Source,
    /// It opens another place.
    To,
    /// It opens other ports.
    Ports,
}

impl Policy {
    /// What it comes to for one party.
    pub fn rules_for(&self, subject: &Subject<'_>, places: &impl Places) -> Rules {
        let meant = self
            .allow
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.from.whom.is(subject));
        let openings = meant.filter_map(|(number, rule)| {
            Some(Opening {
                number,
                source: match &rule.from.within {
                    Within::All => None,
                    Within::Network(network) => Some(*network),
                    Within::Workload(name) => Some(places.theirs(name)?.into()),
                },
                destinations: places.ours(&rule.to),
                ports: rule.ports.clone(),
            })
        });
        Rules {
            default: self.default,
            icmp_echo: self.icmp_echo,
            standing: subject.standing,
            openings: openings.collect(),
        }
    }

    /// Whether one party may reach something, and why, or what comes nearest to it.
    pub fn explain(
        &self,
        subject: &Subject<'_>,
        places: &impl Places,
        question: &Question<'_>,
    ) -> Explanation {
        if let Some(why) = self.rules_for(subject, places).allow(question) {
            return Explanation::Allowed(why);
        }
        let near = self.allow.iter().enumerate().map(|(number, rule)| Near {
            rule: number,
            lacks: rule.lacks(subject, places, question),
        });
        // One that fits in nothing is near to nothing.
        let is_near = |near: &Near| {
            let has = |lack| near.lacks.contains(&lack);
            !has(Lack::From) || !(has(Lack::Ports) || has(Lack::To))
        };
        let count = |near: &Near| (near.lacks.len(), near.lacks.contains(&Lack::From));
        Explanation::Denied(near.filter(is_near).min_by_key(count))
    }
}

impl Rule {
    fn lacks(
        &self,
        subject: &Subject<'_>,
        places: &impl Places,
        question: &Question<'_>,
    ) -> Vec<Lack> {
        let holds = |networks: &[Ipv6Network], address| {
            networks.iter().any(|network| network.contains(address))
        };
        let is_from = match &self.from.within {
            Within::All => true,
            Within::Network(network) => network.contains(question.source),
            Within::Workload(name) => places.theirs(name) == Some(question.source),
        };
        let fits = [
            (Lack::From, self.from.whom.is(subject)),
            (Lack::Source, is_from),
            (
                Lack::To,
                holds(&places.ours(&self.to), question.destination),
            ),
            (
                Lack::Ports,
                self.ports.iter().any(|ports| ports.contains(question.port)),
            ),
        ];
        let lacking = fits.into_iter().filter(|(_, fits)| !fits);
        lacking.map(|(lack, _)| lack).collect()
    }
}

impl Rules {
    /// Whether, and why, something is let in by itself, whatever went before.
    pub fn allow(&self, question: &Question<'_>) -> Option<Why> {
        let port = question.port;
        let published = question
            .publish
            .iter()
            .find(|published| published.contains(port));
        if let Some(published) = published {
            return Some(Why::Published(*published));
        }
        let opening = self.openings.iter().find(|opening| {
            opening.ports.iter().any(|ports| ports.contains(port))
                && opening
                    .source
                    .is_none_or(|source| source.contains(question.source))
                && opening
                    .destinations
                    .iter()
                    .any(|network| network.contains(question.destination))
        });
        if let Some(opening) = opening {
            return Some(Why::Rule(opening.number));
        }
        match (self.default, self.icmp_echo, port) {
            (_, Fate::Allow, Port::Icmp) => Some(Why::Echo),
            // Refused by name, which is more than by default.
            (_, Fate::Deny, Port::Icmp) | (Fate::Deny, _, _) => None,
            (Fate::Allow, _, _) => Some(Why::Default),
        }
    }

    /// Whether there is nothing that they refuse.
    pub fn allow_all(&self) -> bool {
        self.default == Fate::Allow && self.icmp_echo == Fate::Allow
    }

    /// Whether the party is told of refusals.
    pub fn standing(&self) -> Standing {
        self.standing
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}", self.from)?;
        if self.to != To::Node {
            write!(f, " to {}", self.to)?;
        }
        for (place, ports) in self.ports.iter().enumerate() {
            f.write_str(if place == 0 { ": " } else { ", " })?;
            write!(f, "{ports}")?;
        }
        Ok(())
    }
}
