//! What the machine has, compared before and after: named sockets, memfds, mounts, files, network interfaces,
//! cgroups, and processes of the build.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Context, Result};

use crate::{Deadline, Process};

static ORDER: RwLock<()> = RwLock::new(());

/// Held by a test that may run beside others.
pub fn together() -> RwLockReadGuard<'static, ()> {
    ORDER.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that compares censuses of the whole machine, or loads it.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    ORDER.write().unwrap_or_else(PoisonError::into_inner)
}

/// Start of the names of this run's cgroups, which it shares with all that runs on the machine: the inode of the
/// tests' PID namespace.
pub(crate) fn cgroup_prefix() -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let namespace = fs::metadata("/proc/self/ns/pid").context("cannot look at the PID namespace")?;
    Ok(format!("runv-test-{}-", namespace.ino()))
}

/// Where programs leave files.
const PLACES: [&str; 5] = ["/run", "/tmp", "/dev/shm", "/var/run", "/var/lib"];

/// What there is at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeSet<String>);

impl Census {
    /// Looks at everything.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn take() -> Result<Self> {
        let mut found = BTreeSet::new();
        processes(&mut found)?;
        let sockets = fs::read_to_string("/proc/net/unix").context("cannot read /proc/net/unix")?;
        found.extend(
            sockets
                .lines()
                .filter_map(|line| line.split_whitespace().nth(7))
                .map(|name| format!("socket {name}")),
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
        // Without the id, which is another each time.
        found.extend(
            mounts
                .lines()
                .map(|line| format!("mount {:?}", line.split_whitespace().skip(2).collect::<Vec<_>>())),
        );
        for place in PLACES {
            list(place, 1, "file", &mut found);
        }
        list("/", 0, "file", &mut found);
        list("/sys/class/net", 0, "interface", &mut found);
        list("/sys/fs/cgroup", 4, "cgroup", &mut found);
        // The tests' own bundles, and others' cgroups.
        let own = cgroup_prefix()?;
        found.retain(|what| {
            !(what.contains("/bundle.") || what.starts_with("cgroup") && !what.contains(&own))
        });
        Ok(Self(found))
    }

    /// Waits until nothing is there that was not.
    ///
    /// # Errors
    /// When something still is at the deadline: what.
    pub fn restored(&self, deadline: Deadline) -> Result<()> {
        deadline
            .wait_for("all that is new to be gone", || Ok(Self::take()?.0.is_subset(&self.0).then_some(())))
            .with_context(|| match Self::take() {
                Ok(now) => format!("left: {:?}", now.0.difference(&self.0).collect::<Vec<_>>()),
                Err(error) => format!("{error:#}"),
            })
    }
}

/// Processes that are parts of a sandbox, and who holds a memfd or a guest's memory.
fn processes(found: &mut BTreeSet<String>) -> Result<()> {
    for process in Process::all()?.into_values() {
        if process.role().is_some() {
            found.insert(format!("process {} {}", process.program, process.pid.as_raw_nonzero()));
        }
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", process.pid.as_raw_nonzero())) else { continue };
        for file in files.flatten() {
            if let Ok(target) = fs::read_link(file.path())
                && (target.starts_with("/memfd:") || target.ends_with("guest-memory"))
            {
                found.insert(format!("memory {} of {}", target.display(), process.program));
            }
        }
    }
    Ok(())
}

fn list(directory: impl AsRef<Path>, depth: u32, what: &str, found: &mut BTreeSet<String>) {
    // What vanishes meanwhile was not left.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        found.insert(format!("{what} {}", entry.path().display()));
        if is_directory && depth > 0 {
            list(entry.path(), depth - 1, what, found);
        }
    }
}
