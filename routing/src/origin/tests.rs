use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use proptest::prelude::*;

use super::chain::{Anchor, Chain};
use super::*;
use crate::extension::Extension;

const METRIC: Metric = Metric(1000);

/// What a node of these tests owns: no work, and nothing to look up.
fn derive(key: &[u8; 32]) -> Option<Owner> {
    let mut router_id = [0; 8];
    router_id.copy_from_slice(&key[..8]);
    let mut prefix = [0; 16];
    prefix[..8].copy_from_slice(&key[8..16]);
    prefix[0] = 6;
    Some(Owner {
        router_id: RouterId(router_id),
        prefix: Ipv6Network::new(prefix.into(), 64).ok()?,
    })
}

fn seed(node: u8) -> [u8; 32] {
    [node; 32]
}

fn signing(node: u8) -> SigningKey {
    SigningKey::from_bytes(&seed(node))
}

fn owner(node: u8) -> Owner {
    derive(&signing(node).verifying_key().to_bytes()).unwrap()
}

fn id(node: u8) -> RouterId {
    owner(node).router_id
}

fn node(node: u8, last: Option<u32>) -> Origins {
    Origins::new(Own::new(&seed(node), owner(node), last), 16)
}

/// What an honest node announces about an origin, to somebody to whom it has shown nothing yet.
fn announcement(from: &Origins, origin: RouterId, seqno: Seqno, metric: Metric) -> Claim {
    Claim {
        prefix: from.owner(origin).unwrap().prefix,
        router_id: origin,
        seqno,
        metric,
        proof: Some(from.proof(origin, seqno, metric).unwrap()),
        sender: from.own().owner().router_id,
        shown: None,
    }
}

/// What a node announces about itself.
fn own_announcement(from: &Origins) -> Claim {
    announcement(
        from,
        from.own().owner().router_id,
        from.own().seqno(),
        Metric::ZERO,
    )
}

/// The update of a router that passes a claim on after it has added a cost.
fn passed_on(by: &Origins, claim: &Claim, cost: u16) -> Claim {
    announcement(
        by,
        claim.router_id,
        claim.seqno,
        claim.metric + Metric(cost),
    )
}

/// Does with a record what a router with a worker does.
fn take_record(at: &mut Origins, record: &Record) -> Learned {
    match at.offered(record.clone()) {
        Offer::Check(job) => at.learn(job.run(derive)),
        Offer::Known | Offer::Stale => Learned::Nothing,
        Offer::Refused(why) => Learned::Refused(why),
    }
}

/// The job of a claim that has to be checked.
fn check(at: &Origins, claim: &Claim) -> Job {
    let judgement = at.judge(claim);
    let Judgement::Check(job) = judgement else {
        panic!("{judgement:?}")
    };
    job
}

/// The job of a record that has to be checked.
fn check_record(at: &Origins, record: Record) -> Job {
    let offer = at.offered(record);
    let Offer::Check(job) = offer else {
        panic!("{offer:?}")
    };
    job
}

/// Judges a claim to the end, as a router with a worker does, but asks nobody for anything.
fn settle(at: &mut Origins, claim: &Claim) -> Result<Judgement, Learned> {
    let judgement = at.judge(claim);
    let Judgement::Check(job) = judgement else {
        return Ok(judgement);
    };
    let learned = at.learn(job.run(derive));
    let Learned::Proof(shown) = learned else {
        return Err(learned);
    };
    Ok(at.judge(&Claim {
        shown: Some(shown),
        ..*claim
    }))
}

fn accepts(at: &mut Origins, claim: &Claim) -> bool {
    settle(at, claim) == Ok(Judgement::Implied)
}

/// A record of node 1 whose anchors and scale the test chooses.
fn made_record(epoch: u32, base: u16, scale: Scale, seqnos: u16) -> Record {
    let anchors = (0..seqnos)
        .map(|place| {
            let chain = chain(epoch, Seqno(base).plus(place));
            chain.anchor(chain.start(&seed(1)), scale)
        })
        .collect();
    Record::sign(
        &signing(1),
        &Network::default(),
        id(1),
        epoch,
        Seqno(base),
        scale,
        anchors,
    )
}

fn chain(epoch: u32, seqno: Seqno) -> Chain {
    Chain {
        router_id: id(1),
        epoch,
        seqno,
    }
}

// ---- chains

#[test]
fn a_level_spans_the_least_cost_of_a_link() {
    let scale = Scale::OURS;
    let levels = [0, 95, 96, 191, 192, 65_471, 65_472, 65_534, 65_535]
        .map(|metric| scale.level(Metric(metric)));
    assert_eq!(levels, [0, 0, 1, 1, 2, 681, 682, 682, 682]);
    assert_eq!((scale.quantum(), scale.levels()), (96, 683));
    assert_eq!(Scale::new(10, 3).unwrap().level(Metric(65_535)), 2);
    for (quantum, levels) in [(0, 1), (97, 1), (1, 0), (1, 1025)] {
        assert_eq!(Scale::new(quantum, levels), None);
    }
}

