//! The scope has the container's processes, begins with it and ends with it, and ends it.

use anyhow::Result;
use e2e::{Deadline, Process, Role, Runtime, together};

use crate::unit::{bundle, create, exists, folders, is_gone, is_inside, properties, run, status, systemctl};

const FOREVER: &str = "while :; do sleep 0.1; done";

/// Of a unit, below the root of each hierarchy.
fn cgroup(unit: &str) -> String {
    format!("/runvtest.slice/runvtest-units.slice/{unit}")
}

#[test]
fn a_container_runs_in_a_scope_of_its_own() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle(FOREVER)?;
    let runv = Runtime::new(&bundle)?;
    let monitor = run(&runv, "c1")?;
    let shown = properties(&unit)?;
    let cgroup = cgroup(&unit);
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "runvtest-units.slice"),
        ("Delegate", "yes"),
        ("Description", "runv container c1"),
        ("ControlGroup", &cgroup),
    ] {
        assert_eq!(shown.get(name).map(String::as_str), Some(value), "{name}: {shown:#?}");
    }
    let tree = Process::tree(monitor)?;
    for role in [Role::Shim, Role::Vmm, Role::Devices] {
        assert!(tree.iter().any(|process| process.role() == Some(role)), "{role:?}: {tree:?}");
    }
    tree.iter().try_for_each(|process| is_inside(process, &cgroup))?;

    // The process that stands for one of `exec` is the container's too.
    runv.leave(&["exec", "--detach", "--pid-file", "exec-pid", "c1", "sleep", "1000"])?.expect(0)?;
    let all = Process::all()?;
    let proxy = runv.read("exec-pid").parse().ok().and_then(|pid: i32| all.get(&pid));
    is_inside(proxy.ok_or_else(|| anyhow::anyhow!("no process of exec"))?, &cgroup)?;

    runv.call(&["--systemd-cgroup", "delete", "--force", "c1"])?.expect(0)?;
    assert!(!exists(&unit)?, "{:#?}", properties(&unit)?);
    assert!(folders(&unit)?.is_empty(), "{:?}", folders(&unit)?);
    Ok(())
}

/// And the name is free at once.
#[test]
fn the_end_of_the_workload_is_that_of_the_scope() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("true")?;
    let runv = Runtime::new(&bundle)?;
    run(&runv, "c1")?;
    runv.wait_for_status("c1", "stopped")?;
    is_gone(&unit)?;
    runv.call(&["--systemd-cgroup", "delete", "c1"])?.expect(0)?;
    assert!(folders(&unit)?.is_empty(), "{:?}", folders(&unit)?);
    for id in ["c2", "c3"] {
        run(&runv, id)?;
        runv.call(&["--systemd-cgroup", "delete", "--force", id])?.expect(0)?;
        assert!(!exists(&unit)?, "{:#?}", properties(&unit)?);
    }
    Ok(())
}

/// The first one's has ended by itself, and the second has its name.
#[test]
fn delete_leaves_the_scope_of_another_container_alone() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle(FOREVER)?;
    let runv = Runtime::new(&bundle)?;
    run(&runv, "c1")?;
    runv.call(&["kill", "c1", "KILL"])?.expect(0)?;
    runv.wait_for_status("c1", "stopped")?;
    is_gone(&unit)?;
    let tree = Process::tree(run(&runv, "c2")?)?;
    runv.call(&["--systemd-cgroup", "delete", "c1"])?.expect(0)?;
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    assert_eq!(status(&runv, "c2")?, "running");
    tree.iter().try_for_each(|process| is_inside(process, &cgroup(&unit)))?;
    runv.call(&["exec", "c2", "true"])?.expect(0)?;
    runv.call(&["--systemd-cgroup", "delete", "--force", "c2"])?.expect(0)?;
    assert!(!exists(&unit)?, "{:#?}", properties(&unit)?);
    assert!(folders(&unit)?.is_empty(), "{:?}", folders(&unit)?);
    Ok(())
}

/// By a signal that it cannot but follow, or by one that the workload hears of.
#[test]
fn systemctl_ends_the_machine() -> Result<()> {
    let _order = together();
    for (command, last_words) in [(&["kill", "--signal", "KILL"][..], ""), (&["stop"], "asked to end\n")] {
        let (bundle, unit) =
            bundle("trap 'echo asked to end; exit' TERM; echo started; while :; do sleep 0.1; done")?;
        let runv = Runtime::new(&bundle)?;
        let tree = Process::tree(run(&runv, "c1")?)?;
        runv.wait_for_text("out", "started\n")?;
        systemctl(&[command, &[unit.as_str()]].concat())?;
        Deadline::generous()?
            .wait_for("the machine's end", || Ok((!tree.iter().any(Process::exists)).then_some(())))?;
        assert_eq!(status(&runv, "c1")?, "stopped", "{command:?}");
        assert_eq!(runv.read("out"), format!("started\n{last_words}"), "{command:?}");
        runv.call(&["--systemd-cgroup", "delete", "--force", "c1"])?.expect(0)?;
        assert!(!exists(&unit)?, "{command:?}: {:#?}", properties(&unit)?);
        assert!(folders(&unit)?.is_empty(), "{command:?}: {:?}", folders(&unit)?);
    }
    Ok(())
}

/// The hook runs when the scope is there.
#[test]
fn a_create_that_fails_leaves_no_scope() -> Result<()> {
    let _order = together();
    let (bundle, unit) = bundle("true")?;
    let script = format!("systemctl is-active {unit} >&2; exit 1");
    let bundle = bundle.edit(|spec| {
        let hook = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]);
        spec["hooks"] = serde_json::json!({ "createRuntime": hook });
    })?;
    let runv = Runtime::new(&bundle)?;
    let answer = create(&runv, "c1")?.refused("createRuntime")?;
    assert!(answer.stderr.contains("active"), "{answer:?}");
    assert!(!exists(&unit)?, "{:#?}", properties(&unit)?);
    assert!(folders(&unit)?.is_empty(), "{:?}", folders(&unit)?);
    runv.call(&["state", "c1"])?.refused("container does not exist")?;
    Ok(())
}
