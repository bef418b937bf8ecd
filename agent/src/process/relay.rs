//! The process that relays a workload's pipes to and from the shim.
//!
//! It is one of its own, for each process of a container, as a workload can hold whoever reads or writes the other end
//! of its pipe: the kernel keeps a pipe locked while it copies from or to memory that is not there yet (of a FUSE file), and
//! while splice(2) waits for an idle socket or terminal, and `O_NONBLOCK` does not concern that lock. What
//! is held then are the streams of that workload, and not the agent. Each stream has a thread, so that one that is
//! held does not hold another. What is not stdio is in `relay_sockets`.

#![allow(unsafe_code, reason = "_exit of a process that shares the agent's exit handlers")]

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::SigSet;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::process::relay_sockets::{self, Listener};
use crate::process::workload::close_all_but;
use crate::sys::clone3::{Clone3, Parent};

/// As much as a pipe holds, and a vsock packet carries. Its pages are touched only as far as they are used.
pub(super) const BUFFER: usize = 64 << 10;

/// Enough for a loop that calls the kernel.
const STACK: usize = 64 << 10;

/// One stream: the agent's end of the workload's pipe, and the shim's connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) pipe: OwnedFd,
    pub(super) shim: OwnedFd,
}

/// The streams of one process.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// From the shim to the process.
    pub(super) input: Option<Stream>,
    /// From the process to the shim; its stdout and stderr are the last.
    pub(super) output: Vec<Stream>,
    /// From the shim to the process, besides its stdin.
    pub(super) more_input: Vec<Stream>,
    /// Both ways, by a socket in the place of a pipe.
    pub(super) sockets: Vec<Stream>,
    pub(super) listeners: Vec<Listener>,
}

impl Streams {
    fn is_empty(&self) -> bool {
        let Self { input, output, more_input, sockets, listeners } = self;
        let streams = input.iter().chain(output).chain(more_input).chain(sockets);
        streams.count() == 0 && listeners.is_empty()
    }

    /// All descriptors of the relay's.
    fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = self.input.iter().chain(&self.output).chain(&self.more_input).chain(&self.sockets);
        let listeners = self.listeners.iter().flat_map(Listener::all);
        streams.flat_map(|stream| [stream.pipe.as_fd(), stream.shim.as_fd()]).chain(listeners)
    }
}

/// The relay of one process, as the agent sees it. Dropped, it is told that the process has ended. That of a container's
/// sockets (`crate::sockets`) is one, too.
#[derive(Debug)]
pub(crate) struct Relay(UnixStream);

impl Relay {
    /// Starts it, unless there is nothing to relay.
    ///
    /// # Errors
    ///
    /// Those of socketpair(2) and clone3(2).
    pub(super) fn start(streams: Streams) -> io::Result<Option<Self>> {
        if streams.is_empty() {
            return Ok(None);
        }
        Self::of(c"stdio", |agent| relay(streams, agent)).map(Some)
    }

    /// Starts one whose life is `relay`, with the end of its connection to the agent.
    ///
    /// # Errors
    ///
    /// As for [`Relay::start`].
    pub(crate) fn of(name: &CStr, relay: impl FnOnce(OwnedFd) -> io::Result<()>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (agent, end) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Clone3 { namespaces: 0, cgroup: None, parent: Parent::Caller }.spawn(|| live(name, || relay(end)))?;
        Ok(Self(UnixStream::from_std(agent.into())?))
    }

    /// Tells it that nothing new can come, and waits until it has handed on what the pipes hold. It has ended, or does so
    /// once the shim has closed the streams.
    pub(crate) async fn finish(mut self) {
        // It may have been killed: in a pid namespace that it shares with a container, that can be.
        let told = shutdown(&self.0, Shutdown::Write);
        while told.is_ok() && matches!(self.0.read(&mut [0]).await, Ok(1..)) {}
    }
}

/// The agent's word, and the threads' to it.
pub(super) struct Control {
    pub(super) agent: OwnedFd,
    /// How many outputs are yet to be handed on.
    outputs: AtomicUsize,
}

impl Control {
    /// One that there was is no more.
    pub(super) fn handed_on(&self) {
        if self.outputs.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.all_handed_on();
        }
    }

    /// The end of the process says so too, but waits for the shim.
    fn all_handed_on(&self) {
        // It fails if the agent has gone, and everything with it.
        let _ = shutdown(&self.agent, Shutdown::Write);
    }
}

/// The relay's whole life. It has been forked from a process with one thread, and may have as many as it likes.
fn live(name: &CStr, relay: impl FnOnce() -> io::Result<()>) -> Infallible {
    // As with the processes of containers (`workload::begin`): some may see this one.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Of a closed pipe it hears by EPIPE.
    let deaf = SigSet::all().thread_block();
    if hidden.is_ok() && deaf.is_ok() {
        let _ = rustix::thread::set_name(name);
        // What could not be relayed is closed, which the workload and the shim notice.
        let _ = relay();
    }
    // SAFETY: ends the process at once, without running what the agent registered for its own end.
    unsafe { libc::_exit(0) }
}

