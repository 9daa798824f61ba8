//! What stands behind the fixed part of a TLV (RFC 8966 §4.4 and §4.7).

use super::skipped::Skip;

/// One byte of padding, without a length.
pub(super) const PAD_1: u8 = 0;
/// Any padding.
pub(super) const PAD_N: u8 = 1;
/// Times, in a Hello or an IHU (RFC 9616).
pub(super) const TIMESTAMP: u8 = 3;
/// Ours, experimental: what proves the origin's seqno.
pub(super) const PROOF: u8 = 112;
/// Mandatory: the source prefix of an update or a request (RFC 9079).
pub(super) const SOURCE_PREFIX: u8 = 128;

/// From here on types are mandatory: who does not know one must not use the TLV.
const MANDATORY: u8 = 0x80;

/// The sub-TLVs of one TLV, without padding. An error is the last item.
pub(super) struct SubTlvs<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for SubTlvs<'a> {
    /// Type and body.
    type Item = Result<(u8, &'a [u8]), Skip>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, rest) = self.0.split_first()?;
            if kind == PAD_1 {
                self.0 = rest;
                continue;
            }
            let Some((body, rest)) = rest
                .split_first()
                .and_then(|(&length, rest)| rest.split_at_checked(length.into()))
            else {
                self.0 = &[];
                return Some(Err(Skip::Malformed));
            };
            self.0 = rest;
            if kind != PAD_N {
                return Some(Ok((kind, body)));
            }
        }
    }
}

/// What to do about a sub-TLV nobody knows: nothing, or not to use the TLV.
pub(super) const fn unknown(kind: u8) -> Result<(), Skip> {
    //= RFC 8966 §4.4 optional
    //= RFC 8966 §4.4 mandatory
    if kind & MANDATORY == 0 {
        Ok(())
    } else {
        Err(Skip::UnknownMandatory)
    }
}

/// Reads the sub-TLVs of a TLV that has none we know.
pub(super) fn none_known(bytes: &[u8]) -> Result<(), Skip> {
    SubTlvs(bytes).try_for_each(|sub_tlv| unknown(sub_tlv?.0))
}
