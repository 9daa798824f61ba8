//! The Swarm: its transports, its protocols, their names and their limits.

use std::{io, num::NonZeroUsize, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, Swarm, Transport, autonat, connection_limits,
    connection_limits::ConnectionLimits,
    core::{muxing::StreamMuxerBox, upgrade::Version},
    identify, identity, kad, mdns, memory_connection_limits, noise, ping, quic, relay,
    request_response,
    request_response::ProtocolSupport,
    swarm,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, yamux,
};

use crate::{
    Settings,
    admission::Admission,
    dht::{self, Records},
    door::Dht,
    exchange::Bounded,
    fence::Fence,
    guard::{Guard, Rules},
    record::TTL,
};

/// Calls that are being taken, and dials that are being made, at a time.
const MAX_PENDING: u32 = 64;
/// Connections at a time, by who opened them. Each takes 105 kB (TCP) or 185 kB (QUIC).
const MAX_INCOMING: u32 = 128;
const MAX_OUTGOING: u32 = 64;
/// Connections with one node: both may dial at once, and one may be through a relay.
const MAX_PER_PEER: u32 = 3;
/// Resident bytes of the whole daemon past which no connection is opened.
const MAX_MEMORY: usize = 512 << 20;
/// A connection has to be authenticated in this time.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection that carries nothing but pings is closed after this.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// Streams being negotiated on one connection.
const MAX_NEGOTIATING: usize = 16;
/// Streams of one QUIC connection, and bytes that one stream and one connection may have on the way.
const MAX_STREAMS: u32 = 64;
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// QUIC says that it lives this often, and gives up after that long.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(15);
const QUIC_IDLE_MS: u32 = 45_000;
/// How often a connection is pinged, and who a node is told again.
const PING: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const IDENTIFY: Duration = Duration::from_secs(30 * 60);
/// How often the LAN is asked, and how long its answers hold.
const MDNS_QUERY: Duration = Duration::from_secs(5 * 60);
const MDNS_TTL: Duration = Duration::from_secs(6 * 60);
/// A request of ours is answered in this time.
const REQUEST: Duration = Duration::from_secs(10);
/// Requests of one connection at a time.
const MAX_REQUESTS: usize = 8;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(crate) fence: Fence<Protocols>,
    /// The protocol of guests.
    pub(crate) join: request_response::Behaviour<Bounded>,
}

/// The protocols of a network.
#[derive(NetworkBehaviour)]
pub(crate) struct Protocols {
    pub(crate) identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) kad: Toggle<kad::Behaviour<Records>>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) relay: relay::Behaviour,
    circuit: relay::client::Behaviour,
    reach: autonat::v2::client::Behaviour,
    probe: Toggle<autonat::v2::server::Behaviour>,
    pub(crate) endpoints: request_response::Behaviour<Bounded>,
    pub(crate) introductions: request_response::Behaviour<Bounded>,
}

/// The protocol of those who join a network: which one, its messages say.
const JOIN: StreamProtocol = StreamProtocol::new("/meshd/join/1");

/// The name of one of our protocols in a network.
pub(crate) fn protocol(network: &str, what: &str) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/meshd/{network}/{what}/1"))
        .expect("it begins with a slash")
}

/// What nodes of a network call themselves.
pub(crate) fn version(network: &str) -> String {
    format!("/meshd/{network}/1")
}

/// The relay's limits: a circuit carries a handshake and an introduction, no more.
fn relay_limits() -> relay::Config {
    relay::Config {
        max_reservations: 64,
        max_reservations_per_peer: 2,
        max_circuits: 16,
        max_circuits_per_peer: 2,
        max_circuit_duration: Duration::from_secs(60),
        max_circuit_bytes: 32 << 10,
        ..relay::Config::default()
    }
}

