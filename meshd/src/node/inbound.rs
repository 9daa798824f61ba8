//! Who may reach what on this node: the rules of each party, what they come to, and what others have refused to us.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use filter::{
    Explanation, Guard, Lack, Near, Packet, PickUp, Places, Policy, Port, Ports, Question,
    QuotedUpper, Rules, Standing, Subject, To, Upper,
};
use ipnetwork::Ipv6Network;
use membership::{Member, Tag};
use tracing::debug;
use wireguard::PublicKey;

use super::{
    CommandError, Node, Output, Pong,
    peers::{Entry, Origin},
};
use crate::{
    admin::{Blocked, Explain, Fate},
    config::PeerInbound,
    icmp,
    identity::{NodeId, workload_address},
    inbound::Inbound,
    workload::Workload,
};

/// For so long after a start, and after a party has come, TCP connections count as open that nobody has seen begin.
const PICK_UP: Duration = Duration::from_secs(60);
/// A refusal is shown for so long.
const SHOWN: Duration = Duration::from_secs(3600);

/// What a peer has refused to us last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    /// At which address of its.
    destination: Ipv6Addr,
    /// What.
    port: Port,
    /// How often in a row.
    count: u64,
    at: Instant,
}

/// What names stand for, for one party.
struct Here<'a> {
    node: &'a Node,
    /// What the party owns, if it may have workloads there.
    prefix: Option<Ipv6Network>,
}

impl Places for Here<'_> {
    fn theirs(&self, workload: &str) -> Option<Ipv6Addr> {
        Some(workload_address(self.prefix?, workload))
    }

    fn ours(&self, to: &To) -> Vec<Ipv6Network> {
        let own = self.node.identity.node();
        match to {
            To::Node => vec![own.address().into()],
            To::Workload(name) => vec![workload_address(own.prefix(), name).into()],
            To::Leaf(name) => {
                let mut entries = self.node.peers.values();
                let leaf = entries.find(|entry| entry.origin.is_stock() && entry.name == *name);
                leaf.map_or_else(Vec::new, |leaf| leaf.allowed.clone())
            }
            To::Any => vec![own.prefix()],
        }
    }
}

/// Whether a peer has just come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Acquaintance {
    /// It has.
    New,
    /// It was there before.
    Old,
}

/// What rules may know a workload of this node by.
fn own_workload(name: &str) -> Subject<'_> {
    Subject {
        workload: Some(name),
        standing: Standing::Member,
        ..Subject::STRANGER
    }
}

/// What rules may know a member of the network by.
fn as_member(member: Option<&Member>) -> Subject<'_> {
    let tags = member.into_iter().flat_map(|member| member.tags.iter());
    Subject {
        member: member.map(|member| &*member.name),
        tags: tags.map(Tag::as_str).collect(),
        ..Subject::STRANGER
    }
}

/// Who asks, in [`Node::explain`].
enum Asker<'a> {
    /// This node itself.
    Own,
    /// A workload of this node, by its name and address.
    Workload(&'a str, Ipv6Addr),
    /// A peer, from this address.
    Peer(&'a PublicKey, &'a Entry, Ipv6Addr),
    /// A member of the network that there is no session with, from this address.
    Member(NodeId, Ipv6Addr),
    /// Somebody who is not known, from this address.
    Unknown(Ipv6Addr),
}

