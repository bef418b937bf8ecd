//! Starting a container's init.

use std::io;
use std::os::fd::OwnedFd;

use crate::cgroup::{Cgroup, CgroupError};
use crate::process::child::{self, Plan};
use crate::process::control::{self, AgentEnd};
use crate::sys::clone3::{Child, Clone3};

/// Which step failed.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The control socket.
    #[error("cannot make the socket to the container's init")]
    Control(#[source] io::Error),
    /// The process.
    #[error("cannot start the container's init")]
    Clone(#[source] io::Error),
}

/// Starts the init of the container that `plan` describes, in `cgroup`, with its new namespaces.
///
/// # Errors
///
/// [`SpawnError`]; no process is left then.
pub fn spawn(plan: &Plan, cgroup: &Cgroup, stdio: &[OwnedFd; 3]) -> Result<(Child, AgentEnd), SpawnError> {
    let directory = cgroup.open()?;
    let (agent, init) = control::pair().map_err(SpawnError::Control)?;
    let clone =
        Clone3 { namespaces: plan.namespaces.clone_flags(), cgroup: std::os::fd::AsFd::as_fd(&directory) };
    let child = clone.spawn(|| child::run(plan, &init, stdio)).map_err(SpawnError::Clone)?;
    Ok((child, agent))
}
