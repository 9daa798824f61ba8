//! Joining: how messages come to whoever answers at an address, and back, before anybody is a member. The messages are the daemon's.
//!
//! Each question goes over a connection of its own, as a guest. What carries it vouches for the keys at both ends, and for nothing else.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    multiaddr::Protocol,
    request_response::{self, Message, OutboundRequestId, ResponseChannel},
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};
use tracing::debug;

use super::Worker;
use crate::{
    Event, NodeKey,
    contact::split,
    door::AtDoor,
    exchange::{Answer, Whereabouts},
    guard::ip,
    supervisor::tell,
};

/// How long a guest may stay, and a question may take.
const STAY: Duration = Duration::from_secs(15);
/// Questions of ours, and of others, at a time.
const MAX_ASKED: usize = 4;
const MAX_ASKING: usize = 16;

/// Joining, in both directions.
#[derive(Debug, Default)]
pub(super) struct Joins {
    /// Our dials and connections, and what is to be asked there.
    asked: BTreeMap<ConnectionId, Asked>,
    /// Guests of ours.
    guests: BTreeMap<ConnectionId, Instant>,
    /// Their questions, by number, until the daemon has an answer.
    asking: BTreeMap<u64, (Instant, ResponseChannel<Vec<u8>>)>,
    next: u64,
}

#[derive(Debug)]
struct Asked {
    at: SocketAddr,
    until: Instant,
    peer: Option<PeerId>,
    request: Option<OutboundRequestId>,
}

impl Joins {
    fn by_request(&mut self, id: OutboundRequestId) -> Option<(ConnectionId, &mut Asked)> {
        let mut asked = self.asked.iter_mut();
        let found = asked.find(|(_, asked)| asked.request == Some(id))?;
        Some((*found.0, found.1))
    }
}

