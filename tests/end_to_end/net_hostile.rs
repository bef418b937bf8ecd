//! A workload that turns against the network that it is on: other containers there, and the host, are none the worse.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::network::{Namespace, ip};
use e2e::{Bundle, Census, Deadline, Runtime, Setup, alone};

use crate::net::{answers, bundle_in, connected, said};

/// Two namespaces on one bridge, which is the host's own place on it too; dropped, the bridge is gone.
struct Bridged(&'static str);

impl Bridged {
    /// The host is 10.81.N.1, and each namespace has the address of that subnet that ends with its number.
    fn new(name: &'static str, number: u8, namespaces: &[(&Namespace, u8)]) -> Result<Self> {
        let bridge = Self(name);
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("addr add 10.81.{number}.1/24 broadcast 10.81.{number}.255 dev {name}"))?;
        for (namespace, own) in namespaces {
            ip(&format!("-n net{own} addr add 10.81.{number}.{own}/24 dev net7"))?;
            ip(&format!("link set {} master {name}", namespace.peer()))?;
        }
        ip(&format!("link set {name} up"))?;
        Ok(bridge)
    }

    /// At which port the bridge has heard of an address.
    fn port_of(&self, mac: &str) -> Result<Option<String>> {
        let output = Command::new("bridge").args(["fdb", "show", "br", self.0]).output()?;
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = lines.lines().find(|line| line.starts_with(mac));
        Ok(line.and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned))
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        // The test's own error is the one to tell.
        let _ = ip(&format!("link del {}", self.0));
    }
}

/// What the host's kernel says from now on.
struct KernelLog(Option<File>);

impl KernelLog {
    fn from_now_on() -> Self {
        let file = OpenOptions::new().read(true).custom_flags(libc_nonblock()).open("/dev/kmsg");
        let mut file = file.inspect_err(|error| println!("without the kernel's log: {error}")).ok();
        let placed = file.as_mut().map(|file| file.seek(SeekFrom::End(0)));
        Self(file.filter(|_| placed.is_some_and(|placed| placed.is_ok())))
    }

    /// Its complaints: what begins a report of something that cannot be.
    fn complaints(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let Some(file) = self.0.as_mut() else { return found };
        let mut record = [0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(length @ 1..) => {
                    let line = String::from_utf8_lossy(&record[..length]).into_owned();
                    if ["cut here", "WARNING:", "BUG:", "bad gso", "bad offload"]
                        .iter()
                        .any(|one| line.contains(one))
                    {
                        found.push(line);
                    }
                }
                // What was there has been overwritten.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                _ => return found,
            }
        }
    }
}

fn libc_nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0)
}

/// Runs a command in the container while the connection is used, until it has ended; what it says.
fn meanwhile(
    attacker: &Runtime<'_>,
    command: &str,
    mut use_it: impl FnMut() -> Result<()>,
) -> Result<String> {
    thread::scope(|scope| {
        let ended = scope.spawn(|| said(attacker, command));
        while !ended.is_finished() {
            use_it()?;
        }
        ended.join().map_err(|_| anyhow::anyhow!("exec panicked"))?
    })
}

