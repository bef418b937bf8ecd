//! Connections to ports of the guest through the vsock device's socket on the host.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::RecvFlags;

use super::directory::SandboxDirectory;

/// How long the device may take for the rest of an answer, of which it sends all at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// `OK <port>\n` with the largest port.
const ANSWER_MAX: usize = "OK 4294967295\n".len();

/// No connection to a port of the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The device's socket.
    #[error("cannot connect to the sandbox's vsock device")]
    Device(#[source] io::Error),
    /// The guest, or the device for it.
    #[error("port {port} of the guest refused the connection")]
    Refused {
        /// The port.
        port: u32,
    },
}

/// A connection for which the guest's answer is still to come.
#[derive(Debug)]
pub(crate) struct Connecting {
    /// Polls readable when [`Connecting::finish`] does not wait any more.
    pub(crate) socket: UnixStream,
    port: u32,
}

impl Connecting {
    /// Asks for a connection to a port.
    pub(crate) fn request(directory: &SandboxDirectory, port: u32) -> Result<Self, ConnectError> {
        let mut socket = directory.connect_as_host().map_err(ConnectError::Device)?;
        socket.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(ConnectError::Device)?;
        Ok(Self { socket, port })
    }

    /// Reads the answer. What follows it on the socket is the guest's.
    pub(crate) fn finish(self) -> Result<UnixStream, ConnectError> {
        self.finish_within(PATIENCE)
    }

    /// The device process is not trusted: one that goes silent must not keep its shim from hearing signals.
    fn finish_within(mut self, patience: Duration) -> Result<UnixStream, ConnectError> {
        self.socket.set_read_timeout(Some(patience)).map_err(ConnectError::Device)?;
        let mut answer = Vec::with_capacity(ANSWER_MAX);
        while answer.last() != Some(&b'\n') && answer.len() < ANSWER_MAX {
            match self.read_line_piece(ANSWER_MAX - answer.len()) {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => answer.extend(piece),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(ConnectError::Device(error)),
            }
        }
        if answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
            self.socket.set_read_timeout(None).map_err(ConnectError::Device)?;
            Ok(self.socket)
        } else {
            Err(ConnectError::Refused { port: self.port })
        }
    }

    /// What is there of a line. Looks before it reads: a read too far would swallow what the guest says first.
    fn read_line_piece(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; most];
        let (_, there) = rustix::net::recv(&self.socket, piece.as_mut_slice(), RecvFlags::PEEK)?;
        piece.truncate(there);
        let end = piece.iter().position(|byte| *byte == b'\n').map_or(there, |newline| newline + 1);
        piece.truncate(end);
        self.socket.read_exact(&mut piece)?;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(answer: &[u8]) -> Result<UnixStream, ConnectError> {
        let directory = SandboxDirectory::create(None).unwrap();
        let device = directory.listen_for_host().unwrap();
        let connecting = Connecting::request(&directory, 1024).unwrap();
        let (mut device, _) = device.accept().unwrap();
        device.write_all(answer).unwrap();
        let mut question = [0; 13];
        device.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"CONNECT 1024\n");
        drop(device);
        connecting.finish()
    }

    #[test]
    fn what_follows_the_answer_is_left_to_the_reader() {
        let mut socket = answered(b"OK 1073741824\nfirst words").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first words");
    }

    #[test]
    fn anything_else_is_a_refusal() {
        for answer in [&b""[..], b"OK", b"NO 5\n", b"OK 99999999999999999999999\n", b"\n"] {
            assert!(matches!(answered(answer), Err(ConnectError::Refused { port: 1024 })), "{answer:?}");
        }
    }
    #[test]
    fn a_device_that_goes_silent_is_not_waited_for() {
        let directory = SandboxDirectory::create(None).unwrap();
        let device = directory.listen_for_host().unwrap();
        let connecting = Connecting::request(&directory, 1024).unwrap();
        let (mut device, _) = device.accept().unwrap();
        device.write_all(b"OK 10").unwrap();
        let error = connecting.finish_within(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ConnectError::Device(_)), "{error}");
    }

    #[test]
    fn a_connection_waits_for_the_guest_as_long_as_it_takes() {
        let socket = answered(b"OK 1073741824\n").unwrap();
        assert_eq!(socket.read_timeout().unwrap(), None);
    }
}
