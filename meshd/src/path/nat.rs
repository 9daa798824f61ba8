//! How the router before this node behaves, from what neighbours see of the node (after RFC 4787 and RFC 5780).

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use wireguard::PublicKey;

use super::{Local, Reflexion, candidate::is_private};

/// The most reflexions remembered, of each family. Of more, the oldest goes.
const MAX_SEEN: usize = 16;
/// How long a reflexion counts that was not repeated.
const LIFE: Duration = Duration::from_secs(300);
/// When a mapping has changed, what was seen longer ago than this before says nothing any more.
const SAME_TIME: Duration = Duration::from_secs(5);
/// Ports given out in succession are at most so far apart: others behind the router take some in between.
const MAX_GAP: u16 = 64;
/// Most routers forget a mapping that nothing has used for 30 s (RFC 4787 wants two minutes).
const KEEPALIVE: Duration = Duration::from_secs(25);

/// Which address and port of the router a socket of the node gets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mapping {
    /// Fewer than two neighbours have said what they see.
    #[default]
    Unknown,
    /// There is no router that changes anything.
    None,
    /// The same whatever the destination.
    EndpointIndependent {
        /// And it is the port that the node has itself.
        keeps_port: bool,
    },
    /// Another one for every destination address.
    AddressDependent,
    /// Another one for every destination address and port; the next is `delta` from the last.
    Sequential {
        /// Difference of successive ports.
        delta: i16,
    },
    /// Another one for every destination address and port, and nobody can tell which.
    Random,
}

impl Mapping {
    /// Whether a socket has one outer address, which any peer may be told.
    pub const fn is_endpoint_independent(self) -> bool {
        matches!(self, Self::None | Self::EndpointIndependent { .. })
    }
}

/// What the router lets in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Filtering {
    /// Nothing has shown that.
    #[default]
    Unknown,
    /// Whatever comes to a mapping.
    EndpointIndependent,
    /// What comes from an address that was sent to.
    AddressDependent,
    /// What comes from an address and port that was sent to.
    AddressAndPortDependent,
}

/// How the router before a node treats IPv4.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NatView {
    /// What it gives out.
    pub mapping: Mapping,
    /// What it lets in.
    pub filtering: Filtering,
    /// What it gave out last, as far as anybody has seen.
    pub last: Option<SocketAddrV4>,
    /// How many neighbours at different addresses have said what they see.
    pub witnesses: u8,
}

