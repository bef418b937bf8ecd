//! The file descriptors that a child inherits, and their numbers there.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};

/// Least number for a descriptor that a child inherits. Up to the exec, std keeps a pipe open in the child to
/// report a failure, under whatever number was free; a mapping onto it would make failures look like success.
const FIRST: RawFd = 64;

/// Numbers the file descriptors that a child inherits.
#[derive(Debug, Default)]
pub struct Inherited(Vec<FdMapping>);

impl Inherited {
    /// Passes a descriptor on; returns its number in the child.
    pub fn add(&mut self, parent_fd: OwnedFd) -> RawFd {
        let child_fd = self.0.last().map_or(FIRST, |last| last.child_fd + 1);
        self.0.push(FdMapping { parent_fd, child_fd });
        child_fd
    }

    /// Lets `command`'s child have the descriptors. `command` owns the parent's copies from now on.
    ///
    /// # Errors
    /// When they cannot be numbered.
    pub fn apply(self, command: &mut Command) -> io::Result<()> {
        command.fd_mappings(self.0).map_err(io::Error::other)?;
        Ok(())
    }
}
