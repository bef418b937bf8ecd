//! Pausing a container, and its figures.

use agent_protocol::agent as api;

use crate::cgroup::CgroupError;
use crate::container::Container;
use crate::container::status::Status;
use crate::process::list;

/// Why a container is not paused or resumed, or has no figures.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It has no processes.
    #[error("container {id:?} cannot be {act}: it is {status}")]
    NotRunning {
        /// Which container.
        id: String,
        /// `paused`, `resumed` or `examined`.
        act: &'static str,
        /// What it is.
        status: Status,
    },
    /// The kernel.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl Container {
    /// Stops every process where it is.
    ///
    /// # Errors
    ///
    /// [`PauseError`].
    pub async fn pause(&self) -> Result<(), PauseError> {
        self.need_processes("paused")?;
        Ok(self.cgroup.freeze().await?)
    }

    /// Lets every process go on.
    ///
    /// # Errors
    ///
    /// [`PauseError`].
    pub async fn resume(&self) -> Result<(), PauseError> {
        self.need_processes("resumed")?;
        Ok(self.cgroup.thaw().await?)
    }

    /// Its processes. Those that end meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// [`PauseError`].
    pub fn processes(&self) -> Result<Vec<api::ProcessInfo>, PauseError> {
        self.need_processes("examined")?;
        Ok(list::describe(&self.cgroup.processes()?))
    }

    /// What it has used.
    ///
    /// # Errors
    ///
    /// [`PauseError`].
    pub fn stats(&self) -> Result<api::ContainerStatsResponse, PauseError> {
        self.need_processes("examined")?;
        let mut stats = self.cgroup.stats()?;
        stats.network = list::network(self.pid());
        Ok(stats)
    }

    /// Waits until the kernel has killed more than `seen` of its processes for want of memory, or the container has
    /// ended; returns how many it has killed, and whether it was the end.
    ///
    /// # Errors
    ///
    /// [`PauseError`].
    pub async fn wait_oom(&self, seen: u64) -> Result<(u64, bool), PauseError> {
        let more = async {
            self.cgroup.more_oom_kills(seen).await?;
            self.cgroup.oom_kills()
        };
        tokio::select! {
            biased;
            kills = more => match kills {
                // Its cgroup goes with it.
                Err(_) if !self.status().can_signal() => Ok((self.final_oom_kills(), true)),
                kills => Ok((kills?, false)),
            },
            _ = self.exited() => Ok((self.final_oom_kills(), true)),
        }
    }

    fn need_processes(&self, act: &'static str) -> Result<(), PauseError> {
        let status = self.status();
        if status.can_signal() {
            return Ok(());
        }
        Err(PauseError::NotRunning { id: self.id.clone(), act, status })
    }
}
