//! `network.receive_limit` and `network.send_limit`: what exceeds a rate is dropped on the host.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::UdpSocket;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::network::{Namespace, ip};
use e2e::{Deadline, Process, Role, Runtime, alone};
use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::net::{answers, bundle_in, connected, said};

/// Datagrams in one go, of so many bytes.
const COUNT: u64 = 1000;
const LENGTH: usize = 1000;

/// With more in its configuration.
pub(crate) fn configured<'bundle>(bundle: &'bundle e2e::Bundle, text: &str) -> Result<Runtime<'bundle>> {
    let runv = Runtime::new(bundle)?;
    let mut file = OpenOptions::new().append(true).open(runv.file("runv.toml"))?;
    file.write_all(text.as_bytes()).context("cannot write the configuration")?;
    Ok(runv)
}

/// The guest's address is known, so that nobody need ask.
fn known(address: &str, mac: &str, device: &str) -> Result<()> {
    ip(&format!("neigh replace {address} lladdr {mac} dev {device} nud permanent")).map(drop)
}

fn send_all(to: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for _ in 0..COUNT {
        // Nobody listens there, and says so.
        let _ = socket.send_to(&[0; LENGTH], (to, 9));
    }
    Ok(())
}

/// Datagrams for which nobody listened.
fn received_by_guest(runv: &Runtime<'_>) -> Result<u64> {
    let all = said(runv, "cat /proc/net/snmp")?;
    let line = all.lines().filter(|line| line.starts_with("Udp:")).nth(1).context("no count")?;
    line.split_whitespace().nth(2).context("no count")?.parse().context("no number")
}

fn received_here(interface: &str) -> Result<u64> {
    let all = fs::read_to_string("/proc/self/net/dev")?;
    let line = all.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()).context("no bytes")?.parse().context("no number")
}

/// Asserts that datagrams to the guest are those of a burst of 10 and of one in each second since `began`, when it had none
/// at that interface.
fn is_limited(runv: &Runtime<'_>, address: &str, began: Instant) -> Result<()> {
    let before = received_by_guest(runv)?;
    // Until there were enough of them that the rate has been reached.
    Deadline::generous()?.wait_for("datagrams within the rate", || {
        send_all(address)?;
        let received = received_by_guest(runv)? - before;
        let most = 11 + began.elapsed().as_secs();
        ensure!(received <= most, "{received} datagrams of at most {most}");
        Ok((received >= 10).then_some(()))
    })
}

#[test]
fn what_exceeds_a_rate_is_dropped_each_way_and_at_each_interface() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(11)?;
    let bundle = bundle_in(&namespace, "sleep 1000")?;
    let limits = "[network.receive_limit]\npackets_per_second = 1\nburst_packets = 10
        [network.send_limit]\nbytes_per_second = 1000\nburst_bytes = \"64K\"\n";
    let runv = configured(&bundle, limits)?;
    let began = Instant::now();
    runv.run_detached("c1")?;
    known("10.77.11.2", &namespace.mac(), "peer11")?;
    is_limited(&runv, "10.77.11.2", began)?;

    // The bucket holds a burst, and what a second adds.
    said(&runv, "ip neigh replace 10.77.11.1 lladdr 02:00:00:00:00:01 dev net7 nud permanent; ip neigh")?;
    let before = received_here("peer11")?;
    Deadline::generous()?.wait_for("bytes within the rate", || {
        said(&runv, &format!("probe datagrams 10.77.11.1:9 {COUNT} {LENGTH}"))?;
        let received = received_here("peer11")? - before;
        // A header of Ethernet is none of the kernel's bytes there.
        let most = (65_536 + 1000 * (2 + began.elapsed().as_secs())) * 11 / 10;
        ensure!(received <= most, "{received} bytes of at most {most}");
        Ok((received >= 60_000).then_some(()))
    })?;

    // One that comes has limits of its own.
    let began = Instant::now();
    for line in [
        "link add late type veth peer name late0 netns net11",
        "addr add 10.79.11.1/24 dev late",
        "link set late up",
        "-n net11 link set late0 address 02:79:00:00:00:11",
        "-n net11 addr add 10.79.11.2/24 dev late0",
        "-n net11 link set late0 up",
    ] {
        ip(line)?;
    }
    Deadline::generous()?
        .wait_for("the interface", || Ok(said(&runv, "ip addr")?.contains("10.79.11.2/24").then_some(())))?;
    known("10.79.11.2", "02:79:00:00:00:11", "late")?;
    is_limited(&runv, "10.79.11.2", began)
}

