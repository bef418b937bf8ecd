//! A container's unit, as systemd and the kernel tell of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Answer, Bundle, Deadline, Process, Runtime};
use rustix::process::Pid;
use serde_json::Value;

/// The slice of the tests, which is in one of the first half of its name.
pub(crate) const SLICE: &str = "runvtest-units.slice";

/// A bundle of a script, and the name of its unit, which nobody else has.
pub(crate) fn bundle(script: &str) -> Result<(Bundle, String)> {
    let bundle = Bundle::shell(script)?;
    let name = bundle.path().file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
    let path = format!("{SLICE}:runv:{name}");
    let bundle = bundle.edit(|spec| spec["linux"]["cgroupsPath"] = path.into())?;
    Ok((bundle, format!("runv-{name}.scope")))
}

/// `create` with systemd's driver.
pub(crate) fn create(runv: &Runtime<'_>, id: &str) -> Result<Answer> {
    runv.leave(&["--systemd-cgroup", "create", "--pid-file", "pid", id])
}

/// `create` and `start`; returns the monitor's number.
pub(crate) fn run(runv: &Runtime<'_>, id: &str) -> Result<Pid> {
    create(runv, id)?.expect(0)?;
    runv.call(&["--systemd-cgroup", "start", id])?.expect(0)?;
    let pid = runv.read("pid").parse().ok().and_then(Pid::from_raw);
    pid.context("no pid file")
}

/// What `systemctl` says.
pub(crate) fn systemctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.context("cannot run systemctl; apt-get install systemd")?;
    ensure!(output.status.success(), "systemctl {arguments:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Its properties.
pub(crate) fn properties(unit: &str) -> Result<BTreeMap<String, String>> {
    let text = systemctl(&["show", unit])?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Whether systemd knows it, in whatever state.
pub(crate) fn exists(unit: &str) -> Result<bool> {
    Ok(!systemctl(&["list-units", "--all", "--plain", "--no-legend", unit])?.is_empty())
}

/// Waits until systemd has forgotten it.
pub(crate) fn is_gone(unit: &str) -> Result<()> {
    let gone = || Ok((!exists(unit)?).then_some(()));
    Deadline::generous()?.wait_for("the end of the scope", gone)
}

/// The folders of its cgroup that are there, in all hierarchies.
pub(crate) fn folders(unit: &str) -> Result<Vec<PathBuf>> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").context("no cgroups")?.flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    let cgroup = Path::new("runvtest.slice").join(SLICE).join(unit);
    Ok(roots.map(|root| root.join(&cgroup)).filter(|folder| folder.exists()).collect())
}

/// A file of its cgroup by its name in version 1, or 2, whichever the host has.
pub(crate) fn file(unit: &str, version_1: &str, version_2: &str) -> Result<String> {
    let name = if is_version_2() { version_2 } else { version_1 };
    let file = folders(unit)?.into_iter().map(|folder| folder.join(name)).find(|file| file.exists());
    let file = file.with_context(|| format!("{unit} has no {name}"))?;
    Ok(fs::read_to_string(file).context("cannot read it")?.trim().to_owned())
}

/// Whether the host has nothing of version 1.
pub(crate) fn is_version_2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Asserts that a process is in a cgroup, in every hierarchy that has one for it.
pub(crate) fn is_inside(process: &Process, cgroup: &str) -> Result<()> {
    let all = fs::read_to_string(format!("/proc/{}/cgroup", process.pid.as_raw_nonzero()))?;
    let own: Vec<&str> = all.lines().filter_map(|line| line.rsplit(':').next()).collect();
    ensure!(own.iter().all(|own| *own == cgroup), "{process:?} is not in {cgroup}: {all}");
    Ok(())
}

/// The status by `state`.
pub(crate) fn status(runv: &Runtime<'_>, id: &str) -> Result<Value> {
    Ok(runv.state(id)?["status"].clone())
}
