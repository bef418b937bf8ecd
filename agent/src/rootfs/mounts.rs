//! The mounts of the bundle, one by one, in their order.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, open_tree,
};

use crate::rootfs::copy_up::copy_directory;
use crate::rootfs::options::{Bind, MountOptions};
use crate::rootfs::path::{
    ensure_directory, ensure_file, file_type, open_directory, open_in, open_in_without_links,
    open_share_entry,
};
use crate::rootfs::pivot::attach;
use crate::sockets::HostSocket;
use crate::sys::mount_api::{MountAttributes, UNCHANGED, set_attributes};

/// One mount, checked.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Clean and absolute, inside the container.
    pub destination: PathBuf,
    /// What is mounted there.
    pub source: Source,
    /// How.
    pub options: MountOptions,
}

/// What a mount shows.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory or file of the share, by its path below it.
    Share(String),
    /// The container's own cgroup.
    Cgroup,
    /// A socket of the host.
    Socket(HostSocket),
    /// What is mounted there already, to be changed.
    Remount,
    /// A new mount of a file system type.
    FileSystem {
        /// E.g. `tmpfs`.
        kind: String,
        /// The source as the type understands it; shown in /proc/self/mountinfo.
        device: String,
    },
}

/// Where mounts come from, as the container's init sees it.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// The mounted share.
    pub share: &'a Path,
    /// Where the agent listens for the container's sockets.
    pub sockets: &'a Path,
    /// The container's own cgroup directory.
    pub cgroup: &'a Path,
    /// Whether the container has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
}

