//! `bpf`: loading a program that judges accesses to devices, and attaching it to a cgroup.

#![allow(unsafe_code, reason = "nix and rustix have no bpf")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// linux/bpf.h, `enum bpf_cmd`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
/// `enum bpf_prog_type` and `enum bpf_attach_type`.
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Several programs may be attached to a cgroup and to those below it; all of them have to allow.
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// The part of `union bpf_attr` that loading takes; what follows it is zero for the kernel.
#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
}

/// The part that attaching takes.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`; the kernel verifies it.
///
/// # Errors
///
/// Those of bpf(2).
pub fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    let length = u32::try_from(instructions.len()).map_err(io::Error::other)?;
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the kernel reads `size_of::<Load>()` bytes, which are there, `length` instructions of 8 bytes and
    // a NUL-terminated string, which outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the program judge the accesses of the processes in a cgroup, instead of `replaced` if there is one.
///
/// # Errors
///
/// Those of bpf(2).
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().unsigned_abs();
    let attach = Attach {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
        replaced: replaced.map_or(0, number),
    };
    // SAFETY: the kernel reads `size_of::<Attach>()` bytes, which are there; the descriptors are borrowed.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
