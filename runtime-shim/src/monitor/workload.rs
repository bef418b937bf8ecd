//! One process in a guest as its host process sees it: asked for, signalled, awaited.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use agent_protocol::agent as proto;
use nix::sys::signal::Signal;
use proto::wait_process_response::End as AgentEnd;
use protobuf::MessageField;
use rustix::event::PollFlags;

use super::events::{Event, wait};
use super::signals::{self, Signals};
use super::{MonitorError, death, host};
use crate::exit_code;
use crate::io::streams::Outputs;
use crate::io::terminal;
use crate::report;
use crate::sandbox::agent_client::{AgentClient, AgentError, Call, Pending};
use crate::sandbox::start::Sandbox;

/// How long the agent may take to answer a call, other than the wait for the workload.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to say that it has passed on a signal that asks for the end: a guest that hangs is not to outlive
/// one who presses Ctrl-C.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(15);

/// How long the peers of a workload's sockets may take, when it has ended, for what it has left them.
const PEERS_PATIENCE: Duration = Duration::from_secs(2);

/// How long the guest may take to write its file systems back and power off.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// How long the processes may take to end after the guest has powered off.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// How a process of the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// By itself, with a status.
    Exited(u32),
    /// By a signal.
    Signaled(u32),
}

impl ProcessEnd {
    /// The exit status that a shell would tell.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Exited(status) => exit_code::of_exit(status),
            Self::Signaled(signal) => exit_code::of_signal(signal),
        }
    }
}

/// What a signal does while an answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// Ends the sandbox.
    Abort,
    /// Goes to the workload.
    Forward,
}

/// What ended the wait of [`Workload::wait_for_end_or`].
#[derive(Debug)]
pub(crate) enum Awaited {
    /// The process.
    End(ProcessEnd),
    /// The other descriptor is readable.
    Other,
}

/// A process and the connection on which it was made.
pub(crate) struct Workload<'a> {
    /// The sandbox, for the one who answers for it.
    pub(crate) sandbox: Option<&'a mut Sandbox>,
    pub(crate) signals: &'a Signals,
    pub(crate) agent: AgentClient,
    /// The container's name in the guest.
    pub(crate) container_id: String,
    /// Empty for the container's init.
    pub(crate) exec_id: String,
    /// The first signal of which the agent has not said that it was passed on, and by when it has to.
    pub(crate) passed_on: Option<(Pending<proto::SignalProcessRequest>, Instant)>,
}

