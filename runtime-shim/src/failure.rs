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
    /// Why the clean-up that followed has left something. Told after the error, which it must not hide.
    pub(crate) left: Option<anyhow::Error>,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error, exit_code::OWN_ERROR)
    }
}

impl Failure {
    /// With a status of its own.
    pub(crate) fn new(error: impl Into<anyhow::Error>, exit_code: u8) -> Self {
        Self { error: error.into(), exit_code, left: None }
    }

    /// The failure of a sandbox, with the status that says which.
    pub(crate) fn of_monitor(error: MonitorError) -> Self {
        let exit_code = error.exit_code();
        Self::new(error, exit_code)
    }

    /// Puts what was being done in front.
    pub(crate) fn context(self, text: &'static str) -> Self {
        Self { error: self.error.context(text), ..self }
    }

    /// What came of the clean-up after it.
    pub(crate) fn after(self, cleaned: Result<(), impl Into<anyhow::Error>>) -> Self {
        Self { left: cleaned.err().map(Into::into).or(self.left), ..self }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_clean_up_that_fails_hides_no_error() {
        let failure = Failure::new(anyhow!("first"), 126).after(Err(anyhow!("second"))).context("while");
        assert_eq!((format!("{:#}", failure.error).as_str(), failure.exit_code), ("while: first", 126));
        assert_eq!(failure.left.unwrap().to_string(), "second");
        assert!(Failure::new(anyhow!("first"), 1).after(Ok::<(), anyhow::Error>(())).left.is_none());
    }
}
