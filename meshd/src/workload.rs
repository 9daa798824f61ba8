//! The workloads of this node: which there are, where they live, and what they publish. Pure: a table.
//!
//! A workload is *attached* while its TUN device is in the hands of the packet threads, and *waiting* before and after that: it is
//! listed in the configuration, or was attached before the daemon restarted, and `meshd attach --restore` brings it back. One that was
//! attached by hand is forgotten when its namespace dies; one of the configuration waits again.

use std::{
    collections::BTreeMap,
    fmt,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use filter::Ports;
use ipnetwork::Ipv6Network;

use crate::{config::WorkloadSettings, identity::workload_address};

/// Workloads of one node at most; each has two descriptors, of the 1,024 that a process has by default.
pub const MAX_WORKLOADS: usize = 256;
/// Ports and ranges that one workload publishes at most.
pub const MAX_PUBLISHED: usize = 64;
/// What the interface is called unless somebody asks for another name: the same in every workload.
pub const INTERFACE: &str = "mesh0";
/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// Names one attachment of a workload; never used again while the daemon runs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkloadId(pub u32);

/// Where a workload lives: a network namespace, by its name or path (`netns:web`, `netns:/run/netns/web`) or by a process in it
/// (`pid:4711`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// A name as `ip netns` has them, or a path.
    Netns(String),
    /// A process.
    Pid(u32),
}

/// The text is no target.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is neither netns:NAME, netns:/PATH nor pid:NUMBER")]
pub struct TargetError(String);

impl Target {
    /// The namespace's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Netns(name) if name.starts_with('/') => name.into(),
            Self::Netns(name) => Path::new(NAMESPACES).join(name),
            Self::Pid(pid) => format!("/proc/{pid}/ns/net").into(),
        }
    }

    /// The last part of a namespace's name, which is what its workload is called unless somebody says otherwise.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Netns(name) => name.rsplit('/').next(),
            Self::Pid(_) => None,
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let refused = || TargetError(text.to_owned());
        match text.split_once(':') {
            Some(("netns", name)) => {
                let is_path = Path::new(name).is_absolute();
                let is_name = !name.contains('/') && !matches!(name, "" | "." | "..");
                let is_plain = name.len() < 1024 && !name.contains(char::is_control);
                if is_plain && (is_path || is_name) {
                    Ok(Self::Netns(name.to_owned()))
                } else {
                    Err(refused())
                }
            }
            Some(("pid", number)) => match number.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                Ok(_) | Err(_) => Err(refused()),
            },
            Some(_) | None => Err(refused()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netns(name) => write!(f, "netns:{name}"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// Who asked for a workload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// `[[workload]]`
    Config,
    /// `meshd attach`, or a container runtime.
    Attached,
}

/// What somebody wants attached, or what is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// What it is called: a DNS label, from which its address follows.
    pub name: String,
    /// Where it lives.
    pub target: Target,
    /// What its interface is called there.
    pub interface: String,
    /// What everybody may reach who reaches this node at all.
    pub publish: Vec<Ports>,
    /// What a container runtime calls it, if that is who attaches it.
    pub attachment: Option<String>,
}

/// What packet threads note about a workload. Received is what came to it, sent what came from it.
#[derive(Debug, Default)]
pub struct WorkloadStats {
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
}

