//! Starting a child: a container's init, or another process of the container.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::cgroup::CgroupError;
use crate::failure::Failure;
use crate::kernel::{Lacking, missing_for_clone};
use crate::process::child::{self, Plan};
use crate::process::control::{self, AgentEnd, ChildEnd};
use crate::process::files::Files;
use crate::process::join::{self, Join};
use crate::process::newcomer;
use crate::process::workload::report;
use crate::sys::clone3::{Child, Clone3, Parent};
use crate::sys::namespaces::with_children_in;

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The control socket.
    #[error("cannot make the socket to the container's process")]
    Control(#[source] io::Error),
    /// The process.
    #[error("cannot start the container's process")]
    Clone(#[source] io::Error),
    /// What the kernel was built without.
    #[error("cannot start the container's process")]
    Lacking(#[source] Lacking),
}

/// Starts the init of the container that `plan` describes, in `cgroup`, with its new namespaces.
///
/// # Errors
///
/// [`SpawnError`]; no process is left then.
pub fn init(plan: &Plan, cgroup: BorrowedFd<'_>, files: &Files) -> Result<(Child, AgentEnd), SpawnError> {
    let namespaces = plan.new_namespaces().clone_flags();
    if plan.joins_user_namespace() {
        return newcomer::spawn(plan, namespaces, cgroup, files);
    }
    let clone = Clone3 { namespaces, cgroup: Some(cgroup), parent: Parent::Caller };
    let spawn = || spawn(&clone, files, |control| child::run(plan, control, files));
    match plan.neighbours.iter().find(|neighbour| neighbour.namespaces.pid) {
        // A process cannot change its own pid namespace, only that of its children.
        Some(neighbour) => with_children_in(neighbour.pidfd(), spawn).map_err(SpawnError::Clone)?,
        None => spawn(),
    }
}

/// Starts a process that joins the container of `join`, in `cgroup`.
///
/// # Errors
///
/// [`SpawnError`]; no process is left then.
pub fn joining(
    join: &Join<'_>,
    cgroup: BorrowedFd<'_>,
    files: &Files,
) -> Result<(Child, AgentEnd), SpawnError> {
    let clone = Clone3 { namespaces: 0, cgroup: Some(cgroup), parent: Parent::Caller };
    let spawn = || spawn(&clone, files, |control| join::run(join, control, files));
    if !join.namespaces.pid {
        return spawn();
    }
    // A process cannot change its own pid namespace, only that of its children.
    with_children_in(join.init.as_fd(), spawn).map_err(SpawnError::Clone)?
}

fn spawn(
    clone: &Clone3<'_>,
    files: &Files,
    life: impl FnOnce(&ChildEnd) -> Result<Infallible, Failure>,
) -> Result<(Child, AgentEnd), SpawnError> {
    let (agent, end) = control::pair(files).map_err(SpawnError::Control)?;
    let child =
        clone.spawn(|| report(&end, || life(&end))).map_err(|error| explain(error, clone.namespaces))?;
    Ok((child, agent))
}

pub(super) fn explain(error: io::Error, namespaces: u64) -> SpawnError {
    match missing_for_clone(&error, namespaces, Path::new("/proc/self/ns")) {
        Some(feature) => SpawnError::Lacking(Lacking::new(feature, error)),
        None => SpawnError::Clone(error),
    }
}
