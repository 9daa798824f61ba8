//! `meshd members`, `meshd approve`, `meshd revoke`

use std::io::{self, Write};

use super::failure::Failure;
use super::table::Table;
use crate::admin::{ApproveRequest, Governed, MemberShown, MemberStanding, Members, RevokeRequest};
use crate::cli::Global;

pub(super) fn run(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let members = super::client(global)?.members()?;
    if global.json {
        return super::print_json(members, out);
    }
    Ok(print(&members, out)?)
}

pub(super) fn approve(
    global: &Global,
    target: String,
    name: Option<String>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let governed = super::client(global)?.approve(&ApproveRequest { target, name })?;
    say(global, governed, out)
}

pub(super) fn revoke(global: &Global, target: String, out: &mut impl Write) -> Result<(), Failure> {
    let governed = super::client(global)?.revoke(&RevokeRequest { target })?;
    say(global, governed, out)
}

fn say(global: &Global, governed: Governed, out: &mut impl Write) -> Result<(), Failure> {
    if global.json {
        return super::print_json(governed, out);
    }
    let name = governed.name.as_deref().map(super::printable);
    let name = name.unwrap_or_else(|| governed.address.to_string());
    Ok(writeln!(out, "{name} is {}", standing(governed.standing))?)
}

/// ```text
/// NAME    ADDRESS                  STANDING       TAGS    SESSION
/// laptop  6a3:1d07:be55:90aa::1    member         server  yes
/// nas     6a3:9c1e:77b0:1f42::1    member, admin  -       this node
/// ```
fn print(members: &Members, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(["NAME", "ADDRESS", "STANDING", "TAGS", "SESSION"]);
    for member in &members.members {
        table.row(row(member));
    }
    table.print(out)
}

fn row(member: &MemberShown) -> [String; 5] {
    let mut is = standing(member.standing).to_owned();
    if member.admin {
        is += ", admin";
    }
    if let Some(why) = &member.why {
        is += &format!(": {why}");
    }
    let session = match (member.own, member.connected) {
        (true, _) => "this node",
        (false, true) => "yes",
        (false, false) => "-",
    };
    [
        member.name.clone().unwrap_or_else(|| "-".to_owned()),
        member.address.to_string(),
        is,
        tags(&member.tags),
        session.to_owned(),
    ]
}

/// What a node is, in a word.
pub(super) fn standing(standing: MemberStanding) -> &'static str {
    match standing {
        MemberStanding::Member => "member",
        MemberStanding::Pending => "pending",
        MemberStanding::Suspended => "suspended",
        MemberStanding::Revoked => "revoked",
        MemberStanding::Left => "left",
        MemberStanding::None => "no member",
    }
}

/// With commas between.
pub(super) fn tags(tags: &[String]) -> String {
    if tags.is_empty() {
        "-".to_owned()
    } else {
        tags.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::identity;

    #[test]
    fn members_are_a_table() {
        let shown = |n: usize, name: Option<&str>, standing, why: Option<&str>| {
            let node = identity(n).node();
            MemberShown {
                name: name.map(ToOwned::to_owned),
                address: node.address(),
                public_key: node.public_key(),
                standing,
                why: why.map(ToOwned::to_owned),
                tags: Vec::new(),
                admin: n == 0,
                since: Some(1_700_000_000),
                own: n == 0,
                connected: n == 1,
            }
        };
        let members = Members {
            members: vec![
                shown(0, Some("nas"), MemberStanding::Member, None),
                MemberShown {
                    tags: vec!["lab".to_owned(), "server".to_owned()],
                    ..shown(1, Some("laptop"), MemberStanding::Member, None)
                },
                shown(
                    2,
                    Some("pi"),
                    MemberStanding::Suspended,
                    Some("its ticket had expired"),
                ),
                shown(3, None, MemberStanding::Revoked, None),
            ],
        };
        let mut out = Vec::new();
        print(&members, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        NAME    ADDRESS                STANDING                           TAGS        SESSION
        nas     664:6008:a954:afec::1  member, admin                      -           this node
        laptop  6d4:97b8:38a7:2b6e::1  member                             lab,server  yes
        pi      674:20f:9465:60f6::1   suspended: its ticket had expired  -           -
        -       698:853f:d989:c5af::1  revoked                            -           -
        ");
    }
}
