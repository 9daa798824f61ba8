//! The records that this node keeps for others: bounded, shared fairly, and never older than what it had.
//!
//! Pure: the time is an argument. Only records that [`Record::verify`](crate::record::Record::verify) has believed may come here.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;

use crate::record::TTL;

/// Records kept for others, at most a kilobyte each.
pub const MAX_RECORDS: usize = 1024;
/// Records that one party (a /24, a /48) may have put here.
pub const MAX_PER_PARTY: usize = 32;

/// Where a record is kept.
pub type Place = [u8; 32];

/// A record as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// The record's own bytes.
    pub bytes: Vec<u8>,
    /// Whose it is.
    pub owner: [u8; 32],
    /// Its sequence number.
    pub sequence: u64,
    /// Who put it here; our own record has nobody.
    pub party: Option<IpNetwork>,
    /// When it is forgotten.
    pub expires: Instant,
}

/// Why a record was not kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotKept {
    /// There is one with the same or a higher sequence number.
    #[error("not newer than the record that is there")]
    NotNewer,
    /// The place belongs to another key, whose record is still good.
    #[error("the place is another key's")]
    Taken,
    /// This party has put enough here.
    #[error("its party has put enough records here")]
    Quota,
    /// All places are taken by records that are nearer to us.
    #[error("there is no room for it")]
    Full,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    /// Hash of our own id: where the space is short, what is near to it stays.
    own: Place,
    records: BTreeMap<Place, Kept>,
}

impl Store {
    /// An empty one, for the node at this place in the space of hashes.
    #[must_use]
    pub const fn new(own: Place) -> Self {
        Self {
            own,
            records: BTreeMap::new(),
        }
    }

    /// Keeps a record for at most two hours.
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn insert(
        &mut self,
        place: Place,
        bytes: Vec<u8>,
        owner: [u8; 32],
        sequence: u64,
        party: Option<IpNetwork>,
        left: Duration,
        now: Instant,
    ) -> Result<(), NotKept> {
        self.forget(now);
        let kept = Kept {
            bytes,
            owner,
            sequence,
            party,
            expires: now + left.min(TTL),
        };
        if let Some(old) = self.records.get(&place) {
            if old.owner != owner {
                return Err(NotKept::Taken);
            }
            if old.sequence >= sequence {
                return Err(NotKept::NotNewer);
            }
            self.records.insert(place, kept);
            return Ok(());
        }
        let is_of_party = |kept: &&Kept| party.is_some() && kept.party == party;
        if self.records.values().filter(is_of_party).count() >= MAX_PER_PARTY {
            return Err(NotKept::Quota);
        }
        if self.records.len() >= MAX_RECORDS {
            let foreign = self.records.iter().filter(|(_, kept)| kept.party.is_some());
            let farthest = foreign
                .map(|(place, _)| *place)
                .max_by_key(|place| self.distance(place));
            match farthest {
                Some(farthest) if self.distance(&farthest) > self.distance(&place) => {
                    self.records.remove(&farthest);
                }
                Some(_) | None => return Err(NotKept::Full),
            }
        }
        self.records.insert(place, kept);
        Ok(())
    }

    /// The record at a place, if it is still good.
    #[must_use]
    pub fn get(&self, place: &Place, now: Instant) -> Option<&Kept> {
        self.records.get(place).filter(|kept| kept.expires > now)
    }

    /// Forgets the record at a place.
    pub fn remove(&mut self, place: &Place) {
        self.records.remove(place);
    }

