//! What of the `process` object says what the process may do: capabilities, rlimits, scheduling, priorities, labels.

use agent_protocol::agent as proto;
use oci_spec::runtime::{
    IOPriorityClass, LinuxCapabilities, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    PosixRlimit, Process, Scheduler,
};
use serde_json::Value;

use super::cpu_set;
use super::selinux::{self, SeLinuxError};

/// linux/oom.h.
const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;
/// ioprio_set(2).
const IO_PRIORITIES: std::ops::RangeInclusive<i64> = 0..=7;
/// sched(7).
const NICE: std::ops::RangeInclusive<i32> = -20..=19;
const REAL_TIME_PRIORITIES: std::ops::RangeInclusive<i32> = 1..=99;
/// CPUs that the guest's kernel can be told of in one mask.
const MOST_CPUS: u32 = 1024;

/// What of it cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RightsError {
    /// A resource has two limits.
    #[error("process.rlimits[{0}]: {1} is listed twice")]
    TwoLimits(usize, String),
    /// The kernel would say EINVAL.
    #[error("process.rlimits[{0}]: soft {1} is more than hard {2}")]
    Limit(usize, u64, u64),
    /// A number out of its range.
    #[error("{field} {value} is not from {first} to {last}")]
    Range {
        /// Which one.
        field: &'static str,
        /// What it is.
        value: i64,
        /// What it could be.
        first: i64,
        /// And the end of that.
        last: i64,
    },
    /// A parameter of another policy.
    #[error("process.scheduler.{0} has no meaning for {1}")]
    Scheduler(&'static str, LinuxSchedulerPolicy),
    /// No list of CPUs.
    #[error("process.execCPUAffinity `{0}` is no list of CPUs")]
    Cpus(String),
    /// A label of somebody's own making.
    #[error(
        "process.apparmorProfile `{0}`: the guest's kernel has no AppArmor; only the engines' default profiles are \
         done without, as they guard a kernel that the container does not share"
    )]
    AppArmor(String),
    /// A label for the host's processes.
    #[error(transparent)]
    SeLinux(#[from] SeLinuxError),
}

/// The fields that the agent gets.
pub(crate) fn apply(process: &Process, to: &mut proto::Process) -> Result<(), RightsError> {
    to.capabilities = Some(process.capabilities().as_ref().map(capabilities).unwrap_or_default()).into();
    to.rlimits = rlimits(process.rlimits().as_deref().unwrap_or_default())?;
    to.no_new_privileges = process.no_new_privileges().unwrap_or(false);
    to.oom_score_adj = process.oom_score_adj();
    if let Some(score) = process.oom_score_adj() {
        in_range(
            "process.oomScoreAdj",
            score.into(),
            (*OOM_SCORES.start()).into(),
            (*OOM_SCORES.end()).into(),
        )?;
    }
    to.io_priority = process.io_priority().as_ref().map(io_priority).transpose()?.into();
    to.scheduler = process.scheduler().as_ref().map(scheduler).transpose()?.into();
    to.cpus = cpus(process)?;
    selinux::check_process(process)?;
    apparmor(process.apparmor_profile().as_deref().unwrap_or_default())
}

/// Labels are for processes of the host's kernel, which those of a container here are not. What an engine gives every
/// container is therefore done without; what somebody chose for this one is not.
fn apparmor(profile: &str) -> Result<(), RightsError> {
    let default = ["docker-default", "containers-default-", "cri-containerd.apparmor.d", "crio-default"];
    match profile {
        "" | "unconfined" => Ok(()),
        name if default.iter().any(|prefix| name.starts_with(prefix)) => {
            tracing::info!(profile = name, "the engine's AppArmor profile is left to the machine's border");
            Ok(())
        }
        name => Err(RightsError::AppArmor(name.to_owned())),
    }
}

/// Makes of `process` what the types of `oci-spec` can read; true if that changes it.
pub(crate) fn adapt(document: &mut Value) -> bool {
    let dropped = drop_unknown_capabilities(document);
    respell_scheduler_flags(document) || dropped
}

/// Two flags of which `oci-spec` has other names than the specification.
fn respell_scheduler_flags(document: &mut Value) -> bool {
    let flags = document.pointer_mut("/process/scheduler/flags").and_then(Value::as_array_mut);
    let mut respelt = false;
    for flag in flags.into_iter().flatten() {
        let name = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
            Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
            _ => continue,
        };
        *flag = name.into();
        respelt = true;
    }
    respelt
}

