//! The one network setting that needs no netlink: bringing the loopback interface up.

#![allow(unsafe_code, reason = "nix and rustix have no SIOCSIFFLAGS")]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Brings `lo` of the caller's network namespace up; the kernel gives it its addresses (127.0.0.1, ::1).
///
/// # Errors
///
/// Those of socket(2) and netdevice(7).
pub fn bring_loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is a plain structure of integers and arrays, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags(libc::IFF_UP | libc::IFF_RUNNING);
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is live and whose name is NUL-terminated (two bytes of 16).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Interface flags as `ifr_flags` holds them; those of the low 15 bits always fit.
fn flags(flags: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(flags).unwrap_or(0)
}