const LEVELS: u16 = 9;
const SEQNOS: u16 = 4;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a set of liars holds, they can prove exactly the levels at or above one that they hold of the same seqno, also to
    /// somebody who knows everything.
    #[test]
    fn an_element_proves_its_level_and_those_above_for_its_seqno_and_nothing_else(
        held in prop::collection::vec((0..SEQNOS, 0..=LEVELS), 1..4),
        place in 0..SEQNOS,
        level in 0..LEVELS,
        knows_all: bool,
        base: u16,
    ) {
        let scale = Scale::new(96, LEVELS).unwrap();
        let (epoch, base) = (5, Seqno(base));
        let mut victim = node(2, None);
        prop_assert_eq!(
            take_record(&mut victim, &made_record(epoch, base.0, scale, SEQNOS)),
            Learned::Record
        );
        let claim = |place, level: u16, element, sender| Claim {
            prefix: owner(1).prefix,
            router_id: id(1),
            seqno: base.plus(place),
            metric: Metric(level * 96),
            proof: Some(Proof { epoch, element }),
            sender,
            shown: None,
        };
        if knows_all {
            for place in 0..SEQNOS {
                let start = chain(epoch, base.plus(place)).start(&seed(1));
                prop_assert!(accepts(&mut victim, &claim(place, 0, start, id(1))));
            }
        }

        // All that the liars can make: up every chain, and up it as if it were another one.
        let mut made = vec![Element([0; ELEMENT_LEN])];
        for &(place, level) in &held {
            let own = chain(epoch, base.plus(place));
            let element = own.climb(own.start(&seed(1)), 0, level);
            for to in level..=LEVELS {
                made.push(own.climb(element, level, to));
                for other in 0..SEQNOS {
                    let other = chain(epoch, base.plus(other));
                    made.extend([0, level].map(|from| other.climb(element, from, to)));
                }
            }
        }
        let right = held.iter().any(|&(p, l)| p == place && l <= level);
        // At level 0 even a genuine element is of no use to anybody but the origin.
        let right = right && level > 0;
        let accepted = made.iter().any(|element| {
            accepts(&mut victim, &claim(place, level, *element, id(3)))
        });
        prop_assert_eq!(accepted, right);
    }

    #[test]
    fn what_was_shown_implies_the_same_and_what_is_farther(
        level in 1_u16..600, more in 0_u16..64, less in 1_u16..600, other in 1_u16..7,
    ) {
        let origin = node(1, None);
        let mut victim = node(2, None);
        take_record(&mut victim, origin.own().record());
        let seqno = origin.own().seqno();
        let claim = Claim {
            sender: id(3),
            ..announcement(&origin, id(1), seqno, Metric(level * 96))
        };
        let job = check(&victim, &claim);
        let Learned::Proof(shown) = victim.learn(job.run(derive)) else { panic!() };

        let refresh = |metric, seqno| Claim {
            proof: None, shown: Some(shown), metric: Metric(metric), seqno, ..claim
        };
        prop_assert_eq!(victim.judge(&refresh((level + more) * 96 + 95, seqno)), Judgement::Implied);
        let nearer = level.saturating_sub(less).max(1);
        if nearer < level {
            prop_assert_eq!(victim.judge(&refresh(nearer * 96 + 95, seqno)), Judgement::NeedProof);
        }
        prop_assert_eq!(victim.judge(&refresh(level * 96, seqno.plus(other))), Judgement::NeedProof);
        prop_assert_eq!(
            victim.judge(&Claim { shown: None, ..refresh(level * 96, seqno) }),
            Judgement::NeedProof
        );
    }
}

#[test]
fn a_route_is_accepted_at_every_hop_and_at_none_with_a_better_metric() {
    let origin = node(1, None);
    let mut claim = own_announcement(&origin);
    let mut hops: Vec<Origins> = (2..12).map(|n| node(n, None)).collect();
    for (n, hop) in hops.iter_mut().enumerate() {
        take_record(hop, origin.own().record());
        assert!(accepts(hop, &claim));
        if n > 0 {
            let nearer = Claim {
                metric: Metric(claim.metric.0 - 96),
                ..claim
            };
            assert_ne!(settle(hop, &nearer), Ok(Judgement::Implied));
        }
        claim = passed_on(hop, &claim, 96 + 37 * n as u16);
    }
    assert_eq!(claim.metric, Metric(96 * 10 + 37 * 45));
}

#[test]
fn knowing_a_newer_seqno_is_no_use_for_an_older_one() {
    let mut origin = node(1, None);
    let mut liar = node(2, None);
    let mut victim = node(3, None);
    for node in [&mut liar, &mut victim] {
        take_record(node, origin.own().record());
    }
    let older = origin.own().seqno();
    assert!(accepts(
        &mut victim,
        &Claim {
            sender: id(4),
            ..announcement(&origin, id(1), older, Metric(480))
        }
    ));
    origin.bump();
    let newer = origin.own().seqno();
    let near = announcement(&origin, id(1), newer, Metric(96));
    assert!(accepts(
        &mut liar,
        &Claim {
            sender: id(4),
            ..near
        }
    ));

    assert_eq!(liar.proof(id(1), older, Metric(192)), None);
    let forged = Claim {
        seqno: older,
        metric: Metric(192),
        ..near
    };
    for element in [near.proof, liar.proof(id(1), newer, Metric(192))] {
        assert_eq!(
            settle(
                &mut victim,
                &Claim {
                    proof: element,
                    ..forged
                }
            ),
            Err(Learned::Refused(Refusal::Element))
        );
    }
}

#[test]
fn nobody_but_the_origin_is_at_level_0() {
    let origin = node(1, None);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    let claim = own_announcement(&origin);
    let repeated = Claim {
        sender: id(3),
        metric: Metric(95),
        ..claim
    };
    assert_eq!(
        victim.judge(&repeated),
        Judgement::Refused(Reason::NotTheOrigin)
    );
    assert!(accepts(&mut victim, &claim));
}

#[test]
fn a_check_takes_the_steps_between_the_levels() {
    let origin = node(1, None);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    let seqno = origin.own().seqno();
    let hashes = |victim: &Origins, metric| {
        let claim = announcement(&origin, id(1), seqno, Metric(metric));
        match check(victim, &claim) {
            Job::Proof(job) => job.hashes(),
            Job::Record(_) => panic!("a claim is checked by its proof"),
        }
    };
    assert_eq!(hashes(&victim, 0), 683);
    assert_eq!(hashes(&victim, 960), 673);
    let known = announcement(&origin, id(1), seqno, Metric(960));
    assert!(accepts(&mut victim, &known));
    assert_eq!(hashes(&victim, 96 * 7), 3);
    assert_eq!(hashes(&victim, 96 * 12), 2);
}

// ---- vectors

const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..][..2], 16).unwrap())
}

