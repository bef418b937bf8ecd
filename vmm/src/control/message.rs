//! The messages of the control socket and their coding.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hypervisor::VmExit;

/// Longest message in bytes; the longest real one carries a register dump of some hundred bytes.
const MAX_MESSAGE: usize = 16 * 1024;

/// What the VMM process tells its driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromProcess {
    /// The machine is complete; its vCPUs are about to run.
    Started,
    /// All vCPUs have left the guest.
    Paused,
    /// The vCPUs may run again.
    Resumed,
    /// The machine has ended or could not be made; the process exits after this.
    Exited(VmExit),
}

/// What a driver asks the VMM process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToProcess {
    /// Stop all vCPUs; answered by [`FromProcess::Paused`].
    Pause,
    /// Let the vCPUs go on; answered by [`FromProcess::Resumed`].
    Resume,
    /// End at once, without an answer.
    Stop,
}

/// The control socket failed or its peer does not keep to the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket could not be read or written.
    #[error("cannot {step} control message")]
    Socket {
        /// "send" or "receive".
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are no message.
    #[error("malformed control message")]
    Malformed(#[source] serde_json::Error),
    /// The message does not fit into a packet.
    #[error("control message of more than {MAX_MESSAGE} bytes")]
    TooLong,
}

/// One end of the control socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Wraps a connected `SOCK_SEQPACKET` socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Makes both ends of a control socket: one to keep, one for the process to start.
    ///
    /// # Errors
    /// When the host has no sockets left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When it is too long or the peer is gone.
    pub fn send<M: Serialize>(&self, message: &M) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message).map_err(ChannelError::Malformed)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        rustix::io::retry_on_intr(|| rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL))
            .map_err(|source| ChannelError::Socket { step: "send", source: source.into() })?;
        Ok(())
    }

    /// Waits for one message; `None` when the peer has closed its end.
    ///
    /// # Errors
    /// When the socket fails or what came is no message.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Option<M>, ChannelError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let received =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, buffer.as_mut_slice(), RecvFlags::TRUNC));
        let (_, length) = match received {
            Ok(received) => received,
            // A peer that died with messages of ours unread.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(source) => return Err(ChannelError::Socket { step: "receive", source: source.into() }),
        };
        if length == 0 {
            return Ok(None);
        }
        let bytes = buffer.get(..length).ok_or(ChannelError::TooLong)?;
        serde_json::from_slice(bytes).map(Some).map_err(ChannelError::Malformed)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order_then_end_of_file() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        let exited = FromProcess::Exited(VmExit::TripleFault { registers: "rip 0x1000".to_owned() });
        theirs.send(&FromProcess::Started).unwrap();
        theirs.send(&exited).unwrap();
        drop(theirs);
        assert_eq!(ours.receive::<FromProcess>().unwrap(), Some(FromProcess::Started));
        assert_eq!(ours.receive::<FromProcess>().unwrap(), Some(exited));
        assert_eq!(ours.receive::<FromProcess>().unwrap(), None);
    }

    #[test]
    fn foreign_bytes_are_an_error() {
        let (ours, theirs) = Channel::pair().unwrap();
        rustix::net::send(&theirs, b"{\"start", SendFlags::empty()).unwrap();
        assert!(matches!(ours.receive::<FromProcess>(), Err(ChannelError::Malformed(_))));
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_to_the_sender() {
        let (ours, theirs) = Channel::pair().unwrap();
        drop(theirs);
        assert!(matches!(ours.send(&ToProcess::Pause), Err(ChannelError::Socket { step: "send", .. })));
    }
}
