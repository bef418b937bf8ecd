//! `clone3`: a child process in new namespaces, in its cgroup from its first instruction.

#![allow(unsafe_code, reason = "nix and rustix have no clone3")]

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// linux/sched.h; libc's constant is an `int`, which cannot hold it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where a child starts.
pub struct Clone3<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: u64,
    /// Directory of the cgroup v2 that the child is born into, if not the caller's.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Whose child it is.
    pub parent: Parent,
}

/// Of a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The caller.
    Caller,
    /// The caller's parent.
    CallersParent,
}

/// The new process, as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// In the caller's pid namespace.
    pub pid: Pid,
    /// Names exactly this process, whatever becomes of its number.
    pub pidfd: OwnedFd,
}

impl Clone3<'_> {
    /// Forks; the child runs `body` on a copy of the caller's memory and never returns from here.
    ///
    /// The process must have one thread: `body` may then allocate and use any library, because no other
    /// thread can have held a lock when the memory was copied. The agent is single-threaded (`main.rs`
    /// builds a current-thread runtime and nothing here uses `spawn_blocking`).
    ///
    /// # Errors
    ///
    /// Those of clone3(2).
    pub fn spawn(&self, body: impl FnOnce() -> Infallible) -> io::Result<Child> {
        let mut pidfd: libc::c_int = -1;
        // SAFETY: `clone_args` is a plain structure of integers, for which zero is "not asked for".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = self.namespaces | u64::from(libc::CLONE_PIDFD.unsigned_abs());
        args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        match self.parent {
            Parent::Caller => args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs()),
            // The signal is then the caller's.
            Parent::CallersParent => args.flags |= u64::from(libc::CLONE_PARENT.unsigned_abs()),
        }
        if let Some(cgroup) = self.cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        // SAFETY: without CLONE_VM and with no stack given this is a fork: the child gets a copy of all
        // memory. `args` and `pidfd` live across the call, and the size is that of `args`.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
        if pid == 0 {
            body();
        }
        let pid =
            i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| pid.as_raw_nonzero().get() > 0);
        let Some(pid) = pid else { return Err(io::Error::last_os_error()) };
        // SAFETY: clone3 has succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor, owned by nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Child { pid, pidfd })
    }
}
