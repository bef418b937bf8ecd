//! `run`: create, start, and unless detached, wait and delete.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use anyhow::Context;
use clap::Args;

use super::flags::{Global, Making};
use super::{create, start};
use crate::container::remove;
use crate::exit_code;
use crate::failure::Failure;
use crate::monitor::launch::Parent;

/// Create and start a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    making: Making,
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

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    run(arguments, global).map_err(|failure| failure.context("runv run failed"))
}

fn run(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let parent = if arguments.detach { Parent::Subreaper } else { Parent::This };
    let made = create::make(&arguments.making, global, parent)?;
    let record = made.folder.read()?;
    let started = start::start(&made.folder, &record);
    let status = match (started, made.monitor) {
        (Err(failure), _) => {
            remove::clear(&made.folder)?;
            return Err(failure);
        }
        (Ok(()), None) => return Ok(0),
        (Ok(()), Some(monitor)) => wait(monitor)?,
    };
    if !arguments.keep {
        remove::clear(&made.folder)?;
    }
    Ok(status)
}

/// Signals to this process are the container's.
fn wait(mut monitor: Child) -> Result<u8, Failure> {
    let status = monitor.wait().context("cannot wait for the monitor")?;
    Ok(of_status(status))
}

fn of_status(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| exit_code::of_signal(signal.unsigned_abs()));
    let code = status.code().map(|code| exit_code::of_exit(code.unsigned_abs()));
    signal.or(code).unwrap_or(exit_code::OWN_ERROR)
}
