//! Frames: how datagrams follow each other in a stream. Each has its length before it, in two bytes, the high one first.

use std::ops::Range;

/// Bytes before each datagram.
pub const HEADER: usize = 2;
/// The longest datagram that a stream carries. Links find that out as they find the MTU of any way.
pub const MAX: usize = 2048;

/// Bytes that are no frame: a datagram of no bytes, or of more than [`MAX`]. Where the next one would begin is not known then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct BadLength(pub u16);

/// Datagrams in a row, equally long but for a shorter last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they are, end to end.
    pub bytes: Range<usize>,
    /// Length of each but the last.
    pub segment: usize,
}

/// What goes before a datagram; nothing if it is empty or too long for a stream.
pub fn header(length: usize) -> Option<[u8; HEADER]> {
    (1..=MAX)
        .contains(&length)
        .then(|| (length as u16).to_be_bytes())
}

/// Finds the whole datagrams in what was read of a stream and lays them end to end at the beginning of `bytes`. Their runs are added to
/// `runs`; returns where the rest is, which is the beginning of a frame.
///
/// # Errors
/// [`BadLength`] after the runs that come before it.
pub fn cut(bytes: &mut [u8], runs: &mut Vec<Run>) -> Result<Range<usize>, BadLength> {
    let first_run = runs.len();
    let (mut read, mut written) = (0, 0);
    while let Some(&head) = bytes.get(read..).and_then(|rest| rest.first_chunk()) {
        let word = u16::from_be_bytes(head);
        let length = usize::from(word);
        if header(length).is_none() {
            return Err(BadLength(word));
        }
        let datagram = read + HEADER..read + HEADER + length;
        if datagram.end > bytes.len() {
            break;
        }
        read = datagram.end;
        bytes.copy_within(datagram, written);
        let place = written..written + length;
        written = place.end;
        match runs[first_run..].last_mut() {
            Some(run) if run.takes(length) => run.bytes.end = place.end,
            Some(_) | None => runs.push(Run {
                bytes: place,
                segment: length,
            }),
        }
    }
    Ok(read..bytes.len())
}

impl Run {
    /// Whether a datagram of this length continues it: no shorter one has ended it.
    fn takes(&self, length: usize) -> bool {
        self.bytes.len().is_multiple_of(self.segment) && length <= self.segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::vectors;
    use proptest::prelude::*;

    fn framed(datagrams: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for datagram in datagrams {
            bytes.extend_from_slice(&header(datagram.len()).unwrap());
            bytes.extend_from_slice(datagram);
        }
        bytes
    }

    /// The datagrams of a stream that is read in these pieces.
    fn read(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, BadLength> {
        let (mut kept, mut datagrams) = (Vec::new(), Vec::new());
        for piece in pieces {
            kept.extend_from_slice(piece);
            let mut runs = Vec::new();
            let rest = cut(&mut kept, &mut runs);
            for run in runs {
                datagrams.extend(kept[run.bytes].chunks(run.segment).map(<[u8]>::to_vec));
            }
            kept.drain(..rest?.start);
            assert!(kept.len() < HEADER + MAX);
        }
        Ok(datagrams)
    }

    proptest! {
        #[test]
        fn what_is_framed_comes_out_however_it_is_cut_on_the_way(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = framed(&datagrams);
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.extend([0, bytes.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), Ok(datagrams));
        }
    }

    #[test]
    fn a_frame_may_be_cut_at_every_byte() {
        let datagrams = [vec![1; 5], vec![2; 3], vec![3; 300]];
        let bytes = framed(&datagrams);
        for at in 0..=bytes.len() {
            let (one, other) = bytes.split_at(at);
            assert_eq!(read(&[one, other]), Ok(datagrams.to_vec()), "at {at}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single), Ok(datagrams.to_vec()));
    }

    #[test]
    fn equal_lengths_are_one_run_that_a_shorter_one_ends() {
        let datagrams = [4, 4, 4, 2, 4, 5].map(|length| vec![9; length]);
        let mut runs = Vec::new();
        let mut bytes = framed(&datagrams);
        let rest = cut(&mut bytes, &mut runs).unwrap();
        assert!(rest.is_empty());
        let told: Vec<_> = runs
            .iter()
            .map(|run| (run.bytes.len(), run.segment))
            .collect();
        assert_eq!(told, [(14, 4), (4, 4), (5, 5)]);
    }

    #[test]
    fn frames_are_those_of_the_protocols_text() {
        let datagrams = [vec![1, 2], vec![3, 4, 5], vec![6]];
        for (name, bytes) in vectors("stream") {
            assert_eq!(name, "datagrams 0102, 030405 and 06");
            assert_eq!(framed(&datagrams), bytes);
            assert_eq!(read(&[&bytes]), Ok(datagrams.to_vec()));
        }
    }

    #[test]
    fn nothing_is_taken_of_a_length_that_cannot_be() {
        assert!(header(MAX).is_some() && header(MAX + 1).is_none() && header(0).is_none());
        for word in [
            0,
            MAX as u16 + 1,
            0x1603,
            u16::from_be_bytes(*b"GE"),
            u16::MAX,
        ] {
            let mut bytes = framed(&[vec![1; 9]]);
            bytes.extend_from_slice(&word.to_be_bytes());
            let mut runs = Vec::new();
            assert_eq!(cut(&mut bytes, &mut runs), Err(BadLength(word)));
            assert_eq!(runs.len(), 1, "what came before is whole");
        }
    }
}
