//! What the relay of a process carries besides stdio: pipes from the shim, sockets both ways, and connections to sockets on
//! which the process listens.
//!
//! Threads: one for each pipe and each listening socket, two for each socket and each connection, and one that supervises the
//! sockets. None blocks but in poll(2), so that each hears that the process has ended: nothing is passed to it any more, and
//! what it has left is handed on, to a shim that takes it. A workload may hold one all the same: by a descriptor that it
//! sends through its socket, whose last close is then the relay's and takes its time. So none is waited for without end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{Shutdown, shutdown};

use crate::process::relay::{Control, Stream, start as thread, wait};
use crate::sys::pass;

/// On the stack of each thread.
const BUFFER: usize = 16 << 10;

/// Connections to all of a listening socket that there may be at a time; the shim makes no more.
const MOST: usize = 64;

/// How long the shim may take for what a process that has ended has left in a socket: its peer is anybody.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much longer than that their threads may take.
const GRACE: Duration = Duration::from_millis(500);

/// How long a peer may go on when the process has closed its end of a socket: it may be busy with what it has been sent, which
/// would be lost if the connection closed.
const FAREWELL: Duration = Duration::from_secs(60);

/// A socket on which the process listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// From here come the shim's connections (`sys::pass`).
    pub(super) connections: OwnedFd,
    /// Where the socket is.
    pub(super) place: OwnedFd,
}

impl Listener {
    pub(super) fn all(&self) -> [BorrowedFd<'_>; 2] {
        [self.connections.as_fd(), self.place.as_fd()]
    }
}

/// Starts the threads of all.
pub(super) fn start(
    pipes: Vec<Stream>,
    sockets: Vec<Stream>,
    listeners: Vec<Listener>,
    control: &Arc<Control>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let ways = Arc::new(Ways { open: Mutex::new(sockets.len()), idle: Condvar::new() });
    if !(sockets.is_empty() && listeners.is_empty()) {
        let (ways, control) = (Arc::clone(&ways), Arc::clone(control));
        threads.push(thread(move || supervise(&ways, &control))?);
    }
    for stream in pipes {
        stream.unblock()?;
        let control = Arc::clone(control);
        threads.push(thread(move || feed(&stream, &control))?);
    }
    for stream in sockets {
        stream.unblock()?;
        let (ways, control) = (Arc::clone(&ways), Arc::clone(control));
        threads.push(thread(move || both_ways(stream, &ways, &control))?);
    }
    for listener in listeners {
        let (ways, control) = (Arc::clone(&ways), Arc::clone(control));
        threads.push(thread(move || listen(&listener, &ways, &control))?);
    }
    Ok(threads)
}

/// How many sockets may have something that the process has left in them.
struct Ways {
    open: Mutex<usize>,
    idle: Condvar,
}

impl Ways {
    fn enter(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn leave(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = open.saturating_sub(1);
        self.idle.notify_all();
    }

    fn wait_until_idle(&self, time: Duration) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it was in time is all the same.
        drop(self.idle.wait_timeout_while(open, time, |open| *open > 0));
    }
}

/// When the process has ended, and the sockets have been handed on, or have taken too long, says so.
fn supervise(ways: &Ways, control: &Control) {
    let mut agent = [PollFd::new(&control.agent, PollFlags::IN)];
    // It does not fail; then the end would be now.
    let _ = retry_on_intr(|| poll(&mut agent, None));
    ways.wait_until_idle(PATIENCE + GRACE);
    control.handed_on();
}

/// Why nothing is carried any more.
enum End {
    /// There is no more.
    Source,
    /// Nobody takes it any more.
    Sink,
    /// The process has ended.
    Over,
}

impl Stream {
    fn unblock(&self) -> rustix::io::Result<()> {
        ioctl_fionbio(&self.pipe, true)?;
        ioctl_fionbio(&self.shim, true)
    }
}

/// From the shim to a pipe. When either ends, both are closed.
fn feed(stream: &Stream, control: &Control) {
    carry(&stream.shim, &stream.pipe, control, Duration::ZERO);
}

/// Between the shim and a socket of the process, until both directions have ended.
fn both_ways(stream: Stream, ways: &Arc<Ways>, control: &Arc<Control>) {
    let stream = Arc::new(stream);
    let (outward, leaving, controlling) = (Arc::clone(&stream), Arc::clone(ways), Arc::clone(control));
    match thread(move || send(&outward, &leaving, &controlling)) {
        Ok(sending) => {
            deliver(&stream, control);
            // One that has panicked has ended, which is all that is waited for.
            let _ = sending.join();
        }
        Err(_) => ways.leave(),
    }
}

/// To the process.
fn deliver(stream: &Stream, control: &Control) {
    match carry(&stream.shim, &stream.pipe, control, Duration::ZERO) {
        End::Source => drop(shutdown(&stream.pipe, Shutdown::Write)),
        End::Sink => discard(&stream.shim, Some((control, FAREWELL))),
        End::Over => {}
    }
}

