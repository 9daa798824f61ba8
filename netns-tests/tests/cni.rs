//! `meshd cni` as container runtimes call it: by its environment and standard input (CNI 1.1).
#![allow(clippy::unwrap_used, reason = "tests")]

use netns_tests::process::Output;
use netns_tests::{Daemon, Host, Lab, Settings, secs, wait_until};
use serde_json::{Value, json};

/// A runtime that calls the plugin of one node.
struct Runtime {
    node: Daemon,
    network: &'static str,
}

impl Runtime {
    /// Calls the plugin by its file, as runtimes do: without arguments.
    fn call(&self, command: &str, variables: &[(&str, &str)], more: Value) -> Output {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": self.network,
            "type": "meshd",
            "socket": self.node.socket(),
            "publish": ["tcp/80"],
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let set: Vec<String> = [("CNI_COMMAND", command), ("CNI_PATH", "/opt/cni/bin")]
            .iter()
            .chain(variables)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let program = netns_tests::daemon::program();
        let argv: Vec<&str> = std::iter::once("env")
            .chain(set.iter().map(String::as_str))
            .chain([program.as_str()])
            .collect();
        let host = self.node.host();
        host.output_of(&argv, &config.to_string(), secs(20))
            .unwrap()
    }

    /// What is printed by a call that succeeds: JSON, or nothing.
    #[track_caller]
    fn succeeds(&self, command: &str, variables: &[(&str, &str)], more: Value) -> Value {
        let output = self.call(command, variables, more);
        assert!(output.status.success(), "{command}: {output:?}");
        if output.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// The code that a call fails with. It is in a document on standard output, and the exit status is not 0.
    #[track_caller]
    fn fails(&self, command: &str, variables: &[(&str, &str)], more: Value) -> u64 {
        let output = self.call(command, variables, more);
        assert!(!output.status.success(), "{command}: {output:?}");
        let error: Value = serde_json::from_str(&output.stdout).unwrap();
        assert!(
            error["msg"].as_str().is_some_and(|text| !text.is_empty()),
            "{error}"
        );
        assert!(
            ["1.0.0", "1.1.0"].contains(&error["cniVersion"].as_str().unwrap()),
            "{error}"
        );
        error["code"].as_u64().unwrap()
    }
}

fn container<'a>(id: &'a str, netns: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("CNI_CONTAINERID", id),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", "eth0"),
    ]
}

fn path(host: &Host) -> String {
    format!("/run/netns/{}", host.namespace())
}

fn runtime(lab: &Lab) -> Runtime {
    Runtime {
        node: lab.host("node").meshd(Settings::new(&lab.identity())),
        network: "mesh",
    }
}

#[test]
fn a_container_comes_is_checked_and_goes_by_the_results_of_the_specification() {
    let lab = Lab::new("cni life");
    let runtime = runtime(&lab);
    let pod = lab.host("pod");
    let netns = path(&pod);
    let it = container("0123456789abcdef", &netns);
    assert_eq!(runtime.succeeds("STATUS", &[], json!({})), Value::Null);
    let versions = runtime.succeeds("VERSION", &[], json!({}));
    assert_eq!(
        versions,
        json!({"cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"]})
    );

    let result = runtime.succeeds("ADD", &it, json!({}));
    let workload = runtime.node.workload("cni-0123456789ab").unwrap();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mtu": 1420, "sandbox": netns}],
            "ips": [{"address": format!("{}/128", workload.address), "interface": 0}],
            "routes": [{"dst": "600::/8"}],
            "dns": {},
        })
    );
    wait_until(secs(5), "its node reaches it", || {
        runtime.node.ping(workload.address)
    });
    let previous = || json!({"prevResult": result});
    assert_eq!(runtime.succeeds("CHECK", &it, previous()), Value::Null);

    // It is as before after the daemon has been killed, and CHECK says so only then.
    runtime.node.kill();
    assert_eq!(runtime.fails("STATUS", &[], json!({})), 50);
    assert_eq!(runtime.fails("ADD", &it, json!({})), 11);
    assert_eq!(runtime.fails("CHECK", &it, previous()), 11);
    runtime.node.start_again();
    assert_eq!(runtime.fails("CHECK", &it, previous()), 3);
    runtime.node.json("attach --restore");
    assert_eq!(runtime.succeeds("CHECK", &it, previous()), Value::Null);

    // Somebody has changed the interface.
    pod.run("ip -6 addr flush dev eth0");
    assert!(runtime.fails("CHECK", &it, previous()) >= 100);

    assert_eq!(runtime.succeeds("DEL", &it, previous()), Value::Null);
    assert!(!pod.run("ip -o link show").contains("eth0"));
    assert!(runtime.node.workload("cni-0123456789ab").is_none());
    // DEL of what is gone is no error, with or without a namespace.
    assert_eq!(runtime.succeeds("DEL", &it, json!({})), Value::Null);
    assert_eq!(
        runtime.succeeds("DEL", &[it[0], it[2]], json!({})),
        Value::Null
    );
    assert_eq!(runtime.fails("CHECK", &it, previous()), 3);
}

