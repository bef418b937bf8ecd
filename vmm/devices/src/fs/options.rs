//! From the configuration's options to virtiofsd's.

use std::os::fd::OwnedFd;
use std::time::Duration;

use device_config::{CacheMode, FsConfig};

use virtiofsd::passthrough::{CachePolicy, Config, NegotiationMode, PassthroughFs};

use super::{FsError, share};

/// How many open files the device process tries to be allowed: every inode that the guest remembers is one.
pub const WANTED_OPEN_FILES: u64 = 1_000_000;

/// Descriptors that are not for the share: those of the vsock device's connections, each at most one, and what
/// all devices hold for themselves. A guest that opens files without end gets `EMFILE` before these are gone
/// (CVE-2020-10717). Where few may be open at all, the share gets half of them.
const RESERVED_OPEN_FILES: u64 = 1023 + 64 + 256;

/// Opens the share in the root directory that the process has entered. `proc_self_fd` was opened before that.
///
/// # Errors
/// virtiofsd cannot open what it keeps open.
pub fn open(config: &FsConfig, proc_self_fd: OwnedFd, open_files: u64) -> Result<PassthroughFs, FsError> {
    let mut options = passthrough_config(config);
    options.proc_sfd_rawfd = Some(proc_self_fd.into());
    options.guest_fd_limit = open_files - RESERVED_OPEN_FILES.min(open_files / 2);
    PassthroughFs::new(options).map_err(FsError::Open)
}

/// For how long the guest may believe what it has been told of names and attributes.
#[must_use]
pub fn lifetime(cache: CacheMode) -> Duration {
    match cache {
        CacheMode::Never => Duration::ZERO,
        CacheMode::Auto => Duration::from_secs(1),
        CacheMode::Always => Duration::from_secs(24 * 60 * 60),
    }
}

fn passthrough_config(config: &FsConfig) -> Config {
    let cache_policy = match config.cache {
        CacheMode::Never => CachePolicy::Never,
        CacheMode::Auto => CachePolicy::Auto,
        CacheMode::Always => CachePolicy::Always,
    };
    let lifetime = lifetime(config.cache);
    Config {
        root_dir: share::ROOT.to_owned(),
        cache_policy,
        entry_timeout: lifetime,
        attr_timeout: lifetime,
        // What is not remembered need not be looked up with each name.
        readdirplus: config.cache != CacheMode::Never,
        // Files of an uncached share can be mapped shared nonetheless, since Linux 6.6.
        allow_mmap: config.cache == CacheMode::Never,
        writeback: config.writeback,
        // The lists are extended attributes.
        xattr: config.xattr || config.posix_acl,
        posix_acl: if config.posix_acl { NegotiationMode::Auto } else { NegotiationMode::Never },
        // Exports are mounts of their own, so that inode numbers of different host file systems stay apart.
        announce_submounts: true,
        // Without it the guest's kernel asks for security.capability before every write.
        killpriv_v2: true,
        ..Config::default()
    }
}
