//! Configuration of the device process (`runv-devices`): what the shim writes as JSON into an inherited
//! file descriptor, and what the process reads from it.
//!
//! File descriptors appear as the numbers under which the process inherits them. Nothing in here is
//! decided by the guest.

use std::path::PathBuf;

pub use jail::{IdMap, IdRange};
use serde::{Deserialize, Serialize};

/// Number of an inherited file descriptor.
pub type FdNumber = i32;

/// Everything that one device process serves. One process serves one sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProcessConfig {
    /// Where the line `ready` goes once every backend accepts its frontend, or else one line of error text.
    pub status_fd: FdNumber,
    /// A socket whose end of file means that the shim is gone: the process ends at once.
    pub lifeline_fd: FdNumber,
    /// virtio-fs, virtio 1.2 section 5.11.
    pub fs: Option<FsConfig>,
    /// virtio-vsock, virtio 1.2 section 5.10.
    pub vsock: Option<VsockConfig>,
    /// virtio-rng, virtio 1.2 section 5.4.
    pub rng: Option<RngConfig>,
    /// virtio-console, virtio 1.2 section 5.3; output only.
    pub console: Option<ConsoleConfig>,
    /// virtio-balloon, virtio 1.2 section 5.5.
    pub balloon: Option<BalloonConfig>,
    /// virtio-net, virtio 1.2 section 5.1, one for each interface.
    pub net: Vec<NetConfig>,
}

/// The share that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
    /// What of the host is visible.
    pub exports: Vec<Export>,
    /// How long the guest may trust what it has read.
    pub cache: CacheMode,
    /// Extended attributes.
    pub xattr: bool,
    /// POSIX access control lists; brings `xattr` along.
    pub posix_acl: bool,
    /// The guest's kernel collects writes before it sends them.
    pub writeback: bool,
}

/// One directory or file of the host, and where in the share it appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Relative to the share, of normal components only, e.g. `rootfs` or `mounts/0`.
    pub destination: PathBuf,
    /// Enforced by the host's kernel, for every mount below `source` too.
    pub read_only: bool,
    /// How the owners of its files appear, if not as they are.
    pub id_map: Option<IdMap>,
}

/// virtio-fs cache policy, as virtiofsd's `--cache`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// The guest asks each time; no shared memory maps.
    Never,
    /// Data for a short while, metadata with time-outs: sees what the host changes.
    #[default]
    Auto,
    /// For trees that nobody on the host changes.
    Always,
}

/// The guest's socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
    /// Listening unix socket `vsock.sock`, on which host programs ask `CONNECT <port>`.
    pub host_listener_fd: FdNumber,
    /// Directory in which a guest's connection to port P looks for `vsock.sock_<P>`.
    pub directory_fd: FdNumber,
    /// Context id of the guest, above 2.
    pub guest_cid: u32,
}

/// The guest's source of entropy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
}

/// What gives the memory that the guest frees back to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
}

/// A network interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
    /// The queues of a tap with headers of 12 bytes before its frames, not in any other process's hands; one for each pair of
    /// queues of the device. All but the first are detached.
    pub tap_fds: Vec<FdNumber>,
    /// An open `/dev/vhost-net` for each of those, or none: then the device process moves the frames.
    pub vhost_fds: Vec<FdNumber>,
}

/// A console for what the guest's kernel and agent say; nothing is read from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Listening unix socket with the frontend's connection pending.
    pub listener_fd: FdNumber,
    /// Where the output goes.
    pub output_fd: FdNumber,
}
