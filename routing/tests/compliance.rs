//! Every MUST of RFC 8966 that `compliance.txt` calls done has its line in the code, and every such line its MUST.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a line in the code begins with, before the section and the rule's name.
const MARK: &str = "//= RFC 8966 §";

#[derive(Debug, PartialEq)]
enum State {
    /// There is a line at or below this path.
    Done(PathBuf),
    /// There is nothing to see to.
    Never,
}

/// Section and name of a rule.
type Rule = (String, String);

/// The list.
fn rules() -> BTreeMap<Rule, State> {
    let mut rules = BTreeMap::new();
    let list = include_str!("compliance.txt").lines();
    for line in list.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (fields, words) = line.split_once(" | ").expect(line);
        assert!(!words.trim().is_empty(), "{line}");
        let fields: Vec<_> = fields.split_whitespace().collect();
        let state = match fields[2..] {
            ["done", path] => State::Done(path.into()),
            ["never", _, ..] => State::Never,
            _ => panic!("no state: {line}"),
        };
        let rule = (fields[0].to_owned(), fields[1].to_owned());
        assert_eq!(rules.insert(rule, state), None, "listed twice: {line}");
    }
    rules
}

/// All lines with the mark in a directory: which rule, and in which file.
fn marks(directory: &Path, root: &Path, found: &mut Vec<(Rule, PathBuf)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            marks(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(MARK));
            found.extend(lines.map(|line| {
                let (section, name) = line.split_once(' ').expect(line);
                let file = path.strip_prefix(root).unwrap().to_owned();
                ((section.to_owned(), name.to_owned()), file)
            }));
        }
    }
}

#[test]
fn what_the_list_calls_done_has_its_line_and_nothing_else_has() {
    let rules = rules();
    assert!(rules.len() >= 75, "{} rules", rules.len());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = vec![];
    for crate_name in ["routing", "meshd"] {
        marks(&root.join(crate_name).join("src"), root, &mut found);
    }

    for (rule, file) in &found {
        let state = rules.get(rule);
        assert!(
            matches!(state, Some(State::Done(_))),
            "{}: {rule:?} is {state:?} in the list",
            file.display()
        );
    }
    for (rule, state) in &rules {
        match state {
            State::Done(path) => assert!(
                (found.iter()).any(|(mark, file)| mark == rule && file.starts_with(path)),
                "{rule:?} has no line in {}",
                path.display()
            ),
            State::Never => {}
        }
    }
}
