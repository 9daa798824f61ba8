//! Addresses and prefixes on the wire (RFC 8966 §4.1.4 and §4.1.5; RFC 9229).

use std::net::Ipv6Addr;

use ipnetwork::Ipv6Network;

use super::skipped::Skip;
use crate::types::RouterId;

/// How an address is written (AE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Nothing is written: all, or whoever it concerns.
    Wildcard,
    /// Four bytes.
    Ipv4,
    /// Sixteen bytes.
    Ipv6,
    /// The last eight bytes of an address in fe80::/64.
    LinkLocal,
    /// A prefix of IPv4 that is reached through IPv6 (RFC 9229).
    Ipv4ViaIpv6,
}

impl Encoding {
    /// The encoding with this number.
    pub(super) const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Wildcard),
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            3 => Some(Self::LinkLocal),
            4 => Some(Self::Ipv4ViaIpv6),
            _ => None,
        }
    }

    /// Its number.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Wildcard => 0,
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
            Self::LinkLocal => 3,
            Self::Ipv4ViaIpv6 => 4,
        }
    }
}

/// A prefix as read: the bits behind `length` are 0. That of a wildcard is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) encoding: Encoding,
    pub(super) bytes: [u8; 16],
    pub(super) length: u8,
}

impl Prefix {
    /// That of a network; none is a wildcard.
    pub(super) fn of(network: Option<Ipv6Network>) -> Self {
        match network {
            None => Self {
                encoding: Encoding::Wildcard,
                bytes: [0; 16],
                length: 0,
            },
            Some(network) => Self {
                encoding: Encoding::Ipv6,
                bytes: network.network().octets(),
                length: network.prefix(),
            },
        }
    }

    /// How many bytes a reader who knows this default prefix can do without.
    pub(super) fn omissible(&self, default: Option<[u8; 16]>) -> u8 {
        let Some(default) = default else { return 0 };
        let common = (self.bytes.iter().zip(default))
            .take(self.length.div_ceil(8).into())
            .take_while(|&(ours, theirs)| *ours == theirs)
            .count();
        common as u8
    }

    /// What is written when the first `omitted` bytes are not.
    pub(super) fn written(&self, omitted: u8) -> &[u8] {
        &self.bytes[omitted.into()..self.length.div_ceil(8).into()]
    }

    /// Reads `length` bits, of which the first `omitted` bytes are those of `default`. Also gives what follows.
    pub(super) fn read(
        encoding: Encoding,
        length: u8,
        omitted: u8,
        default: Option<[u8; 16]>,
        bytes: &[u8],
    ) -> Result<(Self, &[u8]), Skip> {
        let most = match encoding {
            //= RFC 8966 §4.6.9 wildcard
            //= RFC 8966 §4.6.10 wildcard
            Encoding::Wildcard => 0,
            Encoding::Ipv4 | Encoding::Ipv4ViaIpv6 => 4,
            Encoding::Ipv6 => 16,
            // Speakers disagree on how it is written (does `length` count the 64 bits of fe80::/64?), and no route goes there.
            Encoding::LinkLocal if omitted == 0 => return Err(Skip::Martian),
            Encoding::LinkLocal => return Err(Skip::Malformed),
        };
        let (whole, omitted) = (usize::from(length.div_ceil(8)), usize::from(omitted));
        if whole > most || omitted > whole {
            return Err(Skip::Malformed);
        }
        let (written, rest) = bytes
            .split_at_checked(whole - omitted)
            .ok_or(Skip::Malformed)?;
        let mut prefix = [0; 16];
        if omitted > 0 {
            //= RFC 8966 §4.6.9 omitted
            prefix[..omitted].copy_from_slice(&default.ok_or(Skip::NoPrefix)?[..omitted]);
        }
        prefix[omitted..whole].copy_from_slice(written);
        if !length.is_multiple_of(8) {
            prefix[whole - 1] &= !(0xff >> (length % 8));
        }
        let prefix = Self {
            encoding,
            bytes: prefix,
            length,
        };
        Ok((prefix, rest))
    }

