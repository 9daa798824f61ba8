use proptest::prelude::*;

use super::*;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(pair).collect()
}

fn add() -> BTreeMap<String, String> {
    environment(&[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0123456789abcdef0123"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
    ])
}

fn with(
    mut variables: BTreeMap<String, String>,
    name: &str,
    value: &str,
) -> BTreeMap<String, String> {
    variables.insert(name.to_owned(), value.to_owned());
    variables
}

const CONFIG: &str =
    r#"{"cniVersion": "1.1.0", "name": "mesh", "type": "meshd", "publish": ["tcp/80"]}"#;

fn code(variables: &BTreeMap<String, String>, input: &str) -> (Code, String) {
    let (error, _) = read(variables, input.as_bytes()).unwrap_err();
    (error.code, error.message)
}

fn attachment_of(variables: &BTreeMap<String, String>, input: &str) -> Attachment {
    match read(variables, input.as_bytes()).unwrap().command {
        Command::Add(attachment) | Command::Del(attachment) | Command::Check(attachment) => {
            attachment
        }
        other @ (Command::Gc { .. } | Command::Status | Command::Version) => panic!("{other:?}"),
    }
}

#[test]
fn a_container_is_attached_by_its_namespace_under_a_name_that_it_keeps() {
    let attachment = attachment_of(&add(), CONFIG);
    let wish = attachment.wish.unwrap();
    assert_eq!(wish.name, "cni-0123456789ab");
    assert_eq!(wish.target.to_string(), "netns:/run/netns/c1");
    assert_eq!(wish.interface, "eth0");
    assert_eq!(wish.publish, ["tcp/80".parse().unwrap()]);
    assert_eq!(attachment.id, "cni:mesh:0123456789abcdef0123:eth0");
    let named = |args: &str| {
        let attachment = attachment_of(&with(add(), "CNI_ARGS", args), CONFIG);
        attachment.wish.unwrap().name
    };
    assert_eq!(named("IgnoreUnknown=1;MESHD_NAME=web"), "web");
    assert_eq!(
        named("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web.1"),
        "web-1-shop"
    );
    assert_eq!(
        named(&format!(
            "K8S_POD_NAMESPACE=shop;K8S_POD_NAME={}",
            "x".repeat(63)
        )),
        "cni-0123456789ab"
    );
    let second = attachment_of(&with(add(), "CNI_IFNAME", "net1"), CONFIG);
    assert_eq!(second.wish.unwrap().name, "cni-0123456789ab-net1");
}

