//! Letting a created container execute its workload.

use crate::container::Container;
use crate::container::status::Status;
use crate::failure::{Failure, FailureKind};

impl Container {
    /// Answers when execve has succeeded or failed.
    ///
    /// # Errors
    ///
    /// A [`Failure`]: the container is not `created`, or the workload cannot be executed; then the container
    /// ends.
    pub async fn start(&self) -> Result<(), Failure> {
        let status = self.status();
        let control = if status.can_start() { self.take_control() } else { None };
        let Some(control) = control else {
            let message = format!("container {:?} cannot be started: it is {status}", self.id);
            return Err(Failure::new(FailureKind::InvalidRequest, message));
        };
        self.set_status(Status::Running);
        control.execute().await
    }
}