/// The vectors in a block of docs/protocol.md, each of them `name = value` lines.
fn vectors(block: &str) -> Vec<Vec<(&'static str, &'static str)>> {
    let start = format!("```{block}\n");
    let (_, block) = PROTOCOL.split_once(&start).unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = |vector: &'static str| vector.lines().map(|line| line.split_once(" = ").unwrap());
    block
        .split("\n\n")
        .map(|vector| lines(vector).collect())
        .collect()
}

#[test]
fn the_published_vectors_hold() {
    let identities = vectors("vectors");
    let published = vectors("origin-vectors");
    for vector in &published {
        let value = |name| vector.iter().find(|(key, _)| *key == name).unwrap().1;
        // What belongs to a seed, and how, is above in the document.
        let identity = identities
            .iter()
            .find(|lines| lines[0] == vector[0])
            .unwrap();
        let of_identity = |name| identity.iter().find(|(key, _)| *key == name).unwrap().1;
        let seed: [u8; 32] = unhex(of_identity("seed"));
        let router_id = RouterId(unhex(of_identity("router-id")));
        let owner = Owner {
            router_id,
            prefix: of_identity("prefix").parse().unwrap(),
        };

        let epoch = value("epoch").parse::<u32>().unwrap();
        let mut origin = Origins::new(Own::new(&seed, owner, Some(epoch - 1)), 1);
        for _ in 0..7 {
            origin.bump();
        }
        let record = origin.own().record().clone();
        let encoded = record.encode();
        let seqno = origin.own().seqno();
        let chain = record.chain(seqno);
        let element = |level| hex(&chain.climb(chain.start(&seed), 0, level).0);
        let proof = |metric| {
            let proof = origin.proof(router_id, seqno, Metric(metric));
            hex(&proof.unwrap().encode())
        };
        let message = |message: Extension| hex(&message.encode());
        let views = [
            ("seed", hex(&seed)),
            ("epoch", epoch.to_string()),
            ("base", record.base().0.to_string()),
            ("seqno", seqno.0.to_string()),
            ("element of level 0", element(0)),
            ("element of level 1", element(1)),
            ("element of level 682", element(682)),
            ("anchor", hex(&record.anchors[7].0)),
            ("record, bytes 0 to 53", hex(&encoded[..54])),
            ("record, bytes 54 to 117", hex(&encoded[54..118])),
            ("record, bytes 118 to 181", hex(&encoded[118..182])),
            ("record, signature", hex(&encoded[182..])),
            ("proof for metric 0", proof(0)),
            ("proof for metric 191", proof(191)),
            ("proof for metric 65534", proof(65_534)),
            (
                "request for the record of this epoch",
                message(Extension::RecordRequest {
                    router_id,
                    epoch: Some(epoch),
                }),
            ),
            (
                "request for the newest record",
                message(Extension::RecordRequest {
                    router_id,
                    epoch: None,
                }),
            ),
            (
                "link tag of the epoch's number",
                message(Extension::LinkTag(epoch)),
            ),
        ];
        let views = views.map(|(name, value)| format!("{name} = {value}"));
        let lines: Vec<String> = vector.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        assert_eq!(lines, views, "{}", views.join("\n"));
        assert_eq!(hex(record.key()), of_identity("ed25519 public key"));
        assert!(record.is_signed(&Network::default()));
    }
    assert_eq!(published.len(), 2);
}

// ---- judging

#[test]
fn without_a_record_an_update_is_not_accepted() {
    let origin = node(1, None);
    let victim = node(2, None);
    let claim = own_announcement(&origin);
    assert_eq!(victim.judge(&claim), Judgement::NeedRecord { epoch: 1 });
    assert_eq!(
        victim.judge(&Claim {
            proof: None,
            ..claim
        }),
        Judgement::NeedProof
    );
    assert_eq!(
        victim.judge(&Claim {
            metric: Metric::INFINITY,
            proof: None,
            ..claim
        }),
        Judgement::Implied
    );
}

#[test]
fn an_origin_announces_its_own_prefix_only() {
    let origin = node(1, None);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    for prefix in ["600::/8", "6ab::/64"] {
        let claim = Claim {
            prefix: prefix.parse().unwrap(),
            ..own_announcement(&origin)
        };
        assert_eq!(victim.judge(&claim), Judgement::Refused(Reason::Prefix));
    }
}

#[test]
fn a_seqno_of_another_epoch_is_refused() {
    let origin = node(1, Some(6));
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    let claim = own_announcement(&origin);
    for seqno in [55, 64] {
        let claim = Claim {
            seqno: Seqno(seqno),
            ..claim
        };
        assert_eq!(victim.judge(&claim), Judgement::Refused(Reason::Seqno));
    }
    let none = Proof {
        epoch: 0,
        ..claim.proof.unwrap()
    };
    assert_eq!(
        victim.judge(&Claim {
            proof: Some(none),
            ..claim
        }),
        Judgement::Refused(Reason::Stale)
    );
}

// ---- records

#[test]
fn no_bit_of_a_record_can_be_flipped() {
    let record = node(1, None).own().record().encode();
    assert_eq!(record.len(), 246);
    let mut victim = node(2, None);
    for bit in 0..record.len() * 8 {
        let mut flipped = record.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(flipped) = Record::decode(&flipped) {
            assert!(
                matches!(take_record(&mut victim, &flipped), Learned::Refused(_)),
                "bit {bit}"
            );
        }
    }
    assert_eq!(
        take_record(&mut victim, &Record::decode(&record).unwrap()),
        Learned::Record
    );
}

#[test]
fn no_byte_can_be_added_to_a_record_or_taken_from_it() {
    let record = node(1, None).own().record().encode();
    let mut victim = node(2, None);
    for place in 0..=record.len() {
        let mut longer = record.clone();
        longer.insert(place, 0);
        let shorter = &record[..place.min(record.len() - 1)];
        for changed in [&longer[..], shorter] {
            if let Ok(changed) = Record::decode(changed) {
                assert!(matches!(
                    take_record(&mut victim, &changed),
                    Learned::Refused(_)
                ));
            }
        }
    }
}

