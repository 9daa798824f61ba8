//! Which network the node is in: the open one of everybody, or a private one.
//!
//! Nodes of different networks have nothing to do with each other: the id of the network is in what beacons and origin records are
//! signed over, and in the names of the control plane's protocols. It changes while the daemon runs, when a network is created, joined
//! or left.

use std::{fmt, sync::Arc};

use membership::NetworkId;

/// The id of the network of everybody who is in no private one.
const OPEN: &str = "open";

/// A network, by its id as text: `open`, or 26 characters of base32.
#[derive(Clone, PartialEq, Eq)]
pub struct Network(Arc<str>);

impl Network {
    /// The private network with this id.
    pub fn private(id: &NetworkId) -> Self {
        Self(id.to_string().into())
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.0
    }

    /// Whether only members are in it.
    pub fn is_private(&self) -> bool {
        *self.0 != *OPEN
    }

    /// What origin records are signed for.
    pub(crate) fn of_origins(&self) -> routing::origin::Network {
        // Every id is short enough.
        routing::origin::Network::new(&self.0).unwrap_or_default()
    }
}

impl Default for Network {
    /// The open one.
    fn default() -> Self {
        Self(OPEN.into())
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_is_its_id_as_text() {
        let id = NetworkId([0x0a; 16]);
        let network = Network::private(&id);
        assert_eq!(network.id().parse(), Ok(id));
        assert!(network.is_private());
        assert!(!Network::default().is_private());
        assert_ne!(network.of_origins(), routing::origin::Network::default());
        assert_eq!(
            Network::default().of_origins(),
            routing::origin::Network::default()
        );
    }
}
