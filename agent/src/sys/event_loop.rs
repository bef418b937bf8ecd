//! Descriptors in the event loop.

#![allow(unsafe_code, reason = "tokio cannot know that an owned descriptor stays what it is")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor, which has to be non-blocking, with the event loop.
///
/// # Errors
///
/// Those of epoll_ctl(2).
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and an `OwnedFd` inside of an `AsyncFd` can be neither closed nor
    // replaced before it is deregistered.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}