proptest! {
    #[test]
    fn reading_and_writing_a_record_changes_nothing(
        head in prop::collection::vec(any::<u8>(), 9),
        seqnos in 1_u8..=8,
        later in prop::collection::vec(any::<u8>(), 0..8),
        fill: u8,
    ) {
        let mut bytes = vec![1, seqnos];
        bytes.extend(head);
        // The rest of the router-id, which is not a reserved one; then the key.
        bytes.push(1);
        bytes.extend([fill; 32]);
        bytes.extend([0, 0, 1, fill, fill, 0, 0, fill % 96 + 1, 4, 0]);
        bytes.extend(std::iter::repeat_n(fill, usize::from(seqnos) * 16));
        bytes.extend(&later);
        bytes.extend([!fill; 64]);
        prop_assert_eq!(Record::decode(&bytes).map(|record| record.encode()), Ok(bytes));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_a_proof(bytes in prop::array::uniform24(any::<u8>())) {
        prop_assert_eq!(Proof::decode(&bytes).encode(), bytes);
    }
}

#[test]
fn a_record_that_makes_no_sense_is_an_error() {
    let good = node(1, None).own().record().encode();
    let with = |place: usize, bytes: &[u8]| {
        let mut record = good.clone();
        record[place..place + bytes.len()].copy_from_slice(bytes);
        Record::decode(&record).map(|_| ())
    };
    assert_eq!(with(0, &[1]), Ok(()));
    assert_eq!(with(0, &[2]), Err(RecordError::Version(2)));
    assert_eq!(with(1, &[0]), Err(RecordError::Seqnos));
    assert_eq!(with(1, &[9]), Err(RecordError::Seqnos));
    assert_eq!(with(4, &[0; 8]), Err(RecordError::RouterId));
    assert_eq!(with(4, &[0xff; 8]), Err(RecordError::RouterId));
    assert_eq!(with(44, &[0; 4]), Err(RecordError::Epoch));
    assert_eq!(with(50, &[0, 0]), Err(RecordError::Scale));
    assert_eq!(with(50, &[0, 97]), Err(RecordError::Scale));
    assert_eq!(with(52, &[4, 1]), Err(RecordError::Scale));
    let long = [&good[..], &[0; 8]].concat();
    assert_eq!(Record::decode(&long), Err(RecordError::Length));
    for len in 0..118 {
        assert_eq!(
            Record::decode(&good[..len]),
            Err(RecordError::Length),
            "{len}"
        );
    }
}

/// A record as a later release may write it.
fn later_record() -> Record {
    let mut record = Record {
        flags: 0x8001,
        later: b"later".to_vec(),
        ..made_record(3, 24, Scale::new(48, 700).unwrap(), 2)
    };
    record.signature = signing(1)
        .sign(&record.signed(&Network::default()))
        .to_bytes();
    record
}

#[test]
fn fields_and_parameters_of_a_later_release_are_signed_kept_and_passed_on() {
    let record = later_record();
    let mut victim = node(2, None);
    assert_eq!(take_record(&mut victim, &record), Learned::Record);
    let held = victim.record(id(1), None).unwrap();
    assert_eq!(held.encode(), record.encode());
    assert_eq!((held.flags(), held.seqnos()), (0x8001, 2));

    let chain = chain(3, Seqno(25));
    let claim = Claim {
        prefix: owner(1).prefix,
        router_id: id(1),
        seqno: Seqno(25),
        metric: Metric(480),
        proof: Some(Proof {
            epoch: 3,
            element: chain.climb(chain.start(&seed(1)), 0, 10),
        }),
        sender: id(3),
        shown: None,
    };
    assert!(accepts(&mut victim, &claim));
    let changed = Record {
        later: b"Later".to_vec(),
        ..record
    };
    assert_eq!(
        take_record(&mut node(2, None), &changed),
        Learned::Refused(Refusal::Signature)
    );
}

/// The neutral element: with it as key, R = the neutral element and S = 0 sign everything.
const NEUTRAL: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 1;
    point
};

#[test]
fn a_key_of_small_order_signs_nothing() {
    let mut record = made_record(1, 8, Scale::OURS, 8);
    record.key = NEUTRAL;
    record.router_id = derive(&NEUTRAL).unwrap().router_id;
    record.signature = [0; 64];
    record.signature[..32].copy_from_slice(&NEUTRAL);
    let key = VerifyingKey::from_bytes(&NEUTRAL).unwrap();
    let signature = Signature::from_bytes(&record.signature);
    assert!(
        key.verify(&record.signed(&Network::default()), &signature)
            .is_ok(),
        "a lenient verifier takes it"
    );
    assert_eq!(
        take_record(&mut node(2, None), &record),
        Learned::Refused(Refusal::Signature)
    );
}

/// The order of the base point, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn a_signature_has_no_second_form() {
    let mut record = made_record(1, 8, Scale::OURS, 8);
    let mut carry = 0;
    for (byte, order) in record.signature[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(
        take_record(&mut node(2, None), &record),
        Learned::Refused(Refusal::Signature)
    );
}

#[test]
fn what_is_signed_for_another_purpose_is_no_record() {
    let mut record = made_record(1, 8, Scale::OURS, 8);
    let signed = record.signed(&Network::default());
    for other in [&signed[1..], &signed[27..]] {
        record.signature = signing(1).sign(other).to_bytes();
        assert!(!record.is_signed(&Network::default()));
    }
    record.signature = signing(1).sign(&signed).to_bytes();
    assert!(record.is_signed(&Network::default()));
}

#[test]
fn a_record_of_another_network_is_no_record() {
    let private = Network::new("2f8c").unwrap();
    let theirs = Own::in_network(private.clone(), &seed(1), owner(1), None);
    assert!(theirs.record().is_signed(&private));
    let mut ours = node(2, None);
    let Offer::Check(job) = ours.offered(theirs.record().clone()) else {
        panic!("a record that is not known is checked");
    };
    let outcome = job.run(derive);
    assert!(matches!(
        outcome,
        Outcome::Refused {
            why: Refusal::Signature,
            ..
        }
    ));
    assert!(matches!(ours.learn(outcome), Learned::Refused(_)));

    // One that was found to be genuine in the network that we were in before is of no use in this one.
    let before = check_record(&node(2, None), node(1, None).own().record().clone());
    let own = Own::in_network(private, &seed(2), owner(2), None);
    let mut moved = Origins::new(own, 16);
    assert_eq!(moved.learn(before.run(derive)), Learned::Nothing);
    assert_eq!(moved.count(), 1);
}

