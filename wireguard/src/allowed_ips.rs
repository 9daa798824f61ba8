//! Cryptokey routing: which peer owns an address (white paper, section 2).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

/// Prefixes and their owners, one owner to a prefix; the longest prefix wins.
///
/// A table of tables, longest prefixes first: nodes own /64s and leaves /128s, so a look-up tries two or three lengths.
#[derive(Clone, Debug)]
pub struct AllowedIps<T> {
    /// By 128 - length, so that iteration meets the longest first; then by the address without its host bits.
    lengths: BTreeMap<u8, BTreeMap<u128, T>>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self {
            lengths: BTreeMap::new(),
        }
    }
}

impl<T: Copy + Eq> AllowedIps<T> {
    /// Gives `prefix` to `owner`; host bits are ignored. Giving it again to the same owner changes nothing.
    ///
    /// # Errors
    /// The owner that has this very prefix already.
    pub fn insert(&mut self, prefix: Ipv6Network, owner: T) -> Result<(), T> {
        let (length, network) = split(prefix);
        match *self
            .lengths
            .entry(length)
            .or_default()
            .entry(network)
            .or_insert(owner)
        {
            present if present == owner => Ok(()),
            other => Err(other),
        }
    }

    /// Who owns exactly `prefix`.
    pub fn owner(&self, prefix: Ipv6Network) -> Option<T> {
        let (length, network) = split(prefix);
        self.lengths.get(&length)?.get(&network).copied()
    }

    /// Takes `prefix` from whoever has it.
    pub fn remove(&mut self, prefix: Ipv6Network) {
        let (length, network) = split(prefix);
        if let Some(table) = self.lengths.get_mut(&length) {
            table.remove(&network);
            if table.is_empty() {
                self.lengths.remove(&length);
            }
        }
    }

    /// Who owns the longest prefix that covers `address`.
    pub fn lookup(&self, address: Ipv6Addr) -> Option<T> {
        let address = address.to_bits();
        self.lengths
            .iter()
            .find_map(|(&length, table)| table.get(&(address & mask(length))))
            .copied()
    }
}

const fn mask(host_bits: u8) -> u128 {
    match u128::MAX.checked_shl(host_bits as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

fn split(prefix: Ipv6Network) -> (u8, u128) {
    let host_bits = 128 - prefix.prefix();
    (host_bits, prefix.ip().to_bits() & mask(host_bits))
}
