//! Private networks, as far as they concern files, the control plane and clients: the rest is the node's.

use std::{net::SocketAddr, time::Duration};

use membership::{Approval, Invitation, InviteSeed, Name, NetworkKey, NodeKey, Tag, Tags, Ticket};
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{Control, chain, not_remembered};
use crate::{
    admin::{
        ApproveRequest, CreateNetwork, ErrorBody, ErrorCode, Governed, InviteRequest, Invited,
        JoinRequest, JoinedNetwork, LeftNetwork, MAX_INVITE_S, MemberStanding, Members, Network,
        RevokeRequest, Whois, WhoisRequest, server::refusal,
    },
    clock_watch::Reading,
    config::HostPort,
    driver::NodeLoop,
    identity::NodeId,
    node::{GovernError, JoinFailure, Joined, Via},
    state,
};

/// How long the state directory may take.
const KEPT: Duration = Duration::from_secs(10);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(10);
/// How long the control plane may take to say where it listens.
const DOORS: Duration = Duration::from_secs(5);
/// And to join: more than the node's own patience.
const JOINED: Duration = Duration::from_secs(30);
/// A name server has this long to answer.
const RESOLVE: Duration = Duration::from_secs(5);

impl Control {
    /// Time since 1970.
    fn unix(&self) -> Duration {
        Reading::now(self.clock).unix(self.started)
    }

    /// Keeps the records that the node has by now, and tells it so.
    pub(crate) async fn keep_records(&self) {
        let kept = self.node.call(|node_loop, _| node_loop.node.to_be_kept());
        let Ok(kept) = kept.await else {
            return;
        };
        let (written, of) = match kept {
            Some((network, records, revision)) => {
                let file = state::Membership::new(&network, &records);
                (self.write(&file), Some((network, revision)))
            }
            None => (self.state.remove::<state::Membership>(), None),
        };
        if let Err(error) = &written {
            warn!(error = chain(error), "Records not kept");
        }
        let is_kept = written.is_ok();
        let told = self.node.call(move |node_loop, now| {
            node_loop.node.handle_kept(of, is_kept, now);
            node_loop.node.network().clone()
        });
        if let Ok(network) = told.await {
            self.network.send_if_modified(|before| {
                let is_new = *before != network;
                *before = network;
                is_new
            });
        }
        self.plane.touch();
    }

