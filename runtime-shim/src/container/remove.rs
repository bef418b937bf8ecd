//! Removes a container: its processes, then its cgroups, then its folder.

use std::time::Duration;

use super::process::ProcessId;
use super::store::{Folder, StoreError};
use crate::host_cgroup::{self, CgroupError};

/// How long killed processes may take to end; runc waits as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something of a container is left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    /// A process.
    #[error("cannot kill process {pid} of the container")]
    Process {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Kills what runs of the container and removes what is left. When it returns, no process of it holds a file of
/// the host open: engines unmount the root file system next.
pub(crate) fn clear(folder: &Folder) -> Result<(), RemoveError> {
    match folder.read() {
        Ok(record) => {
            // `create` that cleans up after itself is still in the record, if the monitor never came that far.
            if ProcessId::own().ok() != Some(record.monitor) {
                kill(record.monitor)?;
            }
            // They die with the monitor by themselves; waiting for them is enough, but a kill cannot hurt.
            record.children.iter().try_for_each(|child| kill(*child))?;
            host_cgroup::remove(&record.cgroups)?;
        }
        // Killed before it wrote a record, so before it started a process.
        Err(StoreError::Foreign(_)) if folder.is_ours() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(folder.remove()?)
}

fn kill(process: ProcessId) -> Result<(), RemoveError> {
    process.kill_within(PATIENCE).map_err(|source| RemoveError::Process { pid: process.pid, source })
}
