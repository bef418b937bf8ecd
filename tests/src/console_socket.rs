//! Where an engine awaits the terminal of a container.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A listening socket.
#[derive(Debug)]
pub struct ConsoleSocket(UnixListener);

impl ConsoleSocket {
    /// For `--console-socket`.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).context("cannot bind the console socket")?;
        // Whoever is there has come before the command returned.
        listener.set_nonblocking(true).context("cannot set up the console socket")?;
        Ok(Self(listener))
    }

    /// The terminal's master, from a command that has ended.
    ///
    /// # Errors
    /// When none was sent.
    pub fn terminal(&self) -> Result<OwnedFd> {
        let (connection, _) = self.0.accept().context("nobody has sent a terminal")?;
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut name)];
        recvmsg(&connection, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).context("nothing came")?;
        let mut messages = ancillary.drain();
        let Some(RecvAncillaryMessage::ScmRights(mut fds)) = messages.next() else {
            bail!("no descriptor came");
        };
        fds.next().context("no descriptor came")
    }
}
