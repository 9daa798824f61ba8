//! What nobody can make this node exceed: probes towards addresses that have not answered, and offers that are looked at.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use wireguard::PublicKey;

/// The time that the limits below are for.
const MINUTE: Duration = Duration::from_secs(60);
/// Probes because of one peer to addresses that have not answered: whoever names them as its own might lie.
pub const PER_PEER: usize = 60;
/// Probes to one host (or /64), whoever has named it.
pub const PER_HOST: usize = 60;
/// Probes in all: ten peers at once, as after a change of network.
pub const IN_ALL: usize = 600;
/// Offers and answers from one peer.
pub const OFFERS_PER_PEER: usize = 20;
/// The same of all peers.
pub const OFFERS_IN_ALL: usize = 400;

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    peer: PublicKey,
    to: SocketAddr,
}

/// What was sent without an answer, and what was received, in the last minute.
#[derive(Debug, Default)]
pub(super) struct Limits {
    sent: VecDeque<Sent>,
    offers: VecDeque<(Instant, PublicKey)>,
}

impl Limits {
    /// Whether a probe may go to an address that has not answered; if so, it is counted.
    pub(super) fn take(&mut self, peer: PublicKey, to: SocketAddr, now: Instant) -> bool {
        while let Some(first) = self.sent.front()
            && now.saturating_duration_since(first.at) >= MINUTE
        {
            self.sent.pop_front();
        }
        if self.sent.len() >= IN_ALL {
            return false;
        }
        let (mut of_host, mut of_peer) = (0, 0);
        for sent in &self.sent {
            of_host += usize::from(host(sent.to) == host(to));
            of_peer += usize::from(sent.peer == peer);
        }
        if of_host >= PER_HOST || of_peer >= PER_PEER {
            return false;
        }
        self.sent.push_back(Sent { at: now, peer, to });
        true
    }

    /// Whether a probe that was not answered went to an address.
    pub(super) fn has_sent_to(&self, address: SocketAddr) -> bool {
        self.sent.iter().any(|sent| sent.to == address)
    }

    /// Whether one went to any port of a host.
    pub(super) fn has_sent_to_host(&self, ip: IpAddr) -> bool {
        self.sent.iter().any(|sent| sent.to.ip() == ip)
    }

    /// An address has answered: what was sent to it was welcome.
    pub(super) fn handle_answer(&mut self, from: SocketAddr) {
        self.sent.retain(|sent| sent.to != from);
    }

    /// Whether an offer is looked at; if so, it is counted.
    pub(super) fn take_offer(&mut self, peer: PublicKey, now: Instant) -> bool {
        while let Some((first, _)) = self.offers.front()
            && now.saturating_duration_since(*first) >= MINUTE
        {
            self.offers.pop_front();
        }
        let of_peer = self.offers.iter().filter(|(_, of)| *of == peer).count();
        if self.offers.len() >= OFFERS_IN_ALL || of_peer >= OFFERS_PER_PEER {
            return false;
        }
        self.offers.push_back((now, peer));
        true
    }
}

fn host(address: SocketAddr) -> IpAddr {
    match address.ip() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::tests::key;

    #[test]
    fn nobody_makes_it_send_more_to_a_host_or_for_a_peer() {
        let now = Instant::now();
        let mut limits = Limits::default();
        let [one, other] = [1, 2].map(key);
        let address = |host, port| SocketAddr::from(([198, 51, 100, host], port));
        let taken =
            |limits: &mut Limits, peer, to| (0..100).filter(|_| limits.take(peer, to, now)).count();
        assert_eq!(taken(&mut limits, one, address(1, 1)), PER_HOST);
        assert_eq!(taken(&mut limits, one, address(2, 1)), 0, "of the peer");
        assert_eq!(taken(&mut limits, other, address(1, 99)), 0, "of the host");
        let all: usize = (2..40)
            .map(|n| taken(&mut limits, key(n), address(n as u8, 1)))
            .sum();
        assert_eq!(all, IN_ALL - PER_PEER);
        assert!(limits.take(one, address(1, 1), now + MINUTE));
    }

    #[test]
    fn an_address_that_answers_is_not_counted() {
        let now = Instant::now();
        let mut limits = Limits::default();
        let peer = key(1);
        let to = SocketAddr::from(([198, 51, 100, 1], 1));
        for _ in 0..1000 {
            assert!(limits.take(peer, to, now));
            limits.handle_answer(to);
        }
    }

    #[test]
    fn offers_are_counted_by_peer() {
        let now = Instant::now();
        let mut limits = Limits::default();
        let [one, other] = [1, 2].map(key);
        let looked = (0..100).filter(|_| limits.take_offer(one, now)).count();
        assert_eq!(looked, OFFERS_PER_PEER);
        assert!(limits.take_offer(other, now));
        assert!(limits.take_offer(one, now + MINUTE));
    }
}
