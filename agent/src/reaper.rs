//! The one caller of waitpid: every child of PID 1, ours or an orphan, is reaped here.
//!
//! There is no race between a child's end and the wish to know it: a child is registered by the same thread
//! that forked it before that thread gets back to the event loop, and only the event loop reaps.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::sys::event_loop::register;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By exit(2), with this status.
    Code(u32),
    /// By this signal.
    Signal(u32),
}

/// The end of one process: may be awaited before, at and after it, by any number of waiters.
#[derive(Clone, Debug)]
pub struct ExitWatch(watch::Receiver<Option<Exit>>);

impl ExitWatch {
    /// Waits for the end. `None` only if the reaper itself is gone.
    pub async fn wait(&mut self) -> Option<Exit> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
    }

    /// Whether the process has been reaped.
    pub fn is_over(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// The table of children whose end somebody wants to know.
#[derive(Debug, Default)]
pub struct Reaper {
    children: Mutex<HashMap<Pid, watch::Sender<Option<Exit>>>>,
}

impl Reaper {
    /// Listens for SIGCHLD and reaps in a task of its own, for ever. The signal is blocked in this thread, which has
    /// to be the only one, and comes by signalfd(2): that takes less than tokio's handlers do.
    ///
    /// # Errors
    ///
    /// Those of sigprocmask(2) and signalfd(2).
    pub fn start() -> io::Result<Arc<Self>> {
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        child.thread_block()?;
        let signals = SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let signals = register(signals.into(), Interest::READABLE)?;
        let reaper = Arc::new(Self::default());
        tokio::spawn({
            let reaper = Arc::clone(&reaper);
            async move { reaper.run(signals).await }
        });
        Ok(reaper)
    }

    /// Registers a child. Must be called in the same turn of the event loop as the fork.
    pub fn watch(&self, pid: Pid) -> ExitWatch {
        let (sender, receiver) = watch::channel(None);
        self.children().insert(pid, sender);
        ExitWatch(receiver)
    }

    async fn run(&self, signals: AsyncFd<OwnedFd>) {
        while let Ok(mut ready) = signals.readable().await {
            // What arrives from here on makes it readable again.
            let mut record = [0; size_of::<siginfo>()];
            if let Ok(Ok(_)) = ready.try_io(|signals| Ok(rustix::io::read(signals.get_ref(), &mut record)?)) {
                self.reap();
            }
        }
    }

    /// One SIGCHLD may stand for many children.
    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(exit) = exit(status) else { continue };
            if let Some(sender) = self.children().remove(&pid) {
                sender.send_replace(Some(exit));
            }
        }
    }

    fn children(&self) -> MutexGuard<'_, HashMap<Pid, watch::Sender<Option<Exit>>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` for a process that only stopped or went on.
fn exit(status: WaitStatus) -> Option<Exit> {
    let number = |value: i32| u32::try_from(value).ok();
    if let Some(code) = status.exit_status().and_then(number) {
        return Some(Exit::Code(code));
    }
    status.terminating_signal().and_then(number).map(Exit::Signal)
}
