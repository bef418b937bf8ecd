//! Interfaces, addresses, routes, rules and neighbours that come, change and go while a container runs.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use e2e::network::{Namespace, ip};
use e2e::{Bundle, Census, Deadline, Runtime, Sandbox, alone};

use crate::net::{bundle_in, said, with_raw_sockets};
use crate::net_limits::configured;

/// Waits until a command in the container says a text; all that it says then.
fn shows(runv: &Runtime<'_>, command: &str, text: &str) -> Result<String> {
    Deadline::generous()?.wait_for(&format!("{text:?} of {command:?}"), || {
        Ok(said(runv, command).ok().filter(|shown| shown.contains(text)))
    })
}

/// Until it says it no more.
fn hides(runv: &Runtime<'_>, command: &str, text: &str) -> Result<()> {
    Deadline::generous()?.wait_for(&format!("no {text:?} of {command:?}"), || {
        Ok(said(runv, command).is_ok_and(|shown| !shown.contains(text)).then_some(()))
    })
}

#[test]
fn interfaces_that_come_and_go_while_the_container_runs_do_so_in_the_guest() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(10)?;
    let (census, before) = (Census::take()?, namespace.inside()?);
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    // A device of the guest that has been given back serves again.
    for number in [1, 2] {
        for line in [
            "link add late type veth peer name late0 netns net10".to_owned(),
            format!("addr add 10.79.{number}.1/24 dev late"),
            "link set late up".to_owned(),
            format!("-n net10 link set late0 address 02:79:00:00:00:0{number} mtu 1300"),
            format!("-n net10 addr add 10.79.{number}.2/24 dev late0"),
            "-n net10 link set late0 up".to_owned(),
            format!("-n net10 route add 203.0.113.0/24 via 10.79.{number}.1"),
        ] {
            ip(&line)?;
        }
        shows(&runv, "ip route", &format!("203.0.113.0/24 via 10.79.{number}.1 dev late0"))?;
        let link = shows(&runv, "ip addr show late0", &format!("inet 10.79.{number}.2/24"))?;
        ensure!(link.contains(&format!("02:79:00:00:00:0{number}")) && link.contains("mtu 1300"), "{link}");
        said(&runv, &format!("ping -c 1 -W 5 10.79.{number}.1 && ping -c 1 -W 5 10.77.10.1"))?;
        ip("link del late")?;
        Deadline::generous()?.wait_for("the interface's end", || {
            // One that goes meanwhile is an error of ls.
            Ok(said(&runv, "ls /sys/class/net").is_ok_and(|shown| shown == "lo\nnet7\n").then_some(()))
        })?;
    }
    ip("-n net10 addr add 10.77.10.7/32 dev net7")?;
    shows(&runv, "ip addr show net7", "inet 10.77.10.7/32")?;
    ip("-n net10 addr del 10.77.10.7/32 dev net7")?;
    hides(&runv, "ip addr show net7", "10.77.10.7")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    assert_eq!(namespace.inside()?, before);
    census.restored(Deadline::after(Duration::from_secs(5))?)
}

#[test]
fn what_changes_on_an_interface_that_stays_does_so_in_the_guest() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(13)?;
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let here = |line: &str| ip(&format!("-n net13 {line}"));

    // What goes, goes by itself.
    here("route del 192.0.2.0/24")?;
    here("route del unreachable 198.51.100.0/24")?;
    here("neigh del 10.77.13.9 dev net7")?;
    here("rule del priority 1000")?;
    here("-6 addr del fd77:13::2/64 dev net7")?;
    let all = "ip addr show net7; ip route; ip rule; ip neigh show nud permanent";
    for text in ["192.0.2.0", "198.51.100.0", "10.77.13.9", "lookup 100", "fd77:13::2"] {
        hides(&runv, all, text)?;
    }
    said(&runv, "ping -c 1 -W 5 10.77.13.1")?;

    // With an address the kernel takes the routes by it, and these are the same afterwards.
    here("addr del 10.77.13.2/24 dev net7")?;
    here("addr add 10.77.13.3/24 dev net7")?;
    here("route replace default via 10.77.13.1")?;
    shows(&runv, "ip addr show net7; ip route", "10.77.13.3")?;
    shows(&runv, "ip route", "default via 10.77.13.1 dev net7")?;
    hides(&runv, all, "10.77.13.2")?;
    said(&runv, "ping -c 1 -W 5 10.77.13.1")?;

    // Another MTU or name makes another interface of it, with the same addresses.
    here("link set net7 mtu 1300")?;
    shows(&runv, "ip addr show net7", "mtu 1300")?;
    shows(&runv, "ip addr show net7", "10.77.13.3/24")?;
    shows(&runv, "ip route", "default via 10.77.13.1 dev net7")?;
    here("link set net7 down")?;
    shows(&runv, "ip link show net7 | grep -c ,UP || true", "0")?;
    here("link set net7 name net8")?;
    here("link set net8 up")?;
    here("route replace default via 10.77.13.1")?;
    shows(&runv, "ip addr show net8", "10.77.13.3/24")?;
    shows(&runv, "ip route", "default via 10.77.13.1 dev net8")?;
    said(&runv, "ping -c 1 -W 5 10.77.13.1")?;
    Ok(())
}

