//! `meshd wg add|list|remove`

mod qr;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::Ipv6Addr;

use serde::Serialize;
use wireguard::{PrivateKey, PublicKey};
use zeroize::Zeroizing;

use self::qr::{Format, ImageFile, Ink, QrCode};
use super::failure::{Exit, Failure};
use super::table::{Table, duration, or_dash};
use crate::admin::{AddDevice, Device, DeviceAdded, DeviceOrigin, Schema};
use crate::cli::{Global, Wg, WgAdd};
use crate::config::is_label;
use crate::identity::overlay;

pub(super) fn run(global: &Global, verb: Wg, out: &mut impl Write) -> Result<(), Failure> {
    match verb {
        Wg::Add(device) => add(global, device, out),
        Wg::List => list(global, out),
        Wg::Remove { name } => remove(global, &name, out),
    }
}

/// What `wg add --json` prints. This is the one place where the private key is ever shown.
#[derive(Serialize)]
struct Added<'a> {
    name: String,
    address: Ipv6Addr,
    public_key: PublicKey,
    private_key: Option<&'a str>,
    endpoint: Option<String>,
    configuration: &'a str,
    qr: Option<&'a str>,
}

impl Schema for Added<'_> {
    const SCHEMA: &'static str = "meshd.wg-add/1";
}

fn add(global: &Global, device: WgAdd, out: &mut impl Write) -> Result<(), Failure> {
    if !is_label(&device.name) {
        let what = format!(
            "`{}` cannot be a device's name: 1 to 63 lower-case letters, digits and hyphens",
            device.name
        );
        return Err(Failure::new(Exit::Usage, what).next("meshd wg add phone"));
    }
    // First what can fail without anything to undo.
    let mut images = create_images(&device)?;
    let added = add_with(global, device, &mut images, out);
    if added.is_err() {
        images.into_iter().for_each(ImageFile::discard);
    }
    added
}

/// The files that the images of the code go to.
fn create_images(device: &WgAdd) -> Result<Vec<ImageFile>, Failure> {
    let wanted = [(&device.png, Format::Png), (&device.svg, Format::Svg)];
    let mut images = Vec::new();
    for (path, format) in wanted {
        let Some(path) = path else { continue };
        match ImageFile::create(path, format) {
            Ok(image) => images.push(image),
            Err(error) => {
                images.into_iter().for_each(ImageFile::discard);
                let what = format!("cannot make the file {}: {error}", path.display());
                return Err(Failure::new(Exit::Failed, what));
            }
        }
    }
    Ok(images)
}

fn add_with(
    global: &Global,
    device: WgAdd,
    images: &mut [ImageFile],
    out: &mut impl Write,
) -> Result<(), Failure> {
    let client = super::client(global)?;
    let (public_key, private_key) = match device.public_key {
        Some(public_key) => (public_key, None),
        None => {
            let private_key = generate()?;
            (private_key.public(), Some(private_key.to_base64()))
        }
    };
    let added = client.add_device(&AddDevice {
        name: device.name,
        public_key,
    })?;
    let endpoint = device
        .endpoint
        .map(|endpoint| endpoint.to_string())
        .or_else(|| added.endpoint.map(|endpoint| endpoint.to_string()));
    let wants_code = device.qr || !images.is_empty();
    if wants_code && endpoint.is_none() {
        // Who scans a code cannot fill in what is missing.
        client.remove_device(&added.name)?;
        let what = "this node does not know at which address the device can find it";
        let next = format!(
            "meshd wg add {} --endpoint HOST:{}",
            added.name, added.listen_port
        );
        return Err(Failure::new(Exit::Failed, what).next(next));
    }
    let private_key = private_key.as_ref().map(|key| key.as_str());
    let resolver = added.resolver.filter(|_| device.dns);
    if device.dns && resolver.is_none() {
        client.remove_device(&added.name)?;
        let what = "the daemon answers no names; it is older than this command";
        return Err(Failure::new(Exit::Version, what).next("sudo systemctl restart meshd"));
    }
    let configuration = configuration(&added, private_key, endpoint.as_deref(), resolver);
    let configuration = configuration.as_str();
    let name = added.name;
    // The text is there for whoever cannot use a code: the key is in nothing else.
    let code = wants_code
        .then(|| QrCode::new(configuration))
        .transpose()
        .map_err(|error| Failure::new(Exit::Failed, format!("no code holds this: {error}")))?;
    if global.json {
        let shown = code.as_ref().filter(|_| device.qr);
        let shown = shown.map(|code| code.terminal(Ink::Plain));
        let added = Added {
            name: name.clone(),
            address: added.address,
            public_key,
            private_key,
            endpoint,
            configuration,
            qr: shown.as_ref().map(|shown| shown.as_str()),
        };
        super::print_json(added, out)?;
    } else {
        write!(out, "{configuration}")?;
        if let Some(code) = code.as_ref().filter(|_| device.qr) {
            write!(out, "\n{}", code.terminal(ink()).as_str())?;
        }
    }
    let Some(code) = code else { return Ok(()) };
    for image in images {
        image.write(&code).map_err(|error| {
            let what = format!("cannot write {}: {error}", image.path().display());
            Failure::new(Exit::Failed, what).next(format!("meshd wg remove {name}"))
        })?;
    }
    Ok(())
}