impl WorkloadStats {
    /// So many bytes were written to its device.
    pub fn note_received(&self, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// So many bytes were read from its device, and had its source.
    pub fn note_sent(&self, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes that came to it.
    pub fn rx_bytes(&self) -> u64 {
        self.rx_bytes.load(Relaxed)
    }

    /// Bytes that came from it.
    pub fn tx_bytes(&self) -> u64 {
        self.tx_bytes.load(Relaxed)
    }
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What was asked for.
    pub wish: Wish,
    /// Its address.
    pub address: Ipv6Addr,
    /// By whom.
    pub origin: Origin,
    /// Its attachment; none while it waits.
    pub attached: Option<Attached>,
}

/// A workload's device is in the hands of the packet threads.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Names the attachment.
    pub id: WorkloadId,
    /// Since when.
    pub since: Instant,
    /// What packet threads note about it.
    pub stats: Arc<WorkloadStats>,
}

/// Why a workload is not attached.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AttachError {
    /// The name cannot be one.
    #[error("`{0}` cannot be a workload's name: 1 to 63 lower-case letters, digits and hyphens")]
    Name(String),
    /// Another workload has the name, and its namespace lives.
    #[error("a workload `{name}` is attached already, at {target}")]
    Attached {
        /// The name.
        name: String,
        /// Where it lives.
        target: Target,
    },
    /// The address that follows from the name is somebody else's.
    #[error("the address of `{name}`, {address}, is in use")]
    Address {
        /// The name.
        name: String,
        /// The address.
        address: Ipv6Addr,
    },
    /// [`MAX_WORKLOADS`].
    #[error("this node has {MAX_WORKLOADS} workloads, which is the most that it can have")]
    TooMany,
    /// [`MAX_PUBLISHED`].
    #[error("more than {MAX_PUBLISHED} ports are published")]
    TooManyPorts,
}

/// There is no such workload.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("there is no workload `{0}`")]
pub struct NoSuchWorkload(pub String);

/// All workloads of a node, by name.
#[derive(Debug)]
pub struct Workloads {
    prefix: Ipv6Network,
    by_name: BTreeMap<String, Workload>,
    next: u32,
}

impl Workloads {
    /// Those that were attached before, of the node with this prefix: they wait.
    pub fn new(prefix: Ipv6Network, remembered: Vec<Wish>) -> Self {
        let mut workloads = Self {
            prefix,
            by_name: BTreeMap::new(),
            next: 0,
        };
        for wish in remembered.into_iter().take(MAX_WORKLOADS) {
            workloads.wait(wish, Origin::Attached);
        }
        workloads
    }

    fn wait(&mut self, wish: Wish, origin: Origin) {
        let workload = Workload {
            address: workload_address(self.prefix, &wish.name),
            origin,
            attached: None,
            wish,
        };
        self.by_name.insert(workload.wish.name.clone(), workload);
    }

    /// Takes over what the configuration lists. What it publishes counts at once; what it has no more, or wants in another namespace,
    /// is detached. Returns those attachments.
    pub fn configure(&mut self, settings: &[WorkloadSettings]) -> Vec<WorkloadId> {
        let mut detached = Vec::new();
        let listed = |name: &str| settings.iter().find(|listed| listed.name == name);
        self.by_name.retain(|name, workload| {
            let keeps = match (workload.origin, listed(name)) {
                (Origin::Attached, None) => true,
                (Origin::Config, None) => false,
                (Origin::Config | Origin::Attached, Some(listed)) => {
                    listed.target == workload.wish.target
                }
            };
            if !keeps {
                detached.extend(workload.attached.take().map(|attached| attached.id));
            }
            keeps
        });
        for listed in settings {
            match self.by_name.get_mut(&listed.name) {
                Some(workload) => {
                    workload.origin = Origin::Config;
                    workload.wish.publish.clone_from(&listed.publish);
                }
                None => self.wait(
                    Wish {
                        name: listed.name.clone(),
                        target: listed.target.clone(),
                        interface: INTERFACE.to_owned(),
                        publish: listed.publish.clone(),
                        attachment: None,
                    },
                    Origin::Config,
                ),
            }
        }
        detached
    }

