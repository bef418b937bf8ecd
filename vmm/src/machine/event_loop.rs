//! The main thread while the guest runs: waits for the driver's requests, the backends' death and the
//! machine's end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use vmm::control::{Channel, ChannelError, FromProcess, ToProcess};
use vmm::hypervisor::VmExit;

use super::{BackendWatch, Machine};
use crate::kvm::vcpu::{ExitReport, VcpuError, VcpuThreads};

/// The machine could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("cannot talk to the driver")]
    Control(#[source] ChannelError),
    #[error("cannot start the vCPUs")]
    Start(#[source] VcpuError),
    #[error("cannot {step}")]
    Events {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Why the event loop ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine ended; the driver is to be told.
    Exit(VmExit),
    /// The driver asked for it or is gone.
    Stopped,
}

/// Runs `machine` to its end.
pub(crate) fn run(machine: Machine, control: &Channel) -> Result<End, RunError> {
    let events = |step| move |source| RunError::Events { step, source };
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let wake = Arc::new(wake.map_err(|source| events("make an eventfd")(source.into()))?);
    let (sender, exits) = mpsc::channel();
    let report = ExitReport { sender, wake: Arc::clone(&wake) };
    let Machine { vcpus, buses, serial, backends, vm, memory } = machine;
    control.send(&FromProcess::Started).map_err(RunError::Control)?;
    let threads = VcpuThreads::start(vcpus, &buses, &report).map_err(RunError::Start)?;
    let end = wait(&threads, control, &backends, &wake, &exits);
    serial.flush();
    // The other vCPUs are in the guest until the process ends, which is at once, and need both until then.
    std::mem::forget((vm, memory));
    end
}

/// Waits for the end.
fn wait(
    threads: &VcpuThreads,
    control: &Channel,
    backends: &[BackendWatch],
    wake: &OwnedFd,
    exits: &mpsc::Receiver<VmExit>,
) -> Result<End, RunError> {
    // A peer's end of file shows as RDHUP without asking for the data that a vCPU thread may be waiting for.
    let hang_up = PollFlags::RDHUP;
    let mut fds = vec![PollFd::new(control, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
    fds.extend(backends.iter().map(|backend| PollFd::new(&backend.socket, hang_up)));
    loop {
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
            .map_err(|source| RunError::Events { step: "wait for events", source: source.into() })?;
        // The guest's own end comes first: a backend that ends because of it is no failure.
        if let Ok(exit) = exits.try_recv() {
            return Ok(End::Exit(exit));
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) && obey(threads, control)?.is_stop() {
            return Ok(End::Stopped);
        }
        if let Some((_, backend)) = ready.skip(1).zip(backends).find(|(ready, _)| *ready) {
            let message = format!("the backend of virtio-{} has ended", backend.name);
            return Ok(End::Exit(VmExit::Failed { message }));
        }
    }
}

/// Whether the machine goes on after a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Obeyed {
    GoOn,
    Stop,
}

impl Obeyed {
    fn is_stop(self) -> bool {
        self == Self::Stop
    }
}

/// Does what the driver asks.
fn obey(threads: &VcpuThreads, control: &Channel) -> Result<Obeyed, RunError> {
    let answer = match control.receive().map_err(RunError::Control)? {
        Some(ToProcess::Pause) => {
            threads.pause();
            FromProcess::Paused
        }
        Some(ToProcess::Resume) => {
            threads.resume();
            FromProcess::Resumed
        }
        Some(ToProcess::Stop) | None => return Ok(Obeyed::Stop),
    };
    control.send(&answer).map_err(RunError::Control)?;
    Ok(Obeyed::GoOn)
}
