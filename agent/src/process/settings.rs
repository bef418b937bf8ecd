//! What the agent sets on a child that is ready: it has all rights that this takes, the child may have none any more.

use std::fs;
use std::io;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::sys::scheduling::{Scheduler, set_io_priority, set_scheduler};

/// Limits and priorities of a process; what is absent stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By resource.
    pub rlimits: Vec<(Resource, Rlimit)>,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Class and level.
    pub io_priority: Option<(u16, u16)>,
    /// Policy and its parameters.
    pub scheduler: Option<Scheduler>,
    /// Where it may run.
    pub cpus: Option<CpuSet>,
}

/// What could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {what} of the process")]
pub struct SettingError {
    what: String,
    #[source]
    source: io::Error,
}

impl Settings {
    /// Sets all of them.
    ///
    /// # Errors
    ///
    /// [`SettingError`] names the first that could not be set.
    pub fn apply(&self, pid: Pid) -> Result<(), SettingError> {
        if let Some(score) = self.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
            fs::write(path, score.to_string()).map_err(failed("oomScoreAdj"))?;
        }
        if let Some(scheduler) = &self.scheduler {
            set_scheduler(pid, scheduler).map_err(failed("the scheduler"))?;
        }
        if let Some((class, level)) = self.io_priority {
            set_io_priority(pid, class, level).map_err(failed("ioPriority"))?;
        }
        if let Some(cpus) = &self.cpus {
            sched_setaffinity(Some(pid), cpus).map_err(|error| failed("execCPUAffinity")(error.into()))?;
        }
        for (resource, limit) in &self.rlimits {
            prlimit(Some(pid), *resource, *limit)
                .map_err(|error| failed(&format!("the limit {resource:?}"))(error.into()))?;
        }
        Ok(())
    }
}

fn failed(what: &str) -> impl Fn(io::Error) -> SettingError {
    move |source| SettingError { what: what.to_owned(), source }
}
