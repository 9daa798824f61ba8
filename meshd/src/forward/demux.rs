//! Whose a datagram is, by its first bytes: what anybody on the Internet may have written.

use std::sync::Arc;

use wireguard::Message;

use crate::{
    discard::Reason,
    fib::{Carrier, Fib, Labelled},
    labelled::Head,
    path,
};

/// Where datagrams go.
#[derive(Clone, Copy, Debug)]
pub enum Way<'fib> {
    /// Data, to be opened by this session.
    Session(&'fib Arc<Carrier>),
    /// An initiation or a response, for the gate to judge.
    Gate,
    /// A cookie for somebody who is being called.
    Cookie,
    /// A path agent's, under a token that was given away.
    Probe,
    /// Where the label leads.
    Labelled(&'fib Arc<Labelled>),
    /// Nowhere.
    Discard(Reason),
}

/// What one receive call brought of one sender, in runs that go the same way: consecutive data of one keypair is one run, so that its
/// session is looked up and locked once, and so are consecutive datagrams under one label; everything else comes one by one.
#[derive(Debug)]
pub struct Runs<'data, 'fib> {
    /// The datagrams not looked at yet, end to end.
    rest: &'data mut [u8],
    /// Bytes in each datagram but the last.
    segment: usize,
    fib: &'fib Fib,
}

impl<'data, 'fib> Runs<'data, 'fib> {
    /// The runs of `data`, which is cut every `segment` bytes (at least 1).
    pub fn new(data: &'data mut [u8], segment: usize, fib: &'fib Fib) -> Self {
        Self {
            rest: data,
            segment,
            fib,
        }
    }
}

impl<'fib> Way<'fib> {
    /// Where a datagram goes.
    pub fn of(datagram: &[u8], fib: &'fib Fib) -> Self {
        if let Some(head) = Head::of(datagram) {
            return match fib.labelled(head.label) {
                Some(to) => Self::Labelled(to),
                None => Self::Discard(Reason::UnknownLabel),
            };
        }
        if let Ok(token) = path::probe::token_of(datagram) {
            return if fib.has_given(&token) {
                Self::Probe
            } else {
                Self::Discard(Reason::UnknownToken)
            };
        }
        match Message::of(datagram) {
            Some(Message::Data { receiver, .. }) => match fib.receiver(receiver) {
                Some(carrier) => Self::Session(carrier),
                None => Self::Discard(Reason::UnknownReceiver),
            },
            Some(Message::Initiation | Message::Response) => Self::Gate,
            Some(Message::Cookie { receiver }) => match fib.receiver(receiver) {
                Some(_) => Self::Cookie,
                None => Self::Discard(Reason::UnknownReceiver),
            },
            None => Self::Discard(Reason::NotWireguard),
        }
    }
}

impl<'data, 'fib> Iterator for Runs<'data, 'fib> {
    /// Where they go, and the datagrams, end to end.
    type Item = (Way<'fib>, &'data mut [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut datagrams = self.rest.chunks(self.segment);
        let first = datagrams.next()?;
        let way = Way::of(first, self.fib);
        let mut length = first.len();
        match way {
            Way::Session(_) => {
                let keypair = receiver(first);
                let more = datagrams.take_while(|datagram| receiver(datagram) == keypair);
                length += more.map(<[u8]>::len).sum::<usize>();
            }
            Way::Labelled(_) => {
                let head = Head::of(first);
                let more = datagrams.take_while(|datagram| Head::of(datagram) == head);
                length += more.map(<[u8]>::len).sum::<usize>();
            }
            Way::Gate | Way::Cookie | Way::Probe | Way::Discard(_) => {}
        }
        let run;
        (run, self.rest) = std::mem::take(&mut self.rest).split_at_mut(length);
        Some((way, run))
    }
}

/// The keypair that a data message is for; nothing if it is another message.
pub(super) fn receiver(datagram: &[u8]) -> Option<u32> {
    match Message::of(datagram) {
        Some(Message::Data { receiver, .. }) => Some(receiver),
        Some(Message::Initiation | Message::Response | Message::Cookie { .. }) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use wireguard::{Device, Kind, Peer, Upkeep};

    use super::*;
    use crate::{
        fib::{LinkStats, Onward, Own, Role},
        labels::Pair,
        path::probe::TokenId,
        testdata::identity,
    };

    const LABEL: u32 = 0x0102_0304;

    /// A FIB with sessions with the second and third of the pool, and two receiver indices of each, as it happens.
    fn fib() -> (Fib, [[u32; 2]; 2]) {
        let own = identity(0);
        let mut device = Device::new(own.private_key().clone(), 1);
        let carriers = [1, 2].map(|n| {
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
            Carrier {
                session: device.add_peer(peer, Instant::now()).unwrap(),
                owns: vec![node.prefix()],
                role: Role::Leaf,
                stats: Arc::default(),
                inbound: None,
            }
        });
        let places = [0, 1].map(|n: usize| carriers[n].session.index());
        let labelled = Labelled {
            from: "[fd00::1]:1".parse().unwrap(),
            class: wireguard::Class::Underlay,
            session: Arc::clone(&carriers[0].session),
            stats: Arc::new(LinkStats::new(Instant::now())),
            pair: Pair {
                source: identity(1).node().address(),
                destination: identity(2).node().address(),
            },
            onward: Onward::Nowhere,
        };
        let node = own.node();
        let own = Own {
            address: node.address(),
            prefix: node.prefix(),
            link_local: node.link_local(),
            token: [0; 8],
        };
        let fib = Fib::new(own, carriers, []).labelling([(LABEL, labelled)], []);
        let indices = places.map(|place| {
            let leads_there = |index: &u32| {
                fib.receiver(*index)
                    .is_some_and(|carrier| carrier.session.index() == place)
            };
            let mut found = (0..).filter(leads_there);
            [found.next().unwrap(), found.next().unwrap()]
        });
        (fib, indices)
    }

    /// 32 bytes under this label.
    fn labelled(label: u32, hop_limit: u8) -> Vec<u8> {
        let mut datagram = vec![0; 32];
        datagram[..8].copy_from_slice(&Head { hop_limit, label }.bytes());
        datagram
    }

    /// What looks like a probe under this token.
    fn probe(token: TokenId) -> Vec<u8> {
        let mut datagram = vec![0; path::probe::LENGTH];
        datagram[..4].copy_from_slice(&path::probe::MAGIC);
        datagram[4..12].copy_from_slice(&token);
        datagram
    }

    #[test]
    fn a_probe_goes_its_way_only_under_a_token_that_was_given_away() {
        let (fib, _) = fib();
        let fib = fib.probing([[7; 8]]);
        assert!(matches!(Way::of(&probe([7; 8]), &fib), Way::Probe));
        for datagram in [probe([8; 8]), [probe([8; 8]), vec![1; 50]].concat()] {
            let way = Way::of(&datagram, &fib);
            assert!(matches!(way, Way::Discard(Reason::UnknownToken)), "{way:?}");
        }
        let cut = &probe([7; 8])[..path::probe::LENGTH - 1];
        let way = Way::of(cut, &fib);
        assert!(matches!(way, Way::Discard(Reason::NotWireguard)), "{way:?}");
    }

    /// 32 bytes of type 4 for this receiver index.
    fn data(receiver: u32) -> Vec<u8> {
        let mut datagram = vec![0; 32];
        datagram[0] = 4;
        datagram[4..8].copy_from_slice(&receiver.to_le_bytes());
        datagram
    }

    #[test]
    fn data_of_one_keypair_is_one_run_and_everything_else_comes_alone() {
        let (fib, [one, other]) = fib();
        let unknown = (0..).find(|index| fib.receiver(*index).is_none()).unwrap();
        let mut datagrams = [
            data(one[0]),
            data(one[0]),
            data(one[1]),
            data(other[0]),
            vec![9; 32],
            vec![9; 32],
            data(unknown),
            data(one[0]),
            labelled(LABEL, 9),
            labelled(LABEL, 9),
            labelled(LABEL, 8),
            labelled(LABEL + 1, 9),
            labelled(LABEL, 9),
            data(one[0])[..20].to_vec(),
        ]
        .concat();
        let told: Vec<_> = Runs::new(&mut datagrams, 32, &fib)
            .map(|(way, run)| match way {
                Way::Session(_) if one.contains(&receiver(run).unwrap()) => {
                    format!("one {}", run.len())
                }
                Way::Session(_) => format!("other {}", run.len()),
                Way::Labelled(_) => format!("labelled {}", run.len()),
                Way::Gate | Way::Cookie | Way::Probe => format!("{way:?} {}", run.len()),
                Way::Discard(reason) => format!("{} {}", reason.name(), run.len()),
            })
            .collect();
        assert_eq!(
            told,
            [
                "one 64",
                "one 32",
                "other 32",
                "not-wireguard 32",
                "not-wireguard 32",
                "unknown-receiver 32",
                "one 32",
                "labelled 64",
                "labelled 32",
                "unknown-label 32",
                "labelled 32",
                "not-wireguard 20"
            ]
        );
    }
}
