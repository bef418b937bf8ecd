//! `network.vhost`: the host's kernel moves the frames, where it can.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::network::Namespace;
use e2e::pattern::Pattern;
use e2e::{Census, Deadline, Process, Role, Runtime, alone};
use rustix::process::{Pid, Signal};

use crate::net::{bundle_in, said};
use crate::net_limits::configured;
use crate::net_queues::{a_guest_may_do_with_fewer_for_a_while, administered, of_vcpus};

const VHOST: &str = "/dev/vhost-net";

/// Open files of a device process that are vhost-net, and its threads that the kernel has added for it.
fn vhosts(process: &Process) -> Result<(usize, usize)> {
    let pid = process.pid.as_raw_nonzero();
    let mut found = (0, 0);
    for fd in fs::read_dir(format!("/proc/{pid}/fd"))? {
        found.0 += usize::from(fs::read_link(fd?.path()).is_ok_and(|path| path == Path::new(VHOST)));
    }
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = fs::read_to_string(task?.path().join("comm"))?;
        // It has the number of the thread for which it works, and Linux before 6.4 has such threads elsewhere.
        found.1 +=
            usize::from(name.trim().strip_prefix("vhost-").is_some_and(|id| id.parse::<u32>().is_ok()));
    }
    Ok(found)
}

/// Whether the host has vhost-net, which the test's output tells of where it has not.
fn is_there() -> bool {
    let there = Path::new(VHOST).exists();
    if !there {
        println!("this host has no {VHOST}: what is without it is tested");
    }
    there
}

#[test]
fn frames_are_moved_by_the_hosts_kernel_where_it_can_and_it_must_where_that_is_said() -> Result<()> {
    let _order = alone();
    let namespace = Namespace::new(31)?;
    let (census, before) = (Census::take()?, namespace.inside()?);
    let bundle = administered(bundle_in(&namespace, "sleep 1000")?)?;
    if !is_there() {
        let on = configured(&bundle, "[network]\nvhost = \"on\"\n")?;
        on.leave(&["create", "c1"])?.refused("cannot open /dev/vhost-net; load the module vhost_net")?;
        let auto = configured(&bundle, "[network]\nvhost = \"auto\"\n")?;
        auto.run_detached("c1")?;
        said(&auto, "ping -c 1 -W 5 10.77.31.1")?;
        auto.call(&["delete", "--force", "c1"])?.expect(0)?;
        return census.restored(Deadline::after(Duration::from_secs(5))?);
    }
    for cpus in [1, 2] {
        let runv = of_vcpus(&bundle, cpus)?;
        with_vhost(&runv)?;
        runv.run_detached("c1")?;
        let monitor = Pid::from_raw(runv.read("pid").trim().parse()?).context("process 0")?;
        let devices = Process::part(monitor, Role::Devices)?.context("no device process")?;
        for cpu in 0..cpus {
            said(&runv, &format!("taskset {} ping -c 3 -i 0.2 -W 5 10.77.31.1", 1 << cpu))?;
        }
        bytes_arrive_each_way(&runv)?;
        // Each pair of queues of the device and its spare one has the kernel's device, and one that works on it.
        let pairs = 2 * usize::from(cpus);
        assert_eq!(vhosts(&devices)?, (pairs, pairs));
        if cpus == 2 {
            a_guest_may_do_with_fewer_for_a_while(&runv, 31)?;
        }
        if cpus == 1 {
            runv.call(&["delete", "--force", "c1"])?.expect(0)?;
        } else {
            devices.signal(Signal::KILL)?;
            runv.wait_for_status("c1", "stopped")?;
            runv.call(&["delete", "c1"])?.expect(0)?;
        }
        Deadline::generous()?
            .wait_for("the tap's end", || Ok((namespace.inside()? == before).then_some(())))?;
    }
    census.restored(Deadline::after(Duration::from_secs(5))?)
}

/// By TCP, in packets that are yet to be cut.
fn bytes_arrive_each_way(runv: &Runtime<'_>) -> Result<()> {
    const SIZE: u64 = 1 << 20;
    let listener = TcpListener::bind("10.77.31.1:5001")?;
    let serve = thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        let received = Pattern::new(1).verify(&mut stream)?;
        drop(stream);
        Pattern::new(2).write(SIZE, &mut listener.accept()?.0)?;
        Ok(received)
    });
    said(runv, &format!("probe write {SIZE} 1 | nc 10.77.31.1 5001"))?;
    let verified = said(runv, "nc 10.77.31.1 5001 </dev/null | probe verify 2")?;
    ensure!(verified.contains(&SIZE.to_string()), "{verified}");
    assert_eq!(serve.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??, SIZE);
    Ok(())
}

fn with_vhost(runv: &Runtime<'_>) -> Result<()> {
    let text = fs::read_to_string(runv.file("runv.toml"))?;
    fs::write(runv.file("runv.toml"), text + "[network]\nvhost = \"on\"\n")
        .context("cannot write the configuration")
}
