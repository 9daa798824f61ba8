//! TLVs that were read and gave nothing: every one has a reason, every reason a counter.

use crate::counters::counters;

counters! {
    /// Why a TLV was skipped. What it says about the parser's state was noted all the same (RFC 8966 §4.5).
    pub enum Skip {
        /// It says that it is longer than the packet; nothing behind it can be read either.
        Overrun => "overrun",
        /// Too short for its type, or its fields contradict each other or the RFC.
        Malformed => "malformed",
        /// A type nobody here knows (§4.3).
        UnknownType => "unknown-type",
        /// A sub-TLV nobody here knows, which says that the whole TLV must not be used then (§4.4).
        UnknownMandatory => "unknown-mandatory",
        /// An address encoding nobody here knows, or one that this type may not have.
        Encoding => "encoding",
        /// About IPv4.
        Ipv4 => "ipv4",
        /// About packets from one source prefix only (RFC 9079); the FIB has no such routes.
        SourceSpecific => "source-specific",
        /// A destination that no route may have (Appendix C).
        Martian => "martian",
        /// An interval of 0 where there has to be one.
        ZeroInterval => "zero-interval",
        /// A seqno request that may not travel.
        ZeroHopCount => "zero-hop-count",
        /// A router-id of all zeros or all ones (§4.1.3).
        ReservedRouterId => "reserved-router-id",
        /// An Update that leaves bytes of its prefix to an earlier one that there is not.
        NoPrefix => "no-prefix",
        /// An Update that leaves its router-id to an earlier TLV that there is not.
        NoRouterId => "no-router-id",
        /// An Update after a Next Hop TLV that names no usable address.
        NoNextHop => "no-next-hop",
    }

    /// One counter for each [`Skip`].
    pub struct Skipped;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_reason_and_hides_what_did_not_occur() {
        let mut one = Skipped::default();
        one.note(Skip::Overrun);
        one.note(Skip::NoNextHop);
        let mut sum = one;
        sum += one;
        assert_eq!(sum.count(Skip::Overrun), 2);
        assert_eq!(sum.total(), 4);
        assert_eq!(format!("{sum:?}"), r#"{"overrun": 2, "no-next-hop": 2}"#);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> =
            Skip::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Skip::ALL.len());
    }
}