impl Node {
    /// What rules may know a peer by. Whatever it is made of has changed: [`Self::renew_all_rules`].
    pub(super) fn subject<'a>(&'a self, key: &'a PublicKey, entry: &'a Entry) -> Subject<'a> {
        let (peer, leaf) = match entry.origin {
            Origin::Peer => (Some(&*entry.name), None),
            Origin::Stock | Origin::Added => (None, Some(&*entry.name)),
            Origin::Allowed | Origin::Member | Origin::Stranger | Origin::Guest => (None, None),
        };
        let member = self.member(key);
        Subject {
            key: Some(key.as_bytes()),
            peer,
            leaf,
            workload: None,
            standing: if member.is_some() || entry.origin.is_named() {
                Standing::Member
            } else {
                Standing::Stranger
            },
            ..as_member(member)
        }
    }

    fn here(&self, entry: &Entry) -> Here<'_> {
        Here {
            node: self,
            prefix: entry.node.map(|node| node.prefix()),
        }
    }

    /// Works the rules for a peer out again: the policy has changed, or what the peer is known by.
    pub(super) fn renew_rules(
        &mut self,
        key: &PublicKey,
        acquaintance: Acquaintance,
        now: Instant,
    ) {
        let Some(entry) = self.peers.get(key) else {
            return;
        };
        let rules = self
            .inbound
            .rules_for(&self.subject(key, entry), &self.here(entry));
        let inbound = match &entry.inbound {
            _ if entry.is_trusted() || rules.allow_all() => None,
            Some(inbound) => Some(inbound.under(rules)),
            None => {
                // Nobody knows who began what goes on with one that was trusted until now.
                let ours = match acquaintance {
                    Acquaintance::New => now + PICK_UP,
                    Acquaintance::Old => now,
                };
                let theirs = ours.min(self.started + PICK_UP);
                let guard = Guard::new(PickUp { theirs, ours }, self.flows.clone());
                Some(Inbound::new(rules, guard))
            }
        };
        if let Some(entry) = self.peers.get_mut(key) {
            entry.inbound = inbound;
        }
        self.stale = true;
    }

    /// The same for everybody.
    pub(super) fn renew_all_rules(&mut self, now: Instant) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.renew_rules(&key, Acquaintance::Old, now);
        }
        self.renew_workload_rules(now);
    }

    /// The same for the workloads that are attached; of others nothing is remembered.
    pub(super) fn renew_workload_rules(&mut self, now: Instant) {
        let attached = self
            .workloads
            .iter()
            .filter(|workload| workload.attached.is_some());
        let guarded = attached.filter_map(|workload| {
            let name = &workload.wish.name;
            let rules = self.rules_of_workload(name);
            let inbound = match self.guarded.get(name) {
                _ if rules.allow_all() => return None,
                Some(inbound) => inbound.under(rules),
                None => {
                    let pick_up = PickUp {
                        theirs: self.started + PICK_UP,
                        ours: now + PICK_UP,
                    };
                    Inbound::new(rules, Guard::new(pick_up, self.flows.clone()))
                }
            };
            Some((name.clone(), inbound))
        });
        self.guarded = guarded.collect();
        self.stale = true;
    }

    fn rules_of_workload(&self, name: &str) -> Rules {
        let here = self.here_of_own();
        self.inbound.rules_for(&own_workload(name), &here)
    }

    fn here_of_own(&self) -> Here<'_> {
        Here {
            node: self,
            prefix: Some(self.identity.node().prefix()),
        }
    }

    /// Something is sent to a peer past the packet threads: what it begins is answered.
    pub(super) fn note_sent(&self, peer: &PublicKey, packet: &[u8], now: Instant) {
        let entry = self.peers.get(peer);
        if let Some(inbound) = entry.and_then(|entry| entry.inbound.as_ref()) {
            inbound.note(packet, now);
        }
    }

    /// A peer says that it does not let something in that we sent.
    pub(super) fn on_prohibited(&mut self, peer: PublicKey, error: &[u8], now: Instant) {
        let upper = Packet::parse(error).ok().and_then(|packet| packet.upper);
        let Some(Upper::Error(Some(about))) = upper else {
            return;
        };
        let token = self.pings.token;
        let Some(entry) = self.peers.get_mut(&peer) else {
            return;
        };
        // Nobody speaks for others.
        let is_its_own = entry
            .allowed
            .iter()
            .any(|prefix| prefix.contains(about.destination));
        if !is_its_own {
            return;
        }
        let port = match about.upper {
            QuotedUpper::Tcp(_, port) => Port::Tcp(port),
            QuotedUpper::Udp(_, port) => Port::Udp(port),
            QuotedUpper::EchoRequest(_) => Port::Icmp,
            QuotedUpper::Other(protocol) => Port::Other(protocol),
        };
        let before = entry.refused.filter(|refused| {
            (refused.destination, refused.port) == (about.destination, port)
                && now.saturating_duration_since(refused.at) < SHOWN
        });
        debug!(peer = %entry.name, %port, "Blocked by peer");
        entry.refused = Some(Refused {
            destination: about.destination,
            port,
            count: before.map_or(0, |refused| refused.count) + 1,
            at: now,
        });
        if let Some(number) = icmp::quoted_request(error, token)
            && let Some(ping) = self.pings.sent.remove(&number)
        {
            let path = self.path(&peer);
            self.outputs.push_back(Output::Pong(Pong {
                number,
                rtt: now.saturating_duration_since(ping.sent),
                path,
                blocked_by: Some(self.label(&peer)),
            }));
        }
    }

    /// What a peer has refused to us lately.
    pub(super) fn blocked(&self, peer: &PublicKey, now: Instant) -> Option<Blocked> {
        let refused = self.peers.get(peer)?.refused?;
        let ago = now.saturating_duration_since(refused.at);
        (ago < SHOWN).then(|| Blocked {
            by: self.label(peer),
            destination: refused.destination,
            port: refused.port.to_string(),
            count: refused.count,
            ago_s: ago.as_secs(),
        })
    }

    /// Whether somebody may reach something here, and why.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`], [`CommandError::NotHere`], [`CommandError::Ports`].
    pub fn explain(&self, from: &str, to: &str, port: &str) -> Result<Explain, CommandError> {
        let port = one_port(port)?;
        let (destination, publish) = self.own_place(to)?;
        let asker = self.asker(from)?;
        let own = self.identity.node().address();
        let source = match asker {
            Asker::Own => own,
            Asker::Peer(_, _, source)
            | Asker::Workload(_, source)
            | Asker::Member(_, source)
            | Asker::Unknown(source) => source,
        };
        let answer = |fate, reason: String, nearest| Explain {
            from: from.to_owned(),
            source,
            to: to.to_owned(),
            destination,
            port: port.to_string(),
            fate,
            reason,
            nearest,
        };
        let question = Question {
            source,
            destination,
            port,
            publish,
        };
        let explained = match asker {
            Asker::Own => {
                let reason =
                    "what this node sends to itself and to what is behind it is not judged";
                return Ok(answer(Fate::Allowed, reason.to_owned(), None));
            }
            Asker::Peer(_, entry, _) if entry.is_trusted() => {
                let reason = format!(
                    "{} is one of [[peers]] with inbound = \"allow\"",
                    entry.name
                );
                return Ok(answer(Fate::Allowed, reason, None));
            }
            Asker::Unknown(_) if !self.admits_everybody() => {
                let reason = if self.network().is_private() {
                    "it may not open a session: it is neither a member nor in the configuration"
                } else {
                    "it may not open a session: it is not in the configuration"
                };
                return Ok(answer(Fate::Denied, reason.to_owned(), None));
            }
            Asker::Member(node, _) => {
                let key = node.public_key();
                let subject = Subject {
                    key: Some(key.as_bytes()),
                    standing: Standing::Member,
                    ..as_member(self.member(&key))
                };
                let prefix = Some(node.prefix());
                let here = Here { node: self, prefix };
                self.inbound.explain(&subject, &here, &question)
            }
            Asker::Peer(key, entry, _) => {
                let subject = self.subject(key, entry);
                self.inbound.explain(&subject, &self.here(entry), &question)
            }
            Asker::Workload(name, _) => {
                self.inbound
                    .explain(&own_workload(name), &self.here_of_own(), &question)
            }
            Asker::Unknown(source) => {
                let prefix = Ipv6Network::new(source, 64).ok();
                let here = Here { node: self, prefix };
                self.inbound.explain(&Subject::STRANGER, &here, &question)
            }
        };
        Ok(match explained {
            Explanation::Allowed(why) => answer(Fate::Allowed, allowed(&self.inbound, why), None),
            Explanation::Denied(near) => {
                let nearest = near.map(|near| nearest(&self.inbound, &near));
                let reason = "no rule of [inbound] lets it in, and it answers nothing".to_owned();
                answer(Fate::Denied, reason, nearest)
            }
        })
    }

    /// The address on this node that is called so, and what is open there to everybody.
    fn own_place(&self, to: &str) -> Result<(Ipv6Addr, &[Ports]), CommandError> {
        let own = self.identity.node();
        if to == self.name || to == "node" {
            return Ok((own.address(), &[]));
        }
        let called =
            |workload: &&Workload| workload.wish.name == to || to.parse() == Ok(workload.address);
        if let Some(workload) = self.workloads.iter().find(called) {
            return Ok((workload.address, &workload.wish.publish));
        }
        let leaf = self
            .peers
            .values()
            .find(|entry| entry.origin.is_stock() && entry.name == to);
        if let Some(leaf) = leaf {
            return Ok((leaf.address, &[]));
        }
        match to.parse() {
            Ok(address) if own.prefix().contains(address) => Ok((address, &[])),
            Ok(_) => Err(CommandError::NotHere(to.to_owned())),
            Err(_) if self.find(to).is_ok() => Err(CommandError::NotHere(to.to_owned())),
            Err(_) => Err(CommandError::NoSuchName(to.to_owned())),
        }
    }

    fn asker<'a>(&'a self, from: &str) -> Result<Asker<'a>, CommandError> {
        let own = self.identity.node();
        if from == self.name || from == "node" || from.parse() == Ok(own.address()) {
            return Ok(Asker::Own);
        }
        let called = |workload: &&Workload| {
            workload.wish.name == from || from.parse() == Ok(workload.address)
        };
        if let Some(workload) = self.workloads.iter().find(called) {
            return Ok(Asker::Workload(&workload.wish.name, workload.address));
        }
        if let Ok(key) = from.parse::<PublicKey>() {
            if let Some((key, entry)) = self.peers.get_key_value(&key) {
                return Ok(Asker::Peer(key, entry, entry.address));
            }
            let node = NodeId::from_public_key(&key);
            let node = node.map_err(|_| CommandError::NoSuchName(from.to_owned()))?;
            return Ok(Asker::Unknown(node.address()));
        }
        if let Ok((key, address)) = self.find(from) {
            if let Some((key, entry)) = self.peers.get_key_value(&key) {
                return Ok(Asker::Peer(key, entry, address));
            }
            if let Ok(node) = NodeId::from_public_key(&key) {
                return Ok(Asker::Member(node, address));
            }
        }
        match from.parse() {
            Ok(address)
                if crate::identity::is_overlay(address) && !own.prefix().contains(address) =>
            {
                Ok(Asker::Unknown(address))
            }
            Ok(_) | Err(_) => Err(CommandError::NoSuchName(from.to_owned())),
        }
    }
}

