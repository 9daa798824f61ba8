//! What a fuzzer's bytes do as a TCP stream of datagrams: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use meshd::stream::frame::{BadLength, HEADER, MAX, cut};

use crate::bytes::Bytes;

/// The first byte says how long the pieces are that the rest is read in. However that is, the same datagrams come out, up to the same
/// fault if there is one; and never is more kept than the beginning of one frame.
pub(crate) fn read(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let piece = usize::from(bytes.byte()) + 1;
    let whole = pieces(bytes.0, bytes.0.len().max(1));
    assert_eq!(pieces(bytes.0, piece), whole);
    assert_eq!(pieces(bytes.0, 1), whole);
}

fn pieces(stream: &[u8], length: usize) -> (Vec<Vec<u8>>, Option<BadLength>) {
    let (mut kept, mut datagrams) = (Vec::new(), Vec::new());
    for piece in stream.chunks(length) {
        kept.extend_from_slice(piece);
        let mut runs = Vec::new();
        let rest = cut(&mut kept, &mut runs);
        for run in runs {
            assert!(!run.bytes.is_empty());
            datagrams.extend(kept[run.bytes].chunks(run.segment).map(<[u8]>::to_vec));
        }
        match rest {
            Ok(rest) => kept.drain(..rest.start),
            Err(fault) => return (datagrams, Some(fault)),
        };
        assert!(kept.len() < HEADER + MAX);
    }
    (datagrams, None)
}
