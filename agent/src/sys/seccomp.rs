//! `seccomp`: a filter over the system calls of this process and its children.

#![allow(unsafe_code, reason = "nix and rustix have no seccomp filters")]

use std::io;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    constant: u32,
}

impl Instruction {
    /// As it lies in memory.
    pub fn from_bytes([code0, code1, jump_true, jump_false, k0, k1, k2, k3]: [u8; 8]) -> Self {
        let (code, constant) = (u16::from_ne_bytes([code0, code1]), u32::from_ne_bytes([k0, k1, k2, k3]));
        Self { code, jump_true, jump_false, constant }
    }
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Adds a filter.
///
/// # Errors
///
/// Those of seccomp(2).
pub fn set_filter(instructions: &[Instruction], flags: u32) -> io::Result<()> {
    let length = u16::try_from(instructions.len()).map_err(io::Error::other)?;
    let program = Program { length, filter: instructions.as_ptr() };
    // SAFETY: `program` has the kernel's layout and points to `length` instructions, which live across the call and
    // are only read.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
