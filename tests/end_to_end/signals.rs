//! Signals that `sandbox run` gets are the workload's.

use anyhow::Result;
use e2e::{Bundle, Deadline, Sandbox, together};
use rustix::process::Signal;

#[test]
fn signals_are_forwarded() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = Bundle::new(&["probe", "signals"])?;
    let running = Sandbox::run(&bundle)?.start()?;
    running.stdout().wait_for("ready\n", deadline)?;
    for (signal, name) in [
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::USR1, "SIGUSR1"),
    ] {
        running.signal(signal)?;
        running.stdout().wait_for(&format!("{name}\n"), deadline)?;
    }
    running.signal(Signal::TERM)?;
    let finished = running.finish(deadline)?.expect_code(0)?;
    assert_eq!(finished.text(), "ready\nSIGINT\nSIGHUP\nSIGQUIT\nSIGUSR1\nSIGTERM\n");
    Ok(())
}

#[test]
fn sigterm_before_the_workload_runs_ends_the_sandbox() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = Bundle::shell("echo started; sleep 1000")?;
    let running = Sandbox::run(&bundle)?.start()?;
    running.process(e2e::Role::Vmm, deadline)?;
    running.signal(Signal::TERM)?;
    let finished = running.finish(deadline)?;
    assert!(
        finished.code() == Some(143) || finished.signal() == Some(Signal::TERM.as_raw()),
        "ended with {finished:?}"
    );
    Ok(())
}

#[test]
fn a_guest_that_hangs_does_not_outlive_sigterm() -> Result<()> {
    let _order = together();
    let deadline = Deadline::generous()?;
    let bundle = Bundle::shell("echo started; sleep 1000")?;
    let running = Sandbox::run(&bundle)?.start()?;
    running.stdout().wait_for("started\n", deadline)?;
    running.process(e2e::Role::Vmm, deadline)?.signal(Signal::STOP)?;
    running.signal(Signal::TERM)?;
    let finished = running.finish(deadline)?.expect_code(1)?;
    let errors = finished.errors();
    assert!(errors.contains("the agent did not answer SignalProcess within 15 seconds"), "{errors:?}");
    Ok(())
}
