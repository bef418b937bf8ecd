//! What cannot be had of systemd is told, with the cause and what to do, and nothing is left of it.

use anyhow::{Context, Result};
use e2e::{Runtime, together};
use serde_json::json;

use crate::unit::{bundle, create, exists, folders, is_gone, is_version_2, run, status};

#[test]
fn a_name_that_is_taken_is_refused_and_its_owner_lives_on() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("while :; do sleep 0.1; done")?;
    let runv = Runtime::new(&bundle)?;
    run(&runv, "c1")?;
    let answer = create(&runv, "c2")?.refused(&unit)?;
    assert!(answer.stderr.contains("linux.cgroupsPath"), "no remedy: {answer:?}");
    runv.call(&["state", "c2"])?.refused("container does not exist")?;
    assert_eq!(status(&runv, "c1")?, "running");
    runv.call(&["exec", "c1", "true"])?.expect(0)?;
    runv.call(&["--systemd-cgroup", "delete", "--force", "c1"])?.expect(0)?;
    assert!(!exists(&unit)? && folders(&unit)?.is_empty());
    Ok(())
}

/// There is a systemd, but nothing leads to it.
fn without_a_bus(runv: &Runtime<'_>, verb: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = runv.command(&[&["--systemd-cgroup"], verb].concat())?;
    let command = command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/nothing-here");
    let output = command.output().context("cannot run runv")?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[test]
fn without_a_bus_nothing_is_made() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("true")?;
    let runv = Runtime::new(&bundle)?;
    let (code, text) = without_a_bus(&runv, &["create", "c1"])?;
    assert!(code == Some(1) && text.lines().count() == 1, "{code:?} {text}");
    for part in ["cannot reach systemd over D-Bus", "cgroup driver cgroupfs", "No such file or directory"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!exists(&unit)? && folders(&unit)?.is_empty());
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}

/// A scope ends without being told, with its last process.
#[test]
fn without_a_bus_containers_can_be_deleted() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("while :; do sleep 0.1; done")?;
    let runv = Runtime::new(&bundle)?;
    run(&runv, "c1")?;
    let (code, text) = without_a_bus(&runv, &["delete", "--force", "c1"])?;
    assert!(code == Some(0), "{code:?} {text}");
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    assert!(folders(&unit)?.is_empty(), "{:?}", folders(&unit)?);
    is_gone(&unit)
}

#[test]
fn a_name_that_systemd_does_not_take_is_refused() -> Result<()> {
    let _order = together();
    let (bundle, _) = bundle("true")?;
    let bundle = bundle.edit(|spec| spec["linux"]["cgroupsPath"] = "runvtest.slice:runv:a b%".into())?;
    let runv = Runtime::new(&bundle)?;
    let answer = create(&runv, "c1")?.refused("runv-a b%.scope")?;
    assert!(answer.stderr.contains("linux.cgroupsPath"), "no remedy: {answer:?}");
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}

/// Those of version 1 have such a value; it is not the name's fault.
#[test]
fn a_limit_that_systemd_does_not_take_is_named() -> Result<()> {
    let _order = together();
    if is_version_2() {
        return Ok(());
    }
    let (bundle, unit) = bundle("true")?;
    let bundle = bundle.edit(|spec| spec["linux"]["resources"] = json!({ "cpu": { "shares": 1 } }))?;
    let runv = Runtime::new(&bundle)?;
    let answer = create(&runv, "c1")?.refused("CPUShares")?;
    assert!(!answer.stderr.contains("linux.cgroupsPath"), "no remedy of this: {answer:?}");
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    assert!(!exists(&unit)? && folders(&unit)?.is_empty());
    Ok(())
}