/// Takes out the names of capabilities that nobody knows, with a warning, as the specification asks. True if there
/// were any.
fn drop_unknown_capabilities(document: &mut Value) -> bool {
    let Some(sets) = document.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) else {
        return false;
    };
    let mut dropped = false;
    for (set, names) in sets.iter_mut().filter_map(|(set, names)| Some((set, names.as_array_mut()?))) {
        names.retain(|name| {
            let known = !name.is_string()
                || serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
            if !known {
                tracing::warn!(%name, set, "unknown capability");
                dropped = true;
            }
            known
        });
    }
    dropped
}

fn capabilities(sets: &LinuxCapabilities) -> proto::Capabilities {
    let names = |set: &Option<oci_spec::runtime::Capabilities>| -> Vec<String> {
        let mut names: Vec<String> = set.iter().flatten().map(|one| format!("CAP_{one}")).collect();
        names.sort_unstable();
        names
    };
    proto::Capabilities {
        bounding: names(sets.bounding()),
        effective: names(sets.effective()),
        inheritable: names(sets.inheritable()),
        permitted: names(sets.permitted()),
        ambient: names(sets.ambient()),
        ..Default::default()
    }
}

fn rlimits(limits: &[PosixRlimit]) -> Result<Vec<proto::Rlimit>, RightsError> {
    let mut converted: Vec<proto::Rlimit> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let type_ = limit.typ().to_string();
        if converted.iter().any(|earlier| earlier.type_ == type_) {
            return Err(RightsError::TwoLimits(index, type_));
        }
        if limit.soft() > limit.hard() {
            return Err(RightsError::Limit(index, limit.soft(), limit.hard()));
        }
        let (soft, hard) = (limit.soft(), limit.hard());
        converted.push(proto::Rlimit { type_, soft, hard, ..Default::default() });
    }
    Ok(converted)
}

fn in_range(field: &'static str, value: i64, first: i64, last: i64) -> Result<(), RightsError> {
    if (first..=last).contains(&value) {
        Ok(())
    } else {
        Err(RightsError::Range { field, value, first, last })
    }
}

fn io_priority(priority: &LinuxIOPriority) -> Result<proto::IoPriority, RightsError> {
    in_range(
        "process.ioPriority.priority",
        priority.priority(),
        *IO_PRIORITIES.start(),
        *IO_PRIORITIES.end(),
    )?;
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority()).unwrap_or(0);
    Ok(proto::IoPriority { class, level, ..Default::default() })
}

fn scheduler(scheduler: &Scheduler) -> Result<proto::Scheduler, RightsError> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *scheduler.policy();
    let number = match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    in_range("process.scheduler.nice", nice.into(), (*NICE.start()).into(), (*NICE.end()).into())?;
    if matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        let (first, last) = (*REAL_TIME_PRIORITIES.start(), *REAL_TIME_PRIORITIES.end());
        in_range("process.scheduler.priority", priority.into(), first.into(), last.into())?;
    } else if priority != 0 {
        return Err(RightsError::Scheduler("priority", policy));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|time| time.unwrap_or(0));
    if policy != Policy::SchedDeadline && times != [0; 3] {
        return Err(RightsError::Scheduler("runtime", policy));
    }
    let [runtime, deadline, period] = times;
    let flags = scheduler.flags().iter().flatten().map(flag).sum();
    Ok(proto::Scheduler {
        policy: number,
        nice,
        priority: priority.unsigned_abs(),
        flags,
        runtime,
        deadline,
        period,
        ..Default::default()
    })
}

/// linux/sched.h.
fn flag(flag: &LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Those that count in the end: a process here is never outside of the container's cgroup, where those that are to
/// be had at first would count.
fn cpus(process: &Process) -> Result<Vec<u32>, RightsError> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(Vec::new()) };
    let list = |list: &Option<String>| {
        let text = list.as_deref().unwrap_or_default();
        let numbers = cpu_set::parse(text).filter(|cpus| cpus.last().is_none_or(|&last| last < MOST_CPUS));
        numbers.ok_or_else(|| RightsError::Cpus(text.to_owned()))
    };
    let (initial, last) = (list(affinity.initial())?, list(affinity.cpu_affinity_final())?);
    Ok(if last.is_empty() { initial } else { last }.into_iter().collect())
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod tests;
