#![allow(unsafe_code, reason = "unshare(2) is unsafe in rustix, as some of its flags are")]
//! What a confined process gets to see, or loses, while it runs.
//!
//! ```text
//!   one process of the host             another one              confined process
//!   build: a detached mount tree ----->  attach: ------------->  /share/members/1
//!          (a descriptor)                in its namespace        └── rootfs
//! ```
//!
//! The confined process has no part in it: it needs no right to mount, and holds no descriptor that leads out. Who
//! calls must be trusted, as it enters the process's mount namespace for a moment, with a thread that ends there. It
//! executes nothing in it and follows no symbolic link, so that a process that a guest has come to own can only have
//! its own view of the share spoilt.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use rustix::process::fchdir;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

use crate::mount_attributes::MountAttributes;
use crate::plan::{PlanError, RootPlan, is_plain};
use crate::root::{self, RootError, make_directories};

/// A mount tree that holds what `plan` says and nothing else, restricted as that of [`root::enter`]. It is mounted
/// nowhere, and ends with its descriptor unless it is [attached](attach).
///
/// # Errors
/// [`RootError`]; nothing has changed then.
pub fn build(plan: &RootPlan) -> Result<OwnedFd, RootError> {
    in_a_thread(|| {
        let root = root::build(plan)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        let cloned = open_tree(&root, "", flags);
        cloned.map_err(|error| RootError::Clone { path: "/".into(), source: error.into() })
    })
}

/// Attaches `tree` at `place`, which is made, in the root directory of the confined process that `process` (a pidfd)
/// names.
///
/// # Errors
/// [`RootError`]; the process sees nothing of the tree then.
pub fn attach(process: BorrowedFd<'_>, place: &Path, tree: &OwnedFd) -> Result<(), RootError> {
    check(place)?;
    inside(process, |root| {
        make_directories(&writable(root)?, place)?;
        let attached = open_place(root, place).and_then(|mount_point| {
            let by_descriptor =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(tree, "", mount_point, "", by_descriptor)
        });
        attached.map_err(|error| RootError::Attach { path: place.to_owned(), source: error.into() })
    })
}

/// Takes away what [`attach`] has put at `place`, and `place` itself. What the process has open of it stays open.
///
/// # Errors
/// [`RootError`].
pub fn detach(process: BorrowedFd<'_>, place: &Path) -> Result<(), RootError> {
    check(place)?;
    inside(process, |root| {
        let failed =
            |error: rustix::io::Errno| RootError::Detach { path: place.to_owned(), source: error.into() };
        fchdir(open_place(root, place).map_err(failed)?).map_err(failed)?;
        unmount(".", UnmountFlags::DETACH).map_err(failed)?;
        unlinkat(writable(root)?, place, AtFlags::REMOVEDIR).map_err(failed)
    })
}

fn check(place: &Path) -> Result<(), RootError> {
    if is_plain(place) { Ok(()) } else { Err(PlanError::Destination(place.to_owned()).into()) }
}

fn open_place(root: &OwnedFd, place: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, place, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// The same root directory by a mount of its own, on which mount points can be made: that of the process is
/// read-only, and stays so.
fn writable(root: &OwnedFd) -> Result<OwnedFd, RootError> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let failed = |source: io::Error| RootError::Clone { path: "/".into(), source };
    let clone = open_tree(root, "", flags).map_err(|error| failed(error.into()))?;
    MountAttributes::WRITABLE.apply_here(&clone).map_err(failed)?;
    Ok(clone)
}

/// Does `act` in the mount namespace of a process, with its root directory.
fn inside<T: Send>(
    process: BorrowedFd<'_>,
    act: impl FnOnce(&OwnedFd) -> Result<T, RootError> + Send,
) -> Result<T, RootError> {
    in_a_thread(|| {
        let failed = |error: rustix::io::Errno| RootError::Join(error.into());
        // Or else the root and working directories would be those of all threads.
        // SAFETY: CLONE_FS does not touch the descriptor table, which is the flag that rustix warns about.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.map_err(failed)?;
        move_into_thread_name_spaces(process, ThreadNameSpaceType::MOUNT).map_err(failed)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, "/", flags, Mode::empty()).map_err(failed)?;
        act(&root)
    })
}

/// Namespaces and directories belong to threads, and are left with them.
fn in_a_thread<T: Send>(act: impl FnOnce() -> Result<T, RootError> + Send) -> Result<T, RootError> {
    let ended = |_panic| RootError::Namespace(io::Error::other("the thread ended"));
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("mounts".into()).spawn_scoped(scope, act);
        thread.map_err(RootError::Namespace)?.join().map_err(ended)?
    })
}
