//! The Container Network Interface, version 1.1, without I/O: what a container runtime asks a plugin for, by environment and standard
//! input, and what it is answered.
//!
//! Sections are those of the specification (github.com/containernetworking/cni, SPEC.md, 1.1.0). Keys that the specification does not
//! know, other plugins' among them, are ignored, as it says.

use std::{collections::BTreeMap, net::Ipv6Addr, path::PathBuf};

use filter::Ports;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    config::is_label,
    identity::overlay,
    workload::{INTERFACE, Target, Wish},
};

/// The newest version of the specification that is spoken.
pub const VERSION: &str = "1.1.0";
/// All versions that are spoken.
pub const VERSIONS: [&str; 2] = ["1.0.0", VERSION];
/// Longest configuration that is read, in bytes.
pub const MAX_LEN: u64 = 1 << 20;

/// The codes of errors (§5, "Error").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Code {
    /// The configuration's version is not spoken.
    Version = 1,
    /// A key whose value cannot be obeyed.
    Unsupported = 2,
    /// The container is not known, or its namespace is not there.
    Unknown = 3,
    /// A variable of the environment is absent or makes no sense.
    Environment = 4,
    /// The kernel, or the daemon, could not do it.
    Io = 5,
    /// Standard input is not JSON.
    Decode = 6,
    /// The configuration makes no sense.
    Config = 7,
    /// The daemon does not answer at the moment.
    TryAgain = 11,
    /// STATUS: no container can be added.
    Unavailable = 50,
    /// CHECK: the container's interface is not as it was made.
    NotAsMade = 100,
}

/// An error, as a plugin says it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    /// What runtimes go by.
    pub code: Code,
    /// What happened.
    pub message: String,
}

impl CniError {
    /// An error.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As it is written to standard output.
    #[must_use]
    pub fn document(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
        })
    }
}

/// What is to be done (§2, "CNI operations").
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Attach a container.
    Add(Attachment),
    /// Detach it, whatever is left of it.
    Del(Attachment),
    /// See that it is still attached as it was.
    Check(Attachment),
    /// Detach all of this network but these, by [`attachment`].
    Gc {
        /// The network.
        network: String,
        /// The attachments that are in use.
        valid: Vec<String>,
    },
    /// Say whether ADD would work.
    Status,
    /// Say which versions are spoken.
    Version,
}

/// One request of a runtime.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The version of the configuration, in which the answer is.
    pub version: String,
    /// The daemon's socket, if the configuration names one.
    pub socket: Option<PathBuf>,
    /// What is to be done.
    pub command: Command,
}

/// A container on a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// What is to be attached; without a target where the runtime names no namespace any more.
    pub wish: Option<Wish>,
    /// Names it, as [`attachment`] does.
    pub id: String,
    /// What plugins before this one in the list have done; null if this is the first.
    pub previous: Value,
    /// The namespace, as the runtime named it; may be empty.
    pub sandbox: String,
}

/// The configuration (§1, "Network configuration format"), as far as it matters here.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "cniVersion", default)]
    version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(rename = "prevResult", default)]
    previous: Value,
    #[serde(default)]
    ipam: Value,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    valid: Vec<Valid>,
    /// Ours: the ports that every container publishes.
    #[serde(default)]
    publish: Vec<String>,
    /// Ours: what the interface is called where another plugin has taken the runtime's name.
    #[serde(default)]
    interface: Option<String>,
    /// Ours: the daemon's socket.
    #[serde(default)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// What a runtime asks for, by these variables of the environment and this standard input.
///
/// # Errors
/// [`CniError`], and the version to say it in.
pub fn read(
    environment: &BTreeMap<String, String>,
    input: &[u8],
) -> Result<Request, (CniError, String)> {
    let parsed = serde_json::from_slice::<Map<String, Value>>(input);
    let version = parsed
        .as_ref()
        .ok()
        .and_then(|config| config.get("cniVersion")?.as_str())
        .filter(|version| VERSIONS.contains(version))
        .unwrap_or(VERSION)
        .to_owned();
    let config = parsed
        .map_err(|error| CniError::new(Code::Decode, format!("standard input: {error}")))
        .and_then(|config| {
            serde_json::from_value::<Config>(config.into())
                .map_err(|error| CniError::new(Code::Config, error.to_string()))
        });
    match config.and_then(|config| request(environment, config, &version)) {
        Ok(request) => Ok(request),
        Err(error) => Err((error, version)),
    }
}

fn request(
    environment: &BTreeMap<String, String>,
    config: Config,
    version: &str,
) -> Result<Request, CniError> {
    let verb = variable(environment, "CNI_COMMAND")?;
    let socket = config.socket.clone();
    let command = match verb {
        "VERSION" => Command::Version,
        "ADD" | "DEL" | "CHECK" | "GC" | "STATUS" => {
            check(&config)?;
            of_network(verb, environment, config)?
        }
        other => {
            let message = format!("CNI_COMMAND: there is no command `{other}`");
            return Err(CniError::new(Code::Environment, message));
        }
    };
    Ok(Request {
        version: version.to_owned(),
        socket,
        command,
    })
}

