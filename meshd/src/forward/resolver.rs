//! The node's name server: packets to `::53` of the own /64, answered without a socket.
//!
//! Packet threads take out what is for it ([`is_question`]) and who may ask: this host, and what is behind this node. One thread answers
//! from the directory of the snapshot; what it has no time for is dropped and counted.

use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use names::Directory;
use wireguard::Session;

use super::{Egress, Shared};
use crate::{
    discard::Reason,
    fib::Fib,
    io::clock::Clock,
    packet::{HEADER, Ipv6Header, UDP, checksum, udp_ports, udp_to},
};

/// Port of DNS.
const PORT: u16 = 53;
/// Questions that wait: some milliseconds of work.
pub const QUESTIONS: usize = 128;
const _: () = assert!(
    QUESTIONS * 1500 <= 256 << 10,
    "whoever is behind the node fills this queue"
);

/// A packet for the name server.
#[derive(Debug)]
pub struct Question {
    /// Who sent it, and gets the answer.
    pub asker: Asker,
    /// The packet, whose source belongs to the asker.
    pub packet: Vec<u8>,
}

/// Who asks.
#[derive(Debug)]
pub enum Asker {
    /// This host, or a workload: whoever has the address that the question came from.
    Inside,
    /// A device behind this node, in this session.
    Device(Arc<Session>),
}

/// Whether a packet to the name server's address is for it; whatever else is sent there finds no port.
pub(super) fn is_question(packet: &[u8]) -> bool {
    Ipv6Header::parse(packet)
        .is_ok_and(|header| matches!(udp_ports(&header, packet), Some((1.., PORT))))
}

/// The packet that answers one for which [`is_question`] holds.
///
/// # Errors
/// Why there is none.
pub(super) fn reply(packet: &[u8], directory: &Directory) -> Result<Vec<u8>, Reason> {
    let header = Ipv6Header::parse(packet).map_err(|_| Reason::Malformed)?;
    let (from, to) = udp_ports(&header, packet).ok_or(Reason::Malformed)?;
    let datagram = &packet[HEADER..HEADER + header.payload];
    // A checksum of 0 is none, which IPv6 does not allow (RFC 8200 §8.1).
    if datagram[6..8] == [0, 0] || checksum(header.source, header.destination, UDP, datagram) != 0 {
        return Err(Reason::Malformed);
    }
    let answer = names::answer(&datagram[8..], directory).map_err(|_| Reason::QueryRefused)?;
    let source = (header.destination, to);
    Ok(udp_to(source, (header.source, from), &answer))
}

/// The thread that answers.
#[derive(Debug)]
pub struct Resolver {
    fib: Arc<ArcSwap<Fib>>,
    clock: Clock,
    shared: Shared,
    egress: Egress,
    questions: Receiver<Question>,
}

impl Resolver {
    /// Answers what comes over `questions`. `seed` begins the names of fragments.
    pub fn new(shared: Shared, questions: Receiver<Question>, seed: u32) -> Self {
        // It asks itself nothing: else the queue would never close.
        let shared = Shared {
            questions: None,
            ..shared
        };
        Self {
            fib: Arc::clone(&shared.fib),
            clock: shared.clock,
            egress: Egress::new(shared.outlet.clone(), seed),
            shared,
            questions,
        }
    }

    /// Answers until nobody is left who could ask.
    pub fn run(mut self) {
        while let Ok(question) = self.questions.recv() {
            let fib = self.fib.load_full();
            if let Err(reason) = self.answer(&question, &fib) {
                self.shared.outlet.discards.discard(reason, 1);
            }
        }
    }

    fn answer(&mut self, question: &Question, fib: &Fib) -> Result<(), Reason> {
        let directory = fib.directory().ok_or(Reason::QueryRefused)?;
        let reply = reply(&question.packet, directory)?;
        match &question.asker {
            Asker::Inside => self.shared.deliver(&reply),
            Asker::Device(session) => {
                let now = self.clock.now();
                self.egress.send(session, &mut Some(&*reply), fib, now);
                self.egress.flush(now);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RecordType},
    };

    use super::*;
    use crate::{
        config::NETWORK_LABEL,
        identity::{DERIVATION, resolver_address},
        packet::{ipv6, udp_between},
        testdata,
    };

    fn directory() -> Directory {
        let mut directory = Directory::new("internal", NETWORK_LABEL, DERIVATION).unwrap();
        directory.add_own("nas", testdata::identity(0).node().prefix(), []);
        directory
    }

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(
            Name::from_ascii(name).unwrap(),
            RecordType::AAAA,
        ));
        message.to_vec().unwrap()
    }

    fn ends() -> (Ipv6Addr, Ipv6Addr) {
        let node = testdata::identity(0).node();
        (node.address(), resolver_address(node.prefix()))
    }

    #[test]
    fn a_question_is_answered_from_where_it_was_asked() {
        let (host, server) = ends();
        let packet = udp_to((host, 4000), (server, PORT), &query("nas.mesh.internal."));
        assert!(is_question(&packet));
        let reply = reply(&packet, &directory()).unwrap();
        let header = Ipv6Header::parse(&reply).unwrap();
        assert_eq!((header.source, header.destination), (server, host));
        assert_eq!(udp_ports(&header, &reply), Some((PORT, 4000)));
        assert_eq!(checksum(server, host, UDP, &reply[HEADER..]), 0);
        let told = Message::from_vec(&reply[HEADER + 8..]).unwrap();
        assert_eq!(told.answers[0].data.to_string(), host.to_string());
    }

    #[test]
    fn a_nodes_key_and_a_workloads_name_lead_to_their_addresses() {
        let (host, server) = ends();
        let other = testdata::identity(1).node();
        let key = names::key_label(other.public_key().as_bytes());
        for (name, address) in [
            (format!("{key}.id.internal."), other.address()),
            (
                format!("web.{key}.id.internal."),
                crate::identity::workload_address(other.prefix(), "web"),
            ),
        ] {
            let packet = udp_to((host, 4000), (server, PORT), &query(&name));
            let reply = reply(&packet, &directory()).unwrap();
            let told = Message::from_vec(&reply[HEADER + 8..]).unwrap();
            assert_eq!(told.answers[0].data.to_string(), address.to_string());
        }
    }

    #[test]
    fn what_is_damaged_or_an_answer_itself_is_not_answered() {
        let (host, server) = ends();
        let mut packet = udp_to((host, 4000), (server, PORT), &query("nas.mesh.internal."));
        packet[HEADER + 20] ^= 1;
        assert_eq!(reply(&packet, &directory()), Err(Reason::Malformed));
        packet[HEADER + 6..HEADER + 8].fill(0);
        assert_eq!(reply(&packet, &directory()), Err(Reason::Malformed));
        let mut answer = query("nas.mesh.internal.");
        answer[2] |= 0x80;
        let packet = udp_to((host, 4000), (server, PORT), &answer);
        assert_eq!(reply(&packet, &directory()), Err(Reason::QueryRefused));
    }

    #[test]
    fn only_udp_to_its_port_is_for_it() {
        let (host, server) = ends();
        let asked = query("nas.mesh.internal.");
        assert!(!is_question(&udp_to((host, 0), (server, PORT), &asked)));
        assert!(!is_question(&udp_to((host, 4000), (server, 54), &asked)));
        assert!(!is_question(&ipv6(host, server, 6, &[0; 20])));
        assert!(is_question(&udp_between(host, server, PORT, &asked)));
        assert!(!is_question(&[]));
    }
}
