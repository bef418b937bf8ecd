//! What an administrator and a user may choose: the configuration file, and the command line over it.
//!
//! Each type parses and checks itself beside its definition; `load.rs` only says where a file comes from and
//! in which line it is wrong.

use std::path::PathBuf;
use std::time::Duration;

use device_config::CacheMode;
use serde::Deserialize;
use vmm::hypervisor::select::{Choice, EmulationPolicy};

mod annotation;
mod balloon;
mod cpus;
mod load;
mod memory;
mod network;
mod rate_limit;
mod rootfs_upper;
mod vm_field;

pub(crate) use annotation::{Annotation, PREFIX as ANNOTATION_PREFIX};
pub(crate) use balloon::Balloon;
pub(crate) use cpus::Cpus;
pub(crate) use load::{LoadError, load};
pub(crate) use memory::{MAX_MIB as MAX_MEMORY_MIB, MemorySize};
pub(crate) use network::{NetworkOptions, Vhost};
#[cfg(test)]
pub(crate) use rate_limit::Rate;
pub(crate) use rate_limit::RateLimit;
pub(crate) use rootfs_upper::RootfsUpper;
pub(crate) use vm_field::VmField;

/// The configuration file; every key may be left out, and the command line's options have the same names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Which driver runs the machine.
    #[serde(default)]
    pub(crate) hypervisor: Choice,
    /// The guest kernel, instead of the installed one.
    pub(crate) kernel: Option<PathBuf>,
    /// The initrd, instead of the installed one.
    pub(crate) initrd: Option<PathBuf>,
    /// Words for the guest kernel's command line.
    #[serde(default)]
    pub(crate) kernel_parameters: Vec<String>,
    /// The guest's memory, where the bundle has no limit.
    #[serde(default)]
    pub(crate) memory: MemorySize,
    /// The guest's vCPUs, where the bundle has no limit.
    #[serde(default)]
    pub(crate) cpus: Cpus,
    /// Whether the memory that the guest frees goes back to the host.
    #[serde(default)]
    pub(crate) balloon: Balloon,
    /// Where a container's writes to its root file system go.
    #[serde(default)]
    pub(crate) rootfs_upper: RootfsUpper,
    /// Annotations that a bundle may set.
    #[serde(default = "Annotation::allowed_by_default")]
    pub(crate) allow_annotations: Vec<Annotation>,
    /// Fields of the `vm` section that a bundle may set.
    #[serde(default)]
    pub(crate) allow_vm_section: Vec<VmField>,
    /// Where the kernels and initrds are that a bundle may choose.
    #[serde(default = "default_kernel_directories")]
    pub(crate) kernel_directories: Vec<PathBuf>,
    /// Programs that a bundle may choose as its hypervisor.
    #[serde(default)]
    pub(crate) hypervisor_paths: Vec<PathBuf>,
    /// What a bundle may tell such a program, if it is a QEMU: sequences of words, to be taken whole.
    #[serde(default)]
    pub(crate) hypervisor_parameters: Vec<Vec<String>>,
    /// What the command line says, whatever a bundle needs.
    #[serde(skip)]
    pub(crate) fixed: Fixed,
    /// Guest console and logs to stderr.
    #[serde(default)]
    pub(crate) debug: bool,
    /// What to do where only software can run the guest.
    #[serde(default)]
    pub(crate) software_emulation: EmulationPolicy,
    /// How long a guest may take until its agent is ready.
    pub(crate) boot_timeout_seconds: Option<std::num::NonZeroU16>,
    /// The driver `qemu`.
    #[serde(default)]
    pub(crate) qemu: Qemu,
    /// The file system shared with the guest.
    #[serde(default)]
    pub(crate) virtio_fs: VirtioFs,
    /// Networks of engines.
    #[serde(default)]
    pub(crate) network: NetworkOptions,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hypervisor: Choice::default(),
            kernel: None,
            initrd: None,
            kernel_parameters: Vec::new(),
            memory: MemorySize::default(),
            cpus: Cpus::default(),
            balloon: Balloon::default(),
            rootfs_upper: RootfsUpper::default(),
            allow_annotations: Annotation::allowed_by_default(),
            allow_vm_section: Vec::new(),
            kernel_directories: default_kernel_directories(),
            hypervisor_paths: Vec::new(),
            hypervisor_parameters: Vec::new(),
            fixed: Fixed::default(),
            debug: false,
            software_emulation: EmulationPolicy::default(),
            boot_timeout_seconds: None,
            qemu: Qemu::default(),
            virtio_fs: VirtioFs::default(),
            network: NetworkOptions::default(),
        }
    }
}

fn default_kernel_directories() -> Vec<PathBuf> {
    vec!["/usr/local/share/runv/kernels".into(), "/usr/share/runv/kernels".into()]
}

/// What was asked for by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fixed {
    /// Driver.
    pub(crate) hypervisor: Option<Choice>,
    /// Kernel.
    pub(crate) kernel: Option<PathBuf>,
    /// Initrd.
    pub(crate) initrd: Option<PathBuf>,
    /// Words for the kernel's command line.
    pub(crate) kernel_parameters: Vec<String>,
    /// Memory.
    pub(crate) memory: Option<MemorySize>,
    /// vCPUs.
    pub(crate) cpus: Option<Cpus>,
}

impl Config {
    /// What cannot be checked key by key.
    fn check(&self) -> Result<(), &'static str> {
        self.virtio_fs.check()?;
        self.network.check()?;
        if !self.kernel_directories.iter().all(|path| path.is_absolute()) {
            return Err("kernel_directories must be absolute paths");
        }
        if !self.hypervisor_paths.iter().all(|path| path.is_absolute()) {
            return Err("hypervisor_paths must be absolute paths");
        }
        if self.hypervisor_parameters.iter().any(Vec::is_empty) {
            return Err("hypervisor_parameters must be lists of words that are not empty");
        }
        Ok(())
    }

    /// How long a guest may take until its agent is ready.
    pub(crate) fn boot_timeout(&self, emulated: Emulated) -> Duration {
        match (self.boot_timeout_seconds, emulated) {
            (Some(seconds), _) => Duration::from_secs(seconds.get().into()),
            (None, Emulated::No) => Duration::from_secs(60),
            (None, Emulated::Yes) => Duration::from_secs(120),
        }
    }
}

/// Whether software, not the CPU, runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emulated {
    /// Hardware virtualization.
    No,
    /// TCG.
    Yes,
}

/// `[qemu]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Qemu {
    /// The program, instead of the one that `PATH` names.
    pub(crate) path: Option<PathBuf>,
}

/// `[virtio_fs]`, the same options as virtiofsd's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VirtioFs {
    /// How long the guest may trust what it has read.
    pub(crate) cache: CacheMode,
    /// Extended attributes.
    pub(crate) xattr: bool,
    /// POSIX access control lists.
    pub(crate) posix_acl: bool,
    /// The guest's kernel collects writes before it sends them.
    pub(crate) writeback: bool,
}

impl Default for VirtioFs {
    fn default() -> Self {
        Self { cache: CacheMode::Auto, xattr: true, posix_acl: false, writeback: false }
    }
}

impl VirtioFs {
    /// Access control lists are extended attributes.
    fn check(&self) -> Result<(), &'static str> {
        if self.posix_acl && !self.xattr {
            return Err("virtio_fs.posix_acl = true needs virtio_fs.xattr = true");
        }
        Ok(())
    }
}
