//! Membership: the records of the network that the node is in, and how nodes come to have the same ones.
//!
//! A record that is new goes first to the state directory ([`Output::Keep`], [`Node::handle_kept`]) and then to every member that there is
//! a session with. Who may have a session follows from the records at once, before that.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use membership::{
    Member, NetworkId, NetworkKey, NodeKey, Records, Roll, Standing,
    sync::{self, Heard, Progress, Pull, Role},
};
use tracing::{debug, info};
use wireguard::PublicKey;

use super::{
    Node, Output, Task,
    joining::{Joining, Reply},
    peers::{Entry, Origin},
};
use crate::{discard::Reason, fib::Admits, identity::NodeId, network::Network, signal::Signal};

/// Messages about records taken of one peer at once, and a second.
const MOST_HEARD: f64 = 400.0;
/// See [`MOST_HEARD`].
const HEARD_PER_SECOND: f64 = 200.0;
/// Records are compared with some member this often, in case something was missed.
const COMPARE: Duration = Duration::from_secs(120);
/// Comparisons that this node has under way, at most.
const MAX_PULLS: usize = 4;
/// What is new is told again after these times, since datagrams are lost. Whoever missed it all the same finds it by comparing.
const REPEATS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// News that is told again at a time, at most.
const MAX_REPEATED: usize = 32;
/// More than this at once is no news, but what a node that was away catches up on: others have it, or find it by comparing.
const MAX_NEWS: usize = 32;

/// What is kept of a network over a restart.
#[derive(Debug, Default)]
pub struct Kept {
    /// The records of the private network that the node is in.
    pub records: Option<Records>,
    /// The key of that network, if it was created here.
    pub key: Option<NetworkKey>,
    /// Time since 1970 when the node begins.
    pub unix: Duration,
}

/// The network that the node is in, and who else is.
#[derive(Debug)]
pub(super) struct Membership {
    /// This node.
    own: PublicKey,
    pub(super) records: Option<Records>,
    pub(super) key: Option<NetworkKey>,
    pub(super) roll: Arc<Roll>,
    /// What follows from the keys of records, which costs something to compute; nothing for keys that no node may have.
    nodes: BTreeMap<NodeKey, Option<NodeId>>,
    /// The members but this node.
    members: Arc<HashSet<PublicKey>>,
    by_prefix: BTreeMap<[u8; 8], NodeId>,
    by_key: BTreeMap<PublicKey, NodeKey>,
    /// Until when some invite is good, in seconds since 1970.
    invites: u64,
    /// Guests are let in that far.
    is_welcoming: bool,
    /// When it was how late, as time since 1970.
    wall: (Instant, Duration),
    pulls: BTreeMap<PublicKey, Pull>,
    credit: BTreeMap<PublicKey, (f64, Instant)>,
    compared: Instant,
    /// Records that are told to others when they are kept, and who has told them.
    news: Vec<(Option<PublicKey>, Vec<u8>)>,
    /// What is told again: when, how many times it was, and what.
    repeats: VecDeque<(Instant, usize, Vec<Vec<u8>>)>,
    /// Replies that leave when the records are kept.
    pub(super) replies: Vec<Reply>,
    /// It was asked to keep them.
    keeping: bool,
    /// Of which network, and how new, what is kept is.
    kept: Option<(NetworkId, u64)>,
    pub(super) joining: Option<Joining>,
}

impl Membership {
    pub(super) fn new(own: PublicKey, kept: Kept, now: Instant) -> Self {
        let mut fresh = Self {
            own,
            roll: Arc::default(),
            nodes: BTreeMap::new(),
            members: Arc::default(),
            by_prefix: BTreeMap::new(),
            by_key: BTreeMap::new(),
            invites: 0,
            is_welcoming: false,
            wall: (now, kept.unix),
            pulls: BTreeMap::new(),
            credit: BTreeMap::new(),
            compared: now,
            news: Vec::new(),
            repeats: VecDeque::new(),
            replies: Vec::new(),
            keeping: false,
            kept: kept
                .records
                .as_ref()
                .map(|records| (records.network(), records.revision())),
            joining: None,
            records: kept.records,
            key: kept.key,
        };
        fresh.count();
        fresh
    }

