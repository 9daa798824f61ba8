//! A stock WireGuard device, the node that it calls, and what lies behind that.

use std::net::SocketAddr;

use crate::{Daemon, Host, Lab, Settings, settings::PORT};

/// A phone, its gateway, and a node behind that, in a row.
#[derive(Debug)]
pub struct Row {
    /// The device, without any WireGuard yet.
    pub phone: Host,
    /// The node that it calls.
    pub gateway: Daemon,
    /// The gateway's peer, which the phone has no link to.
    pub far: Daemon,
    /// Where the phone finds the gateway.
    pub endpoint: SocketAddr,
    /// For further hosts.
    pub lab: Lab,
}

impl Row {
    /// Starts both nodes, peers of each other.
    ///
    /// # Panics
    /// When one does not start.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let lab = Lab::new(name);
        let (phone, gateway, far) = (lab.host("phone"), lab.host("gateway"), lab.host("far"));
        let (front, back) = (lab.link(&phone, &gateway), lab.link(&gateway, &far));
        let (id, id_far) = (lab.identity(), lab.identity());
        let at_far = SocketAddr::new(back.b.v4.into(), PORT);
        Self {
            gateway: gateway.meshd(Settings::new(&id).peer("far", &id_far, Some(at_far))),
            far: far.meshd(Settings::new(&id_far).peer("gateway", &id, None)),
            phone,
            endpoint: SocketAddr::new(front.b.v4.into(), PORT),
            lab,
        }
    }

    /// What a verb of `meshd` prints on the gateway.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        let ran = self.gateway.command(line);
        ran.and_then(crate::process::Output::success)
            .unwrap_or_else(|err| panic!("{line}: {err}"))
    }
}
