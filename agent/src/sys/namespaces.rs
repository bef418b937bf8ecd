//! Entering the namespaces of another process.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags};

use crate::kmsg;

/// Enters namespaces of the process that `pidfd` names, all or none of them; `flags` are those of clone(2).
///
/// # Errors
///
/// Those of setns(2): `ESRCH` when the process has ended.
pub fn join(pidfd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    let flags = CloneFlags::from_bits_retain(i32::try_from(flags).map_err(io::Error::other)?);
    Ok(setns(pidfd, flags)?)
}

/// Does `act` in another network namespace, of which a descriptor is given.
///
/// # Errors
///
/// Those of setns(2). `act` has not been done then.
pub fn within_network<T>(namespace: BorrowedFd<'_>, act: impl FnOnce() -> T) -> io::Result<T> {
    within(["net", "network"], CloneFlags::CLONE_NEWNET, namespace, act)
}

/// Does `act`, whose children are born into the pid namespace of the process that `pidfd` names.
///
/// # Errors
///
/// Those of setns(2): `ESRCH` when the process has ended. `act` has not been done then.
pub fn with_children_in<T>(pidfd: BorrowedFd<'_>, act: impl FnOnce() -> T) -> io::Result<T> {
    within(["pid"; 2], CloneFlags::CLONE_NEWPID, pidfd, act)
}

/// `other` is what setns(2) takes; the agent's own, to return to, is `file` in its /proc/self/ns.
fn within<T>(
    [file, kind]: [&str; 2],
    flag: CloneFlags,
    other: BorrowedFd<'_>,
    act: impl FnOnce() -> T,
) -> io::Result<T> {
    let path = format!("/proc/self/ns/{file}");
    let own = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    setns(other, flag)?;
    let result = act();
    if let Err(error) = setns(&own, flag) {
        // All that the agent does from now on, every container included, would be of the other.
        kmsg::fatal(&format!("cannot return to the agent's {kind} namespace: {error}"));
        std::process::abort();
    }
    Ok(result)
}
