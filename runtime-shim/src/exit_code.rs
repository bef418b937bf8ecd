//! Exit statuses of this program, as runc and shells have them.

use agent_protocol::agent::failure;

/// This program's own errors.
pub(crate) const OWN_ERROR: u8 = 1;

/// `exec` failed, as runc tells it.
pub(crate) const EXEC_FAILED: u8 = 255;

/// The workload cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;

/// The workload is not there.
pub(crate) const NOT_FOUND: u8 = 127;

/// Ended by a signal.
pub(crate) fn of_signal(signal: u32) -> u8 {
    // Linux has 64 signals; a guest may claim others.
    u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(u8::MAX)
}

/// Ended by itself; the kernel keeps eight bits.
pub(crate) fn of_exit(status: u32) -> u8 {
    status.to_le_bytes()[0]
}

/// Not started.
pub(crate) fn of_failure(kind: failure::Kind) -> u8 {
    match kind {
        failure::Kind::KIND_EXECUTABLE_NOT_FOUND => NOT_FOUND,
        failure::Kind::KIND_EXECUTABLE_NOT_PERMITTED => NOT_EXECUTABLE,
        _ => OWN_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_runcs() {
        assert_eq!([0, 7, 255, 256].map(of_exit), [0, 7, 255, 0]);
        assert_eq!([1, 9, 15, 64, 200, u32::MAX].map(of_signal), [129, 137, 143, 192, 255, 255]);
        assert_eq!(of_failure(failure::Kind::KIND_EXECUTABLE_NOT_FOUND), 127);
        assert_eq!(of_failure(failure::Kind::KIND_EXECUTABLE_NOT_PERMITTED), 126);
        assert_eq!(of_failure(failure::Kind::KIND_UNKNOWN_USER), 1);
    }
}
