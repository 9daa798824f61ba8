//! Workloads of a node: namespaces that `meshd attach` puts into the mesh.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, sendto,
    setsockopt, socket, sockopt::Ipv6Ttl,
};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::host::Host;
use crate::process::{Output, Process};

/// What `meshd` says about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its address.
    pub address: Ipv6Addr,
    /// `attached` or `waiting`.
    pub state: String,
    /// Where it lives.
    pub target: String,
}

impl Workload {
    fn of(shown: &Value) -> Result<Self, String> {
        let text = |field: &str| {
            let value = shown[field].as_str();
            value
                .map(str::to_owned)
                .ok_or_else(|| format!("no {field} in {shown}"))
        };
        let address = text("address")?;
        Ok(Self {
            address: address.parse().map_err(|err| format!("{address}: {err}"))?,
            state: text("state")?,
            target: text("target")?,
        })
    }
}

impl Daemon {
    /// Attaches a namespace (`netns:…` or `pid:…`) under a name, with further arguments.
    ///
    /// # Errors
    /// What the command said.
    pub fn try_attach(&self, target: &str, name: &str, more: &str) -> Result<Workload, String> {
        let shown = self.try_json(&format!("attach {target} --name {name} {more}"))?;
        Workload::of(&shown)
    }

    /// As [`Self::try_attach`].
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn attach(&self, target: &str, name: &str) -> Workload {
        self.try_attach(target, name, "")
            .unwrap_or_else(|err| panic!("{}: attach {target}: {err}", self.host().name()))
    }

    /// Detaches a workload.
    ///
    /// # Errors
    /// What the command said.
    pub fn detach(&self, name: &str) -> Result<(), String> {
        self.command(&format!("detach {name}"))
            .and_then(Output::success)
            .map(drop)
    }

    /// What `meshd workloads` says about one of them; none if it does not know it.
    ///
    /// # Panics
    /// When it does not answer.
    #[track_caller]
    pub fn workload(&self, name: &str) -> Option<Workload> {
        let shown = self.json("workloads");
        let workloads = shown["workloads"].as_array()?;
        let found = workloads.iter().find(|workload| workload["name"] == name)?;
        Some(Workload::of(found).unwrap_or_else(|err| panic!("{err}")))
    }

    /// Starts a process in a network namespace of its own that nothing else keeps, for `pid:…` of its id: both go with the process.
    #[track_caller]
    pub fn namespace_of_a_process(&self) -> Process {
        self.host().spawn("unshare --net sleep 1000")
    }
}

impl Host {
    /// Sends an ICMPv6 message as a neighbour on a link would: with hop limit 255.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn send_icmpv6(&self, from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) {
        let sent = self.inside(|| {
            let raw = socket(
                AddressFamily::Inet6,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::IcmpV6,
            )?;
            setsockopt(&raw, Ipv6Ttl, &255)?;
            let address = |ip| SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, 0));
            bind(raw.as_raw_fd(), &address(from))?;
            sendto(raw.as_raw_fd(), message, &address(to), MsgFlags::empty())
        });
        sent.unwrap_or_else(|err| panic!("{}: cannot send to {to}: {err}", self.name()));
    }
}
