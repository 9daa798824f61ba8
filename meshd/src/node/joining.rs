//! Joining a network with a ticket, and letting those in who come with one.
//!
//! Both ends exchange the same few messages, either over the control plane ([`Output::Knock`], [`Output::Ask`]), whose connection tells each
//! the other's key, or inside a session that allows nothing else ([`Origin::Guest`]).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use membership::{Admission, Doorkeeper, JoinError, Joiner, Name, NodeKey, Step, Ticket};
use tracing::{debug, info};
use wireguard::PublicKey;

use super::{Found, Node, Output, Source, peers::Origin};
use crate::{discard::Reason, identity::NodeId, signal::Signal};

/// How long joining may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Inside a session, where messages can be lost, a question is repeated after this.
const AGAIN: Duration = Duration::from_millis(500);
/// A node that is not approved yet asks again so often.
const PENDING: Duration = Duration::from_secs(20);
/// Guests in sessions at a time, and how long they may stay.
const MAX_GUESTS: usize = 16;
const STAY: Duration = Duration::from_secs(30);

/// Where a member is asked.
#[derive(Clone, Debug)]
pub enum Via {
    /// At its libp2p port of TCP.
    Door(SocketAddr),
    /// In a session with this node, at this endpoint of its WireGuard port.
    Session(NodeId, SocketAddr),
}

/// How joining ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Joined {
    /// As a member, or pending.
    pub admission: Admission,
    /// Who has let us in.
    pub by: NodeId,
}

/// Why joining failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The node is in a private network already.
    #[error("this node is in a private network already")]
    InNetwork,
    /// Another attempt is under way.
    #[error("this node is joining a network already")]
    Joining,
    /// Nobody answers at the address.
    #[error("no member answers at {at}: {why}")]
    Unreachable {
        /// Where.
        at: String,
        /// What the control plane says.
        why: String,
    },
    /// Whoever answers refuses, or is nobody.
    #[error(transparent)]
    Refused(#[from] JoinError),
    /// Who answers cannot be a node.
    #[error("whoever answers has a key that no node may have")]
    NoNode,
}

/// What is under way.
#[derive(Debug)]
pub(super) struct Joining {
    ticket: Ticket,
    name: Name,
    via: Via,
    /// The other end, since it is known.
    door: Option<(NodeId, Joiner)>,
    /// What waits for an answer.
    question: Vec<u8>,
    /// Where the other end's WireGuard port may be.
    endpoints: Vec<SocketAddr>,
    until: Instant,
    again: Instant,
    stage: Stage,
    /// An admin has to approve: a member that does not answer is asked again, too.
    is_patient: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Messages are exchanged.
    Asking,
    /// An admin has to approve; it is asked again when `again` is due.
    Pending,
}

/// What a doorkeeper says once the records are kept.
#[derive(Debug)]
pub(super) enum Reply {
    /// To a question of the control plane.
    Door(u64, Vec<u8>),
    /// To a guest in a session.
    Session(PublicKey, Vec<u8>),
}

impl Node {
    // ---- the one that joins --------------------------------------------------------------------------------------------------

    /// Begins to join the network of a ticket; how it ends comes as [`Output::Joined`].
    ///
    /// # Errors
    /// [`JoinFailure::InNetwork`], [`JoinFailure::Joining`].
    pub fn join(
        &mut self,
        ticket: Ticket,
        name: Name,
        via: Via,
        now: Instant,
    ) -> Result<(), JoinFailure> {
        if self.network.is_private() {
            return Err(JoinFailure::InNetwork);
        }
        let joining = self.membership.joining.as_ref();
        if joining.is_some_and(|joining| joining.stage == Stage::Asking) {
            return Err(JoinFailure::Joining);
        }
        self.begin_to_join(ticket, name, via, now);
        Ok(())
    }