/// What every command but VERSION asks of a configuration.
fn check(config: &Config) -> Result<(), CniError> {
    match &config.version {
        Some(version) if VERSIONS.contains(&version.as_str()) => {}
        Some(version) => {
            let message = format!(
                "cniVersion {version} is not spoken here, only {}",
                VERSIONS.join(" and ")
            );
            return Err(CniError::new(Code::Version, message));
        }
        None => {
            return Err(CniError::new(Code::Config, "cniVersion is missing"));
        }
    }
    if !is_word(&config.name) {
        let message = format!("name: `{}` is no name of a network", config.name);
        return Err(CniError::new(Code::Config, message));
    }
    if config.ipam.get("type").is_some() {
        let message = format!(
            "ipam: {} is not supported: an address follows from the workload's name",
            config.ipam
        );
        return Err(CniError::new(Code::Unsupported, message));
    }
    Ok(())
}

fn of_network(
    verb: &str,
    environment: &BTreeMap<String, String>,
    config: Config,
) -> Result<Command, CniError> {
    match verb {
        "GC" => {
            let valid = config.valid.iter();
            Ok(Command::Gc {
                valid: valid
                    .map(|valid| attachment(&config.name, &valid.container, &valid.ifname))
                    .collect(),
                network: config.name,
            })
        }
        "STATUS" => Ok(Command::Status),
        "DEL" => one(environment, &config, Namespace::MayBeGone).map(Command::Del),
        "CHECK" if config.previous.is_null() => {
            let message = "prevResult is missing: CHECK is about what ADD has answered";
            Err(CniError::new(Code::Config, message))
        }
        "CHECK" => one(environment, &config, Namespace::Needed).map(Command::Check),
        _ => one(environment, &config, Namespace::Needed).map(Command::Add),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Needed,
    MayBeGone,
}

fn one(
    environment: &BTreeMap<String, String>,
    config: &Config,
    namespace: Namespace,
) -> Result<Attachment, CniError> {
    let container = variable(environment, "CNI_CONTAINERID")?;
    if !is_word(container) {
        let message = format!("CNI_CONTAINERID: `{container}` is no name of a container");
        return Err(CniError::new(Code::Environment, message));
    }
    let ifname = variable(environment, "CNI_IFNAME")?;
    let is_name = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..16).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..")
    };
    if !is_name(ifname) {
        let message = format!("CNI_IFNAME: `{ifname}` is no name of an interface");
        return Err(CniError::new(Code::Environment, message));
    }
    let sandbox = match namespace {
        Namespace::Needed => variable(environment, "CNI_NETNS")?,
        Namespace::MayBeGone => environment.get("CNI_NETNS").map_or("", String::as_str),
    };
    let target = match sandbox {
        "" => None,
        path => Some(format!("netns:{path}").parse::<Target>().map_err(|_| {
            let message = format!("CNI_NETNS: `{path}` is no path");
            CniError::new(Code::Environment, message)
        })?),
    };
    let publish: Result<Vec<Ports>, _> = config.publish.iter().map(|text| text.parse()).collect();
    let publish = publish.map_err(|error: filter::PortsError| {
        CniError::new(Code::Config, format!("publish: {error}"))
    })?;
    // In a list, another plugin may have made the interface of the name that the runtime asks for.
    let interface = match &config.interface {
        Some(interface) if is_name(interface) => interface.clone(),
        Some(interface) => {
            let message = format!("interface: `{interface}` is no name of an interface");
            return Err(CniError::new(Code::Config, message));
        }
        None if config.previous.is_null() => ifname.to_owned(),
        None if is_ours(&config.previous, ifname, sandbox) => ifname.to_owned(),
        None => INTERFACE.to_owned(),
    };
    let id = attachment(&config.name, container, ifname);
    let name = name(environment, container, ifname)?;
    Ok(Attachment {
        wish: target.map(|target| Wish {
            name,
            target,
            interface,
            publish,
            attachment: Some(id.clone()),
        }),
        id,
        previous: config.previous.clone(),
        sandbox: sandbox.to_owned(),
    })
}

/// Whether a result, which CHECK and DEL get back, is of ADD of this plugin alone: the interface of the runtime's name has an address of
/// the overlay.
fn is_ours(result: &Value, ifname: &str, sandbox: &str) -> bool {
    let interfaces = result["interfaces"].as_array();
    let mut numbered = interfaces.into_iter().flatten().enumerate();
    let found = numbered.find(|(_, interface)| {
        interface["name"] == ifname && interface["sandbox"].as_str().unwrap_or(sandbox) == sandbox
    });
    let Some((number, _)) = found else {
        return false;
    };
    let mut ips = result["ips"].as_array().into_iter().flatten();
    ips.any(|ip| {
        let address = ip["address"]
            .as_str()
            .and_then(|text| text.split('/').next());
        let address = address.and_then(|text| text.parse::<Ipv6Addr>().ok());
        ip["interface"] == number && address.is_some_and(|address| overlay().contains(address))
    })
}

