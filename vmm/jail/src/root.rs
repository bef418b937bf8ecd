#![allow(unsafe_code, reason = "unshare(2) is unsafe in rustix, as some of its flags are")]
//! A root directory of its own.
//!
//! ```text
//!   host                                   confined process
//!   /                                      /            tmpfs, read-only, made here
//!   └── srv/bundle/rootfs  --- bind --->   └── share/   
//!                                              └── rootfs    inert: nodev, nosuid, noexec
//! ```
//!
//! Everything is done in a new mount namespace whose mounts are private, so nothing can be left behind on the
//! host: the kernel takes it all down with the last process in it. Sources are opened once, with symbolic links
//! refused, and bound by descriptor: nobody can swap them between the check and the use.
//!
//! Needs Linux 5.12 (`mount_setattr`) and `CAP_SYS_ADMIN`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chroot, fchdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::mount_attributes::{self, MountAttributes};
use crate::plan::{Bind, IdMap, PlanError, RootPlan};
use crate::user_namespace;

/// The step at which a new root could not be made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message is the documentation")]
pub enum RootError {
    #[error("cannot lay out the root directory")]
    Plan(#[from] PlanError),
    #[error("cannot make a mount namespace (this needs root's CAP_SYS_ADMIN)")]
    Namespace(#[source] io::Error),
    #[error("cannot make the tmpfs for the root directory")]
    Tmpfs(#[source] io::Error),
    #[error("cannot open {}", path.display())]
    OpenSource { path: PathBuf, source: io::Error },
    #[error("{}: a symbolic link is in this path; give the path that it stands for", .0.display())]
    Symlink(PathBuf),
    #[error("{}: neither a directory nor a regular file", .0.display())]
    FileType(PathBuf),
    #[error("cannot clone the mount of {}", path.display())]
    Clone { path: PathBuf, source: io::Error },
    #[error("cannot restrict the mount of {} (this needs Linux 5.12)", path.display())]
    Restrict { path: PathBuf, source: io::Error },
    #[error("cannot make a user namespace with the ids of {}", path.display())]
    MakeIdMap { path: PathBuf, source: io::Error },
    #[error(
        "cannot map the ids of {}: its file system cannot do that, or they are mapped already", path.display()
    )]
    MapIds { path: PathBuf, source: io::Error },
    #[error("cannot make {} in the new root directory", path.display())]
    MakeMountPoint { path: PathBuf, source: io::Error },
    #[error("cannot mount {} in the new root directory", path.display())]
    Attach { path: PathBuf, source: io::Error },
    #[error("cannot enter the new root directory")]
    Pivot(#[source] io::Error),
    #[error("cannot enter the mount namespace of the confined process")]
    Join(#[source] io::Error),
    #[error("cannot take {} out of the root directory", path.display())]
    Detach { path: PathBuf, source: io::Error },
}

/// A process's own view of `/proc/self/fd` that leads nowhere else: a mount whose root is that directory, so
/// `..` ends there. Open it before [`enter`], after which `/proc` is gone.
///
/// # Errors
/// `/proc` is not mounted, or the process lacks `CAP_SYS_ADMIN`.
pub fn clone_proc_self_fd() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, "/proc/self/fd", flags)?;
    MountAttributes::INERT.apply_here(&mount)?;
    Ok(mount)
}

/// Moves the process into a new mount namespace and a root directory that holds what `plan` says. The working
/// directory is the new root afterwards. Descriptors that are open keep what they refer to.
///
/// # Errors
/// [`RootError`]; the process is then in an undefined place between the two roots and must end. Nothing on the
/// host has changed.
pub fn enter(plan: &RootPlan) -> Result<(), RootError> {
    let root = build(plan)?;
    change_root(&root).map_err(|error| RootError::Pivot(error.into()))
}

/// Takes the calling thread into a new mount namespace, upon whose root it mounts what `plan` says.
pub(crate) fn build(plan: &RootPlan) -> Result<OwnedFd, RootError> {
    plan.validate()?;
    // SAFETY: CLONE_NEWNS does not touch the descriptor table, which is the flag that rustix warns about.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(|error| RootError::Namespace(error.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|error| RootError::Namespace(error.into()))?;

    let trees = plan.binds.iter().map(clone_source).collect::<Result<Vec<_>, _>>()?;
    let root = attach_tmpfs().map_err(|error| RootError::Tmpfs(error.into()))?;
    for directory in &plan.directories {
        make_directories(&root, directory)?;
    }
    for (bind, tree) in plan.binds.iter().zip(&trees) {
        attach(&root, bind, tree)?;
    }
    MountAttributes::INERT_READ_ONLY
        .apply_here(&root)
        .map_err(|source| RootError::Restrict { path: "/".into(), source })?;
    Ok(root)
}

/// A source's mounts as a detached, restricted copy, and whether it is a directory.
#[derive(Debug)]
pub struct SourceTree {
    /// The copy, gone with this descriptor unless it is attached somewhere.
    pub mount: OwnedFd,
    /// Not a file.
    pub is_directory: bool,
}

/// Opens a bind's source, with symbolic links refused, and copies its mounts. The destination is not looked at.
///
/// # Errors
/// [`RootError`]; nothing on the host has changed.
pub fn clone_source(bind: &Bind) -> Result<SourceTree, RootError> {
    let path = bind.source.clone();
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = match openat2(CWD, &bind.source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(opened) => opened,
        Err(Errno::LOOP) => return Err(RootError::Symlink(path)),
        Err(error) => return Err(RootError::OpenSource { path, source: error.into() }),
    };
    let status = match fstat(&opened) {
        Ok(status) => status,
        Err(error) => return Err(RootError::OpenSource { path, source: error.into() }),
    };
    let is_directory = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        FileType::Symlink => return Err(RootError::Symlink(path)),
        _ => return Err(RootError::FileType(path)),
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = match open_tree(&opened, "", flags) {
        Ok(mount) => mount,
        Err(error) => return Err(RootError::Clone { path, source: error.into() }),
    };
    let attributes = if bind.read_only { MountAttributes::INERT_READ_ONLY } else { MountAttributes::INERT };
    if let Err(source) = attributes.apply_recursively(&mount) {
        return Err(RootError::Restrict { path, source });
    }
    if let Some(map) = &bind.id_map {
        map_ids(&mount, map, path)?;
    }
    Ok(SourceTree { mount, is_directory })
}

/// Possible as long as the mount has not been attached anywhere.
fn map_ids(mount: &OwnedFd, map: &IdMap, path: PathBuf) -> Result<(), RootError> {
    let namespace = match user_namespace::of_map(map) {
        Ok(namespace) => namespace,
        Err(source) => return Err(RootError::MakeIdMap { path, source }),
    };
    mount_attributes::map_ids(mount, namespace.as_fd(), map.recursive)
        .map_err(|source| RootError::MapIds { path, source })
}

/// A tmpfs stacked upon the present root, where nothing but the returned descriptor leads to it.
fn attach_tmpfs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0755")?;
    // Mount points only: the sandbox cannot use it to hold memory of the host.
    fsconfig_set_string(&context, "size", "64k")?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(root)
}

