//! One child process: tied to its parent's life, watched by a pidfd, never left as a zombie.
//!
//! Must be used from the thread that spawned, as long as the child may
//! live: `PR_SET_PDEATHSIG` follows the parent *thread*.

#![allow(unsafe_code, reason = "std's pre_exec is unsafe, and PR_SET_PDEATHSIG must be set in the child")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, Signal};

use crate::exec_label::ExecLabel;

/// A spawned process. Dropping it kills and reaps it.
///
/// One in another security context is tied to the parent's life only until it is executed, for there the kernel forgets
/// the signal. Its program has to see the parent's end by itself, or to be started by [`crate::tied_by`].
#[derive(Debug)]
pub struct BoundProcess {
    child: Child,
    pidfd: OwnedFd,
}

impl BoundProcess {
    /// Spawns `command` in a process group of its own, so that the terminal's Ctrl-C is not for it, and
    /// to be killed when the calling thread ends.
    ///
    /// The command is consumed: with it goes the parent's copy of every descriptor that the child
    /// inherits, so that the child alone holds its ends.
    ///
    /// # Errors
    /// When the program cannot be executed or its process not be watched; none is left then.
    pub fn spawn(command: Command) -> io::Result<Self> {
        Self::spawn_as(command, None)
    }

    /// The same in another security context, if there is one to be in; tied no longer then (see [`BoundProcess`]).
    ///
    /// # Errors
    /// When the program cannot be executed in that context, or its process not be watched; none is left then.
    pub fn spawn_as(command: Command, label: Option<ExecLabel>) -> io::Result<Self> {
        let Some(label) = label else { return Self::start(command, None) };
        let name = label.to_string();
        Self::start(command, Some(label))
            .map_err(|error| io::Error::new(error.kind(), format!("in the SELinux context {name}: {error}")))
    }

    fn start(mut command: Command, label: Option<ExecLabel>) -> io::Result<Self> {
        let parent = rustix::process::getpid();
        // SAFETY: the closure makes a few system calls and allocates nothing, so it is async-signal-safe as
        // the child of a fork from a threaded process requires.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // A parent that died before the line above sends no signal any more.
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                label.as_ref().map_or(Ok(()), ExecLabel::set)
            });
        }
        let mut child = command.process_group(0).spawn()?;
        match open_pidfd(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd }),
            Err(error) => {
                // The error in hand says more than a failure to clean up after it would.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The reading end of the standard error, once, if the command had a pipe made for it.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.child.stderr.take().map(|stderr| OwnedFd::from(stderr).into())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Polls readable once the process has ended (a pidfd).
    #[must_use]
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends SIGKILL; a process that was reaped already is no error.
    ///
    /// # Errors
    /// Those of kill(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits for the end and reaps; tells the same status each time.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for BoundProcess {
    fn drop(&mut self) {
        let id = self.child.id();
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::error!(pid = id, %error, "a process of a sandbox may be left");
        }
    }
}

fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn sleeper() -> BoundProcess {
        let mut command = Command::new("sleep");
        command.arg("1000");
        BoundProcess::spawn(command).unwrap()
    }

    fn has_ended(process: &BoundProcess) -> bool {
        let ended = process.ended();
        let mut fds = [PollFd::new(&ended, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn killed_process_is_reaped_and_its_descriptor_polls_readable() {
        let mut process = sleeper();
        assert!(!has_ended(&process));
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(has_ended(&process));
        process.kill().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn drop_leaves_no_process() {
        let process = sleeper();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        drop(process);
        let gone = rustix::process::test_kill_process(pid);
        assert_eq!(gone, Err(rustix::io::Errno::SRCH));
    }

    #[test]
    fn child_leads_its_own_process_group() {
        let process = sleeper();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        assert_eq!(rustix::process::getpgid(Some(pid)), Ok(pid));
    }

    #[test]
    fn child_dies_with_the_thread_that_spawned_it() {
        let mut process = std::thread::spawn(sleeper).join().unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn missing_program_is_an_error() {
        let error = BoundProcess::spawn(Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// A host without SELinux refuses every context, one with it those that its policy does not know.
    #[test]
    fn a_context_that_the_host_does_not_know_executes_nothing() {
        let label = ExecLabel::new("no_u:no_r:no_t:s0");
        let error = BoundProcess::spawn_as(Command::new("true"), label).unwrap_err().to_string();
        assert!(error.starts_with("in the SELinux context no_u:no_r:no_t:s0: "), "{error}");
    }
}
