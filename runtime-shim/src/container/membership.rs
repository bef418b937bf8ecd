//! Which machine a container goes into: one of its own, or that of another container of this runtime.
//!
//! Engines ask for the latter in two ways. A namespace's path may name the process that stands for a container
//! (`/proc/<pid>/ns/ipc`), as podman's pods and docker's `--ipc container:ID` do; or annotations name the sandbox, as the
//! kubelet's runtimes have them and podman sets them too. A path that is neither leads to a namespace of the host's
//! kernel: there is nothing to join for a guest, but for the network's, into which the machine is put.

use std::fs;
use std::path::{Path, PathBuf, absolute};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use super::id::ContainerId;
use super::record::{Record, Status};
use super::store::{Folder, Store};
use crate::bundle::namespaces::{self, ByPath, NamespaceError};
use crate::bundle::place::Joined;

/// Type of a container, and the sandbox to which it belongs: those of containerd and of CRI-O.
const ANNOTATIONS: [(&str, &str); 2] = [
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
];

/// The type of one that goes into another's sandbox.
const CONTAINER: &str = "container";

/// A place in the machine of another container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The folder of the container whose monitor has the machine, absolute.
    pub(crate) sandbox: PathBuf,
    /// Namespaces of containers in that machine.
    pub(crate) joined: Joined,
}

/// The container cannot be made where it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A container that is gone.
    #[error("container {id}, which {field} names, has stopped")]
    Stopped {
        /// Its name.
        id: ContainerId,
        /// By what.
        field: String,
    },
    /// Of two machines.
    #[error("linux.namespaces[{index}] ({kind}) and others are of containers in different machines")]
    Apart {
        /// Place in the list.
        index: usize,
        /// Its type.
        kind: LinuxNamespaceType,
    },
    /// The machine's processes have one label for all that is in it.
    #[error(
        "process.selinuxLabel `{own}` is not that of container {id}, `{machines}`, whose machine this container joins; \
         give both the same"
    )]
    Label {
        /// The container that is there already.
        id: ContainerId,
        /// What is asked for.
        own: String,
        /// What there is.
        machines: String,
    },
    /// Its folder.
    #[error("cannot find out where the container's sandbox is kept")]
    Folder(#[source] std::io::Error),
}

/// A container that is there already.
struct Neighbour {
    folder: PathBuf,
    record: Record,
}

/// Finds out where the container of `spec` goes; nothing is a machine of its own.
pub(crate) fn find(store: &Store, spec: &Spec) -> Result<Option<Membership>, MembershipError> {
    let named = annotated(store, spec)?;
    let mut membership: Option<Membership> = None;
    if let Some(sandbox) = &named {
        sandbox.has_label_of(spec)?;
        membership = Some(Membership { sandbox: sandbox.machine()?, joined: Joined::new() });
    }
    for namespace in namespaces::by_path(spec) {
        let by_path = by_path(store, namespace)?;
        // A path that leads to no container's process may have been made for the sandbox before that was there.
        let Some(neighbour) = by_path.as_ref().or(named.as_ref()) else {
            if namespace.kind == LinuxNamespaceType::Network {
                continue;
            }
            return Err(namespace
                .refuse(
                    "its path leads to no container of this runtime; a namespace of the host is of another kernel and \
                     cannot be joined",
                )
                .into());
        };
        neighbour.has_label_of(spec)?;
        let machine = neighbour.machine()?;
        let membership =
            membership.get_or_insert_with(|| Membership { sandbox: machine.clone(), joined: Joined::new() });
        if membership.sandbox != machine {
            return Err(MembershipError::Apart { index: namespace.index, kind: namespace.kind });
        }
        membership.joined.push((namespace.kind, neighbour.record.guest_id()));
    }
    Ok(membership)
}

/// Where there is nobody else's machine: what would need one is refused.
pub(crate) fn refuse(spec: &Spec) -> Result<(), NamespaceError> {
    let mut joined = namespaces::by_path(spec).filter(|one| one.kind != LinuxNamespaceType::Network);
    joined.next().map_or(Ok(()), |one| {
        Err(one.refuse("`sandbox run` makes a machine of its own; containers that share one are for `runv`"))
    })
}