    /// The router-id that the R flag takes from the prefix: the last eight bytes of its first address, behind zeros if it has fewer.
    pub(super) fn router_id(&self) -> RouterId {
        let [a, b, c, d, .., s, t, u, v, w, x, y, z] = self.bytes;
        RouterId(match self.encoding {
            Encoding::Ipv4 | Encoding::Ipv4ViaIpv6 => [0, 0, 0, 0, a, b, c, d],
            Encoding::Wildcard | Encoding::Ipv6 | Encoding::LinkLocal => [s, t, u, v, w, x, y, z],
        })
    }

    /// As a network of IPv6; a wildcard is `None`.
    pub(super) fn ipv6(&self) -> Result<Option<Ipv6Network>, Skip> {
        match self.encoding {
            Encoding::Wildcard => Ok(None),
            Encoding::Ipv6 => Ipv6Network::new(self.bytes.into(), self.length)
                .map(Some)
                .map_err(|_| Skip::Malformed),
            Encoding::LinkLocal => Err(Skip::Martian),
            Encoding::Ipv4 | Encoding::Ipv4ViaIpv6 => Err(Skip::Ipv4),
        }
    }
}

/// Whether no route to this IPv6 prefix may be learnt (Appendix C): link-local, multicast, loopback, unspecified, or IPv4 in disguise.
pub(super) fn is_martian(network: Ipv6Network) -> bool {
    let inside = |block: u128, bits: u8| {
        network.prefix() >= bits
            && (u128::from(network.ip()) ^ block) >> (128 - u32::from(bits)) == 0
    };
    inside(0xfe80 << 112, 10)
        || inside(0xff << 120, 8)
        || inside(0xffff << 32, 96)
        || inside(0, 128)
        || inside(1, 128)
}

/// An address in fe80::/64 by its last eight bytes.
pub(super) fn link_local(last: [u8; 8]) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80 << 112) | u128::from(u64::from_be_bytes(last)))
}

/// The shortest way to write an address.
pub(super) fn shortest(octets: &[u8; 16]) -> (Encoding, &[u8]) {
    match octets {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, last @ ..] => (Encoding::LinkLocal, last),
        _ => (Encoding::Ipv6, octets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behind_the_length_are_cleared() {
        let (prefix, rest) = Prefix::read(Encoding::Ipv6, 13, 0, None, &[6, 0xff, 9]).unwrap();
        assert_eq!(prefix.bytes[..3], [6, 0xf8, 0]);
        assert_eq!(rest, [9]);
        let (all, _) = Prefix::read(Encoding::Ipv6, 0, 0, None, &[]).unwrap();
        assert_eq!(all.bytes, [0; 16]);
    }

    #[test]
    fn bits_of_omitted_bytes_are_cleared_too() {
        let (prefix, rest) = Prefix::read(Encoding::Ipv4, 12, 2, Some([255; 16]), &[]).unwrap();
        assert_eq!(prefix.bytes[..3], [255, 0xf0, 0]);
        assert!(rest.is_empty());
    }

    #[test]
    fn martians_are_what_lies_inside_their_blocks_and_not_what_covers_them() {
        for (prefix, expected) in [
            ("fe80::/64", true),
            ("fe80::/10", true),
            ("febf::1/128", true),
            ("fe80::/9", false),
            ("fec0::/10", false),
            ("ff02::/16", true),
            ("ff00::/7", false),
            ("::1/128", true),
            ("::/128", true),
            ("::/0", false),
            ("::/127", false),
            ("::2/128", false),
            ("::ffff:192.0.2.0/120", true),
            ("64:ff9b::/96", false),
            ("600::/8", false),
        ] {
            assert_eq!(is_martian(prefix.parse().unwrap()), expected, "{prefix}");
        }
    }

    #[test]
    fn only_fe80_64_has_a_short_form() {
        let address: Ipv6Addr = "fe80::1:2".parse().unwrap();
        let octets = address.octets();
        let (encoding, written) = shortest(&octets);
        assert_eq!(encoding, Encoding::LinkLocal);
        assert_eq!(link_local(*written.first_chunk().unwrap()), address);
        for long in ["fe80:0:0:1::1", "600::1"] {
            let octets = long.parse::<Ipv6Addr>().unwrap().octets();
            assert_eq!(shortest(&octets), (Encoding::Ipv6, &octets[..]));
        }
    }
}
