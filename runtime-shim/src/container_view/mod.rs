//! What the host sees of a container's files: the mount namespace of its monitor.
//!
//! Engines and tools take the namespaces and the root directory of the container's process for the container's own:
//! `podman cp` and `podman top` join `/proc/<pid>/ns/mnt`, others go by `/proc/<pid>/root`. So the monitor's main thread has
//! a mount namespace in which the root directory is the container's, with its bind mounts where the bundle puts them, and
//! nothing of the host. What only the guest has, such as a tmpfs, is an empty directory here that refuses writes: a copy
//! into it fails rather than vanish. In place of procfs there are the guest's processes ([`processes`]).
//!
//! All mounts are inert: what an image holds is never executed by the host's kernel.
//!
//! The threads that the main thread has started before stay in the namespace that it came from, and go on by the
//! host's paths ([`crate::control::server`], [`crate::sandbox::socket_relay`]).

#![allow(unsafe_code, reason = "unshare(2) is unsafe in rustix, as some of its flags are")]

mod place;
mod processes;
mod procfs;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jail::root::{RootError, SourceTree, change_root, clone_source};
use jail::{Bind, IdMap, MountAttributes};
use oci_spec::runtime::Spec;
use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::bundle::sources::Sources;
use crate::bundle::{id_map, mounts, socket_binds};
use crate::container::store::Folder;
use place::{Places, empty_directory};

/// The view could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// What the bundle shares.
    #[error("cannot show the container's files to the host")]
    Source(#[source] RootError),
    /// A step of its own.
    #[error("cannot {step} for the host's view of the container")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of the mounts.
    #[error("cannot show {} to the host", destination.display())]
    Mount {
        /// Where it should be.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ViewError {
    move |source| ViewError::Step { step, source: source.into() }
}

/// What is at one destination of the bundle.
#[derive(Debug)]
enum Shown {
    /// Files of the host.
    Files(SourceTree),
    /// The guest's processes.
    Processes,
    /// Nothing: what the guest has there is its own.
    Nothing,
}

/// The parts of a view, opened once: later, the same paths may be something else's.
#[derive(Debug)]
pub(crate) struct ContainerView {
    root: SourceTree,
    mounts: Vec<(PathBuf, Shown)>,
}

impl ContainerView {
    /// Opens everything. `has_upper` is whether writes to the root file system are kept in the guest, so that none may be
    /// made here.
    pub(crate) fn open(spec: &Spec, sources: &Sources, has_upper: bool) -> Result<Self, ViewError> {
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        let root = open_source(&sources.rootfs, read_only || has_upper, None)?;
        let mut shown = Vec::new();
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            let source = sources.binds.iter().find(|(bind, _)| *bind == index).map(|(_, source)| source);
            let what = match source {
                Some(source) => {
                    // It has been checked that there is no error.
                    let map = id_map::of_mount(spec, index, mount).ok().flatten();
                    Shown::Files(open_source(source, mounts::is_read_only(mount), map)?)
                }
                // No mount of its own.
                None if mounts::is_remount(mount) => continue,
                // The agent's own socket, of which the host has no use.
                None if socket_binds::is_socket(mount) => continue,
                None if mount.typ().as_deref() == Some("proc") => Shown::Processes,
                None => Shown::Nothing,
            };
            shown.push((mount.destination().clone(), what));
        }
        Ok(Self { root, mounts: shown })
    }

    /// Takes the calling thread into the view, for good. The guest has made the container: its mount points are there.
    /// After an error the thread may be in between, and must end. `folder` is the container's.
    pub(crate) fn enter(self, folder: Folder) -> Result<(), ViewError> {
        // Its threads have to stay behind.
        let processes = processes::serve(folder).inspect_err(|error| {
            tracing::warn!(%error, "the host does not see the container's processes");
        });
        // SAFETY: CLONE_NEWNS does not touch the descriptor table, which is the flag that rustix warns about.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed("make a mount namespace"))?;
        // Nothing goes to the host, and what it unmounts meanwhile is not held here.
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", downstream).map_err(failed("make a mount namespace"))?;
        let root = self.root.mount;
        move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("mount the root file system"))?;
        let places = Places::new(&root);
        let mut show = Show { places, processes: processes.ok(), attached_processes: None };
        for (destination, shown) in self.mounts {
            let shown = show.one(&destination, &shown);
            shown.map_err(|source| ViewError::Mount { destination, source })?;
        }
        for empty in show.places.into_empty() {
            let sealed = MountAttributes::INERT_READ_ONLY.apply_here(&empty);
            sealed.map_err(failed("seal an empty directory"))?;
        }
        change_root(&root).map_err(failed("enter the root file system"))
    }
}

fn open_source(source: &Path, read_only: bool, map: Option<IdMap>) -> Result<SourceTree, ViewError> {
    let bind = Bind { source: source.to_owned(), destination: PathBuf::new(), read_only, id_map: map };
    clone_source(&bind).map_err(ViewError::Source)
}

/// Shows the mounts of a bundle, one after the other.
struct Show<'root> {
    places: Places<'root>,
    /// Until it has its first place.
    processes: Option<OwnedFd>,
    /// From then on.
    attached_processes: Option<OwnedFd>,
}

impl Show<'_> {
    /// What has no place is left out: its mount point is in something that only the guest has.
    fn one(&mut self, destination: &Path, shown: &Shown) -> io::Result<()> {
        match shown {
            Shown::Files(tree) => match self.places.find_or_make(destination, tree.is_directory)? {
                Some(place) => attach(&tree.mount, &place),
                None => {
                    tracing::warn!(destination = %destination.display(), "the host does not see this mount");
                    Ok(())
                }
            },
            Shown::Processes | Shown::Nothing => {
                let Some(place) = self.places.find_directory(destination)? else { return Ok(()) };
                if matches!(shown, Shown::Processes) && self.processes_at(&place)? {
                    return Ok(());
                }
                let empty = empty_directory()?;
                attach(&empty, &place)?;
                self.places.add_empty(empty)
            }
        }
    }

    /// A bundle may have more than one procfs, and only what is attached can be copied.
    fn processes_at(&mut self, place: &OwnedFd) -> io::Result<bool> {
        if let Some(mount) = self.processes.take() {
            attach(&mount, place)?;
            self.attached_processes = Some(mount);
            return Ok(true);
        }
        let Some(mount) = &self.attached_processes else { return Ok(false) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        attach(&open_tree(mount, "", flags | OpenTreeFlags::AT_EMPTY_PATH)?, place)?;
        Ok(true)
    }
}

fn attach(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", place, "", by_descriptor)?)
}
