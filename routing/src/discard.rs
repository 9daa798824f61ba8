//! What was refused or left out, by reason. Nothing is dropped without one.

use crate::counters::counters;

counters! {
    /// Why a packet, a message or an update of a neighbour came to nothing.
    pub enum Reason {
        /// A packet for a link that there is not.
        UnknownLink => "unknown-link",
        /// A packet that is not to be read at all.
        Unreadable => "unreadable",
        /// A packet to another address.
        NotForUs => "not-for-us",
        /// A packet from another address than the neighbour's.
        Stranger => "stranger",
        /// A Hello of a neighbour that began anew just before.
        Restarts => "restarts",
        /// A message of a neighbour that has not said Hello.
        NoHello => "no-hello",
        /// More Acknowledgment Requests than allowed.
        AckLimit => "ack-limit",
        /// An Acknowledgment Request of a packet that could not be taken in full: it is to come again.
        NotTaken => "not-taken",
        /// More updates than allowed.
        UpdateLimit => "update-limit",
        /// More routes from one neighbour than allowed.
        RouteLimit => "route-limit",
        /// More destinations, or more new ones, than allowed.
        DestinationLimit => "destination-limit",
        /// More origins of one prefix than are remembered.
        SourceLimit => "source-limit",
        /// More requests for routes or records than allowed.
        RequestLimit => "request-limit",
        /// More requests for the whole table than allowed.
        DumpLimit => "dump-limit",
        /// More seqno requests than allowed.
        SeqnoRequestLimit => "seqno-request-limit",
        /// More verifications than allowed, or too many updates wait for one.
        VerificationLimit => "verification-limit",
        /// Our own route, or one to our own prefix.
        Own => "own",
        /// A prefix that this neighbour may not announce, or nobody.
        PrefixRefused => "prefix-refused",
        /// A retraction of a route that is not known.
        UnknownRoute => "unknown-route",
        /// An update that proves nothing, and follows from nothing that was proven; the neighbour was asked for the proof.
        Unproven => "unproven",
        /// A proof of an epoch that is over.
        StaleProof => "stale-proof",
        /// A proof or a record that is wrong.
        WrongProof => "wrong-proof",
        /// An update whose proof or record did not come.
        NoRecord => "no-record",
        /// A record that nobody asked for, or that is of no use.
        UselessRecord => "useless-record",
        /// A worse announcement of the selected route that might be a loop; a newer seqno was asked for.
        Unfeasible => "unfeasible",
        /// A seqno request that has come before.
        Redundant => "redundant",
        /// A seqno request that leads nowhere: there is no route, or no more hops.
        NoWay => "no-way",
        /// A round-trip time that cannot be.
        RoundTrip => "round-trip",
        /// A message of ours that is not understood.
        UnknownMessage => "unknown-message",
        /// An outcome of a verification that nobody waits for.
        StaleOutcome => "stale-outcome",
    }

    /// One counter for each [`Reason`].
    pub struct Discards;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn what_did_not_occur_is_not_shown() {
        let mut discards = Discards::default();
        discards.note(Reason::Stranger);
        discards += discards;
        assert_eq!(format!("{discards:?}"), r#"{"stranger": 2}"#);
    }
}
