//! Interfaces of other kinds than veth, put into a network namespace by hand.

use anyhow::{Result, ensure};
use e2e::network::{Namespace, ip};
use e2e::{Runtime, alone};

use crate::net::{answers, bundle_in, connected, said};

/// Kinds with their options; a kernel may have not all of them. Each is on top of a veth of its own.
const KINDS: [(&str, &str); 3] = [("macvlan", "mode bridge"), ("ipvlan", "mode l2"), ("vlan", "id 5")];

#[test]
fn interfaces_on_top_of_others_are_the_guests() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(14)?;
    ip("-n net14 link del net7")?;
    let mut made = Vec::new();
    for (number, (kind, options)) in KINDS.into_iter().enumerate() {
        ip(&format!("link add under{number} type veth peer name over{number}"))?;
        ip(&format!("link set under{number} up"))?;
        ip(&format!("link set over{number} up"))?;
        let add = format!("link add link under{number} name {kind}0 netns net14 type {kind} {options}");
        match ip(&add) {
            Err(error) if kind != "macvlan" && error.to_string().contains("Unknown device type") => continue,
            other => other?,
        };
        let mut peer = format!("over{number}");
        if kind == "vlan" {
            ip(&format!("link add link {peer} name {peer}.5 type vlan id 5"))?;
            peer += ".5";
            ip(&format!("link set {peer} up"))?;
        }
        ip(&format!("addr add 10.80.{number}.1/24 dev {peer}"))?;
        ip(&format!("-n net14 addr add 10.80.{number}.2/24 dev {kind}0"))?;
        ip(&format!("-n net14 link set {kind}0 up"))?;
        made.push((number, kind));
    }
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let reached: Result<()> = made.iter().try_for_each(|(number, kind)| {
        ensure!(said(&runv, "ls /sys/class/net")?.contains(&format!("{kind}0")), "no {kind}");
        said(&runv, &format!("ping -c 1 -W 5 10.80.{number}.1"))?;
        answers(&mut connected(&format!("10.80.{number}.2:80"))?, kind)
    });
    for number in 0..KINDS.len() {
        ip(&format!("link del under{number}"))?;
    }
    reached
}

#[test]
fn a_bridge_of_the_namespace_is_the_guests_and_its_ports_are_not() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(22)?;
    for change in [
        "addr flush dev net7",
        "link add br0 type bridge",
        "link set net7 master br0",
        "addr add 10.81.0.2/24 dev br0",
        "link set br0 up",
    ] {
        ip(&format!("-n net22 {change}"))?;
    }
    ip("addr add 10.81.0.1/24 dev peer22")?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let links = said(&runv, "ls /sys/class/net")?;
    ensure!(links.contains("br0") && !links.contains("net7"), "{links}");
    said(&runv, "ping -c 1 -W 5 10.81.0.1")?;
    answers(&mut connected("10.81.0.2:80")?, "over a bridge")
}