/// From the process.
fn send(stream: &Stream, ways: &Ways, control: &Control) {
    let end = carry(&stream.pipe, &stream.shim, control, PATIENCE);
    // Each fails only where the other end is gone, which it would be told by this.
    match end {
        End::Source | End::Over => drop(shutdown(&stream.shim, Shutdown::Write)),
        End::Sink => drop(shutdown(&stream.pipe, Shutdown::Read)),
    }
    ways.leave();
    if matches!(end, End::Over) {
        // A full close could overtake what is on its way.
        discard(&stream.shim, None);
    }
}

/// Until one of the two ends; until there is nothing to read if the process has ended, and no longer than `patience` then.
fn carry(from: &OwnedFd, to: &OwnedFd, control: &Control, patience: Duration) -> End {
    let mut buffer = [0; BUFFER];
    loop {
        let Ok([readable, over, broken]) = look(from, &control.agent, to) else { return End::Source };
        if over && (patience.is_zero() || !readable) {
            return End::Over;
        }
        if !readable && broken {
            return End::Sink;
        }
        match retry_on_intr(|| rustix::io::read(from, &mut buffer)) {
            Ok(0) => return End::Source,
            Ok(length) => match write_all(to, buffer.get(..length).unwrap_or_default(), control, patience) {
                Ok(()) => {}
                Err(end) => return end,
            },
            Err(Errno::AGAIN) => {}
            Err(_) => return End::Source,
        }
    }
}

/// Waits until there is something to read, the process has ended, or the sink is gone: which of them.
fn look(from: &OwnedFd, agent: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<[bool; 3]> {
    let mut fds = [
        PollFd::new(from, PollFlags::IN),
        PollFd::new(agent, PollFlags::IN),
        PollFd::new(to, PollFlags::empty()),
    ];
    retry_on_intr(|| poll(&mut fds, None))?;
    Ok(fds.map(|fd| !fd.revents().is_empty()))
}

/// A process that has ended is given nothing, and what it has left waits no longer than `patience`.
fn write_all(to: &OwnedFd, mut bytes: &[u8], control: &Control, patience: Duration) -> Result<(), End> {
    let mut deadline = None;
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(to, bytes)) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::new(to, PollFlags::OUT), PollFd::new(&control.agent, PollFlags::IN)];
                // Its end is told once.
                let waited = match deadline {
                    None => retry_on_intr(|| poll(&mut fds, None)),
                    Some(deadline) => poll_until(fds.get_mut(..1).unwrap_or_default(), deadline),
                };
                let over = fds.get(1).is_some_and(|agent| !agent.revents().is_empty());
                if over && deadline.is_none() {
                    deadline = Instant::now().checked_add(patience);
                }
                if waited != Ok(0) && waited.is_ok() {
                    continue;
                }
                return Err(End::Over);
            }
            Err(_) => return Err(End::Sink),
        }
    }
    Ok(())
}

fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> rustix::io::Result<usize> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_range| Errno::INVAL)?;
    retry_on_intr(|| poll(fds, Some(&left)))
}

/// Reads to the end, until the process has ended, or for so long.
fn discard(from: &OwnedFd, until: Option<(&Control, Duration)>) {
    let mut buffer = [0; BUFFER];
    let deadline = until.and_then(|(_, time)| Instant::now().checked_add(time));
    loop {
        let mut fds = vec![PollFd::new(from, PollFlags::IN)];
        fds.extend(until.map(|(control, _)| PollFd::new(&control.agent, PollFlags::IN)));
        let waited = match deadline {
            Some(deadline) => poll_until(&mut fds, deadline),
            None => retry_on_intr(|| poll(&mut fds, None)),
        };
        let over = fds.get(1).is_some_and(|agent| !agent.revents().is_empty());
        if over || !matches!(waited, Ok(1..)) {
            return;
        }
        match retry_on_intr(|| rustix::io::read(from, &mut buffer)) {
            Ok(1..) | Err(Errno::AGAIN) => {}
            _ => return,
        }
    }
}

/// Takes connections as long as the process lives, then waits for those that there are.
fn listen(listener: &Listener, ways: &Arc<Ways>, control: &Arc<Control>) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while wait(&listener.connections, &control.agent).is_ok_and(|ready| !ready.over) {
        let Ok(Some(shim)) = pass::receive(&listener.connections) else { break };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MOST {
            continue;
        }
        let Ok(place) = listener.place.try_clone() else { continue };
        let (ways, control) = (Arc::clone(ways), Arc::clone(control));
        // Who is not connected is told so by the end of the connection.
        connections.extend(thread(move || connection(shim, &place, &ways, &control)));
    }
    for connection in connections {
        // As above.
        let _ = connection.join();
    }
}

fn connection(shim: OwnedFd, place: &OwnedFd, ways: &Arc<Ways>, control: &Arc<Control>) {
    let connect = || -> io::Result<Stream> {
        // Does not wait: more can wait for their acceptance than there may be.
        let pipe = UnixStream::connect(format!("/proc/self/fd/{}", place.as_raw_fd()))?.into();
        let stream = Stream { pipe, shim };
        stream.unblock()?;
        Ok(stream)
    };
    if let Ok(stream) = connect() {
        ways.enter();
        both_ways(stream, ways, control);
    }
}
