//! Processes by number and start time, so that a number that is used again is not taken for the same process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::io::poll::readable_within;

/// How long a killed process may take to end; runc waits as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the host booted (proc(5), `/proc/[pid]/stat`, field 22).
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let (_, start_time) = read_stat(pid)?;
        Ok(Self { pid, start_time })
    }

    /// Whether it has not ended. One that nobody has waited for yet has.
    pub(crate) fn is_alive(self) -> bool {
        read_stat(self.pid)
            .is_ok_and(|(state, start_time)| start_time == self.start_time && !"ZXx".contains(state))
    }

    /// Sends SIGKILL, and waits until it has ended. One that has ended already is no error.
    ///
    /// # Errors
    /// When it is not ours to kill, or has not ended in time.
    pub(crate) fn kill(self) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        if readable_within(pidfd.as_fd(), PATIENCE)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    /// Whether it has ended, or does within `time`.
    pub(crate) fn ends_within(self, time: Duration) -> io::Result<bool> {
        self.open()?.map_or(Ok(true), |pidfd| readable_within(pidfd.as_fd(), time))
    }

    /// A descriptor of it, unless it has ended.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // EINVAL: reaped, and the number lives on as that of the session it led (pidfd_open(2)).
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Only now: the number cannot be another's any more.
        Ok(self.is_alive().then_some(pidfd))
    }
}

/// State and start time. The name in parentheses may hold anything, spaces and parentheses included.
fn read_stat(pid: u32) -> io::Result<(char, u64)> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let after_name = text.rsplit_once(") ").map(|(_, rest)| rest);
    let mut fields = after_name.unwrap_or_default().split(' ');
    let state = fields.next().and_then(|field| field.chars().next());
    // State is field 3, so this is field 22.
    let start_time = fields.nth(18).and_then(|field| field.parse().ok());
    state.zip(start_time).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has another form")))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_even_if_nobody_waits_for_it() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        let other = ProcessId { start_time: process.start_time + 1, ..process };
        assert!(!other.is_alive());
        other.kill().unwrap();
        assert!(process.is_alive());
        assert!(!process.ends_within(Duration::ZERO).unwrap());
        process.kill().unwrap();
        assert!(!process.is_alive());
        assert!(process.ends_within(Duration::ZERO).unwrap());
        child.wait().unwrap();
        process.kill().unwrap();
    }
}