/// §5 of the specification, "Error", and what §2 asks of each command.
#[test]
fn every_error_has_the_code_that_the_specification_gives_it() {
    let without = |name: &str| {
        let mut variables = add();
        variables.remove(name);
        variables
    };
    let verb = |verb: &str| with(add(), "CNI_COMMAND", verb);
    let cases = [
        (
            add(),
            r#"{"cniVersion": "0.2.0", "name": "mesh"}"#,
            Code::Version,
            "0.2.0",
        ),
        (
            add(),
            r#"{"cniVersion": "1.1.0", "name": "mesh", "ipam": {"type": "host-local"}}"#,
            Code::Unsupported,
            "host-local",
        ),
        (
            without("CNI_COMMAND"),
            CONFIG,
            Code::Environment,
            "CNI_COMMAND",
        ),
        (verb("LIST"), CONFIG, Code::Environment, "CNI_COMMAND"),
        (
            without("CNI_CONTAINERID"),
            CONFIG,
            Code::Environment,
            "CNI_CONTAINERID",
        ),
        (without("CNI_NETNS"), CONFIG, Code::Environment, "CNI_NETNS"),
        (
            without("CNI_IFNAME"),
            CONFIG,
            Code::Environment,
            "CNI_IFNAME",
        ),
        (
            with(add(), "CNI_CONTAINERID", "../x"),
            CONFIG,
            Code::Environment,
            "CNI_CONTAINERID",
        ),
        (
            with(add(), "CNI_IFNAME", "sixteen-bytes-xx"),
            CONFIG,
            Code::Environment,
            "CNI_IFNAME",
        ),
        (
            with(add(), "CNI_IFNAME", "a/b"),
            CONFIG,
            Code::Environment,
            "CNI_IFNAME",
        ),
        (
            with(add(), "CNI_NETNS", "a/b"),
            CONFIG,
            Code::Environment,
            "CNI_NETNS",
        ),
        (
            with(add(), "CNI_ARGS", "MESHD_NAME=Web"),
            CONFIG,
            Code::Environment,
            "MESHD_NAME",
        ),
        (add(), "", Code::Decode, ""),
        (add(), "[]", Code::Decode, ""),
        (add(), r#"{"cniVersion": "1.1.0""#, Code::Decode, ""),
        (add(), r#"{"name": "mesh"}"#, Code::Config, "cniVersion"),
        (add(), r#"{"cniVersion": "1.1.0"}"#, Code::Config, "name"),
        (
            add(),
            r#"{"cniVersion": "1.1.0", "name": "../x"}"#,
            Code::Config,
            "name",
        ),
        (
            add(),
            r#"{"cniVersion": "1.1.0", "name": 7}"#,
            Code::Config,
            "",
        ),
        (
            add(),
            r#"{"cniVersion": "1.1.0", "name": "mesh", "publish": ["80"]}"#,
            Code::Config,
            "publish",
        ),
        (
            add(),
            r#"{"cniVersion": "1.1.0", "name": "mesh", "interface": ""}"#,
            Code::Config,
            "interface",
        ),
        (verb("CHECK"), CONFIG, Code::Config, "prevResult"),
    ];
    for (variables, input, expected, names) in cases {
        let (code, message) = code(&variables, input);
        assert_eq!(code, expected, "{input}: {message}");
        assert!(message.contains(names), "{message}");
    }
}

#[test]
fn del_needs_no_namespace_and_gc_names_what_is_in_use() {
    let mut variables = with(add(), "CNI_COMMAND", "DEL");
    variables.remove("CNI_NETNS");
    let attachment = attachment_of(&variables, CONFIG);
    assert!(attachment.wish.is_none());
    assert_eq!(attachment.id, "cni:mesh:0123456789abcdef0123:eth0");

    let gc = environment(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")]);
    let input = r#"{"cniVersion": "1.1.0", "name": "mesh", "cni.dev/valid-attachments":
        [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "net1"}]}"#;
    let Command::Gc { network, valid } = read(&gc, input.as_bytes()).unwrap().command else {
        panic!("no GC");
    };
    assert_eq!(network, "mesh");
    assert_eq!(valid, ["cni:mesh:a:eth0", "cni:mesh:b:net1"]);
}

#[test]
fn version_and_status_need_nothing_else() {
    let version = environment(&[("CNI_COMMAND", "VERSION")]);
    let request = read(&version, br#"{"cniVersion": "1.0.0"}"#).unwrap();
    assert_eq!(request.command, Command::Version);
    assert_eq!(
        versions().to_string(),
        r#"{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}"#
    );
    let status = environment(&[("CNI_COMMAND", "STATUS")]);
    let request = read(&status, CONFIG.as_bytes()).unwrap();
    assert_eq!(request.command, Command::Status);
}

#[test]
fn a_plugin_in_a_list_adds_to_what_those_before_it_have_answered() {
    let previous = r#"{"cniVersion": "1.0.0", "name": "pods", "prevResult": {"cniVersion": "1.0.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/c1"}],
        "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["10.1.0.1"]}}}"#;
    let attachment = attachment_of(&add(), previous);
    let interface = attachment.wish.as_ref().unwrap().interface.clone();
    assert_eq!(interface, "mesh0", "eth0 is another plugin's");
    let address: Ipv6Addr = "600::7".parse().unwrap();
    let result = added("1.0.0", &attachment, &interface, address, 1420);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(
        result["interfaces"][2],
        json!({"name": "mesh0", "sandbox": "/run/netns/c1"})
    );
    assert_eq!(
        result["ips"][1],
        json!({"address": "600::7/128", "interface": 2})
    );
    assert_eq!(result["routes"][1], json!({"dst": "600::/8"}));
    assert_eq!(result["dns"]["nameservers"][0], "10.1.0.1");
    assert!(has_address(&result, address));
    assert!(!has_address(&attachment.previous, address));
}

#[test]
fn check_and_del_find_the_interface_that_add_has_made() {
    let alone = attachment_of(&add(), CONFIG);
    let result = added("1.1.0", &alone, "eth0", "600::7".parse().unwrap(), 1420);
    assert_eq!(result["interfaces"][0]["mtu"], 1420);
    let input = json!({"cniVersion": "1.1.0", "name": "mesh", "prevResult": result}).to_string();
    for verb in ["CHECK", "DEL"] {
        let attachment = attachment_of(&with(add(), "CNI_COMMAND", verb), &input);
        assert_eq!(attachment.wish.unwrap().interface, "eth0", "{verb}");
    }
}

proptest! {
    #[test]
    fn no_input_makes_it_panic_and_every_name_is_a_label(
        container in "[ -~]{0,80}", ifname in "[ -~]{0,20}", args in "[ -~]{0,80}", input in ".{0,80}",
    ) {
        let variables = with(with(add(), "CNI_CONTAINERID", &container), "CNI_ARGS", &args);
        let variables = with(variables, "CNI_IFNAME", &ifname);
        let _ = read(&variables, input.as_bytes());
        if let Ok(request) = read(&variables, CONFIG.as_bytes()) {
            let Command::Add(attachment) = request.command else { panic!("not ADD") };
            prop_assert!(is_label(&attachment.wish.unwrap().name));
        }
    }
}
