#![allow(unsafe_code, reason = "mount_setattr(2) has no wrapper in rustix or nix")]
//! `mount_setattr(2)`, Linux 5.12. Propagation ends with it, too: what gets attributes here is private.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Attributes that a mount gets or loses; it keeps the others that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountAttributes {
    set: u64,
    clear: u64,
}

impl MountAttributes {
    /// No device node on it can be opened, no set-user-id bit on it counts, no file of it can be executed:
    /// all three by processes of the host that reach it through this mount. The bits and nodes themselves can
    /// be stored and removed as on any file system.
    pub const INERT: Self =
        Self { set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC, clear: 0 };
    /// `INERT`, and writes are refused.
    pub const INERT_READ_ONLY: Self = Self { set: Self::INERT.set | libc::MOUNT_ATTR_RDONLY, clear: 0 };
    /// Writes are not refused any more.
    pub(crate) const WRITABLE: Self = Self { set: 0, clear: libc::MOUNT_ATTR_RDONLY };

    /// Sets them on `mount` and all mounts below it, or on none: the kernel does it all or nothing.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn apply_recursively(self, mount: impl AsFd) -> io::Result<()> {
        self.apply(mount, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
    }

    /// Sets them on `mount` alone.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn apply_here(self, mount: impl AsFd) -> io::Result<()> {
        self.apply(mount, libc::AT_EMPTY_PATH)
    }

    fn apply(self, mount: impl AsFd, flags: libc::c_int) -> io::Result<()> {
        let attributes = libc::mount_attr {
            attr_set: self.set,
            attr_clr: self.clear,
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        set(mount, flags, &attributes)
    }
}

/// Lets the owners of `mount`'s files appear as those that the user namespace maps them to, and of all mounts below
/// it if `recursive`.
pub(crate) fn map_ids(mount: impl AsFd, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set(mount, libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 }, &attributes)
}

fn set(mount: impl AsFd, flags: libc::c_int, attributes: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path is empty and NUL-terminated, `attributes` outlives the call, and the size is its own.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