/// Makes `path` and its parents below `root`; returns the last one.
pub(crate) fn make_directories(root: &OwnedFd, path: &Path) -> Result<OwnedFd, RootError> {
    let failed = |source: Errno| RootError::MakeMountPoint { path: path.into(), source: source.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut current = openat(root, ".", flags, Mode::empty()).map_err(failed)?;
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        match mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        current = openat(&current, name, flags, Mode::empty()).map_err(failed)?;
    }
    Ok(current)
}

fn make_file(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o600))
}

fn attach(root: &OwnedFd, bind: &Bind, tree: &SourceTree) -> Result<(), RootError> {
    let destination = &bind.destination;
    let mount_point = if tree.is_directory {
        make_directories(root, destination)?
    } else {
        let parent = make_directories(root, destination.parent().unwrap_or(Path::new("")))?;
        make_file(&parent, destination.file_name().unwrap_or_default())
            .map_err(|error| RootError::MakeMountPoint { path: destination.clone(), source: error.into() })?
    };
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree.mount, "", mount_point.as_fd(), "", by_descriptor)
        .map_err(|error| RootError::Attach { path: destination.clone(), source: error.into() })
}

/// Makes the mount `root`, which lies upon the present root, the root of the calling thread's mount namespace and of the
/// thread itself, and takes the old one off.
///
/// # Errors
/// Those of pivot_root(2) and umount2(2); the thread is then between the two roots and must end.
pub fn change_root(root: &OwnedFd) -> rustix::io::Result<()> {
    fchdir(root)?;
    match pivot_root(".", ".") {
        // Both names meant one place: the old root now lies upon the new one, from where it is taken off.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // A host whose root is its initramfs has nothing to pivot (pivot_root(2), NOTES). What lies below stays
        // mounted there, though no path leads to it.
        Err(Errno::INVAL) => chroot(".")?,
        Err(error) => return Err(error),
    }
    fchdir(root)?;
    Ok(())
}
