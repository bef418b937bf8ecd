//! What is said on the control socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest packet; errors are cut to fit.
const LONGEST: usize = 8192;

/// A command asks.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// For a connection to a port of the guest.
    Connect {
        /// The port.
        port: u32,
    },
    /// To execute the workload.
    Start,
    /// To end a machine that only lives on for its members.
    EndMachine,
    /// For a place in the machine. The mount tree of the container's files comes with the packet; the place is kept
    /// until the connection closes.
    Join,
    /// On that connection: to give the place up.
    Leave,
    /// To wait until a place has been given up.
    AwaitLeaving {
        /// Its number.
        number: u32,
    },
}

/// The monitor answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// It is done. A connection comes with the packet.
    Done,
    /// There is a place. The sandbox directory comes with the packet.
    Joined {
        /// Its number.
        number: u32,
    },
    /// It is not.
    Failed {
        /// Why.
        message: String,
        /// The status with which the command should end.
        exit_code: u8,
    },
}

/// Sends a packet, with a descriptor or without.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let packet = serde_json::to_vec(message)?;
    if packet.len() > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    send_bytes(socket, &packet, fd)
}

/// Sends bytes, with a descriptor or without.
pub(crate) fn send_bytes(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<_> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let packet = [IoSlice::new(bytes)];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &packet, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a packet, and the descriptor that came with it. Nothing at the end of the connection.
pub(crate) fn receive<M: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut buffer = vec![0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let mut packet = [IoSliceMut::new(&mut buffer)];
        recvmsg(&socket, &mut packet, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    let packet = buffer.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(packet)?, fd)))
}

/// A text that fits into a packet with room to spare.
pub(crate) fn cut(text: &str) -> String {
    // JSON writes a character in six at worst.
    text.chars().take(LONGEST / 8).collect()
}
