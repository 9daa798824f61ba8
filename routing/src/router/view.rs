//! What the router shows of itself: for the command line, and for tests.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use ipnetwork::Ipv6Network;
use thiserror::Error;

use super::Router;
use crate::discard::Discards;
use crate::event::NeighbourState;
use crate::link::Link;
use crate::origin::{Origins, Record};
use crate::route::{Choice, Exchange, Trust};
use crate::types::{LinkId, Metric, RouterId, Seqno};
use crate::wire::Skipped;

/// A link and its neighbour.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// Which one.
    pub link: LinkId,
    /// The neighbour's address, once it has said Hello.
    pub neighbour: Option<Ipv6Addr>,
    /// What is thought of the neighbour.
    pub state: NeighbourState,
    /// Since when the link can, or cannot, be used.
    pub since: Instant,
    /// What it costs; infinite: it cannot be used.
    pub cost: Metric,
    /// What it costs us to hear the neighbour, as we tell it.
    pub rxcost: Metric,
    /// What it costs the neighbour to hear us, as it tells us.
    pub txcost: Metric,
    /// The round-trip time in microseconds.
    pub rtt: Option<u32>,
    /// How many of the neighbour's latest Hellos did not come, and of how many.
    pub missed: (u32, u32),
    /// How many routes it announces.
    pub routes: u32,
    /// Messages that came to nothing, by reason.
    pub discards: Discards,
    /// TLVs that could not be used, by reason.
    pub skipped: Skipped,
}

/// A route that a neighbour announces, or that we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// The destination.
    pub prefix: Ipv6Network,
    /// By which link and neighbour; none: it is our own.
    pub via: Option<(LinkId, Ipv6Addr)>,
    /// The origin.
    pub router_id: RouterId,
    /// The origin's.
    pub seqno: Seqno,
    /// As announced; infinite: retracted.
    pub advertised: Metric,
    /// From here, with all that speaks against it. Infinite: it cannot be used.
    pub metric: Metric,
    /// On whose word.
    pub trust: Trust,
    /// Whether packets go by it.
    pub is_selected: bool,
    /// Whether it can be used without risking a loop.
    pub is_feasible: bool,
    /// For how long it has been as it is.
    pub age: Duration,
}

/// Something that must not be, found by [`Router::check`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    /// The selected route cannot be used.
    #[error("the route to {0} that is selected cannot be used")]
    Selected(Ipv6Network),
    /// A neighbour was told more than the feasibility distance remembers.
    #[error("{0} was announced better than its feasibility distance")]
    Distance(Ipv6Network),
    /// A count is wrong.
    #[error("{what} of a link are {counted}, not {noted}")]
    Count {
        /// Of what.
        what: &'static str,
        /// As counted.
        counted: u32,
        /// As noted.
        noted: u32,
    },
    /// A table is larger than it may be.
    #[error("{0} are more than allowed")]
    Limit(&'static str),
}

impl Router {
    /// All links, by their place.
    pub fn links(&self) -> impl Iterator<Item = LinkView> {
        let now = self.clock.now();
        self.links.iter().map(move |(_, link)| {
            let neighbour = link.neighbour.as_ref();
            LinkView {
                link: link.id,
                neighbour: link.address(),
                state: link.state(),
                since: link.since,
                cost: link.cost(),
                rxcost: link.rxcost(now),
                txcost: neighbour.map_or(Metric::INFINITY, |it| it.txcost()),
                rtt: neighbour.and_then(|it| it.round_trip.mean()),
                missed: neighbour.map_or((0, 0), |it| it.losses()),
                routes: link.quota.routes,
                discards: link.discards,
                skipped: link.skipped,
            }
        })
    }

