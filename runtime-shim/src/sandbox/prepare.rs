//! From a checked bundle to a sandbox that can be started: all that can be found out beforehand is found out here,
//! so that what is wrong is told before a process runs.

use std::io;
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use device_config::Export;
use jail::root::RootError;
use jail::{Bind, RootPlan, tree};
use oci_spec::runtime::Spec;

use super::devices::NetworkDevice;
use super::driver::{self, Chosen, DriverError};
use super::guest_files::{GuestFileError, GuestFiles};
use super::host;
use super::installation::{Installation, InstallationError};
use super::mount_points::{self, Kind, MountPointError};
use super::start::{Plan, Sandbox, StartError};
use crate::bundle::annotations::{AnnotationError, Annotations};
use crate::bundle::load::Bundle;
use crate::bundle::machine_parts::machine_parts;
use crate::bundle::machine_size::{SizeError, machine_size};
use crate::bundle::place::Place;
use crate::bundle::selinux::{self, SeLinuxError};
use crate::bundle::sources::{self, SourceError, Sources};
use crate::bundle::vm_section::VmSectionError;
use crate::bundle::{socket_binds, to_vm};
use crate::config::{ANNOTATION_PREFIX, Config, NetworkOptions};

/// The sandbox cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// What the bundle shares.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// This program's parts.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// Kernel or initrd.
    #[error(transparent)]
    GuestFile(#[from] GuestFileError),
    /// The hypervisor.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// What the bundle's annotations choose.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// What its `vm` section chooses.
    #[error(transparent)]
    VmSection(#[from] VmSectionError),
    /// The machine's size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Labels of what is on the host.
    #[error(transparent)]
    SeLinux(#[from] SeLinuxError),
    /// This host.
    #[error("cannot find out what this host has")]
    Host(#[source] io::Error),
    /// A mount point.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// A choice for a machine that is there already.
    #[error("{0} chooses the machine, and this container joins that of another; remove it from the bundle")]
    MachineOfAnother(String),
    /// What is added to the share of a machine that runs.
    #[error("cannot share the container's files")]
    Share(#[from] RootError),
}

/// A sandbox that only has to be started.
pub(crate) struct Prepared<'a> {
    plan: Plan<'a>,
    chosen: Chosen,
    network: NetworkOptions,
}

/// Looks for everything that the sandbox of `bundle` needs.
pub(crate) fn prepare<'a>(config: &'a Config, bundle: &Bundle) -> Result<Prepared<'a>, PrepareError> {
    let sources = sources::find(&bundle.spec, &bundle.directory)?;
    let installation = Installation::of_this_program()?;
    let device_program: PathBuf = installation.device_program()?;
    let annotations = Annotations::read(&bundle.spec, config)?;
    let parts = machine_parts(&bundle.spec, &annotations, config)?;
    let files = GuestFiles { installation: &installation, directories: &config.kernel_directories };
    let kernel = files.kernel(parts.kernel.as_ref())?;
    let initrd = files.initrd(parts.initrd.as_ref())?;
    let host = host::this_host().map_err(PrepareError::Host)?;
    let size = machine_size(&bundle.spec, &annotations, config, host)?;
    let chosen = driver::choose(&parts.hypervisor, config.software_emulation, &installation)?;
    let has_upper = size.rootfs_upper_mib.is_some();
    if !has_upper {
        make_mount_points(&bundle.spec, &sources)?;
    }
    let exports = to_vm::exports(&bundle.spec, &sources, has_upper);
    let plan = Plan {
        device_program,
        kernel,
        initrd,
        kernel_parameters: parts.kernel_parameters,
        exports,
        virtio_console: chosen.virtio_console,
        own_balloon: chosen.own_balloon,
        size,
        sockets: socket_binds::host_sockets(&Place::of_owner(), &bundle.spec),
        labels: selinux::labels(&bundle.spec)?,
        config,
    };
    let network = NetworkOptions {
        receive_limit: annotations.receive_limit.unwrap_or(config.network.receive_limit),
        send_limit: annotations.send_limit.unwrap_or(config.network.send_limit),
        ..config.network
    };
    Ok(Prepared { plan, chosen, network })
}

impl Prepared<'_> {
    /// The machine's memory.
    pub(crate) fn memory_mib(&self) -> u32 {
        self.plan.size.memory_mib
    }

    /// The machine's vCPUs.
    pub(crate) fn cpus(&self) -> NonZeroU8 {
        self.plan.size.cpus
    }

    /// What its network is to be.
    pub(crate) fn network(&self) -> NetworkOptions {
        self.network
    }

    /// Whether what the container writes to its root file system stays in the guest.
    pub(crate) fn has_upper(&self) -> bool {
        self.plan.size.rootfs_upper_mib.is_some()
    }

    /// Starts its processes, children of the calling thread; also tells how long the guest may take to boot.
    pub(crate) fn start(self, network: Vec<NetworkDevice>) -> Result<(Sandbox, Duration), StartError> {
        let timeout = self.plan.config.boot_timeout(self.chosen.emulated);
        let sandbox = Sandbox::start(self.plan, network, self.chosen.hypervisor.as_ref())?;
        Ok((sandbox, timeout))
    }
}

/// What the machine of another container is to see of this host for a bundle.
pub(crate) struct Share {
    /// A mount tree for the machine's share. The checks and restrictions are those of a share that is made with its machine.
    pub(crate) tree: OwnedFd,
    /// Of the layer in the guest that takes the container's writes, if there is one.
    pub(crate) upper_mib: Option<u32>,
}

impl Share {
    /// Finds and opens it.
    pub(crate) fn prepare(config: &Config, bundle: &Bundle) -> Result<Self, PrepareError> {
        let sources = sources::find(&bundle.spec, &bundle.directory)?;
        let annotations = Annotations::read(&bundle.spec, config)?;
        if let Some(annotation) = annotations.of_the_machine() {
            return Err(PrepareError::MachineOfAnother(format!(
                "annotation {ANNOTATION_PREFIX}{annotation}"
            )));
        }
        if bundle.spec.vm().is_some() {
            return Err(PrepareError::MachineOfAnother("vm".to_owned()));
        }
        let host = host::this_host().map_err(PrepareError::Host)?;
        let size = machine_size(&bundle.spec, &annotations, config, host)?;
        let has_upper = size.rootfs_upper_mib.is_some();
        if !has_upper {
            make_mount_points(&bundle.spec, &sources)?;
        }
        let bind = |export: Export| Bind {
            source: export.source,
            destination: export.destination,
            read_only: export.read_only,
            id_map: export.id_map,
        };
        let exports = to_vm::exports(&bundle.spec, &sources, has_upper);
        let plan = RootPlan { directories: Vec::new(), binds: exports.into_iter().map(bind).collect() };
        Ok(Self { tree: tree::build(&plan)?, upper_mib: size.rootfs_upper_mib })
    }
}

/// Only where the guest cannot make them itself.
fn make_mount_points(spec: &Spec, sources: &Sources) -> Result<(), MountPointError> {
    if !spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)) {
        return Ok(());
    }
    let kind = |index| if sources.is_file(index) { Kind::File } else { Kind::Directory };
    let mounts = spec.mounts().iter().flatten().enumerate();
    let points: Vec<_> = mounts.map(|(index, mount)| (mount.destination().clone(), kind(index))).collect();
    mount_points::make(&sources.rootfs, &points)
}
