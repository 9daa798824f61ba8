//! Whom and what a rule means, as people write it.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnetwork::Ipv6Network;

/// Length of a key in base64.
const KEY_LEN: usize = 44;
/// Length of a DNS label at most.
const MAX_LABEL: usize = 63;

/// Whose packets a rule lets in.
///
/// Written `any`, `member:NAME`, `tag:TAG`, `peer:NAME` (in the configuration), `leaf:NAME`, `workload:NAME` (of this node) or
/// `key:BASE64`; `*` for NAME means each of them. Behind it may stand, after a slash, which of the addresses that the sender answers
/// for: an address, a prefix, or the name of a workload of its.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct From {
    /// Whom.
    pub whom: Whom,
    /// From which address of theirs.
    pub within: Within,
}

/// A party, or several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whom {
    /// Everybody who may open a session.
    Any,
    /// A member of the network.
    Member(Name),
    /// Members with this tag.
    Tag(String),
    /// One of `[[peers]]`.
    Peer(Name),
    /// A stock device of this node.
    Leaf(Name),
    /// A workload of this node.
    Workload(Name),
    /// The holder of this WireGuard key.
    Key([u8; 32]),
}

/// A name, or all of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Name {
    /// `*`
    Every,
    /// A DNS label.
    One(String),
}

/// Which addresses of a party are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Within {
    /// All that it answers for.
    All,
    /// Those that it answers for in this prefix.
    Network(Ipv6Network),
    /// That of its workload with this name.
    Workload(String),
}

/// What on this node a rule opens. Written `node`, `workload:NAME`, `leaf:NAME` or `any`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum To {
    /// The node itself.
    Node,
    /// The workload with this name.
    Workload(String),
    /// The stock device with this name.
    Leaf(String),
    /// The node and everything behind it.
    Any,
}

/// Whose packets are judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject<'a> {
    /// Its WireGuard key; a workload has none.
    pub key: Option<&'a [u8; 32]>,
    /// What the configuration calls it as a peer.
    pub peer: Option<&'a str>,
    /// What it is called as a stock device of this node.
    pub leaf: Option<&'a str>,
    /// What it is called as a workload of this node.
    pub workload: Option<&'a str>,
    /// What it is called as a member of the network.
    pub member: Option<&'a str>,
    /// The tags that it has as a member.
    pub tags: Vec<&'a str>,
    /// Whether it is told of refusals.
    pub standing: Standing,
}

/// Whether a party is one of us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// A member of the network, or named by the configuration: it is told that its packets are refused.
    Member,
    /// Anybody else: it hears nothing.
    Stranger,
}

/// Why a text is no [`From`] or [`To`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// Not a word that says whom.
    #[error(
        "`{0}` is none of any, member:NAME, tag:TAG, peer:NAME, leaf:NAME, workload:NAME and key:BASE64"
    )]
    From(String),
    /// Not a word that says where.
    #[error("`{0}` is none of node, workload:NAME, leaf:NAME and any")]
    To(String),
    /// Not a name.
    #[error("`{0}` is no name: 1 to 63 lower-case letters, digits and hyphens")]
    Name(String),
    /// Not a key.
    #[error("`{0}` is no public key: 32 bytes in base64")]
    Key(String),
    /// Behind the slash is neither an address nor a name.
    #[error("`{0}` is neither an IPv6 address or prefix nor the name of a workload")]
    Within(String),
}

impl Subject<'_> {
    /// Somebody of whom nothing is known.
    pub const STRANGER: Subject<'static> = Subject {
        key: None,
        peer: None,
        leaf: None,
        workload: None,
        member: None,
        tags: Vec::new(),
        standing: Standing::Stranger,
    };
}

impl Whom {
    /// Whether it is meant.
    pub fn is(&self, subject: &Subject<'_>) -> bool {
        let is_named = |wanted: &Name, name: Option<&str>| match (wanted, name) {
            (_, None) => false,
            (Name::Every, Some(_)) => true,
            (Name::One(wanted), Some(name)) => wanted == name,
        };
        match self {
            Self::Any => true,
            Self::Member(name) => is_named(name, subject.member),
            Self::Tag(tag) => subject.tags.contains(&&**tag),
            Self::Peer(name) => is_named(name, subject.peer),
            Self::Leaf(name) => is_named(name, subject.leaf),
            Self::Workload(name) => is_named(name, subject.workload),
            Self::Key(key) => subject.key == Some(key),
        }
    }
}

impl FromStr for From {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        // A key may have slashes of its own.
        let (whom, within) = match text.strip_prefix("key:") {
            Some(rest) => match rest.split_at_checked(KEY_LEN) {
                Some((key, rest)) => (Whom::Key(key_of(key)?), rest.strip_prefix('/').map(Ok)),
                None => return Err(SelectorError::Key(rest.to_owned())),
            },
            None => match text.split_once('/') {
                Some((whom, within)) => (whom_of(whom)?, Some(Ok(within))),
                None => (whom_of(text)?, None),
            },
        };
        if let (Whom::Key(_), None) = (&whom, &within)
            && text.len() > "key:".len() + KEY_LEN
        {
            return Err(SelectorError::Key(text["key:".len()..].to_owned()));
        }
        let within = match within.transpose()? {
            Some(text) => within_of(text)?,
            None => Within::All,
        };
        Ok(Self { whom, within })
    }
}

fn whom_of(text: &str) -> Result<Whom, SelectorError> {
    if text == "any" {
        return Ok(Whom::Any);
    }
    let wrong = || SelectorError::From(text.to_owned());
    let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
    Ok(match kind {
        "member" => Whom::Member(name_of(name)?),
        "tag" => Whom::Tag(label(name)?),
        "peer" => Whom::Peer(name_of(name)?),
        "leaf" => Whom::Leaf(name_of(name)?),
        "workload" => Whom::Workload(name_of(name)?),
        _ => return Err(wrong()),
    })
}