    /// All routes, by prefix; of each prefix the own one first.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.table.iter().flat_map(move |destination| {
            let own = self.origins.own();
            let ours = (destination.choice == Choice::Own).then(|| RouteView {
                prefix: destination.prefix(),
                via: None,
                router_id: own.owner().router_id,
                seqno: own.seqno(),
                advertised: Metric::ZERO,
                metric: Metric::ZERO,
                trust: Trust::Proven,
                is_selected: true,
                is_feasible: true,
                age: Duration::ZERO,
            });
            let theirs = destination.exchanges().iter().filter_map(move |exchange| {
                let source = destination.source(exchange)?;
                Some(RouteView {
                    prefix: destination.prefix(),
                    via: Some(self.next_hop(exchange.slot)?),
                    router_id: source.router_id,
                    seqno: exchange.seqno,
                    advertised: exchange.metric,
                    metric: self.metric(destination, exchange),
                    trust: exchange.trust,
                    is_selected: destination.choice == Choice::Via(exchange.slot),
                    is_feasible: source.is_feasible(exchange.seqno, exchange.metric),
                    age: self.clock.tick().since(exchange.changed),
                })
            });
            ours.into_iter().chain(theirs)
        })
    }

    /// The record of the origin of a prefix: the full key behind an address, if it has proven a route here.
    pub fn record(&self, prefix: Ipv6Network) -> Option<&Record> {
        self.origins.record(self.origins.holder(prefix)?, None)
    }

    /// All that is known of origins.
    pub const fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What came to nothing, of all links.
    pub fn discards(&self) -> Discards {
        let mut sum = self.discards;
        for (_, link) in self.links.iter() {
            sum += link.discards;
        }
        sum
    }

    /// How many destinations are remembered, those without a route among them.
    pub fn destinations(&self) -> usize {
        self.table.len()
    }

    /// How many seqno requests are pending: ours, and those of others.
    pub fn pending_requests(&self) -> (usize, usize) {
        self.requests.len()
    }

    /// Looks for what must not be. For tests: it takes time.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn check(&self) -> Result<(), Violation> {
        for destination in self.table.iter() {
            let prefix = destination.prefix();
            if let Choice::Via(slot) = destination.choice {
                let is_usable = destination.selected().is_some_and(|selected| {
                    destination.may_use(selected) && self.metric(destination, selected).is_finite()
                });
                if !is_usable || self.links.get(slot).is_none() {
                    return Err(Violation::Selected(prefix));
                }
            }
            let told = destination
                .exchanges()
                .iter()
                .filter_map(|exchange| destination.told(exchange));
            for told in told {
                let source = destination.source_of(told.router_id);
                // As good as what was announced would be feasible only if nothing was announced.
                if source.is_none_or(|source| source.is_feasible(told.seqno, told.metric)) {
                    return Err(Violation::Distance(prefix));
                }
            }
        }
        for (slot, link) in self.links.iter() {
            let of_link = |exchange: &&Exchange| exchange.slot == slot && exchange.is_route();
            let routes = self.table.iter().flat_map(|it| it.exchanges());
            let routes = routes.filter(of_link).count() as u32;
            let charged = self.table.iter().filter(|it| it.charged == Some(slot));
            let destinations = charged.count() as u32;
            for (what, counted, noted) in [
                ("routes", routes, link.quota.routes),
                ("destinations", destinations, link.quota.destinations),
            ] {
                if counted != noted {
                    return Err(Violation::Count {
                        what,
                        counted,
                        noted,
                    });
                }
            }
            let limits = link.config.limits;
            for (what, is_within) in [
                ("routes", routes <= limits.routes),
                ("destinations", destinations <= limits.destinations),
                ("updates that wait", link.parked.len() <= limits.waiting),
            ] {
                if !is_within {
                    return Err(Violation::Limit(what));
                }
            }
        }
        if self.table.len() > self.config.most_destinations {
            return Err(Violation::Limit("destinations"));
        }
        Ok(())
    }
}

impl Link {
    /// What is thought of its neighbour.
    pub(super) fn state(&self) -> NeighbourState {
        if !self.is_up() {
            NeighbourState::Down
        } else if self.is_suspect() {
            NeighbourState::Suspect
        } else {
            NeighbourState::Up
        }
    }
}
