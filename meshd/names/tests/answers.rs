//! Queries and what becomes of them: names of all kinds, other questions, and what is no query.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../fuzz/targets/queries.rs"]
mod queries;

use std::{fmt::Write as _, fs, net::Ipv6Addr, path::Path};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use names::{Directory, MAX_ANSWER, NameError, Unanswered, answer, key_label};
use proptest::prelude::*;
use queries::{DERIVATION, PREFIXES, directory};

fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask_with(message: &Message) -> Message {
    let bytes = answer(&message.to_vec().unwrap(), &directory()).unwrap();
    let told = Message::from_vec(&bytes).unwrap();
    assert_eq!(told.metadata.id, message.metadata.id);
    told
}

/// In one line: the code, the data, and the zone that says there is none.
fn ask(name: &str, kind: RecordType) -> String {
    let told = ask_with(&message(name, kind));
    let mut line = told.metadata.response_code.to_str().to_owned();
    assert_eq!(
        told.metadata.authoritative,
        told.metadata.response_code != ResponseCode::Refused
    );
    for record in &told.answers {
        assert_eq!(
            record.name.to_ascii(),
            Name::from_ascii(name).unwrap().to_ascii()
        );
        write!(line, " {} {}", record.record_type(), record.data).unwrap();
    }
    for record in &told.authorities {
        write!(line, " ({})", record.name).unwrap();
    }
    line
}

fn nibbles(address: Ipv6Addr) -> String {
    Name::from(address).to_ascii()
}

fn inside(node: usize, identifier: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIXES[node].network().to_bits() | u128::from(identifier))
}

