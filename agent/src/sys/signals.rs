//! Signals by number, real-time ones included, which the typed libraries refuse.

#![allow(unsafe_code, reason = "nix and rustix know no real-time signals by number")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;

/// The highest signal number, `SIGRTMAX` of the kernel.
pub const HIGHEST: i32 = 64;

/// Sends `signal` to the process that `pidfd` names.
///
/// # Errors
///
/// Those of pidfd_send_signal(2): `ESRCH` when the process has been reaped, `EINVAL` for a bad number.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends `signal` to the process with that number.
///
/// # Errors
///
/// Those of kill(2).
pub fn send_by_number(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes integers only; `Pid` is positive, so no group and not everybody is meant.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every signal its default action and blocks none, as a new program expects.
pub fn reset() {
    for signal in 1..=HIGHEST {
        // SAFETY: SIG_DFL runs no code of ours. The call fails for SIGKILL and SIGSTOP and for the two that the
        // C library keeps, which nobody has changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `sigset_t` is a plain array of integers; sigemptyset below initialises it in any case.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is a live set.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: `none` is a live, initialised set; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}
