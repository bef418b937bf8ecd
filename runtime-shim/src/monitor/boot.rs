//! From a machine that runs to an agent that serves: the hello, and the connections to it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_protocol::agent as proto;
use agent_protocol::{AGENT_PORT, HELLO, READY_PORT, STREAM_PORT};
use rustix::event::PollFlags;
use rustix::rand::{GetRandomFlags, getrandom};

use super::events::{Event, wait};
use super::signals::{self, Signals};
use super::{MonitorError, death, host};
use crate::io::descriptors::{Connect, Connected};
use crate::io::streams::{self, Streams};
use crate::preserved::Descriptor;
use crate::preserved::kind::Kind;
use crate::sandbox::agent_client::AgentClient;
use crate::sandbox::directory::SandboxDirectory;
use crate::sandbox::start::Sandbox;
use crate::sandbox::vsock::Connecting;

/// Waiting for a guest that boots, or for the agent of one that another process has booted. A signal that would end a
/// process ends the wait.
pub(crate) struct Boot<'a> {
    /// The sandbox, for the one who answers for it.
    pub(crate) sandbox: Option<&'a mut Sandbox>,
    pub(crate) directory: SandboxDirectory,
    pub(crate) signals: &'a Signals,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Option<Instant>,
}

impl<'a> Boot<'a> {
    /// A boot that begins now.
    pub(crate) fn new(
        sandbox: &'a mut Sandbox,
        signals: &'a Signals,
        timeout: Duration,
    ) -> Result<Self, MonitorError> {
        let directory = sandbox.directory.try_clone().map_err(host("duplicate a descriptor"))?;
        Ok(Self { sandbox: Some(sandbox), ..Self::of_another(directory, signals, timeout) })
    }

    /// The guest is another process's, and has booted.
    pub(crate) fn of_another(directory: SandboxDirectory, signals: &'a Signals, timeout: Duration) -> Self {
        Self { sandbox: None, directory, signals, timeout, deadline: Instant::now().checked_add(timeout) }
    }

    /// Waits for the agent's hello. Nothing else is taken from the guest before, and after it nothing any more
    /// on this port: no workload exists yet, so only the agent can be the one that speaks.
    pub(crate) fn hello(&mut self) -> Result<(), MonitorError> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let listener = sandbox.ready.try_clone().map_err(host("duplicate a socket"))?;
        self.readable(listener.as_fd())?;
        let (mut hello, _) = listener.accept().map_err(host("accept the agent's connection"))?;
        let mut said = Vec::new();
        while said.len() < HELLO.len() && HELLO.starts_with(&said) {
            self.readable(hello.as_fd())?;
            let mut buffer = [0; 64];
            match hello.read(&mut buffer).map_err(host("read the agent's hello"))? {
                0 => break,
                length => said.extend_from_slice(&buffer[..length]),
            }
        }
        if said != HELLO {
            return Err(MonitorError::ForeignAgent(
                String::from_utf8_lossy(&said).trim().escape_default().to_string(),
            ));
        }
        self.directory.forget_port(READY_PORT).map_err(host("remove the ready socket"))
    }

    /// Connects to the agent.
    pub(crate) fn connect_agent(&mut self) -> Result<AgentClient, MonitorError> {
        let agent = Connecting::request(&self.directory, AGENT_PORT)?;
        AgentClient::new(self.finish(agent)?).map_err(host("set up the agent's connection"))
    }

    /// Connects the workload's terminal, and introduces it by a token.
    pub(crate) fn connect_terminal(&mut self) -> Result<(Streams, proto::Streams), MonitorError> {
        let terminal = Connecting::request(&self.directory, STREAM_PORT)?;
        Ok(one_terminal(introduce(self.finish(terminal)?)?))
    }

    /// Connects the workload's standard streams, and introduces each by a token.
    pub(crate) fn connect_streams(&mut self) -> Result<(Streams, proto::Streams), MonitorError> {
        // All are asked for before any is awaited: each answer takes the guest a round trip.
        let directory = &self.directory;
        let requests = streams::connected()
            .map(|wanted| wanted.then(|| Connecting::request(directory, STREAM_PORT)).transpose());
        let mut connected = [None, None, None];
        for (request, connected) in requests.into_iter().zip(&mut connected) {
            if let Some(request) = request? {
                *connected = Some(introduce(self.finish(request)?)?);
            }
        }
        Ok(separate(connected))
    }

    /// Connects the other descriptors that the workload gets.
    pub(crate) fn connect_descriptors(
        &mut self,
        descriptors: Vec<Descriptor>,
    ) -> Result<(Vec<Connected>, Vec<proto::Descriptor>), MonitorError> {
        if descriptors.is_empty() {
            return Ok(Default::default());
        }
        let directory = self.directory.try_clone().map_err(host("duplicate a descriptor"))?;
        let later: Connect = Arc::new(move || {
            Connecting::request(&directory, STREAM_PORT)
                .and_then(Connecting::finish)
                .map_err(io::Error::other)
        });
        connect_descriptors(descriptors, &later, || {
            let stream = Connecting::request(&self.directory, STREAM_PORT)?;
            self.finish(stream)
        })
    }

    fn finish(&mut self, connecting: Connecting) -> Result<UnixStream, MonitorError> {
        self.readable(connecting.socket.as_fd())?;
        Ok(connecting.finish()?)
    }

    fn readable(&mut self, fd: BorrowedFd<'_>) -> Result<(), MonitorError> {
        loop {
            let event =
                wait(self.sandbox.as_deref_mut(), self.signals, &[(fd, PollFlags::IN)], self.deadline);
            match event.map_err(host("wait for the guest"))? {
                Event::Ready(_) => return Ok(()),
                Event::Signal(signal) if signals::aborts(signal) => {
                    return Err(MonitorError::Interrupted(signal));
                }
                Event::Signal(_) => {}
                Event::Ended => return Err(death::of(self.sandbox.as_deref_mut())),
                Event::Deadline => return Err(MonitorError::BootTimeout { seconds: self.timeout.as_secs() }),
            }
        }
    }
}

