//! A pseudo terminal for a container that nobody watches yet: its master goes to the engine's console socket, its
//! slave becomes the monitor's terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::control::message;

/// The engine got no terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    /// No pseudo terminal.
    #[error("cannot make a pseudo terminal")]
    Make(#[source] io::Error),
    /// The socket of `--console-socket`.
    #[error("cannot send the terminal to the console socket {}", path.display())]
    Send {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What runc calls the file that it sends.
const MASTER: &str = "/dev/ptmx";

/// Makes a terminal of this many rows and columns (0 is unknown), sends its master to the socket, and returns its
/// slave.
pub(crate) fn open_for(socket: &Path, rows: u16, columns: u16) -> Result<OwnedFd, ConsoleError> {
    let make = |errno: rustix::io::Errno| ConsoleError::Make(errno.into());
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(make)?;
    grantpt(&master).map_err(make)?;
    unlockpt(&master).map_err(make)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(make)?;
    if rows > 0 && columns > 0 {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).map_err(make)?;
    }
    send(socket, &master).map_err(|source| ConsoleError::Send { path: socket.to_owned(), source })?;
    Ok(slave)
}

/// One descriptor, with its name as the bytes that have to go along.
fn send(socket: &Path, master: &OwnedFd) -> io::Result<()> {
    let socket = UnixStream::connect(socket)?;
    message::send_bytes(&socket, MASTER.as_bytes(), Some(master.as_fd()))
}
