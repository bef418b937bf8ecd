//! Forgetting a container, while others live on.

use std::io;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mkdirat};

use crate::container::kill::KillError;
use crate::container::{Containers, LookupError};

/// How long a killed container may take to end, and to hand on its output: its reader may be gone.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// A container could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It could not be killed.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// It was killed, and lives on.
    #[error("container {0:?} does not end")]
    Lives(String),
}

impl Containers {
    /// Kills what runs of a container, waits for its end, and frees its id. One that is not known is gone already.
    ///
    /// # Errors
    ///
    /// [`RemoveError`]; the container stays known then.
    pub async fn remove(&self, id: &str) -> Result<(), RemoveError> {
        let container = match self.find(id) {
            Ok(container) => container,
            Err(LookupError::NoContainer(_)) => return Ok(()),
            Err(_) => return Err(RemoveError::Lives(id.to_owned())),
        };
        match container.signal_all(libc::SIGKILL.unsigned_abs()) {
            Ok(()) | Err(KillError::NotRunning { .. }) => {}
            // Its cgroup goes with it.
            Err(KillError::Cgroup(_)) if !container.status().can_signal() => {}
            Err(error) => return Err(error.into()),
        }
        // The end comes first, the last of the output after it: that need not be waited for.
        if tokio::time::timeout(LAST_BREATH, container.wait()).await.is_err() && !container.init.is_over() {
            return Err(RemoveError::Lives(id.to_owned()));
        }
        self.settle(id, None);
        Ok(())
    }

    /// Forgets what it knows of an entry of the share that the host has taken away, so that the host can close it.
    pub fn forget_share(&self, path: &str) {
        // The kernel asks the host anew only for what must not exist. It is told that nothing does, drops what it
        // knew, and then learns that nothing can be made there either.
        let made = mkdirat(CWD, self.places.share.join(path), Mode::RWXU);
        if let Err(error) = made
            && io::Error::from(error).kind() != io::ErrorKind::ReadOnlyFilesystem
        {
            crate::kmsg::debug(|| format!("{path} in the share: {error}"));
        }
    }
}
