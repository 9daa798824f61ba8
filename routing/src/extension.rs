//! Our own messages: the bodies of TLV 224, which speakers of plain Babel ignore (RFC 8966 §5, experimental use).
//!
//! Every body begins with a version and a kind. What is of another version or kind is ignored, and so is what follows the fields
//! known here: later releases may add kinds, and fields at the end of a kind, without a new version. There are no sub-TLVs in it.

use crate::origin::{Record, RecordError};
use crate::types::RouterId;
use crate::wire::Packet;

/// The type of the TLV.
pub const TLV_TYPE: u8 = 224;

/// The version of the messages made here. Messages of another one are not understood at all.
const VERSION: u8 = 1;

const RECORD_REQUEST: u8 = 1;
const RECORD: u8 = 2;
const LINK_TAG: u8 = 3;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Asks a neighbour for an origin's record; it answers with [`Self::Record`], if it has any of that origin.
    RecordRequest {
        /// Whose.
        router_id: RouterId,
        /// Of which epoch, if there is a choice; none: the newest.
        epoch: Option<u32>,
    },
    /// An origin's record, asked for or not. Nobody has verified it yet.
    Record(Record),
    /// Names the link that the packet came by, among those of a session: chosen at random by whoever dialled it, and the same for as
    /// long as the link lasts. So a link of a second uplink differs from one that has moved to another address.
    LinkTag(u32),
}

impl Extension {
    /// Reads the body of a TLV.
    pub fn decode(body: &[u8]) -> Result<Self, ExtensionError> {
        match body {
            [VERSION, RECORD_REQUEST, fields @ ..] => {
                let (router_id, fields) = split(fields)?;
                let (epoch, _) = split(fields)?;
                let epoch = u32::from_be_bytes(epoch);
                Ok(Self::RecordRequest {
                    router_id: RouterId(router_id),
                    epoch: (epoch != 0).then_some(epoch),
                })
            }
            [VERSION, RECORD, record @ ..] => Ok(Self::Record(Record::decode(record)?)),
            [VERSION, LINK_TAG, fields @ ..] => {
                let (tag, _) = split(fields)?;
                Ok(Self::LinkTag(u32::from_be_bytes(tag)))
            }
            [VERSION, kind, ..] => Err(ExtensionError::Kind(*kind)),
            [] | [VERSION] => Err(ExtensionError::Truncated),
            [version, ..] => Err(ExtensionError::Version(*version)),
        }
    }

    /// Writes the body of a TLV, of at most 255 bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::RecordRequest { router_id, epoch } => {
                let mut body = vec![VERSION, RECORD_REQUEST];
                body.extend(router_id.0);
                body.extend(epoch.unwrap_or(0).to_be_bytes());
                body
            }
            Self::Record(record) => {
                let mut body = vec![VERSION, RECORD];
                body.extend(record.encode());
                body
            }
            Self::LinkTag(tag) => {
                let mut body = vec![VERSION, LINK_TAG];
                body.extend(tag.to_be_bytes());
                body
            }
        }
    }
}

/// Why the body of a TLV 224 is no message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// It ends before its fields do.
    #[error("a message that ends too early")]
    Truncated,
    /// Of a later release, perhaps.
    #[error("a message of version {0}")]
    Version(u8),
    /// Of a later release, perhaps.
    #[error("a message of kind {0}")]
    Kind(u8),
    /// A record that cannot be one.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The first link tag in a Babel packet (the payload of the UDP datagram), for whoever has to tell links apart before the packet
/// gets to its router. Looks at nothing but types and lengths of what precedes it.
pub fn link_tag(packet: &[u8]) -> Option<u32> {
    let mut rest = Packet::parse(packet).ok()?.body();
    while let Some((&kind, after)) = rest.split_first() {
        // Pad1, the only TLV without a length.
        if kind == 0 {
            rest = after;
            continue;
        }
        let (&length, after) = after.split_first()?;
        let (body, after) = after.split_at_checked(usize::from(length))?;
        if kind == TLV_TYPE
            && let [VERSION, LINK_TAG, tag @ ..] = body
            && let Some(tag) = tag.first_chunk()
        {
            return Some(u32::from_be_bytes(*tag));
        }
        rest = after;
    }
    None
}

