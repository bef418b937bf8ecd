//! A container's cgroup: born with it, emptied and removed at its end. cgroup v2 only.
//!
//! Limits are in [`settings`], access to devices in [`devices`], pausing in [`freezer`], figures in [`stats`].

pub mod devices;
pub mod freezer;
pub mod huge_pages;
pub mod settings;
pub mod stats;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use tokio::io::Interest;

use crate::rootfs::path::open_directory;
use crate::sys::event_loop::register;

/// What could not be done with a cgroup.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} the cgroup {path:?}")]
pub struct CgroupError {
    act: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A cgroup that this agent made.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup `name` below `parent`.
    ///
    /// # Errors
    ///
    /// [`CgroupError`]; one of that name must not exist.
    pub fn create(parent: &Path, name: &str) -> Result<Self, CgroupError> {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(CgroupError { act: "make", path, source }),
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, for clone3.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        open_directory(&self.path).map_err(|source| self.error("open", source))
    }

    /// The directory of an existing cgroup below it, for clone3; the empty path is this one.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn open_below(&self, path: &Path) -> Result<OwnedFd, CgroupError> {
        let path = self.path.join(path);
        open_directory(&path).map_err(|source| CgroupError { act: "open", path, source })
    }

    /// The directory of that cgroup, this one or one below it, in which the process is, for clone3.
    ///
    /// # Errors
    ///
    /// [`CgroupError`]: the process is elsewhere, or has ended.
    pub fn open_that_of(&self, pid: Pid) -> Result<OwnedFd, CgroupError> {
        let found = find(&self.path, pid).and_then(|found| found.ok_or(io::ErrorKind::NotFound.into()));
        let path = found.map_err(|source| self.error("find a process in", source))?;
        open_directory(&path).map_err(|source| CgroupError { act: "open", path, source })
    }

    /// The processes in it and below it, as this pid namespace sees them.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn processes(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = Vec::new();
        collect(&self.path, &mut pids).map_err(|source| self.error("list the processes of", source))?;
        Ok(pids)
    }

    /// Kills every process in it with SIGKILL, forks in progress included.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        fs::write(self.path.join("cgroup.kill"), "1")
            .map_err(|source| self.error("kill the processes of", source))
    }

    /// Waits until no live process is in it. Those that are dead and not reaped do not count.
    ///
    /// # Errors
    ///
    /// [`CgroupError`].
    pub async fn emptied(&self) -> Result<(), CgroupError> {
        self.wait_until("cgroup.events", |events| events.lines().any(|line| line == "populated 0"))
            .await
            .map_err(|source| self.error("watch", source))
    }

    /// Removes it, with the cgroups that the container made below.
    ///
    /// # Errors
    ///
    /// [`CgroupError`], e.g. `EBUSY` while a process lives in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove(&self.path).map_err(|source| self.error("remove", source))
    }

    /// Waits until a file that signals its changes says what is waited for.
    async fn wait_until(&self, file: &str, says: impl Fn(&str) -> bool) -> io::Result<()> {
        let path = self.path.join(file);
        if says(&fs::read_to_string(&path)?) {
            return Ok(());
        }
        // A change of the file is signalled as an exceptional condition (cgroup-v2.rst, "[Un]populated").
        let events = register(fs::File::open(&path)?.into(), Interest::PRIORITY)?;
        // What happened before the file was opened is not signalled.
        while !says(&fs::read_to_string(&path)?) {
            let mut ready = events.ready(Interest::PRIORITY).await?;
            ready.clear_ready();
        }
        Ok(())
    }

    fn error(&self, act: &'static str, source: io::Error) -> CgroupError {
        CgroupError { act, path: self.path.clone(), source }
    }
}

fn collect(cgroup: &Path, pids: &mut Vec<Pid>) -> io::Result<()> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    pids.extend(processes.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)));
    for_each_child(cgroup, |child| collect(child, pids))
}

fn find(cgroup: &Path, pid: Pid) -> io::Result<Option<PathBuf>> {
    let number = pid.as_raw_nonzero().to_string();
    if fs::read_to_string(cgroup.join("cgroup.procs"))?.lines().any(|line| line == number) {
        return Ok(Some(cgroup.to_owned()));
    }
    let mut found = None;
    for_each_child(cgroup, |child| {
        if found.is_none() {
            found = find(child, pid)?;
        }
        Ok(())
    })?;
    Ok(found)
}

fn remove(cgroup: &Path) -> io::Result<()> {
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            for_each_child(cgroup, remove)?;
            fs::remove_dir(cgroup)
        }
        other => other,
    }
}

fn for_each_child(cgroup: &Path, mut act: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            act(&entry.path())?;
        }
    }
    Ok(())
}