    fn begin_to_join(&mut self, ticket: Ticket, name: Name, via: Via, now: Instant) {
        self.membership.joining = Some(Joining {
            ticket,
            name,
            via: via.clone(),
            door: None,
            question: Vec::new(),
            endpoints: Vec::new(),
            until: now + PATIENCE,
            again: now + AGAIN,
            stage: Stage::Asking,
            is_patient: false,
        });
        match via {
            Via::Door(at) => self.outputs.push_back(Output::Knock(at)),
            Via::Session(node, endpoint) => self.call_door(node, endpoint, now),
        }
        self.set_membership_timer(now);
        self.drain(now);
    }

    /// Opens a session for joining, or uses the one that there is.
    fn call_door(&mut self, node: NodeId, endpoint: SocketAddr, now: Instant) {
        let key = node.public_key();
        if !self.peers.contains_key(&key) {
            let mut entry = self.entry_for(node, Origin::Guest, now);
            entry.found = vec![endpoint];
            if self.set_peer(key, entry, now).is_err() {
                return self.end_joining(Err(JoinFailure::NoNode), now);
            }
            self.stale = true;
        }
        self.device.initiate(&key, now);
        if self.is_open_with(&key) {
            self.on_door_session(&key, now);
        }
    }

    /// A session has opened; it may be the one to ask in.
    pub(super) fn on_door_session(&mut self, key: &PublicKey, now: Instant) {
        let Some(Joining {
            via: Via::Session(node, _),
            door: None,
            stage: Stage::Asking,
            ..
        }) = &self.membership.joining
        else {
            return;
        };
        if node.public_key() == *key {
            self.on_door(*node, now);
        }
    }

    /// It is known who answers.
    fn on_door(&mut self, node: NodeId, now: Instant) {
        let seed = self.identity.seed();
        let Some(joining) = &mut self.membership.joining else {
            return;
        };
        let key = NodeKey(*node.ed25519());
        let joiner = Joiner::new(&joining.ticket, seed, joining.name.clone(), key);
        let hello = joiner.hello();
        joining.door = Some((node, joiner));
        self.ask_door(hello, now);
    }

    fn ask_door(&mut self, question: Vec<u8>, now: Instant) {
        let Some(joining) = &mut self.membership.joining else {
            return;
        };
        joining.question.clone_from(&question);
        joining.again = now + AGAIN;
        let via = joining.via.clone();
        self.send_question(&via, question, now);
        self.set_membership_timer(now);
    }

    fn send_question(&mut self, via: &Via, message: Vec<u8>, now: Instant) {
        match via {
            Via::Door(at) => self.outputs.push_back(Output::Ask { at: *at, message }),
            Via::Session(node, _) => self.tell_guest(&node.public_key(), message, now),
        }
    }

    fn tell_guest(&mut self, key: &PublicKey, message: Vec<u8>, now: Instant) {
        let session = self.device.session(key);
        if let Some(to) = session.and_then(|session| session.endpoint()) {
            self.signal(key, &Signal::Join(message), 0, to, now);
        }
    }

    /// Somebody answers at a door that was knocked at.
    pub fn handle_door_open(&mut self, at: SocketAddr, key: [u8; 32], now: Instant) {
        if !self.awaits_door(at) {
            return;
        }
        match NodeId::from_ed25519(key) {
            Ok(node) => self.on_door(node, now),
            Err(_) => self.end_joining(Err(JoinFailure::NoNode), now),
        }
        self.drain(now);
    }

    /// Whoever answered there has answered a question, and says where its WireGuard port is.
    pub fn handle_door_answer(
        &mut self,
        at: SocketAddr,
        message: &[u8],
        endpoints: Vec<SocketAddr>,
        now: Instant,
    ) {
        if !self.awaits_door(at) {
            return;
        }
        if let Some(joining) = &mut self.membership.joining {
            joining.endpoints = endpoints;
        }
        self.on_answer(message, now);
        self.drain(now);
    }

    /// Nobody answers there, or not any more.
    pub fn handle_door_closed(&mut self, at: SocketAddr, why: String, now: Instant) {
        if self.awaits_door(at) {
            let at = at.to_string();
            self.end_joining(Err(JoinFailure::Unreachable { at, why }), now);
        }
        self.drain(now);
    }

