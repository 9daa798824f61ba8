//! Why a node is reached the way it is.

use std::time::Instant;

use wireguard::PublicKey;

use super::{CommandError, Node, millis};
use crate::{
    admin::{NatBehaviour, TriedCandidate, Warning, WarningCode, Why},
    path::{self, Filtering, Mapping, NatView},
};

/// Peers that warnings are about, at most.
const MAX_WARNINGS: usize = 8;

impl Node {
    /// Which way packets to a peer take, and what was tried to reach it straight.
    ///
    /// # Errors
    /// [`CommandError::NoSuchName`].
    pub fn why(&self, target: &str, now: Instant) -> Result<Why, CommandError> {
        let (peer, target) = self.find(target)?;
        let nat = self.nat();
        let candidates = self.reach.agent.why(peer);
        let failed = self.reach.failed.get(&peer).copied();
        Ok(Why {
            target,
            name: self.label(&peer),
            path: self.path(&peer),
            nat: behaviour(nat),
            candidates: candidates
                .into_iter()
                .map(|tried| TriedCandidate {
                    address: tried.candidate,
                    kind: tried.kind.name().to_owned(),
                    sent: tried.sent,
                    answered: tried.answered,
                    rtt_ms: tried.rtt.map(millis),
                    note: tried.note.to_owned(),
                })
                .collect(),
            code: failed.map(|why| why.code().to_owned()),
            text: failed.map(|why| why.to_string()),
            fix: failed.map(|why| self.fix(&peer, why)),
            blocked: self.blocked(&peer, now),
        })
    }

    /// What is to be shown of peers that are relayed because of the routers before them, the first few.
    pub(super) fn nat_warnings(&self) -> Vec<Warning> {
        let relayed = self.reach.failed.iter().filter_map(|(peer, why)| {
            let entry = self.peers.get(peer)?;
            let code = match why {
                path::Why::BothRandom => WarningCode::NatSymSym,
                path::Why::Unpredictable | path::Why::NotMet => WarningCode::NatSym,
                path::Why::NoAnswer | path::Why::NoCandidates | path::Why::Silent => return None,
            };
            if !entry.path.is_relayed() || !self.is_open_with(peer) {
                return None;
            }
            let via = self.path(peer).via.join(", ");
            let name = &entry.name;
            let text = format!("{name}: {why}; relaying through {via}.  meshd why {name}");
            Some(Warning::new(code, &text))
        });
        relayed.take(MAX_WARNINGS).collect()
    }

    /// What would give a straight way.
    fn fix(&self, peer: &PublicKey, why: path::Why) -> String {
        let name = self.label(peer);
        match why {
            path::Why::NoAnswer => format!("update meshd on {name}, or look whether it runs"),
            path::Why::NoCandidates => {
                "let this node have a neighbour outside its own network, which tells where it is seen"
                    .to_owned()
            }
            path::Why::BothRandom | path::Why::Unpredictable | path::Why::NotMet => format!(
                "forward the WireGuard port on one of the two routers, use IPv6 on both sides, or give {name} an endpoint"
            ),
            path::Why::Silent => {
                "let UDP out of both networks, and answers in; meshd trace shows the way it takes meanwhile".to_owned()
            }
        }
    }
}

pub(super) fn behaviour(nat: NatView) -> NatBehaviour {
    NatBehaviour {
        mapping: mapping(nat.mapping),
        filtering: filtering(nat.filtering).to_owned(),
        last: nat.last.map(Into::into),
        witnesses: nat.witnesses,
    }
}

fn mapping(mapping: Mapping) -> String {
    match mapping {
        Mapping::Unknown => "not known yet".to_owned(),
        Mapping::None => "none, this node has a public address".to_owned(),
        Mapping::EndpointIndependent { keeps_port: true } => {
            "one port for all destinations, the one that was asked for".to_owned()
        }
        Mapping::EndpointIndependent { keeps_port: false } => {
            "one port for all destinations, another than was asked for".to_owned()
        }
        Mapping::AddressDependent => "a new port for each destination address".to_owned(),
        Mapping::Sequential { delta } => {
            format!("a new port for each destination, {delta} after the last")
        }
        Mapping::Random => "a new port for each destination, at random".to_owned(),
    }
}

const fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "what was asked for, at least",
        Filtering::EndpointIndependent => "everybody",
        Filtering::AddressDependent => "whom something was sent to, from any port",
        Filtering::AddressAndPortDependent => "whom something was sent to, from that port",
    }
}
