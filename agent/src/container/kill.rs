//! Signals to a container.

use std::io;

use crate::cgroup::CgroupError;
use crate::container::Container;
use crate::container::status::Status;
use crate::process::running::Running;
use crate::sys::signals;

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// No such signal.
    #[error("{0} is not a signal")]
    NotASignal(u32),
    /// Nobody to send it to.
    #[error("container {id:?} takes no signals: it is {status}")]
    NotRunning {
        /// Which container.
        id: String,
        /// What it is instead.
        status: Status,
    },
    /// Too late.
    #[error("the process has ended")]
    Ended,
    /// Its processes could not be found out or killed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Refused by the kernel.
    #[error("cannot send signal {signal} to container {id:?}")]
    Send {
        /// Which signal.
        signal: i32,
        /// Which container.
        id: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Container {
    /// Sends a signal to the init.
    ///
    /// # Errors
    ///
    /// [`KillError`].
    pub fn signal(&self, signal: u32) -> Result<(), KillError> {
        let signal = self.check(signal)?;
        self.init.signal(signal).map_err(|source| self.send_error(signal, source))
    }

    /// Sends a signal to a process that was started beside the init.
    ///
    /// # Errors
    ///
    /// [`KillError`].
    pub fn signal_other(&self, process: &Running, signal: u32) -> Result<(), KillError> {
        let signal = number(signal)?;
        if process.is_over() {
            return Err(KillError::Ended);
        }
        process.signal(signal).map_err(|source| self.send_error(signal, source))
    }

    /// Sends a signal to every process of the container. SIGKILL reaches also those that are just being made.
    ///
    /// # Errors
    ///
    /// [`KillError`].
    pub fn signal_all(&self, signal: u32) -> Result<(), KillError> {
        let signal = self.check(signal)?;
        if signal == libc::SIGKILL {
            return Ok(self.cgroup.kill()?);
        }
        for pid in self.cgroup.processes()? {
            match signals::send_by_number(pid, signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(|source| self.send_error(signal, source))?,
            }
        }
        Ok(())
    }

    fn check(&self, signal: u32) -> Result<i32, KillError> {
        let signal = number(signal)?;
        let status = self.status();
        if status.can_signal() {
            Ok(signal)
        } else {
            Err(KillError::NotRunning { id: self.id.clone(), status })
        }
    }

    fn send_error(&self, signal: i32, source: io::Error) -> KillError {
        KillError::Send { signal, id: self.id.clone(), source }
    }
}

fn number(signal: u32) -> Result<i32, KillError> {
    i32::try_from(signal)
        .ok()
        .filter(|signal| (1..=signals::HIGHEST).contains(signal))
        .ok_or(KillError::NotASignal(signal))
}