    /// A device was handed over for this workload. What the configuration says of one of that name counts, but for the interface.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(&mut self, mut wish: Wish, now: Instant) -> Result<&Workload, AttachError> {
        if !crate::config::is_label(&wish.name) {
            return Err(AttachError::Name(wish.name));
        }
        if wish.publish.len() > MAX_PUBLISHED {
            return Err(AttachError::TooManyPorts);
        }
        let address = workload_address(self.prefix, &wish.name);
        let mut others = self.by_name.values();
        if others.any(|other| other.address == address && other.wish.name != wish.name) {
            let name = wish.name;
            return Err(AttachError::Address { name, address });
        }
        let mut origin = Origin::Attached;
        match self.by_name.get(&wish.name) {
            Some(old) if old.attached.is_some() => {
                return Err(AttachError::Attached {
                    name: wish.name,
                    target: old.wish.target.clone(),
                });
            }
            Some(old) if old.origin == Origin::Config && old.wish.target == wish.target => {
                origin = Origin::Config;
                wish.publish.clone_from(&old.wish.publish);
            }
            Some(_) => {}
            None if self.by_name.len() >= MAX_WORKLOADS => return Err(AttachError::TooMany),
            None => {}
        }
        let id = WorkloadId(self.next);
        self.next = self.next.wrapping_add(1);
        let workload = Workload {
            address,
            origin,
            attached: Some(Attached {
                id,
                since: now,
                stats: Arc::default(),
            }),
            wish,
        };
        let name = workload.wish.name.clone();
        Ok(self.by_name.entry(name).insert_entry(workload).into_mut())
    }

    /// Lets an attached workload publish these ports, and only these.
    ///
    /// # Errors
    /// [`NoSuchWorkload`].
    pub fn publish(
        &mut self,
        name: &str,
        publish: Vec<Ports>,
    ) -> Result<&Workload, NoSuchWorkload> {
        let workload = self.by_name.get_mut(name);
        let workload = workload.ok_or_else(|| NoSuchWorkload(name.to_owned()))?;
        if workload.origin == Origin::Attached {
            workload.wish.publish = publish;
        }
        Ok(workload)
    }

    /// Takes a workload away: one of the configuration waits, another is forgotten. Returns what it was.
    ///
    /// # Errors
    /// [`NoSuchWorkload`].
    pub fn detach(&mut self, name: &str) -> Result<Workload, NoSuchWorkload> {
        let missing = || NoSuchWorkload(name.to_owned());
        let workload = self.by_name.get_mut(name).ok_or_else(missing)?;
        let before = workload.clone();
        match workload.origin {
            Origin::Config => workload.attached = None,
            Origin::Attached => {
                self.by_name.remove(name);
            }
        }
        Ok(before)
    }

    /// The namespace of this attachment has died. Returns what the workload was, if it was not detached meanwhile.
    pub fn handle_gone(&mut self, id: WorkloadId) -> Option<Workload> {
        let is_it = |workload: &&Workload| {
            let attached = workload.attached.as_ref();
            attached.is_some_and(|attached| attached.id == id)
        };
        let name = self.by_name.values().find(is_it)?.wish.name.clone();
        self.detach(&name).ok()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Workload> {
        self.by_name.values()
    }

    /// Those to bring back after a restart that the configuration does not list.
    pub fn to_remember(&self) -> Vec<Wish> {
        let by_hand = self
            .iter()
            .filter(|workload| workload.origin == Origin::Attached);
        by_hand.map(|workload| workload.wish.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata;

    fn wish(name: &str) -> Wish {
        Wish {
            name: name.to_owned(),
            target: Target::Netns(name.to_owned()),
            interface: INTERFACE.to_owned(),
            publish: Vec::new(),
            attachment: None,
        }
    }

    fn listed(name: &str, target: &str, publish: &[&str]) -> WorkloadSettings {
        WorkloadSettings {
            name: name.to_owned(),
            target: target.parse().unwrap(),
            publish: publish.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn workloads() -> Workloads {
        Workloads::new(testdata::identity(0).node().prefix(), Vec::new())
    }

    fn states(workloads: &Workloads) -> Vec<(&str, Origin, bool)> {
        workloads
            .iter()
            .map(|workload| {
                (
                    workload.wish.name.as_str(),
                    workload.origin,
                    workload.attached.is_some(),
                )
            })
            .collect()
    }

    #[test]
    fn targets_are_read_and_written_and_nonsense_is_refused() {
        for (text, path) in [
            ("netns:web", "/run/netns/web"),
            ("netns:/var/run/netns/cni-1", "/var/run/netns/cni-1"),
            ("pid:4711", "/proc/4711/ns/net"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
            assert_eq!(target.path(), Path::new(path));
        }
        for text in [
            "web",
            "netns:",
            "netns:..",
            "netns:a/b",
            "netns:a\nb",
            "pid:0",
            "pid:-1",
            "pid:x",
            "container:1",
            "",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_workload_attached_by_hand_is_forgotten_with_its_namespace_and_one_of_the_configuration_waits()
     {
        let now = Instant::now();
        let mut workloads = workloads();
        assert!(
            workloads
                .configure(&[listed("db", "netns:db", &["tcp/5432"])])
                .is_empty()
        );
        let db = workloads.attach(wish("db"), now).unwrap().clone();
        assert_eq!(db.origin, Origin::Config);
        assert_eq!(db.wish.publish, ["tcp/5432".parse().unwrap()]);
        let web = workloads.attach(wish("web"), now).unwrap().clone();
        assert_ne!(web.address, db.address);
        assert_eq!(workloads.to_remember(), [wish("web")]);
        for workload in [web, db] {
            let id = workload.attached.unwrap().id;
            assert!(workloads.handle_gone(id).is_some());
            assert!(workloads.handle_gone(id).is_none(), "once");
        }
        assert_eq!(states(&workloads), [("db", Origin::Config, false)]);
        assert!(workloads.to_remember().is_empty());
    }

    #[test]
    fn an_attached_name_is_taken_and_a_waiting_one_is_not() {
        let now = Instant::now();
        let mut workloads = Workloads::new(
            testdata::identity(0).node().prefix(),
            vec![wish("web"), wish("db")],
        );
        assert_eq!(
            states(&workloads),
            [
                ("db", Origin::Attached, false),
                ("web", Origin::Attached, false)
            ]
        );
        let first = workloads
            .attach(wish("web"), now)
            .unwrap()
            .attached
            .clone()
            .unwrap();
        assert!(matches!(
            workloads.attach(wish("web"), now),
            Err(AttachError::Attached { .. })
        ));
        workloads.detach("web").unwrap();
        let second = workloads.attach(wish("web"), now).unwrap();
        assert_ne!(second.attached.as_ref().unwrap().id, first.id);
        assert!(workloads.detach("none").is_err());
        assert!(matches!(
            workloads.attach(wish("Web"), now),
            Err(AttachError::Name(_))
        ));
    }

    #[test]
    fn a_reload_takes_new_ports_at_once_and_detaches_what_is_elsewhere_or_gone() {
        let now = Instant::now();
        let mut workloads = workloads();
        let names = ["a", "b", "c"];
        let all = names.map(|name| listed(name, &format!("netns:{name}"), &["tcp/1"]));
        workloads.configure(&all);
        let ids = names.map(|name| {
            let attached = workloads.attach(wish(name), now).unwrap().attached.as_ref();
            attached.unwrap().id
        });
        workloads.attach(wish("by-hand"), now).unwrap();
        let detached = workloads.configure(&[
            listed("a", "netns:a", &["tcp/2"]),
            listed("b", "netns:elsewhere", &["tcp/1"]),
        ]);
        assert_eq!(detached, ids[1..]);
        assert_eq!(
            states(&workloads),
            [
                ("a", Origin::Config, true),
                ("b", Origin::Config, false),
                ("by-hand", Origin::Attached, true)
            ]
        );
        let a = workloads.iter().next().unwrap();
        assert_eq!(a.wish.publish, ["tcp/2".parse().unwrap()]);
    }

    #[test]
    fn there_is_an_end_to_workloads_and_to_what_they_publish() {
        let now = Instant::now();
        let mut workloads = workloads();
        for n in 0..MAX_WORKLOADS {
            workloads.attach(wish(&format!("w{n}")), now).unwrap();
        }
        assert_eq!(
            workloads.attach(wish("more"), now).unwrap_err(),
            AttachError::TooMany
        );
        workloads.detach("w7").unwrap();
        let many = Wish {
            publish: vec![Ports::Any; MAX_PUBLISHED + 1],
            ..wish("more")
        };
        assert_eq!(
            workloads.attach(many, now).unwrap_err(),
            AttachError::TooManyPorts
        );
        workloads.attach(wish("more"), now).unwrap();
    }
}
