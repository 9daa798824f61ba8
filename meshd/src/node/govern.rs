//! What people do to the network that the node is in: create it, invite, approve, revoke, leave; and what is shown of it.

use std::{net::Ipv6Addr, time::Instant};

use membership::{
    Invitation, InviteSeed, IssueError, Issued, Name, NetworkId, NetworkKey, NodeKey, Records,
    Signer, Standing, Suspension, Ticket,
};
use tracing::info;
use wireguard::PublicKey;

use super::{Node, membership::Membership, peers::Origin};
use crate::{
    admin::{self, MemberStanding, Warning, WarningCode, WhoisKind},
    identity::{self, NodeId},
};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum GovernError {
    /// There is a network already.
    #[error("this node is in the private network {0} already")]
    InNetwork(NetworkId),
    /// There is none.
    #[error("this node is in no private network")]
    NoNetwork,
    /// The records say no.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Nobody is called so.
    #[error("nobody in the network is called `{0}`, and it is no address or key of anybody there")]
    NoSuchMember(String),
    /// Several are called so.
    #[error("several are called `{name}`: {who}")]
    Ambiguous {
        /// The name.
        name: String,
        /// Their addresses.
        who: String,
    },
    /// It would lock itself out.
    #[error("a node does not revoke itself; it leaves")]
    Own,
}

impl Node {
    /// Creates a private network, whose first member and admin this node is, and goes there.
    ///
    /// # Errors
    /// [`GovernError::InNetwork`].
    pub fn create_network(
        &mut self,
        key: NetworkKey,
        name: Name,
        node_name: Name,
        now: Instant,
    ) -> Result<NetworkId, GovernError> {
        if let Some(records) = &self.membership.records {
            return Err(GovernError::InNetwork(records.network()));
        }
        let (own, unix_s) = (self.own_key(), self.membership.unix_s(now));
        let (records, Issued(new)) = Records::found(&key, name, own, node_name, unix_s);
        let id = key.id();
        info!(network = %id, "Created a network");
        self.membership.records = Some(records);
        self.membership.key = Some(key);
        self.on_records(new, None, now);
        self.drain(now);
        Ok(id)
    }