/// What a workload is called: as CNI_ARGS says (`MESHD_NAME`), as its pod in its namespace (`K8S_POD_NAME`, `K8S_POD_NAMESPACE`), or by
/// the beginning of its container's id.
fn name(
    environment: &BTreeMap<String, String>,
    container: &str,
    ifname: &str,
) -> Result<String, CniError> {
    let args = environment.get("CNI_ARGS").map_or("", String::as_str);
    let args: BTreeMap<&str, &str> = args
        .split(';')
        .filter_map(|arg| arg.split_once('='))
        .collect();
    if let Some(name) = args.get("MESHD_NAME") {
        return if is_label(name) {
            Ok((*name).to_owned())
        } else {
            let message = format!(
                "CNI_ARGS: MESHD_NAME `{name}` is no name: 1 to 63 lower-case letters, digits and hyphens"
            );
            Err(CniError::new(Code::Environment, message))
        };
    }
    if let (Some(pod), Some(namespace)) = (args.get("K8S_POD_NAME"), args.get("K8S_POD_NAMESPACE"))
    {
        let name = format!("{pod}-{namespace}").replace('.', "-");
        if is_label(&name) {
            return Ok(name);
        }
    }
    let id = container
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase());
    let mut name: String = "cni-".chars().chain(id.take(12)).collect();
    if ifname != "eth0" {
        let suffix = ifname.chars().filter(char::is_ascii_alphanumeric);
        name.push('-');
        name.extend(suffix.map(|c| c.to_ascii_lowercase()));
    }
    let name = name.trim_end_matches('-').to_owned();
    debug_assert!(is_label(&name), "{name}");
    Ok(name)
}

/// Names an attachment of a network.
#[must_use]
pub fn attachment(network: &str, container: &str, ifname: &str) -> String {
    format!("{}{container}:{ifname}", attachments_of(network))
}

/// What the names of all attachments of a network begin with.
#[must_use]
pub fn attachments_of(network: &str) -> String {
    format!("cni:{network}:")
}

/// A variable that has to be there.
fn variable<'a>(
    environment: &'a BTreeMap<String, String>,
    name: &str,
) -> Result<&'a str, CniError> {
    match environment.get(name).map(String::as_str) {
        Some("") | None => Err(CniError::new(
            Code::Environment,
            format!("{name} is missing"),
        )),
        Some(value) => Ok(value),
    }
}

/// Names of networks and containers (§1, §2): a letter or digit, then those and `_`, `.`, `-`.
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && text.len() <= 255
        && text.bytes().all(plain)
}

/// The answer to ADD (§5, "Success"): what those before have answered, and this interface.
#[must_use]
pub fn added(
    version: &str,
    attachment: &Attachment,
    interface: &str,
    address: Ipv6Addr,
    mtu: u16,
) -> Value {
    let previous = attachment.previous.as_object();
    let mut result = previous.cloned().unwrap_or_default();
    result.insert("cniVersion".into(), version.into());
    let mut list = |key: &str, value: Value| -> usize {
        let entry = result.entry(key).or_insert_with(|| json!([]));
        if !entry.is_array() {
            *entry = json!([]);
        }
        let list = entry.as_array_mut().expect("it was made one");
        list.push(value);
        list.len() - 1
    };
    let mut made = json!({ "name": interface, "sandbox": attachment.sandbox });
    // Before 1.1 an interface has no such key.
    if version == VERSION {
        made["mtu"] = mtu.into();
    }
    let number = list("interfaces", made);
    list(
        "ips",
        json!({ "address": format!("{address}/128"), "interface": number }),
    );
    list("routes", json!({ "dst": overlay().to_string() }));
    result.entry("dns").or_insert_with(|| json!({}));
    Value::Object(result)
}

/// Whether a result, as CHECK gets it back, has this address.
#[must_use]
pub fn has_address(result: &Value, address: Ipv6Addr) -> bool {
    let mut ips = result["ips"].as_array().into_iter().flatten();
    ips.any(|ip| ip["address"] == format!("{address}/128").as_str())
}

/// The answer to VERSION.
#[must_use]
pub fn versions() -> Value {
    #[derive(Serialize)]
    struct Versions {
        #[serde(rename = "cniVersion")]
        version: &'static str,
        #[serde(rename = "supportedVersions")]
        supported: [&'static str; 2],
    }
    json!(Versions {
        version: VERSION,
        supported: VERSIONS,
    })
}

#[cfg(test)]
mod tests;
