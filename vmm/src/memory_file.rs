//! The file that is the guest's memory: on a tmpfs of its own, which gives it huge pages, or else a memfd.
//!
//! Linux backs a memfd with huge pages only if the whole host is set up so (`transparent_hugepage/shmem_enabled`),
//! but any tmpfs whose mount asks for them. A boot touches nearly all pages between the kernel's data and the end
//! of what it allocated, and a fault of 2 MiB costs what 40 of 4 KiB do; where memory is too fragmented, small
//! pages are taken, without waiting for larger ones.
//!
//! A mapping has huge pages only if it begins at a multiple of their size, [`HUGE_PAGE`].
//!
//! The tmpfs is mounted nowhere (`fsopen(2)`, `fsmount(2)`) and ends with the file's last user.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// Bytes of a huge page on x86-64.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Its name, which shows in `/proc/PID/maps`.
const NAME: &str = "guest-memory";

/// The file, and what has to stay open.
#[derive(Debug)]
pub struct MemoryFile {
    /// The file itself.
    pub file: File,
    /// The root of its tmpfs. To close it waits for all processors, which can as well be done at the end.
    pub mount: Option<OwnedFd>,
}

/// Makes a file of `size` zero bytes, in the SELinux context `label` if that is given.
///
/// # Errors
/// Those of `memfd_create(2)` and `ftruncate(2)`.
pub fn create(size: u64, label: Option<&str>) -> io::Result<MemoryFile> {
    match on_tmpfs(size, label) {
        Ok((file, mount)) => Ok(MemoryFile { file, mount: Some(mount) }),
        Err(error) => {
            log::info!("guest memory has no huge pages: {error}");
            Ok(MemoryFile { file: memfd(size)?, mount: None })
        }
    }
}

/// A file on a tmpfs that has room for nothing else, so that no peer can let it grow. One that makes it shorter ends
/// the machine (`KVM_RUN` fails), as a backend that goes away does.
fn on_tmpfs(size: u64, label: Option<&str>) -> io::Result<(File, OwnedFd)> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "0700")?;
    fsconfig_set_string(context.as_fd(), "size", size.to_string())?;
    // Not beyond the end of the file.
    fsconfig_set_string(context.as_fd(), "huge", "within_size")?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, NAME, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, size)?;
    Ok((file.into(), root))
}

/// A memfd that can neither grow nor shrink.
fn memfd(size: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL is demanded by some hosts (sysctl vm.memfd_noexec) and unknown before Linux 6.3.
    let memfd = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(NAME, flags),
        other => other,
    }?;
    rustix::fs::ftruncate(&memfd, size)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memfd.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn the_memfd_can_change_its_size_no_more() {
        let memfd = memfd(1 << 20).unwrap();
        assert!(memfd.set_len(1 << 19).is_err());
        assert!(memfd.set_len(1 << 21).is_err());
    }

    #[test]
    fn the_tmpfs_has_room_for_the_file_and_no_more() {
        let (file, _mount) = match on_tmpfs(3 << 20, None) {
            // Without the right to mount there is only the memfd.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            made => made.unwrap(),
        };
        file.write_all_at(&vec![1; 3 << 20], 0).unwrap();
        assert_eq!(file.write_all_at(&[1], 3 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
