//! The life cycle (runtime specification, runtime.md, "State") as predicates.

use std::fmt;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Built; its init waits for the word to execute the workload.
    Created,
    /// The workload has been, or is being, executed.
    Running,
    /// Its init has ended.
    Stopped,
}

impl Status {
    /// Whether the workload may be executed now.
    pub fn can_start(self) -> bool {
        self == Self::Created
    }

    /// Whether there is a process that takes signals.
    pub fn can_signal(self) -> bool {
        matches!(self, Self::Created | Self::Running)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Created, Running, Stopped};

    #[test]
    fn only_a_created_container_can_be_started() {
        assert_eq!([Created, Running, Stopped].map(super::Status::can_start), [true, false, false]);
    }

    #[test]
    fn signals_need_a_process() {
        assert_eq!([Created, Running, Stopped].map(super::Status::can_signal), [true, true, false]);
    }
}
