//! What `create` and `exec` tell the process that they start, and what it tells them.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use crate::container::membership::Membership;
use crate::control::message::{receive, send};
use crate::host_cgroup::systemd::Scope;
use crate::preserved::kind::Kind;
use crate::report::LogFormat;

/// A container to be made and watched. `create` has read and checked all of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MonitorPlan {
    /// The container's folder, absolute.
    pub(crate) folder: PathBuf,
    /// The bundle's folder, absolute.
    pub(crate) bundle: PathBuf,
    /// The bundle's configuration.
    pub(crate) spec: Spec,
    /// The configuration file of `--config`.
    pub(crate) config: Option<PathBuf>,
    /// `--log`, absolute.
    pub(crate) log: Option<PathBuf>,
    /// `--log-format`.
    pub(crate) log_format: LogFormat,
    /// The host's cgroups to make and join.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Their unit, if systemd is to make them.
    pub(crate) scope: Option<Scope>,
    /// The machine of another container to go into.
    pub(crate) membership: Option<Membership>,
    /// What the descriptors are that it inherits for the workload.
    pub(crate) descriptors: Vec<Kind>,
}

/// A process to be made in a container that runs. `exec` has read and checked all of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecPlan {
    /// The container's folder, absolute.
    pub(crate) folder: PathBuf,
    /// The container's name in the guest.
    pub(crate) guest_id: String,
    /// The process.
    pub(crate) process: Process,
    /// Its cgroup in the guest, below the container's.
    pub(crate) cgroup: String,
    /// Whether a paused container will do.
    pub(crate) ignore_paused: bool,
    /// `--log`, absolute.
    pub(crate) log: Option<PathBuf>,
    /// `--log-format`.
    pub(crate) log_format: LogFormat,
    /// The container's cgroups on the host.
    pub(crate) cgroups: Vec<PathBuf>,
    /// What the descriptors are that it inherits for the process, or has already.
    pub(crate) descriptors: Vec<Kind>,
}

/// The process that was started, to the command that started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Announcement {
    /// Its process, cgroup and network namespace are what they will be: hooks may run.
    Prepared,
    /// The container is there.
    Created,
    /// The process of `exec` runs.
    Running {
        /// The proxy's own number.
        pid: u32,
    },
    /// It is not, and nothing is left of it but its folder.
    Failed {
        /// Why.
        message: String,
        /// The status with which `create` should end.
        exit_code: u8,
    },
}

/// `create`, to the monitor: the hooks have run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proceed;

/// The monitor's end.
#[derive(Debug)]
pub(crate) struct Creator {
    socket: OwnedFd,
    /// Whether the hooks have run.
    proceeds: Cell<bool>,
}

impl Creator {
    /// With the near end of the socket to it.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, proceeds: Cell::new(false) }
    }

    /// Says something.
    pub(crate) fn announce(&self, announcement: &Announcement) -> io::Result<()> {
        send(&self.socket, announcement, None)
    }

    /// Waits until it may go on.
    pub(crate) fn wait(&self) -> io::Result<()> {
        if self.proceeds.get() {
            return Ok(());
        }
        match receive::<Proceed>(&self.socket)? {
            Some(_) => {
                self.proceeds.set(true);
                Ok(())
            }
            None => Err(io::Error::other("the command that makes the container has gone")),
        }
    }
}
