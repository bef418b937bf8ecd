//! Mount points in the view, found inside its root whatever links the image has, and made where that changes nothing
//! of the host's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use crate::sandbox::mount_points::find;

/// The mount points below a root.
#[derive(Debug)]
pub(super) struct Places<'root> {
    root: &'root OwnedFd,
    empty: Vec<OwnedFd>,
    /// Devices of the file systems in `empty`.
    devices: Vec<u64>,
}

impl<'root> Places<'root> {
    /// Of a root that is attached: mounts that are put below it are found.
    pub(super) fn new(root: &'root OwnedFd) -> Self {
        Self { root, empty: Vec::new(), devices: Vec::new() }
    }

    /// From here on, missing mount points are made in this one, too.
    pub(super) fn add_empty(&mut self, mount: OwnedFd) -> io::Result<()> {
        self.devices.push(fstat(&mount)?.st_dev);
        self.empty.push(mount);
        Ok(())
    }

    /// All that were added.
    pub(super) fn into_empty(self) -> Vec<OwnedFd> {
        self.empty
    }

    /// A directory, unless it is missing, something else, or within an empty one, which shows nothing anyway.
    pub(super) fn find_directory(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let found = match find(self.root, path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let status = fstat(&found)?;
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        Ok((is_directory && !self.devices.contains(&status.st_dev)).then_some(found))
    }

    /// A mount point for a directory or a file. One that is missing is made in an empty directory, and nowhere else: the
    /// root file system is the host's.
    pub(super) fn find_or_make(&self, path: &Path, directory: bool) -> io::Result<Option<OwnedFd>> {
        let mut reached = PathBuf::from("/");
        let mut components = path.components().skip(1).peekable();
        while let Some(component) = components.next() {
            let parent = find(self.root, &reached)?;
            reached.push(component);
            match find(self.root, &reached) {
                Ok(_) => continue,
                Err(Errno::NOENT) if self.devices.contains(&fstat(&parent)?.st_dev) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
            if directory || components.peek().is_some() {
                mkdirat(&parent, component.as_os_str(), Mode::from_raw_mode(0o755))?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::NOFOLLOW;
                openat(&parent, component.as_os_str(), flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
            }
        }
        let found = find(self.root, &reached)?;
        let is_directory = FileType::from_raw_mode(fstat(&found)?.st_mode) == FileType::Directory;
        Ok((is_directory == directory).then_some(found))
    }
}

/// An empty file system of its own, for mount points and nothing else.
pub(super) fn empty_directory() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0755")?;
    fsconfig_set_string(&context, "size", "64k")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}