/// Colours where somebody looks who has not said that they are unwelcome.
fn ink() -> Ink {
    let is_unwelcome = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !is_unwelcome {
        Ink::Coloured
    } else {
        Ink::Plain
    }
}

/// A fresh WireGuard private key, clamped as `wg genkey` does.
fn generate() -> Result<PrivateKey, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("the system gives no random numbers: {error}"),
        )
    })?;
    Ok(PrivateKey::from_bytes(
        curve25519_dalek::scalar::clamp_integer(*bytes),
    ))
}

/// A configuration for wg-quick and the WireGuard apps. Comments have lines of their own, which all of them accept.
fn configuration(
    added: &DeviceAdded,
    private_key: Option<&str>,
    endpoint: Option<&str>,
    resolver: Option<Ipv6Addr>,
) -> Zeroizing<String> {
    let private_key = private_key.map_or_else(
        || Zeroizing::new("# PrivateKey = the one the device has made".to_owned()),
        |key| {
            Zeroizing::new(format!(
                "# The key is shown this once and kept nowhere else.\nPrivateKey = {key}"
            ))
        },
    );
    let endpoint = endpoint.map_or_else(
        || {
            format!(
                "# Endpoint = the address of this node, with port {}",
                added.listen_port
            )
        },
        |endpoint| format!("Endpoint = {endpoint}"),
    );
    let resolver = resolver.map_or_else(String::new, |resolver| {
        format!("# Names of the mesh, and no others.\nDNS = {resolver}\n")
    });
    // Sized at once, so that no reallocation leaves a copy of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(1024));
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "# {} in the mesh, through this node.\n\
         [Interface]\n{}\nAddress = {}/128\nMTU = {}\n{resolver}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = {}\n{endpoint}\nPersistentKeepalive = 25\n",
        super::printable(&added.name),
        private_key.as_str(),
        added.address,
        added.mtu,
        added.gateway_public_key,
        overlay(),
    );
    text
}

fn list(global: &Global, out: &mut impl Write) -> Result<(), Failure> {
    let devices = super::client(global)?.devices()?;
    if global.json {
        return super::print_json(devices, out);
    }
    let mut table = Table::new([
        "NAME",
        "ADDRESS",
        "FROM",
        "ENDPOINT",
        "HANDSHAKE",
        "PUBLIC KEY",
    ]);
    for Device {
        name,
        public_key,
        allowed,
        origin,
        endpoint,
        last_handshake_s,
    } in devices.devices
    {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let origin = match origin {
            DeviceOrigin::Config => "configuration",
            DeviceOrigin::Added => "wg add",
        };
        table.row([
            name,
            allowed.join(","),
            origin.to_owned(),
            or_dash(endpoint, |endpoint| endpoint.to_string()),
            or_dash(last_handshake_s, duration),
            public_key.to_string(),
        ]);
    }
    Ok(table.print(out)?)
}

fn remove(global: &Global, name: &str, out: &mut impl Write) -> Result<(), Failure> {
    let removed = super::client(global)?.remove_device(name)?;
    if global.json {
        return super::print_json(removed, out);
    }
    Ok(writeln!(
        out,
        "{} may open no session any more",
        super::printable(&removed.name)
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{leaf_address, resolver_address};
    use crate::testdata;

    fn added() -> DeviceAdded {
        let gateway = testdata::identity(0).node();
        DeviceAdded {
            name: "phone".into(),
            address: leaf_address(gateway.prefix(), &testdata::identity(1).node().public_key()),
            gateway_public_key: gateway.public_key(),
            listen_port: 51_860,
            mtu: 1280,
            endpoint: None,
            resolver: Some(resolver_address(gateway.prefix())),
        }
    }

    #[test]
    fn the_configuration_is_one_for_wg_quick() {
        let text = configuration(&added(), Some("KEY"), Some("[2001:db8::7]:51860"), None);
        insta::assert_snapshot!(text.as_str(), @r"
        # phone in the mesh, through this node.
        [Interface]
        # The key is shown this once and kept nowhere else.
        PrivateKey = KEY
        Address = 664:6008:a954:afec:8267:694c:4627:a615/128
        MTU = 1280

        [Peer]
        PublicKey = +WA3h7X1aDkhofGMGWdeNpG2nJeesBpPsr0M6JUJ/x0=
        AllowedIPs = 600::/8
        Endpoint = [2001:db8::7]:51860
        PersistentKeepalive = 25
        ");
    }

    #[test]
    fn what_is_not_known_is_a_comment_on_a_line_of_its_own() {
        let text = configuration(&added(), None, None, None);
        assert!(text.contains("\n# PrivateKey = the one the device has made\n"));
        assert!(text.contains("\n# Endpoint = the address of this node, with port 51860\n"));
        assert!(
            text.lines()
                .all(|line| line.starts_with('#') || !line.contains('#'))
        );
    }

    #[test]
    fn names_are_asked_for_if_that_is_wished() {
        let added = added();
        let text = configuration(&added, None, None, added.resolver);
        let line = "\nMTU = 1280\n# Names of the mesh, and no others.\nDNS = 664:6008:a954:afec::53\n\n[Peer]\n";
        assert!(text.contains(line), "{}", text.as_str());
    }

    #[test]
    fn generated_keys_are_clamped_and_differ() {
        let [a, b] = [generate().unwrap(), generate().unwrap()];
        assert_ne!(a.public(), b.public());
    }
}
