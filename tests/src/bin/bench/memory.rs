//! B10: what an idle sandbox holds, guest memory apart.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use e2e::{Process, Role};
use rustix::process::Pid;

use crate::report::Measurement;
use crate::runtime::{self, Runtime};

/// In KiB, for one process.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    rss: f64,
    pss: f64,
    anonymous: f64,
    /// Resident of what the guest sees as its memory, its kernel mapped from the file included.
    guest: f64,
}

/// proc_pid_smaps(5): a line with the mapping's name, then lines `Key: value kB`.
fn held(process: &Process) -> Result<Held> {
    let path = format!("/proc/{}/smaps", process.pid.as_raw_nonzero());
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut held = Held::default();
    let mut is_guest = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let Some(key) = key.strip_suffix(':') else {
            is_guest =
                line.contains("/memfd:") || line.ends_with("/guest-memory") || line.ends_with("/vmlinux");
            continue;
        };
        let value: f64 = words.next().and_then(|value| value.parse().ok()).unwrap_or_default();
        match (key, is_guest) {
            ("Rss", true) => held.guest += value,
            ("Rss", false) => held.rss += value,
            ("Pss", false) => held.pss += value,
            ("Anonymous", false) => held.anonymous += value,
            _ => {}
        }
    }
    Ok(held)
}

/// KiB that the host could give to new programs: the page cache, which all sandboxes share, counts as free.
fn available() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no MemAvailable in /proc/meminfo")
}

pub(crate) fn measure(guests: &Path) -> Result<Vec<Measurement>> {
    let bundle = runtime::bundle(&guests.join("idle"))?;
    let before = available()?;
    let mut child =
        Runtime::Sandbox.run(&bundle)?.stdout(Stdio::piped()).spawn().context("cannot run sandbox")?;
    let mut byte = [0];
    child.stdout.take().context("no stdout")?.read_exact(&mut byte).context("the workload wrote nothing")?;
    let taken = before - available()?;

    let pid = Pid::from_raw(child.id().cast_signed()).context("process id 0")?;
    let mut parts = BTreeMap::new();
    for process in Process::tree(pid)? {
        let name = match process.role() {
            Some(Role::Vmm) => "VMM",
            Some(Role::Devices) => "devices",
            Some(Role::Shim) => "shim",
            None => continue,
        };
        parts.insert(name, held(&process)?);
    }
    child.kill().context("cannot kill sandbox")?;
    child.wait().context("cannot wait")?;

    let of = |name: &str| parts.get(name).copied().with_context(|| format!("no process {name}"));
    let (vmm, devices, shim) = (of("VMM")?, of("devices")?, of("shim")?);
    Ok(vec![
        Measurement::new("B10", "idle: VMM and devices, RSS", vmm.rss + devices.rss, "KiB").goal(10240.0),
        Measurement::new("B10", "  VMM, RSS", vmm.rss, "KiB")
            .peer("Firecracker, tiny guest (quoted)", 3200.0),
        Measurement::new("B10", "  VMM, PSS", vmm.pss, "KiB"),
        Measurement::new("B10", "  VMM, anonymous", vmm.anonymous, "KiB")
            .peer("Firecracker (quoted)", 300.0)
            .peer("Cloud Hypervisor (quoted)", 690.0),
        Measurement::new("B10", "  devices, RSS", devices.rss, "KiB"),
        Measurement::new("B10", "  devices, PSS", devices.pss, "KiB"),
        Measurement::new("B10", "  devices, anonymous", devices.anonymous, "KiB"),
        Measurement::new("B10", "  shim, RSS", shim.rss, "KiB"),
        Measurement::new("B10", "  shim, anonymous", shim.anonymous, "KiB"),
        Measurement::new("B10", "  guest memory touched", vmm.guest.max(devices.guest), "KiB")
            .peer("Firecracker at PID 1 (quoted)", 19900.0),
        Measurement::new("B10", "an idle sandbox, of the host's memory in all", taken, "KiB")
            .peer("runc (quoted)", 4200.0)
            .peer("gVisor (quoted)", 24_300.0)
            .peer("Kata (quoted)", 126_000.0),
    ])
}
