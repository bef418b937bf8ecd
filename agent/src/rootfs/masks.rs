//! Paths that a container must not see or write (runtime specification, config-linux.md, "Masked Paths" and
//! "Readonly Paths").
//!
//! Done with the root complete and not yet entered: /dev/null is the guest's own node, checked to be it, and not
//! a file of the image that has its name (CVE-2025-31133).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};

use crate::rootfs::devices::guests_null;
use crate::rootfs::path::{file_type, open_in};
use crate::rootfs::pivot::attach;
use crate::sys::mount_api::{MountAttributes, UNCHANGED, set_attributes};

/// Paths inside the container; those that do not exist are left out.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// Files that read as empty, directories without entries.
    pub masked: Vec<PathBuf>,
    /// What can be read only.
    pub readonly: Vec<PathBuf>,
}

/// A path could not be protected.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} {path:?}")]
pub struct MaskError {
    act: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Masks {
    /// Protects the paths inside `root`.
    ///
    /// # Errors
    ///
    /// [`MaskError`] names the path.
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<(), MaskError> {
        for path in &self.readonly {
            make_readonly(root, path).map_err(|source| error("make read-only", path, source))?;
        }
        let mut sources = Sources::default();
        for path in &self.masked {
            sources.mask(root, path).map_err(|source| error("mask", path, source))?;
        }
        Ok(())
    }
}

fn error(act: &'static str, path: &Path, source: io::Error) -> MaskError {
    MaskError { act, path: path.to_owned(), source }
}

/// The path inside of the root, unless there is nothing.
fn open(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match open_in(root, path, OFlags::PATH) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// As runc: a bind mount of the path, with what is mounted below it, on itself; the mount is read-only, those
/// below are as they were.
fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(place) = open(root, path)? else { return Ok(()) };
    let tree = clone_of(&place, OpenTreeFlags::AT_RECURSIVE)?;
    let attributes = MountAttributes { attr_set: libc::MOUNT_ATTR_RDONLY, ..UNCHANGED };
    set_attributes(&tree, &attributes, false)?;
    attach(tree, place)
}

fn clone_of(file: impl AsFd, more: OpenTreeFlags) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(file, "", flags | OpenTreeFlags::AT_EMPTY_PATH | more)?)
}

/// What goes on top of a masked path, made when the first needs it.
#[derive(Default)]
struct Sources {
    null: Option<OwnedFd>,
    /// An empty, read-only file system that is attached somewhere, so that it can be cloned.
    empty: Option<OwnedFd>,
}

impl Sources {
    fn mask(&mut self, root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let Some(place) = open(root, path)? else { return Ok(()) };
        if file_type(&place)? != FileType::Directory {
            let null = match &mut self.null {
                Some(null) => null,
                missing => missing.insert(guests_null()?),
            };
            return attach(clone_of(null, OpenTreeFlags::empty())?, place);
        }
        if let Some(empty) = &self.empty {
            return attach(clone_of(empty, OpenTreeFlags::empty())?, place);
        }
        let empty = empty_directory()?;
        attach(&empty, place)?;
        self.empty = Some(empty);
        Ok(())
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "tmpfs")?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?)
}
