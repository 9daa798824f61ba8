//! systemd-resolved, told over D-Bus that this node answers the names of the mesh, and nobody else is to be asked for them.
//!
//! What it is told belongs to the interface and lives in its memory: it goes with the interface, also after `kill -9`, so that nothing has
//! to be journaled; and it goes when resolved restarts, which is noticed. `/etc/resolv.conf` is nobody's affair here.

use std::{convert::Infallible, future::pending, net::Ipv6Addr, num::NonZeroUsize, time::Duration};

use futures_util::StreamExt;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, connection, message::Type};

use crate::{admin::WarningCode, alerts::Alerts, config::DnsMode};

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
const BUS: &str = "org.freedesktop.DBus";
/// A call has this long to be answered.
const CALL: Duration = Duration::from_secs(5);
/// The same while the daemon stops.
const LAST_CALL: Duration = Duration::from_secs(1);
/// The bus is looked for again after this time: it may start later, or be restarted.
const AGAIN: Duration = Duration::from_secs(30);
/// Changes of owner that wait.
const OWNERS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");
/// AF_INET6, as resolved counts.
const INET6: i32 = libc::AF_INET6;

/// Names of zones that this node answers.
pub type Zones = Option<[String; 3]>;

/// The overlay's interface, as resolved is told of it.
#[derive(Debug)]
pub struct Resolved {
    mode: DnsMode,
    index: i32,
    server: Ipv6Addr,
    /// While there is one.
    bus: Option<Connection>,
    /// It has been told something.
    told: bool,
}

impl Resolved {
    /// For the interface with this index, behind which names are answered at `server`.
    pub fn new(mode: DnsMode, index: u32, server: Ipv6Addr) -> Self {
        Self {
            mode,
            index: index.cast_signed(),
            server,
            bus: None,
            told: false,
        }
    }

    /// Tells resolved, and tells it again when it restarts or the zones change. Never returns.
    pub async fn serve(&mut self, mut zones: watch::Receiver<Zones>, alerts: &Alerts) {
        if self.mode == DnsMode::Off {
            return pending().await;
        }
        loop {
            match self.follow(&mut zones, alerts).await {
                Ok(never) => match never {},
                Err(error) => self.note_absence(&format!("the system bus: {error}"), alerts),
            }
            (self.bus, self.told) = (None, false);
            sleep(AGAIN).await;
        }
    }

    /// The same for as long as the bus lives.
    async fn follow(
        &mut self,
        zones: &mut watch::Receiver<Zones>,
        alerts: &Alerts,
    ) -> zbus::Result<Infallible> {
        let bus = connection::Builder::system().method_timeout(CALL).build();
        let bus = bus.await?;
        self.bus = Some(bus.clone());
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(BUS)
            .interface(BUS)
            .member("NameOwnerChanged")
            .add_arg(SERVICE)
            .build()?;
        let mut owners = MessageStream::for_match_rule(rule, &bus, Some(OWNERS)).await?;
        let path = "/org/freedesktop/DBus";
        let owned = bus.call_method(Some(BUS), path, Some(BUS), "NameHasOwner", &SERVICE);
        let mut is_there: bool = owned.await?.body().deserialize()?;
        loop {
            let wanted = zones.borrow_and_update().clone();
            match wanted {
                _ if !is_there => self.note_absence("systemd-resolved does not run", alerts),
                None => self.revert().await,
                Some(zones) => self.tell(&bus, &zones, alerts).await,
            }
            tokio::select! {
                owner = owners.next() => match owner {
                    Some(message) => {
                        let message = message?;
                        let body = message.body();
                        let (_, _, new): (String, String, String) = body.deserialize()?;
                        // A new one has forgotten what the old one was told.
                        (is_there, self.told) = (!new.is_empty(), false);
                    }
                    None => return Err(zbus::Error::InputOutput(std::sync::Arc::new(
                        std::io::ErrorKind::BrokenPipe.into(),
                    ))),
                },
                changed = zones.changed() => if changed.is_err() {
                    pending::<()>().await;
                },
            }
        }
    }

    async fn tell(&mut self, bus: &Connection, zones: &[String; 3], alerts: &Alerts) {
        // From the first call on there is something to take back.
        self.told = true;
        match self.set(bus, zones).await {
            Ok(()) => {
                info!(
                    zones = zones.join(" "),
                    "Names are asked of this node, by systemd-resolved"
                );
                alerts.clear(WarningCode::NoResolved);
            }
            Err(error) => {
                let text = format!("systemd-resolved does not take the names of the mesh: {error}");
                warn!("{text}");
                alerts.raise(WarningCode::NoResolved, text);
                self.revert().await;
            }
        }
    }

    async fn set(&self, bus: &Connection, zones: &[String; 3]) -> zbus::Result<()> {
        let index = self.index;
        // The server comes last: before it is there, nothing is asked of it. `true`: for routing, not for searching.
        let domains = zones
            .each_ref()
            .map(|zone| (zone.trim_end_matches('.'), true));
        call(bus, "SetLinkDomains", &(index, domains.to_vec())).await?;
        call(bus, "SetLinkDefaultRoute", &(index, false)).await?;
        for protocol in [
            "SetLinkLLMNR",
            "SetLinkMulticastDNS",
            "SetLinkDNSOverTLS",
            "SetLinkDNSSEC",
        ] {
            // Refinements: older versions lack some, and this node signs nothing.
            if let Err(error) = call(bus, protocol, &(index, "no")).await {
                debug!(protocol, %error, "systemd-resolved keeps its own idea");
            }
        }
        let servers = vec![(INET6, self.server.octets().to_vec())];
        call(bus, "SetLinkDNS", &(index, servers)).await?;
        Ok(())
    }

    /// Takes everything back that it was told.
    async fn revert(&mut self) {
        let (Some(bus), true) = (&self.bus, std::mem::take(&mut self.told)) else {
            return;
        };
        let reverted = timeout(LAST_CALL, call(bus, "RevertLink", &(self.index,))).await;
        debug!(?reverted, "systemd-resolved was told to forget");
    }

    /// The daemon stops.
    pub async fn stop(mut self) {
        self.revert().await;
    }

    /// That it is not there concerns whoever has asked for it.
    fn note_absence(&self, what: &str, alerts: &Alerts) {
        match self.mode {
            DnsMode::Resolved => {
                let text = format!("names of the mesh are not found on this machine: {what}");
                warn!("{text}");
                alerts.raise(WarningCode::NoResolved, text);
            }
            DnsMode::Auto | DnsMode::Off => debug!(what, "Nobody to tell of names"),
        }
    }
}

async fn call<B: Serialize + DynamicType>(
    bus: &Connection,
    method: &str,
    body: &B,
) -> zbus::Result<Message> {
    bus.call_method(Some(SERVICE), PATH, Some(MANAGER), method, body)
        .await
}
