//! What a container may use: set when it is made, changed while it runs.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use crate::cgroup::devices::{Attached, Rules};
use crate::cgroup::settings::{Setting, SettingError};
use crate::cgroup::{Cgroup, CgroupError};
use crate::container::Container;
use crate::container::status::Status;
use crate::kernel::{Lacking, missing_for_device_rules};

/// Limits, checked.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Files of the cgroup, in this order.
    pub settings: Vec<Setting>,
    /// Devices, unless all may be used, or those that may be used already.
    pub devices: Option<Rules>,
    /// Refuse a memory limit below what is in use.
    pub check_memory: bool,
    /// Use only the first that many CPUs; 0 is all.
    pub cpus: u32,
}

/// A limit could not be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Of the cgroup.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The cgroup itself.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The kernel does not take the rules.
    #[error("cannot set the rules for devices")]
    Devices(#[source] io::Error),
    /// The kernel has no such rules.
    #[error("cannot set the rules for devices")]
    NoDevices(#[source] Lacking),
    /// Nothing to limit.
    #[error("container {id:?} cannot be updated: it is {status}")]
    NotRunning {
        /// Which container.
        id: String,
        /// What it is instead.
        status: Status,
    },
}

/// The limits of one container.
#[derive(Debug, Default)]
pub struct Limits {
    devices: Mutex<Option<Attached>>,
}

impl Limits {
    /// Sets the limits of a cgroup that has just been made.
    ///
    /// # Errors
    ///
    /// [`LimitError`] names the limit.
    pub fn of_new(cgroup: &Cgroup, resources: &Resources) -> Result<Self, LimitError> {
        let limits = Self::default();
        limits.set(cgroup, resources)?;
        Ok(limits)
    }

    fn set(&self, cgroup: &Cgroup, resources: &Resources) -> Result<(), LimitError> {
        if resources.check_memory {
            cgroup.check_memory(&resources.settings)?;
        }
        cgroup.set_cpus(resources.cpus)?;
        cgroup.set(&resources.settings)?;
        let Some(rules) = &resources.devices else { return Ok(()) };
        let mut attached = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        // A program that allows everything is for taking the place of one that does not.
        if attached.is_some() || !rules.allow_everything() {
            let directory = cgroup.open()?;
            let new = Attached::new(directory.as_fd(), rules, attached.as_ref());
            *attached = Some(new.map_err(|error| match missing_for_device_rules(&error) {
                Some(feature) => LimitError::NoDevices(Lacking::new(feature, error)),
                None => LimitError::Devices(error),
            })?);
        }
        Ok(())
    }
}

impl Container {
    /// Changes limits while it runs; what the request does not name stays.
    ///
    /// # Errors
    ///
    /// [`LimitError`] names the limit; those before it have been changed.
    pub fn update(&self, resources: &Resources) -> Result<(), LimitError> {
        let status = self.status();
        if !status.can_signal() {
            return Err(LimitError::NotRunning { id: self.id.clone(), status });
        }
        self.cgroup.check_machine(&resources.settings)?;
        self.limits.set(&self.cgroup, resources)
    }
}
