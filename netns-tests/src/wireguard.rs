//! A stock WireGuard endpoint: Debian's wireguard-go, configured by `wg`.

use std::net::{Ipv6Addr, SocketAddr};

use crate::babel::GROUP;
use crate::host::Host;
use crate::identity::Identity;
use crate::process::Process;
use crate::wait::{secs, wait_until};

/// A WireGuard interface on a host, from a program other than ours. It goes when this is dropped.
#[derive(Debug)]
pub struct WireGuard {
    host: Host,
    interface: String,
    key: Key,
    /// Until this is dropped.
    process: Option<Process>,
}

/// A pair of keys as `wg` makes them, base64.
#[derive(Clone, Debug)]
pub struct Key {
    /// The secret one.
    pub private: String,
    /// The public one.
    pub public: String,
}

impl Key {
    /// The pair of a node, for a stock program that is to act as this node.
    pub fn of(identity: &Identity) -> Self {
        Self {
            private: identity.private_key(),
            public: identity.public_key.clone(),
        }
    }

    /// A new pair, made by `wg genkey`.
    #[track_caller]
    pub fn generate(host: &Host) -> Self {
        let private = host.run("wg genkey").trim().to_owned();
        let derived = host
            .output_of(&["wg", "pubkey"], &private, secs(5))
            .and_then(crate::process::Output::success);
        let public = derived
            .unwrap_or_else(|err| panic!("wg pubkey: {err}"))
            .trim()
            .to_owned();
        Self { private, public }
    }
}

impl WireGuard {
    /// Starts `wireguard-go` on a host, with that key and address, without peers.
    ///
    /// # Panics
    /// When it is not installed or does not come up in ten seconds.
    #[track_caller]
    pub fn start(host: &Host, key: &Key, address: Ipv6Addr) -> Self {
        Self::start_program(host, &["wireguard-go", "-f"], key, address)
    }

    /// As [`Self::start`], by any program that takes an interface name and speaks WireGuard's configuration protocol.
    #[track_caller]
    pub fn start_program(host: &Host, program: &[&str], key: &Key, address: Ipv6Addr) -> Self {
        let endpoint = Self::create(host, program, key);
        endpoint.bring_up(address, 1420);
        endpoint
    }

    /// As [`Self::start`], for a routing daemon to speak Babel on: with no other address than a link-local one (that one, or one of
    /// the kernel's choice).
    #[track_caller]
    pub fn start_for_routing(host: &Host, key: &Key, link_local: Option<Ipv6Addr>) -> Self {
        let endpoint = Self::create(host, &["wireguard-go", "-f"], key);
        let interface = &endpoint.interface;
        if let Some(address) = link_local {
            host.run(&format!("ip link set {interface} addrgenmode none"));
            host.set_address(interface, &format!("{address}/64"));
        }
        host.run(&format!("ip link set {interface} mtu 1420 up"));
        endpoint
    }

    #[track_caller]
    fn create(host: &Host, program: &[&str], key: &Key) -> Self {
        let interface = host.site().next_tunnel();
        let mut process = host.spawn(&format!("{} {interface}", program.join(" ")));
        wait_until(
            secs(10),
            &format!("{} has made {interface}", program[0]),
            || {
                if process.is_running() {
                    host.try_run(&format!("wg show {interface}"))
                } else {
                    Err(process.log())
                }
            },
        );
        let endpoint = Self {
            host: host.clone(),
            interface,
            key: key.clone(),
            process: Some(process),
        };
        endpoint.set(&format!("[Interface]\nPrivateKey = {}\n", key.private));
        endpoint
    }