impl Entry {
    /// Whether its packets are let in unseen.
    pub(super) fn is_trusted(&self) -> bool {
        self.origin == Origin::Peer && self.trust == PeerInbound::Allow
    }
}

/// The port in a question.
fn one_port(text: &str) -> Result<Port, CommandError> {
    let ports: Ports = text.parse().map_err(CommandError::Ports)?;
    ports
        .single()
        .ok_or_else(|| CommandError::ManyPorts(text.to_owned()))
}

fn allowed(policy: &Policy, why: filter::Why) -> String {
    match why {
        filter::Why::Published(ports) => format!("it is published there: {ports}"),
        filter::Why::Rule(number) => format!("rule {}", rule(policy, number)),
        filter::Why::Echo => "[inbound] icmp_echo = true".to_owned(),
        filter::Why::Default => "[inbound] default = \"allow\"".to_owned(),
    }
}

fn rule(policy: &Policy, number: usize) -> String {
    let rule = policy.allow.get(number);
    let rule = rule.map(|rule| format!(", {rule}")).unwrap_or_default();
    format!("inbound.allow[{number}]{rule}")
}

fn nearest(policy: &Policy, near: &Near) -> String {
    let lacks = near.lacks.iter().map(|lack| match lack {
        Lack::From => "is for others",
        Lack::Source => "is for another address of theirs",
        Lack::To => "opens another place",
        Lack::Ports => "opens other ports",
    });
    let lacks: Vec<_> = lacks.collect();
    format!("{}: it {}", rule(policy, near.rule), lacks.join(", and "))
}
