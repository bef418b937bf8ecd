//! Child processes that cannot outlive this one, and that inherit just the file descriptors given to them.
//!
//! Must be called from the main thread: the kernel delivers `PR_SET_PDEATHSIG` when the *thread* that forked
//! ends.

#![allow(
    unsafe_code,
    reason = "the child is prepared between fork and exec, and close_range(2) has no safe wrapper"
)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// First number that a child's inherited file descriptors get. Above those that `std` uses between fork and
/// exec to report a failed exec, so that the mapping cannot overwrite them.
pub(crate) const FIRST_FD: RawFd = 64;

/// Numbers the file descriptors that a child inherits.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    mappings: Vec<FdMapping>,
}

impl Inherited {
    /// Passes a descriptor on; returns its number in the child.
    pub(crate) fn add(&mut self, parent_fd: OwnedFd) -> RawFd {
        let child_fd = self.mappings.last().map_or(FIRST_FD, |last| last.child_fd + 1);
        self.mappings.push(FdMapping { parent_fd, child_fd });
        child_fd
    }

    /// Lets `command`'s child have the descriptors, die with this thread, and stay out of the terminal's
    /// foreground process group: a Ctrl-C is for the workload, which gets it through the shim.
    pub(crate) fn apply(self, command: &mut Command) -> io::Result<()> {
        let parent = getpid();
        let die_with_parent = move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
        };
        // SAFETY: the closure only makes system calls; it neither allocates nor takes locks after fork.
        unsafe { command.pre_exec(die_with_parent) };
        command.fd_mappings(self.mappings).map_err(io::Error::other)?;
        command.process_group(0);
        Ok(())
    }
}

/// Keeps what this process inherited from its caller from its own children: the guest may come to own those.
pub(crate) fn withhold_inherited_fds() -> io::Result<()> {
    // SAFETY: marks descriptors close-on-exec; it closes none and touches no memory.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(clippy::cast_possible_wrap, reason = "a flag bit, 4")]
const CLOSE_RANGE_CLOEXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;

/// An unnamed file with these bytes, which nobody can change any more; its offset is at the start.
pub(crate) fn sealed_file(name: &str, contents: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(contents)?;
    io::Seek::rewind(&mut file)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}
