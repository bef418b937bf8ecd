//! Keeps what this process inherited from its own children.

#![allow(unsafe_code, reason = "close_range(2) has no safe wrapper")]

use std::io;

/// Keeps what this process inherited from its caller from its own children: the guest may come to own those.
pub(crate) fn withhold_inherited_fds() -> io::Result<()> {
    // SAFETY: marks descriptors close-on-exec; it closes none and touches no memory.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(clippy::cast_possible_wrap, reason = "a flag bit, 4")]
const CLOSE_RANGE_CLOEXEC: libc::c_int = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
