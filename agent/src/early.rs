//! The guest before there is any container: file systems.
//!
//! Every system call here is on the path to the ready signal; there are no more than needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_protocol::SHARE_TAG;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};
use rustix::process::{chroot, fchdir};

use crate::container::GuestPlaces;
use crate::kernel::{Lacking, TooOld, check_release, missing_for_mount, missing_for_mount_call};

/// The mounted share, the directory on which containers mount their roots, and that of sockets.
const SHARE: &str = "/run/runv/share";
const ROOT: &str = "/run/runv/root";
const SOCKETS: &str = "/run/runv/sockets";
const CGROUPS: &str = "/sys/fs/cgroup";

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum EarlyError {
    /// A directory.
    #[error("cannot make the directory {path:?}")]
    MakeDirectory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file system.
    #[error("cannot mount {kind} on {place:?}")]
    Mount {
        /// Its type.
        kind: &'static str,
        /// Where.
        place: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    /// What the kernel was built without.
    #[error(transparent)]
    Lacking(#[from] Lacking),
    /// The guest's root.
    #[error("cannot give the guest's root a mount that can be pivoted away from")]
    Root(#[source] io::Error),
}

struct GuestMount {
    kind: &'static str,
    source: &'static str,
    place: &'static str,
    flags: MountFlags,
}

impl GuestMount {
    fn error(&self, error: Errno) -> EarlyError {
        match missing_for_mount(self.kind, error) {
            Some(feature) => Lacking::new(feature, error.into()).into(),
            None => EarlyError::Mount { kind: self.kind, place: self.place, source: error.into() },
        }
    }
}

const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

/// In this order.
const MOUNTS: &[GuestMount] = &[
    GuestMount { kind: "proc", source: "proc", place: "/proc", flags: INERT },
    GuestMount { kind: "sysfs", source: "sysfs", place: "/sys", flags: INERT },
    GuestMount {
        kind: "devtmpfs",
        source: "dev",
        place: "/dev",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
    },
    GuestMount { kind: "cgroup2", source: "cgroup", place: CGROUPS, flags: INERT },
    GuestMount { kind: "virtiofs", source: SHARE_TAG, place: SHARE, flags: MountFlags::empty() },
];

/// Prepares the guest; returns where things are in it.
///
/// # Errors
///
/// [`EarlyError`] names the file system.
pub fn prepare() -> Result<GuestPlaces, EarlyError> {
    for path in ["/proc", "/sys", "/dev", SHARE, ROOT] {
        fs::create_dir_all(path).map_err(|source| EarlyError::MakeDirectory { path: path.into(), source })?;
    }
    for one in MOUNTS {
        mount(one.source, one.place, one.kind, one.flags, None).map_err(|error| one.error(error))?;
    }
    check_release(&rustix::system::uname().release().to_string_lossy())?;
    make_root_pivotable().map_err(|error| match missing_for_mount_call(error) {
        Some(feature) => Lacking::new(feature, error.into()).into(),
        None => EarlyError::Root(error.into()),
    })?;
    Ok(GuestPlaces {
        share: SHARE.into(),
        root: ROOT.into(),
        sockets: SOCKETS.into(),
        cgroups: CGROUPS.into(),
    })
}

/// pivot_root(2) refuses to move the kernel's first root, in which the initrd was unpacked. A bind mount of it
/// on top of it can be moved; all containers inherit that as the root that they leave.
fn make_root_pivotable() -> rustix::io::Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, Path::new("/"), flags)?;
    move_mount(&tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&tree)?;
    chroot(".")
}
