//! The DHT: who stands in its table, what is kept for others, what is published and what is looked up.

use std::{
    borrow::Cow,
    collections::HashMap,
    iter::{Empty, empty},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use libp2p::{
    PeerId,
    kad::{
        self, GetRecordOk, ProviderRecord, QueryId, QueryResult, QueryStats, Quorum, RecordKey,
        store::{Error, RecordStore},
    },
};
use tracing::debug;

use crate::{
    Contact, Derive, Found, How, NodeKey, Prefix,
    exchange::Whereabouts,
    hygiene::is_public,
    record::{MAX_ANCHORS, MAX_ENDPOINTS, Record, RecordError, TTL, place},
    store::{NotKept, Place, Store},
};

/// A query may take this long.
pub(crate) const QUERY: Duration = Duration::from_secs(8);
/// Largest message: twenty nodes with their addresses, and a record.
pub(crate) const MAX_PACKET: usize = 16 << 10;
/// How often the table is refreshed.
pub(crate) const BOOTSTRAP: Duration = Duration::from_secs(30 * 60);
/// Look-ups at a time.
const MAX_LOOKUPS: usize = 16;
/// So many nodes are asked, where there are as many, before the newest record counts.
const MIN_ASKED: u32 = 8;
/// The record is published again after this, a quarter more or less.
const PUBLISH: Duration = Duration::from_secs(45 * 60);
/// A change is published after this, so that one publication tells of many.
const DEBOUNCE: Duration = Duration::from_secs(10);
/// And not sooner than this after the last publication.
const PUBLISH_AGAIN: Duration = Duration::from_secs(60);

/// Seconds since 1970 by the wall clock.
fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// [`Store`], as libp2p asks for it. Records of others come in by [`Records::keep`] alone.
#[derive(Debug)]
pub(crate) struct Records(Store);

impl Records {
    pub(crate) fn new(own: PeerId) -> Self {
        Self(Store::new(hashed(
            kad::KBucketKey::from(own).hashed_bytes(),
        )))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Verifies what somebody put here, and keeps it.
    pub(crate) fn keep(
        &mut self,
        record: kad::Record,
        network: &str,
        derive: Derive,
        party: Option<IpNetwork>,
    ) -> Result<(), NotStored> {
        let now = unix().as_secs();
        let (read, prefix) = Record::verify(&record.value, network, derive, now)?;
        if record.key.as_ref() != place(network, &prefix) {
            return Err(NotStored::Misplaced);
        }
        let age = Duration::from_secs(now.saturating_sub(read.signed));
        self.0.insert(
            at(&record.key),
            record.value,
            read.key.0,
            read.sequence,
            party,
            TTL.saturating_sub(age),
            Instant::now(),
        )?;
        Ok(())
    }
}

/// Why a record is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStored {
    /// It is not to be believed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is, but belongs elsewhere.
    #[error("a record in the place of another")]
    Misplaced,
    /// The store has no place for it.
    #[error(transparent)]
    Store(#[from] NotKept),
}

fn hashed(bytes: &[u8]) -> Place {
    bytes.try_into().expect("a hash of 32 bytes")
}

/// Where a key lies in the space of distances.
fn at(key: &RecordKey) -> Place {
    hashed(kad::KBucketKey::new(key.clone()).hashed_bytes())
}

impl RecordStore for Records {
    type RecordsIter<'a> = Empty<Cow<'a, kad::Record>>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, kad::Record>> {
        let kept = self.0.get(&at(key), Instant::now())?;
        Some(Cow::Owned(kad::Record {
            key: key.clone(),
            value: kept.bytes.clone(),
            publisher: None,
            expires: Some(kept.expires),
        }))
    }

    /// Only our own record comes here: the filter keeps the others out.
    fn put(&mut self, record: kad::Record) -> Result<(), Error> {
        let Ok((read, _)) = Record::decode(&record.value) else {
            return Err(Error::ValueTooLarge);
        };
        let put = self.0.insert(
            at(&record.key),
            record.value,
            read.key.0,
            read.sequence,
            None,
            TTL,
            Instant::now(),
        );
        match put {
            Ok(()) | Err(NotKept::NotNewer | NotKept::Taken) => Ok(()),
            Err(NotKept::Quota | NotKept::Full) => Err(Error::MaxRecords),
        }
    }

    fn remove(&mut self, key: &RecordKey) {
        self.0.remove(&at(key));
    }

    /// Nobody replicates for others: every node publishes its own record again.
    fn records(&self) -> Self::RecordsIter<'_> {
        empty()
    }

    fn add_provider(&mut self, _: ProviderRecord) -> Result<(), Error> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}

/// Look-ups that are under way.
#[derive(Debug, Default)]
pub(crate) struct Lookups(HashMap<QueryId, Lookup>);

#[derive(Debug)]
struct Lookup {
    prefix: Prefix,
    best: Option<Record>,
}

/// What became of a look-up.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) prefix: Prefix,
    pub(crate) found: Option<Found>,
}

