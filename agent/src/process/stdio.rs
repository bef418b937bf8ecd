//! Stdin, stdout and stderr: pipes or a pty for the workload, relayed to the shim's streams, pipes by a process of
//! their own (`relay`), a pty by the agent.
//!
//! The workload never holds a vsock connection: /dev/stdout has to be a file that it can open again.
//!
//! When the shim drops an output stream, its pipe is closed, and who writes to it gets EPIPE and SIGPIPE, as
//! with runc in front of `head`; a terminal is hung up. When the process has ended and its cgroup is empty, nothing can come any
//! more (`Relays::finish`): what the pipes hold is handed on, and whoever else might still hold a pipe open
//! (a process that moved itself out of the cgroup, where the pid namespace is shared) is not waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::ProcessSpec;
use crate::process::console::Terminal;
use crate::process::descriptors;
use crate::process::files::Files;
use crate::process::relay::{self, BUFFER, Relay};
use crate::streams::{Connection, Listening, StreamError, Streams};

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The shim's connection is not there.
    #[error("cannot connect {name}")]
    Connect {
        /// `stdin`, `stdout`, `stderr` or `the terminal`.
        name: &'static str,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// The process between pipes and connections.
    #[error("cannot start the relay of stdio")]
    Relay(#[source] io::Error),
    /// A pipe or /dev/null.
    #[error("cannot open a pipe for {name}")]
    Open {
        /// As above.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Tokens of the streams; 0 is /dev/null.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokens {
    /// From the shim.
    pub stdin: u64,
    /// To the shim.
    pub stdout: u64,
    /// To the shim.
    pub stderr: u64,
    /// Both ways.
    pub terminal: u64,
}

/// What a process gets as its descriptors 0, 1 and 2, and from 3 on, and the relays behind them.
pub struct Stdio {
    /// The workload's ends.
    pub child: Files,
    /// The agent's ends.
    pub relays: Relays,
    terminal: Option<Box<dyn Connection>>,
}

/// The running relays of one process.
#[derive(Debug)]
pub struct Relays {
    /// As long as connections to its listening sockets may come.
    listening: Vec<Listening>,
    pipes: Option<Relay>,
    terminal: Option<(JoinHandle<()>, watch::Sender<bool>)>,
}

impl Stdio {
    /// Claims the shim's connections and puts a pipe before each. For a terminal, the process starts with
    /// /dev/null and opens its pty itself. `folder` is for [`descriptors::connect`].
    ///
    /// # Errors
    ///
    /// [`StdioError`].
    pub async fn connect(
        streams: &Arc<Streams>,
        process: &ProcessSpec,
        folder: &Path,
    ) -> Result<Self, StdioError> {
        let tokens = process.tokens;
        let terminal = match tokens.terminal {
            0 => None,
            token => Some(claim(streams, token, "the terminal").await?),
        };
        let mut relayed = relay::Streams::default();
        let stdin = match tokens.stdin {
            0 => null("stdin")?,
            token => {
                let (process, pipe) = pipe("stdin")?;
                let shim = descriptor(streams, token, "stdin").await?;
                relayed.input = Some(relay::Stream { pipe, shim });
                process
            }
        };
        let mut output = async |token, name| match token {
            0 => null(name),
            token => {
                let (pipe, process) = pipe(name)?;
                let shim = descriptor(streams, token, name).await?;
                relayed.output.push(relay::Stream { pipe, shim });
                Ok(process)
            }
        };
        let stdio = [stdin, output(tokens.stdout, "stdout").await?, output(tokens.stderr, "stderr").await?];
        let more = descriptors::connect(streams, &process.descriptors, folder, &mut relayed).await?;
        let pipes = Relay::start(relayed).map_err(StdioError::Relay)?;
        let relays = Relays { listening: more.listening, pipes, terminal: None };
        Ok(Self { child: Files { stdio, more: more.child }, relays, terminal })
    }

    /// Starts the relay of a terminal, once its master is known, and returns all relays.
    ///
    /// # Errors
    ///
    /// [`StdioError`].
    pub fn attach_terminal(
        mut self,
        master: Option<OwnedFd>,
    ) -> Result<(Relays, Option<Arc<Terminal>>), StdioError> {
        let Some(master) = master else { return Ok((self.relays, None)) };
        let terminal = match self.terminal.take() {
            Some(connection) => self.relays.attach_terminal(connection, master),
            None => Ok(Arc::new(Terminal::new(master))),
        };
        Ok((self.relays, Some(terminal.map_err(open_error("the terminal"))?)))
    }
}

impl Relays {
    /// Hands on what the process has left in its pipes, and ends. Called when the process and all of its
    /// container's have ended.
    pub async fn finish(self) {
        drop(self.listening);
        if let Some((relay, finish)) = self.terminal {
            finish.send_replace(true);
            // A relay that panicked would have ended the agent.
            let _ = relay.await;
        }
        if let Some(pipes) = self.pipes {
            pipes.finish().await;
        }
    }

    fn attach_terminal(
        &mut self,
        connection: Box<dyn Connection>,
        master: OwnedFd,
    ) -> io::Result<Arc<Terminal>> {
        rustix::io::ioctl_fionbio(&master, true)?;
        // Not pipes, but all that is asked of them is readiness, read and write.
        let source = Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        let sink = Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let (from_shim, to_shim) = split(connection);
        let (terminal, (finish, finishing)) = (Arc::new(Terminal::new(master)), watch::channel(false));
        let relay = tokio::spawn({
            let terminal = Arc::clone(&terminal);
            async move {
                relay_screen(source, to_shim, finishing).await;
                terminal.hang_up();
            }
        });
        self.terminal = Some((relay, finish));
        tokio::spawn(relay_keys(from_shim, sink));
        Ok(terminal)
    }
}

/// From the shim to a terminal, until the shim closes the stream: ending earlier would close it in both
/// directions, with output still on its way.
async fn relay_keys(mut from: ReadHalf<Box<dyn Connection>>, to: Sender) {
    let mut to = Some(to);
    let mut buffer = Vec::with_capacity(BUFFER);
    while let Ok(1..) = from.read_buf(&mut buffer).await {
        let failed = match &mut to {
            Some(terminal) => terminal.write_all(&buffer).await.is_err(),
            None => false,
        };
        if failed {
            to = None;
        }
        buffer.clear();
    }
}

/// From a terminal to the shim, until it is hung up, or until there is nothing to read once `finish` is set.
async fn relay_screen(
    from: Receiver,
    mut to: WriteHalf<Box<dyn Connection>>,
    mut finish: watch::Receiver<bool>,
) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let finishing = *finish.borrow();
        buffer.clear();
        match read(&from, &mut buffer, finishing) {
            Ok(1..) => {
                if to.write_all(&buffer).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !finishing => {
                tokio::select! {
                    _ = from.readable() => {}
                    changed = finish.changed() => if changed.is_err() { return },
                }
            }
            // A pty reports EIO once no process has its other end open.
            Ok(0) | Err(_) => break,
        }
    }
    // For writing only, until the shim closes it (`relay_keys`). It is gone if this fails.
    let _ = to.shutdown().await;
}

/// Reads what is there. When `finishing`, from the file itself: the runtime may not have heard yet that there
/// is something to read.
fn read(from: &Receiver, buffer: &mut Vec<u8>, finishing: bool) -> io::Result<usize> {
    if finishing {
        Ok(rustix::io::read(from.as_fd(), spare_capacity(buffer))?)
    } else {
        from.try_read_buf(buffer)
    }
}

async fn claim(streams: &Streams, token: u64, name: &'static str) -> Result<Box<dyn Connection>, StdioError> {
    streams.claim(token).await.map_err(|source| StdioError::Connect { name, source })
}

/// A connection for another process to use; the event loop gives it up.
pub(super) async fn descriptor(
    streams: &Streams,
    token: u64,
    name: &'static str,
) -> Result<OwnedFd, StdioError> {
    claim(streams, token, name).await?.as_fd().try_clone_to_owned().map_err(open_error(name))
}

fn pipe(name: &'static str) -> Result<(OwnedFd, OwnedFd), StdioError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| open_error(name)(error.into()))
}

fn null(name: &'static str) -> Result<OwnedFd, StdioError> {
    rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| open_error(name)(error.into()))
}

pub(super) fn open_error(name: &'static str) -> impl Fn(io::Error) -> StdioError {
    move |source| StdioError::Open { name, source }
}