fn name_of(text: &str) -> Result<Name, SelectorError> {
    match text {
        "*" => Ok(Name::Every),
        text => label(text).map(Name::One),
    }
}

/// A DNS label in lower case.
fn label(text: &str) -> Result<String, SelectorError> {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(is_good)
        && !text.starts_with('-')
        && !text.ends_with('-');
    is_label
        .then(|| text.to_owned())
        .ok_or_else(|| SelectorError::Name(text.to_owned()))
}

fn key_of(text: &str) -> Result<[u8; 32], SelectorError> {
    let bytes = STANDARD.decode(text).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| SelectorError::Key(text.to_owned()))
}

fn within_of(text: &str) -> Result<Within, SelectorError> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(Within::Network(address.into()));
    }
    match text.parse::<Ipv6Network>() {
        Ok(network) if network.network() == network.ip() => Ok(Within::Network(network)),
        Ok(_) => Err(SelectorError::Within(text.to_owned())),
        Err(_) => label(text)
            .map(Within::Workload)
            .map_err(|_| SelectorError::Within(text.to_owned())),
    }
}

impl FromStr for To {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        match (text, text.split_once(':')) {
            ("node", _) => Ok(Self::Node),
            ("any", _) => Ok(Self::Any),
            (_, Some(("workload", name))) => label(name).map(Self::Workload),
            (_, Some(("leaf", name))) => label(name).map(Self::Leaf),
            _ => Err(SelectorError::To(text.to_owned())),
        }
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.whom {
            Whom::Any => f.write_str("any"),
            Whom::Member(name) => write!(f, "member:{name}"),
            Whom::Tag(tag) => write!(f, "tag:{tag}"),
            Whom::Peer(name) => write!(f, "peer:{name}"),
            Whom::Leaf(name) => write!(f, "leaf:{name}"),
            Whom::Workload(name) => write!(f, "workload:{name}"),
            Whom::Key(key) => write!(f, "key:{}", STANDARD.encode(key)),
        }?;
        match &self.within {
            Within::All => Ok(()),
            Within::Network(network) if network.prefix() == 128 => write!(f, "/{}", network.ip()),
            Within::Network(network) => write!(f, "/{network}"),
            Within::Workload(name) => write!(f, "/{name}"),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("*"),
            Self::One(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Workload(name) => write!(f, "workload:{name}"),
            Self::Leaf(name) => write!(f, "leaf:{name}"),
            Self::Any => f.write_str("any"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "dnLWfRiWU4Q3j/WPzwFMgy6dqkNi7ByvldsDBvRZxRI=";

    #[test]
    fn selectors_are_read_and_written_alike() {
        let key = format!("key:{KEY}");
        let key_within = format!("key:{KEY}/6a3:9c1e:77b0:1f42::5");
        for text in [
            "any",
            "member:laptop",
            "member:*",
            "tag:admin",
            "peer:vps1",
            "leaf:phone",
            "workload:web",
            "member:nas/web",
            "peer:nas/6a3:9c1e:77b0:1f42:5555::/80",
            &key,
            &key_within,
        ] {
            assert_eq!(text.parse::<From>().unwrap().to_string(), text);
        }
        for text in ["node", "workload:web", "leaf:phone", "any"] {
            assert_eq!(text.parse::<To>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_selects_nobody_is_refused_with_a_reason() {
        let refused = |text: &str| text.parse::<From>().unwrap_err().to_string();
        assert!(refused("laptop").starts_with("`laptop` is none of any, member:NAME"));
        assert!(refused("Member:laptop").starts_with("`Member:laptop` is none of"));
        assert!(refused("member:Lap top").starts_with("`Lap top` is no name"));
        assert!(refused("tag:*").starts_with("`*` is no name"));
        assert!(refused("key:abc").starts_with("`abc` is no public key"));
        assert!(refused(&format!("key:{KEY}x")).contains("is no public key"));
        assert!(refused("peer:nas/6a3::1/64").contains("is neither an IPv6 address"));
        assert!(refused("peer:nas/").contains("is neither an IPv6 address"));
        assert!("workload:*".parse::<To>().is_err());
        assert!("member:laptop".parse::<To>().is_err());
    }

    #[test]
    fn a_selector_means_those_that_have_its_name_in_that_role() {
        let laptop = Subject {
            key: Some(&[7; 32]),
            peer: Some("pc"),
            member: Some("laptop"),
            tags: vec!["admin"],
            ..Subject::STRANGER
        };
        let is = |text: &str| text.parse::<From>().unwrap().whom.is(&laptop);
        assert!(is("any") && is("member:laptop") && is("member:*") && is("peer:pc"));
        assert!(is("tag:admin") && is(&format!("key:{}", STANDARD.encode([7; 32]))));
        assert!(!is("member:pc") && !is("peer:laptop") && !is("leaf:*") && !is("workload:*"));
        assert!(!is("tag:guest") && !is(&format!("key:{KEY}")));
        let stranger = Subject::STRANGER;
        let is = |text: &str| text.parse::<From>().unwrap().whom.is(&stranger);
        assert!(is("any") && !is("member:*") && !is("peer:*"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(any|member:|key:|peer:|tag:|.{0,4}){0,2}[a-z0-9:/=*+-]{0,60}") {
            if let Ok(from) = text.parse::<From>() {
                prop_assert_eq!(from.to_string().parse(), Ok(from));
            }
            if let Ok(to) = text.parse::<To>() {
                prop_assert_eq!(to.to_string().parse(), Ok(to));
            }
        }
    }
}
