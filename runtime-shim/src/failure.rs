//! Why a command failed, and with which status this process ends.

use crate::exit_code;
use crate::monitor::MonitorError;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is told.
    pub(crate) error: anyhow::Error,
    /// This process's exit status.
    pub(crate) exit_code: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), exit_code: exit_code::OWN_ERROR }
    }
}

impl Failure {
    /// The failure of a sandbox, with the status that says which.
    pub(crate) fn of_monitor(error: MonitorError) -> Self {
        Self { exit_code: error.exit_code(), error: error.into() }
    }

    /// Puts what was being done in front.
    pub(crate) fn context(self, text: &'static str) -> Self {
        Self { error: self.error.context(text), exit_code: self.exit_code }
    }
}
