//! Where systems run: hosts in a row, each joined to the next.

use std::net::SocketAddr;

use anyhow::{Context as _, Error, Result};
use netns_tests::wait::poll_until;
use netns_tests::{Cable, Host, Lab, Link, Stretch, secs};

use crate::tunnels::Tunnels;

/// Hosts in a row: `a`, `b` and perhaps `c`.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) hosts: Vec<Host>,
    /// From each host to the next, which is its end `b`.
    pub(crate) links: Vec<Link>,
}

impl Line {
    pub(crate) fn hosts(lab: &Lab, count: usize) -> Vec<Host> {
        ["a", "b", "c"][..count]
            .iter()
            .map(|name| lab.host(name))
            .collect()
    }

    pub(crate) fn lay(lab: &Lab, count: usize, cable: Cable) -> Self {
        let hosts = Self::hosts(lab, count);
        let links = hosts
            .windows(2)
            .map(|pair| lab.link_with(&pair[0], &pair[1], cable))
            .collect();
        Self { hosts, links }
    }

    pub(crate) fn first(&self) -> &Host {
        &self.hosts[0]
    }

    pub(crate) fn last(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    /// Where a program of host `number` listens for its neighbours, as the one before it sees it.
    pub(crate) fn before(&self, number: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.links[number - 1].b.v4.into(), port)
    }

    /// The same, as the one after it sees it.
    pub(crate) fn after(&self, number: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.links[number].a.v4.into(), port)
    }

    /// The way from the first host to host `number`, once it carries packets.
    pub(crate) fn stretch(&self, number: usize, tunnels: &Tunnels) -> Result<Stretch> {
        let target = tunnels.address(number).context("no way to there")?;
        poll_until(secs(30), || self.first().ping(target))
            .map_err(|late| Error::msg(format!("{target} has not answered: {}", late.last)))?;
        Ok(Stretch::new(
            self.first(),
            &self.hosts[number],
            target,
            tunnels.ids(),
        ))
    }
}
