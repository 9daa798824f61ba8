//! `kernel.json`: what the daemon has put into the kernel that outlives its process.
//!
//! Written before the kernel is changed and emptied after it has been put back, so that after a `kill -9` the next start (perhaps of
//! another version, with other numbers) knows what to take away. The interface and the packet filter's table are not in it: they belong
//! to descriptors, and the kernel removes them with the process.

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::{
    io::netlink::{self, Netlink, NetlinkError},
    state::{Record, StateDir, StateError},
};

/// What outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Preferences of IPv6 routing rules for the overlay's block.
    pub rules: Vec<u32>,
    /// Routing tables that are all ours.
    pub tables: Vec<u32>,
}

impl Record for Journal {
    const FILE: &'static str = "kernel.json";
    const VERSION: u32 = 1;
}

impl Journal {
    /// What this version puts into the kernel.
    pub fn planned() -> Self {
        Self {
            rules: vec![netlink::RULE_MARKED, netlink::RULE_LOOKUP],
            tables: vec![netlink::TABLE],
        }
    }

    /// What was left behind and this version does not put in the same place, where it would simply be replaced: until then what was
    /// left keeps overlay traffic off the default route.
    fn stale(&self) -> Self {
        let planned = Self::planned();
        let without = |all: &[u32], known: &[u32]| {
            all.iter()
                .copied()
                .filter(|number| !known.contains(number))
                .collect()
        };
        Self {
            rules: without(&self.rules, &planned.rules),
            tables: without(&self.tables, &planned.tables),
        }
    }
}

/// Takes away what a killed daemon of another version left behind, and writes down what is about to be changed.
///
/// # Errors
/// The journal was written by a newer version: it may have left what this one does not know. A journal that cannot be read or written
/// otherwise is warned of, and made up for by the fixed numbers.
pub async fn open(state: &StateDir, netlink: &Netlink) -> Result<(), StateError> {
    match state.read::<Journal>() {
        Ok(Some(left)) if left != Journal::default() => {
            info!("The last run did not end by itself; what it left in the kernel is replaced");
            let stale = left.stale();
            let removed: Result<(), NetlinkError> =
                netlink.remove_left(&stale.rules, &stale.tables).await;
            if let Err(error) = removed {
                warn!(%error, ?stale, "What another version left in the kernel stays there");
            }
        }
        Ok(_) => {}
        Err(error @ StateError::Newer { .. }) => return Err(error),
        Err(error) => {
            warn!(error = %format!("{:#}", anyhow::Error::new(error)), "The journal of the kernel's state is not used")
        }
    }
    write(state, &Journal::planned());
    Ok(())
}

/// Everything has been taken away.
pub fn close(state: &StateDir) {
    write(state, &Journal::default());
}

fn write(state: &StateDir, journal: &Journal) {
    if let Err(error) = state.write(journal) {
        warn!(error = %format!("{:#}", anyhow::Error::new(error)), "The journal of the kernel's state is not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_not_be_replaced_is_stale() {
        assert_eq!(Journal::planned().stale(), Journal::default());
        let mut left = Journal::planned();
        left.rules.push(99);
        left.tables = vec![98];
        let stale = left.stale();
        assert_eq!((stale.rules, stale.tables), (vec![99], vec![98]));
    }
}
