//! What a stranger's messages and updates do to what is known about origins: shared by the fuzz target and by
//! `tests/fuzz_corpus.rs`.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use ipnetwork::Ipv6Network;
use routing::extension::{Extension, link_tag};
use routing::origin::{
    Bump, Claim, ELEMENT_LEN, Element, Job, Judgement, Learned, Offer, Origins, Outcome, Overtaken,
    Own, Owner, Proof, Record, Scale,
};
use routing::{Metric, RouterId, Seqno};

/// The most that happens in one conversation.
const STEPS: usize = 64;
/// The most origins that may be known in it.
const CAPACITY: usize = 3;

/// Bytes that run out, and are 0 then.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn take(&mut self, length: u8) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(self.0.len().min(length.into()));
        self.0 = rest;
        taken
    }
}

/// Does what the bytes say: messages as they come, genuine records with a byte changed, updates with all kinds of proofs, and what the
/// router does itself in between. The first byte says whether verification believes everything, so that records of the bytes' own
/// making get further than their signature.
pub(crate) fn converse(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut origins = Origins::new(Own::new(&[0; 32], owner(0), Some(2)), CAPACITY);
    let work: fn(&Job) -> Outcome = if bytes.below(2) == 0 {
        |job| job.run(derive)
    } else {
        |job| job.trust(derive)
    };
    for _ in 0..STEPS {
        if bytes.0.is_empty() {
            break;
        }
        match bytes.below(6) {
            0 => {
                let length = bytes.byte();
                receive(&mut origins, bytes.take(length), work);
            }
            1 => {
                let mut message = genuine(bytes.below(5), bytes.below(8));
                let place = usize::from(bytes.byte()) % message.len();
                message[place] ^= bytes.byte();
                receive(&mut origins, &message, work);
            }
            2 | 3 => {
                let claim = claim(&origins, &mut bytes);
                update(&mut origins, &claim, work);
            }
            4 => origins.forget(id(bytes.below(5))),
            _ => {
                let (before, epoch) = (origins.own().seqno(), origins.own().epoch());
                let bump = if bytes.below(4) == 0 {
                    origins.renew()
                } else {
                    origins.bump()
                };
                let epochs = origins.own().epoch() - epoch;
                let expected = match bump {
                    Bump::Seqno => epochs == 0 && origins.own().seqno().since(before) == 1,
                    Bump::Epoch => epochs > 0,
                    Bump::Exhausted => epochs == 0 && origins.own().seqno() == before,
                };
                assert!(expected);
            }
        }
        check(&origins);
    }
}

/// Takes bytes for the body of a message, and for a packet.
fn receive(origins: &mut Origins, body: &[u8], work: fn(&Job) -> Outcome) {
    let _ = link_tag(body);
    let Ok(message) = Extension::decode(body) else {
        return;
    };
    let again = message.encode();
    assert!(again.len() <= 255);
    assert_eq!(Extension::decode(&again).as_ref(), Ok(&message));
    match message {
        Extension::LinkTag(_) => {}
        Extension::RecordRequest { router_id, epoch } => {
            if let Some(record) = origins.record(router_id, epoch) {
                assert_eq!(record.router_id(), router_id);
            }
        }
        Extension::Record(record) => {
            assert_eq!(again, body);
            let (router_id, epoch) = (record.router_id(), record.epoch());
            let held = record.clone();
            if let Offer::Check(job) = origins.offered(record) {
                let ours = origins.own().epoch();
                match origins.learn(work(&job)) {
                    Learned::Record => {
                        assert_eq!(origins.record(router_id, Some(epoch)), Some(&held));
                        assert_eq!(origins.offered(held), Offer::Known);
                    }
                    Learned::Conflict(conflict) => assert_eq!(conflict.records[1], held),
                    Learned::Overtaken(Overtaken::Continued) => {
                        assert!(origins.own().epoch() > ours.max(epoch));
                    }
                    Learned::Overtaken(Overtaken::Cloned) => {
                        assert_eq!(origins.own().epoch(), ours);
                    }
                    Learned::Proof(_) => panic!("a record shows no element"),
                    Learned::Nothing | Learned::Refused(_) => {}
                }
            }
        }
    }
}

