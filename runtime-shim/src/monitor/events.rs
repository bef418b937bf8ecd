//! The one place that waits.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::signals::Signals;
use crate::io::poll::poll_until;
use crate::sandbox::start::Sandbox;

/// What the wait was for, and what else can happen meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// What the caller waits for.
    Ready,
    /// A signal.
    Signal(u32),
    /// The machine or the device process has ended.
    Ended,
    /// The time is up.
    Deadline,
}

/// Waits until `fd` has `interest`. An answer that is there counts before anything else, so that a workload's
/// end is known even when the sandbox ends right behind it. The console is collected on the way.
pub(crate) fn wait(
    sandbox: &mut Sandbox,
    signals: &Signals,
    (fd, interest): (BorrowedFd<'_>, PollFlags),
    deadline: Option<Instant>,
) -> io::Result<Event> {
    loop {
        let (vm, devices) = sandbox.ends();
        let console = sandbox.console.poll_fd();
        let mut fds = vec![
            PollFd::from_borrowed_fd(fd, interest),
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(vm, PollFlags::IN),
            PollFd::from_borrowed_fd(devices, PollFlags::IN),
        ];
        fds.extend(console.map(|console| PollFd::from_borrowed_fd(console, PollFlags::IN)));
        if !poll_until(&mut fds, deadline)? {
            return Ok(Event::Deadline);
        }
        let happened: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let [ready, signal, vm_ended, devices_ended, rest @ ..] = happened.as_slice() else {
            continue;
        };
        if rest.contains(&true) {
            sandbox.console.collect();
        }
        if *ready {
            return Ok(Event::Ready);
        }
        if *signal && let Some(signal) = signals.take()? {
            return Ok(Event::Signal(signal));
        }
        if *vm_ended || *devices_ended {
            return Ok(Event::Ended);
        }
    }
}