/// Tells the agent which stream a connection is: nobody in the guest can guess the token.
pub(crate) fn introduce(socket: UnixStream) -> Result<(UnixStream, u64), MonitorError> {
    let bytes = token()?;
    (&socket).write_all(&bytes).map_err(host("write to a stream"))?;
    Ok((socket, u64::from_be_bytes(bytes)))
}

fn token() -> Result<[u8; 8], MonitorError> {
    let mut bytes = [0; 8];
    while bytes == [0; 8] {
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(host("make a random token"))?;
    }
    Ok(bytes)
}

/// Connects what has one stream by `now`; for what listens, each connection is by `later`.
pub(crate) fn connect_descriptors(
    descriptors: Vec<Descriptor>,
    later: &Connect,
    mut now: impl FnMut() -> Result<UnixStream, MonitorError>,
) -> Result<(Vec<Connected>, Vec<proto::Descriptor>), MonitorError> {
    let mut connect = |Descriptor { fd, kind }: Descriptor| -> Result<_, MonitorError> {
        use proto::descriptor::Kind as There;
        let (connected, token) = if kind == Kind::Listener {
            let token = u64::from_be_bytes(token()?);
            (Connected::Listener { listener: fd, token, connect: Arc::clone(later) }, token)
        } else {
            let (stream, token) = introduce(now()?)?;
            (Connected::Stream(fd, kind, stream), token)
        };
        let kind = match kind {
            Kind::Reader => There::KIND_READER,
            Kind::Writer => There::KIND_WRITER,
            Kind::Both | Kind::File | Kind::Socket => There::KIND_SOCKET,
            Kind::Listener => There::KIND_LISTENER,
        };
        Ok((connected, proto::Descriptor { kind: kind.into(), token, ..Default::default() }))
    };
    descriptors.into_iter().map(&mut connect).collect()
}

/// A terminal's connection and token, for the streams' copying and for the agent.
pub(crate) fn one_terminal((socket, token): (UnixStream, u64)) -> (Streams, proto::Streams) {
    (Streams::Terminal(socket), proto::Streams { terminal: token, ..Default::default() })
}

/// The same for stdin, stdout and stderr; one that is not connected has no token.
pub(crate) fn separate(connected: [Option<(UnixStream, u64)>; 3]) -> (Streams, proto::Streams) {
    let [stdin_token, stdout_token, stderr_token] =
        connected.each_ref().map(|stream| stream.as_ref().map_or(0, |(_, token)| *token));
    let [stdin, stdout, stderr] = connected.map(|stream| stream.map(|(socket, _)| socket));
    let tokens = proto::Streams {
        stdin: stdin_token,
        stdout: stdout_token,
        stderr: stderr_token,
        ..Default::default()
    };
    (Streams::Separate { stdin, stdout, stderr }, tokens)
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod tests;
