//! SIGKILL of any part at any moment: all of the sandbox is gone within two seconds, and the error says why.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Bundle, Census, Deadline, Role, Sandbox, Setup, alone, pattern};
use rustix::process::Signal;

/// How long everything of a killed sandbox may take to vanish.
const GRACE: Duration = Duration::from_secs(2);

/// When in a sandbox's life the kill comes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The victim has just been started.
    Start,
    /// The guest's kernel boots.
    Boot,
    /// The workload runs.
    Run,
}

/// Kills `victim` of a sandbox at a random point of `moment`.
fn kill(victim: Role, moment: Moment, random: u64) -> Result<()> {
    let deadline = Deadline::generous()?;
    let bundle = Bundle::shell("echo ready; sleep 1000")?;
    let running = Sandbox::run(&bundle)?.start()?;
    let process = running.process(victim, deadline)?;
    let spread_ms = match moment {
        Moment::Start => 20,
        Moment::Boot => 600,
        Moment::Run => {
            running.stdout().wait_for("ready\n", deadline)?;
            100
        }
    };
    // Not a wait for anything: the random moment itself.
    thread::sleep(Duration::from_millis(random % spread_ms));
    process.signal(Signal::KILL)?;

    let finished = running.finish_killed(Deadline::after(GRACE)?)?;
    if victim == Role::Shim {
        assert_eq!(finished.signal(), Some(Signal::KILL.as_raw()));
        return Ok(());
    }
    let finished = finished.expect_code(1)?;
    let errors = finished.errors();
    assert_eq!(errors.lines().count(), 1, "one line: {errors:?}");
    let part = if victim == Role::Vmm { &["VMM", "vmm", "QEMU"][..] } else { &["device"][..] };
    assert!(part.iter().any(|part| errors.contains(part)), "which part: {errors:?}");
    assert!(errors.contains("signal 9") || errors.contains("SIGKILL"), "why: {errors:?}");
    Ok(())
}

/// Each moment in turn, `RUNV_TEST_KILLS` times (3 unless set), from the printed seed.
fn kill_at_random_moments(victim: Role) -> Result<()> {
    let _order = alone();
    let count = Setup::times("RUNV_TEST_KILLS", 3)?;
    let seed = Setup::times("RUNV_TEST_SEED", u64::from(std::process::id()))?;
    println!("RUNV_TEST_SEED={seed}");
    let before = Census::take()?;
    for index in 0..count {
        let moment = [Moment::Start, Moment::Boot, Moment::Run][usize::try_from(index % 3)?];
        let random = pattern::random(seed, index);
        kill(victim, moment, random)
            .with_context(|| format!("kill {index} of {victim:?}, {moment:?}, {random}"))?;
        before.restored(Deadline::after(GRACE)?)?;
    }
    Ok(())
}

#[test]
fn of_the_sandbox_process() -> Result<()> {
    kill_at_random_moments(Role::Shim)
}

#[test]
fn of_the_vmm() -> Result<()> {
    kill_at_random_moments(Role::Vmm)
}

#[test]
fn of_the_device_process() -> Result<()> {
    kill_at_random_moments(Role::Devices)
}
