//! Device nodes and named pipes that the bundle describes (runtime specification, config-linux.md, "Devices").
//!
//! Numbers are the guest kernel's: a node whose number it does not know is made, and cannot be opened.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chownat, makedev, mknodat, statat};
use rustix::io::Errno;

use crate::rootfs::path::ensure_directory;

/// One node, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Clean and absolute, inside the container.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a node is, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A block device.
    Block(u32, u32),
    /// A character device.
    Character(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A node could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the device {path:?}")]
pub struct NodeError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Node {
    /// Makes it inside `root`, with its parent directories. What is there already must be the same device.
    ///
    /// # Errors
    ///
    /// [`NodeError`].
    pub fn make(&self, root: BorrowedFd<'_>) -> Result<(), NodeError> {
        self.make_node(root).map_err(|source| NodeError { path: self.path.clone(), source })
    }

    fn make_node(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let name = Path::new(self.path.file_name().ok_or(Errno::ISDIR)?);
        let directory = ensure_directory(root, parent)?;
        let (kind, number) = self.kind.as_stat();
        // The mask of this process is 0, so the mode is as asked for.
        match mknodat(&directory, name, kind, Mode::from_raw_mode(self.mode), number) {
            Err(Errno::EXIST) => self.check(&directory, name)?,
            other => other?,
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        Ok(chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn check(&self, directory: &OwnedFd, name: &Path) -> io::Result<()> {
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (kind, number) = self.kind.as_stat();
        let same = FileType::from_raw_mode(found.st_mode) == kind
            && (kind == FileType::Fifo || found.st_rdev == number);
        if same { Ok(()) } else { Err(io::Error::other("something else is there")) }
    }
}

impl NodeKind {
    fn as_stat(self) -> (FileType, u64) {
        match self {
            Self::Block(major, minor) => (FileType::BlockDevice, makedev(major, minor)),
            Self::Character(major, minor) => (FileType::CharacterDevice, makedev(major, minor)),
            Self::Fifo => (FileType::Fifo, 0),
        }
    }
}
