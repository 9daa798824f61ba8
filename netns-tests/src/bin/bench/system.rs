//! What is compared.

use crate::hook::Hook;

/// One way to get packets from one host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum System {
    Meshd,
    /// meshd at both ends of a line, and a stock router between, which knows no labels: the ends nest.
    MeshdNested,
    /// meshd whose middle node is this program, of a release that knows no labels: everybody nests.
    MeshdOlder(String),
    WireGuardGo,
    BoringTun,
    Veth,
    Hook(Hook),
}

impl System {
    pub(crate) const OWN: [Self; 5] = [
        Self::Meshd,
        Self::MeshdNested,
        Self::WireGuardGo,
        Self::BoringTun,
        Self::Veth,
    ];

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Meshd => "meshd",
            Self::MeshdNested => "meshd-nested",
            Self::MeshdOlder(_) => "meshd-older",
            Self::WireGuardGo => "wireguard-go",
            Self::BoringTun => "boringtun",
            Self::Veth => "raw-veth",
            Self::Hook(hook) => hook.name(),
        }
    }

    /// The program on the PATH, with its arguments, where a system is a WireGuard of its own.
    pub(crate) const fn wireguard(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::WireGuardGo => Some(&["wireguard-go", "-f"]),
            Self::BoringTun => {
                Some(&["boringtun-cli", "--foreground", "--disable-drop-privileges"])
            }
            Self::Meshd | Self::MeshdNested | Self::MeshdOlder(_) | Self::Veth | Self::Hook(_) => {
                None
            }
        }
    }

    /// Whether its programs are installed.
    pub(crate) fn is_here(&self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = |program: &&str| {
            std::env::split_paths(&path).any(|directory| directory.join(program).exists())
        };
        let needed: &[&str] = match self {
            Self::WireGuardGo => &["wireguard-go"],
            Self::BoringTun => &["boringtun-cli"],
            Self::MeshdNested => &["wireguard-go", "babeld"],
            Self::Meshd | Self::MeshdOlder(_) | Self::Veth | Self::Hook(_) => &[],
        };
        needed.iter().all(is_there)
    }
}
