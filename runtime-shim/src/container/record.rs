//! `state.json`: what has to be known of a container after the command that made it has ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::{Hooks, LinuxCpu, LinuxResources, Process};
use serde::{Deserialize, Serialize};

use super::id::ContainerId;
use super::process::ProcessId;
use crate::bundle::load::Bundle;
use crate::bundle::place;
use crate::host_cgroup::systemd::StartedScope;

/// Tells our records from those of other runtimes in the same root: docker gives all of its runtimes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Runtime {
    /// This one.
    #[serde(rename = "runv")]
    Runv,
}

/// Where a container is in its life (OCI runtime specification, `runtime.md`, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// `create` is at work.
    Creating,
    /// All but the workload's execve is done.
    Created,
    /// The workload runs.
    Running,
    /// The workload is frozen.
    Paused,
    /// The workload has ended. That its process is gone says it; in a record only where that is about to go.
    Stopped,
}

impl Status {
    /// As the specification spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What each version of this runtime has in its records.
#[derive(Debug, Deserialize)]
pub(crate) struct Mark {
    /// Whose it is.
    #[serde(rename = "runtime")]
    _runtime: Runtime,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Whose it is.
    pub(crate) runtime: Runtime,
    /// Its name.
    pub(crate) id: ContainerId,
    /// Version of the specification that its configuration names.
    pub(crate) oci_version: String,
    /// Its bundle, absolute.
    pub(crate) bundle: PathBuf,
    /// Its root file system, absolute.
    pub(crate) rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// From its configuration.
    pub(crate) annotations: BTreeMap<String, String>,
    /// What the last command or its monitor has made of it; see [`Record::status`].
    pub(crate) last_status: Status,
    /// What it was when it was paused, and will be when it is resumed.
    #[serde(default)]
    pub(crate) paused_from: Option<Status>,
    /// The process that is the container to engines; while it is being made, the one that makes it.
    pub(crate) monitor: ProcessId,
    /// The monitor's children, which end with it, a moment later when it is killed.
    #[serde(default)]
    pub(crate) children: Vec<ProcessId>,
    /// Its place in the machine of another container, if it has none of its own.
    #[serde(default)]
    pub(crate) member: Option<Member>,
    /// The host cgroups that were made for it.
    #[serde(default)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Their unit, if systemd has made them.
    #[serde(default)]
    pub(crate) scope: Option<StartedScope>,
    /// Of its CPU time.
    #[serde(default)]
    pub(crate) cpu_time: CpuTime,
    /// What `exec` takes where it is told nothing else.
    pub(crate) process: Option<Process>,
    /// Hooks that are still to be run.
    pub(crate) hooks: Option<Hooks>,
}

/// Limits that are one value to the kernel, of which `update` may name one; 0 if nobody has named it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CpuTime {
    /// Microseconds in each period; -1 is no limit.
    pub(crate) quota: i64,
    /// Microseconds.
    pub(crate) period: u64,
}

impl CpuTime {
    /// What `resources` name.
    pub(crate) fn of(resources: Option<&LinuxResources>) -> Self {
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let value =
            |cpu: &LinuxCpu| Self { quota: cpu.quota().unwrap_or(0), period: cpu.period().unwrap_or(0) };
        cpu.map(value).unwrap_or_default()
    }

    /// Adds to `resources` that name one of them the other as it was, as runc does.
    pub(crate) fn complete(self, resources: &mut LinuxResources) {
        let named = Self::of(Some(resources));
        let Some(cpu) = resources.cpu_mut() else { return };
        if named.quota != 0 && named.period == 0 && self.period != 0 {
            cpu.set_period(Some(self.period));
        }
        if named.period != 0 && named.quota == 0 && self.quota != 0 {
            cpu.set_quota(Some(self.quota));
        }
    }
}

/// A container in the machine of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Member {
    /// The folder of the container whose monitor has the machine, absolute.
    pub(crate) sandbox: PathBuf,
    /// The place in it.
    pub(crate) number: u32,
}

impl Record {
    /// A container that this process is about to make.
    pub(crate) fn new(id: ContainerId, bundle: &Bundle) -> std::io::Result<Self> {
        let spec = &bundle.spec;
        let rootfs = spec.root().as_ref().map(|root| bundle.directory.join(root.path()));
        Ok(Self {
            runtime: Runtime::Runv,
            id,
            oci_version: spec.version().clone(),
            bundle: bundle.directory.clone(),
            rootfs: rootfs.unwrap_or_default(),
            created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            last_status: Status::Creating,
            paused_from: None,
            monitor: ProcessId::own()?,
            children: Vec::new(),
            member: None,
            cgroups: Vec::new(),
            scope: None,
            cpu_time: CpuTime::of(spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())),
            process: spec.process().clone(),
            hooks: spec.hooks().clone(),
        })
    }

    /// As the agent of its guest names it.
    pub(crate) fn guest_id(&self) -> String {
        place::container_id(self.member.as_ref().map_or(0, |member| member.number))
    }

    /// Where it is now.
    pub(crate) fn status(&self) -> Status {
        if self.monitor.is_alive() { self.last_status } else { Status::Stopped }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_half_of_a_limit_of_cpu_time_that_is_not_named_stays() {
        let before = CpuTime { quota: 30_000, period: 50_000 };
        let completed = |before: CpuTime, cpu: Value| {
            let mut resources = serde_json::from_value(json!({ "cpu": cpu })).unwrap();
            before.complete(&mut resources);
            CpuTime::of(Some(&resources))
        };
        for (cpu, quota, period) in [
            (json!({"quota": 10_000}), 10_000, 50_000),
            (json!({"quota": -1}), -1, 50_000),
            (json!({"period": 90_000}), 30_000, 90_000),
            (json!({"quota": 1000, "period": 2000}), 1000, 2000),
            (json!({"shares": 5}), 0, 0),
        ] {
            assert_eq!(completed(before, cpu), CpuTime { quota, period });
        }
        assert_eq!(completed(CpuTime::default(), json!({"quota": 7000})), CpuTime { quota: 7000, period: 0 });
    }
}
