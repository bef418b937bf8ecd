//! Waiting for file descriptors.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// `poll(2)` that a signal does not interrupt; false when `deadline` has passed with nothing ready.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(fds, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether `fd` gets readable, or its other end closed, within `time`.
pub(crate) fn readable_within(fd: BorrowedFd<'_>, time: Duration) -> io::Result<bool> {
    poll_until(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Instant::now().checked_add(time))
}