    fn awaits_door(&self, at: SocketAddr) -> bool {
        matches!(&self.membership.joining, Some(Joining { via: Via::Door(door), stage: Stage::Asking, .. }) if *door == at)
    }

    fn on_answer(&mut self, message: &[u8], now: Instant) {
        let Some(joining) = &mut self.membership.joining else {
            return;
        };
        let is_session = matches!(joining.via, Via::Session(..));
        let Some((node, joiner)) = &mut joining.door else {
            return;
        };
        let node = *node;
        match joiner.handle_message(message) {
            Ok(Step::Send(question)) => self.ask_door(question, now),
            Ok(Step::Over(welcome)) => {
                let joined = Joined {
                    admission: welcome.admission,
                    by: node,
                };
                if welcome.admission == Admission::Member {
                    self.membership.records = Some(welcome.records);
                }
                self.end_joining(Ok(joined), now);
            }
            // What a repeated question was answered with.
            Err(JoinError::Message) if is_session => {}
            Err(error) => self.end_joining(Err(error.into()), now),
        }
    }

    fn end_joining(&mut self, ended: Result<Joined, JoinFailure>, now: Instant) {
        let Some(mut joining) = self.membership.joining.take() else {
            return;
        };
        match &ended {
            Ok(Joined {
                admission: Admission::Pending,
                ..
            }) => {
                joining.is_patient = true;
                self.wait_for_approval(joining, now);
            }
            Ok(joined) => self.enter(joined.by, joining, now),
            // Whoever approves may take days; the member that was asked may be away for a while.
            Err(JoinFailure::Unreachable { .. }) if joining.is_patient => {
                self.wait_for_approval(joining, now);
            }
            Err(error) => {
                debug!(%error, "Not joined");
                self.expel(now);
            }
        }
        self.set_membership_timer(now);
        self.outputs.push_back(Output::Joined(ended));
    }

    fn wait_for_approval(&mut self, joining: Joining, now: Instant) {
        self.membership.joining = Some(Joining {
            stage: Stage::Pending,
            again: now + PENDING,
            door: None,
            ..joining
        });
    }

    /// This node is a member now: everything begins anew in the network, with whoever has let it in.
    fn enter(&mut self, by: NodeId, joining: Joining, now: Instant) {
        info!(network = %joining.ticket.network, "Joined a network");
        let key = by.public_key();
        let seen = self.device.session(&key);
        let seen = seen.and_then(|session| session.endpoint()?.remote());
        let endpoints: Vec<SocketAddr> = seen.into_iter().chain(joining.endpoints).collect();
        self.on_roll(now);
        let found = Found {
            node: by,
            endpoints,
            source: Source::Record,
        };
        self.handle_found(found, now);
        self.compare_records(&key, now);
    }

    pub(super) fn next_of_joining(&self) -> Option<Instant> {
        let joining = self.membership.joining.as_ref();
        let own = joining.map(|joining| match (joining.stage, &joining.via) {
            (Stage::Pending, _) => joining.again,
            (Stage::Asking, Via::Session(..)) => joining.again.min(joining.until),
            (Stage::Asking, Via::Door(_)) => joining.until,
        });
        let guests = self.guests().filter_map(|(_, admitted)| admitted);
        guests.map(|admitted| admitted + STAY).chain(own).min()
    }