    /// Starts `wireguard-go` from the text that `wg-quick` takes: it is stripped by `wg-quick strip` and set by `wg setconf`;
    /// its addresses and routes are set as `wg-quick up` would.
    ///
    /// # Panics
    /// When `wg-quick`, `wg` or `ip` does not accept it.
    #[track_caller]
    pub fn from_quick_configuration(host: &Host, text: &str) -> Self {
        let file = host.directory().join("wg-quick.conf");
        std::fs::write(&file, text)
            .unwrap_or_else(|err| panic!("cannot write {}: {err}", file.display()));
        let stripped = host.run(&format!("wg-quick strip {}", file.display()));
        let values = |name: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found
                .flat_map(|(_, value)| value.split(',').map(|value| value.trim().to_owned()))
                .collect()
        };
        let private = values("PrivateKey")
            .pop()
            .expect("the configuration has a private key");
        let derived = host
            .output_of(&["wg", "pubkey"], &private, secs(5))
            .and_then(crate::process::Output::success);
        let public = derived
            .unwrap_or_else(|err| panic!("wg pubkey: {err}"))
            .trim()
            .to_owned();
        let address = values("Address")
            .pop()
            .expect("the configuration has an address");
        let address = address
            .split('/')
            .next()
            .and_then(|address| address.parse().ok())
            .expect("the address is IPv6");
        let mtu = values("MTU")
            .pop()
            .map_or(1420, |mtu| mtu.parse().expect("the MTU is a number"));

        let endpoint = Self::create(host, &["wireguard-go", "-f"], &Key { private, public });
        endpoint.set(&stripped);
        endpoint.bring_up(address, mtu);
        for prefix in values("AllowedIPs") {
            endpoint.route(&prefix);
        }
        endpoint
    }

    #[track_caller]
    fn set(&self, text: &str) {
        let set = self.host.output_of(
            &["wg", "setconf", &self.interface, "/dev/stdin"],
            text,
            secs(5),
        );
        set.and_then(crate::process::Output::success)
            .unwrap_or_else(|err| panic!("wg setconf: {err}\n{text}"));
    }

    #[track_caller]
    fn bring_up(&self, address: Ipv6Addr, mtu: u32) {
        self.host
            .set_address(&self.interface, &format!("{address}/128"));
        self.host
            .run(&format!("ip link set {} mtu {mtu} up", self.interface));
    }

    /// Listens on that UDP port.
    #[track_caller]
    pub fn listen(&self, port: u16) {
        self.host
            .run(&format!("wg set {} listen-port {port}", self.interface));
    }

    /// Adds a peer that may send from, and is sent to for, the prefix `allowed`; or changes it.
    #[track_caller]
    pub fn peer(&self, public_key: &str, allowed: &str, endpoint: Option<SocketAddr>) {
        let endpoint = endpoint
            .map(|endpoint| format!(" endpoint {endpoint}"))
            .unwrap_or_default();
        self.host.run(&format!(
            "wg set {} peer {public_key}{endpoint} allowed-ips {allowed}",
            self.interface
        ));
        self.route(allowed);
    }

    /// Adds a neighbour in the mesh, with what Babel and the overlay need: its link-local address, Babel's group, all of the overlay.
    /// The kernel gets no routes; the routing daemon brings them.
    #[track_caller]
    pub fn neighbour(&self, public_key: &str, endpoint: Option<SocketAddr>) {
        let endpoint = endpoint
            .map(|endpoint| format!(" endpoint {endpoint}"))
            .unwrap_or_default();
        self.host.run(&format!(
            "wg set {} peer {public_key}{endpoint} allowed-ips fe80::/64,{GROUP}/128,600::/8",
            self.interface
        ));
    }

    #[track_caller]
    fn route(&self, prefix: &str) {
        self.host.run(&format!(
            "ip -6 route replace {prefix} dev {}",
            self.interface
        ));
    }

    /// Seconds since 1970 of the last handshake with the only peer, 0 when there was none.
    #[track_caller]
    pub fn last_handshake(&self) -> u64 {
        let text = self
            .host
            .run(&format!("wg show {} latest-handshakes", self.interface));
        text.split_whitespace()
            .last()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("wg show said {text:?}"))
    }

    /// Its keys.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The name of its interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The program that runs it.
    pub fn process(&self) -> &Process {
        self.process
            .as_ref()
            .expect("it runs until this is dropped")
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        // While a test fails, the interface stays until the lab has told what it knows.
        if let Some(process) = self.process.take().filter(|_| std::thread::panicking()) {
            self.host.hold(process);
        }
    }
}
