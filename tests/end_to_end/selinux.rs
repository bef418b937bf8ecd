//! Labels of what the host has of a container. `tests/run selinux` is on a host that has SELinux, with the policy of
//! `tests/selinux`; any other refuses them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use e2e::{Bundle, Runtime, together};
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

const MACHINE: &str = "system_u:system_r:machine_t:s0:c1,c2";
const FILES: &str = "system_u:object_r:files_t:s0:c1,c2";
const OTHERS: &str = "system_u:object_r:files_t:s0:c3";

fn labelled(label: &str, mount_label: Option<&str>) -> Result<Bundle> {
    Bundle::new(&["sleep", "1000"])?.edit(|spec| {
        spec["process"]["selinuxLabel"] = json!(label);
        spec["linux"]["mountLabel"] = json!(mount_label);
    })
}

/// `tests/run selinux` says that it has it, so that a test there cannot pass without.
fn host_has_selinux() -> bool {
    let has = env::var_os("RUNV_SELINUX").is_some() || Path::new("/sys/fs/selinux/enforce").exists();
    if !has {
        println!("this host has no SELinux; tests/run selinux is on one that has");
    }
    has
}

/// Of a process.
fn context(pid: &Value) -> Result<String> {
    let context = fs::read_to_string(format!("/proc/{pid}/attr/current")).context("no context")?;
    Ok(context.trim_end_matches(['\0', '\n']).to_owned())
}

fn label_of(path: &Path) -> Result<String> {
    let mut label = [0; 256];
    let length = rustix::fs::getxattr(path, "security.selinux", &mut label[..])?;
    let label = String::from_utf8_lossy(label.get(..length).unwrap_or_default()).into_owned();
    Ok(label.trim_end_matches('\0').to_owned())
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
    assert_eq!(label_of(&socket)?, FILES);
    runv.call(&["exec", "c1", "true"])?.expect(0)?;
    Ok(())
}

/// sVirt: by its categories, the machine reaches what is its own and what is everybody's.
#[test]
fn files_with_the_categories_of_another_container_are_out_of_reach() -> Result<()> {
    let _order = together();
    if !host_has_selinux() {
        return Ok(());
    }
    let script =
        "cat /own /common; cat /others || echo refused; echo x >/others; echo new >/new && chown 5:6 /new";
    let bundle = labelled(MACHINE, Some(FILES))?.edit(|spec| {
        spec["process"]["args"] = json!(["sh", "-c", script]);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
        }
    })?;
    for (name, label) in [("own", Some(FILES)), ("common", None), ("others", Some(OTHERS))] {
        let path = bundle.rootfs().join(name);
        fs::write(&path, format!("{name}\n"))?;
        if let Some(label) = label {
            rustix::fs::setxattr(&path, "security.selinux", label.as_bytes(), XattrFlags::empty())?;
        }
    }
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.wait_for_status("c1", "stopped")?;
    assert_eq!(runv.read("out"), "own\ncommon\nrefused\n", "{}", runv.read("err"));
    assert_eq!(fs::read_to_string(bundle.rootfs().join("others"))?, "others\n");
    assert_eq!(fs::metadata(bundle.rootfs().join("new"))?.uid(), 5, "{}", runv.read("err"));
    assert_eq!(label_of(&bundle.rootfs().join("new"))?, FILES);
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