    /// Forgets what is no longer good.
    pub fn forget(&mut self, now: Instant) {
        self.records.retain(|_, kept| kept.expires > now);
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn distance(&self, place: &Place) -> Place {
        std::array::from_fn(|at| self.own[at] ^ place[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    fn party(n: usize) -> IpNetwork {
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        format!("11.{high}.{low}.0/24").parse().unwrap()
    }

    fn place(first: u8, rest: usize) -> Place {
        let mut place = [0; 32];
        place[0] = first;
        place[1..9].copy_from_slice(&(rest as u64).to_be_bytes());
        place
    }

    fn full(now: Instant) -> Store {
        let mut store = Store::new([0; 32]);
        for n in 0..MAX_RECORDS {
            store
                .insert(
                    place(0x80, n),
                    vec![1],
                    [1; 32],
                    1,
                    Some(party(n)),
                    LIFE,
                    now,
                )
                .unwrap();
        }
        store
    }

    #[test]
    fn only_a_newer_record_of_the_same_key_replaces_one() {
        let (mut store, now) = (Store::new([0; 32]), Instant::now());
        let mut put = |byte: u8, owner: u8, sequence, now| {
            store.insert(
                place(1, 1),
                vec![byte],
                [owner; 32],
                sequence,
                Some(party(1)),
                LIFE,
                now,
            )
        };
        assert_eq!(put(1, 1, 5, now), Ok(()));
        assert_eq!(put(2, 1, 5, now), Err(NotKept::NotNewer));
        assert_eq!(put(2, 1, 4, now), Err(NotKept::NotNewer));
        assert_eq!(put(2, 2, 9, now), Err(NotKept::Taken));
        assert_eq!(put(3, 1, 6, now), Ok(()));
        // What is no longer good is in nobody's way.
        assert_eq!(put(4, 2, 1, now + LIFE), Ok(()));
        assert_eq!(store.get(&place(1, 1), now + LIFE).unwrap().bytes, [4]);
    }

    #[test]
    fn no_party_fills_the_store() {
        let (mut store, now) = (Store::new([0; 32]), Instant::now());
        let results: Vec<_> = (0..200)
            .map(|n| store.insert(place(1, n), vec![1], [1; 32], 1, Some(party(7)), LIFE, now))
            .collect();
        let kept = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!((kept, store.len()), (MAX_PER_PARTY, MAX_PER_PARTY));
        assert_eq!(results[199], Err(NotKept::Quota));
        let other = store.insert(place(2, 1), vec![1], [1; 32], 1, Some(party(8)), LIFE, now);
        assert_eq!(other, Ok(()));
    }

    #[test]
    fn a_full_store_prefers_what_is_near() {
        let now = Instant::now();
        let mut store = full(now);
        let far = store.insert(
            place(0xff, 1),
            vec![1],
            [1; 32],
            1,
            Some(party(9999)),
            LIFE,
            now,
        );
        assert_eq!(far, Err(NotKept::Full));
        let near = store.insert(
            place(0x01, 1),
            vec![1],
            [1; 32],
            1,
            Some(party(9999)),
            LIFE,
            now,
        );
        assert_eq!((near, store.len()), (Ok(()), MAX_RECORDS));
        assert!(store.get(&place(0x80, MAX_RECORDS - 1), now).is_none());
    }

    #[test]
    fn our_own_record_stays_whoever_comes() {
        let now = Instant::now();
        let mut store = full(now);
        store.remove(&place(0x80, 0));
        store
            .insert(place(0xff, 0), vec![9], [9; 32], 1, None, LIFE, now)
            .unwrap();
        for n in 0..50 {
            store
                .insert(
                    place(0, n),
                    vec![1],
                    [1; 32],
                    1,
                    Some(party(5000 + n)),
                    LIFE,
                    now,
                )
                .unwrap();
        }
        assert!(store.get(&place(0xff, 0), now).is_some());
    }

    #[test]
    fn nothing_is_kept_longer_than_two_hours() {
        let (mut store, now) = (Store::new([0; 32]), Instant::now());
        let long = Duration::from_secs(1 << 30);
        store
            .insert(place(1, 1), vec![1], [1; 32], 1, Some(party(1)), long, now)
            .unwrap();
        assert!(store.get(&place(1, 1), now + TTL).is_none());
        store.forget(now + TTL);
        assert!(store.is_empty());
    }
}
