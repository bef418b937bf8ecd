//! The sandbox directory: where the sockets of one sandbox have their names.
//!
//! It is a tmpfs that is mounted nowhere (`fsopen(2)`, `fsmount(2)`), so no other process finds it by a path,
//! and it vanishes with its last file descriptor however the shim ends.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// Host side of the guest's vsock device: connect here and ask `CONNECT <port>`.
const VSOCK: &str = "vsock.sock";

/// Bound on the sockets and nothing else that the directory holds.
const SIZE: &str = "1m";

/// The directory could not be made, or a socket in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// The tmpfs.
    #[error("cannot make the sandbox directory (a detached tmpfs; this needs root)")]
    Make(#[source] io::Error),
    /// A socket.
    #[error("cannot make the socket {name}")]
    Socket {
        /// Its name in the directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An open sandbox directory.
#[derive(Debug)]
pub(crate) struct SandboxDirectory {
    fd: OwnedFd,
}

impl SandboxDirectory {
    /// Makes an empty one, whose files are in the SELinux context `label` if that is given.
    pub(crate) fn create(label: Option<&str>) -> Result<Self, DirectoryError> {
        detached_tmpfs(label).map(|fd| Self { fd }).map_err(|errno| DirectoryError::Make(errno.into()))
    }

    /// That of another process, by the descriptor which that has passed.
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Another handle of the same directory.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Binds the socket on which the vsock device listens for host programs.
    pub(crate) fn listen_for_host(&self) -> Result<UnixListener, DirectoryError> {
        self.listen(VSOCK)
    }

    /// Connects to the vsock device as a host program.
    pub(crate) fn connect_as_host(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.path(VSOCK))
    }

    /// Binds the socket that stands for a vsock port of the host.
    pub(crate) fn listen_for_guest(&self, port: u32) -> Result<UnixListener, DirectoryError> {
        self.listen(&format!("{VSOCK}_{port}"))
    }

    /// Connects as the vsock device does for a guest.
    #[cfg(test)]
    pub(crate) fn connect_as_guest(&self, port: u32) -> io::Result<UnixStream> {
        UnixStream::connect(self.path(&format!("{VSOCK}_{port}")))
    }

    /// No guest connects to any of these ports any more.
    pub(crate) fn forget_ports(&self, ports: Range<u32>) -> io::Result<()> {
        for entry in fs::read_dir(self.path("."))? {
            let name = entry?.file_name();
            let port =
                name.to_str().and_then(|name| name.strip_prefix(VSOCK)?.strip_prefix('_')?.parse().ok());
            if port.is_some_and(|port| ports.contains(&port)) {
                unlinkat(&self.fd, name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// No guest connects to this port any more.
    pub(crate) fn forget_port(&self, port: u32) -> io::Result<()> {
        self.unlink(&format!("{VSOCK}_{port}"))
    }

    /// A listening socket with one connection in its backlog, and that connection's other end. Neither has a
    /// name any more, so nobody else can ever connect.
    pub(crate) fn private_socket(&self, name: &str) -> Result<(UnixListener, UnixStream), DirectoryError> {
        let failed = |source| DirectoryError::Socket { name: name.to_owned(), source };
        let listener = self.listen(name)?;
        let connected = UnixStream::connect(self.path(name)).map_err(failed)?;
        self.unlink(name).map_err(failed)?;
        Ok((listener, connected))
    }

    /// A listening socket, and its place in the file system, which has no name any more: whoever has the descriptor can
    /// connect to it, by `/proc/self/fd`.
    pub(crate) fn nameless_socket(&self, name: &str) -> Result<(UnixListener, OwnedFd), DirectoryError> {
        let failed = |source| DirectoryError::Socket { name: name.to_owned(), source };
        let listener = self.listen(name)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = openat(&self.fd, name, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        self.unlink(name).map_err(failed)?;
        Ok((listener, place))
    }

    fn listen(&self, name: &str) -> Result<UnixListener, DirectoryError> {
        UnixListener::bind(self.path(name))
            .map_err(|source| DirectoryError::Socket { name: name.to_owned(), source })
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Only this process can use the path, and only while the directory is open.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }
}

impl AsFd for SandboxDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn detached_tmpfs(label: Option<&str>) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "0700")?;
    fsconfig_set_string(context.as_fd(), "size", SIZE)?;
    if let Some(label) = label {
        fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn it_is_mounted_nowhere() {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let before = mounts();
        let directory = SandboxDirectory::create(None).unwrap();
        assert_eq!(mounts(), before);
        let statistics = rustix::fs::fstatfs(&directory).unwrap();
        assert_eq!(statistics.f_type, 0x0102_1994, "TMPFS_MAGIC");
    }

    #[test]
    fn a_private_socket_is_connected_and_has_no_name() {
        let directory = SandboxDirectory::create(None).unwrap();
        let (listener, mut near) = directory.private_socket("fs").unwrap();
        assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), 0);
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"hello").unwrap();
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_nameless_socket_is_reached_by_its_descriptor_alone() {
        let directory = SandboxDirectory::create(None).unwrap();
        let (_listener, place) = directory.nameless_socket("net0").unwrap();
        assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), 0);
        UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd())).unwrap();
    }

    #[test]
    fn a_forgotten_port_takes_no_connection() {
        let directory = SandboxDirectory::create(None).unwrap();
        let _listener = directory.listen_for_guest(1024).unwrap();
        assert!(directory.connect_as_guest(1024).is_ok());
        directory.forget_port(1024).unwrap();
        let error = directory.connect_as_guest(1024).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
