//! The rules of `[inbound]`.

use filter::{Fate, From, Name, Policy, Ports, Rule, To, Whom};

use super::check::Check;
use super::{Config, InboundRule, Verdict};

/// Rules at most: each packet that begins something may meet all that mean its sender.
const MAX_RULES: usize = 1024;
/// Entries of `ports` in one rule at most.
const MAX_PORTS: usize = 64;

impl Check {
    pub(super) fn inbound(&mut self, config: &Config) -> Policy {
        let inbound = &config.inbound;
        if inbound.allow.len() > MAX_RULES {
            self.fault(
                "inbound.allow",
                format!(
                    "{} rules; up to {MAX_RULES} are possible",
                    inbound.allow.len()
                ),
            );
        }
        let rules = inbound.allow.iter().enumerate();
        let rules = rules
            .filter_map(|(i, rule)| self.rule(&format!("inbound.allow[{i}]"), rule, config))
            .collect();
        Policy {
            default: match inbound.default {
                Verdict::Allow => Fate::Allow,
                Verdict::Deny => Fate::Deny,
            },
            icmp_echo: if inbound.icmp_echo {
                Fate::Allow
            } else {
                Fate::Deny
            },
            allow: rules,
        }
    }

    fn rule(&mut self, key: &str, rule: &InboundRule, config: &Config) -> Option<Rule> {
        let from = self.ok(&format!("{key}.from"), rule.from.parse::<From>());
        let to = self.ok(&format!("{key}.to"), rule.to.parse::<To>());
        let at = format!("{key}.ports");
        if rule.ports.is_empty() {
            self.fault(&at, "opens nothing: say which ports, or [\"any\"]");
        }
        if rule.ports.len() > MAX_PORTS {
            self.fault(&at, format!("more than {MAX_PORTS} entries"));
        }
        let ports = rule.ports.iter();
        let ports = ports
            .filter_map(|ports| self.ok(&at, ports.parse::<Ports>()))
            .collect();
        let from = from?;
        // Nobody else can be a peer. Devices may be added later, and workloads come and go.
        if let Whom::Peer(Name::One(name)) = &from.whom
            && !config
                .peers
                .iter()
                .any(|peer| peer.name.as_ref() == Some(name))
        {
            self.fault(
                format!("{key}.from"),
                format!("no [[peers]] entry is called `{name}`"),
            );
        }
        Some(Rule {
            from,
            to: to?,
            ports,
        })
    }
}