#[test]
fn an_annotation_takes_the_place_of_a_limit_where_it_is_allowed() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(12)?;
    let bundle = bundle_in(&namespace, "sleep 1000")?.edit(|spec| {
        let limit = "packets_per_second=1M,burst_packets=1M";
        spec["annotations"] = json!({ "io.runv.network_receive_limit": limit });
    })?;
    let limit = "[network.receive_limit]\npackets_per_second = 1\n";
    let refused = "is not allowed here; the key allow_annotations";
    configured(&bundle, limit)?.leave(&["create", "c1"])?.refused(refused)?;
    let runv = Runtime::new(&bundle)?;
    let text = fs::read_to_string(runv.file("runv.toml"))?;
    let allowed = format!("{text}allow_annotations = [\"network_receive_limit\"]\n{limit}");
    fs::write(runv.file("runv.toml"), allowed).context("cannot write the configuration")?;
    runv.run_detached("c1")?;
    known("10.77.12.2", &namespace.mac(), "peer12")?;
    said(&runv, "ip neigh replace 10.77.12.1 lladdr 02:00:00:00:00:01 dev net7 nud permanent; ip neigh")?;
    let before = (received_by_guest(&runv)?, received_here("peer12")?);
    // A queue that is full drops some, and a limit would drop nearly all.
    Deadline::generous()?.wait_for("more packets than a limit lets through", || {
        send_all("10.77.12.2")?;
        said(&runv, &format!("probe datagrams 10.77.12.1:9 {COUNT} {LENGTH}"))?;
        let now = (received_by_guest(&runv)?, received_here("peer12")?);
        Ok((now.0 - before.0 > COUNT / 4 && now.1 - before.1 > COUNT * 1000 / 4).then_some(()))
    })
}

/// Of a process, in KiB.
fn resident(process: &Process) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    line.trim_end_matches("kB").trim().parse().context("no number")
}

#[test]
fn what_a_guest_that_stands_still_does_not_take_is_dropped_and_it_goes_on() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(20)?;
    let bundle = bundle_in(&namespace, "exec probe echo 80")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    known("10.77.20.2", &namespace.mac(), "peer20")?;
    let mut kept = connected("10.77.20.2:80")?;
    answers(&mut kept, "before")?;
    let monitor = Pid::from_raw(runv.read("pid").parse()?).context("process 0")?;
    let of = |role| Process::part(monitor, role)?.with_context(|| format!("no {role:?}"));
    let (devices, machine) = (of(Role::Devices)?, of(Role::Vmm)?);
    let before = resident(&devices)?;
    let dropped = || -> Result<u64> {
        let shown = ip("-n net20 -s -o link show runv0")?;
        // After TX: bytes, packets, errors, those that were dropped.
        let sent =
            shown.split("TX:").nth(1).and_then(|rest| rest.split('\\').nth(1)).context(shown.clone())?;
        sent.split_whitespace().nth(3).context("no number")?.parse().context("no number")
    };

    // What is frozen in the guest leaves its kernel to take packets, which sockets then do not.
    runv.call(&["pause", "c1"])?.expect(0)?;
    send_all("10.77.20.2")?;
    runv.call(&["resume", "c1"])?.expect(0)?;
    answers(&mut kept, "after a pause")?;

    machine.signal(Signal::STOP)?;
    let held: Result<u64> = (0..20).try_for_each(|_| send_all("10.77.20.2")).and_then(|()| dropped());
    let after = resident(&devices)?;
    machine.signal(Signal::CONT)?;
    // In the tap's queue, and in the guest's ring; in a queueing discipline too where the kernel lets none go.
    let held = 20 * COUNT - held?;
    ensure!(held < 3 * COUNT, "{held} packets are held");
    ensure!(after < before + 4096, "{after} KiB, and {before} before");
    answers(&mut kept, "after a standstill")?;
    answers(&mut connected("10.77.20.2:80")?, "new")
}
