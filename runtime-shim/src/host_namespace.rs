//! The host's network namespace of a container: the one in which its monitor and its machine live.
//!
//! Engines find the container's network there (`/proc/<pid>/ns/net`). All other namespaces are the guest's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// The network namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// One by path.
    #[error("cannot join the network namespace {}", path.display())]
    Join {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new one.
    #[error("cannot make a network namespace")]
    Make(#[source] io::Error),
}

/// A network namespace of the host's, of which the interfaces are never a guest's, by whatever path a bundle names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HostNetwork {
    device: u64,
    inode: u64,
}

impl HostNetwork {
    /// That of the calling thread.
    pub(crate) fn here() -> io::Result<Self> {
        let metadata = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Whether the calling thread is in another one now.
    pub(crate) fn is_left(&self) -> io::Result<bool> {
        Ok(Self::here()? != *self)
    }
}

/// Takes the calling thread into the network namespace that the specification asks for.
pub(crate) fn enter_network(spec: &Spec) -> Result<(), NamespaceError> {
    match network(spec) {
        None => Ok(()),
        Some(None) => unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Make(errno.into())),
        Some(Some(path)) => join(path),
    }
}

/// The same, but where a new one is asked for, that of the guest is new enough.
pub(crate) fn join_network(spec: &Spec) -> Result<(), NamespaceError> {
    network(spec).flatten().map_or(Ok(()), join)
}

/// The network namespace in the specification, with its path if it is one to join.
fn network(spec: &Spec) -> Option<Option<&Path>> {
    let mut namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let network = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?;
    Some(network.path().as_deref().filter(|path| !path.as_os_str().is_empty()))
}

fn join(path: &Path) -> Result<(), NamespaceError> {
    let failed = |source| NamespaceError::Join { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))
}
