//! Paths inside the container's root: resolved by the kernel so that nothing leads out of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;

/// How often a resolution is tried again that raced with a rename somewhere on the path (openat2(2), EAGAIN).
const TRIES: usize = 64;

/// The caller's own descriptors as files of the guest's /proc, through which what an `O_PATH` descriptor names is
/// opened for use once it has been looked at.
#[derive(Debug)]
pub struct Descriptors(OwnedFd);

impl Descriptors {
    /// Must be called while /proc is the guest's.
    ///
    /// # Errors
    ///
    /// Those of openat2(2).
    pub fn open() -> io::Result<Self> {
        open_directory(Path::new("/proc/self/fd")).map(Self)
    }

    /// Opens what `file` names.
    ///
    /// # Errors
    ///
    /// Those of openat2(2).
    pub fn reopen(&self, file: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        resolve(self.0.as_fd(), Path::new(&file.as_raw_fd().to_string()), flags, ResolveFlags::empty())
    }
}

/// Opens `path` below `root` as if `root` were `/`: symbolic links, absolute ones included, and `..` stay
/// inside; links of procfs that jump (magic links) are refused.
///
/// # Errors
///
/// Those of openat2(2).
pub fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(root.as_fd(), path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Like [`open_in`], but refuses every symbolic link with `ELOOP`.
///
/// # Errors
///
/// Those of openat2(2).
pub fn open_in_without_links(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    resolve(root.as_fd(), path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// Opens the entry of a share; a directory in a way that mounts the share's own submount on it.
///
/// virtio-fs announces a mount on the host as a submount, which the kernel mounts when the directory is
/// walked through or opened as one; a bare `O_PATH` would find the empty place below it.
///
/// # Errors
///
/// Those of openat2(2).
pub fn open_share_entry(share: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let entry = resolve(share.as_fd(), path, OFlags::PATH, beneath)?;
    if file_type(&entry)? != FileType::Directory {
        return Ok(entry);
    }
    resolve(share.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY, beneath)
}

/// Opens a directory by a path of the agent's own, which is trusted.
///
/// # Errors
///
/// Those of openat2(2).
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    resolve(CWD, path, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty())
}

/// The type of what a descriptor names.
///
/// # Errors
///
/// Those of fstat(2).
pub fn file_type(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// The directory at `path` inside `root`, made with its parents if missing, as mkdir -p -m 0755.
///
/// # Errors
///
/// Those of openat2(2) and mkdirat(2); `EEXIST` where a dangling symbolic link is in the way.
pub fn ensure_directory(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut existing = path;
    let mut opened = loop {
        match open_in(root, existing, directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(error);
                };
                missing.push(name);
                existing = parent;
            }
            other => break other?,
        }
    };
    for name in missing.into_iter().rev() {
        mkdirat(&opened, name, Mode::from_raw_mode(0o755))?;
        opened = resolve(
            opened.as_fd(),
            Path::new(name),
            directory,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
    }
    Ok(opened)
}

/// The file at `path` inside `root`, made empty if missing, with its parent directories.
///
/// # Errors
///
/// Those of openat2(2) and mkdirat(2).
pub fn ensure_file(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open_in(root, path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::ISDIR.into());
    };
    create_file(ensure_directory(root, parent)?, name)
}

/// Makes an empty file and returns a descriptor that only names it.
///
/// # Errors
///
/// Those of openat(2): `EEXIST` for anything that is there, a dangling symbolic link included.
pub fn create_file(directory: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o755))?);
    resolve(directory.as_fd(), Path::new(name), OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::BENEATH)
}

/// An absolute path without `.`, `..` and double slashes, as text: `..` of the root is the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

fn resolve(directory: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> io::Result<OwnedFd> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        result = openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), how);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    Ok(result?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_path_cannot_climb_above_the_root() {
        for (path, expected) in [
            ("/a/./b//c", "/a/b/c"),
            ("/../../etc", "/etc"),
            ("a/../../b", "/b"),
            ("/", "/"),
            ("/a/b/..", "/a"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
