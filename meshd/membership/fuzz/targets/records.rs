//! A record, a file and a ticket, read from any bytes.

use std::sync::OnceLock;

use membership::{Inserted, Name, NetworkKey, NodeKey, Record, Records, Ticket};

/// A network with one admin, whose seed is ones.
fn scene() -> &'static Records {
    static SCENE: OnceLock<Records> = OnceLock::new();
    SCENE.get_or_init(|| {
        let key = NetworkKey::from_seed(&[0; 32]);
        let name = |text: &str| text.parse::<Name>().expect("a name");
        Records::found(&key, name("home"), NodeKey::of_seed(&[1; 32]), name("a"), 1).0
    })
}

/// Whatever is read as a record is written as these bytes, and is taken only by a set in which its signer may make it; a file and a ticket
/// come out as they went in. One of the network whose seed is zeros can be right.
pub(crate) fn read(bytes: &[u8]) {
    let mut records = scene().clone();
    let network = records.network();
    let len = records.len();
    if let Ok(record) = Record::decode(&network, bytes) {
        assert_eq!(record.bytes(), bytes);
        match records.insert(bytes) {
            Ok(Inserted::New(id)) => {
                assert_eq!(id, record.id());
                assert!(record.is_signed(&network));
            }
            Ok(Inserted::Held) | Err(_) => assert_eq!(records.len(), len),
        }
    } else {
        assert!(records.insert(bytes).is_err());
    }
    let file = records.to_bytes();
    let (read, damaged) =
        Records::from_bytes(network, &file).expect("what was written can be read");
    assert_eq!((read.to_bytes(), damaged), (file, 0));
    assert_eq!(read.roll(), records.roll());
    if let Ok((read, _)) = Records::from_bytes(network, bytes) {
        assert!(read.to_bytes().len() <= bytes.len());
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(ticket) = text.parse::<Ticket>()
    {
        let text = ticket.to_text();
        assert!(text.len() <= Ticket::MAX_TEXT);
        let again: Ticket = text.parse().expect("what was printed can be read");
        assert_eq!(
            (again.network, again.endpoint),
            (ticket.network, ticket.endpoint)
        );
    }
}
