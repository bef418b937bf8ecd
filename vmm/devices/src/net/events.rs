//! What the device waits for on the host's side: frames of the tap, while there is room for them, and its own wish to go
//! on after it has let others have a turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

/// The descriptors that are watched together, as one.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
    again: OwnedFd,
    /// Whether frames wake the device.
    listening: bool,
}

impl Events {
    /// Watches `tap`. Errors are those of epoll_create(2), epoll_ctl(2) and eventfd(2).
    pub(super) fn new(tap: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let again = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, tap, EventData::new_u64(0), EventFlags::IN)?;
        epoll::add(&epoll, &again, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self { epoll, again, listening: true })
    }

    /// Whether frames are to wake the device. An interface that has gone would do so for ever, so that is left out too.
    pub(super) fn listen(&mut self, tap: BorrowedFd<'_>, listening: bool) {
        if self.listening == listening {
            return;
        }
        let flags = if listening { EventFlags::IN } else { EventFlags::ET };
        if epoll::modify(&self.epoll, tap, EventData::new_u64(0), flags).is_ok() {
            self.listening = listening;
        }
    }

    /// Wakes the device once more.
    pub(super) fn again(&self) {
        wake(&self.again);
    }

    /// Lets another thread wake the device. Errors are those of dup(2).
    pub(super) fn waker(&self) -> io::Result<Waker> {
        self.again.try_clone().map(Waker)
    }

    /// Whether it was woken by [`Events::again`].
    pub(super) fn take_again(&self) -> bool {
        rustix::io::read(&self.again, &mut [0; 8]).is_ok()
    }
}

/// Of a device on another thread.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    /// As [`Events::again`].
    pub(super) fn wake(&self) {
        wake(&self.0);
    }
}

fn wake(event: &OwnedFd) {
    // A counter that is full wakes it as well.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