#[test]
fn the_id_of_a_network_has_a_length() {
    assert_eq!(Network::new(""), None);
    assert!(Network::new(&"x".repeat(Network::MAX_LEN)).is_some());
    assert_eq!(Network::new(&"x".repeat(Network::MAX_LEN + 1)), None);
}

#[test]
fn a_record_counts_only_for_the_owner_of_its_key() {
    let record = made_record(1, 8, Scale::OURS, 8);
    let job = check_record(&node(2, None), record);
    let refused = |why| Outcome::Refused {
        router_id: id(1),
        epoch: 1,
        why,
    };
    assert_eq!(job.run(|_| None), refused(Refusal::Key));
    assert_eq!(job.run(|_| Some(owner(7))), refused(Refusal::RouterId));
    assert_eq!(job.router_id(), id(1));
    assert_eq!(job.run(derive).router_id(), id(1));
}

#[test]
fn a_stub_of_verification_believes_all_but_the_owner() {
    let mut record = made_record(1, 8, Scale::OURS, 8);
    record.signature[0] ^= 1;
    let mut victim = node(2, None);
    let job = check_record(&victim, record);
    assert!(matches!(job.trust(|_| None), Outcome::Refused { .. }));
    assert_eq!(victim.learn(job.trust(derive)), Learned::Record);
    let claim = Claim {
        proof: Some(Proof {
            epoch: 1,
            element: Element([0; 20]),
        }),
        ..own_announcement(&node(1, None))
    };
    let job = check(&victim, &claim);
    assert!(matches!(victim.learn(job.trust(derive)), Learned::Proof(_)));
}

// ---- epochs

#[test]
fn an_origin_takes_eight_seqnos_to_the_epoch() {
    let mut origin = node(1, Some(8190));
    let mut seen = vec![(origin.own().epoch(), origin.own().seqno())];
    for _ in 0..17 {
        let bump = origin.bump();
        let last = seen.last().unwrap().1;
        let (epoch, seqno) = (origin.own().epoch(), origin.own().seqno());
        assert_eq!(seqno.since(last), 1, "also where it wraps");
        assert_eq!(bump == Bump::Epoch, seen.last().unwrap().0 != epoch);
        seen.push((epoch, seqno));
    }
    assert_eq!(seen[0], (8191, Seqno(65_528)));
    assert_eq!(seen[8], (8192, Seqno(0)));
    assert_eq!(seen[17], (8193, Seqno(9)));
    assert_eq!(origin.renew(), Bump::Epoch);
    assert_eq!(
        (origin.own().epoch(), origin.own().seqno()),
        (8194, Seqno(16))
    );
}

#[test]
fn the_epoch_before_the_newest_still_counts_and_older_ones_do_not() {
    let mut origin = node(1, Some(8190));
    let mut victim = node(2, None);
    let mut announced = Vec::new();
    for _ in 0..3 {
        take_record(&mut victim, origin.own().record());
        let claim = own_announcement(&origin);
        assert!(accepts(&mut victim, &claim));
        announced.push((claim, origin.own().record().clone()));
        origin.renew();
    }
    assert!(accepts(&mut victim, &announced[2].0));
    assert!(accepts(&mut victim, &announced[1].0));
    assert_eq!(
        settle(&mut victim, &announced[0].0),
        Ok(Judgement::Refused(Reason::Stale))
    );
    assert_eq!(victim.offered(announced[0].1.clone()), Offer::Stale);
    assert_eq!(victim.offered(announced[1].1.clone()), Offer::Known);
    assert_eq!(victim.record(id(1), Some(8192)).unwrap(), &announced[1].1);
    assert_eq!(victim.record(id(1), Some(1)).unwrap(), &announced[2].1);
}

#[test]
fn the_epoch_before_the_newest_may_arrive_after_it() {
    let mut origin = node(1, None);
    let mut victim = node(2, None);
    let (older, claim) = (origin.own().record().clone(), own_announcement(&origin));
    origin.renew();
    take_record(&mut victim, origin.own().record());
    assert_eq!(victim.judge(&claim), Judgement::NeedRecord { epoch: 1 });
    assert_eq!(take_record(&mut victim, &older), Learned::Record);
    assert!(accepts(&mut victim, &claim));
    assert!(accepts(&mut victim, &own_announcement(&origin)));
}

#[test]
fn seqnos_that_have_come_round_are_no_use_for_a_replay() {
    let old = node(1, None);
    let recorded = own_announcement(&old);
    // 8192 epochs later, the seqnos are the same.
    let new = node(1, Some(8192));
    assert_eq!(new.own().seqno(), old.own().seqno());
    let mut victim = node(2, None);
    take_record(&mut victim, new.own().record());
    assert_eq!(victim.judge(&recorded), Judgement::Refused(Reason::Stale));
    assert_eq!(victim.offered(old.own().record().clone()), Offer::Stale);
    let renamed = Claim {
        proof: Some(Proof {
            epoch: 8193,
            ..recorded.proof.unwrap()
        }),
        ..recorded
    };
    assert_eq!(
        settle(&mut victim, &renamed),
        Err(Learned::Refused(Refusal::Element))
    );
}

#[test]
fn an_epoch_whose_seqnos_do_not_follow_ends_the_one_before() {
    let first = made_record(4, 100, Scale::OURS, 8);
    for base in [107, 93, 100, 40_000] {
        let next = made_record(5, base, Scale::OURS, 8);
        let mut victim = node(2, None);
        take_record(&mut victim, &first);
        assert_eq!(take_record(&mut victim, &next), Learned::Record);
        assert_eq!(victim.record(id(1), Some(4)).unwrap(), &next);
        assert_eq!(victim.offered(first.clone()), Offer::Stale);
    }
    let next = made_record(5, 108, Scale::OURS, 8);
    let mut victim = node(2, None);
    take_record(&mut victim, &first);
    take_record(&mut victim, &next);
    assert_eq!(victim.record(id(1), Some(4)).unwrap(), &first);
}