impl Worker<'_> {
    /// Connects with whoever answers at an address of TCP.
    pub(super) fn knock(&mut self, at: SocketAddr) {
        if self.joins.asked.len() >= MAX_ASKED {
            return self.tell_door(at, AtDoor::Closed("too many are being asked".to_owned()));
        }
        // Whoever gave the address to the daemon is its user.
        self.rules.change(|rules| rules.trust([at]));
        let ip = match at {
            SocketAddr::V4(at) => Protocol::Ip4(*at.ip()),
            SocketAddr::V6(at) => Protocol::Ip6(*at.ip()),
        };
        let address = Multiaddr::empty().with(ip).with(Protocol::Tcp(at.port()));
        // From a port of its own. Nobody is told where a guest calls from, so that a mapping which this call would leave in a NAT is of no
        // use; and from the port that we listen on, it would keep the way from there to this door occupied, also for a minute after its
        // end (TIME_WAIT), when as a member we want to be seen to come from that port.
        let options = DialOpts::unknown_peer_id()
            .address(address)
            .allocate_new_port()
            .build();
        let connection = options.connection_id();
        self.swarm.behaviour_mut().fence.expect(connection);
        let asked = Asked {
            at,
            until: Instant::now() + STAY,
            peer: None,
            request: None,
        };
        self.joins.asked.insert(connection, asked);
        if let Err(error) = self.swarm.dial(options) {
            self.on_no_guest(&connection, &error);
        }
    }

    /// Asks whoever answered there.
    pub(super) fn ask(&mut self, at: SocketAddr, message: Vec<u8>) {
        let mut asked = self.joins.asked.values_mut();
        let found = asked.find(|asked| asked.at == at && asked.request.is_none());
        let Some((asked, peer)) = found.and_then(|asked| {
            let peer = asked.peer?;
            Some((asked, peer))
        }) else {
            return self.tell_door(at, AtDoor::Closed("the connection was closed".to_owned()));
        };
        let join = &mut self.swarm.behaviour_mut().join;
        asked.request = Some(join.send_request(&peer, message));
    }

    /// A connection of a guest is there, theirs or ours.
    pub(super) fn on_guest(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        debug!(%peer, address = %endpoint.get_remote_address(), "A guest's connection");
        let now = Instant::now();
        let Some(asked) = self.joins.asked.get_mut(&id) else {
            self.joins.guests.insert(id, now + STAY);
            return;
        };
        asked.peer = Some(peer);
        let at = asked.at;
        match NodeKey::of_peer(&peer) {
            Some(key) => self.tell_door(at, AtDoor::Open(key)),
            None => self.close_door(id, "no node answers"),
        }
    }

    /// A connection is gone.
    pub(super) fn on_guest_gone(&mut self, id: &ConnectionId) {
        self.joins.guests.remove(id);
        if let Some(asked) = self.joins.asked.remove(id) {
            let why = "the connection was closed".to_owned();
            self.tell_door(asked.at, AtDoor::Closed(why));
        }
    }

    /// A dial has failed.
    pub(super) fn on_no_guest(&mut self, id: &ConnectionId, error: &DialError) {
        if let Some(asked) = self.joins.asked.remove(id) {
            self.tell_door(asked.at, AtDoor::Closed(super::causes(error)));
        }
    }

    fn tell_door(&self, at: SocketAddr, what: AtDoor) {
        tell(self.events, Event::Door { at, what });
    }

    fn close_door(&mut self, id: ConnectionId, why: &str) {
        if let Some(asked) = self.joins.asked.remove(&id) {
            self.tell_door(asked.at, AtDoor::Closed(why.to_owned()));
        }
        self.swarm.close_connection(id);
    }

    /// The daemon's answer to a question; none: it is not answered.
    pub(super) fn answer_guest(&mut self, number: u64, message: Option<Vec<u8>>) {
        let Some((_, channel)) = self.joins.asking.remove(&number) else {
            return;
        };
        // A dropped channel closes the stream, which the other takes for a refusal.
        if let Some(message) = message {
            let answer = Answer {
                whereabouts: self.whereabouts.encode(),
                message,
            };
            let join = &mut self.swarm.behaviour_mut().join;
            if join.send_response(channel, answer.encode()).is_err() {
                debug!("A guest did not wait for its answer");
            }
        }
    }

    pub(super) fn on_join(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message,
            } => match message {
                Message::Request {
                    request, channel, ..
                } => self.on_question(&peer, request, channel),
                Message::Response {
                    request_id,
                    response,
                } => self.on_answer(connection_id, request_id, &response),
            },
            request_response::Event::OutboundFailure {
                request_id, error, ..
            } => {
                let asked = self.joins.by_request(request_id);
                if let Some((connection, _)) = asked {
                    self.close_door(connection, &super::causes(&error));
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                debug!(%peer, %error, "A guest was not answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_question(&mut self, peer: &PeerId, message: Vec<u8>, channel: ResponseChannel<Vec<u8>>) {
        let Some(from) = NodeKey::of_peer(peer) else {
            return;
        };
        if self.joins.asking.len() >= MAX_ASKING {
            debug!(%peer, "Too many guests ask");
            return;
        }
        let number = self.joins.next;
        self.joins.next += 1;
        let until = Instant::now() + STAY;
        self.joins.asking.insert(number, (until, channel));
        tell(
            self.events,
            Event::Asked {
                number,
                from,
                message,
            },
        );
    }

    fn on_answer(&mut self, connection: ConnectionId, request: OutboundRequestId, bytes: &[u8]) {
        let Some((_, asked)) = self.joins.by_request(request) else {
            return;
        };
        asked.request = None;
        asked.until = Instant::now() + STAY;
        let at = asked.at;
        let Some(Answer {
            whereabouts,
            message,
        }) = Answer::decode(bytes)
        else {
            return self.close_door(connection, "the answer makes no sense");
        };
        let said = Whereabouts::decode(&whereabouts).unwrap_or_default();
        let rules = &self.rules;
        let endpoints = rules.read(|rules| said.candidates(Some(at.ip()), rules));
        self.tell_door(at, AtDoor::Answer { message, endpoints });
    }

    /// Guests do not stay.
    pub(super) fn tend_guests(&mut self, now: Instant) {
        self.joins.asking.retain(|_, (until, _)| *until > now);
        let late = |until: &Instant| *until <= now;
        let over: Vec<_> = self
            .joins
            .guests
            .extract_if(.., |_, until| late(until))
            .collect();
        for (connection, _) in over {
            self.swarm.close_connection(connection);
        }
        let asked = self.joins.asked.iter();
        let asked = asked.filter(|(_, asked)| late(&asked.until));
        for connection in asked.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close_door(connection, "no answer in time");
        }
    }

    /// Where others can ask us: the addresses of TCP that we listen on.
    pub(super) fn doors(&self) -> Vec<SocketAddr> {
        let listeners = self.swarm.listeners();
        let mut doors: Vec<SocketAddr> = listeners
            .filter(|address| ip(address).is_some())
            .filter_map(|address| match split(address)? {
                (at, crate::Carrier::Tcp) => Some(at),
                (_, crate::Carrier::Quic) => None,
            })
            .collect();
        doors.sort_unstable();
        doors
    }
}
