//! startContainer hooks (runtime specification, config.md, "POSIX-platform Hooks"): programs of the container that run
//! in it just before its workload, as its user and under its filter unless that can wait (`workload`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::{Failure, FailureKind};

/// Of what a hook has written, how much an error tells.
const TOLD: u64 = 512;

/// A program to run.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// With the name as the first.
    pub args: Vec<OsString>,
    /// All of its environment.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// Hooks, and what they read.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    /// In their order.
    pub start_container: Vec<Hook>,
    /// The container's state as JSON, from behind its opening brace, but for the pid.
    pub state: String,
}

impl Hooks {
    /// Runs all of them.
    ///
    /// # Errors
    ///
    /// A [`Failure`] of the first that does not end with status 0 in its time; the others are not run.
    pub fn run(&self) -> Result<(), Failure> {
        for (index, hook) in self.start_container.iter().enumerate() {
            hook.run(&self.state).map_err(|error| {
                let text = format!("error running startContainer hook #{index}: {error}");
                Failure::new(FailureKind::System, text)
            })?;
        }
        Ok(())
    }
}

impl Hook {
    fn run(&self, state: &str) -> io::Result<()> {
        // Files, not pipes: a hook that does not read or that writes much must not stop this process.
        let mut input = temporary("state")?;
        write!(input, "{{\"pid\":{},{state}", std::process::id())?;
        input.rewind()?;
        let (mut stdout, mut stderr) = (temporary("stdout")?, temporary("stderr")?);
        let mut command = Command::new(&self.path);
        command.env_clear().envs(self.env.iter().cloned());
        command.stdin(input).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        if let [name, args @ ..] = self.args.as_slice() {
            command.arg0(name).args(args);
        }
        let mut child = command.spawn()?;
        if let Err(error) = self.wait(&child) {
            // It has just ended if this fails.
            let _ = child.kill();
            child.wait()?;
            return Err(error);
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        let how = match status.signal() {
            Some(signal) => format!("signal: {signal}"),
            None => format!("exit status {}", status.code().unwrap_or_default()),
        };
        let (stdout, stderr) = (told(&mut stdout)?, told(&mut stderr)?);
        Err(io::Error::other(format!("{how}, stdout: {stdout}, stderr: {stderr}")))
    }

    fn wait(&self, child: &Child) -> io::Result<()> {
        let Some(timeout) = self.timeout else { return Ok(()) };
        let pid =
            i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let limit = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)], Some(&limit))? {
            0 => Err(io::Error::other(format!("hook ran past specified timeout of {}s", timeout.as_secs()))),
            _ => Ok(()),
        }
    }
}

fn temporary(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC)?.into())
}

fn told(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(TOLD).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
