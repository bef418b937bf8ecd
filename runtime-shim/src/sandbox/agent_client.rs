//! Client of the agent: ttrpc calls on one vsock connection, driven by the monitor's event loop.
//!
//! The messages and the framing are the `ttrpc` crate's. Its blocking client is not used: it holds two threads
//! and wakes up a hundred times a second for as long as a container lives. Here, calls are sent without
//! waiting, and answers are collected when the connection polls readable.
//!
//! What arrives was made by the guest and is not trusted: it is bounded, and nonsense ends the connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use agent_protocol::agent as proto;
use protobuf::{EnumOrUnknown, Message};
use rustix::event::PollFlags;
use ttrpc::proto::{
    Code, MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE, MessageHeader, Request as Envelope, Response,
};

/// Name of the service in `agent.proto`.
const SERVICE: &str = "runv.agent.v1.Agent";

/// Longest answer that the agent may send, as ttrpc has it; lists of processes are long.
const RESPONSE_MAX: usize = 4 << 20;

/// How much may wait for an agent that does not read. A container's configuration is the largest request.
const OUTGOING_MAX: usize = 16 << 20;

/// How many calls an agent may leave unanswered.
const OPEN_MAX: usize = 4096;

/// A call to the agent failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The connection broke, most often because the guest is gone.
    #[error("lost the connection to the agent")]
    Connection(#[source] io::Error),
    /// The agent closed the connection.
    #[error("the agent closed its connection")]
    Closed,
    /// The agent sent what no agent sends.
    #[error("the agent sent an invalid message: {0}")]
    Protocol(&'static str),
    /// A message could not be encoded or decoded.
    #[error("cannot convert a message of the agent")]
    Codec(#[source] protobuf::Error),
    /// The agent refused the call.
    #[error("the agent refused {method}: {message}")]
    Refused {
        /// The call.
        method: &'static str,
        /// The agent's words.
        message: String,
    },
    /// The agent reads nothing.
    #[error("the agent does not take requests any more")]
    Stuck,
}

/// A method of the agent: its name, its request and its response.
pub(crate) trait Call: Message {
    /// Name in `agent.proto`.
    const METHOD: &'static str;
    /// The answer.
    type Answer: Message;
}

macro_rules! calls {
    ($($request:ident -> $answer:ident: $method:literal;)*) => {
        $(impl Call for proto::$request {
            const METHOD: &'static str = $method;
            type Answer = proto::$answer;
        })*
    };
}

calls! {
    CreateContainerRequest -> CreateContainerResponse: "CreateContainer";
    StartContainerRequest -> StartContainerResponse: "StartContainer";
    WaitProcessRequest -> WaitProcessResponse: "WaitProcess";
    SignalProcessRequest -> SignalProcessResponse: "SignalProcess";
    ResizeTerminalRequest -> ResizeTerminalResponse: "ResizeTerminal";
    UpdateContainerRequest -> UpdateContainerResponse: "UpdateContainer";
    UpdateNetworkRequest -> UpdateNetworkResponse: "UpdateNetwork";
    PauseContainerRequest -> PauseContainerResponse: "PauseContainer";
    ResumeContainerRequest -> ResumeContainerResponse: "ResumeContainer";
    ListProcessesRequest -> ListProcessesResponse: "ListProcesses";
    ContainerStatsRequest -> ContainerStatsResponse: "ContainerStats";
    WaitOomRequest -> WaitOomResponse: "WaitOom";
    ExecProcessRequest -> ExecProcessResponse: "ExecProcess";
    RemoveContainerRequest -> RemoveContainerResponse: "RemoveContainer";
    ShutdownRequest -> ShutdownResponse: "Shutdown";
}

/// A call whose answer is awaited.
#[derive(Debug)]
pub(crate) struct Pending<C> {
    stream: u32,
    call: PhantomData<C>,
}

/// A call that the agent has not answered.
#[derive(Debug)]
struct Open {
    stream: u32,
    answer: Answer,
}

/// What happens to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Kept until it is taken.
    Awaited,
    /// Dropped.
    Ignored,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct AgentClient {
    socket: UnixStream,
    next_stream: u32,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// Answers that nobody has taken yet, with the stream they came on. Bounded by the calls sent: an answer
    /// to a stream that was never opened is a protocol error.
    answers: Vec<(u32, Vec<u8>)>,
    /// Calls without an answer yet.
    open: Vec<Open>,
    closed: bool,
}

impl AgentClient {
    /// Speaks on a socket that is connected to the agent's port.
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            next_stream: 1,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            answers: Vec::new(),
            open: Vec::new(),
            closed: false,
        })
    }

    /// What to poll for.
    pub(crate) fn interest(&self) -> PollFlags {
        if self.outgoing.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// Sends a call, without waiting.
    pub(crate) fn send<C: Call>(&mut self, call: &C) -> Result<Pending<C>, AgentError> {
        Ok(Pending { stream: self.enqueue(call, Answer::Awaited)?, call: PhantomData })
    }

    /// Sends a call whose answer nobody needs.
    pub(crate) fn notify<C: Call>(&mut self, call: &C) -> Result<(), AgentError> {
        self.enqueue(call, Answer::Ignored).map(|_stream| ())
    }

    fn enqueue<C: Call>(&mut self, call: &C, answer: Answer) -> Result<u32, AgentError> {
        let envelope = Envelope {
            service: SERVICE.to_owned(),
            method: C::METHOD.to_owned(),
            payload: call.write_to_bytes().map_err(AgentError::Codec)?,
            ..Envelope::default()
        };
        let bytes = envelope.write_to_bytes().map_err(AgentError::Codec)?;
        let stream = self.next_stream;
        self.next_stream = stream.wrapping_add(2);
        let length = u32::try_from(bytes.len()).map_err(|_too_long| AgentError::Stuck)?;
        if self.outgoing.len() + bytes.len() > OUTGOING_MAX || self.open.len() >= OPEN_MAX {
            return Err(AgentError::Stuck);
        }
        self.outgoing.extend(Vec::from(MessageHeader::new_request(stream, length)));
        self.outgoing.extend(bytes);
        self.open.push(Open { stream, answer });
        self.flush()?;
        Ok(stream)
    }

    /// Reads and writes what is possible without waiting.
    pub(crate) fn progress(&mut self) -> Result<(), AgentError> {
        self.flush()?;
        self.receive()
    }

    /// The answer to a call, once it is there.
    pub(crate) fn answer<C: Call>(&mut self, pending: &Pending<C>) -> Option<Result<C::Answer, AgentError>> {
        if let Some(place) = self.answers.iter().position(|(stream, _)| *stream == pending.stream) {
            let (_, payload) = self.answers.swap_remove(place);
            return Some(decode::<C>(&payload));
        }
        self.closed.then_some(Err(AgentError::Closed))
    }

    fn flush(&mut self) -> Result<(), AgentError> {
        while !self.outgoing.is_empty() && !self.closed {
            let (bytes, _) = self.outgoing.as_slices();
            match self.socket.write(bytes) {
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.closed = true;
                    return Err(AgentError::Connection(error));
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), AgentError> {
        let mut buffer = [0; 4096];
        while !self.closed {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(length) => {
                    self.incoming.extend_from_slice(&buffer[..length]);
                    self.take_frames().inspect_err(|_| self.closed = true)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.closed = true;
                    return Err(AgentError::Connection(error));
                }
            }
        }
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), AgentError> {
        while let Some(header) = self.incoming.get(..MESSAGE_HEADER_LENGTH) {
            let header = MessageHeader::from(header);
            let length = header.length as usize;
            if length > RESPONSE_MAX {
                return Err(AgentError::Protocol("it is too long"));
            }
            let Some(payload) = self.incoming.get(MESSAGE_HEADER_LENGTH..MESSAGE_HEADER_LENGTH + length)
            else {
                return Ok(());
            };
            let Some(place) = self.open.iter().position(|call| call.stream == header.stream_id) else {
                return Err(AgentError::Protocol("it answers no call"));
            };
            if header.type_ != MESSAGE_TYPE_RESPONSE {
                return Err(AgentError::Protocol("it is no response"));
            }
            if self.open.swap_remove(place).answer == Answer::Awaited {
                self.answers.push((header.stream_id, payload.to_vec()));
            }
            self.incoming.drain(..MESSAGE_HEADER_LENGTH + length);
        }
        Ok(())
    }
}

impl AsFd for AgentClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn decode<C: Call>(payload: &[u8]) -> Result<C::Answer, AgentError> {
    let response = Response::parse_from_bytes(payload).map_err(AgentError::Codec)?;
    if let Some(status) = response.status.as_ref().filter(|s| s.code != EnumOrUnknown::new(Code::OK)) {
        let message = status.message.replace(|c: char| c.is_control(), " ");
        return Err(AgentError::Refused { method: C::METHOD, message });
    }
    C::Answer::parse_from_bytes(&response.payload).map_err(AgentError::Codec)
}

#[cfg(test)]
#[path = "agent_client_tests.rs"]
mod tests;
