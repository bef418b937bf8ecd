//! The thread that reads all that a QEMU process says: its QMP connection, its standard error and its log of
//! CPU resets.
//!
//! It runs until all are at their end, or the driver says that the process is gone: a QEMU that a guest has come to own
//! may have left a child that has them. It is needed because QEMU keeps in memory what nobody reads, and a guest can cause
//! events and warnings for as long as it runs.
//! It shares nothing: replies go out through a channel, what it saw comes back when it is joined.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::qmp::{Event, LineBuffer, Message, ShutdownReason};
use super::stderr::Tail;

/// How often what a process has left is read, which is once for each pipe's page and some more.
const LAST_READS: usize = 64;

/// More messages than this unanswered by the driver mean that QEMU makes them up.
const MAX_PENDING: usize = 8;

/// What was seen of a process up to its end.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// From the first SHUTDOWN event.
    pub(crate) shutdown: Option<ShutdownReason>,
    /// The log of CPU resets tells of a triple fault.
    pub(crate) triple_fault: bool,
    /// Last lines of the standard error.
    pub(crate) stderr: String,
    /// How QEMU broke QMP.
    pub(crate) violation: Option<&'static str>,
}

/// The ends of a process's output that are read.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) qmp: UnixStream,
    pub(crate) stderr: File,
    pub(crate) reset_log: Option<File>,
}

/// A running reader.
#[derive(Debug)]
pub(crate) struct Watch {
    thread: JoinHandle<Observed>,
    /// Signalled when the process has ended.
    ended: Arc<OwnedFd>,
}

impl Watch {
    /// Starts reading. Greeting and replies come out of the channel, which closes when the QMP connection
    /// does.
    pub(crate) fn start(sources: Sources) -> io::Result<(Self, Receiver<Message>)> {
        let (sender, receiver) = sync_channel(MAX_PENDING);
        let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("qemu-watch".to_owned())
            .spawn(move || Reader::new(sources, sender).run(&told))?;
        Ok((Self { thread, ended }, receiver))
    }

    /// Tells what was seen of a process that has ended.
    pub(crate) fn join(self) -> Observed {
        if let Err(error) = rustix::io::write(&self.ended, &1_u64.to_ne_bytes()) {
            tracing::debug!(%error, "telling the thread that reads from QEMU");
        }
        self.thread.join().unwrap_or_else(|_| Observed {
            violation: Some("the thread that read its messages panicked"),
            ..Observed::default()
        })
    }
}

#[derive(Debug, Default)]
struct Ready {
    ended: bool,
    qmp: bool,
    stderr: bool,
    reset_log: bool,
}

struct Reader {
    qmp: Option<UnixStream>,
    stderr: Option<File>,
    reset_log: Option<File>,
    lines: LineBuffer,
    log_lines: LineBuffer,
    /// None once QEMU broke the protocol: its further bytes are read and dropped.
    sender: Option<SyncSender<Message>>,
    tail: Tail,
    observed: Observed,
}

impl Reader {
    fn new(sources: Sources, sender: SyncSender<Message>) -> Self {
        Self {
            qmp: Some(sources.qmp),
            stderr: Some(sources.stderr),
            reset_log: sources.reset_log,
            lines: LineBuffer::default(),
            log_lines: LineBuffer::default(),
            sender: Some(sender),
            tail: Tail::default(),
            observed: Observed::default(),
        }
    }

    fn run(mut self, ended: &OwnedFd) -> Observed {
        while self.is_open() {
            match self.wait(Some(ended)) {
                Ready { ended: true, .. } => {
                    self.read_what_is_left();
                    break;
                }
                ready => self.read(&ready),
            }
        }
        self.observed.stderr = self.tail.text();
        self.observed
    }

    fn is_open(&self) -> bool {
        self.qmp.is_some() || self.stderr.is_some() || self.reset_log.is_some()
    }

    fn read_what_is_left(&mut self) {
        for _ in 0..LAST_READS {
            let ready = self.wait(None);
            if !(ready.qmp || ready.stderr || ready.reset_log) {
                return;
            }
            self.read(&ready);
        }
    }

    fn read(&mut self, ready: &Ready) {
        let mut buffer = [0; 4096];
        if ready.qmp {
            match read_some(self.qmp.as_mut(), &mut buffer) {
                Some(bytes) => self.take_qmp(bytes),
                None => (self.qmp, self.sender) = (None, None),
            }
        }
        if ready.stderr {
            match read_some(self.stderr.as_mut(), &mut buffer) {
                Some(bytes) => self.tail.push(bytes),
                None => self.stderr = None,
            }
        }
        if ready.reset_log {
            match read_some(self.reset_log.as_mut(), &mut buffer) {
                Some(bytes) => self.take_log(bytes),
                None => self.reset_log = None,
            }
        }
    }

    /// Which can be read without blocking; waits only if there is `ended` to be told by.
    fn wait(&self, ended: Option<&OwnedFd>) -> Ready {
        let mut fds = Vec::with_capacity(4);
        fds.extend(ended.map(|ended| PollFd::new(ended, PollFlags::IN)));
        fds.extend(self.qmp.iter().map(|qmp| PollFd::new(qmp, PollFlags::IN)));
        fds.extend(self.stderr.iter().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
        fds.extend(self.reset_log.iter().map(|log| PollFd::new(log, PollFlags::IN)));
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Err(error) = poll(&mut fds, if ended.is_some() { None } else { Some(&no_time) }) {
            // Only EINTR is possible here: the loop asks again.
            tracing::trace!(%error, "poll on QEMU's output");
            return Ready::default();
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ready {
            ended: ended.is_some() && ready.next() == Some(true),
            qmp: self.qmp.is_some() && ready.next() == Some(true),
            stderr: self.stderr.is_some() && ready.next() == Some(true),
            reset_log: self.reset_log.is_some() && ready.next() == Some(true),
        }
    }

    fn take_log(&mut self, bytes: &[u8]) {
        // A line that is too long is none that is looked for.
        let lines = self.log_lines.push(bytes).unwrap_or_default();
        self.observed.triple_fault |= lines.iter().any(|line| line == b"Triple fault\n");
    }

    fn take_qmp(&mut self, bytes: &[u8]) {
        if self.sender.is_none() {
            return;
        }
        let lines = self.lines.push(bytes);
        let taken = lines.and_then(|lines| lines.iter().try_for_each(|line| self.take_line(line)));
        if let Err(violation) = taken {
            self.observed.violation = Some(violation);
            self.sender = None;
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        match Message::parse(line)? {
            Message::Event(Event::Shutdown(reason)) => {
                self.observed.shutdown.get_or_insert(reason);
                Ok(())
            }
            Message::Event(Event::Other) => Ok(()),
            message => match &self.sender {
                Some(sender) => sender.try_send(message).map_err(|_| "it sent replies to no command"),
                None => Ok(()),
            },
        }
    }
}

/// The next bytes, or None at the end. An error is an end too: nothing more will come.
fn read_some<'b>(source: Option<&mut impl Read>, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    match source?.read(buffer) {
        Ok(0) => None,
        Ok(count) => buffer.get(..count),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Some(&[]),
        Err(error) => {
            tracing::debug!(%error, "reading from QEMU");
            None
        }
    }
}
