//! The host's side: unix sockets in the sandbox directory.
//!
//! A program of the host connects to `vsock.sock`, says `CONNECT <port>\n` and reads `OK <port>\n`. A connection of
//! the guest's to port P goes to `vsock.sock_<P>`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, ThreadId};

use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, recv,
    socket_with,
};
use rustix::process::fchdir;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The listening socket `vsock.sock`.
#[derive(Debug)]
pub(super) struct HostListener(OwnedFd);

impl HostListener {
    pub(super) fn new(listener: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        Ok(Self(listener))
    }

    /// The next program that connected, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match accept_with(&self.0, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => Ok(Some(socket.into())),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for HostListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Longest line that is a request: `CONNECT 4294967295\n` has 19 bytes.
const MAX_REQUEST: usize = 32;

/// A program of the host that has connected but not said yet to which port.
#[derive(Debug)]
pub(super) struct Handshake(UnixStream);

/// What a program has said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Not a whole line.
    Incomplete,
    /// `CONNECT` and this port.
    Connect(u32),
    /// Something else, or it went away.
    Invalid,
}

impl Handshake {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Looks at what has come, and takes the line, but nothing behind it, when it is whole: a program may send
    /// its first data along.
    pub(super) fn read(&self) -> Request {
        let mut line = [0; MAX_REQUEST];
        let length = match recv(&self.0, &mut line, RecvFlags::PEEK) {
            Ok((0, _)) => return Request::Invalid,
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Request::Incomplete,
            Err(_) => return Request::Invalid,
        };
        let seen = line.get(..length).unwrap_or_default();
        let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
            return if length < MAX_REQUEST { Request::Incomplete } else { Request::Invalid };
        };
        let port = seen.get(..end).and_then(parse_request);
        let mut taken = [0; MAX_REQUEST];
        let taken = taken.get_mut(..=end).unwrap_or_default();
        let all_taken = recv(&self.0, taken, RecvFlags::empty()).is_ok_and(|(length, _)| length == end + 1);
        match port {
            Some(port) if all_taken => Request::Connect(port),
            _ => Request::Invalid,
        }
    }

    pub(super) fn into_socket(self) -> UnixStream {
        self.0
    }
}

fn parse_request(line: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?;
    // `parse` would take a sign.
    if number.bytes().all(|byte| byte.is_ascii_digit()) { number.parse().ok() } else { None }
}

/// The sandbox directory.
#[derive(Debug)]
pub(super) struct HostDirectory {
    directory: OwnedFd,
    entered: Option<ThreadId>,
}

impl HostDirectory {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self { directory, entered: None }
    }

    /// Connects to the program that serves `port`, without waiting.
    ///
    /// # Errors
    /// Nobody listens there, or so many wait already that one would have to wait (`WouldBlock`).
    pub(super) fn connect(&mut self, port: u32) -> io::Result<UnixStream> {
        self.enter()?;
        let address = SocketAddrUnix::new(format!("vsock.sock_{port}"))?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?;
        Ok(socket.into())
    }

    /// There is no `connectat`, and no path leads here from the jail: the directory becomes the working
    /// directory of the calling thread, and of no other (virtiofsd changes that of its own all the time).
    #[allow(unsafe_code, reason = "unshare(2) is unsafe in rustix, as some of its flags are")]
    fn enter(&mut self) -> io::Result<()> {
        let thread = thread::current().id();
        if self.entered != Some(thread) {
            // SAFETY: CLONE_FS does not touch the descriptor table, which is the flag that rustix warns about.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            fchdir(&self.directory)?;
            self.entered = Some(thread);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn handshake() -> (UnixStream, Handshake) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, Handshake::new(server))
    }

    #[test]
    fn line_is_taken_in_pieces_and_data_behind_it_stays() {
        let (mut client, handshake) = handshake();
        assert_eq!(handshake.read(), Request::Incomplete);
        client.write_all(b"CONNECT 10").unwrap();
        assert_eq!(handshake.read(), Request::Incomplete);
        client.write_all(b"24\nhello").unwrap();
        assert_eq!(handshake.read(), Request::Connect(1024));
        let mut rest = [0; 5];
        handshake.into_socket().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn anything_but_a_request_is_refused() {
        for line in [
            "\n",
            "CONNECT \n",
            "CONNECT\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 4294967296\n",
            "connect 1\n",
            "CONNECT 1 \n",
            "CONNECT 1\r\n",
            "GET / HTTP/1.1\n",
            "CONNECT 00000000000000000000000001",
        ] {
            let (mut client, handshake) = handshake();
            client.write_all(line.as_bytes()).unwrap();
            if line.ends_with('\n') {
                assert_ne!(handshake.read(), Request::Incomplete, "{line:?}");
            }
            client.write_all(&[b'x'; MAX_REQUEST]).unwrap();
            assert_eq!(handshake.read(), Request::Invalid, "{line:?}");
        }
    }

    #[test]
    fn client_that_leaves_is_noticed() {
        let (client, handshake) = handshake();
        drop(client);
        assert_eq!(handshake.read(), Request::Invalid);
    }
}
