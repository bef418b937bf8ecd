//! What this process inherited: taken by number, and kept from its own children.

#![allow(unsafe_code, reason = "close_range(2) has no safe wrapper, and a number is no descriptor to Rust")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The descriptor that this process inherited under a number, which it was told on its command line.
pub(crate) fn take_inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks for the flags of a number, whatever it is; it touches no memory.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, nothing else in this process has opened or owns it (it was inherited, and each number
    // is taken once, at the start), and it is none of the standard streams.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Keeps what this process inherited from its caller from its own children: the guest may come to own those.
pub(crate) fn withhold_inherited_fds() -> io::Result<()> {
    // SAFETY: marks descriptors close-on-exec; it closes none and touches no memory.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(clippy::cast_possible_wrap, reason = "a flag bit, 4")]
const CLOSE_RANGE_CLOEXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
