//! Whose a datagram is, by its first bytes: what anybody on the Internet may have written.

use std::sync::Arc;

use wireguard::{Message, Session};

use crate::{discard::Reason, fib::Fib};

/// Where datagrams go.
#[derive(Clone, Copy, Debug)]
pub enum Way<'fib> {
    /// Data, to be opened by this session.
    Session(&'fib Arc<Session>),
    /// An initiation or a response, for the gate to judge.
    Gate,
    /// A cookie for somebody who is being called.
    Cookie,
    /// Nowhere.
    Discard(Reason),
}

/// What one receive call brought of one sender, in runs that go the same way: consecutive data of one session is one run, so that its
/// lock is taken once; everything else comes one by one.
#[derive(Debug)]
pub struct Runs<'data, 'fib> {
    /// The datagrams not looked at yet, end to end.
    rest: &'data [u8],
    /// Bytes in each datagram but the last.
    segment: usize,
    fib: &'fib Fib,
}

impl<'data, 'fib> Runs<'data, 'fib> {
    /// The runs of `data`, which is cut every `segment` bytes (at least 1).
    pub fn new(data: &'data [u8], segment: usize, fib: &'fib Fib) -> Self {
        Self {
            rest: data,
            segment,
            fib,
        }
    }

    fn way(&self, datagram: &[u8]) -> Way<'fib> {
        match Message::of(datagram) {
            Some(Message::Data { receiver, .. }) => match self.fib.receiver(receiver) {
                Some(session) => Way::Session(session),
                None => Way::Discard(Reason::UnknownReceiver),
            },
            Some(Message::Initiation | Message::Response) => Way::Gate,
            Some(Message::Cookie { receiver }) => match self.fib.receiver(receiver) {
                Some(_) => Way::Cookie,
                None => Way::Discard(Reason::UnknownReceiver),
            },
            None => Way::Discard(Reason::NotWireguard),
        }
    }
}

impl<'data, 'fib> Iterator for Runs<'data, 'fib> {
    /// Where they go, and the datagrams, end to end.
    type Item = (Way<'fib>, &'data [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut datagrams = self.rest.chunks(self.segment);
        let first = datagrams.next()?;
        let way = self.way(first);
        let mut length = first.len();
        if let Way::Session(session) = way {
            let more = datagrams.take_while(|datagram| match Message::of(datagram) {
                Some(Message::Data { receiver, .. }) => receiver >> 8 == session.index(),
                _ => false,
            });
            length += more.map(<[u8]>::len).sum::<usize>();
        }
        let run;
        (run, self.rest) = self.rest.split_at(length);
        Some((way, run))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use wireguard::{Device, Kind, Peer, Upkeep};

    use super::*;
    use crate::testdata::identity;

    /// A FIB with sessions with the second and third of the pool, and their indices.
    fn fib() -> (Fib, [u32; 2]) {
        let own = identity(0);
        let mut device = Device::new(own.private_key().clone(), 1);
        let sessions = [1, 2].map(|n| {
            let node = identity(n).node();
            let peer = Peer {
                key: node.public_key(),
                preshared: None,
                kind: Kind::Mesh,
                allowed: vec![node.prefix()],
                endpoints: Vec::new(),
                persistent_keepalive: None,
                upkeep: Upkeep::OnDemand,
            };
            let session = device.add_peer(peer, Instant::now()).unwrap();
            (session, vec![node.prefix()])
        });
        let indices = [sessions[0].0.index(), sessions[1].0.index()];
        let node = own.node();
        (
            Fib::new(node.address(), node.prefix(), [0; 8], sessions),
            indices,
        )
    }

    /// 32 bytes of type 4 for a keypair of the session with this index.
    fn data(index: u32, keypair: u8) -> Vec<u8> {
        let mut datagram = vec![0; 32];
        datagram[0] = 4;
        datagram[4..8].copy_from_slice(&(index << 8 | u32::from(keypair)).to_le_bytes());
        datagram
    }

    #[test]
    fn data_of_one_session_is_one_run_and_everything_else_comes_alone() {
        let (fib, [one, other]) = fib();
        let unknown = [one, other].iter().max().unwrap() + 1;
        let datagrams = [
            data(one, 0),
            data(one, 1),
            data(other, 0),
            vec![9; 32],
            vec![9; 32],
            data(unknown, 0),
            data(one, 0),
            data(one, 0)[..20].to_vec(),
        ];
        let told: Vec<_> = Runs::new(&datagrams.concat(), 32, &fib)
            .map(|(way, run)| match way {
                Way::Session(session) if session.index() == one => format!("one {}", run.len()),
                Way::Session(_) => format!("other {}", run.len()),
                Way::Gate | Way::Cookie => format!("{way:?}"),
                Way::Discard(reason) => format!("{} {}", reason.name(), run.len()),
            })
            .collect();
        assert_eq!(
            told,
            [
                "one 64",
                "other 32",
                "not-wireguard 32",
                "not-wireguard 32",
                "unknown-receiver 32",
                "one 32",
                "not-wireguard 20"
            ]
        );
    }
}
