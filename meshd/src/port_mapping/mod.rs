//! Asks the router between this node and the Internet to let the WireGuard port in: by PCP (RFC 6887) or NAT-PMP (RFC 6886), else by UPnP.
//!
//! What a router says is no more than a hint: the address that it names becomes a candidate, which others probe before they use it. Only the
//! default gateway is asked and believed. All of it runs on a thread of its own, since UPnP connects to TCP ports of the router's choice, which no
//! other thread may.

mod upnp;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    num::NonZeroU16,
    thread::{self, JoinHandle},
    time::Duration,
};

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping as Lease, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tracing::{debug, error, info, warn};

use crate::{
    io::{
        hardening,
        netlink::{Gateway, Netlink},
    },
    path::candidate::is_private,
};

/// How long a mapping is asked for, in seconds: it goes away by itself if the daemon is killed.
const LIFETIME: u32 = 7200;
/// A mapping of a shorter life than this, in seconds, is renewed as if it had that.
const SHORTEST: u32 = 120;
/// Where there was no router that maps ports, it is asked again after this.
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// Several changes of the network are one.
const SETTLE: Duration = Duration::from_millis(500);
/// The router forgets the mapping by itself, if it does not answer in time.
const GOODBYE: Duration = Duration::from_millis(500);
/// Two tries in a second: a router in the same room either answers at once or does not know the protocol.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_millis(500)),
};

/// How a router was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Port Control Protocol.
    Pcp,
    /// NAT Port Mapping Protocol.
    NatPmp,
    /// Universal Plug and Play, Internet Gateway Device.
    Upnp,
}

impl Protocol {
    /// As it is called in `netcheck`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// A port of a router that leads to this node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapped {
    /// As the router says. It may be behind another router, and then is no address of the Internet.
    pub external: SocketAddrV4,
    /// How it was asked.
    pub protocol: Protocol,
}

/// A mapping that is to be kept.
#[derive(Debug)]
enum Held {
    Pcp(Box<Lease>),
    Upnp(upnp::Mapping),
}

/// Why there is no mapping.
#[derive(Debug, thiserror::Error)]
enum MappingError {
    #[error("this machine has an address of the Internet")]
    NotNeeded,
    #[error("there is no way to the Internet over IPv4")]
    NoGateway,
    #[error("the router at {gateway} maps no ports ({pcp}; {upnp})")]
    Refused {
        gateway: Ipv4Addr,
        pcp: String,
        upnp: upnp::UpnpError,
    },
}

/// The running thread.
#[derive(Debug)]
pub struct PortMapping {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl PortMapping {
    /// Starts to keep a mapping for this UDP port; looks at it again whenever `changed` says that the network has changed. Changes of the
    /// mapping go to `tell`, into which one always fits.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        port: NonZeroU16,
        mut changed: watch::Receiver<()>,
        tell: mpsc::Sender<Option<Mapped>>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run = async move {
            let netlink = match Netlink::new() {
                Ok(netlink) => netlink,
                Err(error) => return warn!(%error, "No port mapping"),
            };
            let mut mapper = PortMapper {
                port,
                held: None,
                gateway: None,
            };
            tokio::select! {
                () = mapper.keep(&netlink, &mut changed, &tell) => {}
                _ = stopped => {}
            }
            mapper.release().await;
        };
        let thread = thread::Builder::new()
            .name("port-mapping".to_owned())
            .spawn(move || {
                if let Err(missing) = hardening::confine_connections() {
                    // Said, with its code, of the rest of the daemon.
                    debug!(%missing, "Thread keeps what it does not need");
                }
                runtime.block_on(run);
            })?;
        Ok(Self { stop, thread })
    }

    /// Asks the router to forget the mapping, which takes half a second at most, and ends.
    pub fn stop(self) {
        // It has ended if it does not hear.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            error!("The thread of port mappings had panicked");
        }
    }
}

/// Keeps one mapping.
#[derive(Debug)]
struct PortMapper {
    port: NonZeroU16,
    held: Option<Held>,
    gateway: Option<Gateway>,
}

