//! What stands in a process for descriptors of the shim's caller: its ends, and what the relay has behind them.
//!
//! A listening socket is one that the relay connects to, once for each connection that the shim has accepted. It has no
//! name, so that nobody else can: the relay reaches it by its place in the file system, which it holds open.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::process::relay;
use crate::process::relay_sockets::Listener;
use crate::process::stdio::{StdioError, descriptor, open_error};
use crate::streams::{Listening, Streams};

/// In the words of errors.
const NAME: &str = "a descriptor from 3 on";

/// What a process has at a number from 3 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub kind: Kind,
    /// Of its stream; for a listener, of all streams that become its connections.
    pub token: u64,
}

/// What a descriptor can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reading end of a pipe.
    Reader,
    /// The writing end of a pipe.
    Writer,
    /// A connected unix stream socket.
    Socket,
    /// A listening one.
    Listener,
}

/// The process's ends, in their order.
#[derive(Default)]
pub(super) struct Connected {
    pub(super) child: Vec<OwnedFd>,
    /// As long as connections may come.
    pub(super) listening: Vec<Listening>,
}

/// Makes an end for the process and one for the relay of each. Listening sockets have names in `folder` for a moment.
pub(super) async fn connect(
    streams: &Arc<Streams>,
    wanted: &[Descriptor],
    folder: &Path,
    relayed: &mut relay::Streams,
) -> Result<Connected, StdioError> {
    let mut connected = Connected::default();
    for &Descriptor { kind, token } in wanted {
        let open = open_error(NAME);
        let end = match kind {
            Kind::Reader => {
                let (process, pipe) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| open(error.into()))?;
                let shim = descriptor(streams, token, NAME).await?;
                relayed.more_input.push(relay::Stream { pipe, shim });
                process
            }
            Kind::Writer => {
                let (pipe, process) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| open(error.into()))?;
                let shim = descriptor(streams, token, NAME).await?;
                relayed.output.insert(0, relay::Stream { pipe, shim });
                process
            }
            Kind::Socket => {
                let (process, pipe) =
                    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                        .map_err(|error| open(error.into()))?;
                let shim = descriptor(streams, token, NAME).await?;
                relayed.sockets.push(relay::Stream { pipe, shim });
                process
            }
            Kind::Listener => {
                let (listening, connections) =
                    streams.listen(token).map_err(|source| StdioError::Connect { name: NAME, source })?;
                let (process, place) = nameless(folder, token).map_err(open)?;
                relayed.listeners.push(Listener { connections, place });
                connected.listening.push(listening);
                process
            }
        };
        connected.child.push(end);
    }
    Ok(connected)
}

/// A listening socket, and its place in the file system.
fn nameless(folder: &Path, token: u64) -> io::Result<(OwnedFd, OwnedFd)> {
    fs::create_dir_all(folder)?;
    // Nobody else has that token.
    let path = folder.join(format!("{token:x}"));
    let listener = UnixListener::bind(&path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(CWD, &path, flags, Mode::empty());
    fs::remove_file(&path)?;
    Ok((listener.into(), place?))
}
