//! A process that this agent started: its end, its signals, its terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::Pid;
use tokio::sync::watch;

use crate::process::console::Terminal;
use crate::reaper::{Exit, ExitWatch};
use crate::sys::clone3::Child;
use crate::sys::signals;

/// A process, while it runs and after.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    terminal: Option<Arc<Terminal>>,
    exit: ExitWatch,
    /// The exit, once all output has been handed on.
    ended: watch::Sender<Option<Exit>>,
}

impl Running {
    pub(crate) fn new(child: Child, exit: ExitWatch, terminal: Option<Arc<Terminal>>) -> Self {
        Self { pid: child.pid, pidfd: child.pidfd, terminal, exit, ended: watch::Sender::new(None) }
    }

    /// Its process id in the guest's root namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Names exactly this process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Its terminal, if it has one.
    pub fn terminal(&self) -> Option<&Terminal> {
        self.terminal.as_deref()
    }

    /// Whether it has ended and been reaped.
    pub fn is_over(&self) -> bool {
        self.exit.is_over()
    }

    /// Waits until it has ended, whatever becomes of its output. `None` only if the agent is ending.
    pub async fn exited(&self) -> Option<Exit> {
        self.exit.clone().wait().await
    }

    /// Waits until it has ended and its output has been handed on. `None` only if the agent is ending.
    pub async fn wait(&self) -> Option<Exit> {
        let mut ended = self.ended.subscribe();
        ended.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
    }

    /// Lets all who wait know, now that its output has been handed on.
    pub(crate) fn settle(&self, exit: Exit) {
        self.ended.send_replace(Some(exit));
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Those of pidfd_send_signal(2): `ESRCH` when it has been reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        signals::send(self.pidfd.as_fd(), signal)
    }
}
