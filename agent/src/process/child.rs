//! The container's init between its birth and execve: it builds the container around itself, then goes the way of
//! all processes (`workload`).

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::container::namespaces::{Namespaces, Neighbour};
use crate::container::request::ContainerSpec;
use crate::failure::{Failure, FailureKind};
use crate::kernel::{Lacking, missing_namespace};
use crate::process::console::Console;
use crate::process::control::ChildEnd;
use crate::process::files::Files;
use crate::process::workload::{Workload, begin, execute, exit, system};
use crate::rootfs::mounts::{Mount, Origins, Source};
use crate::rootfs::path::{Descriptors, ensure_directory};
use crate::rootfs::{devices, pivot};
use crate::security::{sysctl, user};
use crate::sys::mount_api::{MountAttributes, UNCHANGED, set_attributes};
use crate::sys::{namespaces, network, time};

/// All that the init needs to know, made before it is born.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was asked for.
    pub spec: ContainerSpec,
    /// Containers whose namespaces are joined.
    pub neighbours: Vec<Neighbour>,
    /// Where things are in the guest.
    pub places: Places,
}

impl Plan {
    /// Those that are the container's own.
    pub fn new_namespaces(&self) -> Namespaces {
        let joined = self.neighbours.iter().map(|neighbour| neighbour.namespaces);
        joined.fold(self.spec.namespaces, Namespaces::without)
    }

    /// Whether its user namespace is another container's.
    pub fn joins_user_namespace(&self) -> bool {
        self.neighbours.iter().any(|neighbour| neighbour.namespaces.user)
    }
}

/// Paths of the guest that a container is made from.
#[derive(Clone, Debug)]
pub struct Places {
    /// The mounted share.
    pub share: PathBuf,
    /// An empty directory, on which each container mounts its root in its own mount namespace.
    pub root: PathBuf,
    /// Where the agent listens for the container's sockets.
    pub sockets: PathBuf,
    /// The container's cgroup.
    pub cgroup: PathBuf,
}

/// The whole life of the init up to the workload's first instruction.
///
/// # Errors
///
/// A [`Failure`], to be reported.
pub fn run(plan: &Plan, control: &ChildEnd, files: &Files) -> Result<Infallible, Failure> {
    let Plan { spec, neighbours, places } = plan;
    begin(control, files, neighbours.iter().map(Neighbour::pidfd))?;
    umask(Mode::empty());
    let new = plan.new_namespaces();
    if !plan.joins_user_namespace() {
        join(neighbours)?;
    }
    if new.time {
        time::enter_new_namespace(&spec.time_offsets)
            .map_err(namespace("cannot make a time namespace", libc::CLONE_NEWTIME))?;
    }
    // The agent writes its ids, which it may do for any, and gives it its network.
    if (new.user || !spec.network.is_empty()) && !control.wait_for_go() {
        exit();
    }
    if spec.namespaces.user {
        user::become_root().map_err(system("cannot become root of the user namespace"))?;
    }
    enter_namespaces(spec, new)?;
    let console = build_root(spec, places)?;
    let workload =
        Workload { process: &spec.process, confinement: &spec.confinement, hooks: Some(&spec.hooks) };
    execute(&workload, control, files, console.as_ref())
}

/// The pid and the user namespace are not among them: the init was born into those.
pub(super) fn join(neighbours: &[Neighbour]) -> Result<(), Failure> {
    let with_flags = neighbours.iter().map(|neighbour| (neighbour, neighbour.namespaces.shared_flags()));
    with_flags.filter(|(_, flags)| *flags != 0).try_for_each(|(neighbour, flags)| {
        namespaces::join(neighbour.pidfd(), flags)
            .map_err(system("cannot join the namespaces of another container"))
    })
}

