//! The workload's life: made, started, signalled, awaited.

use std::time::{Duration, Instant};

use agent_protocol::agent as proto;
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use proto::wait_process_response::End;
use protobuf::MessageField;
use rustix::event::PollFlags;
use std::os::fd::AsFd;

use super::boot::Boot;
use super::events::{Event, wait};
use super::signals::{self, Signals};
use super::{MonitorError, death, host};
use crate::bundle::to_agent;
use crate::exit_code;
use crate::io::streams::Outputs;
use crate::io::terminal::{self, RawMode};
use crate::report;
use crate::sandbox::agent_client::{AgentClient, Call, Pending};
use crate::sandbox::start::Sandbox;

/// There is one container in each sandbox.
const CONTAINER_ID: &str = "sandbox";

/// How long the agent may take to answer a call, other than the wait for the workload.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the guest may take to write its file systems back and power off.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// How long the processes may take to end after the guest has powered off.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the workload of `spec` in a sandbox that boots; returns the exit status.
pub(crate) fn run(
    sandbox: &mut Sandbox,
    signals: &Signals,
    spec: &Spec,
    boot_timeout: Duration,
) -> Result<u8, MonitorError> {
    let terminal = spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    let deadline = Instant::now().checked_add(boot_timeout);
    let mut boot = Boot { sandbox, signals, timeout: boot_timeout, deadline };
    boot.hello()?;
    let agent = boot.connect_agent()?;
    let (streams, tokens) = if terminal { boot.connect_terminal()? } else { boot.connect_streams()? };
    let mut workload = Workload { sandbox, signals, agent };

    let mut request = to_agent::create_request(CONTAINER_ID, spec, tokens);
    if terminal && let (Ok(size), Some(process)) = (terminal::size(), request.process.as_mut()) {
        // A terminal of unknown size leaves the bundle's consoleSize.
        if size.columns > 0 && size.rows > 0 {
            process.console_size = MessageField::some(size);
        }
    }
    let created = workload.call(&request, OnSignal::Abort)?;
    refused(created.failure)?;

    let (input, outputs) = streams.start().map_err(host("start copying streams"))?;
    let raw_mode = if terminal { Some(RawMode::enter()?) } else { None };
    input.start().map_err(host("start copying stdin"))?;
    let start = proto::StartContainerRequest { container_id: CONTAINER_ID.into(), ..Default::default() };
    let started = workload.call(&start, OnSignal::Forward)?;
    refused(started.failure)?;
    let status = workload.wait_for_end()?;
    workload.drain(&outputs)?;
    drop(raw_mode);
    workload.shut_down();
    Ok(status)
}

fn refused(failure: MessageField<proto::Failure>) -> Result<(), MonitorError> {
    match failure.into_option() {
        None => Ok(()),
        Some(failure) => Err(MonitorError::NotStarted {
            kind: failure.kind.enum_value_or_default(),
            message: failure.message.replace(|c: char| c.is_control(), " "),
        }),
    }
}

/// What a signal does while an answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnSignal {
    /// Ends the sandbox.
    Abort,
    /// Goes to the workload.
    Forward,
}

struct Workload<'a> {
    sandbox: &'a mut Sandbox,
    signals: &'a Signals,
    agent: AgentClient,
}

impl Workload<'_> {
    /// Asks the agent, and waits for its answer.
    fn call<C: Call>(&mut self, request: &C, on_signal: OnSignal) -> Result<C::Answer, MonitorError> {
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
        loop {
            if let Some(answer) = self.agent.answer(pending) {
                // A connection that broke is the effect of something: say the cause, if there is one.
                return answer.map_err(|error| self.cause(error.into()));
            }
            let interest = self.agent.interest();
            let event = wait(self.sandbox, self.signals, (self.agent.as_fd(), interest), deadline);
            match event.map_err(host("wait for the agent"))? {
                Event::Ready => {
                    if let Err(error) = self.agent.progress() {
                        return Err(self.cause(error.into()));
                    }
                }
                Event::Signal(signal) if on_signal == OnSignal::Forward => self.forward(signal),
                Event::Signal(signal) if signals::aborts(signal) => {
                    return Err(MonitorError::Interrupted(signal));
                }
                Event::Signal(_) => {}
                Event::Ended => return Err(death::explain(self.sandbox).into()),
                Event::Deadline => {
                    let seconds = patience.unwrap_or_default().as_secs();
                    return Err(MonitorError::Unresponsive { call: C::METHOD, seconds });
                }
            }
        }
    }

    /// The death behind a broken connection.
    fn cause(&mut self, error: MonitorError) -> MonitorError {
        if self.sandbox.has_ended() { death::explain(self.sandbox).into() } else { error }
    }

    /// Passes a signal on without waiting. SIGWINCH is for the terminal, if there is one.
    fn forward(&mut self, signal: u32) {
        let sent = match terminal_size_after(signal) {
            Some(size) => self.agent.notify(&proto::ResizeTerminalRequest {
                container_id: CONTAINER_ID.into(),
                size: MessageField::some(size),
                ..Default::default()
            }),
            None => self.agent.notify(&proto::SignalProcessRequest {
                container_id: CONTAINER_ID.into(),
                signal,
                ..Default::default()
            }),
        };
        if let Err(error) = sent {
            tracing::warn!(signal, %error, "cannot pass a signal on");
        }
    }

    fn wait_for_end(&mut self) -> Result<u8, MonitorError> {
        let wait = proto::WaitProcessRequest { container_id: CONTAINER_ID.into(), ..Default::default() };
        let pending = self.agent.send(&wait)?;
        match self.answer(&pending, OnSignal::Forward, None)?.end {
            Some(End::Exited(status)) => Ok(exit_code::of_exit(status)),
            Some(End::Signaled(signal)) => Ok(exit_code::of_signal(signal)),
            _ => Err(crate::sandbox::agent_client::AgentError::Protocol("WaitProcess without an end").into()),
        }
    }

    /// Waits until the caller has all of the output. A caller that does not read is waited for, as it would be
    /// by the workload itself; a signal ends that.
    fn drain(&mut self, outputs: &Outputs) -> Result<(), MonitorError> {
        loop {
            let event = wait(self.sandbox, self.signals, (outputs.done(), PollFlags::IN), None);
            match event.map_err(host("wait for the output"))? {
                Event::Ready => return Ok(()),
                Event::Signal(signal) if signals::aborts(signal) => return Ok(()),
                Event::Signal(_) => {}
                Event::Ended => return Err(death::explain(self.sandbox).into()),
                Event::Deadline => return Ok(()),
            }
        }
    }

    /// Ends the guest in order, so that what the workload wrote is on the host. The workload's status is known:
    /// trouble from here on is only warned of.
    /// Powers the guest off. The agent waits for its connection to close before it does, so that its answer is
    /// not lost.
    fn shut_down(mut self) {
        let asked = self.agent.send(&proto::ShutdownRequest::default()).map_err(MonitorError::from);
        let answered =
            asked.and_then(|pending| self.answer(&pending, OnSignal::Abort, Some(SHUTDOWN_PATIENCE)));
        drop(self.agent);
        match answered {
            Err(error) => report::warning(&format!("the guest was not shut down: {}", report::chain(&error))),
            Ok(_) if !self.sandbox.vm_ended_within(END_PATIENCE) => {
                report::warning("the guest did not power off, and was stopped");
            }
            Ok(_) => {}
        }
    }
}

fn terminal_size_after(signal: u32) -> Option<proto::WindowSize> {
    if signals::is(signal, Signal::SIGWINCH) && terminal::is_raw() { terminal::size().ok() } else { None }
}
