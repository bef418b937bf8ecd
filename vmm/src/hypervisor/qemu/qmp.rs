//! QMP, QEMU's control protocol: one JSON object a line (QEMU docs, interop/qmp-spec).
//!
//! What QEMU says is taken as hostile, for a guest that broke out of it may be talking: lines are bounded,
//! every reply is matched to its command, and nothing is kept that was not asked for. Reading is done by
//! [`super::watch`] on a thread of its own, which hands over replies; this file has the grammar and the
//! side that commands.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Longest line that is read. The greeting has some 200 bytes, an event less.
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// What went wrong in talking to QEMU.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("cannot send to QEMU")]
    Send(#[source] io::Error),
    #[error("no answer to {command} from QEMU within {} s", .waited.as_secs())]
    Timeout { command: &'static str, waited: Duration },
    #[error("QEMU ended its control connection")]
    Closed,
    #[error("QEMU refused {command}: {description}")]
    Refused { command: &'static str, description: String },
    #[error("QEMU broke the protocol: {0}")]
    Protocol(&'static str),
}

impl From<QmpError> for io::Error {
    fn from(error: QmpError) -> Self {
        let kind = match &error {
            QmpError::Send(source) => source.kind(),
            QmpError::Timeout { .. } => io::ErrorKind::TimedOut,
            QmpError::Closed => io::ErrorKind::BrokenPipe,
            QmpError::Refused { .. } | QmpError::Protocol(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// One line of QEMU's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Greeting,
    Reply { id: Option<u64>, outcome: Result<(), String> },
    Event(Event),
}

/// What QEMU tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Shutdown(ShutdownReason),
    /// An event that changes nothing here.
    Other,
}

/// Why QEMU stopped the machine: `ShutdownCause` of its QAPI schema (run-state.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShutdownReason {
    HostSignal,
    HostQmpQuit,
    HostError,
    GuestShutdown,
    GuestReset,
    GuestPanic,
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<ErrorBody>,
    event: Option<String>,
    data: Option<Value>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorBody {
    desc: String,
}

#[derive(Deserialize)]
struct ShutdownData {
    reason: ShutdownReason,
}

impl Message {
    /// # Errors
    /// What is wrong with the line.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let line: Line = serde_json::from_slice(line).map_err(|_| "a line is no JSON object of QMP")?;
        if line.greeting.is_some() {
            Ok(Self::Greeting)
        } else if let Some(name) = line.event {
            Event::from_parts(&name, line.data).map(Self::Event)
        } else if let Some(ErrorBody { desc }) = line.error {
            Ok(Self::Reply { id: line.id, outcome: Err(desc) })
        } else if line.returned.is_some() {
            Ok(Self::Reply { id: line.id, outcome: Ok(()) })
        } else {
            Err("a line is neither greeting, reply nor event")
        }
    }
}

impl Event {
    fn from_parts(name: &str, data: Option<Value>) -> Result<Self, &'static str> {
        if name != "SHUTDOWN" {
            return Ok(Self::Other);
        }
        let data: Option<ShutdownData> = data.and_then(|data| serde_json::from_value(data).ok());
        data.map(|data| Self::Shutdown(data.reason)).ok_or("a SHUTDOWN event has no reason")
    }
}

/// Cuts a stream of bytes into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// Takes the next bytes and gives the lines that they complete.
    ///
    /// # Errors
    /// When a line is too long; the buffer is empty then.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.0.len() + part.len() > MAX_LINE {
                self.0 = Vec::new();
                return Err("a line is too long");
            }
            self.0.extend_from_slice(part);
            if part.ends_with(b"\n") {
                lines.push(std::mem::take(&mut self.0));
            }
        }
        Ok(lines)
    }
}

/// The commanding side of a QMP connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    messages: Receiver<Message>,
    last_id: u64,
    patience: Duration,
}

impl Client {
    /// `messages` carries the greeting and the replies that are read from `stream`'s other half. Each
    /// command waits at most `patience` for its reply.
    pub(crate) fn new(
        stream: UnixStream,
        messages: Receiver<Message>,
        patience: Duration,
    ) -> io::Result<Self> {
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, messages, last_id: 0, patience })
    }

    /// Leaves negotiation mode and executes the first command. Both are sent before the greeting is there: each time
    /// that QEMU has to wait for one is a round trip on the way to the guest's first instruction.
    pub(crate) fn negotiate_and_execute(&mut self, command: &'static str) -> Result<(), QmpError> {
        let negotiation = self.send("qmp_capabilities")?;
        let execution = self.send(command)?;
        match self.receive("greet")? {
            Message::Greeting => {}
            Message::Reply { .. } | Message::Event(_) => {
                return Err(QmpError::Protocol("something came before the greeting"));
            }
        }
        self.reply(negotiation, "qmp_capabilities")?;
        self.reply(execution, command)
    }

    /// Executes a command that takes no arguments and whose returned value is of no interest.
    pub(crate) fn execute(&mut self, command: &'static str) -> Result<(), QmpError> {
        let id = self.send(command)?;
        self.reply(id, command)
    }

    /// Returns the command's id.
    fn send(&mut self, command: &'static str) -> Result<u64, QmpError> {
        self.last_id += 1;
        let line = format!("{{\"execute\":\"{command}\",\"id\":{}}}\n", self.last_id);
        match self.stream.write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(QmpError::Closed),
            written => written.map_err(QmpError::Send).map(|()| self.last_id),
        }
    }

    /// Waits for the reply to the command with that id.
    fn reply(&self, id: u64, command: &'static str) -> Result<(), QmpError> {
        loop {
            match self.receive(command)? {
                Message::Reply { id: Some(this), outcome } if this == id => {
                    return outcome.map_err(|text| QmpError::Refused {
                        command,
                        description: super::stderr::one_line(text.as_bytes()),
                    });
                }
                // The late reply to a command that was given up.
                Message::Reply { id: Some(this), .. } if this < id => {}
                Message::Reply { .. } => {
                    return Err(QmpError::Protocol("a reply belongs to no command"));
                }
                Message::Greeting | Message::Event(_) => {
                    return Err(QmpError::Protocol("something came in place of a reply"));
                }
            }
        }
    }

    fn receive(&self, command: &'static str) -> Result<Message, QmpError> {
        self.messages.recv_timeout(self.patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => QmpError::Timeout { command, waited: self.patience },
            RecvTimeoutError::Disconnected => QmpError::Closed,
        })
    }
}