    /// Makes records with what this node may sign with: its own key if it is an admin, else the network's if it is here.
    fn issue<T>(
        &mut self,
        now: Instant,
        make: impl FnOnce(&mut Records, Signer<'_>, u64) -> Result<(T, Issued), IssueError>,
    ) -> Result<T, GovernError> {
        let (own, unix_s) = (self.own_key(), self.membership.unix_s(now));
        let seed = self.identity.seed();
        let Membership {
            records, key, roll, ..
        } = &mut self.membership;
        let records = records.as_mut().ok_or(GovernError::NoNetwork)?;
        let is_admin = roll.member(&own).is_some_and(|member| member.admin);
        let signer = match key {
            Some(key) if !is_admin => Signer::Network(key),
            Some(_) | None => Signer::Node(seed),
        };
        let (made, Issued(new)) = make(records, signer, unix_s)?;
        self.on_records(new, None, now);
        self.drain(now);
        Ok(made)
    }

    /// Makes an invite of 16 random bytes, good for `lifetime_s` seconds, and its ticket.
    ///
    /// # Errors
    /// [`GovernError::NoNetwork`], [`GovernError::Issue`].
    pub fn invite(
        &mut self,
        seed: InviteSeed,
        invitation: Invitation,
        lifetime_s: u64,
        now: Instant,
    ) -> Result<(Ticket, u64), GovernError> {
        self.issue(now, move |records, signer, unix_s| {
            let expires = unix_s.saturating_add(lifetime_s);
            let invitation = Invitation {
                expires,
                ..invitation
            };
            let issued = records.invite(signer, &seed, invitation, unix_s)?;
            let ticket = Ticket {
                network: records.network(),
                seed,
                endpoint: None,
            };
            Ok(((ticket, expires), issued))
        })
    }

    /// Approves a node that is pending or suspended, and gives a member a name.
    ///
    /// # Errors
    /// [`GovernError`].
    pub fn approve(
        &mut self,
        target: &str,
        name: Option<Name>,
        now: Instant,
    ) -> Result<NodeKey, GovernError> {
        let node = self.member_called(target)?;
        self.issue(now, move |records, signer, unix_s| {
            let is_member = matches!(records.standing(&node), Standing::Member(_));
            let mut all = Issued::default();
            if !is_member {
                all.0.extend(records.approve(signer, &node, unix_s)?.0);
            }
            if let Some(name) = name {
                all.0.extend(records.name(signer, node, name, unix_s)?.0);
            }
            Ok((node, all))
        })
    }

    /// Revokes a node, for ever.
    ///
    /// # Errors
    /// [`GovernError`].
    pub fn revoke(&mut self, target: &str, now: Instant) -> Result<NodeKey, GovernError> {
        let node = self.member_called(target)?;
        if node == self.own_key() {
            return Err(GovernError::Own);
        }
        self.issue(now, move |records, signer, unix_s| {
            Ok((node, records.revoke(signer, node, unix_s)?))
        })
    }

    /// Says that this node leaves, to be told to the others before [`Self::leave_network`].
    ///
    /// # Errors
    /// [`GovernError::NoNetwork`].
    pub fn say_goodbye(&mut self, now: Instant) -> Result<NetworkId, GovernError> {
        let unix_s = self.membership.unix_s(now);
        let seed = self.identity.seed();
        let records = self.membership.records.as_mut();
        let records = records.ok_or(GovernError::NoNetwork)?;
        let network = records.network();
        // Who is revoked, or has left before, has nothing to say.
        let new = match records.leave(seed, unix_s) {
            Ok(Issued(new)) => new,
            Err(_) => Vec::new(),
        };
        self.on_records(new, None, now);
        self.drain(now);
        Ok(network)
    }

    /// Forgets the private network, and goes to the open one.
    pub fn leave_network(&mut self, now: Instant) {
        self.membership.joining = None;
        if self.membership.records.take().is_some() {
            self.membership.key = None;
            self.on_roll(now);
        }
        self.drain(now);
    }

    /// Whom people mean: a name, an address, or a WireGuard key.
    fn member_called(&self, text: &str) -> Result<NodeKey, GovernError> {
        if self.membership.records.is_none() {
            return Err(GovernError::NoNetwork);
        }
        if let Some(node) = self.roll().named(text) {
            return Ok(*node);
        }
        let is_it = |key: &NodeKey| {
            let Some(node) = self.node_of(key) else {
                return false;
            };
            let address: Option<Ipv6Addr> = text.parse().ok();
            let by_address = address.is_some_and(|address| node.prefix().contains(address));
            by_address || node.public_key().to_string() == text || node.peer_id() == text
        };
        let mut called = Vec::new();
        for (key, standing) in self.roll().standings() {
            if is_it(key) {
                return Ok(*key);
            }
            let name = match standing {
                Standing::Member(member) => member.claimed.as_str(),
                Standing::Pending { name } | Standing::Suspended { name, .. } => name.as_str(),
                Standing::Revoked | Standing::Left | Standing::Unknown => continue,
            };
            if name == text {
                called.push(*key);
            }
        }
        match called.as_slice() {
            [] => Err(GovernError::NoSuchMember(text.to_owned())),
            [one] => Ok(*one),
            several => {
                let nodes = several.iter().filter_map(|key| self.node_of(key));
                let who: Vec<String> = nodes.map(|node| node.address().to_string()).collect();
                Err(GovernError::Ambiguous {
                    name: text.to_owned(),
                    who: who.join(", "),
                })
            }
        }
    }

    /// What the records warn of.
    pub(super) fn membership_warnings(&self) -> Vec<Warning> {
        use membership::Warning as What;
        let name = |node: &NodeKey| self.name_of(node);
        let names = |nodes: &[NodeKey]| nodes.iter().map(name).collect::<Vec<_>>().join(", ");
        let said = self.membership.roll.warnings().iter();
        let said = said.map(|warning| match warning {
            What::InviteReused { nodes, .. } => {
                let text = format!("a ticket was used more often than it may be, by {}: those are suspended until an admin approves", names(nodes));
                Warning::new(WarningCode::InviteReused, text)
            }
            What::NameConflict { name, holder, nodes } => {
                let whose = holder.map(|holder| format!(", which {} has", self.name_of(&holder)));
                let whose = whose.unwrap_or_default();
                let text = format!("several members claim the name {name}{whose}: {}", names(nodes));
                Warning::new(WarningCode::NameConflict, text)
            }
            What::AdminRevoked { admin, nodes } => {
                let text = format!("{} is revoked; whom it had let in is suspended: {}", name(admin), names(nodes));
                Warning::new(WarningCode::AdminRevoked, text)
            }
            What::RevocationFallen { node, .. } => {
                let text = format!("the revocation of {} does not count any more", name(node));
                Warning::new(WarningCode::RevocationFallen, text)
            }
        });
        let own = match self.membership.roll.standing(&self.own_key()) {
            _ if self.membership.records.is_none() => None,
            Standing::Member(_) => None,
            Standing::Revoked => Some("this node is revoked: members have no sessions with it"),
            Standing::Suspended { .. } => Some("this node is suspended until an admin approves it"),
            Standing::Left => Some("this node has left the network"),
            Standing::Pending { .. } | Standing::Unknown => {
                Some("this node is not a member of the network that it is in")
            }
        };
        let own = own.map(|text| Warning::new(WarningCode::NotMember, text));
        said.chain(own).collect()
    }

    /// What people call a node of the records.
    pub(super) fn name_of(&self, node: &NodeKey) -> String {
        match self.membership.roll.standing(node) {
            Standing::Member(member) => member.name.clone(),
            Standing::Pending { name } | Standing::Suspended { name, .. } => {
                let address = self.node_of(node).map(|node| node.address().to_string());
                format!("{name} ({})", address.unwrap_or_default())
            }
            Standing::Revoked | Standing::Left | Standing::Unknown => self
                .node_of(node)
                .map(|node| node.address().to_string())
                .unwrap_or_default(),
        }
    }

    // ---- what is shown -------------------------------------------------------------------------------------------------------

    /// The network that the node is in.
    pub fn network_report(&self, now: Instant) -> admin::Network {
        let own = self.roll().standing(&self.own_key());
        let joining = self.membership.joining.as_ref();
        let Some(records) = &self.membership.records else {
            return admin::Network {
                id: self.network.to_string(),
                private: false,
                name: None,
                standing: joining.map_or(MemberStanding::None, |_| MemberStanding::Pending),
                admin: false,
                has_network_key: false,
                members: 0,
                records: 0,
                record_bytes: 0,
                invites: Vec::new(),
                warnings: Vec::new(),
            };
        };
        let unix_s = self.membership.unix_s(now);
        let invites = records.invites().into_iter();
        let open = invites.filter(|invite| !invite.revoked && invite.expires > unix_s);
        admin::Network {
            id: self.network.to_string(),
            private: true,
            name: self.roll().network_name().map(ToString::to_string),
            standing: standing(own).0,
            admin: matches!(own, Standing::Member(member) if member.admin),
            has_network_key: self.membership.key.is_some(),
            members: self.roll().members().count(),
            records: records.len(),
            record_bytes: records.iter().map(|record| record.bytes().len()).sum(),
            invites: open
                .map(|invite| admin::OpenInvite {
                    name: invite.name.map(|name| name.to_string()),
                    tags: invite.tags.iter().map(ToString::to_string).collect(),
                    uses: invite.uses,
                    used: invite.used,
                    expires_in_s: invite.expires - unix_s,
                    approve: invite.approval == membership::Approval::Needed,
                })
                .collect(),
            warnings: self.membership_warnings(),
        }
    }

    /// Everybody of whom the records say something.
    pub fn members_report(&self) -> admin::Members {
        let own = self.own_key();
        let member = |(key, said): (&NodeKey, &Standing)| {
            let node = self.node_of(key)?;
            let (standing, why) = standing(said);
            let (name, tags, admin, since) = match said {
                Standing::Member(member) => (
                    Some(member.name.clone()),
                    member.tags.iter().map(ToString::to_string).collect(),
                    member.admin,
                    Some(member.since),
                ),
                Standing::Pending { name } | Standing::Suspended { name, .. } => {
                    (Some(name.to_string()), Vec::new(), false, None)
                }
                Standing::Revoked | Standing::Left | Standing::Unknown => {
                    (None, Vec::new(), false, None)
                }
            };
            Some(admin::MemberShown {
                name,
                address: node.address(),
                public_key: node.public_key(),
                standing,
                why,
                tags,
                admin,
                since,
                own: *key == own,
                connected: self.is_open_with(&node.public_key()),
            })
        };
        let mut members: Vec<_> = self.roll().standings().filter_map(member).collect();
        members.sort_by(|a, b| {
            (a.standing, &a.name, a.address).cmp(&(b.standing, &b.name, b.address))
        });
        admin::Members { members }
    }

    /// Who owns an address; nothing if nobody here knows.
    pub fn whois(&self, address: Ipv6Addr) -> Option<admin::Whois> {
        if !identity::is_overlay(address) {
            return None;
        }
        let node = self.identity.node();
        if node.prefix().contains(address) {
            let leaf = self.peers.iter().find(|(_, entry)| {
                entry.origin.is_stock() && entry.allowed.iter().any(|own| own.contains(address))
            });
            if let Some((key, entry)) = leaf {
                return Some(self.whois_of(
                    address,
                    *key,
                    None,
                    WhoisKind::Leaf,
                    entry.name.clone(),
                ));
            }
            let name = self.name.clone();
            let key = node.public_key();
            return Some(self.whois_of(address, key, Some(node), WhoisKind::Own, name));
        }
        if let Some(node) = self.member_at(address) {
            let name = self.name_for(&node, Origin::Member);
            let key = node.public_key();
            return Some(self.whois_of(address, key, Some(node), WhoisKind::Member, name));
        }
        let mut peers = self.peers.iter();
        let (key, entry) =
            peers.find(|(_, entry)| entry.allowed.iter().any(|prefix| prefix.contains(address)))?;
        let kind = if entry.origin.is_named() {
            WhoisKind::Peer
        } else {
            WhoisKind::Stranger
        };
        Some(self.whois_of(address, *key, entry.node, kind, entry.name.clone()))
    }

    fn whois_of(
        &self,
        address: Ipv6Addr,
        key: PublicKey,
        node: Option<NodeId>,
        kind: WhoisKind,
        name: String,
    ) -> admin::Whois {
        let member = self.member(&key);
        let tags = member.map(|member| member.tags.iter().map(ToString::to_string).collect());
        admin::Whois {
            address,
            name,
            kind,
            node: node.map(|node| node.address()),
            public_key: key,
            peer_id: node.map(|node| node.peer_id()),
            tags: tags.unwrap_or_default(),
            admin: member.is_some_and(|member| member.admin),
        }
    }
}

/// As it is shown, with the reason.
fn standing(said: &Standing) -> (MemberStanding, Option<String>) {
    let why = |why: &Suspension| {
        match why {
            Suspension::InviteReused => "its ticket was used more often than it may be",
            Suspension::InviteRevoked => "its ticket was withdrawn",
            Suspension::AdminRevoked => "the admin who let it in is revoked",
            Suspension::InviteExpired => "its ticket had expired",
        }
        .to_owned()
    };
    match said {
        Standing::Member(_) => (MemberStanding::Member, None),
        Standing::Pending { .. } => (MemberStanding::Pending, None),
        Standing::Suspended { why: reason, .. } => (MemberStanding::Suspended, Some(why(reason))),
        Standing::Revoked => (MemberStanding::Revoked, None),
        Standing::Left => (MemberStanding::Left, None),
        Standing::Unknown => (MemberStanding::None, None),
    }
}