/// In a namespace that `create` has made, as engines that can join it only then do.
#[test]
fn the_first_interface_may_come_between_create_and_start_or_later() -> Result<()> {
    let _order = alone();
    let census = Census::take()?;
    let bundle = with_raw_sockets(Bundle::shell("ip -o addr show eth0; sleep 1000")?)?;
    let runv = configured(&bundle, "[network]\nspare_interfaces = 1\n")?;
    runv.leave(&["create", "--pid-file", "pid", "c1"])?.expect(0)?;
    let pid = runv.read("pid");
    let give = |name: &str, number: u8| -> Result<()> {
        for line in [
            format!("link add first{number} type veth peer name {name} netns {pid}"),
            format!("addr add 10.79.{number}.1/24 dev first{number}"),
            format!("link set first{number} up"),
        ] {
            ip(&line)?;
        }
        // By its path, as the shell of the nested host has an `ip` of its own.
        let inside = format!("/bin/ip addr add 10.79.{number}.2/24 dev {name} && /bin/ip link set {name} up");
        let nsenter = ["-n", "-t", &pid, "sh", "-c", &inside];
        let status = std::process::Command::new("nsenter").args(nsenter).status()?;
        ensure!(status.success(), "{status}");
        Ok(())
    };
    give("eth0", 21)?;
    runv.call(&["start", "c1"])?.expect(0)?;
    Deadline::generous()?.wait_for("the workload", || Ok(runv.read("out").contains("eth0").then_some(())))?;
    ensure!(runv.read("out").contains("inet 10.79.21.2/24"), "{}", runv.read("out"));
    said(&runv, "ping -c 1 -W 5 10.79.21.1")?;
    ip("link del first21")?;
    hides(&runv, "ls /sys/class/net", "eth0")?;
    give("eth1", 22)?;
    shows(&runv, "ip addr show eth1", "inet 10.79.22.2/24")?;
    said(&runv, "ping -c 1 -W 5 10.79.22.1")?;
    // One for which there is no device is told of, and gets one when another has given its back.
    give("eth2", 23)?;
    Deadline::generous()?.wait_for("a warning", || {
        Ok(runv.read("err").contains("runv: warning: the interface eth2 has come").then_some(()))
    })?;
    ip("link del first22")?;
    shows(&runv, "ip addr show eth2", "inet 10.79.23.2/24")?;
    said(&runv, "ping -c 1 -W 5 10.79.23.1")?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    Deadline::generous()?
        .wait_for("the veth's end", || Ok(ip("link show first23").is_err().then_some(())))?;
    census.restored(Deadline::after(Duration::from_secs(5))?)
}

/// As with runv: what comes later, and a name server at 127.0.0.11 as docker's.
#[test]
fn sandbox_run_follows_its_namespace_and_relays_the_name_server_there() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(23)?;
    ip("-n net23 link set lo up")?;
    let (census, before) = (Census::take()?, namespace.inside()?);
    let server = namespace.listen("127.0.0.11:53")?;
    // It ends with the sandbox, whose relay has the other end.
    let answering = std::thread::spawn(move || {
        let connection = server.accept()?.0;
        io::copy(&mut &connection, &mut &connection)
    });
    let script = "echo asked | nc -w 20 127.0.0.11 53; \
        until ip -o addr show late0 2>/dev/null | grep 10.80.0.2; do sleep 0.1; done; \
        until ! ip link show late0 2>/dev/null; do sleep 0.1; done; echo gone";
    let bundle = bundle_in(&namespace, script)?;
    let running = Sandbox::run(&bundle)?.start()?;
    running.stdout().wait_for("asked", Deadline::generous()?)?;
    ip("link add late type veth peer name late0 netns net23")?;
    ip("-n net23 addr add 10.80.0.2/24 dev late0")?;
    ip("-n net23 link set late0 up")?;
    running.stdout().wait_for("10.80.0.2/24", Deadline::generous()?)?;
    ip("link del late")?;
    let text = running.finish(Deadline::generous()?)?.expect_code(0)?.text();
    ensure!(text.ends_with("gone\n"), "{text}");
    let asked = answering.join().map_err(|_| anyhow!("the server panicked"))?;
    assert_eq!(asked.context("the server")?, 6);
    assert_eq!(namespace.inside()?, before);
    census.restored(Deadline::after(Duration::from_secs(5))?)
}
