//! What a virtual machine is made of, the same for every driver.

use std::fs::File;
use std::io;
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use child::ExecLabel;
use serde::{Deserialize, Serialize};

/// Least guest memory with which the guest kernel reaches its agent, in MiB.
pub const MIN_MEMORY_MIB: u32 = 64;

/// A virtual machine to start. Drivers take it whole: its file descriptors belong to one machine.
#[derive(Debug)]
pub struct VmConfig {
    /// Number of vCPUs.
    pub cpus: NonZeroU8,
    /// Guest memory in MiB, at least [`MIN_MEMORY_MIB`].
    pub memory_mib: u32,
    /// Uncompressed ELF kernel.
    pub kernel: GuestFile,
    /// Initial RAM disk whose `/init` is the agent.
    pub initrd: GuestFile,
    /// Appended to the driver's own kernel command line. Each is one word without white space.
    pub kernel_parameters: Vec<String>,
    /// Kernel messages down to debug level go to the console.
    pub verbose_console: bool,
    /// Receives what the guest writes to its serial port.
    pub console: OwnedFd,
    /// vhost-user devices, in the order in which the guest sees them.
    pub devices: Vec<VhostUserDevice>,
    /// The guest has a virtio-balloon of the driver's own, which gives the memory that it frees back to the host. Only
    /// `qemu` has one; for another driver it is one of `devices`.
    pub own_balloon: bool,
    /// The SELinux context of the machine's process; that of the caller, or what the host's policy makes of it, if absent.
    pub label: Option<ExecLabel>,
    /// The SELinux context of files that the driver makes for that process.
    pub file_label: Option<String>,
}

/// A regular file that the guest is booted from. It is open, so that what was checked is what is booted, whatever
/// becomes of its name.
#[derive(Debug)]
pub struct GuestFile {
    /// Its name, for errors.
    pub path: PathBuf,
    /// The file itself.
    pub file: File,
}

impl GuestFile {
    /// Opens the file of that name.
    ///
    /// # Errors
    /// Those of open(2), and what is no regular file.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = File::open(&path)?;
        Self::new(path, file)
    }

    /// A file that is open for reading.
    ///
    /// # Errors
    /// When it is no regular file.
    pub fn new(path: PathBuf, file: File) -> io::Result<Self> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self { path, file })
    }
}

/// Whether `word` can stand on a kernel command line as one parameter: printable ASCII, without a quote, which would
/// swallow the words after it, and not `--`, which gives these to init in place of the kernel.
#[must_use]
pub fn is_kernel_parameter(word: &str) -> bool {
    !word.is_empty() && word != "--" && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// One vhost-user device and the frontend's end of its connection.
#[derive(Debug)]
pub struct VhostUserDevice {
    /// Which device it is.
    pub kind: DeviceKind,
    /// Connected stream socket to the backend. With the driver `qemu` that of a [`DeviceKind::Net`] is the place of a
    /// listening one (`O_PATH`): QEMU passes descriptors for a network device only where it has connected by itself.
    pub socket: OwnedFd,
}

/// The kinds of device that the backends offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// virtio-fs, virtio 1.2 section 5.11.
    Fs {
        /// Mount tag, at most 36 bytes.
        tag: String,
    },
    /// virtio-vsock, virtio 1.2 section 5.10.
    Vsock {
        /// The guest's context id.
        guest_cid: u32,
    },
    /// virtio-rng, virtio 1.2 section 5.4.
    Rng,
    /// virtio-console, virtio 1.2 section 5.3.
    Console,
    /// virtio-net, virtio 1.2 section 5.1.
    Net {
        /// The guest's address on the network.
        mac: [u8; 6],
        /// Pairs of a receive and a transmit queue. With more than one there is a control queue.
        queue_pairs: NonZeroU8,
    },
    /// virtio-balloon, virtio 1.2 section 5.5, with free page reporting.
    Balloon,
}
