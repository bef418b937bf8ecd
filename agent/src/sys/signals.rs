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
    // The kernel's own structure for sigaction: handler (SIG_DFL is 0), flags, restorer, mask. The C library
    // keeps signals 32 and 33 to itself, but they too are inherited if ignored.
    let default = [0_u64; 4];
    for signal in 1..=HIGHEST {
        // SAFETY: the kernel reads 32 bytes, which are there, and no old action is asked for. SIG_DFL runs no
        // code of ours. It fails for SIGKILL and SIGSTOP, which are always as they should be.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let none = 0_u64;
    // SAFETY: the kernel reads a set of 8 bytes, which are there; the old mask is not asked for.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}
