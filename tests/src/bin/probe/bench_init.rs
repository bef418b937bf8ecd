//! `probe` as PID 1 of a bare virtual machine: what a sandbox's workload does, with nothing of a sandbox around it.
//!
//! When it ends, the kernel panics, and the virtual machine ends too.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};

use crate::bench_files::Job;

/// Times file system operations on the virtio-fs with the tag `share`.
pub(crate) fn files(mib: u64, count: u64) -> Result<()> {
    let directory = Path::new("/share");
    fs::create_dir(directory).context("mkdir")?;
    mount("share", directory, "virtiofs", MountFlags::empty(), None).context("cannot mount the virtio-fs")?;
    Job { directory, mib, count, evict: true }.run()
}
