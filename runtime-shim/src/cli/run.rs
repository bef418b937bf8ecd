//! `run`: create, start, and unless detached, wait and delete.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use anyhow::Context;
use clap::Args;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::flags::{Global, Making};
use super::{create, start};
use crate::container::remove;
use crate::exit_code;
use crate::failure::Failure;
use crate::io::poll::poll_until;
use crate::monitor::launch::Parent;
use crate::monitor::signals::Signals;
use crate::preserved::Preserved;

/// Create and start a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) making: Making,
    /// Leave it running
    #[arg(short, long)]
    detach: bool,
    /// Do not delete it when it has ended
    #[arg(long)]
    keep: bool,
    /// For runc's sake: the container's process is never a subreaper's affair here
    #[arg(long)]
    no_subreaper: bool,
}

pub(super) fn main(
    arguments: &Arguments,
    global: &Global,
    taken: Result<Preserved, Failure>,
) -> Result<u8, Failure> {
    taken
        .and_then(|preserved| run(arguments, global, preserved))
        .map_err(|failure| failure.context("runv run failed"))
}

fn run(arguments: &Arguments, global: &Global, preserved: Preserved) -> Result<u8, Failure> {
    // In the foreground, signals wait from here on, so that none can end this process past its clean-up.
    let signals = if arguments.detach { None } else { Some(Signals::block()?) };
    let parent = if arguments.detach { Parent::Subreaper } else { Parent::This };
    let made = create::make(&arguments.making, global, preserved, parent)?;
    let record = made.folder.read()?;
    let started = start::start(&made.folder, &record);
    let status = match (started, made.monitor, signals) {
        (Err(failure), _, _) => return Err(failure.after(remove::clear(&made.folder))),
        (Ok(()), Some(monitor), Some(signals)) => wait(monitor, &signals)?,
        (Ok(()), _, _) => return Ok(0),
    };
    if !arguments.keep {
        remove::clear(&made.folder)?;
    }
    Ok(status)
}

/// Signals to this process are the container's. What a terminal sends goes to the monitor by itself, as it is of the
/// same process group.
fn wait(mut monitor: Child, signals: &Signals) -> Result<u8, Failure> {
    let pid = i32::try_from(monitor.id()).ok().and_then(Pid::from_raw).context("no monitor")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the monitor")?;
    loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        poll_until(&mut fds, None).context("cannot wait for the monitor")?;
        let [ended, signal] = fds.map(|fd| !fd.revents().is_empty());
        if ended {
            return Ok(of_status(monitor.wait().context("cannot wait for the monitor")?));
        }
        if signal && let Some(signal) = signals.take_sent()? {
            let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
            // It may have ended just now, which the next look shows.
            let _ = nix::sys::signal::kill(pid, signal);
        }
    }
}

fn of_status(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| exit_code::of_signal(signal.unsigned_abs()));
    let code = status.code().map(|code| exit_code::of_exit(code.unsigned_abs()));
    signal.or(code).unwrap_or(exit_code::OWN_ERROR)
}
