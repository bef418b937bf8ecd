//! What an engine's shim does: it becomes the reaper of what its commands leave, and waits for it.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

/// Runs a command that writes a pid file and ends, says so, and tells how the process in the file ended.
pub(crate) fn adopt(pid_file: &str, command: &[String]) -> Result<()> {
    set_child_subreaper(Some(getpid())).context("cannot become a subreaper")?;
    let (program, arguments) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    let pid = fs::read_to_string(pid_file).with_context(|| format!("cannot read {pid_file}"))?;
    let pid = Pid::from_raw(pid.parse().context("the pid file has no number")?).context("process 0")?;
    println!("adopted {}", pid.as_raw_nonzero());
    let (_, status) =
        waitpid(Some(pid), WaitOptions::empty()).context("not our child")?.context("no status")?;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => println!("exited {code}"),
        (_, Some(signal)) => println!("signaled {signal}"),
        _ => println!("neither"),
    }
    Ok(())
}
