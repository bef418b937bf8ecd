//! The socket between the agent and a child until that has executed its program.
//!
//! Packets: from the child, `TERMINAL` with the pty's master if there is one, then `READY`, or at any time a failure
//! (its kind, then its text); from the agent, `GO`. execve closes the child's end: that is the message of success.
//!
//! A seccomp filter may be in force when the child says that it is ready, so that takes no more than read(2) and
//! write(2), as with runc.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::failure::Failure;
use crate::process::files::Files;
use crate::sys::event_loop::register;

/// First byte of a packet; a failure's kind is neither.
const READY: u8 = 0;
const TERMINAL: u8 = 0xff;

/// Room for a failure, whose message is bounded.
const LONGEST_PACKET: usize = 4096;

/// The child's end: blocking.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// The agent's end.
#[derive(Debug)]
pub struct AgentEnd(AsyncFd<OwnedFd>);

/// What the child has said.
#[derive(Debug)]
pub enum Message {
    /// The master of its pty.
    Terminal(OwnedFd),
    /// All but execve is done.
    Ready,
    /// It cannot be done, or the program cannot be executed. The child ends.
    Failed(Failure),
    /// The socket was closed: the program is being executed, or the child has died.
    Closed,
}

/// A connected pair. The child's end is none of the numbers that the child's program has for `files`.
///
/// # Errors
///
/// Those of socketpair(2), fcntl(2) and epoll_ctl(2).
pub fn pair(files: &Files) -> io::Result<(AgentEnd, ChildEnd)> {
    let (agent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&agent, true)?;
    let child = if files.more.is_empty() { child } else { files.above(&child)? };
    Ok((AgentEnd(register(agent, Interest::READABLE)?), ChildEnd(child)))
}

impl ChildEnd {
    /// Hands over the master of the pty.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn report_terminal(&self, master: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [master];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.0, &[IoSlice::new(&[TERMINAL])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Reports that all is ready.
    ///
    /// # Errors
    ///
    /// Those of write(2).
    pub fn report_ready(&self) -> io::Result<()> {
        rustix::io::write(&self.0, &[READY])?;
        Ok(())
    }

    /// Reports a failure.
    ///
    /// # Errors
    ///
    /// Those of write(2).
    pub fn report_failure(&self, failure: &Failure) -> io::Result<()> {
        rustix::io::write(&self.0, &failure.to_bytes())?;
        Ok(())
    }

    /// Waits for the agent's word to execute the program; false when the agent has gone or thought better.
    pub fn wait_for_go(&self) -> bool {
        loop {
            match rustix::io::read(&self.0, &mut [0; 1]) {
                Ok(length) => return length == 1,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AgentEnd {
    /// Waits for the next message of the child.
    ///
    /// # Errors
    ///
    /// Those of recvmsg(2).
    pub async fn receive(&self) -> io::Result<Message> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(message) = ready.try_io(|socket| receive(socket.get_ref())) {
                return message;
            }
        }
    }

    /// Lets the child execute its program.
    ///
    /// # Errors
    ///
    /// Those of send(2); `EPIPE` when the child has died.
    pub fn go(&self) -> io::Result<()> {
        rustix::net::send(self.0.get_ref(), &[1], SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Message> {
    let mut bytes = [0; LONGEST_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            // The peer has ended with a packet of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(Message::Closed),
            other => other?,
        };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match bytes.get(..received.bytes).and_then(<[u8]>::split_first) {
        None => Ok(Message::Closed),
        Some((&READY, _)) => Ok(Message::Ready),
        Some((&TERMINAL, _)) => match fd {
            Some(master) => Ok(Message::Terminal(master)),
            None => Err(io::Error::other("the pty's master did not arrive")),
        },
        Some((&kind, text)) => Ok(Message::Failed(Failure::from_bytes(kind, text))),
    }
}
