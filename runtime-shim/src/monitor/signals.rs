//! Signals: which ones are passed on to the workload, and what they are called.
//!
//! They are blocked in all threads and read from a signalfd by the monitor's loop, so no code ever runs in a
//! signal handler. Children start with an empty mask, as `std` makes them.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that this process deals with itself: faults of its own, its children's ends, and what a broken pipe
/// or an urgent byte on one of *its* descriptors means. runc passes on all others, and so do we.
const OWN: [Signal; 10] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGURG,
];

/// What would not have ended a process by default does not end a start either.
const HARMLESS: [Signal; 5] =
    [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// The signals that come from outside.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// From here on, signals wait to be taken. Called before there is any other thread.
    pub(crate) fn block() -> nix::Result<Self> {
        let mut set = SigSet::all();
        for signal in OWN {
            set.remove(signal);
        }
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// The next one that another process has sent. The kernel's own, such as a terminal's for Ctrl-C, go to every
    /// process of the group anyway.
    pub(crate) fn take_sent(&self) -> nix::Result<Option<Signal>> {
        let info = self.fd.read_signal()?.filter(|info| info.ssi_code != libc::SI_KERNEL);
        Ok(info.and_then(|info| Signal::try_from(info.ssi_signo.cast_signed()).ok()))
    }

    /// The next one that has arrived.
    pub(crate) fn take(&self) -> nix::Result<Option<u32>> {
        Ok(self.fd.read_signal()?.map(|info| info.ssi_signo))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether it ends a sandbox that has no workload to send it to.
pub(crate) fn aborts(signal: u32) -> bool {
    !HARMLESS.iter().any(|harmless| is(signal, *harmless))
}

/// Whether it is this one.
pub(crate) fn is(signal: u32, this: Signal) -> bool {
    i32::try_from(signal) == Ok(this as i32)
}

/// For people: `signal 9 (SIGKILL)`.
pub(crate) fn describe(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(name) => format!("signal {signal} ({name})"),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aborts_a_start() {
        for signal in [1, 2, 3, 10, 12, 14, 15, 34, 64] {
            assert!(aborts(signal), "{signal}");
        }
        for signal in [libc::SIGWINCH, libc::SIGCONT, libc::SIGTSTP] {
            assert!(!aborts(u32::try_from(signal).unwrap()), "{signal}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(describe(9), "signal 9 (SIGKILL)");
        assert_eq!(describe(40), "signal 40");
    }
}
