//! Origin records and proofs (docs/protocol.md, Origin proof), made without meshd's code: so that a speaker can be a member that
//! announces itself, and others can be made to look as if they had.

use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use crate::babel::{self, Proof, Update};
use crate::identity::Identity;

/// Seqnos in an epoch.
const SEQNOS: u16 = 8;
/// Metric of one level.
const QUANTUM: u16 = 96;
/// Levels of a chain.
const LEVELS: u16 = 683;
/// Version and kind of a message that holds a record.
const RECORD: [u8; 2] = [1, 2];

/// What the holder of an identity can say about itself in one epoch.
#[derive(Clone, Debug)]
pub struct Origin {
    identity: Identity,
    key: SigningKey,
    epoch: u32,
}

impl Origin {
    /// In that epoch, from 1.
    pub fn new(identity: &Identity, epoch: u32) -> Self {
        Self {
            key: identity.signing_key(),
            identity: identity.clone(),
            epoch,
        }
    }

    /// The first seqno of the epoch.
    pub const fn base(&self) -> u16 {
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^16")]
        let base = (self.epoch * SEQNOS as u32) as u16;
        base
    }

    /// The body of a message with the record, as meshd would write it.
    pub fn record(&self) -> Vec<u8> {
        self.record_with(&[])
    }

    /// The same with further fields: another record of the same epoch.
    pub fn record_with(&self, fields: &[u8]) -> Vec<u8> {
        let mut record = vec![1, 8, 0, 0];
        record.extend(self.identity.router_id());
        record.extend(self.key.verifying_key().as_bytes());
        record.extend(self.epoch.to_be_bytes());
        record.extend(self.base().to_be_bytes());
        record.extend(QUANTUM.to_be_bytes());
        record.extend(LEVELS.to_be_bytes());
        for step in 0..SEQNOS {
            let end = self.element(self.base().wrapping_add(step), LEVELS);
            record.extend(&end[..16]);
        }
        record.extend(fields);
        let signed = [b"meshd origin record v1\x04open", &record[..]].concat();
        record.extend(self.key.sign(&signed).to_bytes());
        [&RECORD[..], &record].concat()
    }

    /// An update of the node's /64 that can be proven.
    pub fn update(&self, seqno: u16, metric: u16) -> Update {
        let level = (metric / QUANTUM).min(LEVELS - 1);
        let proof = Proof {
            epoch: self.epoch,
            element: self.element(seqno, level),
        };
        let prefix = self.identity.prefix();
        Update::new(prefix, self.identity.router_id(), seqno, metric).proven_by(Some(proof))
    }

    fn element(&self, seqno: u16, level: u16) -> [u8; 20] {
        let hash = Sha256::new()
            .chain_update(b"meshd start v1")
            .chain_update(self.key.to_bytes())
            .chain_update(self.epoch.to_be_bytes())
            .chain_update(seqno.to_be_bytes())
            .finalize();
        let mut proof = Proof {
            epoch: self.epoch,
            element: babel::element(&hash),
        };
        for level in 0..level {
            proof = proof.above(level, self.identity.router_id(), seqno);
        }
        proof.element
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first vectors for routing of docs/protocol.md.
    #[test]
    fn records_and_proofs_are_those_of_the_protocol() {
        let origin = Origin::new(&Identity::from_pool(0), 1);
        assert_eq!(origin.base(), 8);
        let record = origin.record();
        assert_eq!(record.len(), 2 + 246);
        assert_eq!(
            hex(&record[2..56]),
            "0108000015d3166eb4ba2948dbf1d4bc2c2cd020dbf37dde45b9081a2dbce5b3eb02fe7aa36eb4ba40502b1a000000010008006002ab"
        );
        assert_eq!(
            hex(&record[184..]),
            "d8bb96d01d6f91f56b4212dd719e605c81716578bac3902a4021912442e85b03386d6dcefdb03d793af51922484aa319468161afe675dcfc6b0c7da9418d9805"
        );
        for (metric, element) in [
            (0, "7dd3694d676d1b16ebd9e58c1811c3ad31c3d7c0"),
            (191, "f5f0599c0fd6eae30d52d3e1c99602c5299e0787"),
            (65534, "971a76841a9b834b0abf822975a339d5cdf614c2"),
        ] {
            let proof = origin.update(15, metric).proof.unwrap();
            assert_eq!((proof.epoch, hex(&proof.element)), (1, element.to_owned()));
        }
        assert_ne!(origin.record_with(&[0]), record);
    }
}