pub(crate) fn swarm(
    settings: &Settings,
    admission: Admission,
    rules: &Rules,
) -> Result<Swarm<Behaviour>, io::Error> {
    let keys = keys(settings)?;
    let own = keys.public().to_peer_id();
    let noise = || noise::Config::new(&keys).map_err(io::Error::other);
    let mut quic = quic::Config::new(&keys);
    quic.handshake_timeout = HANDSHAKE;
    quic.max_idle_timeout = QUIC_IDLE_MS;
    quic.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic.max_concurrent_stream_limit = MAX_STREAMS;
    quic.max_stream_data = STREAM_WINDOW;
    quic.max_connection_data = CONNECTION_WINDOW;
    let yamux = || {
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(MAX_STREAMS as usize);
        yamux
    };
    let direct = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux())
        .timeout(HANDSHAKE)
        .boxed();
    let quic = quic::tokio::Transport::new(quic)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed();
    let (circuits, circuit) = relay::client::new(own);
    let circuits = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(noise()?)
        .multiplex(yamux())
        .timeout(HANDSHAKE * 2)
        .boxed();
    let transport = Guard::new(quic, rules.clone())
        .or_transport(Guard::new(direct, rules.clone()))
        .or_transport(circuits)
        .map(|either, _| match either {
            futures_util::future::Either::Left(futures_util::future::Either::Left(it)) => it,
            futures_util::future::Either::Left(futures_util::future::Either::Right(it)) => it,
            futures_util::future::Either::Right(it) => it,
        })
        .boxed();
    let behaviour = behaviour(settings, &keys, own, admission, circuit)?;
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        .with_per_connection_event_buffer_size(8);
    Ok(Swarm::new(transport, behaviour, own, config))
}

fn keys(settings: &Settings) -> Result<identity::Keypair, io::Error> {
    identity::Keypair::ed25519_from_bytes(*settings.seed).map_err(io::Error::other)
}

fn behaviour(
    settings: &Settings,
    keys: &identity::Keypair,
    own: PeerId,
    admission: Admission,
    circuit: relay::client::Behaviour,
) -> Result<Behaviour, io::Error> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(MAX_INCOMING))
        .with_max_established_outgoing(Some(MAX_OUTGOING))
        .with_max_established_per_peer(Some(MAX_PER_PEER));
    let network = &settings.network;
    let identify = identify::Config::new(version(network), keys.public())
        .with_agent_version("meshd".to_owned())
        .with_interval(IDENTIFY)
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let ping = ping::Config::new()
        .with_interval(PING)
        .with_timeout(PING_TIMEOUT);
    let kad = match settings.dht {
        Dht::Off => None,
        Dht::Client | Dht::Server => {
            let mut config = kad::Config::new(protocol(network, "kad"));
            config
                .set_query_timeout(dht::QUERY)
                .disjoint_query_paths(true)
                .set_record_ttl(Some(TTL))
                .set_record_filtering(kad::StoreInserts::FilterBoth)
                .set_replication_interval(None)
                .set_publication_interval(None)
                .set_provider_publication_interval(None)
                .set_max_packet_size(dht::MAX_PACKET)
                .set_kbucket_inserts(kad::BucketInserts::Manual)
                .set_caching(kad::Caching::Disabled)
                .set_periodic_bootstrap_interval(Some(dht::BOOTSTRAP))
                .set_parallelism(NonZeroUsize::new(4).expect("not zero"));
            let mut kad = kad::Behaviour::with_config(own, Records::new(own), config);
            kad.set_mode(Some(match settings.dht {
                Dht::Server => kad::Mode::Server,
                Dht::Client | Dht::Off => kad::Mode::Client,
            }));
            Some(kad)
        }
    };
    let mdns = if settings.mdns {
        let config = mdns::Config {
            ttl: MDNS_TTL,
            query_interval: MDNS_QUERY,
            enable_ipv6: false,
        };
        Some(mdns::tokio::Behaviour::new(config, own)?)
    } else {
        None
    };
    let mut relay = relay::Behaviour::new(own, relay_limits());
    relay.set_status(Some(match settings.dht {
        Dht::Server => relay::Status::Enable,
        Dht::Client | Dht::Off => relay::Status::Disable,
    }));
    let requests = request_response::Config::default()
        .with_request_timeout(REQUEST)
        .with_max_concurrent_streams(MAX_REQUESTS);
    let exchange = |what| {
        let protocol = protocol(network, what);
        request_response::Behaviour::with_codec(
            Bounded::SHORT,
            [(protocol, ProtocolSupport::Full)],
            requests.clone(),
        )
    };
    let probe = (settings.dht == Dht::Server).then(autonat::v2::server::Behaviour::default);
    let join = request_response::Behaviour::with_codec(
        Bounded::JOIN,
        [(JOIN, ProtocolSupport::Full)],
        requests.clone(),
    );
    let protocols = Protocols {
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
        kad: kad.into(),
        mdns: mdns.into(),
        relay,
        circuit,
        reach: autonat::v2::client::Behaviour::default(),
        probe: probe.into(),
        endpoints: exchange("endpoints"),
        introductions: exchange("introduce"),
    };
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        memory: memory_connection_limits::Behaviour::with_max_bytes(MAX_MEMORY),
        fence: Fence::new(admission, protocols),
        join,
    })
}