#[test]
fn a_workload_with_raw_sockets_harms_no_other_and_sees_no_others() -> Result<()> {
    let _order = alone();
    let count = Setup::times("RUNV_TEST_MUTATIONS", Setup::get()?.repeats("broken frames", 2000, 500))?;
    let seed = Setup::times("RUNV_TEST_SEED", std::process::id().into())?;
    println!("RUNV_TEST_SEED={seed}");
    let mut log = KernelLog::from_now_on();
    let [of_attacker, of_victim] = [Namespace::new(17)?, Namespace::new(18)?];
    let census = Census::take()?;
    let bridge = Bridged::new("hostile", 17, &[(&of_attacker, 17), (&of_victim, 18)])?;
    // As engines do where they give no IPv6 by advertisements. The host's own interface takes them.
    ip("netns exec net18 busybox sysctl -w net.ipv6.conf.net7.accept_ra=0")?;
    let bundles = [bundle_in(&of_attacker, "sleep 1000")?, bundle_in(&of_victim, "exec probe echo 80")?];
    let [attacker, victim] = [Runtime::new(&bundles[0])?, Runtime::new(&bundles[1])?];
    attacker.run_detached("c1")?;
    victim.run_detached("c1")?;
    let mut kept = connected("10.81.17.18:80")?;
    answers(&mut kept, "before")?;

    sees_only_its_own(&attacker, &bundles[0], || answers(&mut kept, "secret"))?;

    let macs = format!("{} {}", of_victim.mac(), mac_of("hostile")?);
    let flood = format!("probe frames net7 {count} {seed} 10.81.17 {macs}");
    let mut answered = 0;
    let taken = meanwhile(&attacker, &flood, || {
        answered += 1;
        answers(&mut kept, "meanwhile")
    })?;
    let taken: u64 = taken.trim().parse().with_context(|| taken.clone())?;
    println!("{taken} of {count} broken frames were taken, {answered} answers came meanwhile");
    ensure!(taken > count / 4 && answered > 0, "{taken} frames and {answered} answers");
    answers(&mut connected("10.81.17.18:80")?, "new")?;
    said(&attacker, "ping -c 1 -W 5 10.81.17.1")?;
    ensure!(ip("-6 addr show hostile")?.contains("inet6 fdba:d:"), "no advertisement was a good one");
    let addresses = said(&victim, "ip addr show net7; ip -6 route")?;
    ensure!(!addresses.contains("fdba:d:") && !addresses.contains("default via fe80"), "{addresses}");

    can_claim_what_a_veth_can(&bridge, &attacker, || answers(&mut kept, "still"))?;

    for (runv, namespace) in [(&attacker, &of_attacker), (&victim, &of_victim)] {
        runv.call(&["delete", "--force", "c1"])?.expect(0)?;
        ensure!(!namespace.inside()?.contains("runv"), "the tap");
    }
    assert_eq!(log.complaints(), Vec::<String>::new());
    drop((bridge, of_attacker, of_victim));
    census.restored(Deadline::after(Duration::from_secs(5))?)
}

fn mac_of(interface: &str) -> Result<String> {
    let shown = ip(&format!("-o link show {interface}"))?;
    let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.split_whitespace().next());
    mac.map(str::to_owned).with_context(|| shown.clone())
}

/// Of what others say to each other on the bridge, nothing reaches it, however it listens.
fn sees_only_its_own(
    attacker: &Runtime<'_>,
    bundle: &Bundle,
    mut others_talk: impl FnMut() -> Result<()>,
) -> Result<()> {
    let socket = UdpSocket::bind("10.81.17.1:0")?;
    socket.set_broadcast(true)?;
    let listening = bundle.rootfs().join("listening");
    let mut talked = 0;
    let heard = meanwhile(attacker, "probe sniff net7 /listening", || {
        if !listening.exists() {
            thread::yield_now();
            return Ok(());
        }
        others_talk()?;
        talked += 1;
        if talked >= 20 {
            socket.send_to(b"the end of what is heard", "10.81.17.255:9")?;
        }
        Ok(())
    })?;
    let (foreign, _) = heard.trim().split_once(" of ").with_context(|| heard.clone())?;
    ensure!(talked >= 20 && foreign == "0", "{heard} frames were others'");
    Ok(())
}

/// It may say that it is another, as with any veth; what forbids that to a veth forbids it to a machine.
fn can_claim_what_a_veth_can(
    bridge: &Bridged,
    attacker: &Runtime<'_>,
    mut others_talk: impl FnMut() -> Result<()>,
) -> Result<()> {
    said(attacker, "probe spoof net7 02:98:00:00:00:01 3")?;
    Deadline::generous()?.wait_for("another's address at the attacker's port", || {
        Ok((bridge.port_of("02:98:00:00:00:01")?.as_deref() == Some("peer17")).then_some(()))
    })?;
    let guard = "add table netdev guard
        add chain netdev guard port { type filter hook ingress device peer17 priority 0; }
        add rule netdev guard port ether saddr != 02:77:00:00:00:11 counter drop";
    nft(guard)?;
    said(attacker, "probe spoof net7 02:98:00:00:00:02 3; probe spoof net7 02:77:00:00:00:12 3")?;
    Deadline::generous()?.wait_for("the last of what is forbidden", || {
        Ok(nft("list chain netdev guard port")?.contains("packets 6 ").then_some(()))
    })?;
    assert_eq!(bridge.port_of("02:98:00:00:00:02")?, None);
    assert_eq!(bridge.port_of("02:77:00:00:00:12")?.as_deref(), Some("peer18"));
    others_talk()?;
    said(attacker, "ping -c 1 -W 5 10.81.17.1").map(drop)
}

fn nft(script: &str) -> Result<String> {
    let output = Command::new("nft").arg(script).output().context("cannot run nft")?;
    ensure!(output.status.success(), "nft {script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
