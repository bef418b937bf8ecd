//! Mount points that a read-only root file system lacks.
//!
//! As runc does, missing mount points are made in the root file system itself. Where the bundle asks for it
//! read-only, the guest gets it read-only from the host and cannot make them, so it is done here. The root file
//! system is not trusted: no link in it leads out of it (`openat2(2)`, `RESOLVE_IN_ROOT`).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2};
use rustix::io::Errno;

/// A mount point that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the mount point {} in the root file system", destination.display())]
pub(crate) struct MountPointError {
    destination: PathBuf,
    #[source]
    source: io::Error,
}

/// What a mount is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A regular file, for the bind mount of one.
    File,
}

/// Makes what is missing. Destinations below an earlier one are in that mount, not in the root file system.
pub(crate) fn make(rootfs: &Path, mounts: &[(PathBuf, Kind)]) -> Result<(), MountPointError> {
    for (index, (destination, kind)) in mounts.iter().enumerate() {
        let covered = mounts.iter().take(index).any(|(earlier, _)| destination.starts_with(earlier));
        if !covered {
            make_one(rootfs, destination, *kind).map_err(|errno| MountPointError {
                destination: destination.clone(),
                source: errno.into(),
            })?;
        }
    }
    Ok(())
}

fn make_one(rootfs: &Path, destination: &Path, kind: Kind) -> Result<(), Errno> {
    let root = open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if find(&root, destination).is_ok() {
        return Ok(());
    }
    let mut path = PathBuf::new();
    let mut components = destination.components().skip(1).peekable();
    while let Some(component) = components.next() {
        let parent = find(&root, &path)?;
        path.push(component);
        match find(&root, &path) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if kind == Kind::File && components.peek().is_none() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, component.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
        } else {
            mkdirat(&parent, component.as_os_str(), Mode::from_raw_mode(0o755))?;
        }
    }
    Ok(())
}

/// Opens a path of the root file system, wherever its links lead inside.
pub(crate) fn find(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn rootfs() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn missing_directories_and_files_are_made_and_others_left() {
        let root = rootfs();
        fs::create_dir(root.path().join("proc")).unwrap();
        let mounts = [
            ("/proc".into(), Kind::Directory),
            ("/a/b".into(), Kind::Directory),
            ("/etc/hosts".into(), Kind::File),
            ("/a/b/inside".into(), Kind::Directory),
        ];
        make(root.path(), &mounts).unwrap();
        make(root.path(), &mounts).unwrap();
        assert!(root.path().join("a/b").is_dir());
        assert!(root.path().join("etc/hosts").is_file());
        assert!(!root.path().join("a/b/inside").exists());
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (root, outside) = (rootfs(), rootfs());
        symlink(outside.path(), root.path().join("absolute")).unwrap();
        symlink("../../../../../..", root.path().join("up")).unwrap();
        for destination in ["/absolute/x", "/up/y", "/../z"] {
            // Made inside or refused, never made outside.
            let _ = make(root.path(), &[(destination.into(), Kind::Directory)]);
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(!Path::new("/y").exists() && !Path::new("/z").exists());
        assert!(root.path().join("y").is_dir());
    }

    #[test]
    fn a_file_in_the_way_is_an_error_with_the_destination() {
        let root = rootfs();
        fs::write(root.path().join("etc"), "").unwrap();
        let error = make(root.path(), &[("/etc/x".into(), Kind::Directory)]).unwrap_err();
        assert_eq!(error.to_string(), "cannot make the mount point /etc/x in the root file system");
    }
}