impl PortMapper {
    /// Ends when nobody listens any more.
    async fn keep(
        &mut self,
        netlink: &Netlink,
        changed: &mut watch::Receiver<()>,
        tell: &mpsc::Sender<Option<Mapped>>,
    ) {
        let mut told = None;
        loop {
            let pause = match self.refresh(netlink).await {
                Ok((mapped, lifetime)) => {
                    if told.replace(mapped) != Some(mapped) {
                        info!(external = %mapped.external, protocol = mapped.protocol.name(), "Router lets the WireGuard port in");
                        if tell.send(told).await.is_err() {
                            return;
                        }
                    }
                    Duration::from_secs(u64::from(lifetime.max(SHORTEST)) / 2)
                }
                Err(error) => {
                    debug!(%error, "No port mapping");
                    if told.take().is_some() && tell.send(None).await.is_err() {
                        return;
                    }
                    AGAIN
                }
            };
            match timeout(pause, changed.changed()).await {
                Ok(Ok(())) => sleep(SETTLE).await,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// Renews the mapping, or asks for one; returns for how many seconds it is good.
    async fn refresh(&mut self, netlink: &Netlink) -> Result<(Mapped, u32), MappingError> {
        let gateway = netlink.gateway().await.ok().flatten();
        if gateway != self.gateway {
            // The former router is out of reach, or soon forgets.
            self.held = None;
            self.gateway = gateway;
        }
        let gateway = gateway.ok_or(MappingError::NoGateway)?;
        if !needs_mapping(gateway.own) {
            return Err(MappingError::NotNeeded);
        }
        let pcp = match self.by_pcp(gateway).await {
            Ok(mapped) => return Ok(mapped),
            Err(error) => error,
        };
        let before = match self.held.take() {
            Some(Held::Upnp(mapping)) => Some(mapping),
            Some(Held::Pcp(_)) | None => None,
        };
        match upnp::map(gateway, self.port, LIFETIME, before).await {
            Ok(mapping) => {
                let mapped = Mapped {
                    external: mapping.external,
                    protocol: Protocol::Upnp,
                };
                self.held = Some(Held::Upnp(mapping));
                Ok((mapped, LIFETIME))
            }
            Err(upnp) => Err(MappingError::Refused {
                gateway: gateway.address,
                pcp,
                upnp,
            }),
        }
    }

    async fn by_pcp(&mut self, gateway: Gateway) -> Result<(Mapped, u32), String> {
        let mapping = match self.held.take() {
            Some(Held::Pcp(mut mapping)) => match mapping.renew().await {
                Ok(()) => *mapping,
                Err(_) => self.ask_pcp(gateway).await?,
            },
            Some(held @ Held::Upnp(_)) => {
                self.held = Some(held);
                return Err("it was asked by UPnP before".to_owned());
            }
            None => self.ask_pcp(gateway).await?,
        };
        let (external, protocol) = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => (external_ip, Protocol::Pcp),
            PortMappingType::NatPmp => {
                let external = natpmp::external_address(gateway.address.into(), Some(PATIENCE));
                let external = external.await.map_err(|error| error.to_string())?;
                (external.into(), Protocol::NatPmp)
            }
        };
        let lifetime = mapping.lifetime();
        let port = mapping.external_port().get();
        self.held = Some(Held::Pcp(Box::new(mapping)));
        match external.to_canonical() {
            IpAddr::V4(external) if !external.is_unspecified() => Ok((
                Mapped {
                    external: SocketAddrV4::new(external, port),
                    protocol,
                },
                lifetime,
            )),
            IpAddr::V4(_) | IpAddr::V6(_) => Err(format!("it maps to {external}")),
        }
    }

    /// PCP, or NAT-PMP: many routers that know the older one alone do not answer what they do not know, instead of saying so.
    async fn ask_pcp(&self, gateway: Gateway) -> Result<Lease, String> {
        let options = PortMappingOptions {
            external_port: Some(self.port),
            lifetime_seconds: Some(LIFETIME),
            timeout_config: Some(PATIENCE),
        };
        let address = GatewayAddress::from(gateway.address);
        let udp = InternetProtocol::Udp;
        let either = Lease::new(address, gateway.own.into(), udp, self.port, options);
        match either.await {
            Ok(mapping) => Ok(mapping),
            Err(pcp) => natpmp::port_mapping(address, udp, self.port, options)
                .await
                .map_err(|natpmp| format!("PCP: {pcp}, NAT-PMP: {natpmp}")),
        }
    }

    /// Asks the router to forget the mapping.
    async fn release(&mut self) {
        let forgotten = match self.held.take() {
            None => return,
            Some(Held::Pcp(mapping)) => timeout(GOODBYE, mapping.try_drop())
                .await
                .is_ok_and(|dropped| dropped.is_ok()),
            Some(Held::Upnp(mapping)) => timeout(GOODBYE, mapping.remove())
                .await
                .is_ok_and(|removed| removed.is_ok()),
        };
        debug!(forgotten, "Port mapping released");
    }
}

/// Whether an address of this machine is not one of the Internet.
fn needs_mapping(own: Ipv4Addr) -> bool {
    is_private(own.into()) || own.is_link_local()
}
