//! Discarded packets: every one has a reason, every reason a counter that `meshd status` shows.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Why a packet was discarded.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name that `status --json` uses.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// From inside: not an IPv6 packet.
    NotIpv6 => "not-ipv6",
    /// Headers that contradict each other or the packet's length, or too many of them.
    Malformed => "malformed",
    /// From inside: the source address does not belong to the interface that it came from.
    InsideSource => "inside-source",
    /// From inside or from a leaf: a destination outside the overlay block, link-local or multicast.
    NotOverlay => "not-overlay",
    /// What belongs to a link and not to the overlay, from or for a workload or a peer: router and neighbour discovery, multicast, and
    /// whatever has a link-local source or none.
    LinkScope => "link-scope",
    /// No node with this /64 is known, or nobody holds this address inside our own /64.
    NoRoute => "no-route",
    /// The peer is known, but no session with it could be opened in time.
    Unreachable => "unreachable",
    /// Too many packets wait for a session.
    HeldFull => "held-full",
    /// From inside: longer than the way to its destination carries; its sender is told.
    TooBig => "too-big",
    /// From inside: more than the queue holds; the flow that had most in it lost these.
    QueueFull => "queue-full",
    /// A queue stood, and this flow's sender does not understand marks (ECN): one packet was lost for it to slow down.
    Congested => "congested",
    /// The session is there, but no neighbour leads to the other node.
    NoPath => "no-path",
    /// Forwarded packet whose hop limit ran out.
    HopLimit => "hop-limit",
    /// In transit: this node does not forward for whom it came from.
    RelayRefused => "relay-refused",
    /// In transit: no neighbour leads to the node it is for, other than the one it came from.
    RelayNoRoute => "relay-no-route",
    /// In transit: longer than the next link carries; its sender is told.
    RelayTooBig => "relay-too-big",
    /// In transit: more than `[node] relay_mbit` lets through.
    RelayLimit => "relay-limit",
    /// From outside: a relayed datagram inside another.
    NestedTwice => "nested-twice",
    /// From outside: a relayed datagram through a link of the very session that it belongs to, or from another node than that
    /// session's.
    NestedPath => "nested-path",
    /// From outside: fragments of a relayed datagram that contradict each other, or whose rest did not come.
    Fragment => "fragment",
    /// From outside: an error about a relayed datagram that this node did not send.
    RelayErrorForeign => "relay-error-foreign",
    /// From outside: an authenticated packet whose source the sender's key does not own.
    OutsideSource => "outside-source",
    /// From outside: an authenticated packet for an address that is neither this node's nor one of its leaves'.
    OutsideDestination => "outside-destination",
    /// From outside: what the sender may not begin here (`[inbound]`); a member is told.
    InboundDenied => "inbound-denied",
    /// From outside: a fragment of a packet whose first fragment was not let in before it.
    InboundFragment => "inbound-fragment",
    /// From outside: headers that hide what the filter has to know.
    InboundHeaders => "inbound-headers",
    /// From outside: not a WireGuard message.
    NotWireguard => "not-wireguard",
    /// From outside: a handshake message whose first MAC does not name our key.
    BadMac1 => "bad-mac1",
    /// From outside: a handshake message that was answered by a cookie, since its sender has to prove its address first.
    AddressUnproven => "address-unproven",
    /// From outside: more handshake messages of one proven address (IPv4, or IPv6 /64) than it may send.
    SourceLimit => "source-limit",
    /// From outside: data, or an answer to a handshake, with a receiver index that no session has.
    UnknownReceiver => "unknown-receiver",
    /// From outside: a datagram under a label that nobody was given.
    UnknownLabel => "unknown-label",
    /// From outside: one that comes from another place than the label was given to.
    LabelForeign => "label-foreign",
    /// From outside: a probe under a token that nobody was given, or that is too old.
    UnknownToken => "unknown-token",
    /// From outside: a probe that a path agent does not understand, or did not ask for.
    ProbeRefused => "probe-refused",
    /// From outside: more probes than the node loop takes.
    ProbeQueueFull => "probe-queue-full",
    /// From outside: a probe that came through another node, and so proves nothing.
    ProbeRelayed => "probe-relayed",
    /// A message of a path agent that is not understood, or one too many.
    OfferRefused => "offer-refused",
    /// An offer of a path agent for a node that there is no session with, and nobody to carry it.
    NotIntroduced => "not-introduced",
    /// From outside: data that does not authenticate.
    NotAuthentic => "not-authentic",
    /// From outside: a counter seen before, too old for the replay window, or out of bounds.
    Replayed => "replayed",
    /// From outside: data for a keypair that is too old.
    Expired => "expired",
    /// From outside: authentic, but no IP packet inside.
    OutsideNotIp => "outside-not-ip",
    /// From outside: a handshake message that its session refused.
    HandshakeRefused => "handshake-refused",
    /// From outside: a handshake of a key that may not open a session.
    Stranger => "stranger",
    /// From outside: more handshakes than the handshake thread, or more strangers than the node loop, can take.
    HandshakeQueueFull => "handshake-queue-full",
    /// A session without a known endpoint, or no socket of the endpoint's family.
    NoEndpoint => "no-endpoint",
    /// A TCP stream took no more at once; what is sent there is not queued.
    StreamFull => "stream-full",
    /// For a TCP stream that is gone.
    StreamGone => "stream-gone",
    /// Longer than a frame of a TCP stream can be.
    StreamTooLong => "stream-too-long",
    /// From outside: a TCP connection that did not begin with a handshake to this node in time, or whose place another took; connections
    /// are counted, not packets.
    StreamStranger => "stream-stranger",
    /// The kernel did not take the datagram: buffers full, or no route on the underlay.
    SendFailed => "send-failed",
    /// The kernel did not take the packet on the TUN device.
    TunWrite => "tun-write",
    /// From outside: more packets of one peer for the node itself than the node loop takes.
    PeerTalksTooMuch => "peer-talks-too-much",
    /// From outside: routing of a peer that may open no more links, or that came by an unknown way and does not name its link.
    LinkRefused => "link-refused",
    /// On the LAN: a beacon that cannot be read, or that nobody at its source has signed.
    BeaconBad => "beacon-bad",
    /// On the LAN: more beacons than are verified.
    BeaconTooMany => "beacon-too-many",
    /// Found: a node that may not open a session.
    FoundStranger => "found-stranger",
    /// Found: a node without an address that it could be called at.
    FoundNowhere => "found-nowhere",
    /// Found: more nodes than are kept in mind.
    FoundTooMany => "found-too-many",
    /// From outside: routing that cannot be read.
    BadRouting => "bad-routing",
    /// From outside: a probe that came another way than it was sent.
    SignalAstray => "signal-astray",
    /// From outside: a signal that this version does not understand.
    SignalUnknown => "signal-unknown",
    /// From outside: what only members may say, or a question of one whom nobody lets in.
    NoMember => "no-member",
    /// A proof or record that nobody had time to verify.
    ProofQueueFull => "proof-queue-full",
    /// To the name server's address, but no question to it; its sender is told.
    ResolverPort => "resolver-port",
    /// To the name server: what cannot be answered.
    QueryRefused => "query-refused",
    /// To the name server: more questions than it answers.
    QueryQueueFull => "query-queue-full",
    /// The node loop was too busy for a message of a packet thread.
    LoopBusy => "loop-busy",
}

/// One counter for each [`Reason`], shared by all threads.
pub struct Discards([AtomicU64; Reason::ALL.len()]);

impl Default for Discards {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Discards {
    /// Counts `packets` discarded for one reason.
    pub fn discard(&self, reason: Reason, packets: u64) {
        // Packet threads report batches in which mostly nothing was discarded.
        if packets > 0 {
            self.0[reason as usize].fetch_add(packets, Relaxed);
        }
    }

    /// How many packets were discarded for this reason so far.
    pub fn count(&self, reason: Reason) -> u64 {
        self.0[reason as usize].load(Relaxed)
    }

    /// All reasons that occurred, by name.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        Reason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), self.count(reason)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }
}

impl fmt::Debug for Discards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.by_name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_name_and_hides_what_did_not_occur() {
        let discards = Discards::default();
        discards.discard(Reason::HopLimit, 2);
        discards.discard(Reason::LoopBusy, 1);
        discards.discard(Reason::HopLimit, 1);
        let expected = BTreeMap::from([("hop-limit".to_owned(), 3), ("loop-busy".to_owned(), 1)]);
        assert_eq!(discards.by_name(), expected);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
