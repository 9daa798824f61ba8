//! `meshd join`

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use wireguard::PublicKey;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::admin::{JoinRequest, JoinedNetwork, MemberStanding};
use crate::cli::{Global, Join};

/// Longest text that is read: a ticket with white space around it.
const MAX_TEXT: u64 = 4096;

pub(super) fn run(global: &Global, join: Join, out: &mut impl Write) -> Result<(), Failure> {
    let client = super::client(global)?;
    let (peer, of_peer) = match join.peer.as_deref().map(peer).transpose()? {
        Some((key, endpoint)) => (Some(key), Some(endpoint)),
        None => (None, None),
    };
    let ticket = read(join.ticket.as_deref())?;
    let request = JoinRequest {
        ticket: ticket
            .lines()
            .map(str::trim)
            .find(|line| is_ticket(line))
            .unwrap_or_default()
            .to_owned(),
        name: join.name,
        peer,
        endpoint: of_peer.or(join.endpoint),
    };
    let joined = client.join(&request)?;
    let is_pending = joined.standing == MemberStanding::Pending;
    let network = joined.network.clone();
    if global.json {
        super::print_json(joined, out)?;
    } else if !is_pending {
        say(&joined, out)?;
    }
    if is_pending {
        let what = format!(
            "an admin of network {network} has to approve this node; it asks again every 20 s"
        );
        return Err(Failure::new(Exit::NotMember, what).next(
            "sudo meshd approve NAME     (on an admin's machine), then here: meshd network show",
        ));
    }
    Ok(())
}

fn say(joined: &JoinedNetwork, out: &mut impl Write) -> io::Result<()> {
    let network = joined.network_name.as_deref().unwrap_or(&joined.network);
    writeln!(
        out,
        "joined {} as {}  {}  {} members  (let in by {} after {} ms)",
        super::printable(network),
        super::printable(joined.name.as_deref().unwrap_or("-")),
        joined.address,
        joined.members,
        joined.by,
        joined.took_ms
    )
}

/// `invite` prints comments below the ticket.
fn is_ticket(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('#')
}

/// `KEY@HOST:PORT`
fn peer(text: &str) -> Result<(PublicKey, String), Failure> {
    let parsed = text.split_once('@').and_then(|(key, endpoint)| {
        let key = key.parse().ok()?;
        Some((key, endpoint.to_owned()))
    });
    parsed.ok_or_else(|| {
        let what = format!("`{text}` is not a public key, an @, and host and port");
        Failure::new(Exit::Usage, what).next("meshd key show     (on the member: its public key)")
    })
}

/// The text with the ticket.
fn read(from: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    let done = match from {
        Some(path) if path == Path::new("-") => {
            io::stdin().take(MAX_TEXT).read_to_string(&mut text)
        }
        Some(path) => {
            File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text))
        }
        None if io::stdin().is_terminal() => {
            io::stderr().write_all(b"ticket: ").ok();
            io::stdin().lock().take(MAX_TEXT).read_line(&mut text)
        }
        None => io::stdin().take(MAX_TEXT).read_to_string(&mut text),
    };
    match done {
        Ok(_) => Ok(text),
        Err(error)
            if from.is_some_and(|path| path != Path::new("-"))
                && error.kind() == io::ErrorKind::NotFound =>
        {
            // Somebody may have taken the place of the file for that of the ticket: it is not repeated here.
            let what = "there is no such file; a ticket itself is never an argument, where others could read it";
            Err(Failure::new(Exit::Usage, what).next("sudo meshd join -     and paste the ticket"))
        }
        Err(error) => Err(Failure::new(
            Exit::Failed,
            format!("reading the ticket: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::identity;

    #[test]
    fn a_peer_is_a_key_and_where_it_is() {
        let key = identity(1).node().public_key();
        let parsed = peer(&format!("{key}@vps1.example.org:51860")).unwrap();
        assert_eq!(parsed, (key, "vps1.example.org:51860".to_owned()));
        for wrong in ["", "vps1.example.org:51860", "nokey@vps1.example.org:51860"] {
            assert_eq!(peer(wrong).unwrap_err().exit(), Exit::Usage);
        }
    }

    #[test]
    fn comments_are_no_tickets() {
        let lines = ["", "# one use", "MESH1ABC"];
        assert_eq!(
            lines.into_iter().find(|line| is_ticket(line)),
            Some("MESH1ABC")
        );
    }
}