impl Lookups {
    /// Begins one; false if there are too many.
    pub(crate) fn begin(
        &mut self,
        kad: &mut kad::Behaviour<Records>,
        network: &str,
        prefix: Prefix,
    ) -> bool {
        if self.0.values().any(|lookup| lookup.prefix == prefix) {
            return true;
        }
        if self.0.len() >= MAX_LOOKUPS {
            return false;
        }
        let id = kad.get_record(RecordKey::new(&place(network, &prefix)));
        self.0.insert(id, Lookup { prefix, best: None });
        true
    }

    /// Takes an answer; returns what was found when there are enough.
    pub(crate) fn on_progress(
        &mut self,
        kad: &mut kad::Behaviour<Records>,
        id: QueryId,
        result: QueryResult,
        stats: &QueryStats,
        is_last: bool,
        network: &str,
        derive: Derive,
    ) -> Option<Outcome> {
        let lookup = self.0.get_mut(&id)?;
        if let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(answer))) = result {
            match Record::verify(&answer.record.value, network, derive, unix().as_secs()) {
                Ok((record, prefix)) if prefix == lookup.prefix => {
                    let is_newer = |best: &Record| record.sequence > best.sequence;
                    if lookup.best.as_ref().is_none_or(is_newer) {
                        lookup.best = Some(record);
                    }
                }
                Ok(_) => debug!(from = ?answer.peer, "A record of another prefix"),
                Err(error) => debug!(from = ?answer.peer, %error, "A record is not believed"),
            }
        }
        if !is_last
            && lookup.best.is_some()
            && stats.num_successes() >= MIN_ASKED
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
        }
        if !is_last {
            return None;
        }
        let lookup = self.0.remove(&id)?;
        Some(Outcome {
            prefix: lookup.prefix,
            found: lookup.best.map(found),
        })
    }
}

fn found(record: Record) -> Found {
    Found {
        key: record.key,
        endpoints: record.endpoints,
        anchors: record.anchors,
        how: How::Record,
    }
}

/// Publishes our own record.
#[derive(Debug)]
pub(crate) struct Publisher {
    sequence: u64,
    published: Option<(Instant, Content)>,
    due: Option<Instant>,
}

/// What a record says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Content {
    anchors: Vec<Contact>,
    endpoints: Vec<std::net::SocketAddr>,
}

impl Publisher {
    pub(crate) fn new(sequence: u64) -> Self {
        Self {
            sequence,
            published: None,
            due: None,
        }
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Somebody came who may keep the record: the first of them get it soon, the others with the next publication.
    pub(crate) fn note_arrival(&mut self, now: Instant) {
        if self.published.is_none() {
            self.note_change(now);
        }
    }

    /// What the record says has changed.
    pub(crate) fn note_change(&mut self, now: Instant) {
        let earliest = match &self.published {
            Some((published, _)) => *published + PUBLISH_AGAIN,
            None => now,
        };
        let due = earliest.max(now + DEBOUNCE);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Publishes if it is time; returns whether it did.
    pub(crate) fn publish_if_due(
        &mut self,
        kad: &mut kad::Behaviour<Records>,
        own: &Own<'_>,
        whereabouts: &Whereabouts,
        anchors: &[Contact],
        now: Instant,
    ) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        let public = whereabouts.endpoints.iter().copied();
        let content = Content {
            anchors: anchors
                .iter()
                .copied()
                .filter(|anchor| is_public(anchor.at))
                .take(MAX_ANCHORS)
                .collect(),
            endpoints: public
                .filter(|at| is_public(*at))
                .take(MAX_ENDPOINTS)
                .collect(),
        };
        let jitter = 0.75 + fastrand::f64() / 2.0;
        let is_same = |(at, old): &(Instant, Content)| {
            *old == content && now.saturating_duration_since(*at) < PUBLISH.mul_f64(0.7)
        };
        self.due = Some(now + PUBLISH.mul_f64(jitter));
        // A record that leads nowhere helps nobody.
        if content.anchors.is_empty() && content.endpoints.is_empty()
            || self.published.as_ref().is_some_and(is_same)
        {
            return false;
        }
        let wall = unix();
        let millis = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        self.sequence = millis.max(self.sequence.saturating_add(1));
        let record = Record {
            network: own.network.to_owned(),
            key: own.key,
            sequence: self.sequence,
            signed: wall.as_secs(),
            anchors: content.anchors.clone(),
            endpoints: content.endpoints.clone(),
        };
        let bytes = match record.sign(own.seed) {
            Ok(bytes) => bytes,
            Err(error) => {
                debug!(%error, "No record to publish");
                return false;
            }
        };
        let record = kad::Record::new(RecordKey::new(&place(own.network, &own.prefix)), bytes);
        match kad.put_record(record, Quorum::One) {
            Ok(_) => {
                debug!(sequence = self.sequence, "Publishing our record");
                self.published = Some((now, content));
                true
            }
            Err(error) => {
                debug!(%error, "Record not published");
                false
            }
        }
    }

    /// Nobody took the record: it is tried again soon.
    pub(crate) fn on_failure(&mut self, now: Instant) {
        self.published = None;
        self.due = Some(now + PUBLISH_AGAIN);
    }
}

/// Who we are.
#[derive(Debug)]
pub(crate) struct Own<'a> {
    pub(crate) network: &'a str,
    pub(crate) key: NodeKey,
    pub(crate) prefix: Prefix,
    pub(crate) seed: &'a [u8; 32],
}
