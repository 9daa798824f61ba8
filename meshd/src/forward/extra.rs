//! Sockets besides those that the configuration asks for: opened while it runs, to have many mappings in a NAT at once, and closed again
//! but for one that turned out to be a way to somebody.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use wireguard::Underlay;

use crate::io::{
    netlink,
    udp::{BindError, UdpSocket},
    wake::Wake,
};

/// The last index of a socket; those after it mean a stream, and any.
const LAST: u8 = Underlay::STREAM - 1;

/// Extra sockets, by their indices; the node loop opens and closes them, one packet thread receives by them, and all send.
pub struct Extra {
    /// The index that none is below.
    first: u8,
    table: ArcSwap<Table>,
    /// Wakes the thread that receives by them: the table has changed.
    wake: Wake,
}

/// The sockets that there are now.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) Vec<(u8, UdpSocketRef)>);

type UdpSocketRef = Arc<UdpSocket>;

impl Table {
    pub(super) fn get(&self, index: u8) -> Option<&UdpSocket> {
        let mut sockets = self.0.iter();
        let (_, socket) = sockets.find(|(other, _)| *other == index)?;
        Some(socket)
    }
}

impl Extra {
    /// None yet; their indices begin at `first`.
    pub(super) fn new(first: usize) -> io::Result<Self> {
        Ok(Self {
            first: u8::try_from(first).unwrap_or(LAST),
            table: ArcSwap::default(),
            wake: Wake::new()?,
        })
    }

    pub(super) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Opens up to `count` sockets on ports of their own, on this address; returns their indices. There are fewer when indices or
    /// descriptors run out.
    ///
    /// # Errors
    /// Not even one could be opened.
    pub fn open(&self, address: SocketAddr, count: usize) -> Result<Vec<u8>, BindError> {
        let mut sockets = self.table.load().0.clone();
        let is_taken = |index: &u8| sockets.iter().any(|(other, _)| other == index);
        let free: Vec<u8> = (self.first..=LAST)
            .filter(|index| !is_taken(index))
            .collect();
        let mut opened = Vec::new();
        for index in free.into_iter().take(count) {
            match UdpSocket::bind(SocketAddr::new(address.ip(), 0), netlink::MARK) {
                Ok(socket) => {
                    sockets.push((index, Arc::new(socket)));
                    opened.push(index);
                }
                Err(error) if opened.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, opened = opened.len(), "Fewer sockets than wanted");
                    break;
                }
            }
        }
        self.publish(sockets);
        Ok(opened)
    }

    /// Closes these.
    pub fn close(&self, indices: &[u8]) {
        let sockets = &self.table.load().0;
        let left = sockets.iter().filter(|(index, _)| !indices.contains(index));
        self.publish(left.cloned().collect());
    }

    fn publish(&self, sockets: Vec<(u8, UdpSocketRef)>) {
        self.table.store(Arc::new(Table(sockets)));
        if let Err(error) = self.wake.wake() {
            tracing::error!(%error, "The thread of extra sockets cannot be woken");
        }
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("sockets", &self.table.load().0.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_used_again_and_none_is_one_that_means_a_stream_or_any() {
        let localhost: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let extra = Extra::new(250).unwrap();
        assert_eq!(extra.open(localhost, 3).unwrap(), [250, 251, 252]);
        assert!(extra.wake().clear().unwrap());
        extra.close(&[251]);
        assert!(extra.table().get(251).is_none());
        assert_eq!(extra.open(localhost, 9).unwrap(), [251, 253]);
        assert_eq!(extra.open(localhost, 1).unwrap(), Vec::<u8>::new());
        let ports: std::collections::BTreeSet<u16> = (250..=253)
            .map(|index| extra.table().get(index).unwrap().local_addr().port())
            .collect();
        assert_eq!(ports.len(), 4);
    }
}
