//! Connects descriptors of this process's caller with those of the workload that stand for them.
//!
//! Threads: one for each direction of each descriptor and of each connection, and one for each listening socket. They begin
//! where they are made, in the mount namespace of this process's start, and those that read or accept wait until the
//! workload runs. Nothing is held of what is on its way but a buffer for each direction.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{SocketFlags, accept_with};

use super::copy::{CopyEnd, copy_while_taken};
use super::poll::poll_until;
use crate::preserved::kind::Kind;

/// The threads need little more than what a call into `std` does.
const STACK: usize = 64 << 10;

/// Connections to all sockets of a process on which it listens; the next ones wait to be accepted. Each takes two of this
/// process's descriptors.
const MOST: usize = 64;

/// How long to wait for descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// Makes a connection for streams to the agent.
pub(crate) type Connect = Arc<dyn Fn() -> io::Result<UnixStream> + Send + Sync>;

/// A descriptor with what it is connected to.
pub(crate) enum Connected {
    /// To a stream of its own.
    Stream(OwnedFd, Kind, UnixStream),
    /// To a stream for each connection that comes, which begins with the token.
    Listener {
        /// On this side.
        listener: OwnedFd,
        /// To the workload's.
        token: u64,
        /// How to get there.
        connect: Connect,
    },
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(fd, kind, _) => formatter.debug_tuple("Stream").field(fd).field(kind).finish(),
            Self::Listener { listener, .. } => formatter.debug_tuple("Listener").field(listener).finish(),
        }
    }
}

/// Lets threads begin that wait for the workload to run.
#[derive(Debug, Default)]
pub(crate) struct Gates(Vec<PipeWriter>);

impl Gates {
    /// Lets them.
    pub(crate) fn open(self) -> io::Result<()> {
        self.0.into_iter().try_for_each(|mut gate| gate.write_all(&[1]))
    }
}

/// What of the workload's is still on its way.
#[derive(Debug)]
pub(crate) struct Ways {
    /// To sockets, whose peers may be anybody: polls readable when there is nothing.
    sockets: PipeReader,
    /// Closed, nothing is accepted any more.
    accepting: Mutex<Vec<PipeWriter>>,
}