/// Judges an update to the end.
fn update(origins: &mut Origins, claim: &Claim, work: fn(&Job) -> Outcome) {
    match origins.judge(claim) {
        Judgement::Implied => assert!(!claim.metric.is_finite(), "nothing was shown"),
        Judgement::Check(job) => {
            let Job::Proof(proof) = &job else {
                panic!("an update is checked by its proof")
            };
            assert!(proof.hashes() <= Scale::MAX_LEVELS);
            if let Learned::Proof(shown) = origins.learn(work(&job)) {
                let shown = Claim {
                    shown: Some(shown),
                    proof: None,
                    ..*claim
                };
                assert_eq!(origins.judge(&shown), Judgement::Implied);
                let farther = claim.metric + Metric(100);
                assert!(
                    origins
                        .proof(claim.router_id, claim.seqno, farther)
                        .is_some(),
                    "what was shown can be passed on"
                );
            }
        }
        Judgement::NeedRecord { epoch } => assert_ne!(epoch, 0),
        Judgement::NeedProof => assert_eq!(claim.proof, None),
        Judgement::Refused(_) => {}
    }
}

/// An update of somebody, with a proof of the bytes' choice: none, arbitrary, or as good as this node could make it.
fn claim(origins: &Origins, bytes: &mut Bytes<'_>) -> Claim {
    let router_id = id(bytes.below(5));
    let seqno = Seqno(u16::from(bytes.byte()));
    let metric = Metric(u16::from_be_bytes([bytes.byte(), bytes.byte()]));
    let proof = match bytes.below(3) {
        0 => None,
        1 => origins.proof(router_id, seqno, metric),
        _ => {
            let mut element = [0; ELEMENT_LEN];
            let taken = bytes.take(4);
            element[..taken.len()].copy_from_slice(taken);
            Some(Proof {
                epoch: u32::from(bytes.below(12)),
                element: Element(element),
            })
        }
    };
    Claim {
        prefix: owner(bytes.below(5)).prefix,
        router_id,
        seqno,
        metric,
        proof,
        sender: id(bytes.below(5)),
        shown: None,
    }
}

/// What holds whatever anybody sends.
fn check(origins: &Origins) {
    assert!(origins.count() <= CAPACITY);
    for conflict in origins.conflicts() {
        let [first, second] = &conflict.records;
        assert_eq!(
            (first.router_id(), first.key(), first.epoch()),
            (second.router_id(), second.key(), second.epoch())
        );
        assert_ne!(first, second);
        assert_ne!(conflict.router_id(), id(0));
    }
    let own = origins.own();
    assert_eq!(origins.record(id(0), None), Some(own.record()));
    let proof = origins.proof(id(0), own.seqno(), Metric::ZERO);
    assert_eq!(proof.map(|proof| proof.epoch), Some(own.epoch()));
}

/// The message with a genuine record; made once, since it takes thousands of hashes.
fn genuine(node: u8, epoch: u8) -> Vec<u8> {
    static MADE: LazyLock<Mutex<BTreeMap<(u8, u8), Record>>> = LazyLock::new(Mutex::default);
    let mut made = match MADE.lock() {
        Ok(made) => made,
        Err(poisoned) => poisoned.into_inner(),
    };
    let record = made.entry((node, epoch)).or_insert_with(|| {
        let own = Own::new(&[node; 32], owner(node), Some(epoch.into()));
        own.record().clone()
    });
    Extension::Record(record.clone()).encode()
}

/// What a key owns here is read from its bytes; keys that the bytes make up own something as well.
fn derive(key: &[u8; 32]) -> Option<Owner> {
    let (router_id, rest) = key.split_first_chunk()?;
    let (prefix, _) = rest.split_first_chunk::<8>()?;
    let mut address = [0; 16];
    address[..8].copy_from_slice(prefix);
    Some(Owner {
        router_id: RouterId(*router_id),
        prefix: Ipv6Network::new(address.into(), 64).ok()?,
    })
}

fn owner(node: u8) -> Owner {
    static KEYS: LazyLock<[[u8; 32]; 5]> = LazyLock::new(|| {
        [0, 1, 2, 3, 4].map(|node: u8| {
            let nobody = Owner {
                router_id: RouterId([1; 8]),
                prefix: Ipv6Network::new([0; 16].into(), 64).expect("64 is a length"),
            };
            *Own::new(&[node; 32], nobody, None).record().key()
        })
    });
    derive(&KEYS[usize::from(node)]).expect("every key owns something here")
}

fn id(node: u8) -> RouterId {
    owner(node).router_id
}