impl NatView {
    /// How often something has to be sent to keep the router open, if it has to be.
    pub const fn keepalive(&self) -> Option<Duration> {
        if matches!(self.mapping, Mapping::None) {
            None
        } else {
            Some(KEEPALIVE)
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    witness: PublicKey,
    remote: SocketAddr,
    seen: SocketAddr,
    /// Counts mappings in the order in which they were first seen.
    order: u64,
    at: Instant,
}

/// What neighbours see of this node.
#[derive(Debug, Default)]
pub(super) struct Nat {
    seen: Vec<Seen>,
    order: u64,
    filtering: Filtering,
    /// Destinations that this node has sent probes to for the first time since the latest mapping was seen.
    opened: u16,
}

impl Nat {
    /// Takes in what a neighbour sees. True: it sees something else than before.
    pub(super) fn handle(&mut self, reflexion: Reflexion, now: Instant) -> bool {
        let Reflexion {
            witness,
            remote,
            seen,
            socket: _,
        } = reflexion;
        self.seen
            .retain(|one| now.saturating_duration_since(one.at) < LIFE);
        if let Some(known) = self.seen.iter_mut().find(|one| one.remote == remote) {
            known.at = now;
            if known.seen == seen {
                return false;
            }
            self.seen
                .retain(|one| now.saturating_duration_since(one.at) < SAME_TIME);
            self.seen.retain(|one| one.remote != remote);
        }
        self.order += 1;
        self.opened = 0;
        self.seen.push(Seen {
            witness,
            remote,
            seen,
            order: self.order,
            at: now,
        });
        let of_family = |one: &Seen| one.remote.is_ipv4() == remote.is_ipv4();
        if self.seen.iter().filter(|one| of_family(one)).count() > MAX_SEEN
            && let Some(oldest) = self.seen.iter().position(of_family)
        {
            self.seen.remove(oldest);
        }
        true
    }

    /// A probe goes to an address of IPv4 that none went to lately.
    pub(super) const fn handle_opened(&mut self) {
        self.opened = self.opened.saturating_add(1);
    }

    /// Something came that the router lets in only if its filtering is so, or looser.
    pub(super) const fn handle_let_in(&mut self, filtering: Filtering) {
        self.filtering = match (self.filtering, filtering) {
            (Filtering::EndpointIndependent, _) | (_, Filtering::EndpointIndependent) => {
                Filtering::EndpointIndependent
            }
            (_, looser) => looser,
        };
    }

    /// The node is somewhere else: nothing holds any more.
    pub(super) fn forget(&mut self) {
        *self = Self {
            order: self.order,
            ..Self::default()
        };
    }

    /// What the router does with IPv4.
    pub(super) fn view(&self, local: &Local) -> NatView {
        let mut seen = self.seen_outside(local);
        seen.retain(|one| one.seen.is_ipv4());
        seen.sort_by_key(|one| one.order);
        let mut addresses: Vec<_> = seen.iter().map(|one| one.remote.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mapping = mapping_of(&seen, local);
        let last = last_of(&seen, mapping).map(|last| match mapping {
            Mapping::Sequential { delta } => {
                let moved = delta.wrapping_mul(self.opened.cast_signed());
                SocketAddrV4::new(*last.ip(), last.port().wrapping_add_signed(moved))
            }
            Mapping::Unknown
            | Mapping::None
            | Mapping::EndpointIndependent { .. }
            | Mapping::AddressDependent
            | Mapping::Random => last,
        });
        NatView {
            mapping,
            filtering: self.filtering,
            last,
            witnesses: u8::try_from(addresses.len()).unwrap_or(u8::MAX),
        }
    }

    /// What was seen from outside the node's site: who is inside sees it before its router. If everybody is inside, all.
    fn seen_outside(&self, local: &Local) -> Vec<&Seen> {
        let is_outside = |one: &&Seen| {
            let ip = one.remote.ip();
            !is_private(ip) && !local.is_near(ip)
        };
        let of = |is_v4| move |one: &&Seen| one.remote.is_ipv4() == is_v4;
        let mut found = Vec::new();
        for is_v4 in [false, true] {
            let all = self.seen.iter().filter(of(is_v4));
            let outside: Vec<_> = all.clone().filter(is_outside).collect();
            if outside.is_empty() {
                found.extend(all);
            } else {
                found.extend(outside);
            }
        }
        found
    }

    /// Where others see the node, what most of them agree on first.
    pub(super) fn reflexive(&self, local: &Local) -> Vec<SocketAddr> {
        let mut found: Vec<(usize, SocketAddr)> = Vec::new();
        let mut counted = std::collections::BTreeSet::new();
        for one in self.seen_outside(local) {
            // However many addresses it was asked at, a neighbour has one voice.
            if !counted.insert((one.witness, one.seen)) {
                continue;
            }
            match found.iter_mut().find(|(_, seen)| *seen == one.seen) {
                Some((count, _)) => *count += 1,
                None => found.push((1, one.seen)),
            }
        }
        // The word of one against that of several that agree counts for nothing.
        let agreed = |family| {
            found
                .iter()
                .any(|(count, seen)| *count > 1 && seen.is_ipv4() == family)
        };
        let agreed = [false, true].map(agreed);
        found.retain(|(count, seen)| *count > 1 || !agreed[usize::from(seen.is_ipv4())]);
        found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        found.into_iter().map(|(_, seen)| seen).collect()
    }

    /// Whether somebody who is seen at this address is behind the same router.
    pub(super) fn is_ours(&self, ip: IpAddr) -> bool {
        self.seen.iter().any(|one| one.seen.ip() == ip)
    }
}

fn mapping_of(seen: &[&Seen], local: &Local) -> Mapping {
    let [first, rest @ ..] = seen else {
        return Mapping::Unknown;
    };
    if seen.iter().all(|one| local.hosts.contains(&one.seen)) {
        return Mapping::None;
    }
    if rest.is_empty() {
        return Mapping::Unknown;
    }
    if rest.iter().all(|one| one.seen == first.seen) {
        let keeps_port = local
            .hosts
            .iter()
            .any(|host| host.is_ipv4() && host.port() == first.seen.port());
        return Mapping::EndpointIndependent { keeps_port };
    }
    if rest.iter().any(|one| one.seen.ip() != first.seen.ip()) {
        return Mapping::Random;
    }
    let mut repeated = false;
    let mut by_address = true;
    for (n, one) in seen.iter().enumerate() {
        for other in &seen[n + 1..] {
            if one.remote.ip() == other.remote.ip() {
                repeated = true;
                by_address &= one.seen == other.seen;
            } else {
                by_address &= one.seen != other.seen;
            }
        }
    }
    if repeated && by_address {
        return Mapping::AddressDependent;
    }
    sequential(seen).map_or(Mapping::Random, |delta| Mapping::Sequential { delta })
}

/// The difference of ports that were given out in succession, if they were.
fn sequential(seen: &[&Seen]) -> Option<i16> {
    let mut ports: Vec<_> = seen.iter().map(|one| one.seen.port()).collect();
    // What comes in the order of falling ports, and more than once, is falling; else the answers have overtaken each other.
    let is_falling = ports.len() > 2 && ports.is_sorted_by(|one, other| one > other);
    ports.sort_unstable();
    ports.dedup();
    let gaps: Vec<u16> = ports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if gaps.is_empty() || gaps.iter().any(|gap| *gap > MAX_GAP) {
        return None;
    }
    let mut delta = gaps.iter().copied().fold(0, gcd);
    if gaps.len() == 1 && delta > 2 {
        delta = 1;
    }
    let delta = i16::try_from(delta).ok()?;
    Some(if is_falling { -delta } else { delta })
}

const fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn last_of(seen: &[&Seen], mapping: Mapping) -> Option<SocketAddrV4> {
    let mut v4 = seen.iter().filter_map(|one| match one.seen {
        SocketAddr::V4(seen) => Some(seen),
        SocketAddr::V6(_) => None,
    });
    match mapping {
        Mapping::Sequential { delta } if delta < 0 => v4.min_by_key(SocketAddrV4::port),
        Mapping::Sequential { .. } => v4.max_by_key(SocketAddrV4::port),
        Mapping::Unknown
        | Mapping::None
        | Mapping::EndpointIndependent { .. }
        | Mapping::AddressDependent
        | Mapping::Random => v4.next_back(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::tests::key;

    /// From 198.51.100.n, port p, this is seen.
    type Sight<'a> = (u8, u16, &'a str);

    /// What is seen, in this order.
    fn view(seen: &[Sight<'_>]) -> (Nat, NatView) {
        let now = Instant::now();
        let mut nat = Nat::default();
        for &(n, port, seen) in seen {
            let reflexion = Reflexion {
                witness: key(n.into()),
                remote: SocketAddr::from(([198, 51, 100, n], port)),
                seen: seen.parse().unwrap(),
                socket: 0,
            };
            assert!(nat.handle(reflexion, now));
        }
        let local = Local {
            hosts: vec!["192.168.1.2:7000".parse().unwrap()],
            ..Local::default()
        };
        let view = nat.view(&local);
        (nat, view)
    }

    #[test]
    fn what_neighbours_see_tells_how_the_router_behaves() {
        let unknown = Mapping::Unknown;
        let cases: [(&[Sight<'_>], Mapping, u8); 13] = [
            (&[], unknown, 0),
            (&[(1, 1, "203.0.113.1:7000")], unknown, 1),
            (&[(1, 1, "192.168.1.2:7000")], Mapping::None, 1),
            (
                &[(1, 1, "203.0.113.1:7000"), (2, 1, "203.0.113.1:7000")],
                Mapping::EndpointIndependent { keeps_port: true },
                2,
            ),
            (
                &[(1, 1, "203.0.113.1:9"), (2, 1, "203.0.113.1:9")],
                Mapping::EndpointIndependent { keeps_port: false },
                2,
            ),
            (
                &[
                    (1, 1, "203.0.113.1:9"),
                    (1, 2, "203.0.113.1:9"),
                    (2, 1, "203.0.113.1:1009"),
                ],
                Mapping::AddressDependent,
                2,
            ),
            (
                &[(1, 1, "203.0.113.1:20000"), (2, 1, "203.0.113.1:20001")],
                Mapping::Sequential { delta: 1 },
                2,
            ),
            (
                &[(1, 1, "203.0.113.1:20000"), (2, 1, "203.0.113.1:20007")],
                Mapping::Sequential { delta: 1 },
                2,
            ),
            (
                &[
                    (1, 1, "203.0.113.1:20002"),
                    (2, 1, "203.0.113.1:20000"),
                    (3, 1, "203.0.113.1:20006"),
                ],
                Mapping::Sequential { delta: 2 },
                3,
            ),
            (
                &[
                    (1, 1, "203.0.113.1:20006"),
                    (2, 1, "203.0.113.1:20004"),
                    (3, 1, "203.0.113.1:20002"),
                ],
                Mapping::Sequential { delta: -2 },
                3,
            ),
            (
                &[(1, 1, "203.0.113.1:20000"), (2, 1, "203.0.113.1:31001")],
                Mapping::Random,
                2,
            ),
            (
                &[(1, 1, "203.0.113.1:9"), (2, 1, "203.0.113.2:9")],
                Mapping::Random,
                2,
            ),
            (
                &[(1, 1, "203.0.113.1:20000"), (1, 2, "203.0.113.1:40000")],
                Mapping::Random,
                1,
            ),
        ];
        for (seen, mapping, witnesses) in cases {
            let (_, view) = view(seen);
            assert_eq!(
                (view.mapping, view.witnesses),
                (mapping, witnesses),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn the_last_port_is_the_latest_and_moves_with_what_is_opened() {
        let (mut nat, view) = view(&[(1, 1, "203.0.113.1:20003"), (2, 1, "203.0.113.1:20002")]);
        assert_eq!(view.last, Some("203.0.113.1:20003".parse().unwrap()));
        nat.handle_opened();
        nat.handle_opened();
        let moved = nat.view(&Local::default()).last;
        assert_eq!(moved, Some("203.0.113.1:20005".parse().unwrap()));
    }

    #[test]
    fn only_a_router_that_would_forget_has_to_be_kept_open() {
        let view = |mapping, filtering| NatView {
            mapping,
            filtering,
            ..NatView::default()
        };
        let kept = Mapping::EndpointIndependent { keeps_port: true };
        let open = Filtering::EndpointIndependent;
        assert_eq!(view(Mapping::None, Filtering::Unknown).keepalive(), None);
        assert_eq!(view(kept, open).keepalive(), Some(KEEPALIVE));
        assert_eq!(
            view(Mapping::Unknown, Filtering::Unknown).keepalive(),
            Some(KEEPALIVE)
        );
    }

    #[test]
    fn one_liar_among_three_is_not_believed() {
        let (nat, _) = view(&[
            (1, 1, "192.0.2.66:53"),
            (2, 1, "203.0.113.1:7000"),
            (3, 1, "203.0.113.1:7000"),
        ]);
        assert_eq!(
            nat.reflexive(&Local::default()),
            ["203.0.113.1:7000".parse().unwrap()]
        );
    }

    #[test]
    fn who_is_inside_the_site_says_nothing_about_its_router() {
        let now = Instant::now();
        let mut nat = Nat::default();
        let local = Local {
            hosts: vec!["192.168.1.2:7000".parse().unwrap()],
            ..Local::default()
        };
        let mut handle = |n, remote: &str, seen: &str| {
            let (remote, seen) = (remote.parse().unwrap(), seen.parse().unwrap());
            let witness = key(n);
            nat.handle(
                Reflexion {
                    witness,
                    remote,
                    seen,
                    socket: 0,
                },
                now,
            );
            (nat.view(&local).mapping, nat.reflexive(&local))
        };
        handle(1, "192.168.1.3:7000", "192.168.1.2:7000");
        let inside = handle(2, "10.0.0.3:7000", "192.168.1.2:7000");
        assert_eq!(inside.0, Mapping::None);
        handle(3, "198.51.100.3:7000", "203.0.113.1:9");
        let (mapping, reflexive) = handle(4, "198.51.101.3:7000", "203.0.113.1:9");
        assert_eq!(mapping, Mapping::EndpointIndependent { keeps_port: false });
        assert_eq!(reflexive, ["203.0.113.1:9".parse().unwrap()]);
    }

    #[test]
    fn reflexions_are_bounded_and_go_when_a_mapping_has_changed() {
        let now = Instant::now();
        let mut nat = Nat::default();
        let reflexion = |port, seen| Reflexion {
            witness: key(1),
            remote: SocketAddr::from(([198, 51, 100, 1], port)),
            seen: SocketAddr::from(([203, 0, 113, 1], seen)),
            socket: 0,
        };
        for port in 1..100 {
            assert!(nat.handle(reflexion(port, 7000), now));
        }
        assert_eq!(nat.seen.len(), MAX_SEEN);
        assert!(!nat.handle(reflexion(99, 7000), now));
        assert!(nat.handle(reflexion(99, 7001), now + Duration::from_secs(20)));
        assert_eq!(
            nat.reflexive(&Local::default()),
            [SocketAddr::from(([203, 0, 113, 1], 7001))]
        );
    }
}
