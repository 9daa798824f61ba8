//! The other side: one question, and what its answer says. For whoever looks whether names are answered.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};

/// The only question on its socket needs no number of its own.
const ID: u16 = 1;

/// Asks for the IPv6 address of a name; nothing if that is no name.
pub fn question(name: &str) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, RecordType::AAAA));
    message.to_vec().ok()
}

/// The IPv6 address in the answer to a [`question()`]; nothing if it says that there is none, or is no such answer.
pub fn address_in(answer: &[u8]) -> Option<Ipv6Addr> {
    let told = Message::from_vec(answer).ok()?;
    let metadata = told.metadata;
    let is_answer = (metadata.id, metadata.message_type) == (ID, MessageType::Response);
    if !is_answer || metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let data = told.answers.iter().map(|record| record.data.ip_addr());
    data.flatten().find_map(|address| match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    })
}
