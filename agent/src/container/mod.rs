//! Containers: what is asked for (`request`), how they come to be (`create`, `start`), live (`exec`, `kill`), end, and
//! are forgotten (`remove`).
//!
//! One thread, one event loop: locks here are never contended and never held across an await.

pub mod create;
pub mod end;
pub mod exec;
pub mod kill;
pub mod limits;
pub mod namespaces;
pub mod network;
pub mod pause;
pub mod remove;
pub mod request;
pub mod start;
pub mod status;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::container::limits::Limits;
use crate::container::namespaces::Namespaces;
use crate::container::status::Status;
use crate::process::Confinement;
use crate::process::control::AgentEnd;
use crate::process::running::Running;
use crate::reaper::Reaper;
use crate::resolver::Serving;
use crate::security::identity_map::IdentityMap;
use crate::streams::Streams;

/// Containers that one guest may hold.
const MOST_CONTAINERS: usize = 1024;

/// Where the agent finds and puts things in the guest; other places in tests.
#[derive(Clone, Debug)]
pub struct GuestPlaces {
    /// The mounted share.
    pub share: PathBuf,
    /// Where the agent listens in the stead of sockets of the host, a folder for each container; made when needed.
    pub sockets: PathBuf,
    /// An empty directory, on which containers mount their roots, each in its own namespace.
    pub root: PathBuf,
    /// The cgroup (v2) below which each container gets its own.
    pub cgroups: PathBuf,
}

/// All containers of the guest, and what they are made with.
pub struct Containers {
    /// Where things are.
    pub places: GuestPlaces,
    /// Who reaps.
    pub reaper: Arc<Reaper>,
    /// Where stdio comes from.
    pub streams: Arc<Streams>,
    /// `None` while one of that id is being made.
    table: Mutex<HashMap<String, Option<Arc<Container>>>>,
}

/// A container that has been created.
#[derive(Debug)]
pub struct Container {
    id: String,
    init: Arc<Running>,
    namespaces: Namespaces,
    identities: Option<IdentityMap>,
    confinement: Arc<Confinement>,
    cgroup: Cgroup,
    limits: Limits,
    /// Of its cgroup, once the init has ended.
    final_oom_kills: OnceLock<u64>,
    /// In its network namespace.
    resolver: Mutex<Option<Serving>>,
    status: Mutex<Status>,
    /// To the init; gone once it has been let go.
    control: Mutex<Option<AgentEnd>>,
    /// Its other processes that the agent has started; `None` while one of that name is being made.
    others: Mutex<HashMap<String, Option<Arc<Running>>>>,
}

/// Why an act on a container is refused.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No such container.
    #[error("container {0:?} does not exist")]
    NoContainer(String),
    /// No such process in it.
    #[error("container {0:?} has no process {1:?}")]
    NoProcess(String, String),
    /// One of that name exists.
    #[error("container {0:?} already exists")]
    Exists(String),
    /// One of that name exists.
    #[error("container {0:?} already has a process {1:?}")]
    ProcessExists(String, String),
    /// Too many.
    #[error("container {0:?} has too many processes")]
    TooManyProcesses(String),
    /// Too many.
    #[error("{MOST_CONTAINERS} containers exist already")]
    TooMany,
}

impl Containers {
    /// An empty set.
    pub fn new(places: GuestPlaces, reaper: Arc<Reaper>, streams: Arc<Streams>) -> Self {
        Self { places, reaper, streams, table: Mutex::default() }
    }

    /// The container with that id.
    ///
    /// # Errors
    ///
    /// [`LookupError::NoContainer`], also while it is being made.
    pub fn find(&self, id: &str) -> Result<Arc<Container>, LookupError> {
        self.table().get(id).cloned().flatten().ok_or_else(|| LookupError::NoContainer(id.to_owned()))
    }

    /// Every container that has been created.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.table().values().flatten().cloned().collect()
    }

    fn reserve(&self, id: &str) -> Result<(), LookupError> {
        let mut table = self.table();
        if table.contains_key(id) {
            return Err(LookupError::Exists(id.to_owned()));
        }
        if table.len() >= MOST_CONTAINERS {
            return Err(LookupError::TooMany);
        }
        table.insert(id.to_owned(), None);
        Ok(())
    }

    fn settle(&self, id: &str, container: Option<Arc<Container>>) {
        match container {
            Some(container) => self.table().insert(id.to_owned(), Some(container)),
            None => self.table().remove(id),
        };
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Container>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The init's process id in the guest's root namespace.
    pub fn pid(&self) -> Pid {
        self.init.pid()
    }

    /// Its init for the empty name, else the process that was started with that name.
    ///
    /// # Errors
    ///
    /// [`LookupError::NoProcess`], also while it is being made.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Running>, LookupError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let process = self.others().get(exec_id).cloned().flatten();
        process.ok_or_else(|| LookupError::NoProcess(self.id.clone(), exec_id.to_owned()))
    }

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Running>>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_control(&self) -> Option<AgentEnd> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
