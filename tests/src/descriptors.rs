//! Commands with descriptors from 3 on.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};

use crate::{Deadline, Output};

/// The command with descriptors from 3 on, which close with it.
///
/// # Errors
/// When they cannot be numbered.
pub fn with_descriptors(mut command: Command, fds: Vec<OwnedFd>) -> Result<Command> {
    let numbered = (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
    command.fd_mappings(numbered.collect()).context("cannot pass descriptors")?;
    Ok(command)
}

/// The same, of which the first `listen` are those of sd_listen_fds(3).
///
/// # Errors
/// When they cannot be numbered.
pub fn activated(command: &Command, listen: usize, fds: Vec<OwnedFd>) -> Result<Command> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    shell.env("LISTEN_FDS", listen.to_string()).env("LISTEN_FDNAMES", "a:b");
    shell.current_dir(command.get_current_dir().context("no directory")?);
    with_descriptors(shell, fds)
}

/// Runs it to its end: its status, and what it has written to stdout and then to stderr.
///
/// # Errors
/// When it does not end in a minute.
pub fn finish(mut command: Command) -> Result<(Option<i32>, String)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start it")?;
    // It has the near ends of the descriptors.
    drop(command);
    let stdout = Output::collect(child.stdout.take().context("no stdout")?);
    let stderr = Output::collect(child.stderr.take().context("no stderr")?);
    let deadline = Deadline::generous()?;
    let status = deadline.wait_for("its end", || child.try_wait().context("cannot wait"))?;
    let said = [stdout.to_end(deadline)?, stderr.to_end(deadline)?].concat();
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}
