//! The commands' end of the control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::message::{Answer, Request, receive, send};
use crate::container::store::Folder;

/// How long the monitor may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it may take to have the workload executed.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// The monitor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// It is gone. Engines read these words.
    #[error("container not running")]
    Gone,
    /// The socket.
    #[error("cannot ask the container's monitor")]
    Socket(#[source] io::Error),
    /// It said no.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// Status for this process.
        exit_code: u8,
    },
}

/// A connection to a port of the container's guest.
pub(crate) fn connect_to_guest(folder: &Folder, port: u32) -> Result<UnixStream, ControlError> {
    let fd = ask(folder, &Request::Connect { port }, PATIENCE)?;
    let missing = || ControlError::Socket(io::Error::other("it passed no connection"));
    fd.map(UnixStream::from).ok_or_else(missing)
}

/// Has the workload executed.
pub(crate) fn start(folder: &Folder) -> Result<(), ControlError> {
    ask(folder, &Request::Start, START_PATIENCE).map(|_nothing| ())
}

fn ask(folder: &Folder, request: &Request, patience: Duration) -> Result<Option<OwnedFd>, ControlError> {
    let socket = open(&folder.control_socket(), patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::Gone,
        _ => ControlError::Socket(error),
    })?;
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ControlError::Gone,
        _ => ControlError::Socket(error),
    };
    send(&socket, request, None).map_err(gone)?;
    match receive::<Answer>(&socket).map_err(gone)? {
        Some((Answer::Done, fd)) => Ok(fd),
        Some((Answer::Failed { message, exit_code }, _)) => Err(ControlError::Refused { message, exit_code }),
        None => Err(ControlError::Gone),
    }
}

fn open(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
