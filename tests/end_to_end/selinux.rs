//! Labels of what the host has of a container. `tests/run selinux` is on a host that has SELinux, with the policy of
//! `tests/selinux`; any other refuses them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Runtime, together};
use serde_json::{Value, json};

const MACHINE: &str = "system_u:system_r:machine_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:files_t:s0:c1,c2";

fn labelled(label: &str, mount_label: Option<&str>) -> Result<Bundle> {
    Bundle::new(&["sleep", "1000"])?.edit(|spec| {
        spec["process"]["selinuxLabel"] = json!(label);
        spec["linux"]["mountLabel"] = json!(mount_label);
    })
}

fn host_has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Of a process.
fn context(pid: &Value) -> Result<String> {
    let context = fs::read_to_string(format!("/proc/{pid}/attr/current")).context("no context")?;
    Ok(context.trim_end_matches(['\0', '\n']).to_owned())
}

#[test]
fn a_host_without_selinux_refuses_labels() -> Result<()> {
    let _order = together();
    if host_has_selinux() {
        return Ok(());
    }
    for (label, mount_label, text) in
        [(MACHINE, None, "selinux label"), ("", Some(FILES), "selinux mount label")]
    {
        let bundle = labelled(label, mount_label)?;
        let reason = format!("{text} is specified in config, but selinux is disabled or not supported");
        Runtime::new(&bundle)?.leave(&["create", "c1"])?.refused(&reason)?;
    }
    Ok(())
}

#[test]
fn the_machine_and_its_devices_have_the_label_of_the_container() -> Result<()> {
    let _order = together();
    if !host_has_selinux() {
        return Ok(());
    }
    let bundle = labelled(MACHINE, Some(FILES))?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let record = fs::read(runv.root().join("c1/state.json")).context("state.json")?;
    let record: Value = serde_json::from_slice(&record)?;
    let children = record["children"].as_array().context("no children")?;
    ensure!(children.len() == 2, "{children:?}");
    for child in children {
        assert_eq!(context(&child["pid"])?, MACHINE, "{}", child["pid"]);
    }
    let monitor = context(&record["monitor"]["pid"])?;
    ensure!(monitor.starts_with("system_u:system_r:host_t:"), "{monitor}");
    let devices = children.last().context("no device process")?["pid"].to_string();
    let socket = fs::read_dir(format!("/proc/{devices}/fd"))?
        .flatten()
        .map(|entry| entry.path().join("vsock.sock"))
        .find(|path| path.exists())
        .context("no socket of the guest")?;
    let mut label = [0; 256];
    let length = rustix::fs::getxattr(&socket, "security.selinux", &mut label[..])?;
    let label = String::from_utf8_lossy(label.get(..length).unwrap_or_default()).into_owned();
    assert_eq!(label.trim_end_matches('\0'), FILES);
    runv.call(&["exec", "c1", "true"])?.expect(0)?;
    Ok(())
}

#[test]
fn what_the_policy_refuses_is_an_error_with_the_label() -> Result<()> {
    let _order = together();
    if !host_has_selinux() {
        return Ok(());
    }
    for (label, reason) in [
        ("system_u:system_r:stranger_t:s0", "Permission denied"),
        ("system_u:system_r:unheard_of_t:s0", "Invalid argument"),
    ] {
        let bundle = labelled(label, None)?;
        let text = format!("in the SELinux context {label}: {reason}");
        let runv = Runtime::new(&bundle)?;
        runv.leave(&["create", "c1"])?.refused(&text)?;
        ensure!(fs::read_dir(runv.root())?.count() == 0, "something is left");
    }
    Ok(())
}
