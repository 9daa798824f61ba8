//! Who else on this machine routes addresses of the overlay, read from `ip -6 -j route show table all` and `ip -6 -j rule`.

use ipnetwork::Ipv6Network;
use serde_json::Value;

use crate::identity::overlay;
use crate::io::netlink::TABLE;

/// A route of somebody else's into the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Foreign {
    /// To where.
    pub(super) prefix: Ipv6Network,
    /// Where it leads.
    pub(super) device: String,
    /// In which table.
    pub(super) table: String,
    /// Whether packets take it: it is looked at before the overlay's own.
    pub(super) wins: bool,
}

/// Routes into the overlay that lead elsewhere than to its interface.
///
/// # Errors
/// This is no answer of `ip`.
pub(super) fn judge(
    routes: &str,
    rules: &str,
    interface: &str,
) -> Result<Vec<Foreign>, serde_json::Error> {
    let routes: Vec<Value> = serde_json::from_str(routes)?;
    let rules: Vec<Value> = serde_json::from_str(rules)?;
    let ours = TABLE.to_string();
    let priority_of = |table: &str| {
        let looks_there =
            |rule: &&Value| is_named(&rule["table"], table) && rule.get("fwmark").is_none();
        rules
            .iter()
            .filter(looks_there)
            .filter_map(|rule| rule["priority"].as_u64())
            .min()
    };
    let own = priority_of(&ours);
    let foreign = |route: &Value| {
        let (name, number) = (route["table"].as_str(), route["table"].as_u64());
        let table = name.map(str::to_owned);
        let table = table.or_else(|| number.map(|number| number.to_string()));
        let table = table.unwrap_or_else(|| "main".to_owned());
        let device = route["dev"].as_str().unwrap_or_default();
        let prefix: Ipv6Network = route["dst"].as_str()?.parse().ok()?;
        let is_inside = overlay().contains(prefix.ip()) && prefix.prefix() >= overlay().prefix();
        if !is_inside || table == ours || device == interface || route["type"] == "multicast" {
            return None;
        }
        let theirs = priority_of(&table);
        Some(Foreign {
            prefix,
            device: device.to_owned(),
            wins: match (theirs, own) {
                (Some(theirs), Some(own)) => theirs < own,
                (Some(_), None) => true,
                (None, _) => false,
            },
            table,
        })
    };
    Ok(routes.iter().filter_map(foreign).collect())
}

fn is_named(value: &Value, table: &str) -> bool {
    value.as_str() == Some(table)
        || value
            .as_u64()
            .is_some_and(|number| number.to_string() == table)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"[{"priority":0,"src":"all","table":"local"},
        {"priority":5276,"src":"all","fwmark":"0x5277","table":"main"},
        {"priority":5277,"src":"all","dst":"600::","dstlen":8,"table":"5277"},
        {"priority":32766,"src":"all","table":"main"}]"#;

    fn foreign(routes: &str, rules: &str) -> Vec<(String, bool)> {
        judge(routes, rules, "mesh0")
            .unwrap()
            .into_iter()
            .map(|route| {
                (
                    format!("{} {} {}", route.prefix, route.device, route.table),
                    route.wins,
                )
            })
            .collect()
    }

    #[test]
    fn our_own_routes_and_those_elsewhere_are_fine() {
        let routes = r#"[{"dst":"600::/8","dev":"mesh0","table":"5277","metric":1024},
            {"type":"unreachable","dst":"600::/8","dev":"lo","table":"5277","metric":2048},
            {"dst":"default","gateway":"fe80::1","dev":"eth0"},{"dst":"fd00::/8","dev":"wg0"},{"dst":"::/0","dev":"wg0"},
            {"type":"local","dst":"664::1","dev":"mesh0","table":"local"}]"#;
        assert_eq!(foreign(routes, RULES), []);
    }

    #[test]
    fn a_route_wins_whose_table_is_asked_before_ours() {
        let routes = r#"[{"dst":"600::/7","dev":"wg0"},{"dst":"664:6008::/32","dev":"wg0"},
            {"type":"local","dst":"665::1","dev":"eth0","table":"local"},{"dst":"666::/16","dev":"tun1","table":"99"}]"#;
        let expected = [
            ("664:6008::/32 wg0 main", false),
            ("665::1/128 eth0 local", true),
            ("666::/16 tun1 99", false),
        ];
        let expected = expected.map(|(text, wins)| (text.to_owned(), wins));
        assert_eq!(foreign(routes, RULES), expected);
        let before = RULES.replace("32766", "100");
        assert!(foreign(routes, &before)[0].1);
        let without = RULES.replace(r#""table":"5277""#, r#""table":"5""#);
        assert!(foreign(routes, &without)[0].1);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(judge("RTNETLINK", RULES, "mesh0").is_err());
        assert!(judge("[]", "x", "mesh0").is_err());
        assert_eq!(judge("[{}]", "[{}]", "mesh0").unwrap(), []);
    }
}
