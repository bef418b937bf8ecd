//! The descriptors that a process begins with, between the agent's making of them and the process's execve.

#![allow(unsafe_code, reason = "dup2(2) onto numbers that nothing owns has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;

/// The first number behind stdio.
const FIRST: RawFd = 3;

/// What a process gets as its descriptors.
#[derive(Debug)]
pub struct Files {
    /// 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// From 3 on.
    pub more: Vec<OwnedFd>,
}

impl Files {
    /// Each of them, where it is in the agent.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.stdio.iter().chain(&self.more).map(AsFd::as_fd)
    }

    /// The number that is the first behind them in the process.
    fn end(&self) -> RawFd {
        RawFd::try_from(self.more.len()).unwrap_or(RawFd::MAX).saturating_add(FIRST)
    }

    /// Another descriptor of the same file, whose number is none of theirs in the process.
    pub(super) fn above(&self, file: impl AsFd) -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(file, self.end())?)
    }

    /// Gives those from 3 on the numbers that they have in the process's program, whatever else is there.
    ///
    /// For a process on its way to execve, in which nobody uses a descriptor below [`Files::end`] any more but 0, 1 and 2.
    pub(super) fn place_more(&self) -> io::Result<()> {
        // One may be where another is to go.
        let raised = self.more.iter().map(|file| self.above(file)).collect::<io::Result<Vec<_>>>()?;
        for (number, file) in (FIRST..).zip(&raised) {
            // SAFETY: the new descriptor is left to execve. What was at its number has been closed by this: the caller says
            // that nobody uses it, and this process leaves by execve or _exit, so that nobody closes it a second time.
            if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}
