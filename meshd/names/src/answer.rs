//! One query, one answer.

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{AAAA, PTR, SOA},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

use crate::directory::{Directory, Found};

/// Longest answer, in bytes: it fits into every packet of the overlay (the DNS Flag Day's value).
pub const MAX_ANSWER: usize = 1232;
/// Longest answer for who does not say what he takes (RFC 1035 §4.2.1).
const MIN_PAYLOAD: u16 = 512;
/// How long an answer holds, in seconds: membership and workloads come and go.
const TTL: u32 = 30;
/// How long it holds that there is nothing, in seconds (RFC 2308 §5): somebody who has just joined is found soon.
const NEGATIVE_TTL: u32 = 5;

/// Why a datagram gets no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unanswered {
    /// It is shorter than a header.
    #[error("too short for a message")]
    Short,
    /// It is itself an answer: to answer it could go on for ever.
    #[error("an answer, not a query")]
    Response,
    /// There is an answer, which cannot be written.
    #[error("no way to write the answer")]
    Unencodable,
}

/// Answers one query (RFC 1035, RFC 2308, RFC 6891), in at most [`MAX_ANSWER`] bytes and no more than its sender takes.
///
/// # Errors
/// [`Unanswered`]: nothing is to be sent.
pub fn answer(query: &[u8], directory: &Directory) -> Result<Vec<u8>, Unanswered> {
    let header = Header::read(&mut BinDecoder::new(query)).map_err(|_| Unanswered::Short)?;
    if header.metadata.message_type == MessageType::Response {
        return Err(Unanswered::Response);
    }
    let (told, longest) = match Message::from_vec(query) {
        Ok(query) => {
            let takes = query.edns.as_ref().map_or(MIN_PAYLOAD, Edns::max_payload);
            let longest = usize::from(takes.max(MIN_PAYLOAD)).min(MAX_ANSWER);
            (respond(&query, directory), longest)
        }
        Err(_) => (
            plain(&header.metadata, ResponseCode::FormErr),
            MIN_PAYLOAD.into(),
        ),
    };
    let fits = |told: &Message| told.to_vec().ok().filter(|bytes| bytes.len() <= longest);
    // Two names of 255 bytes besides the question fit always; this is for a library that thinks otherwise.
    let told = fits(&told)
        .or_else(|| fits(&told.truncate()))
        .or_else(|| fits(&plain(&header.metadata, ResponseCode::ServFail)));
    told.ok_or(Unanswered::Unencodable)
}

/// An answer without records.
fn plain(query: &Metadata, code: ResponseCode) -> Message {
    let mut told = Message::response(query.id, query.op_code);
    told.metadata = Metadata::response_from_request(query);
    told.metadata.checking_disabled = false;
    told.metadata.response_code = code;
    told
}

fn respond(query: &Message, directory: &Directory) -> Message {
    let mut told = plain(&query.metadata, ResponseCode::NoError);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_ANSWER as u16);
        told.edns = Some(edns);
        if asked.version() > 0 {
            told.metadata.response_code = ResponseCode::BADVERS;
            return told;
        }
    }
    if query.metadata.op_code != OpCode::Query {
        told.metadata.response_code = ResponseCode::NotImp;
        return told;
    }
    let [question] = query.queries.as_slice() else {
        told.metadata.response_code = ResponseCode::FormErr;
        return told;
    };
    told.queries.push(question.clone());
    look_up(question, directory, &mut told);
    told
}

fn look_up(question: &Query, directory: &Directory, told: &mut Message) {
    if ![DNSClass::IN, DNSClass::ANY].contains(&question.query_class()) {
        told.metadata.response_code = ResponseCode::Refused;
        return;
    }
    let wanted = question.query_type();
    let wants = |kind: RecordType| wanted == kind || wanted == RecordType::ANY;
    let Some((zone, found)) = directory.look_up(question.name()) else {
        told.metadata.response_code = ResponseCode::Refused;
        return;
    };
    told.metadata.authoritative = true;
    let data = match found {
        Found::Address(address) => wants(RecordType::AAAA).then_some(RData::AAAA(AAAA(address))),
        Found::Pointer(name) => wants(RecordType::PTR).then(|| RData::PTR(PTR(name.clone()))),
        Found::Apex => wants(RecordType::SOA).then(|| soa(zone)),
        Found::Empty => None,
        Found::Nothing => {
            told.metadata.response_code = ResponseCode::NXDomain;
            None
        }
    };
    match data {
        Some(data) => {
            let record = Record::from_rdata(question.name().clone(), TTL, data);
            told.answers.push(record);
        }
        // RFC 2308 §3: the SOA record says for how long there is nothing.
        None => {
            let record = Record::from_rdata(zone.clone(), NEGATIVE_TTL, soa(zone));
            told.authorities.push(record);
        }
    }
}

/// The SOA record of a zone. Nobody transfers it, so that its serial and times mean nothing.
fn soa(zone: &Name) -> RData {
    let nobody = Name::from_labels([&b"nobody"[..], b"invalid"]).unwrap_or_else(|_| Name::root());
    RData::SOA(SOA::new(
        zone.clone(),
        nobody,
        1,
        3600,
        600,
        86_400,
        NEGATIVE_TTL,
    ))
}
