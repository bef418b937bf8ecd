//! A container's life: run, stop, kill, pause, removal, and nothing left.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Census, Deadline, Setup, alone, together};

use crate::engine::Engine;

crate::engine::each_engine! {
    a_container_has_a_kernel_of_its_own_and_its_status_is_passed_on,
    what_cannot_be_executed_has_the_statuses_of_a_shell,
    stop_asks_and_kill_does_not,
    stop_does_not_ask_for_ever,
    a_paused_container_stands_still,
    a_monitor_that_is_killed_takes_the_machine_along,
    a_container_whose_keeper_is_killed_can_be_removed,
    a_container_that_is_removed_by_force_leaves_nothing,
}

/// Runs until it is told to end, which it does with status 3.
const UNTIL_TERM: &str = "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done";

fn a_container_has_a_kernel_of_its_own_and_its_status_is_passed_on(engine: &Engine) -> Result<()> {
    let _order = together();
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let answer = engine.run(&[], "uname -r; echo error >&2; exit 7")?.expect(7)?;
    assert!(answer.stdout.trim().ends_with("-runv"), "{answer:?}");
    assert_ne!(answer.stdout, host);
    assert!(answer.stderr.contains("error\n"), "{answer:?}");
    Ok(())
}

fn what_cannot_be_executed_has_the_statuses_of_a_shell(engine: &Engine) -> Result<()> {
    let _order = together();
    let run = ["run", "--rm", "--network", "none", crate::engine::IMAGE];
    let missing = engine.call(run.iter().chain(&["/bin/missing"]))?.expect(127)?;
    assert!(missing.stderr.contains("/bin/missing"), "{missing:?}");
    engine.call(run.iter().chain(&["/etc/passwd"]))?.expect(126)?;
    let container = engine.start(&[], UNTIL_TERM)?;
    let command = ["exec", &container.id, "/bin/missing"];
    let code = engine.call(command)?.code;
    // docker 20.10 says 126 here with runc too.
    ensure!(code == 127 || (engine.name == "docker" && code == 126), "{}: {code}", engine.name);
    container.exec(&[], "exit 5")?.expect(5)?;
    Ok(())
}

fn stop_asks_and_kill_does_not(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    container.wrote("started")?;
    container.call(&["stop"])?.expect(0)?;
    assert_eq!(container.inspect(".State.ExitCode")?, "3", "{}", engine.name);
    container.call(&["start"])?.expect(0)?;
    assert_eq!(container.inspect(".State.Running")?, "true");
    container.call(&["kill"])?.expect(0)?;
    assert_eq!(container.wait()?, 137, "{}", engine.name);
    Ok(())
}

fn stop_does_not_ask_for_ever(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], "trap 'echo asked' TERM; echo started; while :; do sleep 0.1; done")?;
    container.wrote("started")?;
    // As long as a slow host may take to ask.
    container.call(&["stop", "--time", "4"])?.expect(0)?;
    assert_eq!(container.inspect(".State.ExitCode")?, "137", "{}", engine.name);
    container.wrote("asked")
}

fn a_paused_container_stands_still(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    container.call(&["pause"])?.expect(0)?;
    assert_eq!(container.inspect(".State.Status")?, "paused");
    let refused = container.exec(&[], "true")?;
    assert_ne!(refused.code, 0, "{refused:?}");
    container.call(&["unpause"])?.expect(0)?;
    container.exec(&[], "true")?.expect(0)?;
    container.call(&["pause"])?.expect(0)?;
    container.call(&["rm", "--force"])?.expect(0)?;
    Ok(())
}

/// By conmon, which signals the group of the container's process on the host.
#[test]
fn podman_ends_a_container_whose_time_is_over() -> Result<()> {
    let _order = together();
    let podman = Engine::podman()?;
    let runc = podman.with_runc();
    // From `create` on: a slow host has to have started it by then.
    let timed = |engine: &Engine| engine.start(&["--timeout", "4"], "sleep 1000")?.wait();
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| timed(&runc));
        (timed(podman), theirs.join())
    });
    assert_eq!(ours?, theirs.map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    Ok(())
}

fn a_monitor_that_is_killed_takes_the_machine_along(engine: &Engine) -> Result<()> {
    let _order = together();
    let container = engine.start(&[], UNTIL_TERM)?;
    let pid = container.inspect(".State.Pid")?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    assert!(children.split_whitespace().count() >= 2, "{}: {pid} has {children:?}", engine.name);
    std::process::Command::new("kill").args(["-9", &pid]).status()?;
    assert_eq!(container.wait()?, 137, "{}", engine.name);
    Deadline::generous()?.wait_for("the machine's end", || {
        let gone = |child: &str| !std::path::Path::new("/proc").join(child).exists();
        Ok(children.split_whitespace().all(gone).then_some(()))
    })?;
    Ok(())
}

/// Its keeper is the process of the engine that waits for it: containerd's shim, or conmon.
fn a_container_whose_keeper_is_killed_can_be_removed(engine: &Engine) -> Result<()> {
    let _order = alone();
    engine.run(&[], "true")?.expect(0)?;
    let before = Census::take()?;
    let container = engine.start(&[], UNTIL_TERM)?;
    container.wrote("started")?;
    let pid = container.inspect(".State.Pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim();
    let name = std::fs::read_to_string(format!("/proc/{keeper}/comm"))?;
    ensure!(["containerd-shim\n", "conmon\n"].contains(&name.as_str()), "{}: {name}", engine.name);
    std::process::Command::new("kill").args(["-9", keeper]).status()?;
    container.call(&["rm", "--force"])?.expect(0)?;
    if engine.name == "podman" {
        // It forgets what the runtime has of a container whose conmon is gone, with runc too.
        let mut delete = std::process::Command::new(Setup::get()?.program("runv"));
        let deleted = delete.args(["delete", &container.id]).status()?;
        ensure!(deleted.success(), "{deleted}");
    }
    before.restored(Deadline::after(Duration::from_secs(10))?)
}

fn a_container_that_is_removed_by_force_leaves_nothing(engine: &Engine) -> Result<()> {
    let _order = alone();
    // The engine's own files are there after its first container.
    engine.run(&[], "true")?.expect(0)?;
    let before = Census::take()?;
    for _ in 0..3 {
        let container = engine.start(&[], UNTIL_TERM)?;
        container.call(&["rm", "--force"])?.expect(0)?;
    }
    before.restored(Deadline::after(Duration::from_secs(10))?)?;
    Ok(())
}
