//! What the running daemon found that needs attention: the warnings of `meshd status` that no configuration file gave.

use std::{collections::BTreeMap, time::Instant};

use parking_lot::Mutex;

use crate::admin::{Warning, WarningCode};

/// At most one warning for each code. Used on the control thread alone; the lock is there to satisfy the compiler.
#[derive(Debug, Default)]
pub struct Alerts(Mutex<BTreeMap<WarningCode, Alert>>);

#[derive(Debug)]
struct Alert {
    text: String,
    until: Option<Instant>,
}

impl Alerts {
    /// Shows a warning until it is cleared.
    pub fn raise(&self, code: WarningCode, text: impl Into<String>) {
        let text = text.into();
        self.0.lock().insert(code, Alert { text, until: None });
    }

    /// Shows a warning until that moment of the daemon's clock.
    pub fn raise_until(&self, code: WarningCode, text: impl Into<String>, until: Instant) {
        let alert = Alert {
            text: text.into(),
            until: Some(until),
        };
        self.0.lock().insert(code, alert);
    }

    /// It is not so any more.
    pub fn clear(&self, code: WarningCode) {
        self.0.lock().remove(&code);
    }

    /// What is shown at `now`, by code.
    pub fn warnings(&self, now: Instant) -> Vec<Warning> {
        let mut alerts = self.0.lock();
        alerts.retain(|_, alert| alert.until.is_none_or(|until| now < until));
        alerts
            .iter()
            .map(|(code, alert)| Warning::new(*code, alert.text.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_warning_stays_until_it_is_cleared_or_its_time_has_come() {
        let (alerts, now) = (Alerts::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        alerts.raise(WarningCode::StateReadonly, "full");
        alerts.raise_until(WarningCode::ClockJump, "set back", now + hour);
        let codes = |at| -> Vec<String> {
            alerts
                .warnings(at)
                .into_iter()
                .map(|warning| warning.code)
                .collect()
        };
        assert_eq!(codes(now), ["CLOCK-JUMP", "STATE-READONLY"]);
        assert_eq!(codes(now + hour), ["STATE-READONLY"]);
        alerts.clear(WarningCode::StateReadonly);
        assert!(codes(now + hour).is_empty());
    }
}