/// What clone3 could not do, and what has to be set in the new namespaces.
fn enter_namespaces(spec: &ContainerSpec, new: Namespaces) -> Result<(), Failure> {
    if new.cgroup {
        // The root of a cgroup namespace is its maker's cgroup, and during clone3 that is still the agent's.
        unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| errno.into())
            .map_err(namespace("cannot make a cgroup namespace", libc::CLONE_NEWCGROUP))?;
    }
    if new.network {
        network::bring_loopback_up().map_err(system("cannot bring the loopback interface up"))?;
    }
    if !spec.hostname.is_empty() {
        rustix::system::sethostname(spec.hostname.as_bytes()).map_err(system("cannot set the hostname"))?;
    }
    if !spec.domainname.is_empty() {
        rustix::system::setdomainname(spec.domainname.as_bytes())
            .map_err(system("cannot set the domainname"))?;
    }
    sysctl::set(&spec.sysctl).map_err(|error| Failure::from_error(FailureKind::System, &error))
}

/// The failure to make a namespace, of which the kernel may have none.
fn namespace(act: &'static str, flag: libc::c_int) -> impl FnOnce(io::Error) -> Failure {
    move |error| match missing_namespace(u64::from(flag.unsigned_abs()), Path::new("/proc/self/ns")) {
        Some(feature) => {
            let lacking = Lacking::new(feature, error);
            Failure::new(FailureKind::System, format!("{act}: {lacking}"))
        }
        None => system(act)(error),
    }
}

/// Builds the root file system and enters it.
fn build_root(spec: &ContainerSpec, places: &Places) -> Result<Option<Console>, Failure> {
    let mount = |error: &dyn Error| Failure::from_error(FailureKind::Mount, error);
    let root = pivot::mount_root(&places.share, &spec.root, spec.upper, &places.root)
        .map_err(|error| mount(&error))?;
    let origins = Origins {
        share: &places.share,
        sockets: &places.sockets,
        cgroup: &places.cgroup,
        cgroup_namespace: spec.namespaces.cgroup,
    };
    let mut readonly: Vec<OwnedFd> = Vec::new();
    for one in &spec.mounts {
        readonly.extend(one.make(root.as_fd(), origins).map_err(|error| mount(&error))?);
    }
    if !dev_is_bound(&spec.mounts) {
        for device in &spec.devices {
            device.make(root.as_fd()).map_err(|error| mount(&error))?;
        }
        devices::populate(root.as_fd(), &spec.devices).map_err(|error| mount(&error))?;
    }
    let console = match spec.process.terminal {
        Some(size) => {
            let descriptors = Descriptors::open().map_err(system("cannot open the guest's /proc"))?;
            let console = Console::open(root.as_fd(), &descriptors, size).map_err(|error| mount(&error))?;
            devices::mount_console(root.as_fd(), &console.terminal).map_err(|error| mount(&error))?;
            Some(console)
        }
        None => None,
    };
    make_cwd(root.as_fd(), &spec.process.cwd)?;
    spec.masks.apply(root.as_fd()).map_err(|error| mount(&error))?;
    for complete in readonly.iter().chain(spec.readonly.then_some(&root)) {
        let attributes = MountAttributes { attr_set: libc::MOUNT_ATTR_RDONLY, ..UNCHANGED };
        set_attributes(complete, &attributes, false)
            .map_err(system("cannot make the root file system or a tmpfs read-only"))?;
    }
    pivot::enter(&root).map_err(|error| mount(&error))?;
    if let Some(propagation) = spec.propagation {
        let attributes = MountAttributes { propagation: propagation.kind, ..UNCHANGED };
        set_attributes(&root, &attributes, propagation.recursive)
            .map_err(system("cannot set the propagation of the root file system"))?;
    }
    Ok(console)
}

/// A /dev that comes from the host as a whole is left as it is (as runc does).
fn dev_is_bound(mounts: &[Mount]) -> bool {
    mounts
        .iter()
        .any(|mount| mount.destination == Path::new("/dev") && matches!(mount.source, Source::Share(_)))
}

/// As runc: the working directory is made if it is missing. Where that fails, chdir will say why.
fn make_cwd(root: BorrowedFd<'_>, cwd: &Path) -> Result<(), Failure> {
    match ensure_directory(root, cwd) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            let act = format!("cannot make the working directory {:?}", cwd);
            Err(Failure::new(FailureKind::System, format!("{act}: {error}")))
        }
        _ => Ok(()),
    }
}
