//! The agent as commands ask it: a connection of their own through the monitor, and one call at a time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use agent_protocol::AGENT_PORT;
use rustix::event::PollFd;

use super::client::{ControlError, connect_to_guest, connect_to_guest_within};
use crate::container::store::Folder;
use crate::io::poll::poll_until;
use crate::sandbox::agent_client::{AgentClient, AgentError, Call};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Waiting.
    #[error("cannot wait for the agent")]
    Wait(#[source] io::Error),
    /// Nothing came.
    #[error("the agent did not answer {0} in time")]
    Unresponsive(&'static str),
}

impl CallError {
    /// Whether the agent refused with a text that contains this.
    pub(crate) fn says(&self, text: &str) -> bool {
        matches!(self, Self::Agent(AgentError::Refused { message, .. }) if message.contains(text))
    }

    /// Whether the guest, for all that is known, does not answer: its agent has said nothing that makes sense.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Unresponsive(_) => true,
            Self::Agent(error) => !matches!(error, AgentError::Refused { .. }),
            Self::Control(error) => !matches!(error, ControlError::Gone),
            Self::Wait(_) => false,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Agent {
    client: AgentClient,
}

impl Agent {
    /// Connects to the agent of a container.
    pub(crate) fn connect(folder: &Folder) -> Result<Self, CallError> {
        Self::over(connect_to_guest(folder, AGENT_PORT)?)
    }

    /// The same for those who cannot wait for long.
    pub(crate) fn connect_within(folder: &Folder, patience: Duration) -> Result<Self, CallError> {
        Self::over(connect_to_guest_within(folder, AGENT_PORT, patience)?)
    }

    /// Over a connection that has been made.
    pub(crate) fn over(socket: UnixStream) -> Result<Self, CallError> {
        Ok(Self { client: AgentClient::new(socket).map_err(CallError::Wait)? })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn call<C: Call>(&mut self, request: &C) -> Result<C::Answer, CallError> {
        self.call_within(request, Some(PATIENCE))
    }

    /// Asks, and waits for the answer as long as the caller likes.
    pub(crate) fn call_within<C: Call>(
        &mut self,
        request: &C,
        patience: Option<Duration>,
    ) -> Result<C::Answer, CallError> {
        let pending = self.client.send(request)?;
        let deadline = patience.and_then(|time| Instant::now().checked_add(time));
        loop {
            if let Some(answer) = self.client.answer(&pending) {
                return Ok(answer?);
            }
            let mut fds = [PollFd::from_borrowed_fd(self.client.as_fd(), self.client.interest())];
            if !poll_until(&mut fds, deadline).map_err(CallError::Wait)? {
                return Err(CallError::Unresponsive(C::METHOD));
            }
            self.client.progress()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_refuses_and_a_monitor_that_has_gone_are_no_silence() {
        let refusal = || ControlError::Refused { message: "port 1024 of the guest".into(), exit_code: 1 };
        let silent: [CallError; 3] =
            [CallError::Unresponsive("SignalProcess"), refusal().into(), AgentError::Closed.into()];
        assert!(silent.iter().all(CallError::is_silence));
        let refused = AgentError::Refused { method: "SignalProcess", message: "takes no signals".into() };
        let others: [CallError; 2] = [refused.into(), ControlError::Gone.into()];
        assert!(!others.iter().any(CallError::is_silence));
    }
}