    /// Waits until what the node knows is kept.
    async fn until_kept(&self) -> Result<(), ErrorBody> {
        let deadline = Instant::now() + KEPT;
        loop {
            let is_kept = self.node.call(|node_loop, _| node_loop.node.is_kept());
            if is_kept.await? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(refusal(
                    ErrorCode::Failed,
                    "it is done, but cannot be written down: after a restart it is undone",
                    "df -h; meshd status",
                ));
            }
            sleep(LOOK).await;
        }
    }

    /// Runs something on the node that needs to know how late it is.
    async fn govern<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut NodeLoop, std::time::Instant) -> Result<T, GovernError> + Send + 'static,
    ) -> Result<T, ErrorBody> {
        let unix = self.unix();
        let done = self.node.call(move |node_loop, now| {
            node_loop.node.handle_wall_clock(unix, now);
            call(node_loop, now)
        });
        let done = done.await??;
        self.until_kept().await?;
        Ok(done)
    }

    /// What this node is called in a network, unless somebody says otherwise.
    async fn own_name(&self, wanted: Option<String>) -> Result<Name, ErrorBody> {
        let name = match wanted {
            Some(name) => name,
            None => self.running.lock().await.name.clone(),
        };
        parse_name(&name)
    }

    /// Creates a private network, and goes there.
    ///
    /// # Errors
    /// There is one already; the names are none; the key cannot be written down.
    pub async fn create_network(&self, request: CreateNetwork) -> Result<Network, ErrorBody> {
        let name = parse_name(&request.name)?;
        let own = self.own_name(request.node).await?;
        let report = self.network_report().await?;
        if report.private {
            let error = format!("this node is in the private network {} already", report.id);
            return Err(refusal(
                ErrorCode::Exists,
                &error,
                "meshd network show     or: sudo meshd leave",
            ));
        }
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(no_random)?;
        let key = NetworkKey::from_seed(&seed);
        // Before anybody hears of the network.
        self.state.write_network_key(&key).map_err(not_remembered)?;
        let create =
            move |node_loop: &mut NodeLoop, now| node_loop.node.create_network(key, name, own, now);
        let id = self.govern(create).await?;
        info!(network = %id, "Private network created");
        self.network_report().await
    }

    /// The network that the node is in.
    ///
    /// # Errors
    /// The node loop does not answer.
    pub async fn network_report(&self) -> Result<Network, ErrorBody> {
        let report = self
            .node
            .call(|node_loop, now| node_loop.node.network_report(now));
        Ok(report.await?)
    }

    /// Makes a ticket.
    ///
    /// # Errors
    /// There is no network, this node is no admin, or the request makes no sense.
    pub async fn invite(&self, request: InviteRequest) -> Result<Invited, ErrorBody> {
        let name = request.name.as_deref().map(parse_name).transpose()?;
        let tags: Result<Vec<Tag>, _> = request.tags.iter().map(|tag| tag.parse()).collect();
        let tags = tags.and_then(Tags::new).map_err(|error| {
            let error = format!("these are no tags: {error}");
            refusal(ErrorCode::Usage, &error, "meshd invite --tags server,lab")
        })?;
        let endpoint = match &request.endpoint {
            Some(text) => Some(parse_endpoint(text)?),
            None => self.door().await,
        };
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(no_random)?;
        let invitation = Invitation {
            uses: request.uses,
            expires: 0,
            approval: if request.approve {
                Approval::Needed
            } else {
                Approval::NotNeeded
            },
            name,
            tags,
        };
        let lifetime_s = request.lifetime_s.clamp(1, MAX_INVITE_S);
        let seed = InviteSeed::from_bytes(seed);
        let invite = move |node_loop: &mut NodeLoop, now| {
            node_loop.node.invite(seed, invitation, lifetime_s, now)
        };
        let (ticket, expires) = self.govern(invite).await?;
        let ticket = Ticket { endpoint, ..ticket };
        Ok(Invited {
            ticket: ticket.to_text().to_string(),
            endpoint: endpoint.map(|endpoint| endpoint.to_string()),
            local_only: endpoint.is_some_and(|endpoint| !discovery::hygiene::is_public(endpoint)),
            expires,
            uses: request.uses,
            name: request.name,
            tags: request.tags,
        })
    }

    /// Where this node takes libp2p connections over TCP: an address of the Internet if it has one.
    async fn door(&self) -> Option<SocketAddr> {
        let deadline = Instant::now() + DOORS;
        loop {
            let mut doors = self.plane.doors();
            doors.retain(|door| !door.ip().is_loopback());
            doors.sort_by_key(|door| {
                let is_local = !discovery::hygiene::is_public(*door);
                (is_local, door.is_ipv6(), *door)
            });
            // After a change of the network it begins to listen anew.
            if !doors.is_empty() || !self.plane.is_on() || Instant::now() >= deadline {
                return doors.first().copied();
            }
            sleep(LOOK).await;
        }
    }

    /// Joins the network of a ticket.
    ///
    /// # Errors
    /// The ticket is none, or nobody lets this node in.
    pub async fn join(&self, request: JoinRequest) -> Result<JoinedNetwork, ErrorBody> {
        let begun = Instant::now();
        let ticket: Ticket = request.ticket.parse().map_err(|error| {
            refusal(
                ErrorCode::Usage,
                &format!("this is no ticket: {error}"),
                "copy it again, all of it; then: sudo meshd join -",
            )
        })?;
        let network = ticket.network.to_string();
        let name = self.own_name(request.name).await?;
        let via = self.way_in(&ticket, request.peer, request.endpoint).await?;
        let unix = self.unix();
        let joining = self.node.call(move |node_loop, now| {
            node_loop.node.handle_wall_clock(unix, now);
            let ended = node_loop.await_joined();
            node_loop.node.join(ticket, name, via.clone(), now)?;
            Ok::<_, JoinFailure>((ended, via))
        });
        let (ended, via) = joining.await?.map_err(|error| not_joined(&error))?;
        let Joined { admission, by } = match timeout(JOINED, ended).await {
            Ok(Ok(ended)) => ended.map_err(|error| not_joined(&error))?,
            Ok(Err(_)) => return Err(not_joined(&JoinFailure::Joining)),
            Err(_) => {
                let text = "no member has answered in time";
                return Err(refusal(ErrorCode::Unreachable, text, "meshd status"));
            }
        };
        let mut joined = JoinedNetwork {
            standing: MemberStanding::Pending,
            network,
            network_name: None,
            name: None,
            address: self.own.address(),
            by: by.address(),
            members: 0,
            took_ms: 0,
        };
        if admission == membership::Admission::Member {
            if let Via::Door(at) = via {
                self.plane.keep_door(&by, at);
            }
            self.until_kept().await?;
            let report = self.network_report().await?;
            let own = self.own.public_key();
            let called = self.node.call(move |node_loop, _| {
                let member = node_loop.node.member(&own);
                member.map(|member| member.name.clone())
            });
            joined.standing = report.standing;
            joined.network_name = report.name;
            joined.members = report.members;
            joined.name = called.await?;
        }
        joined.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(joined)
    }

    /// Where a member is asked.
    async fn way_in(
        &self,
        ticket: &Ticket,
        peer: Option<wireguard::PublicKey>,
        endpoint: Option<String>,
    ) -> Result<Via, ErrorBody> {
        let at = match (&endpoint, ticket.endpoint) {
            (Some(text), _) => resolve(text).await?,
            (None, Some(at)) if peer.is_none() => at,
            (None, _) => {
                let error = "the ticket does not say where to ask";
                let hint = "sudo meshd join - --peer KEY@HOST:PORT     (meshd key show on a member tells its key)";
                return Err(refusal(ErrorCode::Usage, error, hint));
            }
        };
        match peer {
            Some(key) => {
                let node = NodeId::from_public_key(&key).map_err(|error| {
                    let error = format!("this is no key of a node: {error}");
                    refusal(
                        ErrorCode::Usage,
                        &error,
                        "meshd key show     (on the member)",
                    )
                })?;
                if node == self.own {
                    let error = "this is the key of this node itself";
                    return Err(refusal(
                        ErrorCode::Usage,
                        error,
                        "meshd key show     (on the member)",
                    ));
                }
                Ok(Via::Session(node, at))
            }
            None if self.plane.is_on() => Ok(Via::Door(at)),
            None => {
                let error =
                    "[control] enabled = false leaves libp2p out, over which a ticket is used";
                let hint =
                    "sudo meshd join - --peer KEY@HOST:PORT     (the WireGuard port of a member)";
                Err(refusal(ErrorCode::Failed, error, hint))
            }
        }
    }

    /// Everybody of whom the records say something.
    ///
    /// # Errors
    /// The node is in no private network.
    pub async fn members(&self) -> Result<Members, ErrorBody> {
        if !self.network_report().await?.private {
            return Err(GovernError::NoNetwork.into());
        }
        let members = self
            .node
            .call(|node_loop, _| node_loop.node.members_report());
        Ok(members.await?)
    }

    /// Approves a node, or gives it a name.
    ///
    /// # Errors
    /// [`GovernError`].
    pub async fn approve(&self, request: ApproveRequest) -> Result<Governed, ErrorBody> {
        let name = request.name.as_deref().map(parse_name).transpose()?;
        let approve =
            move |node_loop: &mut NodeLoop, now| node_loop.node.approve(&request.target, name, now);
        let node = self.govern(approve).await?;
        self.governed(node).await
    }

    /// Revokes a node.
    ///
    /// # Errors
    /// [`GovernError`].
    pub async fn revoke(&self, request: RevokeRequest) -> Result<Governed, ErrorBody> {
        let revoke =
            move |node_loop: &mut NodeLoop, now| node_loop.node.revoke(&request.target, now);
        let node = self.govern(revoke).await?;
        self.governed(node).await
    }

    async fn governed(&self, node: NodeKey) -> Result<Governed, ErrorBody> {
        let members = self.members().await?.members;
        let address = NodeId::from_ed25519(node.0).ok().map(|node| node.address());
        let shown = members
            .into_iter()
            .find(|member| Some(member.address) == address);
        let shown = shown.map(|shown| Governed {
            name: shown.name,
            address: shown.address,
            standing: shown.standing,
        });
        shown.ok_or_else(|| GovernError::NoSuchMember(String::new()).into())
    }

    /// Leaves the private network.
    ///
    /// # Errors
    /// The node is in none.
    pub async fn leave(&self) -> Result<LeftNetwork, ErrorBody> {
        let goodbye = |node_loop: &mut NodeLoop, now| node_loop.node.say_goodbye(now);
        // When it is kept, it has been told to whoever has a session.
        let network = self.govern(goodbye).await?;
        let running = self.running.lock().await;
        let settings = running.clone();
        self.node
            .call(move |node_loop, now| {
                node_loop.node.leave_network(now);
                // Whom the network had revoked counts again if the configuration names it.
                node_loop.node.handle_settings(&settings, now);
            })
            .await?;
        drop(running);
        self.until_kept().await?;
        info!(%network, "Left a private network");
        Ok(LeftNetwork {
            network: network.to_string(),
        })
    }

    /// Who owns an address.
    ///
    /// # Errors
    /// Nobody here knows.
    pub async fn whois(&self, request: WhoisRequest) -> Result<Whois, ErrorBody> {
        let address = request.address;
        let whois = self
            .node
            .call(move |node_loop, _| node_loop.node.whois(address));
        whois.await?.ok_or_else(|| {
            let error = format!("nobody here knows who owns {address}");
            refusal(ErrorCode::NoSuchName, &error, "meshd members; meshd peers")
        })
    }
}