    pub(super) fn tend_joining(&mut self, now: Instant) {
        let late = |(_, admitted): &(PublicKey, Option<Instant>)| {
            admitted.is_none_or(|admitted| now.saturating_duration_since(admitted) >= STAY)
        };
        let gone: Vec<_> = self.guests().filter(late).map(|(key, _)| key).collect();
        for key in gone {
            if !self.is_door(&key) {
                self.remove(&key, now);
            }
        }
        let Some(joining) = &mut self.membership.joining else {
            return;
        };
        match joining.stage {
            Stage::Pending if joining.again <= now => {
                let (ticket, name) = (joining.ticket.clone(), joining.name.clone());
                let (via, is_patient) = (joining.via.clone(), joining.is_patient);
                self.begin_to_join(ticket, name, via, now);
                if let Some(joining) = &mut self.membership.joining {
                    joining.is_patient = is_patient;
                }
            }
            Stage::Pending => {}
            Stage::Asking if joining.until <= now => {
                let at = match &joining.via {
                    Via::Door(at) => at.to_string(),
                    Via::Session(_, endpoint) => endpoint.to_string(),
                };
                let why = "no answer in time".to_owned();
                self.end_joining(Err(JoinFailure::Unreachable { at, why }), now);
            }
            Stage::Asking if joining.again <= now => {
                joining.again = now + AGAIN;
                let (via, question) = (joining.via.clone(), joining.question.clone());
                if let Via::Session(..) = via
                    && !question.is_empty()
                {
                    self.send_question(&via, question, now);
                }
            }
            Stage::Asking => {}
        }
    }

    // ---- the one that lets in ------------------------------------------------------------------------------------------------

    fn guests(&self) -> impl Iterator<Item = (PublicKey, Option<Instant>)> {
        let guests = self.peers.iter();
        let guests = guests.filter(|(_, entry)| entry.origin == Origin::Guest);
        guests.map(|(key, entry)| (*key, entry.admitted))
    }

    /// Whether we are a guest there.
    pub(super) fn is_door(&self, key: &PublicKey) -> bool {
        let joining = self.membership.joining.as_ref();
        joining.is_some_and(|joining| match &joining.via {
            Via::Session(node, _) => node.public_key() == *key,
            Via::Door(_) => false,
        })
    }

    /// Whether one more may come as a guest.
    pub(super) fn has_room_for_guest(&self, now: Instant) -> bool {
        self.welcomes_guests(now) && self.guests().count() < MAX_GUESTS
    }

    /// Somebody has asked over the control plane, whose key is authentic. Answered by [`Output::Answer`].
    pub fn handle_asked(&mut self, number: u64, from: [u8; 32], message: &[u8], now: Instant) {
        match self.let_in(from, message, now) {
            Some(reply) => self.reply_when_kept(Reply::Door(number, reply), now),
            None => self.outputs.push_back(Output::Answer {
                number,
                message: None,
            }),
        }
        self.drain(now);
    }

    /// A message about joining has come inside a session.
    pub(super) fn on_join_message(&mut self, peer: PublicKey, message: &[u8], now: Instant) {
        if self.is_door(&peer) {
            return self.on_answer(message, now);
        }
        let node = self.peers.get(&peer).and_then(|entry| entry.node);
        let Some(node) = node else {
            return;
        };
        match self.let_in(*node.ed25519(), message, now) {
            Some(reply) => self.reply_when_kept(Reply::Session(peer, reply), now),
            None => self.discards.discard(Reason::NoMember, 1),
        }
    }

    /// What a doorkeeper answers; nothing where there is no door.
    fn let_in(&mut self, from: [u8; 32], message: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (own, unix_s) = (self.own_key(), self.membership.unix_s(now));
        let records = self.membership.records.as_mut()?;
        let answer = Doorkeeper::answer(records, &own, &NodeKey(from), message, unix_s);
        match &answer.outcome {
            Some(Ok(Admission::Member)) => info!("Let a node in"),
            Some(Ok(Admission::Pending)) => info!("A node asks to be let in: meshd members"),
            Some(Err(error)) => debug!(%error, "A node was not let in"),
            None => {}
        }
        self.on_records(answer.new.into_iter().collect(), None, now);
        Some(answer.reply)
    }

    fn reply_when_kept(&mut self, reply: Reply, now: Instant) {
        if self.is_kept() {
            self.reply(reply, now);
        } else {
            self.membership.replies.push(reply);
        }
    }

    pub(super) fn reply(&mut self, reply: Reply, now: Instant) {
        match reply {
            Reply::Door(number, message) => self.outputs.push_back(Output::Answer {
                number,
                message: Some(message),
            }),
            Reply::Session(peer, message) => self.tell_guest(&peer, message, now),
        }
    }
}