impl Neighbour {
    fn new(folder: &Path, record: Record) -> Self {
        Self { folder: folder.to_owned(), record }
    }

    fn alive(self, field: impl FnOnce() -> String) -> Result<Self, MembershipError> {
        match self.record.status() {
            Status::Stopped => Err(MembershipError::Stopped { id: self.record.id, field: field() }),
            _ => Ok(self),
        }
    }

    /// As it has the label of its machine, so has whoever joins it.
    fn has_label_of(&self, spec: &Spec) -> Result<(), MembershipError> {
        let [own, machines] = [spec.process(), &self.record.process].map(|process| {
            process.as_ref().and_then(|process| process.selinux_label().clone()).unwrap_or_default()
        });
        if own == machines {
            return Ok(());
        }
        Err(MembershipError::Label { id: self.record.id.clone(), own, machines })
    }

    /// The folder of the container that has the machine.
    fn machine(&self) -> Result<PathBuf, MembershipError> {
        match &self.record.member {
            Some(member) => Ok(member.sandbox.clone()),
            None => absolute(&self.folder).map_err(MembershipError::Folder),
        }
    }
}

/// The sandbox that annotations name. One that is not there, or is another runtime's, is none.
fn annotated(store: &Store, spec: &Spec) -> Result<Option<Neighbour>, MembershipError> {
    let Some(annotations) = spec.annotations() else { return Ok(None) };
    for (kind, name) in ANNOTATIONS {
        let is_member = annotations.get(kind).is_some_and(|kind| kind == CONTAINER);
        let id = annotations.get(name).and_then(|id| id.parse::<ContainerId>().ok());
        let Some(id) = id.filter(|_| is_member) else { continue };
        if let Ok((folder, record)) = store.find(&id) {
            let sandbox = Neighbour::new(folder.path(), record);
            return sandbox.alive(|| format!("the annotation {name}")).map(Some);
        }
    }
    Ok(None)
}

/// The container whose process a namespace's path names.
fn by_path(store: &Store, namespace: ByPath<'_>) -> Result<Option<Neighbour>, MembershipError> {
    let Some((pid, name)) = process_and_name(namespace.path) else { return Ok(None) };
    let Some(neighbour) = of_process(store, pid) else { return Ok(None) };
    if Some(name) != name_of(namespace.kind) {
        return Err(namespace.refuse("its path is that of a namespace of another type").into());
    }
    let field = || format!("linux.namespaces[{}] ({})", namespace.index, namespace.kind);
    neighbour.alive(field).map(Some)
}

/// Of `/proc/<pid>/ns/<name>`.
fn process_and_name(path: &Path) -> Option<(u32, &str)> {
    let (pid, name) = path.to_str()?.strip_prefix("/proc/")?.split_once("/ns/")?;
    Some((pid.parse().ok()?, name))
}

/// As namespaces(7) has it.
fn name_of(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Ipc => Some("ipc"),
        LinuxNamespaceType::Uts => Some("uts"),
        LinuxNamespaceType::Pid => Some("pid"),
        LinuxNamespaceType::Network => Some("net"),
        LinuxNamespaceType::User => Some("user"),
        LinuxNamespaceType::Time => Some("time"),
        LinuxNamespaceType::Cgroup => Some("cgroup"),
        LinuxNamespaceType::Mount => None,
    }
}

/// The container that a process stands for: one of the same root, else one whose folder the process has open.
fn of_process(store: &Store, pid: u32) -> Option<Neighbour> {
    let all = store.all().unwrap_or_default();
    if let Some(record) = all.into_iter().find(|record| record.monitor.pid == pid) {
        let folder = store.folder(&record.id).ok()?;
        return Some(Neighbour::new(folder.path(), record));
    }
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|target| target.is_absolute() && target.is_dir())
        .filter_map(|target| Some((Folder::open(target.clone()).ok()?.read().ok()?, target)))
        .find(|(record, _)| record.monitor.pid == pid)
        .map(|(record, folder)| Neighbour::new(&folder, record))
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
