//! `sched_setattr` and `ioprio_set`.

#![allow(unsafe_code, reason = "nix and rustix have neither")]

use std::io;

use rustix::process::Pid;

/// ioprio_set(2): one process.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// How a process shares the CPUs, in the terms of sched_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scheduler {
    /// Of the structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds, as the two that follow.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
}

/// Sets the scheduling of a process; `size` is seen to.
///
/// # Errors
///
/// Those of sched_setattr(2).
pub fn set_scheduler(pid: Pid, scheduler: &Scheduler) -> io::Result<()> {
    let size = u32::try_from(size_of::<Scheduler>()).map_err(io::Error::other)?;
    let attributes = Scheduler { size, ..*scheduler };
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: the structure has the kernel's layout (SCHED_ATTR_SIZE_VER0), says its size, and lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the I/O scheduling class and priority of a process.
///
/// # Errors
///
/// Those of ioprio_set(2).
pub fn set_io_priority(pid: Pid, class: u16, level: u16) -> io::Result<()> {
    let priority = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
