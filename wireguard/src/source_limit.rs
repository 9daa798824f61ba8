//! How many handshake messages a source may send, in memory that no number of sources can grow.

use std::net::IpAddr;

use blake2::Blake2sMac;
use blake2::digest::consts::U8;
use blake2::digest::{FixedOutput, KeyInit, Mac as _};

use crate::constants::{SOURCE_BURST, SOURCE_INTERVAL};

/// Sources share this many buckets: two that are chosen without the secret share one once in 65,536.
const BUCKETS: usize = 1 << 16;

const _: () = assert!(
    BUCKETS * size_of::<u64>() <= 1 << 20,
    "there are two of these tables"
);

const INTERVAL: u64 = SOURCE_INTERVAL.as_millis() as u64;

/// A token bucket for each IPv4 address and each IPv6 /64, found by a keyed hash: nothing is stored about a source but the fill of
/// its bucket, nothing is looked for, nothing has to be cleaned up, and a full table does not exist.
pub(crate) struct SourceLimit {
    hash: Blake2sMac<U8>,
    /// When each bucket would be full again, in milliseconds (the generic cell rate algorithm, ITU-T I.371).
    full: Box<[u64]>,
}

impl SourceLimit {
    /// No source has sent anything yet. `secret` keeps others from knowing who shares a bucket.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self {
            hash: KeyInit::new_from_slice(secret).expect("a BLAKE2s key has at most 32 bytes"),
            full: vec![0; BUCKETS].into_boxed_slice(),
        }
    }

    /// Whether `source` may send one more at `now`, in milliseconds; takes it out of its bucket then.
    pub(crate) fn allows(&mut self, source: IpAddr, now: u64) -> bool {
        let hash = match source.to_canonical() {
            IpAddr::V4(v4) => self.hash.clone().chain_update(v4.octets()),
            IpAddr::V6(v6) => self.hash.clone().chain_update(&v6.octets()[..8]),
        };
        let place = u64::from_le_bytes(hash.finalize_fixed().into()) as usize % BUCKETS;
        let full = self.full[place].max(now);
        let is_allowed = full - now <= INTERVAL * u64::from(SOURCE_BURST - 1);
        if is_allowed {
            self.full[place] = full + INTERVAL;
        }
        is_allowed
    }
}

impl std::fmt::Debug for SourceLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceLimit(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    fn limit() -> SourceLimit {
        SourceLimit::new(&[7; 32])
    }

    fn source(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn five_at_once_then_one_in_50_ms() {
        let (mut limit, from) = (limit(), source("192.0.2.1"));
        let mut allowed = |now| (0..10).filter(|_| limit.allows(from, now)).count();
        assert_eq!(allowed(0), 5);
        assert_eq!(allowed(49), 0);
        assert_eq!(allowed(50), 1);
        assert_eq!(allowed(200), 3);
        assert_eq!(allowed(10_000), 5);
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let mut limit = limit();
        let mut allowed =
            |address: &str| (0..10).filter(|_| limit.allows(source(address), 0)).count();
        assert_eq!(allowed("2001:db8::1"), 5);
        assert_eq!(allowed("2001:db8::ffff:0:0:2"), 0);
        assert_eq!(allowed("2001:db8:0:1::1"), 5);
        assert_eq!(allowed("192.0.2.1"), 5);
        assert_eq!(
            allowed("::ffff:192.0.2.1"),
            0,
            "it is the same IPv4 address"
        );
        assert_eq!(allowed("192.0.2.2"), 5);
    }

    #[test]
    fn a_flood_from_65000_sources_leaves_room_for_one_more() {
        let mut limit = limit();
        for now in 0..3_000_u64 {
            for n in 0..20 {
                let n = (now * 20 + n) % 65_000;
                let address = Ipv6Addr::from((0x2001_0db8_u128 << 96) | (u128::from(n) << 64));
                limit.allows(address.into(), now);
            }
        }
        assert!(limit.allows(source("192.0.2.1"), 3_000));
    }

    proptest! {
        #[test]
        fn no_source_gets_more_than_its_rate(
            steps in proptest::collection::vec(0_u64..200, 1..200),
        ) {
            let (mut limit, from) = (limit(), source("2001:db8::1"));
            let (mut now, mut allowed) = (0, 0);
            for step in steps {
                now += step;
                allowed += u64::from(limit.allows(from, now));
                prop_assert!(allowed <= 5 + now / 50);
            }
        }

        #[test]
        fn time_that_goes_back_opens_nothing(early in 0_u64..10_000) {
            let (mut limit, from) = (limit(), source("192.0.2.1"));
            let at_once = (0..10).filter(|_| limit.allows(from, 10_000)).count();
            prop_assert_eq!(at_once, 5);
            prop_assert!(!limit.allows(from, early));
        }
    }
}
