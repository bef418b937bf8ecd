//! Why a container could not be made or started, in the terms of the protocol.
//!
//! It crosses a process border: the container's init reports it to the agent before it executes the workload.

use std::error::Error;
use std::fmt::Write;

/// In bytes; longer explanations are cut.
const LONGEST_MESSAGE: usize = 2000;

/// What kind of failure it is; decides the exit status on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// No such program.
    ExecutableNotFound = 1,
    /// There is such a file, but it cannot be executed.
    ExecutableNotPermitted = 2,
    /// The request is malformed or asks for what the agent does not do.
    InvalidRequest = 3,
    /// The user is not in the root file system's /etc/passwd.
    UnknownUser = 4,
    /// A mount, or a file that the container needs to have mounted.
    Mount = 5,
    /// The kernel refused something else.
    System = 6,
}

/// A failure with its one-line explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// The cause and its object, one line.
    pub message: String,
}

impl Failure {
    /// A failure that is explained by a text.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: one_line(message.into()) }
    }

    /// A failure that is explained by an error with all its sources.
    pub fn from_error(kind: FailureKind, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            let _ = write!(message, ": {cause}");
            source = cause.source();
        }
        Self::new(kind, message)
    }

    /// The form that crosses the process border: the kind's number, then the text.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        bytes.extend_from_slice(self.message.as_bytes());
        bytes
    }

    /// The inverse of [`Failure::to_bytes`]; an unknown kind becomes [`FailureKind::System`].
    pub(crate) fn from_bytes(kind: u8, message: &[u8]) -> Self {
        let kind = match kind {
            1 => FailureKind::ExecutableNotFound,
            2 => FailureKind::ExecutableNotPermitted,
            3 => FailureKind::InvalidRequest,
            4 => FailureKind::UnknownUser,
            5 => FailureKind::Mount,
            _ => FailureKind::System,
        };
        Self::new(kind, String::from_utf8_lossy(message))
    }
}

/// File names of an image and strings of a request are part of messages: they must neither forge lines in a
/// log nor fill it.
fn one_line(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    if message.contains(char::is_control) { message.replace(char::is_control, " ") } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        let failure = Failure::new(FailureKind::System, format!("a\nb\x1b[2J{}", "ä".repeat(5000)));
        assert!(failure.message.starts_with("a b [2J"));
        assert!(failure.message.len() <= LONGEST_MESSAGE + '…'.len_utf8());
    }

    #[test]
    fn a_failure_survives_the_way_between_processes() {
        let failure = Failure::new(FailureKind::UnknownUser, "no such user: ä");
        let bytes = failure.to_bytes();
        assert_eq!(Failure::from_bytes(bytes[0], &bytes[1..]), failure);
    }
}