    /// The network.
    pub(super) fn network(&self) -> Network {
        let records = self.records.as_ref();
        records.map_or_else(Network::default, |records| {
            Network::private(&records.network())
        })
    }

    /// Seconds since 1970.
    pub(super) fn unix_s(&self, now: Instant) -> u64 {
        (self.wall.1 + now.saturating_duration_since(self.wall.0)).as_secs()
    }

    /// The records have changed: who is a member is computed anew.
    fn count(&mut self) {
        let Some(records) = &self.records else {
            self.roll = Arc::default();
            self.members = Arc::default();
            self.by_prefix.clear();
            self.by_key.clear();
            self.nodes.clear();
            self.invites = 0;
            return;
        };
        self.roll = records.roll();
        self.by_prefix.clear();
        self.by_key.clear();
        for (key, _) in self.roll.standings() {
            let node = self
                .nodes
                .entry(*key)
                .or_insert_with(|| NodeId::from_ed25519(key.0).ok());
            if let Some(node) = node {
                self.by_key.insert(node.public_key(), *key);
                if let Some(prefix) = node.address().octets().first_chunk() {
                    self.by_prefix.insert(*prefix, *node);
                }
            }
        }
        let members = self.by_key.iter();
        let members =
            members.filter(|(key, node)| **key != self.own && self.roll.member(node).is_some());
        self.members = Arc::new(members.map(|(key, _)| *key).collect());
        let invites = records.invites().into_iter();
        let good = invites.filter(|invite| !invite.revoked && invite.used < invite.uses.into());
        self.invites = good.map(|invite| invite.expires).max().unwrap_or_default();
    }

    /// What the holder of a WireGuard key is in the network.
    pub(super) fn standing(&self, key: &PublicKey) -> &Standing {
        match self.by_key.get(key) {
            Some(node) => self.roll.standing(node),
            None => &Standing::Unknown,
        }
    }

    pub(super) fn is_member(&self, key: &PublicKey) -> bool {
        self.members.contains(key)
    }

    fn may_be_heard(&mut self, peer: PublicKey, now: Instant) -> bool {
        let (credit, since) = self.credit.entry(peer).or_insert((MOST_HEARD, now));
        let gained = now.saturating_duration_since(*since).as_secs_f64() * HEARD_PER_SECOND;
        *credit = (*credit + gained).min(MOST_HEARD);
        *since = now;
        if *credit < 1.0 {
            return false;
        }
        *credit -= 1.0;
        true
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, peer: &PublicKey) {
        self.credit.remove(peer);
        self.pulls.remove(peer);
    }

    fn next(&self) -> Instant {
        let pulls = self.pulls.values().filter_map(Pull::poll_timeout);
        let repeats = self.repeats.iter().map(|(at, ..)| *at);
        let compare = self.compared + COMPARE;
        pulls.chain(repeats).fold(compare, Instant::min)
    }
}

impl Node {
    /// The members of the private network that the node is in, this node included, with names and tags, and everybody else of whom
    /// the records say something; empty in the open network. The same `Arc` until something changes: for whoever answers names or
    /// compiles rules.
    pub fn roll(&self) -> &Arc<Roll> {
        &self.membership.roll
    }

    /// What the holder of a WireGuard key is as a member: its name and tags, by which rules select it. Nothing: it is none.
    pub fn member(&self, key: &PublicKey) -> Option<&Member> {
        self.membership
            .roll
            .member(self.membership.by_key.get(key)?)
    }

