//! Records of the DHT and messages of connected nodes, read from any bytes.

use discovery::{Whereabouts, record::Record};

/// Whatever is read as a record is written again as the same bytes: there is no second way to write one. Nothing that was not signed by
/// its key is believed.
pub(crate) fn read(bytes: &[u8]) {
    if let Ok((record, signature)) = Record::decode(bytes) {
        let body = record.body().expect("what was read can be written");
        assert_eq!([&body[..], &signature].concat(), bytes);
        let now = record.signed;
        let verified = Record::verify(
            bytes,
            &record.network,
            |key| key.0.first_chunk().copied(),
            now,
        );
        if let Ok((believed, prefix)) = verified {
            assert_eq!(believed, record);
            assert_eq!(prefix, record.key.0[..8]);
        }
    }
    if let Ok(said) = Whereabouts::decode(bytes) {
        assert_eq!(Whereabouts::decode(&said.encode()), Ok(said));
    }
}
