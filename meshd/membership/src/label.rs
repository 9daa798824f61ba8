//! Names and tags: parts of names in DNS (RFC 1123 §2.1), in lower case.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// The name of a member or of a network: 1 to [`Name::MAX`] of a-z, 0-9 and hyphens, none at either end; not `id` or `open`, which stand for
/// something else in names, and not ending as the names do that are shown where several claim one (a hyphen and eight hexadecimal digits
/// or more).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name(String);

/// One tag of a member: 1 to [`Tag::MAX`] of a-z, 0-9 and hyphens, none at either end.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(String);

/// The tags of a member: at most [`Tags::MAX`], of [`Tags::MAX_LEN`] bytes in all, counting one more for each.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tags(BTreeSet<Tag>);

/// Why a text is no name or tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LabelError {
    /// Empty, or too long.
    #[error("a name has 1 to {} characters, a tag 1 to {}", Name::MAX, Tag::MAX)]
    Length,
    /// Another character than a-z, 0-9 and hyphen, or a hyphen at an end.
    #[error("only a-z, 0-9 and hyphens, which may not come first or last")]
    Character,
    /// A name that means something else.
    #[error(
        "a name that has another meaning: id, open, or one that ends in a hyphen and eight hexadecimal digits"
    )]
    Reserved,
    /// Too many tags for one member.
    #[error(
        "more than {} tags, or longer than {} bytes together",
        Tags::MAX,
        Tags::MAX_LEN
    )]
    Tags,
}

impl Name {
    /// Longest name, in bytes. What is shown where several claim one name has room for as much again, and is still a label of DNS.
    pub const MAX: usize = 32;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// Longest tag, in bytes.
    pub const MAX: usize = 16;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tags {
    /// Most tags.
    pub const MAX: usize = 8;
    /// Most bytes of them, with one more for each.
    pub const MAX_LEN: usize = 64;

    /// These tags; each counts once.
    ///
    /// # Errors
    /// [`LabelError::Tags`].
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Result<Self, LabelError> {
        let tags: BTreeSet<Tag> = tags.into_iter().take(1 << 8).collect();
        let len: usize = tags.iter().map(|tag| 1 + tag.0.len()).sum();
        if tags.len() > Self::MAX || len > Self::MAX_LEN {
            return Err(LabelError::Tags);
        }
        Ok(Self(tags))
    }

    /// The tags, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.0.iter()
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, tag: &str) -> bool {
        self.0.iter().any(|own| own.0 == tag)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Name {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        check(text, Self::MAX)?;
        let is_shown_form = text.rsplit_once('-').is_some_and(|(_, last)| {
            last.len() >= 8 && last.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_shown_form || ["id", "open"].contains(&text) {
            return Err(LabelError::Reserved);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Tag {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        check(text, Self::MAX)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, max: usize) -> Result<(), LabelError> {
    if !(1..=max).contains(&text.len()) {
        return Err(LabelError::Length);
    }
    let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.bytes().all(is_label) || text.starts_with('-') || text.ends_with('-') {
        return Err(LabelError::Character);
    }
    Ok(())
}