impl Workload<'_> {
    /// Asks the agent, and waits for its answer.
    pub(crate) fn call<C: Call>(
        &mut self,
        request: &C,
        on_signal: OnSignal,
    ) -> Result<C::Answer, MonitorError> {
        let pending = self.agent.send(request)?;
        self.answer(&pending, on_signal, Some(PATIENCE))
    }

    fn answer<C: Call>(
        &mut self,
        pending: &Pending<C>,
        on_signal: OnSignal,
        patience: Option<Duration>,
    ) -> Result<C::Answer, MonitorError> {
        let deadline = patience.and_then(|time| Instant::now().checked_add(time));
        let answer = self.answer_or(pending, on_signal, deadline, None)?;
        answer.ok_or_else(|| {
            let seconds = patience.unwrap_or_default().as_secs();
            MonitorError::Unresponsive { call: C::METHOD, seconds }
        })
    }

    /// The answer; nothing when the deadline has passed or `other` is readable.
    fn answer_or<C: Call>(
        &mut self,
        pending: &Pending<C>,
        on_signal: OnSignal,
        deadline: Option<Instant>,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<Option<C::Answer>, MonitorError> {
        loop {
            if let Some(answer) = self.agent.answer(pending) {
                return Ok(Some(answer?));
            }
            let reaction = self.reaction_due()?;
            let mut fds = vec![(self.agent.as_fd(), self.agent.interest())];
            fds.extend(other.map(|fd| (fd, PollFlags::IN)));
            let first = deadline.into_iter().chain(reaction).min();
            let event = wait(self.sandbox.as_deref_mut(), self.signals, &fds, first);
            match event.map_err(host("wait for the agent"))? {
                Event::Ready(0) => self.agent.progress()?,
                Event::Signal(signal) if on_signal == OnSignal::Forward => self.forward(signal),
                Event::Signal(signal) if signals::aborts(signal) => {
                    return Err(MonitorError::Interrupted(signal));
                }
                Event::Signal(_) => {}
                Event::Ended => return Err(self.death()),
                Event::Deadline if first != deadline => {}
                Event::Ready(_) | Event::Deadline => return Ok(None),
            }
        }
    }

    /// By when the agent has to have passed on a signal.
    ///
    /// # Errors
    /// It has not, in time.
    fn reaction_due(&mut self) -> Result<Option<Instant>, MonitorError> {
        let Some((pending, due)) = &self.passed_on else { return Ok(None) };
        // It may refuse: a process that is to end can have ended.
        if self.agent.answer(pending).is_some() {
            self.passed_on = None;
            return Ok(None);
        }
        if *due <= Instant::now() {
            let call = proto::SignalProcessRequest::METHOD;
            return Err(MonitorError::Unresponsive { call, seconds: SIGNAL_PATIENCE.as_secs() });
        }
        Ok(Some(*due))
    }

    fn death(&mut self) -> MonitorError {
        death::of(self.sandbox.as_deref_mut())
    }

    /// Passes a signal on without waiting. SIGWINCH is for the terminal, if there is one.
    pub(crate) fn forward(&mut self, signal: u32) {
        let sent = match terminal_size_after(signal) {
            Some(size) => self.agent.notify(&proto::ResizeTerminalRequest {
                container_id: self.container_id.clone(),
                exec_id: self.exec_id.clone(),
                size: MessageField::some(size),
                ..Default::default()
            }),
            None => self.pass_on(signal),
        };
        if let Err(error) = sent {
            tracing::warn!(signal, %error, "cannot pass a signal on");
        }
    }

    fn pass_on(&mut self, signal: u32) -> Result<(), AgentError> {
        let request = proto::SignalProcessRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            ..Default::default()
        };
        if self.passed_on.is_some() || !signals::aborts(signal) {
            return self.agent.notify(&request);
        }
        let pending = self.agent.send(&request)?;
        self.passed_on = Instant::now().checked_add(SIGNAL_PATIENCE).map(|due| (pending, due));
        Ok(())
    }

    /// Asks to be told of the process's end.
    pub(crate) fn ask_for_end(&mut self) -> Result<Pending<proto::WaitProcessRequest>, MonitorError> {
        Ok(self.agent.send(&proto::WaitProcessRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            ..Default::default()
        })?)
    }

    /// Waits for the end, or until another descriptor is readable. Signals go to the process.
    pub(crate) fn wait_for_end_or(
        &mut self,
        pending: &Pending<proto::WaitProcessRequest>,
        other: Option<BorrowedFd<'_>>,
    ) -> Result<Awaited, MonitorError> {
        let Some(answer) = self.answer_or(pending, OnSignal::Forward, None, other)? else {
            return Ok(Awaited::Other);
        };
        match answer.end {
            Some(AgentEnd::Exited(status)) => Ok(Awaited::End(ProcessEnd::Exited(status))),
            Some(AgentEnd::Signaled(signal)) => Ok(Awaited::End(ProcessEnd::Signaled(signal))),
            _ => Err(AgentError::Protocol("WaitProcess without an end").into()),
        }
    }

    /// Waits for the end. Signals go to the process.
    pub(crate) fn wait_for_end(
        &mut self,
        pending: &Pending<proto::WaitProcessRequest>,
    ) -> Result<ProcessEnd, MonitorError> {
        loop {
            if let Awaited::End(end) = self.wait_for_end_or(pending, None)? {
                return Ok(end);
            }
        }
    }

    /// Waits until the caller has all of the output. A caller that does not read is waited for, as it would be
    /// by the workload itself; a signal ends that. Peers of its sockets, who may be anybody, are not waited for so long.
    pub(crate) fn drain(&mut self, outputs: &Outputs) -> Result<(), MonitorError> {
        let Some(ways) = outputs.ways() else { return self.drain_one(outputs.done(), None) };
        ways.accept_no_more();
        self.drain_one(outputs.done(), None)?;
        self.drain_one(ways.done(), Instant::now().checked_add(PEERS_PATIENCE))
    }

    fn drain_one(&mut self, done: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<(), MonitorError> {
        loop {
            let event = wait(self.sandbox.as_deref_mut(), self.signals, &[(done, PollFlags::IN)], deadline);
            match event.map_err(host("wait for the output"))? {
                Event::Ready(_) | Event::Deadline => return Ok(()),
                Event::Signal(signal) if signals::aborts(signal) => return Ok(()),
                Event::Signal(_) => {}
                Event::Ended => return Err(self.death()),
            }
        }
    }

    /// Waits until something else is readable, when the process has ended; false if a signal came first.
    pub(crate) fn wait_for(&mut self, fd: BorrowedFd<'_>) -> Result<bool, MonitorError> {
        loop {
            let event = wait(self.sandbox.as_deref_mut(), self.signals, &[(fd, PollFlags::IN)], None);
            match event.map_err(host("wait"))? {
                Event::Ready(_) | Event::Deadline => return Ok(true),
                Event::Signal(signal) if signals::aborts(signal) => return Ok(false),
                Event::Signal(_) => {}
                Event::Ended => return Err(self.death()),
            }
        }
    }

    /// Ends the guest in order, so that what the workload wrote is on the host. The workload's status is known:
    /// trouble from here on is only warned of. The agent waits for its connection to close before it powers
    /// off, so that its answer is not lost.
    pub(crate) fn shut_down(mut self) {
        let asked = self.agent.send(&proto::ShutdownRequest::default()).map_err(MonitorError::from);
        let answered =
            asked.and_then(|pending| self.answer(&pending, OnSignal::Abort, Some(SHUTDOWN_PATIENCE)));
        drop(self.agent);
        match answered {
            Err(error) => {
                let error = match self.sandbox {
                    Some(sandbox) => death::behind(sandbox, error),
                    None => error,
                };
                report::warning(&format!("the guest was not shut down: {}", report::chain(&error)));
            }
            Ok(_) if self.sandbox.is_some_and(|sandbox| !sandbox.vm_ended_within(END_PATIENCE)) => {
                report::warning("the guest did not power off, and was stopped");
            }
            Ok(_) => {}
        }
    }
}

fn terminal_size_after(signal: u32) -> Option<proto::WindowSize> {
    if signals::is(signal, Signal::SIGWINCH) && terminal::is_raw() { terminal::size() } else { None }
}

/// An agent's refusal as an error.
pub(crate) fn refused(failure: MessageField<proto::Failure>) -> Result<(), MonitorError> {
    match failure.into_option() {
        None => Ok(()),
        Some(failure) => Err(MonitorError::NotStarted {
            kind: failure.kind.enum_value_or_default(),
            message: failure.message.replace(|c: char| c.is_control(), " "),
        }),
    }
}
