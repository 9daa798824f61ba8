//! Explicit congestion notification (RFC 3168): the two bits of an IP header with which routers say that a queue stands, and what becomes of
//! them where a tunnel begins and ends (RFC 6040).
//!
//! At its beginning they are copied to the outer header, CE too ("normal mode"), and nothing else of the traffic class is. At its end what
//! routers have said on the way goes into the packet that was in the tunnel.

/// The ECN field of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ecn {
    /// The sender does not understand marks.
    #[default]
    NotEct = 0b00,
    /// It does, and wants them early and often (RFC 9331).
    Ect1 = 0b01,
    /// It does.
    Ect0 = 0b10,
    /// Congestion experienced: a queue stood on the way.
    Ce = 0b11,
}

impl Ecn {
    /// The field in a traffic class, or the type of service of IPv4.
    pub const fn in_class(class: u8) -> Self {
        match class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// A traffic class with this field and nothing else.
    pub const fn class(self) -> u8 {
        self as u8
    }

    /// The field of an IPv6 packet; Not-ECT if it is none.
    pub fn of(packet: &[u8]) -> Self {
        match packet {
            [version, low, ..] if *version >> 4 == 6 => Self::in_class(*low >> 4),
            _ => Self::NotEct,
        }
    }

    /// Writes the field of an IPv6 packet, which no checksum covers.
    pub fn write(self, packet: &mut [u8]) {
        if let [version, low, ..] = packet
            && *version >> 4 == 6
        {
            *low = (*low & !0x30) | (self.class() << 4);
        }
    }

    /// Whether routers may mark what has it instead of losing it.
    pub const fn is_capable(self) -> bool {
        !matches!(self, Self::NotEct)
    }

    /// Joins the field of an outer header, this, with that of the packet that was in it, if that is IPv6.
    pub fn decapsulate(self, packet: &mut [u8]) {
        // Most come as they went.
        if matches!(self, Self::Ce | Self::Ect1)
            && packet.first().is_some_and(|first| first >> 4 == 6)
        {
            joined(self, Self::of(packet)).write(packet);
        }
    }
}

/// What a packet leaves a tunnel with (RFC 6040 §4.2, figure 4), but that one which must not be marked, and was, is not lost. Some networks
/// mark everything: that way would carry no packet, and no routing, of whoever does not ask for marks. WireGuard in the kernel lets it
/// pass as well.
const fn joined(outer: Ecn, inner: Ecn) -> Ecn {
    match (inner, outer) {
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Ecn::Ce,
        (Ecn::Ect0, Ecn::Ect1) => Ecn::Ect1,
        (inner, _) => inner,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::ipv6;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    fn packet(ecn: Ecn) -> Vec<u8> {
        let mut packet = ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 59, &[1, 2, 3]);
        ecn.write(&mut packet);
        packet
    }

    /// The table of RFC 6040 §4.2, as it stands there but for its one loss: a row for what arrives inside, a column for what arrives outside.
    #[test]
    fn packets_leave_a_tunnel_as_the_table_says() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        #[rustfmt::skip]
        let table = [
            (NotEct, [NotEct, NotEct, NotEct, NotEct]),
            (Ect0,   [Ect0,   Ect0,   Ect1,   Ce]),
            (Ect1,   [Ect1,   Ect1,   Ect1,   Ce]),
            (Ce,     [Ce,     Ce,     Ce,     Ce]),
        ];
        for (inner, row) in table {
            for (outer, expected) in ALL.into_iter().zip(row) {
                let mut arrived = packet(inner);
                outer.decapsulate(&mut arrived);
                // Nothing else has changed.
                assert_eq!(
                    arrived,
                    packet(expected),
                    "{inner:?} inside, {outer:?} outside"
                );
            }
        }
    }

    #[test]
    fn the_field_is_the_low_end_of_a_traffic_class() {
        for class in 0..=u8::MAX {
            let field = Ecn::in_class(class);
            assert_eq!(field.class(), class & 0b11);
            let bytes = [0x60 | class >> 4, class << 4, 0, 0];
            assert_eq!(Ecn::of(&bytes), field);
        }
        assert_eq!(Ecn::of(&[0x45, 0xff]), Ecn::NotEct);
        assert_eq!(Ecn::of(&[0x60]), Ecn::NotEct);
    }

    proptest! {
        #[test]
        fn only_the_field_of_an_ipv6_packet_ever_changes(bytes in proptest::collection::vec(any::<u8>(), 0..8), ecn in 0usize..4) {
            let mut changed = bytes.clone();
            ALL[ecn].decapsulate(&mut changed);
            prop_assert_eq!(changed.len(), bytes.len());
            for (at, (before, after)) in bytes.iter().zip(&changed).enumerate() {
                let may_change = if at == 1 && bytes[0] >> 4 == 6 { 0x30 } else { 0 };
                prop_assert_eq!((before ^ after) & !may_change, 0);
            }
        }
    }
}
