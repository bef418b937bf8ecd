//! Stdin, stdout and stderr: pipes or a pty for the workload, relayed to the shim's streams.
//!
//! The workload never holds a vsock connection: /dev/stdout has to be a file that it can open again.
//!
//! When the shim drops an output stream, its pipe is closed, and who writes to it gets EPIPE and SIGPIPE, as
//! with runc in front of `head`; a terminal is hung up. When the process has ended and its cgroup is empty, nothing can come any
//! more (`Relays::finish`): what the pipes hold is handed on, and whoever else might still hold a pipe open
//! (a process that moved itself out of the cgroup, where the pid namespace is shared) is not waited for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::console::Terminal;
use crate::streams::{Connection, StreamError, Streams};

/// As much as a pipe holds, and a vsock packet carries. Its pages are touched only as far as they are used.
const BUFFER: usize = 64 << 10;

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

/// What a process gets as its descriptors 0, 1 and 2, and the relays behind them.
pub struct Stdio {
    /// The workload's ends.
    pub child: [OwnedFd; 3],
    /// The agent's ends.
    pub relays: Relays,
    terminal: Option<Box<dyn Connection>>,
}

/// The running relays of one process.
#[derive(Debug)]
pub struct Relays {
    input: Vec<JoinHandle<()>>,
    output: Vec<JoinHandle<()>>,
    finish: watch::Sender<bool>,
}

impl Stdio {
    /// Claims the shim's connections and puts a pipe before each. For a terminal, the process starts with
    /// /dev/null and opens its pty itself.
    ///
    /// # Errors
    ///
    /// [`StdioError`].
    pub async fn connect(streams: &Streams, tokens: Tokens) -> Result<Self, StdioError> {
        let mut relays = Relays { input: Vec::new(), output: Vec::new(), finish: watch::Sender::new(false) };
        let terminal = match tokens.terminal {
            0 => None,
            token => Some(claim(streams, token, "the terminal").await?),
        };
        let stdin = match tokens.stdin {
            0 => null("stdin")?,
            token => relays.feed(claim(streams, token, "stdin").await?)?,
        };
        let stdout = match tokens.stdout {
            0 => null("stdout")?,
            token => relays.drain(claim(streams, token, "stdout").await?, "stdout")?,
        };
        let stderr = match tokens.stderr {
            0 => null("stderr")?,
            token => relays.drain(claim(streams, token, "stderr").await?, "stderr")?,
        };
        Ok(Self { child: [stdin, stdout, stderr], relays, terminal })
    }

    /// Starts the relays of a terminal, once its master is known, and returns all relays.
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
        for task in self.input {
            task.abort();
        }
        self.finish.send_replace(true);
        for task in self.output {
            // A relay that panicked would have ended the agent.
            let _ = task.await;
        }
    }

    fn feed(&mut self, connection: Box<dyn Connection>) -> Result<OwnedFd, StdioError> {
        let (reader, writer) = pipe("stdin")?;
        let sink = Sender::from_owned_fd(writer).map_err(open_error("stdin"))?;
        self.input.push(tokio::spawn(relay_input(split(connection).0, sink)));
        Ok(reader)
    }

    fn drain(&mut self, connection: Box<dyn Connection>, name: &'static str) -> Result<OwnedFd, StdioError> {
        let (reader, writer) = pipe(name)?;
        let source = Receiver::from_owned_fd(reader).map_err(open_error(name))?;
        let (stream, sink) = split(connection);
        self.output.push(tokio::spawn(relay_output(source, sink, self.finish.subscribe(), Some(stream))));
        Ok(writer)
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
        let (terminal, finish) = (Arc::new(Terminal::new(master)), self.finish.subscribe());
        self.output.push(tokio::spawn({
            let terminal = Arc::clone(&terminal);
            async move {
                relay_output(source, to_shim, finish, None).await;
                terminal.hang_up();
            }
        }));
        tokio::spawn(relay_keys(from_shim, sink));
        Ok(terminal)
    }
}

/// From the shim to the process; its end of file closes the pipe. A process that closes its stdin ends it too.
async fn relay_input(mut from: ReadHalf<Box<dyn Connection>>, mut to: Sender) {
    let mut buffer = Vec::with_capacity(BUFFER);
    while let Ok(1..) = from.read_buf(&mut buffer).await {
        if to.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
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

/// From the process to the shim, until the end of file, or until the pipe is empty once `finish` is set.
///
/// At the end the stream is closed for writing only, and `linger`, its other half, kept until the shim
/// closes it: a full close could overtake what is on its way.
async fn relay_output(
    from: Receiver,
    mut to: WriteHalf<Box<dyn Connection>>,
    mut finish: watch::Receiver<bool>,
    linger: Option<ReadHalf<Box<dyn Connection>>>,
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
    drop(from);
    let closed = to.shutdown().await;
    if let (Ok(()), Some(mut stream)) = (closed, linger) {
        tokio::spawn(async move {
            while let Ok(1..) = stream.read_buf(&mut buffer).await {
                buffer.clear();
            }
            drop(to);
        });
    }
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

fn pipe(name: &'static str) -> Result<(OwnedFd, OwnedFd), StdioError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| open_error(name)(error.into()))
}

fn null(name: &'static str) -> Result<OwnedFd, StdioError> {
    rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| open_error(name)(error.into()))
}

fn open_error(name: &'static str) -> impl Fn(io::Error) -> StdioError {
    move |source| StdioError::Open { name, source }
}