fn parse_name(text: &str) -> Result<Name, ErrorBody> {
    text.parse().map_err(|error| {
        let error = format!("`{text}` cannot be a name: {error}");
        refusal(ErrorCode::Usage, &error, "use --name with another")
    })
}

fn parse_endpoint(text: &str) -> Result<SocketAddr, ErrorBody> {
    text.parse().map_err(|_| {
        let error = format!("`{text}` is no address and port: a ticket has no room for names");
        refusal(
            ErrorCode::Usage,
            &error,
            "meshd invite --endpoint 203.0.113.7:51861",
        )
    })
}

/// The address of a host and port, its name resolved.
async fn resolve(text: &str) -> Result<SocketAddr, ErrorBody> {
    let endpoint: HostPort = text.parse().map_err(|error| {
        let error = format!("`{text}` is no host and port: {error}");
        refusal(ErrorCode::Usage, &error, "meshd help join")
    })?;
    if let Some(at) = endpoint.address() {
        return Ok(at);
    }
    let found = timeout(RESOLVE, lookup_host(endpoint.to_string())).await;
    let found = found
        .ok()
        .and_then(Result::ok)
        .and_then(|mut all| all.next());
    found.ok_or_else(|| {
        let error = format!("{text} does not resolve");
        refusal(
            ErrorCode::Unreachable,
            &error,
            "give an address in place of the name",
        )
    })
}

