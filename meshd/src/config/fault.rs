//! What is wrong with a configuration, and where.

use std::fmt::Write as _;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that the configuration may not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1; absent when the key comes from a flag or from a default.
    pub line: Option<usize>,
    /// The key, as in `peers[0].endpoint`; empty when the file is no TOML at all.
    pub key: String,
    /// What is wrong, what to write instead.
    pub message: String,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: None,
            key: key.into(),
            message: message.into(),
        }
    }

    /// An error of the TOML reader: syntax, a wrong type, a key or value that does not exist.
    pub(super) fn of_toml(error: &toml::de::Error, text: &str) -> Self {
        let line = error.span().map(|span| line_at(text, span.start));
        // Its messages may have several lines; the first says it all.
        let message = error.message().lines().next().unwrap_or("not a TOML file");
        Self {
            line,
            key: String::new(),
            message: suggest(message),
        }
    }

    /// The same fault with the line at which `text` has its key, or the nearest table around it.
    pub(super) fn located(mut self, text: &str) -> Self {
        if let Ok(root) = DeTable::parse(text) {
            self.line = offset_of(&root, &self.key).map(|offset| line_at(text, offset));
        }
        self
    }
}

/// One line for each fault: `file:line: key: message`.
pub(super) fn report(path: &Path, faults: &[Fault]) -> String {
    let mut report = String::new();
    for fault in faults {
        if !report.is_empty() {
            report.push('\n');
        }
        report += &path.display().to_string();
        // Writing to a string cannot fail.
        let _ = fault.line.map(|line| write!(report, ":{line}"));
        report += ": ";
        if !fault.key.is_empty() {
            report += &fault.key;
            report += ": ";
        }
        report += &fault.message;
    }
    report
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

/// Where the key (`peers[0].endpoint`) stands; the deepest part of it that exists, if any does.
fn offset_of(root: &Spanned<DeTable<'_>>, key: &str) -> Option<usize> {
    let mut found = None;
    let mut table = root.get_ref();
    for part in key.split('.') {
        let (name, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((name, index)) => (name, index.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, value)) = table.get_key_value(name) else {
            break;
        };
        found = Some(key.span().start);
        let mut value = value;
        if let (Some(index), DeValue::Array(items)) = (index, value.get_ref()) {
            let Some(item) = items.get(index) else { break };
            found = Some(item.span().start);
            value = item;
        }
        let DeValue::Table(inner) = value.get_ref() else {
            break;
        };
        table = inner;
    }
    found
}

/// Rewrites serde's "unknown field `x`, expected one of `y`, `z`" into the words of the manual, nearest name included.
fn suggest(message: &str) -> String {
    let kind = match message {
        m if m.starts_with("unknown field `") => "key",
        m if m.starts_with("unknown variant `") => "value",
        _ => return message.to_owned(),
    };
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else {
        return message.to_owned();
    };
    let known: Vec<&str> = names.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(name) => format!("unknown {kind} `{unknown}`, did you mean `{name}`?"),
        None => format!("unknown {kind} `{unknown}`, known are {}", known.join(", ")),
    }
}

/// The name that a typing error turned into `word`: at most a third of its letters differ.
pub(crate) fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete, replace or swap with their neighbour (optimal string alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_one_typing_error_away() {
        let names = ["name", "state_dir", "open", "relay"];
        assert_eq!(nearest("nmae", names.into_iter()), Some("name"));
        assert_eq!(nearest("statedir", names.into_iter()), Some("state_dir"));
        assert_eq!(nearest("colour", names.into_iter()), None);
    }

    #[test]
    fn a_key_is_found_inside_arrays_of_tables() {
        let text = "[node]\nname = 'a'\n[[peers]]\nname = 'b'\n[[peers]]\nname = 'c'\nendpoint = [\n 'x',\n 'y' ]\n";
        let line = |key: &str| Fault::new(key, "").located(text).line;
        assert_eq!(line("peers[1].name"), Some(6));
        assert_eq!(line("peers[1].endpoint[1]"), Some(9));
        assert_eq!(line("peers[1].public_key"), Some(5));
        assert_eq!(line("api.socket"), None);
    }
}