#[test]
fn names_have_the_answers_of_this_table() {
    use RecordType::{A, AAAA, ANY, HTTPS, PTR, SOA};
    let (own, pi) = (key_label(&[1; 32]), key_label(&[2; 32]));
    let table = [
        // Nodes with a name.
        (
            "nas.home.internal.",
            AAAA,
            "No Error AAAA 600:0:0:1::1".to_owned(),
        ),
        (
            "NaS.hOme.INTERNAL.",
            AAAA,
            "No Error AAAA 600:0:0:1::1".to_owned(),
        ),
        (
            "pi.home.internal.",
            ANY,
            "No Error AAAA 600:0:0:2::1".to_owned(),
        ),
        (
            "pi.home.internal.",
            A,
            "No Error (home.internal.)".to_owned(),
        ),
        (
            "pi.home.internal.",
            HTTPS,
            "No Error (home.internal.)".to_owned(),
        ),
        (
            "nobody.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        (
            "*.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        // What is on this node is known, on others it is computed.
        (
            "web.nas.home.internal.",
            AAAA,
            "No Error AAAA 600:0:0:1::80".to_owned(),
        ),
        (
            "phone.nas.home.internal.",
            AAAA,
            "No Error AAAA 600:0:0:1::5555".to_owned(),
        ),
        (
            "db.nas.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        (
            "web.pi.home.internal.",
            AAAA,
            "No Error AAAA 600:0:0:2::3".to_owned(),
        ),
        (
            "_x.pi.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        (
            "web.nobody.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        (
            "a.web.pi.home.internal.",
            AAAA,
            "Non-Existent Domain (home.internal.)".to_owned(),
        ),
        // By key.
        (
            &format!("{own}.id.internal."),
            AAAA,
            "No Error AAAA 600:0:0:1::1".to_owned(),
        ),
        (
            &format!("{}.id.internal.", pi.to_ascii_uppercase()),
            AAAA,
            "No Error AAAA 600:0:0:2::1".to_owned(),
        ),
        (
            &format!("web.{own}.id.internal."),
            AAAA,
            "No Error AAAA 600:0:0:1::80".to_owned(),
        ),
        (
            &format!("db.{own}.id.internal."),
            AAAA,
            "Non-Existent Domain (id.internal.)".to_owned(),
        ),
        (
            &format!("web.{}.id.internal.", key_label(&[9; 32])),
            AAAA,
            "No Error AAAA 600:0:0:9::3".to_owned(),
        ),
        (
            &format!("{}.id.internal.", key_label(&[200; 32])),
            AAAA,
            "Non-Existent Domain (id.internal.)".to_owned(),
        ),
        (
            &format!("{}7.id.internal.", &pi[..51]),
            AAAA,
            "Non-Existent Domain (id.internal.)".to_owned(),
        ),
        (
            "pi.id.internal.",
            AAAA,
            "Non-Existent Domain (id.internal.)".to_owned(),
        ),
        // The zones.
        (
            "home.internal.",
            SOA,
            "No Error SOA home.internal. nobody.invalid. 1 3600 600 86400 5".to_owned(),
        ),
        (
            "home.internal.",
            AAAA,
            "No Error (home.internal.)".to_owned(),
        ),
        ("id.internal.", AAAA, "No Error (id.internal.)".to_owned()),
        ("6.0.ip6.arpa.", PTR, "No Error (6.0.ip6.arpa.)".to_owned()),
        // Backwards.
        (
            &nibbles(inside(0, 1)),
            PTR,
            "No Error PTR nas.home.internal.".to_owned(),
        ),
        (
            &nibbles(inside(0, 0x80)),
            PTR,
            "No Error PTR web.nas.home.internal.".to_owned(),
        ),
        (
            &nibbles(inside(1, 1)),
            PTR,
            "No Error PTR pi.home.internal.".to_owned(),
        ),
        (
            &nibbles(inside(1, 1)),
            AAAA,
            "No Error (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            &nibbles(inside(1, 3)),
            PTR,
            "Non-Existent Domain (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            &format!("0.{}", nibbles(inside(1, 1))),
            PTR,
            "Non-Existent Domain (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.6.0.ip6.arpa.",
            PTR,
            "Non-Existent Domain (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.6.0.ip6.arpa.",
            PTR,
            "No Error (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            "3.0.0.0.0.0.0.0.0.0.0.0.0.0.6.0.ip6.arpa.",
            PTR,
            "Non-Existent Domain (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            "0.0.6.0.ip6.arpa.",
            PTR,
            "No Error (6.0.ip6.arpa.)".to_owned(),
        ),
        (
            "00.6.0.ip6.arpa.",
            PTR,
            "Non-Existent Domain (6.0.ip6.arpa.)".to_owned(),
        ),
        // What is others' affair.
        ("internal.", AAAA, "Query Refused".to_owned()),
        ("corp.internal.", AAAA, "Query Refused".to_owned()),
        ("example.org.", AAAA, "Query Refused".to_owned()),
        ("2.0.ip6.arpa.", PTR, "Query Refused".to_owned()),
        (".", RecordType::NS, "Query Refused".to_owned()),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn an_answer_says_what_can_be_relied_on() {
    let told = ask_with(&message("pI.home.internal.", RecordType::AAAA));
    let metadata = told.metadata;
    assert!(metadata.authoritative && metadata.recursion_desired);
    assert!(!metadata.recursion_available && !metadata.truncation && !metadata.authentic_data);
    // The letters come back as they were sent, which some take for a proof.
    assert_eq!(told.queries[0].name().to_ascii(), "pI.home.internal.");
    assert_eq!(told.answers[0].ttl, 30);
    let nothing = ask_with(&message("x.home.internal.", RecordType::AAAA));
    assert_eq!(nothing.authorities[0].ttl, 5);
    assert!(told.edns.is_none() && nothing.edns.is_none());
}

#[test]
fn whoever_asks_for_an_address_reads_it_in_the_answer() {
    let asked = |name: &str| {
        let query = names::question(name).unwrap();
        names::address_in(&answer(&query, &directory()).unwrap())
    };
    assert_eq!(asked("pi.home.internal"), Some(inside(1, 1)));
    assert_eq!(asked("nobody.home.internal"), None);
    assert_eq!(asked("example.org"), None);
    assert_eq!(names::question("a..b"), None);
    assert_eq!(
        names::address_in(&names::question("pi.home.internal").unwrap()),
        None
    );
    assert_eq!(names::address_in(&[0; 20]), None);
}

#[test]
fn edns_is_answered_and_later_versions_are_not() {
    let mut query = message("pi.home.internal.", RecordType::AAAA);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.edns = Some(edns.clone());
    let told = ask_with(&query);
    assert_eq!(
        usize::from(told.edns.as_ref().unwrap().max_payload()),
        MAX_ANSWER
    );
    assert_eq!(told.answers.len(), 1);
    edns.set_version(1);
    query.edns = Some(edns);
    let told = ask_with(&query);
    // Code 16 has two names.
    assert_eq!(
        u16::from(told.metadata.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    assert_eq!((told.answers.len(), told.edns.unwrap().version()), (0, 0));
}

#[test]
fn what_is_no_question_of_ours_is_refused_or_ignored() {
    let mut update = message("pi.home.internal.", RecordType::AAAA);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(
        ask_with(&update).metadata.response_code,
        ResponseCode::NotImp
    );
    let mut chaos = message("pi.home.internal.", RecordType::AAAA);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        ask_with(&chaos).metadata.response_code,
        ResponseCode::Refused
    );
    let mut two = message("pi.home.internal.", RecordType::AAAA);
    two.add_query(two.queries[0].clone());
    assert_eq!(ask_with(&two).metadata.response_code, ResponseCode::FormErr);
    let mut none = message("pi.home.internal.", RecordType::AAAA);
    none.queries.clear();
    assert_eq!(
        ask_with(&none).metadata.response_code,
        ResponseCode::FormErr
    );

    let good = message("pi.home.internal.", RecordType::AAAA)
        .to_vec()
        .unwrap();
    for length in 0..good.len() {
        match answer(&good[..length], &directory()) {
            Err(error) => assert_eq!((error, length < 12), (Unanswered::Short, true)),
            Ok(told) => assert_eq!(told[3] & 15, 1, "a format error, at {length} bytes"),
        }
    }
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(answer(&response, &directory()), Err(Unanswered::Response));
    // A name that points to itself.
    let mut circle = good[..12].to_vec();
    circle.extend_from_slice(&[0xc0, 12, 0, 28, 0, 1]);
    assert_eq!(answer(&circle, &directory()).unwrap()[3] & 15, 1);
}

#[test]
fn the_first_bearer_of_a_name_keeps_it() {
    let mut directory = Directory::new("internal", "home", DERIVATION).unwrap();
    directory.add_own("nas", PREFIXES[0], []);
    directory.add_node("nas", PREFIXES[1]);
    directory.add_node("Pi", PREFIXES[1]);
    assert_eq!(directory.len(), 1);
    assert!(!directory.is_empty());
    assert_eq!(
        directory.zones(),
        ["home.internal.", "id.internal.", "6.0.ip6.arpa."]
    );
}

#[test]
fn a_domain_and_a_network_are_names() {
    let new = |domain: &str, network: &str| Directory::new(domain, network, DERIVATION).map(|_| ());
    for good in ["internal", "internal.", "mesh.example.org"] {
        assert_eq!(new(good, "home"), Ok(()), "{good}");
    }
    let long = format!("{}.{}", "a".repeat(31), "b".repeat(30));
    for bad in ["", ".", "a..b", "Internal", "in ternal", ".internal", &long] {
        assert_eq!(new(bad, "home"), Err(NameError::Domain(bad.to_owned())));
    }
    for bad in ["", "Home", "a.b", "-a"] {
        assert_eq!(
            new("internal", bad),
            Err(NameError::Network(bad.to_owned()))
        );
    }
}

#[test]
fn the_longest_names_still_have_whole_answers() {
    let label = "a".repeat(63);
    let domain = format!("{}.{}", "d".repeat(30), "e".repeat(30));
    let mut directory = Directory::new(&domain, &label, DERIVATION).unwrap();
    let address = inside(0, 0x80);
    directory.add_own(&label, PREFIXES[0], [(label.clone(), address)]);
    let query = message(&nibbles(address), RecordType::PTR);
    let told = Message::from_vec(&answer(&query.to_vec().unwrap(), &directory).unwrap()).unwrap();
    assert_eq!(told.answers.len(), 1);
    assert!(!told.metadata.truncation);
    let name = told.answers[0].data.to_string();
    let query = message(&name, RecordType::AAAA);
    let told = Message::from_vec(&answer(&query.to_vec().unwrap(), &directory).unwrap()).unwrap();
    assert_eq!(told.answers[0].data.to_string(), address.to_string());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        queries::ask(&bytes);
    }

    #[test]
    fn no_change_of_a_query_makes_it_panic(at in 0usize..60, value in any::<u8>(), cut in 0usize..60) {
        let mut query = message("web.pi.home.internal.", RecordType::AAAA);
        query.edns = Some(Edns::new());
        let mut bytes = query.to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len() - cut % bytes.len());
        queries::ask(&bytes);
    }

    #[test]
    fn a_key_is_written_in_one_way(key in any::<[u8; 32]>()) {
        let label = key_label(&key);
        prop_assert!(names::is_label(&label));
        prop_assert_eq!(label.len(), 52);
    }
}

/// Writes the corpus anew: `CORPUS=1 cargo test -p names --test answers`.
fn write_corpus(directory: &Path) {
    let key = key_label(&[2; 32]);
    let mut edns = message("pi.home.internal.", RecordType::AAAA);
    edns.edns = Some(Edns::new());
    let mut later = edns.clone();
    later.edns.as_mut().unwrap().set_version(9);
    let mut notify = message("pi.home.internal.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    let mut two = message("pi.home.internal.", RecordType::AAAA);
    two.add_query(Query::query(Name::root(), RecordType::ANY));
    let mut answered = ask_with(&message("nas.home.internal.", RecordType::AAAA));
    answered.metadata.message_type = hickory_proto::op::MessageType::Query;
    let plain = [
        ("nas.home.internal.", RecordType::AAAA),
        ("web.nas.home.internal.", RecordType::AAAA),
        ("web.pi.home.internal.", RecordType::A),
        ("x.home.internal.", RecordType::ANY),
        ("home.internal.", RecordType::SOA),
        ("example.org.", RecordType::AAAA),
        (&format!("{key}.id.internal."), RecordType::AAAA),
        (&format!("web.{key}.id.internal."), RecordType::AAAA),
        (&nibbles(inside(0, 1)), RecordType::PTR),
        (&nibbles(inside(0, 0x80)), RecordType::PTR),
        ("0.0.6.0.ip6.arpa.", RecordType::PTR),
    ];
    let messages = plain
        .iter()
        .map(|(name, kind)| message(name, *kind))
        .chain([edns, later, notify, two, answered]);
    for (n, message) in messages.enumerate() {
        fs::write(directory.join(format!("{n:02}")), message.to_vec().unwrap()).unwrap();
    }
}

#[test]
fn the_corpus_is_asked_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/queries");
    if std::env::var_os("CORPUS").is_some() {
        write_corpus(&directory);
    }
    let files = fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 16, "{} entries of the corpus", files.len());
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        queries::ask(&bytes);
        for variant in 0..10_usize {
            let place = variant * 131 % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(41);
            }
            queries::ask(&bytes);
        }
    }
}
