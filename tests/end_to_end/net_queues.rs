//! A network device has as many pairs of queues as the machine has vCPUs.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::network::{Namespace, ip};
use e2e::{Bundle, Deadline, Runtime, alone};
use serde_json::json;

use crate::net::{bundle_in, said};

/// With so many vCPUs.
pub(crate) fn of_vcpus(bundle: &Bundle, cpus: u8) -> Result<Runtime<'_>> {
    let runv = Runtime::new(bundle)?;
    let text = fs::read_to_string(runv.file("runv.toml"))?;
    let others = text.lines().filter(|line| !line.starts_with("cpus"));
    let text: String = [format!("cpus = {cpus}")]
        .iter()
        .map(String::as_str)
        .chain(others)
        .fold(String::new(), |text, line| text + line + "\n");
    fs::write(runv.file("runv.toml"), text).context("cannot write the configuration")?;
    Ok(runv)
}

/// For changes of the number of queues.
pub(crate) fn administered(bundle: Bundle) -> Result<Bundle> {
    bundle.edit(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let list = spec["process"]["capabilities"][set].as_array_mut();
            list.into_iter().for_each(|list| list.push(json!("CAP_NET_ADMIN")));
        }
    })
}

/// Of the tap, those by which frames come to the guest.
fn attached(namespace: &str, tap: &str) -> Result<usize> {
    let queues = ip(&format!("netns exec {namespace} ls /sys/class/net/{tap}/queues"))?;
    Ok(queues.split_whitespace().filter(|name| name.starts_with("tx-")).count())
}

/// What the guest's driver has counted at its queues, by its names.
fn counted(runv: &Runtime<'_>, interface: &str, names: &[&str]) -> Result<Vec<u64>> {
    let all = said(runv, &format!("probe queues {interface}"))?;
    let value = |name: &&str| {
        let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.with_context(|| format!("no {name} in {all}"))?.parse().context("no number")
    };
    names.iter().map(value).collect()
}

#[test]
fn a_machine_of_two_vcpus_moves_frames_by_two_queues_each_way_and_one_of_one_by_one() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(30)?;
    let bundle = administered(bundle_in(&namespace, "sleep 1000")?)?;
    for cpus in [1, 2] {
        let runv = of_vcpus(&bundle, cpus)?;
        runv.run_detached("c1")?;
        let queues = said(&runv, "ls /sys/class/net/net7/queues")?;
        let expected = if cpus == 1 { "rx-0\ntx-0\n" } else { "rx-0\nrx-1\ntx-0\ntx-1\n" };
        assert_eq!(queues, expected);
        // Each vCPU has its own for what it sends, and answers come by the same one.
        let pings = || -> Result<()> {
            for cpu in 0..cpus {
                said(&runv, &format!("taskset {} ping -c 3 -i 0.2 -W 5 10.77.30.1", 1 << cpu))?;
            }
            Ok(())
        };
        pings()?;
        assert_eq!(attached("net30", "runv0")?, usize::from(cpus));
        if cpus == 2 {
            // A device that is late takes several frames for one kick.
            Deadline::generous()?.wait_for("kicks of each queue", || {
                let kicks = counted(&runv, "net7", &["tx0_kicks", "tx1_kicks", "rx0_kicks", "rx1_kicks"])?;
                let of_each = kicks.iter().all(|kicks| *kicks > 0) && kicks[1] >= 3;
                if of_each { Ok(Some(())) } else { pings().map(|()| None) }
            })?;
            a_guest_may_do_with_fewer_for_a_while(&runv, 30)?;
            a_device_that_comes_late_has_them_too(&runv)?;
        }
        runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    }
    Ok(())
}

/// One of two vCPUs, in the namespace of that number.
pub(crate) fn a_guest_may_do_with_fewer_for_a_while(runv: &Runtime<'_>, number: u8) -> Result<()> {
    let refused = runv.call(&["exec", "c1", "probe", "use-queues", "net7", "3"])?;
    ensure!(refused.code != 0, "more than there are");
    for pairs in [1, 2] {
        said(runv, &format!("probe use-queues net7 {pairs}"))?;
        Deadline::generous()?.wait_for("the queues of the tap", || {
            // QEMU disables rings, which is noticed with the next frame for them.
            for cpu in [1, 2] {
                said(runv, &format!("taskset {cpu} ping -c 3 -i 0.2 -W 5 10.77.{number}.1"))?;
            }
            Ok((attached(&format!("net{number}"), "runv0")? == pairs).then_some(()))
        })?;
    }
    Ok(())
}

fn a_device_that_comes_late_has_them_too(runv: &Runtime<'_>) -> Result<()> {
    for line in [
        "link add late30 type veth peer name late0 netns net30",
        "addr add 10.79.30.1/24 dev late30",
        "link set late30 up",
        "-n net30 addr add 10.79.30.2/24 dev late0",
        "-n net30 link set late0 mtu 1300 up",
    ] {
        ip(line)?;
    }
    let come = || {
        Ok(said(runv, "ip addr show late0").is_ok_and(|link| link.contains("10.79.30.2/24")).then_some(()))
    };
    Deadline::generous()?.wait_for("the interface", come)?;
    for cpu in [1, 2] {
        said(runv, &format!("taskset {cpu} ping -c 2 -i 0.2 -W 5 10.79.30.1"))?;
    }
    assert_eq!(attached("net30", "runv1")?, 2);
    Ok(())
}