#[test]
fn what_a_job_proves_is_dropped_if_its_epoch_has_gone_meanwhile() {
    let mut origin = node(1, None);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    let job = check(&victim, &own_announcement(&origin));
    for _ in 0..2 {
        origin.renew();
        take_record(&mut victim, origin.own().record());
    }
    assert_eq!(victim.learn(job.run(derive)), Learned::Nothing);

    // The same epoch once more, but another chain: an origin that says two things, forgotten between them.
    let mut victim = node(2, None);
    take_record(&mut victim, node(1, None).own().record());
    let job = check(&victim, &own_announcement(&node(1, None)));
    victim.forget(id(1));
    take_record(&mut victim, &other_record(1));
    assert_eq!(victim.learn(job.run(derive)), Learned::Nothing);
}

// ---- conflicts

/// A genuine record of node 1 that differs from the one that [`Own`] makes of that epoch.
fn other_record(epoch: u32) -> Record {
    let anchors = vec![Anchor([epoch as u8; 16]); 8];
    let base = Seqno((epoch * 8) as u16);
    Record::sign(
        &signing(1),
        &Network::default(),
        id(1),
        epoch,
        base,
        Scale::OURS,
        anchors,
    )
}

#[test]
fn two_records_of_one_epoch_are_kept_as_evidence_and_the_origin_is_not_believed() {
    let mut origin = node(1, None);
    let claim = own_announcement(&origin);
    let records = [origin.own().record().clone(), other_record(1)];
    for order in [[0, 1], [1, 0]] {
        let records = order.map(|n| records[n].clone());
        let mut victim = node(2, None);
        take_record(&mut victim, &records[0]);
        let conflict = Conflict {
            records: records.clone(),
        };
        assert_eq!(
            take_record(&mut victim, &records[1]),
            Learned::Conflict(Box::new(conflict.clone()))
        );
        assert_eq!(victim.conflicts().collect::<Vec<_>>(), [&conflict]);
        assert_eq!(conflict.router_id(), id(1));
        for claim in [
            claim,
            Claim {
                proof: None,
                ..claim
            },
        ] {
            assert_eq!(
                victim.judge(&claim),
                Judgement::Refused(Reason::Quarantined)
            );
        }
        assert_eq!(victim.record(id(1), None), None);
        assert_eq!(victim.proof(id(1), claim.seqno, METRIC), None);
        for record in records {
            assert_eq!(victim.offered(record), Offer::Refused(Refusal::Quarantined));
        }
        victim.forget(id(1));
        assert_eq!(victim.conflicts().count(), 1);
    }

    // A later epoch is believed again.
    let mut victim = node(2, None);
    for record in &records {
        take_record(&mut victim, record);
    }
    origin.renew();
    assert_eq!(
        victim.judge(&own_announcement(&origin)),
        Judgement::NeedRecord { epoch: 2 }
    );
    take_record(&mut victim, origin.own().record());
    assert!(accepts(&mut victim, &own_announcement(&origin)));
    assert_eq!(
        victim.judge(&claim),
        Judgement::Refused(Reason::Quarantined)
    );
}

#[test]
fn after_the_third_conflict_nothing_is_believed() {
    let mut origin = node(1, None);
    let mut victim = node(2, None);
    for _ in 0..3 {
        assert_eq!(
            take_record(&mut victim, origin.own().record()),
            Learned::Record
        );
        let other = other_record(origin.own().epoch());
        assert!(matches!(
            take_record(&mut victim, &other),
            Learned::Conflict(_)
        ));
        origin.renew();
    }
    assert_eq!(
        take_record(&mut victim, origin.own().record()),
        Learned::Refused(Refusal::Quarantined)
    );
    assert_eq!(
        victim.judge(&own_announcement(&origin)),
        Judgement::Refused(Reason::Quarantined)
    );
}

#[test]
fn a_conflict_about_the_older_epoch_leaves_the_newest() {
    let mut origin = node(1, None);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    origin.renew();
    take_record(&mut victim, origin.own().record());
    let third = Record::sign(
        &signing(1),
        &Network::default(),
        id(1),
        1,
        Seqno(8),
        Scale::OURS,
        vec![Anchor([9; 16]); 8],
    );
    let third = check_record(&victim, third);
    assert!(matches!(
        take_record(&mut victim, &other_record(1)),
        Learned::Conflict(_)
    ));
    assert_eq!(victim.learn(third.run(derive)), Learned::Nothing);
    assert!(accepts(&mut victim, &own_announcement(&origin)));
    assert_eq!(
        victim.record(id(1), Some(1)).unwrap().epoch(),
        2,
        "the older one has gone"
    );
}

// ---- restarts and copies

#[test]
fn a_run_begins_with_the_epoch_after_the_last_one() {
    let first = node(1, None);
    assert_eq!((first.own().epoch(), first.own().seqno()), (1, Seqno(8)));
    let second = node(1, Some(first.own().epoch()));
    assert_eq!((second.own().epoch(), second.own().seqno()), (2, Seqno(16)));
    // Killed before it was kept: the same bytes again, and no conflict.
    let again = node(1, Some(first.own().epoch()));
    assert_eq!(again.own().record(), second.own().record());
}

