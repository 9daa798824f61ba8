//! What the packet filter of this machine does to the mesh, read from `nft -j list ruleset`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Who asks: what has to pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs<'a> {
    /// UDP ports that peers call at.
    pub(super) ports: &'a [u16],
    /// The overlay's interface.
    pub(super) interface: &'a str,
}

/// What a chain keeps out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// What peers send to this port.
    Port(Chain, u16),
    /// What comes out of the overlay for this machine.
    Interface(Chain),
    /// Nobody knows what: the rules are written in a way that is not understood.
    Opaque(Chain),
}

/// A chain, as nft is told of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chain {
    /// Its table's family.
    pub(super) family: String,
    /// Its table.
    pub(super) table: String,
    /// Its name.
    pub(super) name: String,
}

/// One that packets for this machine pass.
struct Base {
    drops: bool,
}

/// What stands in the way. Chains that let in what no rule drops are taken to be open, and a rule that names a port or an interface and
/// accepts is taken to do so for everybody: whoever wrote it had reasons.
///
/// # Errors
/// It is no ruleset.
pub(super) fn judge(ruleset: &str, needs: Needs<'_>) -> Result<Vec<Obstacle>, serde_json::Error> {
    let ruleset: Value = serde_json::from_str(ruleset)?;
    let empty = Vec::new();
    let objects = ruleset["nftables"].as_array().unwrap_or(&empty);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut bases: BTreeMap<Chain, Base> = BTreeMap::new();
    let mut rules: Vec<(Chain, &[Value])> = Vec::new();
    for object in objects {
        if let Some(chain) = object.get("chain") {
            let key = Chain {
                family: text(chain, "family"),
                table: text(chain, "table"),
                name: text(chain, "name"),
            };
            let is_ours = key.table == "meshd";
            let is_input = chain["hook"] == "input" && chain["type"] == "filter";
            if is_input && !is_ours && ["inet", "ip", "ip6"].contains(&key.family.as_str()) {
                let drops = chain["policy"] == "drop";
                bases.insert(key, Base { drops });
            }
        } else if let Some(rule) = object.get("rule") {
            let key = Chain {
                family: text(rule, "family"),
                table: text(rule, "table"),
                name: text(rule, "chain"),
            };
            if let Some(expressions) = rule["expr"].as_array() {
                rules.push((key, expressions));
            }
        }
    }
    for (chain, expressions) in &rules {
        if let Some(base) = bases.get_mut(chain) {
            base.drops |= is_unconditional(expressions, &["drop", "reject"]);
        }
    }
    let mut obstacles = Vec::new();
    for (chain, _) in bases.iter().filter(|(_, base)| base.drops) {
        let is_here =
            |other: &Chain| (&other.family, &other.table) == (&chain.family, &chain.table);
        let here = || {
            rules
                .iter()
                .filter(|(other, _)| is_here(other))
                .map(|(_, rule)| *rule)
        };
        if here().any(|rule| is_unconditional(rule, &["accept"])) {
            continue;
        }
        if here()
            .flatten()
            .any(|expression| expression.get("xt").is_some())
        {
            obstacles.push(Obstacle::Opaque(chain.clone()));
            continue;
        }
        let lets_in = |matches: &dyn Fn(&Value) -> bool| {
            here().any(|rule| {
                accepts(rule) && rule.iter().any(|expression| matches(&expression["match"]))
            })
        };
        for &port in needs.ports {
            if !lets_in(&|test| is_field(test, "dport") && covers(&test["right"], port)) {
                obstacles.push(Obstacle::Port(chain.clone(), port));
            }
        }
        let is_interface = |test: &Value| {
            let key = test["left"]["meta"]["key"].as_str().unwrap_or_default();
            ["iifname", "iif"].contains(&key) && names(&test["right"], needs.interface)
        };
        if chain.family != "ip" && !lets_in(&is_interface) {
            obstacles.push(Obstacle::Interface(chain.clone()));
        }
    }
    Ok(obstacles)
}

/// Whether a rule is nothing but one of these verdicts, besides counting and logging.
fn is_unconditional(rule: &[Value], verdicts: &[&str]) -> bool {
    let is_verdict = |expression: &Value| {
        verdicts
            .iter()
            .any(|verdict| expression.get(verdict).is_some())
    };
    let is_idle = |expression: &Value| {
        ["counter", "log", "comment"]
            .iter()
            .any(|key| expression.get(key).is_some())
    };
    rule.iter().any(is_verdict)
        && rule
            .iter()
            .all(|expression| is_verdict(expression) || is_idle(expression))
}

/// Whether a rule accepts, or leaves it to another chain.
fn accepts(rule: &[Value]) -> bool {
    rule.iter().any(|expression| {
        ["accept", "jump", "goto", "vmap"]
            .iter()
            .any(|key| expression.get(key).is_some())
    })
}

fn is_field(test: &Value, field: &str) -> bool {
    let payload = &test["left"]["payload"];
    payload["field"] == field
        && ["udp", "th"]
            .iter()
            .any(|protocol| payload["protocol"] == *protocol)
        && test["op"] != "!="
}

