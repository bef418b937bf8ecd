//! Removes a container: its processes, then its cgroups, then its folder.

use std::path::PathBuf;

use super::process::ProcessId;
use super::record::{Member, Record};
use super::store::{Folder, StoreError};
use crate::control::client::{self, ControlError};
use crate::hooks::{self, Moment};
use crate::host_cgroup::systemd::Systemd;
use crate::host_cgroup::{self, CgroupError};
use crate::report;

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
    /// The machine that it is in.
    #[error("cannot take the container out of the sandbox {}", sandbox.display())]
    Sandbox {
        /// The folder of the container that has it.
        sandbox: PathBuf,
        /// Why.
        #[source]
        source: ControlError,
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
    let record = match take(folder) {
        Ok(record) => Some(record),
        // What would have written a record was killed before it started a process; what took one away had ended all.
        Err(RemoveError::Store(StoreError::Foreign(_))) if folder.is_unfinished() => None,
        Err(error) => return Err(error),
    };
    folder.remove()?;
    if let Some(record) = record
        && let Err(error) = hooks::run(Moment::Poststop, &record)
    {
        // The container is gone, and no hook can bring it back.
        report::warning(&report::chain(&error));
    }
    Ok(())
}

/// Ends everything that the record tells of, and takes it away. A monitor that comes to life meanwhile changes the
/// record, and is ended too; one that comes later finds none, and gives up before it has made anything.
fn take(folder: &Folder) -> Result<Record, RemoveError> {
    loop {
        let record = folder.read()?;
        end(&record)?;
        if forget_scope(&record) {
            host_cgroup::remove(&record.cgroups)?;
        }
        if folder.take_record(&record)? {
            return Ok(record);
        }
    }
}

/// It ends with its processes by itself, but one that has failed stays until it is told to go. Returns whether the
/// cgroups are still this container's: another one that has the unit's name by now has their names too.
fn forget_scope(record: &Record) -> bool {
    let Some(scope) = &record.scope else { return true };
    match Systemd::connect().and_then(|systemd| systemd.stop(scope)) {
        Ok(is_anothers) => !is_anothers,
        Err(error) => {
            report::warning(&report::chain(&error));
            host_cgroup::await_removal(&record.cgroups);
            true
        }
    }
}

/// Kills the container's processes, and waits until they have ended.
pub(crate) fn end(record: &Record) -> Result<(), RemoveError> {
    // `create` that cleans up after itself is still in the record, if the monitor never came that far.
    if ProcessId::own().ok() != Some(record.monitor) {
        kill(record.monitor)?;
    }
    // They end with the monitor by themselves, by its death's signal or as their sockets to it close; waiting for
    // them is enough, but a kill cannot hurt.
    record.children.iter().try_for_each(|child| kill(*child))?;
    record.member.as_ref().map_or(Ok(()), await_leaving)
}

/// The machine that it was in is another's, which notices its end, and gives up what it had of the host for it.
fn await_leaving(member: &Member) -> Result<(), RemoveError> {
    let failed = |source| RemoveError::Sandbox { sandbox: member.sandbox.clone(), source };
    let left = match Folder::open(member.sandbox.clone()) {
        Ok(sandbox) => client::await_leaving(&sandbox, member.number),
        Err(StoreError::NotFound) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match left {
        // The machine has ended, and all that it had with it.
        Ok(()) | Err(ControlError::Gone) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn kill(process: ProcessId) -> Result<(), RemoveError> {
    process.kill().map_err(|source| RemoveError::Process { pid: process.pid, source })
}
