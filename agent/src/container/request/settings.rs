//! Limits, priorities and rights of a process in a request.

use agent_protocol::agent;
use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use super::{RequestError, invalid};
use crate::process::settings::Settings;
use crate::security::capabilities::{self, Capabilities};
use crate::sys::scheduling::Scheduler;

/// linux/ioprio.h: `IOPRIO_CLASS_IDLE`, and the levels of a class.
const HIGHEST_IO_CLASS: u32 = 3;
const IO_LEVELS: u32 = 8;

/// linux/oom.h.
const OOM_SCORES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// By the names of the specification.
const RESOURCES: &[(&str, Resource)] = &[
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// Checks the limits and priorities.
pub(super) fn settings(process: &agent::Process) -> Result<Settings, RequestError> {
    if let Some(score) = process.oom_score_adj.filter(|score| !OOM_SCORES.contains(score)) {
        return Err(invalid("process.oomScoreAdj", &score.to_string(), "-1000 to 1000 are allowed"));
    }
    Ok(Settings {
        rlimits: process.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
        oom_score_adj: process.oom_score_adj,
        io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
        scheduler: process.scheduler.as_ref().map(scheduler),
        cpus: cpus(&process.cpus)?,
    })
}

/// Checks the capabilities.
pub(super) fn capabilities(sets: &agent::Capabilities) -> Result<Capabilities, RequestError> {
    let set = |field, names: &[String]| {
        capabilities::parse(names).map_err(|name| invalid(field, &name, "no capability has that name"))
    };
    Ok(Capabilities {
        bounding: set("process.capabilities.bounding", &sets.bounding)?,
        effective: set("process.capabilities.effective", &sets.effective)?,
        inheritable: set("process.capabilities.inheritable", &sets.inheritable)?,
        permitted: set("process.capabilities.permitted", &sets.permitted)?,
        ambient: set("process.capabilities.ambient", &sets.ambient)?,
    })
}

fn rlimit(limit: &agent::Rlimit) -> Result<(Resource, Rlimit), RequestError> {
    let known = RESOURCES.iter().find(|(name, _)| *name == limit.type_);
    let (_, resource) =
        known.ok_or_else(|| invalid("process.rlimits", &limit.type_, "no resource has that name"))?;
    if limit.soft > limit.hard {
        return Err(invalid("process.rlimits", &limit.type_, "soft is more than hard"));
    }
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    Ok((*resource, Rlimit { current: finite(limit.soft), maximum: finite(limit.hard) }))
}

fn io_priority(priority: &agent::IoPriority) -> Result<(u16, u16), RequestError> {
    let checked = |value: u32, fits: bool| u16::try_from(value).ok().filter(|_| fits);
    let class = checked(priority.class, (1..=HIGHEST_IO_CLASS).contains(&priority.class));
    let level = checked(priority.level, priority.level < IO_LEVELS);
    let text = format!("class {} level {}", priority.class, priority.level);
    class.zip(level).ok_or_else(|| invalid("process.ioPriority", &text, "1 to 3 and 0 to 7 are allowed"))
}

fn scheduler(scheduler: &agent::Scheduler) -> Scheduler {
    Scheduler {
        size: 0,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    }
}

fn cpus(numbers: &[u32]) -> Result<Option<CpuSet>, RequestError> {
    if numbers.is_empty() {
        return Ok(None);
    }
    let mut set = CpuSet::new();
    for &number in numbers {
        let place = usize::try_from(number).ok().filter(|&place| place < CpuSet::MAX_CPU);
        let place = place.ok_or_else(|| {
            invalid("process.execCPUAffinity", &number.to_string(), "no CPU can have that number")
        })?;
        set.set(place);
    }
    Ok(Some(set))
}
