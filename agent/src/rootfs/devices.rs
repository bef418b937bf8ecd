//! The devices and links that every container has (runtime specification, config-linux.md, "Default Devices").

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, makedev, mknodat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::rootfs::nodes::Node;
use crate::rootfs::path::{create_file, ensure_directory, file_type};
use crate::rootfs::pivot::attach;

/// A character device by its name in /dev and its numbers (Documentation/admin-guide/devices.txt).
struct Device {
    name: &'static str,
    major: u32,
    minor: u32,
}

const NULL: Device = Device { name: "null", major: 1, minor: 3 };

const DEVICES: &[Device] = &[
    NULL,
    Device { name: "zero", major: 1, minor: 5 },
    Device { name: "full", major: 1, minor: 7 },
    Device { name: "random", major: 1, minor: 8 },
    Device { name: "urandom", major: 1, minor: 9 },
    Device { name: "tty", major: 5, minor: 0 },
];

/// Symbolic links in /dev: name and target.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Which device could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The directory itself.
    #[error("cannot open or make /dev inside the root file system")]
    OpenDev(#[source] io::Error),
    /// A device node.
    #[error("cannot make the device /dev/{name}")]
    Make {
        /// In /dev.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A symbolic link.
    #[error("cannot make the link /dev/{name}")]
    Link {
        /// In /dev.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The terminal as /dev/console.
    #[error("cannot mount the terminal on /dev/console")]
    Console(#[source] io::Error),
}

/// Makes devices and links in the /dev of `root`, but for devices that the bundle describes in its own way. What
/// is there already and right is left alone.
///
/// # Errors
///
/// [`DeviceError`] names the device.
pub fn populate(root: BorrowedFd<'_>, described: &[Node]) -> Result<(), DeviceError> {
    let dev = open_dev(root)?;
    let missing = |device: &&Device| {
        let path = Path::new("/dev").join(device.name);
        !described.iter().any(|node| node.path == path)
    };
    for device in DEVICES.iter().filter(missing) {
        device.make(&dev).map_err(|source| DeviceError::Make { name: device.name, source })?;
    }
    for &(name, target) in LINKS {
        link(&dev, name, target)?;
    }
    if rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        link(&dev, "core", "/proc/kcore")?;
    }
    // An image's own node would lead to the guest's devpts instead of the container's.
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => link(&dev, "ptmx", "pts/ptmx"),
        Err(error) => Err(DeviceError::Link { name: "ptmx", source: error.into() }),
    }
}

/// Mounts `terminal`, the container's end of its pty, on /dev/console.
///
/// # Errors
///
/// [`DeviceError::Console`]; a symbolic link in the way is one (CVE-2025-52565).
pub fn mount_console(root: BorrowedFd<'_>, terminal: impl AsFd) -> Result<(), DeviceError> {
    let dev = open_dev(root)?;
    bind_over(&dev, "console", terminal.as_fd()).map_err(DeviceError::Console)
}

fn open_dev(root: BorrowedFd<'_>) -> Result<OwnedFd, DeviceError> {
    ensure_directory(root, Path::new("/dev")).map_err(DeviceError::OpenDev)
}

impl Device {
    fn make(&self, dev: &OwnedFd) -> io::Result<()> {
        let number = makedev(self.major, self.minor);
        let mode = Mode::from_raw_mode(0o666);
        match mknodat(dev, self.name, FileType::CharacterDevice, mode, number) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) if self.is_at(dev)? => Ok(()),
            // Something else has the name, or nodes can't be made here: the guest's own node goes on top.
            Err(Errno::EXIST | Errno::PERM) => self.bind_guests(dev),
            Err(error) => Err(error.into()),
        }
    }

    fn is_at(&self, dev: &OwnedFd) -> io::Result<bool> {
        let found = statat(dev, self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
            && found.st_rdev == makedev(self.major, self.minor))
    }

    fn bind_guests(&self, dev: &OwnedFd) -> io::Result<()> {
        bind_over(dev, self.name, self.guests()?.as_fd())
    }

    /// The guest's own node.
    fn guests(&self) -> io::Result<OwnedFd> {
        let path = Path::new("/dev").join(self.name);
        let node = openat(CWD, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = fstat(&node)?;
        let is_it = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
            && found.st_rdev == makedev(self.major, self.minor);
        if is_it { Ok(node) } else { Err(Errno::NODEV.into()) }
    }
}

/// The guest's /dev/null, surely it.
///
/// # Errors
///
/// Those of openat(2); `ENODEV` if it is something else.
pub fn guests_null() -> io::Result<OwnedFd> {
    NULL.guests()
}

/// Mounts a file on `name` in `dev`, made empty if missing.
fn bind_over(dev: &OwnedFd, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
    let place = match create_file(dev, OsStr::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(dev, name, flags, Mode::empty())?
        }
        other => other?,
    };
    if file_type(&place)? == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    attach(open_tree(file, "", flags)?, place)
}

fn link(dev: &OwnedFd, name: &'static str, target: &str) -> Result<(), DeviceError> {
    match symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(DeviceError::Link { name, source: error.into() }),
    }
}