#[test]
fn a_restored_node_continues_after_the_epoch_that_it_is_shown() {
    let mut neighbour = node(2, None);
    let before = node(1, Some(40));
    take_record(&mut neighbour, before.own().record());

    for last in [Some(6), None] {
        let mut restored = node(1, last);
        let claim = own_announcement(&restored);
        assert_eq!(neighbour.judge(&claim), Judgement::Refused(Reason::Stale));
        let answer = neighbour.record(id(1), None).unwrap().clone();
        assert_eq!(
            take_record(&mut restored, &answer),
            Learned::Overtaken(Overtaken::Continued)
        );
        assert_eq!(restored.own().epoch(), 42);
        assert!(restored.own().seqno().is_newer_than(before.own().seqno()));
        let mut neighbour = node(2, None);
        take_record(&mut neighbour, before.own().record());
        take_record(&mut neighbour, restored.own().record());
        assert!(accepts(&mut neighbour, &own_announcement(&restored)));
        assert_eq!(
            take_record(&mut restored, &answer),
            Learned::Nothing,
            "once is enough"
        );
    }
}

#[test]
fn a_restored_node_continues_when_it_sees_a_seqno_that_it_has_not_made() {
    let mut before = node(1, None);
    before.bump();
    let mut neighbour = node(2, None);
    take_record(&mut neighbour, before.own().record());
    let claim = own_announcement(&before);
    assert!(accepts(&mut neighbour, &claim));

    let mut restored = node(1, None);
    let echo = passed_on(&neighbour, &claim, 96);
    assert_eq!(
        settle(&mut restored, &echo),
        Err(Learned::Overtaken(Overtaken::Continued))
    );
    assert_eq!(restored.own().epoch(), 2);

    let mut other = node(1, None);
    let forged = Claim {
        proof: Some(Proof {
            epoch: 1,
            element: Element([1; 20]),
        }),
        ..echo
    };
    assert_eq!(
        settle(&mut other, &forged),
        Err(Learned::Refused(Refusal::Element))
    );
    assert_eq!(other.own().epoch(), 1);
}

#[test]
fn our_own_updates_that_come_back_mean_nothing() {
    let mut origin = node(1, Some(3));
    let mut neighbour = node(2, None);
    let mut echoes = Vec::new();
    for _ in 0..12 {
        take_record(&mut neighbour, origin.own().record());
        let claim = own_announcement(&origin);
        assert!(accepts(&mut neighbour, &claim));
        let echo = passed_on(&neighbour, &claim, 96);
        assert_eq!(origin.judge(&echo), Judgement::Refused(Reason::Ours));
        echoes.push(echo);
        origin.bump();
    }
    for echo in echoes {
        for proof in [echo.proof, None] {
            assert_eq!(
                origin.judge(&Claim { proof, ..echo }),
                Judgement::Refused(Reason::Ours)
            );
        }
    }
    let old = |epoch: u32| node(1, Some(epoch - 1)).own().record().clone();
    assert_eq!(origin.offered(old(4)), Offer::Known);
    assert_eq!(node(1, Some(4)).offered(old(4)), Offer::Stale);
}

#[test]
fn another_record_of_our_epoch_makes_us_leave_it() {
    let mut origin = node(1, None);
    assert_eq!(
        take_record(&mut origin, &other_record(1)),
        Learned::Overtaken(Overtaken::Continued)
    );
    assert_eq!(origin.own().epoch(), 2);
    assert!(origin.proof(id(1), origin.own().seqno(), METRIC).is_some());
}

#[test]
fn two_nodes_with_one_key_are_noticed_and_do_not_drive_each_other_on() {
    let mut copies = [node(1, Some(9)), node(1, Some(9))];
    copies[1].renew();
    let mut noticed = 0;
    for round in 0..40 {
        let newest = copies[round % 2].own().record().clone();
        if let Learned::Overtaken(Overtaken::Cloned) =
            take_record(&mut copies[(round + 1) % 2], &newest)
        {
            noticed += 1;
        }
    }
    assert!(noticed > 0);
    let epochs = [&copies[0], &copies[1]].map(|copy| copy.own().epoch());
    assert!(epochs.iter().all(|epoch| *epoch < 20), "{epochs:?}");
    // The one that was left behind gets past the other when its epoch ends.
    let behind = usize::from(epochs[1] < epochs[0]);
    copies[behind].renew();
    assert_eq!(copies[behind].own().epoch(), epochs[1 - behind] + 1);
}

#[test]
fn the_last_epoch_is_the_end() {
    let mut origin = node(1, Some(u32::MAX - 1));
    assert_eq!(origin.own().epoch(), u32::MAX);
    for _ in 0..7 {
        assert_eq!(origin.bump(), Bump::Seqno);
    }
    assert_eq!(origin.bump(), Bump::Exhausted);
    assert_eq!(origin.renew(), Bump::Exhausted);
    let mut victim = node(2, None);
    take_record(&mut victim, origin.own().record());
    assert!(accepts(&mut victim, &own_announcement(&origin)));
    assert_eq!(node(1, Some(u32::MAX)).own().epoch(), u32::MAX);
}

#[test]
fn the_seed_is_not_shown() {
    let shown = format!("{:?}", node(1, None).own());
    assert!(shown.starts_with("Own { owner: "), "{shown}");
    assert!(!shown.contains("signing"), "{shown}");
}

// ---- bounds

#[test]
fn no_more_origins_are_known_than_may_be() {
    let mut victim = Origins::new(Own::new(&seed(0), owner(0), None), 4);
    for n in 1..=3 {
        assert_eq!(
            take_record(&mut victim, node(n, None).own().record()),
            Learned::Record
        );
    }
    let one_more = node(4, None).own().record().clone();
    assert_eq!(
        take_record(&mut victim, &one_more),
        Learned::Refused(Refusal::Full)
    );
    // A job that was begun while there was room.
    let job = check_record(&node(9, None), one_more);
    assert_eq!(
        victim.learn(job.run(derive)),
        Learned::Refused(Refusal::Full)
    );
    victim.forget(id(0));
    victim.forget(id(2));
    victim.forget(id(2));
    assert_eq!(victim.count(), 3);
    assert_eq!(victim.owner(id(2)), None);
    assert_eq!(victim.owner(id(0)), Some(&owner(0)));
    assert_eq!(victim.learn(job.run(derive)), Learned::Record);
}