/// The first `N` bytes and the rest.
fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), ExtensionError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(ExtensionError::Truncated)?;
    Ok((*first, rest))
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv6Network;
    use proptest::prelude::*;

    use super::*;
    use crate::origin::{Own, Owner};

    fn record() -> Record {
        let owner = Owner {
            router_id: RouterId([1; 8]),
            prefix: "600::/64".parse::<Ipv6Network>().unwrap(),
        };
        Own::new(&[1; 32], owner, None).record().clone()
    }

    fn message() -> impl Strategy<Value = Extension> {
        prop_oneof![
            (any::<[u8; 8]>(), any::<u32>()).prop_map(|(id, epoch)| Extension::RecordRequest {
                router_id: RouterId(id),
                epoch: (epoch != 0).then_some(epoch),
            }),
            any::<u32>().prop_map(Extension::LinkTag),
            Just(Extension::Record(record())),
        ]
    }

    /// A packet of these TLVs, each a type and a body.
    fn packet(tlvs: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in tlvs {
            body.push(*kind);
            if *kind != 0 {
                body.push(value.len() as u8);
                body.extend(value);
            }
        }
        let mut packet = vec![42, 2];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend(body);
        packet
    }

    fn tag(tag: u32) -> (u8, Vec<u8>) {
        (TLV_TYPE, Extension::LinkTag(tag).encode())
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written_and_fits_a_tlv(message in message()) {
            let body = message.encode();
            prop_assert!(body.len() <= 255);
            prop_assert_eq!(Extension::decode(&body), Ok(message));
        }

        #[test]
        fn fields_of_later_releases_are_ignored(
            message in message(),
            more in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            prop_assume!(!matches!(message, Extension::Record(_)));
            let body = [message.encode(), more].concat();
            prop_assert_eq!(Extension::decode(&body), Ok(message));
        }

        #[test]
        fn a_message_that_is_cut_short_is_an_error(message in message(), cut in 1_usize..20) {
            let body = message.encode();
            let len = body.len().saturating_sub(cut);
            // A record cut short may still be one, with a wrong signature.
            prop_assume!(len < 120);
            prop_assert!(Extension::decode(&body[..len]).is_err());
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
            for head in [&[][..], &[1, 1], &[1, 2], &[1, 2, 1, 3], &[1, 3]] {
                let body = [head, &body].concat();
                if let Ok(Extension::Record(record)) = Extension::decode(&body) {
                    prop_assert_eq!(record.encode(), &body[2..]);
                }
            }
        }

        #[test]
        fn the_first_tag_of_a_packet_is_found_whatever_surrounds_it(
            before in prop::collection::vec((0_u8..224, prop::collection::vec(any::<u8>(), 0..255)), 0..6),
            after in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..255)), 0..6),
            value: u32,
        ) {
            let mut tlvs = before;
            prop_assert_eq!(link_tag(&packet(&tlvs)), None);
            tlvs.push(tag(value));
            tlvs.extend(after);
            prop_assert_eq!(link_tag(&packet(&tlvs)), Some(value));
        }

        #[test]
        fn any_bytes_have_a_tag_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            length: u16,
        ) {
            let _ = link_tag(&bytes);
            let _ = link_tag(&[&[42, 2][..], &length.to_be_bytes(), &bytes].concat());
        }
    }

    #[test]
    fn messages_of_other_versions_and_kinds_are_ignored() {
        use ExtensionError::{Kind, Truncated, Version};
        let errors = [
            (&[][..], Truncated),
            (&[1], Truncated),
            (&[2], Version(2)),
            (&[2, 3, 0, 0, 0, 1], Version(2)),
            (&[0, 3, 0, 0, 0, 1], Version(0)),
            (&[1, 0], Kind(0)),
            (&[1, 4, 0, 0, 0, 1], Kind(4)),
            (&[1, 3, 0, 0, 0], Truncated),
            (&[1, 2], ExtensionError::Record(RecordError::Length)),
            (&[1, 2, 9], ExtensionError::Record(RecordError::Version(9))),
        ];
        for (body, error) in errors {
            assert_eq!(Extension::decode(body), Err(error), "{body:?}");
        }
    }

    #[test]
    fn other_messages_and_broken_packets_hide_no_tag_and_give_none() {
        let request = Extension::RecordRequest {
            router_id: RouterId([3; 8]),
            epoch: None,
        };
        let later = (TLV_TYPE, vec![2, 3, 0, 0, 0, 9]);
        let short = (TLV_TYPE, vec![1, 3, 0, 0]);
        let tlvs = [
            (0, Vec::new()),
            (TLV_TYPE, request.encode()),
            (TLV_TYPE, Extension::Record(record()).encode()),
            later,
            short,
            tag(7),
            tag(8),
        ];
        let whole = packet(&tlvs);
        assert_eq!(link_tag(&whole), Some(7));
        // What follows the packet's own length is not part of it.
        assert_eq!(link_tag(&[&whole[..], &[0; 9]].concat()), Some(7));
        let trailer = [packet(&[]), packet(&[tag(1)])[4..].to_vec()].concat();
        assert_eq!(link_tag(&trailer), None);

        for (place, value) in [(0, 41), (1, 3), (2, 0xff)] {
            let mut broken = whole.clone();
            broken[place] = value;
            assert_eq!(link_tag(&broken), None);
        }
        for len in 0..4 {
            assert_eq!(link_tag(&whole[..len]), None);
        }
        let overrun = packet(&[(6, vec![0; 3])]);
        let mut overrun = [overrun, packet(&[tag(1)])[4..].to_vec()].concat();
        overrun[3] = 13;
        assert_eq!(link_tag(&overrun), Some(1));
        overrun[5] = 200;
        assert_eq!(link_tag(&overrun), None);
    }

    #[test]
    fn a_packet_of_nothing_but_padding_ends() {
        assert_eq!(
            link_tag(&[&[42, 2, 0xff, 0xff][..], &[0; 65_535]].concat()),
            None
        );
    }
}