impl Ways {
    /// Polls readable once sockets have been given all there was for them.
    pub(crate) fn done(&self) -> BorrowedFd<'_> {
        self.sockets.as_fd()
    }

    /// Leaves connections that come from now on to whoever listens next.
    pub(crate) fn accept_no_more(&self) {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What the threads of one process share.
struct Start {
    running: PipeWriter,
    sockets: PipeWriter,
    room: Arc<Room>,
    gates: Gates,
    accepting: Vec<PipeWriter>,
}

/// Starts all of them. `running` is held while output is on its way to what is no socket.
pub(crate) fn start(all: Vec<Connected>, running: &PipeWriter) -> io::Result<(Gates, Option<Ways>)> {
    if all.is_empty() {
        return Ok((Gates::default(), None));
    }
    let (sockets, sending) = io::pipe()?;
    let mut start = Start {
        running: running.try_clone()?,
        sockets: sending,
        room: Arc::default(),
        gates: Gates::default(),
        accepting: Vec::new(),
    };
    for connected in all {
        match connected {
            Connected::Stream(fd, kind, stream) => start.stream(fd, kind, stream)?,
            Connected::Listener { listener, token, connect } => start.listener(listener, token, connect)?,
        }
    }
    Ok((start.gates, Some(Ways { sockets, accepting: Mutex::new(start.accepting) })))
}

impl Start {
    fn stream(&mut self, fd: OwnedFd, kind: Kind, stream: UnixStream) -> io::Result<()> {
        match kind {
            Kind::Reader => self.input(File::from(fd), stream),
            Kind::Writer => self.output(File::from(fd), stream),
            Kind::Both => {
                self.output(File::from(fd.try_clone()?), stream.try_clone()?)?;
                self.input(File::from(fd), stream)
            }
            Kind::File => {
                let file = File::from(fd);
                let start = io::Seek::stream_position(&mut &file)?;
                self.output(file.try_clone()?, stream.try_clone()?)?;
                self.input(Positioned { file, at: start }, stream)
            }
            Kind::Socket | Kind::Listener => {
                let pair = Arc::new(Pair { peer: fd.into(), stream, _place: None });
                let (outward, sending) = (Arc::clone(&pair), self.sockets.try_clone()?);
                spawn("fd-out", move || {
                    outward.send();
                    drop(sending);
                })?;
                let mut gate = self.gate()?;
                spawn("fd-in", move || {
                    if has_opened(&mut gate) {
                        pair.deliver();
                    }
                })
            }
        }
    }

    fn input(&mut self, from: impl Read + AsFd + Send + 'static, stream: UnixStream) -> io::Result<()> {
        let mut gate = self.gate()?;
        spawn("fd-in", move || {
            if !has_opened(&mut gate) {
                return;
            }
            // A workload that reads no more is no error.
            if let CopyEnd::Source(error) = copy_while_taken(from, &stream) {
                crate::report::warning(&format!("cannot read a descriptor of the caller: {error}"));
            }
            // Fails only if the stream has ended already.
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    fn output(&self, to: File, stream: UnixStream) -> io::Result<()> {
        let running = self.running.try_clone()?;
        spawn("fd-out", move || {
            if let CopyEnd::Sink(error) = copy_while_taken(&stream, &to) {
                // The workload's next write fails, as it would with this descriptor itself.
                let _ = stream.shutdown(Shutdown::Read);
                if error.kind() != io::ErrorKind::BrokenPipe {
                    crate::report::warning(&format!("cannot write to a descriptor of the caller: {error}"));
                }
            }
            // Before anybody may believe that all has ended.
            drop(to);
            drop(running);
        })
    }

    fn listener(&mut self, listener: OwnedFd, token: u64, connect: Connect) -> io::Result<()> {
        let gate = self.gate()?;
        let accepting = self.gates.0.last().map(PipeWriter::try_clone).transpose()?;
        self.accepting.extend(accepting);
        let service =
            Service { token, connect, room: Arc::clone(&self.room), sending: self.sockets.try_clone()? };
        spawn("fd-accept", move || accept(&listener, gate, service))
    }

    fn gate(&mut self) -> io::Result<PipeReader> {
        let (closed, gate) = io::pipe()?;
        self.gates.0.push(gate);
        Ok(closed)
    }
}

/// Waits; false if the workload never runs.
fn has_opened(gate: &mut PipeReader) -> bool {
    matches!(gate.read(&mut [0]), Ok(1))
}

/// A file that is read from a position of its own.
struct Positioned {
    file: File,
    at: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(length as u64);
        Ok(length)
    }
}

impl AsFd for Positioned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A socket of the caller, or a connection to one, and its stream.
struct Pair {
    peer: UnixStream,
    stream: UnixStream,
    _place: Option<Taken>,
}

impl Pair {
    /// To the workload. The end of each goes on; an error is the end of its direction.
    fn deliver(&self) {
        match copy_while_taken(&self.peer, &self.stream) {
            CopyEnd::Sink(_) => drop(self.peer.shutdown(Shutdown::Read)),
            CopyEnd::EndOfFile | CopyEnd::Source(_) => drop(self.stream.shutdown(Shutdown::Write)),
        }
    }

    /// From the workload.
    fn send(&self) {
        match copy_while_taken(&self.stream, &self.peer) {
            CopyEnd::Sink(_) => drop(self.stream.shutdown(Shutdown::Read)),
            CopyEnd::EndOfFile | CopyEnd::Source(_) => drop(self.peer.shutdown(Shutdown::Write)),
        }
    }
}

/// What each connection of a listener needs.
struct Service {
    token: u64,
    connect: Connect,
    room: Arc<Room>,
    sending: PipeWriter,
}

/// Accepts while the workload runs: before and after it, the kernel keeps connections for whoever listens then.
fn accept(listener: &OwnedFd, mut gate: PipeReader, service: Service) {
    if !has_opened(&mut gate) {
        return;
    }
    let service = Arc::new(service);
    loop {
        let place = service.room.take();
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&gate, PollFlags::IN)];
        let polled = poll_until(&mut fds, None);
        let [_, over] = fds.map(|fd| !fd.revents().is_empty());
        if over || polled.is_err() {
            return;
        }
        // Of a listener that does not block, somebody else may have taken it.
        let accepted = accept_with(listener, SocketFlags::CLOEXEC);
        let served = match accepted {
            Ok(peer) => {
                let service = Arc::clone(&service);
                spawn("fd-connect", move || serve(peer.into(), &service, place))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        if let Err(error) = served {
            // Out of descriptors or memory: what holds them may go.
            tracing::warn!(%error, "cannot accept a connection for the workload");
            thread::sleep(PAUSE);
        }
    }
}

/// Whoever cannot be connected reads the end.
fn serve(peer: UnixStream, service: &Service, place: Taken) {
    let connected = (service.connect)().and_then(|stream| {
        (&stream).write_all(&service.token.to_be_bytes())?;
        let pair = Arc::new(Pair { peer, stream, _place: Some(place) });
        let (outward, sending) = (Arc::clone(&pair), service.sending.try_clone()?);
        spawn("fd-out", move || {
            outward.send();
            drop(sending);
        })?;
        pair.deliver();
        Ok(())
    });
    if let Err(error) = connected {
        tracing::warn!(%error, "cannot connect a client to the workload");
    }
}

/// How many connections there are.
#[derive(Default)]
struct Room {
    open: Mutex<usize>,
    left: Condvar,
}

impl Room {
    /// Waits until there may be another.
    fn take(self: &Arc<Self>) -> Taken {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open =
            self.left.wait_while(open, |open| *open >= MOST).unwrap_or_else(PoisonError::into_inner);
        *open += 1;
        Taken(Arc::clone(self))
    }
}

/// Says, as long as it is there, that a connection is, or may come.
struct Taken(Arc<Room>);

impl Drop for Taken {
    fn drop(&mut self) {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.left.notify_one();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}

#[cfg(test)]
#[path = "descriptors_tests.rs"]
mod tests;