fn no_random(error: getrandom::Error) -> ErrorBody {
    let error = format!("the system gives no random numbers: {error}");
    refusal(ErrorCode::Failed, &error, "")
}

fn not_joined(error: &JoinFailure) -> ErrorBody {
    let (code, hint) = match error {
        JoinFailure::InNetwork => (
            ErrorCode::Exists,
            "meshd network show     or, to go to another: sudo meshd leave",
        ),
        JoinFailure::Joining => (ErrorCode::Failed, "try again in a minute"),
        JoinFailure::Unreachable { .. } => (
            ErrorCode::Unreachable,
            "is the member up, its TCP port reachable from here, and the ticket neither used nor out of date? Another way: sudo meshd join - --peer KEY@HOST:PORT",
        ),
        JoinFailure::Refused(_) | JoinFailure::NoNode => (
            ErrorCode::NotMember,
            "ask an admin of the network for another ticket",
        ),
    };
    refusal(code, &error.to_string(), hint)
}

impl From<GovernError> for ErrorBody {
    fn from(error: GovernError) -> Self {
        use membership::IssueError;
        let (code, hint) = match &error {
            GovernError::InNetwork(_) => (ErrorCode::Exists, "meshd network show"),
            GovernError::NoNetwork => (
                ErrorCode::NotMember,
                "sudo meshd network create NAME     or: sudo meshd join -",
            ),
            GovernError::NoSuchMember(_) => (ErrorCode::NoSuchName, "meshd members"),
            GovernError::Ambiguous { .. } => {
                (ErrorCode::Usage, "say which by its address: meshd members")
            }
            GovernError::Own | GovernError::Issue(IssueError::Itself) => {
                (ErrorCode::Usage, "sudo meshd leave")
            }
            GovernError::Issue(IssueError::NotAdmin | IssueError::NotNetworkKey) => (
                ErrorCode::Permission,
                "run it on an admin's machine: meshd members",
            ),
            GovernError::Issue(IssueError::Invitation) => (ErrorCode::Usage, "meshd help invite"),
            GovernError::Issue(IssueError::UnknownNode | IssueError::UnknownInvite) => {
                (ErrorCode::NoSuchName, "meshd members")
            }
            GovernError::Issue(IssueError::Revoked) => (
                ErrorCode::Failed,
                "make a new key there (meshd init), and invite it again",
            ),
            GovernError::Issue(IssueError::Full) => {
                (ErrorCode::Failed, "let another admin do it: meshd members")
            }
        };
        refusal(code, &error.to_string(), hint)
    }
}
