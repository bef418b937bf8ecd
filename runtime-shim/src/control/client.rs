//! The commands' end of the control socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::message::{Answer, Request, receive, send};
use crate::container::store::Folder;
use crate::io::poll::readable_within;
use crate::sandbox::directory::SandboxDirectory;

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
    connect_to_guest_within(folder, port, PATIENCE)
}

/// The same for those who cannot wait for long.
pub(crate) fn connect_to_guest_within(
    folder: &Folder,
    port: u32,
    patience: Duration,
) -> Result<UnixStream, ControlError> {
    let fd = ask(folder, &Request::Connect { port }, patience)?;
    let missing = || ControlError::Socket(io::Error::other("it passed no connection"));
    fd.map(UnixStream::from).ok_or_else(missing)
}

/// Has the workload executed.
pub(crate) fn start(folder: &Folder) -> Result<(), ControlError> {
    ask(folder, &Request::Start, START_PATIENCE).map(|_nothing| ())
}

/// A place in the machine of another container, which is kept as long as this.
#[derive(Debug)]
pub(crate) struct Seat {
    connection: OwnedFd,
    /// Of the place.
    pub(crate) number: u32,
    /// The sandbox directory of the machine.
    pub(crate) directory: SandboxDirectory,
}

/// Asks for a place in the machine of the container in `folder`, for one whose files are in the mount tree `share`.
pub(crate) fn join(folder: &Folder, share: &OwnedFd) -> Result<Seat, ControlError> {
    let connection = connect_to(folder, PATIENCE)?;
    send(&connection, &Request::Join, Some(share.as_fd())).map_err(gone_or_socket)?;
    match receive::<Answer>(&connection).map_err(gone_or_socket)? {
        Some((Answer::Joined { number }, Some(directory))) => {
            Ok(Seat { connection, number, directory: SandboxDirectory::of(directory) })
        }
        Some((Answer::Failed { message, exit_code }, _)) => Err(ControlError::Refused { message, exit_code }),
        Some(_) => Err(ControlError::Socket(io::Error::other("it gave no place"))),
        None => Err(ControlError::Gone),
    }
}

impl Seat {
    /// Gives the place up; returns when the machine has nothing of the container any more.
    pub(crate) fn leave(self) -> Result<(), ControlError> {
        send(&self.connection, &Request::Leave, None).map_err(gone_or_socket)?;
        match receive::<Answer>(&self.connection).map_err(gone_or_socket)? {
            Some((Answer::Done, _)) => Ok(()),
            Some((Answer::Failed { message, exit_code }, _)) => {
                Err(ControlError::Refused { message, exit_code })
            }
            Some(_) => Err(ControlError::Socket(io::Error::other("its answer makes no sense"))),
            None => Err(ControlError::Gone),
        }
    }

    /// Whether the machine's monitor has gone, or does within `time`.
    pub(crate) fn is_lost_within(&self, time: Duration) -> bool {
        readable_within(self.connection.as_fd(), time).unwrap_or(true)
    }
}

/// Has a machine end that only lives on for its members.
pub(crate) fn end_machine(folder: &Folder) -> Result<(), ControlError> {
    ask(folder, &Request::EndMachine, PATIENCE).map(|_nothing| ())
}

/// Waits until a place has been given up.
pub(crate) fn await_leaving(folder: &Folder, number: u32) -> Result<(), ControlError> {
    ask(folder, &Request::AwaitLeaving { number }, PATIENCE).map(|_nothing| ())
}

fn ask(folder: &Folder, request: &Request, patience: Duration) -> Result<Option<OwnedFd>, ControlError> {
    let socket = connect_to(folder, patience)?;
    send(&socket, request, None).map_err(gone_or_socket)?;
    match receive::<Answer>(&socket).map_err(gone_or_socket)? {
        Some((Answer::Done, fd)) => Ok(fd),
        Some((Answer::Failed { message, exit_code }, _)) => Err(ControlError::Refused { message, exit_code }),
        Some((Answer::Joined { .. }, _)) => {
            Err(ControlError::Socket(io::Error::other("its answer makes no sense")))
        }
        None => Err(ControlError::Gone),
    }
}

fn connect_to(folder: &Folder, patience: Duration) -> Result<OwnedFd, ControlError> {
    open(&folder.control_socket(), patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::Gone,
        _ => ControlError::Socket(error),
    })
}

fn gone_or_socket(error: io::Error) -> ControlError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ControlError::Gone,
        _ => ControlError::Socket(error),
    }
}

fn open(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