/// Whether a value of a match, a set or a range of it, includes a port. A set that has a name may.
fn covers(value: &Value, port: u16) -> bool {
    if let Some(number) = value.as_u64() {
        return number == u64::from(port);
    }
    if let Some(range) = value["range"].as_array() {
        let ends: Vec<u64> = range.iter().filter_map(Value::as_u64).collect();
        return matches!(ends[..], [first, last] if (first..=last).contains(&port.into()));
    }
    if let Some(set) = value["set"].as_array() {
        return set.iter().any(|member| covers(member, port));
    }
    value.as_str().is_some_and(|name| name.starts_with('@'))
}

/// Whether a value of a match, or a set of it, includes an interface; `mesh*` does.
fn names(value: &Value, interface: &str) -> bool {
    if let Some(set) = value["set"].as_array() {
        return set.iter().any(|member| names(member, interface));
    }
    value
        .as_str()
        .is_some_and(|name| match name.strip_suffix('*') {
            Some(start) => interface.starts_with(start),
            None => name == interface || name.starts_with('@'),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs<'_> = Needs {
        ports: &[51860],
        interface: "mesh0",
    };

    /// A table `inet filter` whose chain `input` has this policy and these rules.
    fn ruleset(policy: &str, rules: &[&str]) -> String {
        let rules = rules.iter().map(|expressions| {
            format!(r#",{{"rule":{{"family":"inet","table":"filter","chain":"input","handle":4,"expr":[{expressions}]}}}}"#)
        });
        format!(
            r#"{{"nftables":[{{"metainfo":{{"json_schema_version":1}}}},{{"table":{{"family":"inet","name":"filter","handle":1}}}},
            {{"chain":{{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"{policy}"}}}}
            {}]}}"#,
            rules.collect::<String>()
        )
    }

    fn obstacles(policy: &str, rules: &[&str]) -> Vec<Obstacle> {
        judge(&ruleset(policy, rules), NEEDS).unwrap()
    }

    fn input() -> Chain {
        Chain {
            family: "inet".into(),
            table: "filter".into(),
            name: "input".into(),
        }
    }

    fn port(right: &str) -> String {
        format!(
            r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"udp","field":"dport"}}}},"right":{right}}}}},{{"accept":null}}"#
        )
    }

    const MESH: &str = r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"mesh0"}},{"accept":null}"#;
    const RELATED: &str = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;

    #[test]
    fn what_lets_everything_in_is_in_nobodys_way() {
        assert_eq!(obstacles("accept", &[RELATED]), []);
        assert_eq!(judge(r#"{"nftables":[]}"#, NEEDS).unwrap(), []);
        assert_eq!(
            obstacles(
                "drop",
                &[r#"{"counter":{"packets":0,"bytes":0}},{"accept":null}"#]
            ),
            []
        );
    }

    #[test]
    fn a_chain_that_drops_has_to_name_port_and_interface() {
        let both = [Obstacle::Port(input(), 51860), Obstacle::Interface(input())];
        assert_eq!(obstacles("drop", &[RELATED]), both);
        assert_eq!(obstacles("accept", &[RELATED, r#"{"reject":null}"#]), both);
        for right in [
            "51860",
            r#"{"range":[51800,51900]}"#,
            r#"{"set":[22,{"range":[51860,51861]}]}"#,
            r#""@ports""#,
        ] {
            let opened = obstacles("drop", &[&port(right), RELATED]);
            assert_eq!(opened, [Obstacle::Interface(input())], "{right}");
            assert_eq!(obstacles("drop", &[&port(right), MESH]), []);
        }
        for right in ["22", r#"{"range":[1,1024]}"#, r#"{"set":[]}"#] {
            let kept = obstacles("drop", &[&port(right), MESH]);
            assert_eq!(kept, [Obstacle::Port(input(), 51860)], "{right}");
        }
        // A rule that only counts lets nobody in.
        let counted = port("51860").replace(r#"{"accept":null}"#, r#"{"counter":null}"#);
        assert_eq!(
            obstacles("drop", &[&counted, MESH]),
            [Obstacle::Port(input(), 51860)]
        );
    }

    #[test]
    fn our_own_table_and_other_hooks_are_not_looked_at() {
        let ours =
            ruleset("drop", &[]).replace(r#""filter","name":"input""#, r#""meshd","name":"input""#);
        assert_eq!(judge(&ours, NEEDS).unwrap(), []);
        let forward = ruleset("drop", &[]).replace(r#""hook":"input""#, r#""hook":"forward""#);
        assert_eq!(judge(&forward, NEEDS).unwrap(), []);
    }

    #[test]
    fn rules_of_iptables_are_not_understood() {
        let rule = r#"{"xt":{"type":"match","name":"udp"}},{"accept":null}"#;
        assert_eq!(obstacles("drop", &[rule]), [Obstacle::Opaque(input())]);
        assert!(judge("Operation not permitted", NEEDS).is_err());
    }
}
