//! A system bus of a test's own, and on it somebody who says to be systemd-resolved, and remembers what he is told.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use futures_util::StreamExt;
use netns_tests::{Host, Process, secs, wait_until};
use tokio::sync::oneshot;
use zbus::message::{Header, Type};
use zbus::{Message, MessageStream, connection};

/// A bus (Debian's dbus-daemon), until it is dropped.
pub(crate) struct Bus {
    address: String,
    _process: Process,
}

impl Bus {
    pub(crate) fn start(host: &Host) -> Self {
        let socket = host.sockets().join("bus");
        let configuration = host.directory().join("bus.conf");
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context='default'><allow user='*'/><allow own='*'/><allow send_destination='*'/>\
             <allow receive_sender='*'/></policy></busconfig>",
            socket.display()
        );
        fs::write(&configuration, text).unwrap();
        let line = format!(
            "dbus-daemon --nofork --nopidfile --config-file={}",
            configuration.display()
        );
        let mut process = host.spawn(&line);
        wait_until(secs(5), "the bus is there", || {
            if !process.is_running() {
                panic!("{}", process.log());
            }
            if socket.exists() {
                Ok(())
            } else {
                Err(process.log())
            }
        });
        Self {
            address: format!("unix:path={}", socket.display()),
            _process: process,
        }
    }

    /// What a daemon is started by that is to use this bus.
    pub(crate) fn wrapper(&self) -> String {
        format!("env DBUS_SYSTEM_BUS_ADDRESS={}", self.address)
    }
}

/// What was said about one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) domains: Vec<(String, bool)>,
    pub(crate) default_route: Option<bool>,
    pub(crate) servers: Vec<(i32, Vec<u8>)>,
    pub(crate) protocols: BTreeMap<String, String>,
}

impl Told {
    /// What is to be said about a mesh whose names are answered there.
    pub(crate) fn expected(server: Ipv6Addr) -> Self {
        let zones = ["mesh.internal", "id.internal", "6.0.ip6.arpa"];
        let protocols = ["LLMNR", "MulticastDNS", "DNSOverTLS", "DNSSEC"];
        Self {
            domains: zones.map(|zone| (zone.to_owned(), true)).to_vec(),
            default_route: Some(false),
            servers: vec![(libc::AF_INET6, server.octets().to_vec())],
            protocols: protocols.map(|it| (it.to_owned(), "no".to_owned())).into(),
        }
    }
}

/// What the mock says to changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Willing,
    /// As resolved to a caller without rights.
    Refusing,
}

/// The mock; it is gone from the bus when this is stopped.
pub(crate) struct Resolved {
    state: Arc<Mutex<State>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<i32, Told>,
    /// In the order of their coming.
    calls: Vec<String>,
}

impl Resolved {
    pub(crate) fn start(bus: &Bus, manner: Manner) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (tell_ready, ready) = std::sync::mpsc::sync_channel(1);
        let (address, told) = (bus.address.clone(), Arc::clone(&state));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let bus = connection::Builder::address(address.as_str());
                let bus = bus.build().await.unwrap();
                let mut messages = MessageStream::from(&bus);
                bus.request_name("org.freedesktop.resolve1").await.unwrap();
                tell_ready.send(()).unwrap();
                let serve = async {
                    while let Some(Ok(message)) = messages.next().await {
                        let header = message.header();
                        if header.message_type() != Type::MethodCall {
                            continue;
                        }
                        if manner == Manner::Refusing {
                            let error =
                                "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
                            bus.reply_error(&header, error, &"no rights").await.unwrap();
                            continue;
                        }
                        told.lock().unwrap().take(&header, &message);
                        bus.reply(&header, &()).await.unwrap();
                    }
                };
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().unwrap();
        Self {
            state,
            stop,
            thread,
        }
    }

    /// What it was told about an interface, by its index.
    pub(crate) fn told(&self, index: i32) -> Option<Told> {
        self.state.lock().unwrap().links.get(&index).cloned()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    pub(crate) fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

impl State {
    fn take(&mut self, header: &Header<'_>, message: &Message) {
        assert_eq!(
            (
                header.path().unwrap().as_str(),
                header.interface().unwrap().as_str()
            ),
            (
                "/org/freedesktop/resolve1",
                "org.freedesktop.resolve1.Manager"
            )
        );
        let method = header.member().unwrap().as_str().to_owned();
        let body = message.body();
        match method.as_str() {
            "SetLinkDomains" => {
                let (index, domains): (i32, Vec<(String, bool)>) = body.deserialize().unwrap();
                self.link(index).domains = domains;
            }
            "SetLinkDefaultRoute" => {
                let (index, value): (i32, bool) = body.deserialize().unwrap();
                self.link(index).default_route = Some(value);
            }
            "SetLinkDNS" => {
                let (index, servers): (i32, Vec<(i32, Vec<u8>)>) = body.deserialize().unwrap();
                self.link(index).servers = servers;
            }
            "RevertLink" => {
                let (index,): (i32,) = body.deserialize().unwrap();
                self.links.remove(&index);
            }
            protocol => {
                let (index, value): (i32, String) = body.deserialize().unwrap();
                let protocol = protocol.strip_prefix("SetLink").unwrap().to_owned();
                self.link(index).protocols.insert(protocol, value);
            }
        }
        self.calls.push(method);
    }

    fn link(&mut self, index: i32) -> &mut Told {
        self.links.entry(index).or_default()
    }
}
