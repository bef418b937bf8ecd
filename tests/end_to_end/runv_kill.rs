//! Commands and the container's process killed at any moment: `delete --force` leaves nothing, and nothing is stuck.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Bundle, Census, Deadline, Runtime, Setup, alone, pattern};
use rustix::process::{Pid, Signal, kill_process};

/// How long everything of a container may take to vanish.
const GRACE: Duration = Duration::from_secs(2);

#[test]
fn a_create_that_is_killed_can_be_deleted_by_force() -> Result<()> {
    let _order = alone();
    let seed = Setup::times("RUNV_TEST_SEED", u64::from(std::process::id()))?;
    println!("RUNV_TEST_SEED={seed}");
    let before = Census::take()?;
    for index in 0..Setup::times("RUNV_TEST_KILLS", 5)? {
        let bundle = Bundle::shell("sleep 1000")?;
        let runv = Runtime::new(&bundle)?;
        let mut create = runv.start_to_leave(&["create", "--pid-file", "pid", "c1"])?;
        let random = pattern::random(seed, index);
        // Not a wait for anything: the random moment itself, early as often as late.
        thread::sleep(Duration::from_micros(random % if index % 2 == 0 { 20_000 } else { 1_500_000 }));
        create.kill()?;
        create.wait()?;
        runv.call(&["delete", "--force", "c1"])?
            .expect(0)
            .with_context(|| format!("kill {index}, {random}"))?;
        assert_eq!(fs::read_dir(runv.root())?.count(), 0);
        // A monitor that was just being started finds that it has no record, and ends when it gets to run.
        before.restored(Deadline::after(GRACE * 5)?).with_context(|| format!("kill {index}, {random}"))?;
    }
    Ok(())
}

#[test]
fn a_container_whose_process_is_killed_is_stopped_and_takes_its_machine_along() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    let pid = Pid::from_raw(runv.read("pid").parse()?).context("process 0")?;
    kill_process(pid, Signal::KILL)?;
    runv.wait_for_status("c1", "stopped")?;
    runv.call(&["kill", "c1", "9"])?.refused("container not running")?;
    runv.call(&["delete", "c1"])?.expect(0)?;
    before.restored(Deadline::after(GRACE)?)
}

#[test]
fn delete_by_force_leaves_nothing_of_a_container_that_runs() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    let bundle = Bundle::shell("sleep 1000")?;
    let runv = Runtime::new(&bundle)?;
    runv.run_detached("c1")?;
    runv.leave(&["exec", "--detach", "c1", "sleep", "777"])?.expect(0)?;
    runv.call(&["delete", "--force", "c1"])?.expect(0)?;
    // No grace for what holds the root file system: engines unmount it next.
    let holders = e2e::Process::all()?;
    let left: Vec<_> = holders.values().filter(|process| process.program == "runv-devices").collect();
    assert!(left.is_empty(), "{left:?}");
    before.restored(Deadline::after(GRACE)?)
}
