//! `meshd routes`

use std::io::{self, Write};

use super::Failure;
use super::table::{Table, duration, or_dash};
use crate::admin::{Route, RouteOrigin};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let routes = super::client(global)?.routes()?;
    if global.json {
        return super::print_json(routes, out);
    }
    Ok(print(&routes.routes, out)?)
}

fn print(routes: &[Route], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(["", "PREFIX", "VIA", "METRIC", "ORIGIN", "AGE", "WHY"]);
    for route in routes {
        table.row([
            mark(route).to_owned(),
            route.prefix.to_string(),
            or_dash(route.via.clone(), |via| via),
            or_dash(route.metric, |metric| metric.to_string()),
            origin(route.origin).to_owned(),
            duration(route.age_s),
            route.why.clone(),
        ]);
    }
    table.print(out)
}

/// `*`: packets take it; `+`: they could at once.
const fn mark(route: &Route) -> &'static str {
    match (route.selected, route.feasible) {
        (true, _) => "*",
        (false, true) => "+",
        (false, false) => "",
    }
}

const fn origin(origin: RouteOrigin) -> &'static str {
    match origin {
        RouteOrigin::Proven => "proven",
        RouteOrigin::Own => "own",
        RouteOrigin::Legacy => "legacy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_what_is_taken_and_what_could_be() {
        let route = |selected, feasible, metric, why: &str| Route {
            prefix: "6d4:97b8:38a7:2b6e::/64".parse().unwrap(),
            selected,
            metric,
            next_hop: Some("674:20f:9465:60f6::1".parse().unwrap()),
            router_id: "7d178a44169f80ef".into(),
            feasible,
            age_s: 5,
            origin: RouteOrigin::Proven,
            via: Some("vps1".into()),
            link: Some(1),
            why: why.into(),
        };
        let mut out = Vec::new();
        let routes = [
            route(true, true, Some(109), "best"),
            route(false, true, Some(512), "longer"),
            route(false, false, None, "retracted"),
        ];
        print(&routes, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
           PREFIX                   VIA   METRIC  ORIGIN  AGE  WHY
        *  6d4:97b8:38a7:2b6e::/64  vps1  109     proven  5s   best
        +  6d4:97b8:38a7:2b6e::/64  vps1  512     proven  5s   longer
           6d4:97b8:38a7:2b6e::/64  vps1  -       proven  5s   retracted
        ");
    }
}
