//! `mount_setattr`: flags and propagation of a mount that a descriptor names.

#![allow(unsafe_code, reason = "nix and rustix have no mount_setattr")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

pub use libc::mount_attr as MountAttributes;

/// Attributes that change nothing.
pub const UNCHANGED: MountAttributes =
    MountAttributes { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };

/// Changes the mount whose root is `mount`, with all mounts below it if `recursive`.
///
/// # Errors
///
/// Those of mount_setattr(2), e.g. `EINVAL` where `mount` is not the root of a mount.
pub fn set_attributes(mount: impl AsFd, attributes: &MountAttributes, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, and `attributes` is a live structure of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
