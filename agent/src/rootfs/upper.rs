//! A root file system whose changes stay in the guest: overlayfs, with the share's directory as the lower layer and a
//! tmpfs as the upper one (Documentation/filesystems/overlayfs.rst).
//!
//! The tmpfs is mounted by the container's init, so that its pages are charged to the container's cgroup, and is gone
//! with the container's mount namespace.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::rootfs::copy_up::{copy_owner, open_directory_at};
use crate::rootfs::path::open_directory;
use crate::rootfs::pivot::attach;

/// Each file takes a page at least, or is an entry of a directory that does.
const BYTES_FOR_EACH_INODE: u64 = 4096;

/// The root file system's upper layer, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// How much it holds.
    pub bytes: NonZeroU64,
    /// Whether it is mounted from within a user namespace, where only `user.` attributes can be set.
    pub in_user_namespace: bool,
}

impl Upper {
    /// A detached mount of `lower` with everything that is changed kept in a tmpfs, which is mounted on `place`.
    ///
    /// # Errors
    ///
    /// Those of the mount API.
    pub fn mount_over(&self, lower: &Path, place: &Path) -> io::Result<OwnedFd> {
        let bytes = self.bytes.get();
        let size = bytes.to_string();
        let inodes = (bytes / BYTES_FOR_EACH_INODE).max(16).to_string();
        let tmpfs = new_mount("tmpfs", &[("size", &size), ("nr_inodes", &inodes), ("mode", "755")])?;
        // overlayfs takes layers only from this namespace's mounts.
        attach(&tmpfs, open_directory(place)?)?;
        for name in ["upper", "work"] {
            mkdirat(&tmpfs, name, Mode::from_raw_mode(0o755))?;
        }
        // The root of the overlay is as its upper layer's is.
        let root = open_directory_at(tmpfs.as_fd(), c"upper")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        copy_owner(&root, &fstat(openat(CWD, lower, flags, Mode::empty())?)?)?;
        let (lower, upper, work) = (layer(lower), layer(&place.join("upper")), layer(&place.join("work")));
        let mut parameters = vec![("lowerdir", &*lower), ("upperdir", &*upper), ("workdir", &*work)];
        parameters.extend(self.features());
        new_mount("overlay", &parameters)
    }

    /// Nothing changes the lower layer, and both are gone at the end.
    fn features(&self) -> &'static [(&'static str, &'static str)] {
        if self.in_user_namespace {
            // Without `trusted.` attributes a directory of the lower layer cannot be renamed: EXDEV, and programs copy.
            return &[("userxattr", ""), ("index", "off"), ("xino", "on")];
        }
        // A directory of the image is renamed, and a change of mode or owner does not copy what the file holds.
        &[("redirect_dir", "on"), ("metacopy", "on"), ("index", "off"), ("xino", "on")]
    }
}

/// A path as a parameter of overlayfs: layers are separated by colons.
fn layer(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:")
}

fn new_mount(kind: &str, parameters: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", kind)?;
    for (key, value) in parameters {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *key)?;
        } else {
            fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}