#[test]
fn of_the_origins_in_conflict_only_some_outlive_their_routes() {
    let mut victim = Origins::new(Own::new(&seed(0), owner(0), None), 1000);
    for n in 1..=100 {
        let own = Own::new(&seed(n), owner(n), None);
        take_record(&mut victim, own.record());
        let anchors = vec![Anchor([0; 16]); 8];
        let other = Record::sign(
            &signing(n),
            &Network::default(),
            id(n),
            1,
            Seqno(8),
            Scale::OURS,
            anchors,
        );
        assert!(matches!(
            take_record(&mut victim, &other),
            Learned::Conflict(_)
        ));
    }
    for n in 1..=100 {
        victim.forget(id(n));
    }
    assert_eq!((victim.count(), victim.conflicts().count()), (65, 64));
}

#[test]
fn a_second_key_with_the_same_prefix_or_router_id_is_refused() {
    let same_prefix = |key: &[u8; 32]| {
        derive(key).map(|mut owner| {
            owner.prefix = tests::owner(1).prefix;
            owner
        })
    };
    let mut victim = node(2, None);
    take_record(&mut victim, node(1, None).own().record());
    let job = check_record(&victim, node(3, None).own().record().clone());
    assert_eq!(
        victim.learn(job.run(same_prefix)),
        Learned::Refused(Refusal::Taken)
    );

    let thief = Record::sign(
        &signing(3),
        &Network::default(),
        id(1),
        9,
        Seqno(0),
        Scale::OURS,
        vec![Anchor([0; 16]); 8],
    );
    assert_eq!(
        victim.offered(thief.clone()),
        Offer::Refused(Refusal::Taken)
    );
    let job = check_record(&node(4, None), thief);
    let outcome = job.run(|_| Some(owner(1)));
    assert_eq!(victim.learn(outcome), Learned::Refused(Refusal::Taken));
}

// ---- all of it together

#[derive(Clone, Debug)]
enum Step {
    /// The origin takes its next seqno.
    Bump,
    /// The origin restarts, and remembers the epoch so many before its last one.
    Restart(u32),
    /// An honest neighbour tells the victim about the origin.
    Tell { metric: u16 },
    /// The liar hears of the origin.
    Hear { metric: u16 },
    /// The liar tells the victim about a seqno so many before the newest, with what it has: an element that it heard, hashed on
    /// as if the claim were right.
    Lie {
        back: u16,
        metric: u16,
        heard: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Bump),
        1 => (0_u32..3).prop_map(Step::Restart),
        3 => (1_u16..30).prop_map(|hops| Step::Tell { metric: hops * 96 }),
        3 => (1_u16..30).prop_map(|hops| Step::Hear { metric: hops * 96 }),
        9 => (0_u16..20, 96_u16..3000, any::<usize>())
            .prop_map(|(back, metric, heard)| Step::Lie { back, metric, heard }),
    ]
}

/// Does what a router does, and asks whoever claims something for its record.
fn persuade(at: &mut Origins, records: &[Record], claim: &Claim) -> bool {
    if let Judgement::NeedRecord { epoch } = at.judge(claim)
        && let Some(record) = records.iter().rfind(|record| record.epoch() == epoch)
    {
        take_record(at, record);
    }
    accepts(at, claim)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Over restarts, epochs and whatever the victim knows from others: honest updates are accepted, and what a liar says is
    /// accepted only if it heard of that very seqno at no higher level.
    #[test]
    fn a_liar_never_looks_nearer_than_it_was(steps in prop::collection::vec(step(), 1..60)) {
        let mut origin = node(1, None);
        let mut victim = node(2, None);
        let mut records = vec![origin.own().record().clone()];
        let mut heard: Vec<(u16, Claim)> = Vec::new();
        for step in steps {
            match step {
                Step::Bump => {
                    origin.bump();
                    records.push(origin.own().record().clone());
                }
                Step::Restart(back) => {
                    let last = origin.own().epoch();
                    let mut restored = node(1, last.checked_sub(back).filter(|last| *last > 0));
                    // A neighbour shows it the newest record, and an element of the newest seqno.
                    take_record(&mut restored, origin.own().record());
                    let echo = announcement(&origin, id(1), origin.own().seqno(), METRIC);
                    let _ = settle(&mut restored, &Claim { sender: id(5), ..echo });
                    prop_assert!(restored.own().epoch() > last || !echoed_is_newer(&echo, &restored));
                    origin = restored;
                    records.push(origin.own().record().clone());
                }
                Step::Tell { metric } => {
                    let seqno = origin.own().seqno();
                    let claim = announcement(&origin, id(1), seqno, Metric(metric));
                    let claim = Claim { sender: id(4), ..claim };
                    prop_assert!(persuade(&mut victim, &records, &claim));
                }
                Step::Hear { metric } => {
                    let seqno = origin.own().seqno();
                    let claim = announcement(&origin, id(1), seqno, Metric(metric));
                    heard.push((Scale::OURS.level(Metric(metric)), claim));
                }
                Step::Lie { back, metric, heard: which } => {
                    if heard.is_empty() {
                        continue;
                    }
                    let (known, basis) = heard[which % heard.len()];
                    let proof = basis.proof.unwrap();
                    let seqno = Seqno(origin.own().seqno().0.wrapping_sub(back));
                    let level = Scale::OURS.level(Metric(metric));
                    let honest = heard.iter().any(|(at, claim)| {
                        claim.seqno == seqno && *at <= level
                    });
                    for (epoch, chained) in [
                        (proof.epoch, basis.seqno),
                        (proof.epoch, seqno),
                        (origin.own().epoch(), seqno),
                    ] {
                        let chain = chain(epoch, chained);
                        let claim = Claim {
                            seqno,
                            metric: Metric(metric),
                            proof: Some(Proof { epoch, element: chain.climb(proof.element, known, level) }),
                            sender: id(3),
                            ..basis
                        };
                        let accepted = persuade(&mut victim, &records, &claim);
                        prop_assert!(honest || !accepted, "{claim:?}");
                    }
                }
            }
        }
    }
}

fn echoed_is_newer(echo: &Claim, than: &Origins) -> bool {
    echo.seqno.is_newer_than(than.own().seqno())
}