#[test]
fn gc_keeps_what_is_valid_and_what_is_of_another_network() {
    let lab = Lab::new("cni gc");
    let runtime = runtime(&lab);
    let other = Runtime {
        node: runtime.node.clone(),
        network: "other",
    };
    let (one, two, three) = (lab.host("one"), lab.host("two"), lab.host("three"));
    runtime.succeeds("ADD", &container("one", &path(&one)), json!({}));
    runtime.succeeds("ADD", &container("two", &path(&two)), json!({}));
    other.succeeds("ADD", &container("three", &path(&three)), json!({}));
    let by_hand = lab.host("by-hand");
    runtime
        .node
        .attach(&format!("netns:{}", by_hand.namespace()), "by-hand");
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "one", "ifname": "eth0"}]});
    runtime.succeeds("GC", &[], valid);
    for (name, is_there) in [
        ("cni-one", true),
        ("cni-two", false),
        ("cni-three", true),
        ("by-hand", true),
    ] {
        assert_eq!(runtime.node.workload(name).is_some(), is_there, "{name}");
    }
    assert!(!two.run("ip -o link show").contains("eth0"));
    runtime.succeeds("GC", &[], json!({"cni.dev/valid-attachments": []}));
    assert!(runtime.node.workload("cni-one").is_none());
    assert!(runtime.node.workload("cni-three").is_some());
}

#[test]
fn a_chained_plugin_adds_an_interface_and_errors_have_their_codes() {
    let lab = Lab::new("cni errors");
    let runtime = runtime(&lab);
    let pod = lab.host("pod");
    let netns = path(&pod);
    pod.run("ip link add eth0 type veth peer name other");
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": netns}],
        "ips": [{"address": "10.1.0.5/16", "interface": 0}],
    });
    let mut it = container("pod-1", &netns);
    it.push((
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    ));
    let result = runtime.succeeds("ADD", &it, json!({"prevResult": previous}));
    assert_eq!(result["interfaces"][1]["name"], "mesh0", "{result}");
    assert_eq!(result["ips"][0]["address"], "10.1.0.5/16");
    let workload = runtime.node.workload("web-0-shop").unwrap();
    assert_eq!(
        result["ips"][1]["address"],
        format!("{}/128", workload.address)
    );
    runtime.succeeds("CHECK", &it, json!({"prevResult": result}));
    runtime.succeeds("DEL", &it, json!({"prevResult": result}));
    assert!(pod.run("ip -o link show").contains("eth0"));
    assert!(!pod.run("ip -o link show").contains("mesh0"));

    let gone = container("gone", "/run/netns/no-such-namespace");
    assert_eq!(runtime.fails("ADD", &gone, json!({})), 3);
    let none = json!({"cniVersion": "0.3.1"});
    assert_eq!(runtime.fails("ADD", &it, none), 1);
    assert_eq!(
        runtime.fails("ADD", &it, json!({"ipam": {"type": "host-local"}})),
        2
    );
    assert_eq!(runtime.fails("ADD", &it[1..], json!({})), 4);
    assert_eq!(runtime.fails("MOVE", &it, json!({})), 4);
    assert_eq!(runtime.fails("ADD", &it, json!({"name": ""})), 7);
    assert_eq!(runtime.fails("CHECK", &it, json!({})), 7);
    // The interface of the runtime's name is somebody else's: nothing is changed.
    assert_eq!(
        runtime.fails("ADD", &container("pod-1", &netns), json!({})),
        5
    );
    assert!(runtime.node.workload("cni-pod1").is_none());
}