fn relay(streams: Streams, agent: OwnedFd) -> io::Result<()> {
    close_all_but(streams.all().chain([agent.as_fd()]));
    // The event loop had it otherwise.
    let mut blocking = streams.input.iter().chain(&streams.output);
    blocking.try_for_each(|stream| ioctl_fionbio(&stream.shim, false))?;
    // Somebody else may read it too, between the word that there is something and its reading.
    streams.output.iter().try_for_each(|stream| ioctl_fionbio(&stream.pipe, true))?;
    let Streams { input, mut output, more_input, sockets, listeners } = streams;
    // All sockets together count as one (`relay_sockets::supervise`).
    let outputs = output.len() + usize::from(!(sockets.is_empty() && listeners.is_empty()));
    let control = Arc::new(Control { agent, outputs: AtomicUsize::new(outputs) });
    let mine = output.pop();
    let mut others = relay_sockets::start(more_input, sockets, listeners, &control)?;
    // Here, as a thread that allocates first makes a heap of its own.
    let buffer = || Vec::with_capacity(BUFFER);
    for stream in output {
        let (control, buffer) = (Arc::clone(&control), buffer());
        others.push(start(move || drain(stream, &control, buffer))?);
    }
    let feeds = input.is_some();
    match (input, mine) {
        (Some(input), Some(output)) => {
            let (feeding, feeders) = (Arc::clone(&control), buffer());
            // Not waited for: whoever has got hold of the other end of the pipe might hold it.
            start(move || feed(&input, &feeding, feeders))?;
            drain(output, &control, buffer());
        }
        (None, Some(output)) => drain(output, &control, buffer()),
        (Some(input), None) => {
            if outputs == 0 {
                control.all_handed_on();
            }
            feed(&input, &control, buffer());
        }
        (None, None) if outputs == 0 => control.all_handed_on(),
        (None, None) => {}
    }
    for other in others {
        // One that has panicked has ended, which is all that is waited for.
        let _ = other.join();
    }
    if feeds {
        // A process that has closed its outputs may still read.
        let mut agent = [PollFd::new(&control.agent, PollFlags::IN)];
        retry_on_intr(|| poll(&mut agent, None))?;
    }
    Ok(())
}

pub(super) fn start(life: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().stack_size(STACK).spawn(life)
}

/// From the shim to the process, until the one or the other ends; the end of file closes the pipe.
fn feed(stream: &Stream, control: &Control, mut buffer: Vec<u8>) {
    while wait(&stream.shim, &control.agent).is_ok_and(|ready| !ready.over) {
        if !matches!(read(&stream.shim, &mut buffer), Ok(1..)) || write_all(&stream.pipe, &buffer).is_err() {
            return;
        }
    }
}

/// From the process to the shim, until the end of file, or until the pipe is empty once the process has ended.
fn drain(stream: Stream, control: &Control, mut buffer: Vec<u8>) {
    let Stream { pipe, shim } = stream;
    while wait(&pipe, &control.agent).is_ok_and(|ready| ready.stream) {
        match read(&pipe, &mut buffer) {
            Ok(1..) if write_all(&shim, &buffer).is_ok() => {}
            Err(Errno::AGAIN) => {}
            _ => break,
        }
    }
    // For writing only, until the shim closes it too: a full close could overtake what is on its way.
    let closed = shutdown(&shim, Shutdown::Write);
    control.handed_on();
    // Closing needs the pipe's lock. Who writes to it from here on gets EPIPE and SIGPIPE, as with runc in front of `head`.
    drop(pipe);
    while closed.is_ok() && matches!(read(&shim, &mut buffer), Ok(1..)) {}
}

/// What can be done.
pub(super) struct Ready {
    /// The stream has something to read, or has ended.
    pub(super) stream: bool,
    /// The agent has said that the process has ended.
    pub(super) over: bool,
}

/// Waits for a stream, or for the agent's word. No lock of a pipe is needed for that.
pub(super) fn wait(stream: &OwnedFd, agent: &OwnedFd) -> rustix::io::Result<Ready> {
    let mut both = [stream, agent].map(|fd| PollFd::new(fd, PollFlags::IN));
    retry_on_intr(|| poll(&mut both, None))?;
    let [stream, over] = both.map(|fd| !fd.revents().is_empty());
    Ok(Ready { stream, over })
}

fn read(from: &OwnedFd, buffer: &mut Vec<u8>) -> rustix::io::Result<usize> {
    buffer.clear();
    retry_on_intr(|| rustix::io::read(from, spare_capacity(buffer)))
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = retry_on_intr(|| rustix::io::write(to, bytes))?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
