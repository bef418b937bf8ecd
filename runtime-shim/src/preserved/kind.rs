//! What a descriptor is, as far as that decides what can stand for it in another kernel.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use serde::{Deserialize, Serialize};

/// What can be handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// To read from.
    Reader,
    /// To write to.
    Writer,
    /// Both, and no socket.
    Both,
    /// Both, without a position to share: reading does not move where is written.
    File,
    /// A connected stream socket.
    Socket,
    /// A listening one.
    Listener,
}

/// Why it cannot be handed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {what}, which another kernel cannot have: {remedy}")]
pub(crate) struct Refusal {
    what: String,
    remedy: &'static str,
}

const INSTEAD: &str = "hand over a pipe, a regular file or a stream socket";
const MOUNT: &str = "bind it by a mount of the bundle";

fn refuse(what: impl Into<String>, remedy: &'static str) -> Result<Kind, Refusal> {
    Err(Refusal { what: what.into(), remedy })
}

/// Looks at a descriptor.
pub(crate) fn of(fd: BorrowedFd<'_>) -> Result<Kind, Refusal> {
    let failed = |errno: rustix::io::Errno| Refusal {
        what: format!("nothing that can be looked at ({})", std::io::Error::from(errno)),
        remedy: INSTEAD,
    };
    let (flags, status) = (fcntl_getfl(fd).map_err(failed)?, fstat(fd).map_err(failed)?);
    if flags.contains(OFlags::PATH) {
        return refuse("a place in a file system (O_PATH)", MOUNT);
    }
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Socket => of_socket(fd),
        FileType::Fifo | FileType::CharacterDevice => of_stream(flags, Kind::Both),
        FileType::RegularFile if is_in_file_system(fd) => of_stream(flags, Kind::File),
        FileType::Directory => refuse("a directory", MOUNT),
        FileType::BlockDevice => refuse("a block device", INSTEAD),
        _ => refuse(link(fd), INSTEAD),
    }
}

fn of_stream(flags: OFlags, both: Kind) -> Result<Kind, Refusal> {
    match flags & OFlags::RWMODE {
        mode if mode == OFlags::RDONLY => Ok(Kind::Reader),
        mode if mode == OFlags::WRONLY => Ok(Kind::Writer),
        mode if mode == OFlags::RDWR => Ok(both),
        _ => refuse("open for neither reading nor writing", INSTEAD),
    }
}

fn of_socket(fd: BorrowedFd<'_>) -> Result<Kind, Refusal> {
    let what = match socket_type(fd) {
        Ok(SocketType::STREAM) if socket_acceptconn(fd) == Ok(true) => return Ok(Kind::Listener),
        Ok(SocketType::STREAM) if rustix::net::getpeername(fd).is_ok() => return Ok(Kind::Socket),
        Ok(SocketType::STREAM) => "a stream socket that is not connected",
        Ok(SocketType::DGRAM) => "a datagram socket",
        Ok(SocketType::SEQPACKET) => "a socket of packets (SOCK_SEQPACKET)",
        _ => "a socket that is no stream",
    };
    refuse(what, INSTEAD)
}

/// Namespaces and the like are regular files that have no path.
fn is_in_file_system(fd: BorrowedFd<'_>) -> bool {
    link(fd).starts_with('/')
}

/// As proc(5) has it: a path, or a kind such as `anon_inode:[eventpoll]`.
fn link(fd: BorrowedFd<'_>) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.map_or_else(|_| "of an unknown kind".to_owned(), |link| link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use rustix::event::{EventfdFlags, epoll, eventfd};
    use rustix::fs::{CWD, MemfdFlags, Mode, memfd_create, openat};
    use rustix::net::{AddressFamily, SocketFlags, socket_with, socketpair};

    use super::*;

    fn kind(fd: impl AsFd) -> Result<Kind, Refusal> {
        of(fd.as_fd())
    }

    #[test]
    fn streams_go_by_how_they_are_open() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!((kind(reader), kind(writer)), (Ok(Kind::Reader), Ok(Kind::Writer)));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let open = |read, write| OpenOptions::new().read(read).write(write).open(&path).unwrap();
        let kinds = [(true, false), (false, true), (true, true)].map(|(read, write)| kind(open(read, write)));
        assert_eq!(kinds, [Ok(Kind::Reader), Ok(Kind::Writer), Ok(Kind::File)]);
        assert_eq!(kind(memfd_create("m", MemfdFlags::CLOEXEC).unwrap()), Ok(Kind::File));
        assert_eq!(kind(File::open("/dev/zero").unwrap()), Ok(Kind::Reader));
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        assert_eq!(kind(null), Ok(Kind::Both));
    }

    #[test]
    fn stream_sockets_are_connected_or_listen() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(kind(&listener), Ok(Kind::Listener));
        let (near, _far) = UnixStream::pair().unwrap();
        assert_eq!(kind(near), Ok(Kind::Socket));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!((kind(&listener), kind(&client)), (Ok(Kind::Listener), Ok(Kind::Socket)));
    }

    #[test]
    fn whatever_else_is_refused_by_its_name() {
        let socket =
            |kind| -> OwnedFd { socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap() };
        let (packets, _far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let place = openat(CWD, "/etc/passwd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (datagrams, _other) = UnixDatagram::pair().unwrap();
        let named: [(OwnedFd, &str); 10] = [
            (File::open("/").unwrap().into(), "is a directory, which another kernel cannot have: bind it"),
            (place, "is a place in a file system (O_PATH)"),
            (socket(SocketType::STREAM), "is a stream socket that is not connected"),
            (packets, "is a socket of packets (SOCK_SEQPACKET)"),
            (datagrams.into(), "is a datagram socket"),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "is a datagram socket"),
            (eventfd(0, EventfdFlags::CLOEXEC).unwrap(), "is anon_inode:[eventfd]"),
            (epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(), "is anon_inode:[eventpoll]"),
            (File::open("/proc/self/ns/mnt").unwrap().into(), "is mnt:["),
            (
                rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
                    .unwrap(),
                "is ",
            ),
        ];
        for (fd, words) in named {
            let refusal = kind(&fd).unwrap_err().to_string();
            assert!(refusal.starts_with(words), "{refusal}");
            assert!(refusal.contains("which another kernel cannot have: "), "{refusal}");
        }
    }
}
