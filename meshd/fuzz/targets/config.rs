//! What a fuzzer's bytes do as configurations: shared by the fuzz target and by `tests/fuzz_corpus.rs`.

use meshd::config::{Config, ConfigError, Settings, Source};
use meshd::redact::{Detail, Redactor};

use crate::scene::scene;

/// What stands between the configuration that runs and the one that is to replace it.
const THEN: char = '\0';

/// The text is a configuration, or two. Each is accepted or refused with a reason for every fault, the same way every time; from one
/// that runs to another there is a reload that leaves nothing to reload; and a report can be made of any.
pub(crate) fn read(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, second) = text.split_once(THEN).unwrap_or((&text, ""));
    let [running, new] = [first, second].map(check);
    if let (Some(running), Some(new)) = (running, new) {
        assert!(running.changes(&running).applied.is_empty());
        let wanted = running.changes(&new);
        let live = new.clone().live(&running);
        let left = live.changes(&new);
        assert!(left.applied.is_empty(), "{left:?} is left");
        assert_eq!(left.restart, wanted.restart);
    }
}

fn check(text: &str) -> Option<Settings> {
    let source = Source {
        path: "meshd.toml".into(),
        state_dir: None,
        socket: None,
    };
    let mut redactor = Redactor::new(Detail::Redacted);
    if let Ok(config) = toml::from_str::<Config>(text) {
        let mut value = serde_json::to_value(config).expect("a configuration can be written");
        redactor.config(&mut value);
    }
    let alone = source.check(text, None);
    match source.check(text, Some(scene().own)) {
        Ok(settings) => {
            assert!(alone.is_ok(), "refused only for somebody else: {alone:?}");
            Some(settings)
        }
        Err(ConfigError::Invalid { faults, .. }) => {
            assert!(!faults.is_empty());
            let lines = text.lines().count() + 1;
            for fault in faults {
                assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!fault.message.is_empty() && !fault.message.contains('\n'));
                redactor.fault(&fault.message);
            }
            None
        }
        Err(error @ ConfigError::Read { .. }) => panic!("read nothing: {error}"),
    }
}
