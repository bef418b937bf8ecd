//! Making the container's root the root of its mount namespace, with nothing of the guest left in it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{fchdir, pivot_root};

use crate::rootfs::path::{open_directory, open_share_entry};
use crate::rootfs::upper::Upper;

/// Which step of entering the root failed.
#[derive(Debug, thiserror::Error)]
pub enum PivotError {
    /// Step 0.
    #[error("cannot make the guest's mounts private")]
    MakePrivate(#[source] io::Error),
    /// The root is not in the share.
    #[error("cannot open the root file system {path:?} in the share")]
    OpenRoot {
        /// Below the share.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be given a mount of its own.
    #[error("cannot make a mount of the root file system")]
    MountRoot(#[source] io::Error),
    /// The layer for its changes.
    #[error("cannot mount an overlay of the root file system and a tmpfs of {bytes} bytes")]
    MountUpper {
        /// How much it should hold.
        bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The change of root itself.
    #[error("cannot pivot into the root file system")]
    Pivot(#[source] io::Error),
    /// The guest's tree could not be left.
    #[error("cannot detach the guest's file systems")]
    Detach(#[source] io::Error),
}

/// Gives the directory `path` of the share a mount of its own at `place`, with an upper layer for its changes if there is
/// to be one, and returns its root.
///
/// First all mounts of this namespace become private, so that nothing done here reaches the guest.
///
/// # Errors
///
/// [`PivotError`] says at which step.
pub fn mount_root(
    share: &Path,
    path: &str,
    upper: Option<Upper>,
    place: &Path,
) -> Result<OwnedFd, PivotError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| PivotError::MakePrivate(error.into()))?;
    let open = || open_share_entry(open_directory(share)?, Path::new(path));
    let source = open().map_err(|source| PivotError::OpenRoot { path: path.to_owned(), source })?;
    if let Some(upper) = upper {
        let attach = || -> io::Result<OwnedFd> {
            let root = upper.mount_over(&share.join(path), place)?;
            attach(&root, open_directory(place)?)?;
            Ok(root)
        };
        let bytes = upper.bytes.get();
        return attach().map_err(|source| PivotError::MountUpper { bytes, source });
    }
    let attach = || -> io::Result<OwnedFd> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = open_tree(source, "", clone | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE)?;
        attach(&root, open_directory(place)?)?;
        Ok(root)
    };
    attach().map_err(PivotError::MountRoot)
}

/// Attaches a detached mount to the place that a descriptor names.
///
/// # Errors
///
/// Those of move_mount(2).
pub fn attach(mount: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let by_descriptors = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", by_descriptors)?)
}

/// Makes `root`, a mount's root, the root of the mount namespace and of this process.
///
/// The old root is mounted on top of the new one and then detached, so that no directory is needed for it.
///
/// # Errors
///
/// [`PivotError`] says at which step.
pub fn enter(root: impl AsFd) -> Result<(), PivotError> {
    fchdir(root).and_then(|()| pivot_root(".", ".")).map_err(|error| PivotError::Pivot(error.into()))?;
    unmount(".", UnmountFlags::DETACH)
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(|error| PivotError::Detach(error.into()))
}