/// Which step of a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A directory of the share, or the cgroup.
    #[error("cannot open {source_path:?}, the source of the mount on {destination:?}")]
    OpenSource {
        /// Below the share.
        source_path: String,
        /// In the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not make that mount.
    #[error("cannot mount {kind} for {destination:?}{detail}")]
    Make {
        /// The file system type, or `bind`.
        kind: String,
        /// In the container.
        destination: PathBuf,
        /// What the file system said, if anything.
        detail: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The place of the mount.
    #[error("cannot open or make the mount point {destination:?} inside the root file system")]
    Place {
        /// In the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Attributes or propagation.
    #[error("cannot set the options of the mount on {destination:?}")]
    SetOptions {
        /// In the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the image has there.
    #[error("cannot copy what is at {destination:?} to the tmpfs there")]
    CopyUp {
        /// In the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The last step.
    #[error("cannot attach the mount on {destination:?}")]
    Attach {
        /// In the container.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Mount {
    /// Makes the mount inside `root`. What it returns is to be made read-only once the root is complete: see
    /// [`Mount::is_filled_first`].
    ///
    /// # Errors
    ///
    /// [`MountError`] names the mount by its destination.
    pub fn make(&self, root: BorrowedFd<'_>, origins: Origins<'_>) -> Result<Option<OwnedFd>, MountError> {
        let (mount, place) = match &self.source {
            Source::Share(path) => self.bind(root, origins, path)?,
            Source::Socket(socket) => {
                let path = socket.path(origins.sockets);
                let opened =
                    openat(CWD, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
                let opened =
                    opened.map_err(|error| self.source_error(&path.to_string_lossy(), error.into()))?;
                (self.clone_tree(&opened, false)?, self.place(ensure_file(root, &self.destination))?)
            }
            Source::Remount => return self.remount(root).map(|()| None),
            Source::Cgroup => (self.cgroup(origins)?, self.place(ensure_directory(root, &self.destination))?),
            Source::FileSystem { kind, device } => {
                let mount = self.file_system(kind, device, root)?;
                let place = self.place(self.directory_for(root, kind))?;
                if self.options.copy_up {
                    copy_directory(&place, &mount).map_err(|source| self.copy_error(source))?;
                }
                (mount, place)
            }
        };
        let destination = || self.destination.clone();
        attach(&mount, place).map_err(|source| MountError::Attach { destination: destination(), source })?;
        self.propagate(&mount)
            .map_err(|source| MountError::SetOptions { destination: destination(), source })?;
        Ok(self.is_filled_first().then_some(mount))
    }

    /// A tmpfs is empty: for devices, or for the places of other mounts, to be made in it, it has to be
    /// writable at first even if it is to be read-only (as with runc).
    fn is_filled_first(&self) -> bool {
        self.options.is_readonly()
            && matches!(&self.source, Source::FileSystem { kind, .. } if kind == "tmpfs")
    }

    /// A copy of a mount of the share, with the attributes asked for, and the place for it: a directory or a
    /// file, as the source is.
    fn bind(
        &self,
        root: BorrowedFd<'_>,
        origins: Origins<'_>,
        path: &str,
    ) -> Result<(OwnedFd, OwnedFd), MountError> {
        let open = || open_share_entry(open_directory(origins.share)?, Path::new(path));
        let source = open().map_err(|source| self.source_error(path, source))?;
        let is_directory =
            file_type(&source).map_err(|source| self.source_error(path, source))? == FileType::Directory;
        let mount = self.clone_tree(&source, self.options.bind == Some(Bind::Recursive))?;
        let place = if is_directory {
            ensure_directory(root, &self.destination)
        } else {
            ensure_file(root, &self.destination)
        };
        Ok((mount, self.place(place)?))
    }

    fn clone_tree(&self, source: &OwnedFd, recursive: bool) -> Result<OwnedFd, MountError> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(source, "", flags).map_err(|source| MountError::Make {
            kind: "bind".to_owned(),
            destination: self.destination.clone(),
            detail: String::new(),
            source: source.into(),
        })?;
        self.apply(&tree, &self.options.attributes, false)?;
        self.apply(&tree, &self.options.recursive, true)?;
        Ok(tree)
    }

    fn remount(&self, root: BorrowedFd<'_>) -> Result<(), MountError> {
        let place = self.place(open_in(root, &self.destination, OFlags::PATH))?;
        if !self.options.superblock.is_empty() || !self.options.data.is_empty() {
            let failed = |detail: String, source: io::Error| MountError::Make {
                kind: "remount".to_owned(),
                destination: self.destination.clone(),
                detail,
                source,
            };
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = fspick(&place, "", flags).map_err(|source| failed(String::new(), source.into()))?;
            let change = || -> io::Result<()> {
                set_parameters(&context, &self.options.superblock, &self.options.data)?;
                Ok(fsconfig_reconfigure(context.as_fd())?)
            };
            change().map_err(|source| failed(complaints(&context), source))?;
        }
        self.apply(&place, &self.options.just_these(), false)?;
        self.apply(&place, &self.options.recursive, true)?;
        let destination = || self.destination.clone();
        self.propagate(&place).map_err(|source| MountError::SetOptions { destination: destination(), source })
    }

    fn cgroup(&self, origins: Origins<'_>) -> Result<OwnedFd, MountError> {
        if origins.cgroup_namespace {
            return self.new_mount("cgroup2", "cgroup", &[], &[]);
        }
        let source = open_directory(origins.cgroup)
            .map_err(|source| self.source_error(&origins.cgroup.to_string_lossy(), source))?;
        self.clone_tree(&source, false)
    }

    fn file_system(&self, kind: &str, device: &str, root: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
        let mut data = self.options.data.clone();
        if kind == "tmpfs" && !data.iter().any(|parameter| parameter.starts_with("mode=")) {
            // As runc: a tmpfs has the mode of the directory that it covers.
            let place = open_in(root, &self.destination, OFlags::PATH).and_then(|place| Ok(fstat(place)?));
            data.extend(place.ok().map(|stat| format!("mode={:o}", stat.st_mode & 0o7777)));
        }
        let mut superblock = self.options.superblock.clone();
        // File systems of the kernel's own may share their superblock, where read-only would be everybody's;
        // for them the attribute of this mount is enough. A device must not be written to at all.
        let of_the_kernel = ["proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue"].contains(&kind);
        if self.options.is_readonly() && !of_the_kernel {
            superblock.push("ro");
        }
        self.new_mount(kind, device, &superblock, &data)
    }

    fn new_mount(
        &self,
        kind: &str,
        device: &str,
        superblock: &[&str],
        data: &[String],
    ) -> Result<OwnedFd, MountError> {
        let error = |detail: String, source: io::Error| MountError::Make {
            kind: kind.to_owned(),
            destination: self.destination.clone(),
            detail,
            source,
        };
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|source| {
            let detail =
                if source == Errno::NODEV { ": the guest's kernel has no such file system" } else { "" };
            error(detail.to_owned(), source.into())
        })?;
        let make = || -> io::Result<OwnedFd> {
            if !device.is_empty() {
                fsconfig_set_string(context.as_fd(), "source", device)?;
            }
            set_parameters(&context, superblock, data)?;
            fsconfig_create(context.as_fd())?;
            Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
        };
        let mount = make().map_err(|source| error(complaints(&context), source))?;
        let mut attributes = [self.options.attributes, self.options.recursive];
        if self.is_filled_first() {
            attributes.iter_mut().for_each(|one| one.attr_set &= !libc::MOUNT_ATTR_RDONLY);
        }
        for one in &attributes {
            self.apply(&mount, one, false)?;
        }
        Ok(mount)
    }

    /// procfs and sysfs must land on a directory that is reached without any symbolic link: others trust
    /// what they find there (CVE-2019-19921, CVE-2023-27561).
    fn directory_for(&self, root: BorrowedFd<'_>, kind: &str) -> io::Result<OwnedFd> {
        let directory = ensure_directory(root, &self.destination)?;
        if kind == "proc" || kind == "sysfs" {
            return open_in_without_links(root, &self.destination, OFlags::PATH | OFlags::DIRECTORY);
        }
        Ok(directory)
    }

    fn place(&self, opened: io::Result<OwnedFd>) -> Result<OwnedFd, MountError> {
        opened.map_err(|source| MountError::Place { destination: self.destination.clone(), source })
    }

    fn apply(
        &self,
        mount: &OwnedFd,
        attributes: &MountAttributes,
        recursive: bool,
    ) -> Result<(), MountError> {
        if *attributes == UNCHANGED {
            return Ok(());
        }
        set_attributes(mount, attributes, recursive)
            .map_err(|source| MountError::SetOptions { destination: self.destination.clone(), source })
    }

    fn propagate(&self, mount: &OwnedFd) -> io::Result<()> {
        self.options.propagation.iter().try_for_each(|propagation| {
            let attributes = MountAttributes { propagation: propagation.kind, ..UNCHANGED };
            set_attributes(mount, &attributes, propagation.recursive)
        })
    }

    fn copy_error(&self, source: io::Error) -> MountError {
        MountError::CopyUp { destination: self.destination.clone(), source }
    }

    fn source_error(&self, path: &str, source: io::Error) -> MountError {
        MountError::OpenSource { source_path: path.to_owned(), destination: self.destination.clone(), source }
    }
}

fn set_parameters(context: &OwnedFd, superblock: &[&str], data: &[String]) -> io::Result<()> {
    for flag in superblock {
        fsconfig_set_flag(context.as_fd(), *flag)?;
    }
    for parameter in data {
        match parameter.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), parameter.as_str())?,
        }
    }
    Ok(())
}

/// What the file system has to say about its parameters, e.g. `: tmpfs: Bad value for 'size'`.
fn complaints(context: &OwnedFd) -> String {
    let mut said = OsString::new();
    let mut line = [0; 512];
    // Each read gives one message, `e `, `w ` or `i ` and the text; ENODATA is the end.
    while let Ok(length) = rustix::io::read(context, &mut line) {
        let Some(text) = line.get(2..length) else { break };
        said.push(": ");
        said.push(&*String::from_utf8_lossy(text));
    }
    said.to_string_lossy().trim_end().to_owned()
}