    /// All members, this node included, as nodes.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        let members = self.membership.roll.members();
        members.filter_map(|(key, member)| {
            let node = self.membership.nodes.get(key)?;
            Some((node.as_ref().copied()?, member))
        })
    }

    /// The node behind a key of the records, if a node may have it.
    pub(super) fn node_of(&self, key: &NodeKey) -> Option<NodeId> {
        self.membership.nodes.get(key).copied().flatten()
    }

    /// The member that owns this address.
    pub(super) fn member_at(&self, address: std::net::Ipv6Addr) -> Option<NodeId> {
        let prefix = address.octets();
        let node = self.membership.by_prefix.get(&prefix[..8])?;
        self.membership
            .is_member(&node.public_key())
            .then_some(*node)
    }

    /// What the packet threads let through of those who have no session.
    pub(super) fn admits(&self) -> Admits {
        if self.admits_everybody() || self.membership.is_welcoming {
            Admits::Everybody
        } else if self.network.is_private() {
            Admits::These(Arc::clone(&self.membership.members))
        } else {
            Admits::Nobody
        }
    }

    /// Whether some invite is good, and this node may let its bearer in.
    pub(super) fn welcomes_guests(&self, now: Instant) -> bool {
        let own = self.own_key();
        self.membership.roll.member(&own).is_some()
            && self.membership.unix_s(now) < self.membership.invites
    }

    /// Invites come and run out.
    pub(super) fn note_guests(&mut self, now: Instant) {
        let is_welcoming = self.welcomes_guests(now);
        if std::mem::replace(&mut self.membership.is_welcoming, is_welcoming) != is_welcoming {
            self.stale = true;
            // Also the control plane's affair.
            self.keep();
        }
    }

    pub(super) fn own_key(&self) -> NodeKey {
        NodeKey(*self.identity.node().ed25519())
    }

    /// The wall clock says this, as time since 1970.
    pub fn handle_wall_clock(&mut self, unix: Duration, now: Instant) {
        self.membership.wall = (now, unix);
        self.device.handle_wall_clock(unix, now);
        self.note_guests(now);
        self.set_membership_timer(now);
    }

    // ---- changes -------------------------------------------------------------------------------------------------------------

    /// These records are new here; who told them, if somebody has. Everything that follows is done, but for telling others, which waits
    /// until they are kept.
    pub(super) fn on_records(&mut self, new: Vec<Vec<u8>>, by: Option<PublicKey>, now: Instant) {
        if new.is_empty() {
            return;
        }
        let news = new.into_iter().map(|record| (by, record));
        self.membership.news.extend(news);
        self.on_roll(now);
    }

    /// Who is a member may have changed.
    pub(super) fn on_roll(&mut self, now: Instant) {
        let before = Arc::clone(&self.membership.members);
        self.membership.count();
        let members = &self.membership.members;
        for key in before.difference(members) {
            info!(peer = %self.label(key), "No member any more");
        }
        for key in members.difference(&before) {
            let name = self.member(key).map(|member| member.name.clone());
            info!(
                peer = name.unwrap_or_default(),
                key = %key.short(),
                "A member of the network"
            );
        }
        let network = self.membership.network();
        if network == self.network {
            self.expel(now);
            self.tell_transit(now);
        } else {
            self.set_network(network, now);
        }
        // Names and tags may have changed with it.
        self.renew_all_rules(now);
        self.rename();
        self.outputs.push_back(Output::Changed);
        self.stale = true;
        self.note_guests(now);
        self.keep();
        self.set_membership_timer(now);
    }

    /// Whether all records are kept.
    pub fn is_kept(&self) -> bool {
        let records = self.membership.records.as_ref();
        let now = records.map(|records| (records.network(), records.revision()));
        now.is_none() || now == self.membership.kept
    }

    /// Has the records kept, once at a time.
    fn keep(&mut self) {
        if !std::mem::replace(&mut self.membership.keeping, true) {
            self.outputs.push_back(Output::Keep);
        }
    }

    /// The network's id, its records as they are to be kept, and how new they are; nothing in the open network.
    pub fn to_be_kept(&self) -> Option<(NetworkId, Vec<u8>, u64)> {
        let records = self.membership.records.as_ref()?;
        Some((records.network(), records.to_bytes(), records.revision()))
    }

    /// The answer to [`Output::Keep`]: what of a network is kept, or could not be ([`Self::to_be_kept`]; nothing: of none).
    pub fn handle_kept(&mut self, of: Option<(NetworkId, u64)>, is_kept: bool, now: Instant) {
        self.membership.keeping = false;
        let records = self.membership.records.as_ref();
        let is_this = of.map(|(network, _)| network) == records.map(Records::network);
        let revision = of.map_or(0, |(_, revision)| revision);
        let is_newest = records.is_none_or(|records| records.revision() <= revision);
        if !is_this || !is_newest {
            return self.keep();
        }
        if is_kept {
            self.membership.kept = of;
        }
        let replies = std::mem::take(&mut self.membership.replies);
        if is_kept {
            for reply in replies {
                self.reply(reply, now);
            }
        }
        let news = std::mem::take(&mut self.membership.news);
        if news.len() <= MAX_NEWS {
            self.tell_news(&news, now);
            let own = news.into_iter().filter(|(by, _)| by.is_none());
            self.repeat_later(own.map(|(_, record)| record).collect(), 0, now);
        }
        self.drain(now);
    }

    /// [`Output::Keep`] was not heard: it is said again a little later.
    pub fn handle_unheard(&mut self) {
        self.membership.keeping = false;
    }

    /// Tells every member that there is a session with what is new, but not whom it came from.
    fn tell_news(&mut self, news: &[(Option<PublicKey>, Vec<u8>)], now: Instant) {
        if news.is_empty() {
            return;
        }
        let peers: Vec<PublicKey> = self.members_in_session().collect();
        for peer in peers {
            let records = news.iter().filter(|(by, _)| *by != Some(peer));
            let records = records.map(|(_, record)| record.as_slice());
            for message in sync::news(records) {
                self.tell_records(&peer, message, now);
            }
        }
    }

    fn repeat_later(&mut self, news: Vec<Vec<u8>>, times: usize, now: Instant) {
        let Some(pause) = REPEATS.get(times).filter(|_| !news.is_empty()) else {
            return;
        };
        let repeats = &mut self.membership.repeats;
        if repeats.len() >= MAX_REPEATED {
            repeats.pop_front();
        }
        repeats.push_back((now + *pause, times + 1, news));
        self.set_membership_timer(now);
    }

    fn repeat_news(&mut self, now: Instant) {
        let repeats = std::mem::take(&mut self.membership.repeats);
        let (due, later) = repeats.into_iter().partition(|(at, ..)| *at <= now);
        self.membership.repeats = later;
        let due: VecDeque<_> = due;
        for (_, times, news) in due {
            let again: Vec<_> = news.iter().map(|record| (None, record.clone())).collect();
            self.tell_news(&again, now);
            self.repeat_later(news, times, now);
        }
    }

    fn members_in_session(&self) -> impl Iterator<Item = PublicKey> {
        let members = self.peers.keys();
        let members = members.filter(|key| self.membership.is_member(key));
        members.filter(|key| self.is_open_with(key)).copied()
    }

    fn tell_records(&mut self, peer: &PublicKey, message: Vec<u8>, now: Instant) {
        let session = self.device.session(peer);
        if let Some(to) = session.and_then(|session| session.endpoint()) {
            self.signal(peer, &Signal::Records(message), 0, to, now);
        }
    }

    // ---- what others say -----------------------------------------------------------------------------------------------------

    /// A session has opened: what the other knows, and we do not, is asked for.
    pub(super) fn compare_records(&mut self, peer: &PublicKey, now: Instant) {
        if self.membership.records.is_none() {
            return;
        }
        let is_under_way = self.membership.pulls.contains_key(peer);
        let is_busy = self.membership.pulls.len() >= MAX_PULLS;
        if !self.membership.is_member(peer) || is_under_way || is_busy {
            return;
        }
        let pull = Pull::new(self.rng.u64(..));
        self.membership.pulls.insert(*peer, pull);
        self.go_on_comparing(peer, now);
    }

    /// Sends what is to be asked.
    fn go_on_comparing(&mut self, peer: &PublicKey, now: Instant) {
        loop {
            let Membership { records, pulls, .. } = &mut self.membership;
            let (Some(records), Some(pull)) = (records, pulls.get_mut(peer)) else {
                break;
            };
            if let Some(question) = pull.poll_transmit(records, now) {
                self.tell_records(peer, question, now);
                continue;
            }
            match pull.progress() {
                Progress::Going => break,
                Progress::Done | Progress::Silent => {
                    self.membership.pulls.remove(peer);
                }
            }
        }
        self.set_membership_timer(now);
    }

    /// A member says something about records.
    pub(super) fn on_records_message(&mut self, peer: PublicKey, message: &[u8], now: Instant) {
        if !self.membership.is_member(&peer) {
            return self.discards.discard(Reason::NoMember, 1);
        }
        if !self.membership.may_be_heard(peer, now) {
            return self.discards.discard(Reason::PeerTalksTooMuch, 1);
        }
        let Membership { records, pulls, .. } = &mut self.membership;
        let Some(records) = records else {
            return;
        };
        let mut answer = None;
        let heard = match sync::role(message) {
            Some(Role::Question) => sync::answer(records, message).map(|made| {
                answer = Some(made);
                Heard::default()
            }),
            Some(Role::Answer) => match pulls.get_mut(&peer) {
                Some(pull) => pull.handle_message(records, message),
                None => return,
            },
            Some(Role::News) => sync::handle_news(records, message),
            None => return self.discards.discard(Reason::SignalUnknown, 1),
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                debug!(peer = %self.label(&peer), %error, "Not understood, about records");
                return self.discards.discard(Reason::SignalUnknown, 1);
            }
        };
        if let Some(answer) = answer {
            self.tell_records(&peer, answer, now);
        }
        self.on_records(heard.new, Some(peer), now);
        self.go_on_comparing(&peer, now);
        if heard.unchained > 0 {
            self.compare_records(&peer, now);
        }
    }

    /// Does what is due: questions are asked again, and now and then some member is compared with.
    pub(super) fn tend_membership(&mut self, now: Instant) {
        self.tend_joining(now);
        self.repeat_news(now);
        let due: Vec<PublicKey> = self.membership.pulls.keys().copied().collect();
        for peer in due {
            if let Some(pull) = self.membership.pulls.get_mut(&peer) {
                pull.handle_timeout(now);
            }
            self.go_on_comparing(&peer, now);
        }
        if self.membership.records.is_some()
            && now.saturating_duration_since(self.membership.compared) >= COMPARE
        {
            self.membership.compared = now;
            let peers: Vec<PublicKey> = self.members_in_session().collect();
            if let Some(peer) = self.rng.choice(peers) {
                self.compare_records(&peer, now);
            }
        }
        self.note_guests(now);
        if !self.is_kept() {
            // The disk was full, perhaps.
            self.keep();
        }
        self.set_membership_timer(now);
    }

    pub(super) fn set_membership_timer(&mut self, now: Instant) {
        let is_private = self.membership.records.is_some();
        let own = is_private.then(|| self.membership.next());
        let left = self
            .membership
            .invites
            .saturating_sub(self.membership.unix_s(now));
        let invites = self
            .membership
            .is_welcoming
            .then(|| now + Duration::from_secs(left));
        let all = own.into_iter().chain(self.next_of_joining()).chain(invites);
        let next = all.min();
        self.agenda.set(Task::Membership, next);
    }

    /// What the entry of a member is called.
    pub(super) fn name_for(&self, node: &NodeId, origin: Origin) -> String {
        let member = self.member(&node.public_key());
        match (origin, member) {
            (Origin::Member, Some(member)) => member.name.clone(),
            _ => node.address().to_string(),
        }
    }

    /// The entry of somebody who is not named by the configuration.
    pub(super) fn entry_for(&self, node: NodeId, origin: Origin, now: Instant) -> Entry {
        Entry {
            admitted: Some(now),
            allowed: if origin == Origin::Guest {
                Vec::new()
            } else {
                vec![node.prefix()]
            },
            ..Entry::mesh(self.name_for(&node, origin), node, origin, Vec::new())
        }
    }
}
