#![allow(unsafe_code, reason = "fork(2) and what its child does have no safe wrapper")]
//! A user namespace that only carries a map of ids, for an id-mapped mount (user_namespaces(7), mount_setattr(2)).

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::plan::{IdMap, IdRange};

/// A namespace with the ids of `map`, which lives as long as the descriptor.
///
/// A namespace is made with a process in it: one that waits until it is killed.
pub(crate) fn of_map(map: &IdMap) -> io::Result<OwnedFd> {
    let child = waiting_child()?;
    let made = write_maps(child, map);
    // It is a child of this process and not reaped, so the number is its own.
    kill_process(child, Signal::KILL)?;
    waitpid(Some(child), WaitOptions::empty())?;
    made
}

fn write_maps(child: Pid, map: &IdMap) -> io::Result<OwnedFd> {
    let folder = format!("/proc/{}", child.as_raw_nonzero());
    fs::write(format!("{folder}/uid_map"), lines(&map.uids))?;
    fs::write(format!("{folder}/gid_map"), lines(&map.gids))?;
    Ok(File::open(format!("{folder}/ns/user"))?.into())
}

fn lines(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {} {}", range.stored, range.shown, range.size);
    }
    text
}

fn waiting_child() -> io::Result<Pid> {
    let parent = rustix::process::getpid();
    // The kernel takes the flags and the signal at the child's end in one number.
    let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has a copy of this process and goes on here, on the same stack.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if result == 0 {
        wait_for_the_end(parent);
    }
    let child = i32::try_from(result).ok().and_then(Pid::from_raw);
    child.ok_or_else(io::Error::last_os_error)
}

/// What the child does: system calls alone, as another thread may have held a lock when it was made.
fn wait_for_the_end(parent: Pid) -> ! {
    // SAFETY: sets an attribute of the calling process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // A parent that died before the line above sends no signal any more.
    while rustix::process::getppid() == Some(parent) {
        // SAFETY: takes nothing, and returns when a handler ran.
        unsafe { libc::pause() };
    }
    // SAFETY: ends the process and runs no code of it.
    unsafe { libc::_exit(1) }
}
