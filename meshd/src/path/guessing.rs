//! The agent's part in guessing ports (`guess.rs`).

use std::{net::SocketAddr, time::Instant};

use wireguard::{PublicKey, Underlay};

use super::{
    Agent, Event, Mapping, Socket,
    guess::{self, Guess, Side},
    offer::{Message, OfferError},
    pair::{FRESH, Pair},
    probe::{Probe, TokenId},
};

/// Probes of the hard side open its own router, a carrier's behind it too, and are to go no farther.
const HOPS: u8 = 5;

impl Agent {
    /// The sockets of an [`Event::OpenSockets`] are open, numbered from 0; fewer than were asked for, perhaps none.
    pub fn handle_sockets(&mut self, peer: PublicKey, opened: u16, now: Instant) {
        let Some(Guess {
            peer: with,
            side: Side::Hard { to, .. },
        }) = self.guess
        else {
            return;
        };
        if with != peer {
            return;
        }
        let ping = Probe::Ping { is_chosen: false };
        for socket in 0..opened.min(guess::SOCKETS) {
            let socket = Socket::Extra(socket);
            self.send(peer, socket, None, to, &ping, Some(HOPS), now);
        }
        let pair = self.pair(peer);
        if let Some(attempt) = &mut pair.attempt {
            attempt.extend(now + guess::LASTS + guess::AFTER);
        }
        if opened > 0 {
            let side = Side::Hard {
                to,
                again: Some(now),
                said: 0,
            };
            self.guess = Some(Guess { peer, side });
        }
        self.drive(peer, now);
    }

    /// Begins to guess, or goes on.
    pub(super) fn guess_if_due(&mut self, peer: PublicKey, now: Instant) {
        self.open_if_due(peer, now);
        let Some(mut guess) = self.guess.filter(|guess| guess.peer == peer) else {
            return;
        };
        let is_proven = |pair: &Pair| {
            pair.attempt
                .as_ref()
                .is_some_and(|attempt| attempt.is_proven())
        };
        if self.pairs.get(&peer).is_none_or(is_proven) {
            // The hard side's sockets are kept open until the attempt ends.
            match &mut guess.side {
                Side::Hard { again, .. } => *again = None,
                Side::Easy { next, until, .. } => *until = *next,
            }
        }
        let theirs = self.pair(peer).theirs.as_ref();
        let about = theirs.map(|theirs| theirs.terms.token.id);
        if let Some(about) = about.filter(|_| guess.says(now)) {
            self.say(peer, &Message::Guess { about });
        }
        let ping = Probe::Ping { is_chosen: false };
        let socket = Socket::Own(Underlay::ANY_SOCKET);
        while let Some(to) = guess.next(now) {
            self.send(peer, socket, None, to, &ping, None, now);
        }
        self.guess = (!guess.is_over()).then_some(guess);
    }

    /// The hard side asks for sockets, when nothing else has helped.
    fn open_if_due(&mut self, peer: PublicKey, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&peer) else {
            return;
        };
        if pair.guesses.is_none_or(|at| at > now) {
            return;
        }
        pair.guesses = None;
        let has_traffic = pair.had_traffic(FRESH, now);
        let Some(theirs) = &pair.theirs else {
            return;
        };
        let to = theirs.terms.nat.last.map(SocketAddr::V4);
        let Some(to) = to.filter(|to| self.local.may_probe(to, false)) else {
            return;
        };
        let is_wanted = has_traffic || theirs.terms.has_traffic;
        if is_wanted && self.guess.is_none() && self.guessed.take(peer, now) {
            let side = Side::Hard {
                to,
                again: None,
                said: 0,
            };
            self.guess = Some(Guess { peer, side });
            let count = guess::SOCKETS;
            self.events.push_back(Event::OpenSockets { peer, count });
        }
    }

    /// The hard side has opened its router.
    pub(super) fn on_guess(
        &mut self,
        peer: PublicKey,
        about: TokenId,
        now: Instant,
    ) -> Result<(), OfferError> {
        let ours = self.nat().mapping;
        let pair = self.pair(peer);
        let is_ours = pair.ours.iter().any(|ours| ours.token.id == about);
        let has_traffic = pair.had_traffic(FRESH, now);
        let (Some(theirs), Some(attempt)) = (&pair.theirs, &mut pair.attempt) else {
            return Err(OfferError::Unasked);
        };
        let is_hard = theirs.terms.nat.mapping == Mapping::Random;
        let (true, true, Some(last)) = (is_ours, is_hard, theirs.terms.nat.last) else {
            return Err(OfferError::Unasked);
        };
        let is_wanted = has_traffic || theirs.terms.has_traffic;
        if !is_wanted || attempt.is_proven() || !ours.is_endpoint_independent() {
            return Ok(());
        }
        let to = *last.ip();
        if self.guess.is_none()
            && self.local.may_probe(&SocketAddr::V4(last), false)
            && self.guessed.take(peer, now)
        {
            let random = self.random.word();
            self.guess = Some(Guess::easy(peer, to, random, now));
            if let Some(attempt) = &mut self.pair(peer).attempt {
                attempt.extend(now + guess::LASTS + guess::AFTER);
            }
        }
        Ok(())
    }

    /// Whatever is being guessed with a peer is over.
    pub(super) fn stop_guessing(&mut self, peer: PublicKey) {
        let Some(guess) = self.guess.filter(|guess| guess.peer == peer) else {
            return;
        };
        self.guess = None;
        if matches!(guess.side, Side::Hard { .. }) {
            self.events.push_back(Event::CloseSockets { peer });
        }
    }
}
