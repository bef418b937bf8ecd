//! What the VMM process is told to run.

use std::num::NonZeroU8;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::DeviceKind;

/// Number of an inherited file descriptor.
pub type FdNumber = i32;

/// [`crate::config::VmConfig`] as the VMM process reads it: files are open and known by their numbers, so that the
/// process needs no path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Number of vCPUs.
    pub cpus: NonZeroU8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Uncompressed ELF kernel.
    pub kernel: BootFile,
    /// Initial RAM disk.
    pub initrd: BootFile,
    /// Appended to the kernel command line, one word each.
    pub kernel_parameters: Vec<String>,
    /// Kernel messages down to debug level go to the console.
    pub verbose_console: bool,
    /// Receives what the guest writes to its serial port.
    pub console_fd: FdNumber,
    /// vhost-user devices in the order in which the guest sees them.
    pub devices: Vec<DeviceSocket>,
}

/// A file that the guest boots from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFile {
    /// Open for reading.
    pub fd: FdNumber,
    /// Where it was opened, for error messages only.
    pub path: PathBuf,
}

/// One vhost-user device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSocket {
    /// Which device it is.
    pub kind: DeviceKind,
    /// Connected stream socket to the backend.
    pub fd: FdNumber,
}
