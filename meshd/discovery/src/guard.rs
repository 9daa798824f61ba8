//! The transport that every dial and every call goes through: nothing into the overlay, nothing unclean, no host that takes all places.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll},
};

use ipnetwork::IpNetwork;
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
};
use tracing::debug;

use crate::{
    contact::split,
    hygiene::{Hygiene, host},
};

/// Calls of one host (an IPv4 address, a /64) that are being taken at a time: those of silent connections last until their deadline.
pub(crate) const MAX_PENDING_PER_HOST: usize = 8;

/// The rules, as they are at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(Arc<RwLock<Hygiene>>);

impl Rules {
    pub(crate) fn new(rules: Hygiene) -> Self {
        Self(Arc::new(RwLock::new(rules)))
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Hygiene) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Hygiene)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A transport of authenticated connections behind [`Rules`].
pub(crate) struct Guard<T> {
    inner: T,
    rules: Rules,
    pending: Pending,
}

impl<T> Guard<T> {
    pub(crate) fn new(inner: T, rules: Rules) -> Self {
        Self {
            inner,
            rules,
            pending: Pending::default(),
        }
    }

    /// Whether a call may be taken, and its place among those of its host.
    fn admit(&self, local: &Multiaddr, remote: &Multiaddr) -> Option<Place> {
        let from = ip(remote)?;
        let to = ip(local);
        let is_clean = self.rules.read(|rules| {
            rules.check_peer(from).is_ok() && to.is_none_or(|to| rules.check_peer(to).is_ok())
        });
        if !is_clean {
            return None;
        }
        self.pending.take_place(host(from))
    }

    /// Whether an address of ours is of use to anybody else.
    fn is_told(&self, address: &Multiaddr) -> bool {
        ip(address).is_some_and(|ip| self.rules.read(|rules| rules.is_told(ip)))
    }

    fn is_overlay(&self, address: &Multiaddr) -> bool {
        ip(address).is_some_and(|ip| self.rules.read(|rules| rules.check_peer(ip).is_err()))
    }
}

/// The IP address that a direct address begins with.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "libp2p knows many protocols, and only those named here are ours"
)]
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

impl<T> Transport for Guard<T>
where
    T: Transport + Unpin,
    T::ListenerUpgrade: Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = Placed<T::ListenerUpgrade>;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        if self.is_overlay(&address) {
            debug!(%address, "Not listened on: inside the overlay");
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<T::Dial, TransportError<T::Error>> {
        let Some((at, _)) = split(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        if let Err(why) = self.rules.read(|rules| rules.check(at)) {
            debug!(%address, %why, "Not dialled");
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, T::Error>> {
        let this = self.get_mut();
        loop {
            let event = match Pin::new(&mut this.inner).poll(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            };
            match event {
                TransportEvent::Incoming {
                    listener_id,
                    upgrade,
                    local_addr,
                    send_back_addr,
                } => {
                    // Dropping the upgrade closes the connection.
                    let Some(place) = this.admit(&local_addr, &send_back_addr) else {
                        continue;
                    };
                    return Poll::Ready(TransportEvent::Incoming {
                        listener_id,
                        upgrade: Placed {
                            inner: upgrade,
                            _place: place,
                        },
                        local_addr,
                        send_back_addr,
                    });
                }
                // What nobody may call is nobody's to hear of.
                TransportEvent::NewAddress { listen_addr, .. }
                | TransportEvent::AddressExpired { listen_addr, .. }
                    if !this.is_told(&listen_addr) => {}
                event @ (TransportEvent::NewAddress { .. }
                | TransportEvent::AddressExpired { .. }
                | TransportEvent::ListenerClosed { .. }
                | TransportEvent::ListenerError { .. }) => {
                    return Poll::Ready(
                        event.map_upgrade(|_| unreachable!("calls are taken above")),
                    );
                }
            }
        }
    }
}

impl<T> fmt::Debug for Guard<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// How many calls of each host are being taken; hosts without any are not in it.
#[derive(Clone, Debug, Default)]
struct Pending(Arc<Mutex<BTreeMap<IpNetwork, usize>>>);

impl Pending {
    fn take_place(&self, host: IpNetwork) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(host).or_default();
        if *count >= MAX_PENDING_PER_HOST {
            return None;
        }
        *count += 1;
        Some(Place {
            host,
            pending: self.clone(),
        })
    }
}

/// A place among the calls of a host, given back when it is dropped.
#[derive(Debug)]
struct Place {
    host: IpNetwork,
    pending: Pending,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self
            .pending
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.host);
            }
        }
    }
}

/// A call that is being taken.
#[derive(Debug)]
pub(crate) struct Placed<F> {
    inner: F,
    _place: Place,
}

impl<F: Future + Unpin> Future for Placed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_eight_places_and_gets_them_back() {
        let pending = Pending::default();
        let (one, two): (IpNetwork, IpNetwork) = (
            "203.0.113.7/32".parse().unwrap(),
            "203.0.113.8/32".parse().unwrap(),
        );
        let mut places: Vec<_> = (0..20).filter_map(|_| pending.take_place(one)).collect();
        assert_eq!(places.len(), MAX_PENDING_PER_HOST);
        assert!(pending.take_place(two).is_some());
        places.pop();
        assert!(pending.take_place(one).is_some());
        drop(places);
        assert!(pending.0.lock().unwrap().is_empty());
    }
}
