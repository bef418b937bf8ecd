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
    /// What the caller waits for: the n-th of its descriptors.
    Ready(usize),
    /// A signal.
    Signal(u32),
    /// The machine or the device process has ended.
    Ended,
    /// The time is up.
    Deadline,
}

/// Waits until one of `fds` has what it is polled for. An answer that is there counts before anything else, so
/// that a workload's end is known even when the sandbox ends right behind it. The console is collected on the
/// way. Who watches one process in a sandbox of another's has none to watch.
pub(crate) fn wait(
    mut sandbox: Option<&mut Sandbox>,
    signals: &Signals,
    fds: &[(BorrowedFd<'_>, PollFlags)],
    deadline: Option<Instant>,
) -> io::Result<Event> {
    loop {
        let ends = sandbox.as_deref().map(Sandbox::ends);
        let console = sandbox.as_deref().and_then(|sandbox| sandbox.console.poll_fd());
        let mut polled: Vec<_> =
            fds.iter().map(|(fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)).collect();
        polled.push(PollFd::new(signals, PollFlags::IN));
        let own = ends.into_iter().flat_map(|(vm, devices)| [vm, devices]).chain(console);
        polled.extend(own.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if !poll_until(&mut polled, deadline)? {
            return Ok(Event::Deadline);
        }
        let happened: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (ready, rest) = happened.split_at_checked(fds.len()).unwrap_or_default();
        let [signal, ended @ ..] = rest else { continue };
        let [ended, console] = match ended {
            [vm, devices, console @ ..] => [*vm || *devices, console.contains(&true)],
            _ => [false, false],
        };
        if console && let Some(sandbox) = sandbox.as_deref_mut() {
            sandbox.console.collect();
        }
        if let Some(index) = ready.iter().position(|ready| *ready) {
            return Ok(Event::Ready(index));
        }
        if *signal && let Some(signal) = signals.take()? {
            return Ok(Event::Signal(signal));
        }
        if ended {
            return Ok(Event::Ended);
        }
    }
}
