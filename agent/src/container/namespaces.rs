//! Which namespaces of a container are not the guest's, and which of them are another container's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::process::running::Running;
use crate::security::identity_map::IdentityMap;

/// A set of namespaces. The mount namespace is always new: a container without one could only undo
/// what the guest needs to work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Process ids.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Hostname and domainname.
    pub uts: bool,
    /// The root of what is seen of the cgroup hierarchy.
    pub cgroup: bool,
    /// Network interfaces, addresses, ports.
    pub network: bool,
    /// Users, groups and capabilities.
    pub user: bool,
    /// The clocks that do not tell the time of day.
    pub time: bool,
}

/// Namespaces of another container, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whose.
    pub container: String,
    /// Which of them.
    pub namespaces: Namespaces,
}

/// The same once that container has been found.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Its init, whose namespaces are joined.
    pub init: Arc<Running>,
    /// Which of them.
    pub namespaces: Namespaces,
    /// Of its user namespace.
    pub identities: Option<IdentityMap>,
}

impl Neighbour {
    /// Names its init.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.init.pidfd().as_fd()
    }
}

impl Namespaces {
    /// Those that are not in `others`.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self {
            pid: self.pid && !others.pid,
            ipc: self.ipc && !others.ipc,
            uts: self.uts && !others.uts,
            cgroup: self.cgroup && !others.cgroup,
            network: self.network && !others.network,
            user: self.user && !others.user,
            time: self.time && !others.time,
        }
    }

    /// The flags for setns(2) of an init that joins these of another container; it is born into its pid namespace, and
    /// into its user namespace.
    pub fn shared_flags(self) -> u64 {
        flags(&[
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
            (self.cgroup, libc::CLONE_NEWCGROUP),
            (self.network, libc::CLONE_NEWNET),
            (self.time, libc::CLONE_NEWTIME),
        ])
    }

    /// The flags for clone3. The cgroup and the time namespace are not among them: see `process::child`.
    pub fn clone_flags(self) -> u64 {
        let new = [
            (true, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
            (self.network, libc::CLONE_NEWNET),
            (self.user, libc::CLONE_NEWUSER),
        ];
        flags(&new)
    }

    /// The flags for setns(2) of a process that joins the container, which is born into its pid namespace.
    pub fn joined_flags(self) -> u64 {
        flags(&[
            (true, libc::CLONE_NEWNS),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.uts, libc::CLONE_NEWUTS),
            (self.cgroup, libc::CLONE_NEWCGROUP),
            (self.network, libc::CLONE_NEWNET),
            (self.user, libc::CLONE_NEWUSER),
            (self.time, libc::CLONE_NEWTIME),
        ])
    }
}

fn flags(namespaces: &[(bool, libc::c_int)]) -> u64 {
    namespaces.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| u64::from(flag.unsigned_abs())).sum()
}
