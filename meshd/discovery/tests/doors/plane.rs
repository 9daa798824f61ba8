//! A control plane in a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use discovery::{
    Admitted, Command, Dht, Door, Event, Memory, NodeKey, Settings, Status, Whereabouts,
    hygiene::Loopback,
};
use ed25519_dalek::SigningKey;
use tokio::sync::mpsc::Receiver;
use zeroize::Zeroizing;

/// How long anything may take that happens at once.
const SOON: Duration = Duration::from_secs(25);

pub(crate) struct Plane {
    pub(crate) key: NodeKey,
    door: Door,
    events: Receiver<Event>,
    pub(crate) status: Status,
}

impl Plane {
    pub(crate) fn start(n: u16, change: impl FnOnce(&mut Settings)) -> Self {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let key = NodeKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        let mut settings = Settings {
            seed: Zeroizing::new(seed),
            network: "open".to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            mdns: false,
            dht: Dht::Client,
            derive: |key| key.0.first_chunk().copied(),
            memory: Memory::default(),
            refused: vec!["600::/8".parse().unwrap()],
            loopback: Loopback::Allowed,
        };
        change(&mut settings);
        let (door, events) = discovery::start(settings, || {}).unwrap();
        let plane = Self {
            key,
            door,
            events,
            status: Status::default(),
        };
        plane.tell(Command::Admit(Admitted {
            listed: BTreeSet::new(),
            open: true,
            guests: false,
        }));
        plane
    }

    pub(crate) fn tell(&self, command: Command) {
        self.door.send(command).unwrap();
    }

    pub(crate) fn connect(&self, other: &Self) {
        let addresses = other.status.listening.clone();
        assert!(!addresses.is_empty());
        self.tell(Command::Connect(BTreeMap::from([(other.key, addresses)])));
    }

    pub(crate) fn whereabouts(&self, port: u16) {
        self.tell(Command::Whereabouts(Whereabouts {
            port,
            endpoints: vec![SocketAddr::new("203.0.113.9".parse().unwrap(), port)],
        }));
    }

    /// Takes events until one of them is what is waited for.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Event) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = tokio::time::timeout(left, self.events.recv()).await;
            let event = event
                .unwrap_or_else(|_| panic!("{what}: nothing in time; {:?}", self.status))
                .unwrap();
            if let Event::Status(status) = &event {
                self.status = status.clone();
            }
            if let Some(picked) = pick(&event) {
                return picked;
            }
        }
    }

    pub(crate) async fn until_status(&mut self, what: &str, is_so: impl Fn(&Status) -> bool) {
        self.until(what, |event| match event {
            Event::Status(status) => is_so(status).then_some(()),
            _ => None,
        })
        .await;
    }

    pub(crate) async fn listening(mut self) -> Self {
        self.until_status("listens", |status| !status.listening.is_empty())
            .await;
        self
    }

    pub(crate) async fn found(&mut self, what: &str, other: NodeKey) -> Vec<SocketAddr> {
        self.until(what, |event| match event {
            Event::Found(found) if found.key == other => Some(found.endpoints.clone()),
            _ => None,
        })
        .await
    }
}
