//! Many sandboxes at once, and nothing of them afterwards.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{Bundle, Census, Deadline, Running, Sandbox, Setup, alone};
use serde_json::json;

const COUNT: u64 = 20;

/// Waits for a line, then proves that memory, files and streams are its own.
const SCRIPT: &str = "echo $NUMBER >/dev/shm/number; echo $NUMBER >/number; echo ready; read line
    echo \"$line $NUMBER $(cat /dev/shm/number) $(cat /number)\"; exit $NUMBER";

#[test]
fn twenty_at_once_do_not_disturb_each_other_and_leave_nothing() -> Result<()> {
    let _order = alone();
    let before = Census::take()?;
    for _ in 0..Setup::times("RUNV_TEST_ROUNDS", 1)? {
        twenty_at_once()?;
        before.restored(Deadline::after(Duration::from_secs(2))?)?;
    }
    Ok(())
}

/// Twenty, but five for guests of several vCPUs in the nested host: its processor would have to run forty vCPUs. It does, in
/// 100 to 125 s on a busy machine, but on one that gives it a quarter of a core, an agent does not answer in the minute it has.
fn twenty_at_once() -> Result<()> {
    let count = Setup::get()?.size("sandboxes at once", COUNT, 5);
    let deadline = Deadline::after(Duration::from_secs(180))?;
    let bundles: Vec<Bundle> = (0..count)
        .map(|number| {
            Bundle::shell(SCRIPT)?.edit(|spec| {
                spec["process"]["env"] = json!(["PATH=/bin", format!("NUMBER={number}")]);
            })
        })
        .collect::<Result<_>>()?;
    let mut all: Vec<Running> = bundles
        .iter()
        .map(|bundle| Sandbox::run(bundle)?.option("--memory", "128").start())
        .collect::<Result<_>>()?;
    for running in &all {
        let ready = running.stdout().wait_for("ready\n", deadline);
        ready.with_context(|| format!("its errors are {:?}", running.stderr().text()))?;
    }
    for (number, running) in all.iter_mut().enumerate() {
        running.stdin()?.write_all(format!("line-{number}\n").as_bytes())?;
    }
    for (number, running) in all.into_iter().enumerate() {
        let finished = running.finish(deadline)?.expect_code(i32::try_from(number)?)?;
        assert_eq!(finished.text(), format!("ready\nline-{number} {number} {number} {number}\n"));
        assert_eq!(finished.errors(), "");
    }
    Ok(())
}

#[test]
fn one_after_the_other_leaves_nothing() -> Result<()> {
    let _order = alone();
    let bundle = Bundle::shell("exit 4")?;
    let before = Census::take()?;
    for _ in 0..Setup::times("RUNV_TEST_CYCLES", 5)? {
        Sandbox::run(&bundle)?.finish()?.expect_code(4)?;
    }
    before.restored(Deadline::after(Duration::from_secs(2))?)
}
