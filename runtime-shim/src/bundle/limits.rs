//! `linux.resources`: from the specification's terms, which are those of cgroup version 1, to files of a version 2
//! cgroup, as runc converts them. Pure.
//!
//! A value of 0 asks for nothing, as with runc; -1 is no limit. What version 2 has no counterpart for is refused,
//! unless it holds anyway.

use std::collections::HashMap;

use agent_protocol::agent as proto;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources};
use protobuf::MessageField;

use super::{cpu_set, device_rules};

/// cgroup-v2.rst, "cpu.max": the default period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// A limit that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LimitError {
    /// Out of its range.
    #[error("linux.resources.{field} {value} is not valid: {reason}")]
    Invalid {
        /// Below `linux.resources`.
        field: String,
        /// What it is.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Known, and not done.
    #[error("linux.resources.{field} is not supported: {reason}")]
    Unsupported {
        /// Below `linux.resources`.
        field: &'static str,
        /// Why.
        reason: &'static str,
    },
}

pub(super) fn invalid(field: impl Into<String>, value: &dyn ToString, reason: &'static str) -> LimitError {
    LimitError::Invalid { field: field.into(), value: value.to_string(), reason }
}

/// For a container that is made: rules for devices are always there, as runc has them.
pub(crate) fn of_new(resources: Option<&LinuxResources>) -> Result<proto::Resources, LimitError> {
    let mut request = resources.map_or(Ok(proto::Resources::default()), of_update)?;
    let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    request.devices = MessageField::some(device_rules::with_defaults(rules)?);
    Ok(request)
}

/// For a container that runs: only limits that are given change, and rules for devices do not.
pub(crate) fn of_update(resources: &LinuxResources) -> Result<proto::Resources, LimitError> {
    let mut files = Files::default();
    if let Some(pids) = resources.pids() {
        files.pids(*pids)?;
    }
    if let Some(memory) = resources.memory() {
        files.memory(memory)?;
    }
    if let Some(block_io) = resources.block_io() {
        files.block_io(block_io)?;
    }
    let mut cpus = 0;
    if let Some(cpu) = resources.cpu() {
        files.cpu(cpu)?;
        cpus = count("cpu.cpus", cpu.cpus().as_deref())?;
        count("cpu.mems", cpu.mems().as_deref())?;
    }
    files.hugepages(resources.hugepage_limits().as_deref().unwrap_or_default())?;
    if let Some(unified) = resources.unified() {
        files.unified(unified)?;
    }
    let check_memory = resources.memory().and_then(|memory| memory.check_before_update()).unwrap_or(false);
    Ok(proto::Resources { cgroup: files.0, check_memory, cpus, ..Default::default() })
}

fn count(field: &'static str, set: Option<&str>) -> Result<u32, LimitError> {
    let set = set.unwrap_or_default();
    cpu_set::count(set).ok_or_else(|| invalid(field, &set, "a list such as 0-3,7 is needed"))
}

#[derive(Default)]
struct Files(Vec<proto::CgroupSetting>);

impl Files {
    fn set(&mut self, file: impl Into<String>, value: &dyn ToString) {
        let setting =
            proto::CgroupSetting { file: file.into(), value: value.to_string(), ..Default::default() };
        self.0.push(setting);
    }

    /// 0 is nothing, -1 is no limit.
    fn set_limit(&mut self, file: &str, field: &'static str, limit: i64) -> Result<(), LimitError> {
        match limit {
            0 => {}
            -1 => self.set(file, &"max"),
            1.. => self.set(file, &limit),
            _ => return Err(invalid(field, &limit, "at least -1, which is no limit")),
        }
        Ok(())
    }

    fn pids(&mut self, pids: LinuxPids) -> Result<(), LimitError> {
        self.set_limit("pids.max", "pids.limit", pids.limit())
    }

    #[allow(deprecated, reason = "what is deprecated is refused, not ignored")]
    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), LimitError> {
        let limit = memory.limit().unwrap_or(0);
        for (field, value) in [("memory.kernel", memory.kernel()), ("memory.kernelTCP", memory.kernel_tcp())]
        {
            if value.is_some_and(|value| value > 0) {
                let reason = "the kernel counts all memory as one; use memory.limit";
                return Err(LimitError::Unsupported { field, reason });
            }
        }
        if memory.disable_oom_killer().unwrap_or(false) {
            let reason = "the guest's kernel always kills in a container that is out of memory";
            return Err(LimitError::Unsupported { field: "memory.disableOOMKiller", reason });
        }
        if let Some(swappiness) = memory.swappiness().filter(|swappiness| *swappiness > 100) {
            return Err(invalid("memory.swappiness", &swappiness, "at most 100"));
        }
        // Without swap in the guest there is nothing for swappiness to decide.
        if let Some(swap) = swap(limit, memory.swap().unwrap_or(0))? {
            self.set("memory.swap.max", &swap);
        }
        self.set_limit("memory.max", "memory.limit", limit)?;
        self.set_limit("memory.low", "memory.reservation", memory.reservation().unwrap_or(0))
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), LimitError> {
        let realtime = [
            ("cpu.realtimeRuntime", cpu.realtime_runtime().unwrap_or(0) != 0),
            ("cpu.realtimePeriod", cpu.realtime_period().unwrap_or(0) != 0),
        ];
        if let Some((field, _)) = realtime.into_iter().find(|(_, is_set)| *is_set) {
            let reason = "control groups of version 2 do not limit realtime processes";
            return Err(LimitError::Unsupported { field, reason });
        }
        let idle = match cpu.idle() {
            None => false,
            Some(idle @ (0 | 1)) => {
                self.set("cpu.idle", &idle);
                idle == 1
            }
            Some(other) => return Err(invalid("cpu.idle", &other, "0 or 1")),
        };
        match cpu.shares().unwrap_or(0) {
            // An idle group has the least weight, and its weight cannot be set.
            _ if idle => {}
            0 => {}
            shares => self.set("cpu.weight", &weight_of_shares(shares)),
        }
        let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
        if quota < -1 {
            return Err(invalid("cpu.quota", &quota, "at least -1, which is no limit"));
        }
        if quota != 0 || period != 0 {
            let period = if period == 0 { DEFAULT_PERIOD } else { period };
            let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
            self.set("cpu.max", &format!("{quota} {period}"));
        }
        if let Some(burst) = cpu.burst() {
            self.set("cpu.max.burst", &burst);
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<(), LimitError> {
        // Those of devices are the host's (host_cgroup::limits).
        let mut devices = block_io.weight_device().iter().flatten();
        let leaf_of_device = devices.clone().any(|device| device.leaf_weight().unwrap_or(0) != 0);
        if leaf_of_device || block_io.leaf_weight().unwrap_or(0) != 0 {
            let reason = "only the CFQ scheduler of older kernels had it";
            return Err(LimitError::Unsupported { field: "blockIO.leafWeight", reason });
        }
        if let Some(device) = devices.find(|device| device.weight().is_none()) {
            let number = format!("{}:{}", device.major(), device.minor());
            return Err(invalid("blockIO.weightDevice", &number, "it has no weight"));
        }
        match block_io.weight().unwrap_or(0) {
            0 => {}
            weight @ 10..=1000 => {
                self.set("io.weight", &(1 + (u32::from(weight) - 10) * 9999 / 990));
            }
            other => return Err(invalid("blockIO.weight", &other, "10 to 1000")),
        }
        Ok(())
    }

    fn hugepages(&mut self, limits: &[LinuxHugepageLimit]) -> Result<(), LimitError> {
        for (index, limit) in limits.iter().enumerate() {
            let size = limit.page_size();
            let digits = size.trim_end_matches(|letter: char| !letter.is_ascii_digit());
            let unit = size.get(digits.len()..).unwrap_or_default();
            let is_size = digits.parse::<u32>().is_ok_and(|number| number > 0) && !digits.starts_with('0');
            if !is_size || !["KB", "MB", "GB"].contains(&unit) {
                let field = format!("hugepageLimits[{index}].pageSize");
                return Err(invalid(field, &size, "a size such as 64KB, 2MB or 1GB is needed"));
            }
            match limit.limit() {
                // Here, 0 is none at all, as with runc.
                -1 => self.set(format!("hugetlb.{size}.max"), &"max"),
                bytes @ 0.. => self.set(format!("hugetlb.{size}.max"), &bytes),
                bytes => {
                    let field = format!("hugepageLimits[{index}].limit");
                    return Err(invalid(field, &bytes, "at least -1, which is no limit"));
                }
            }
        }
        Ok(())
    }

    /// After the others, so that they win; by name, so that a bundle is always done in one order.
    fn unified(&mut self, unified: &HashMap<String, String>) -> Result<(), LimitError> {
        let mut files: Vec<(&String, &String)> = unified.iter().collect();
        files.sort_unstable();
        for (file, value) in files {
            let is_file = file.contains('.') && !file.starts_with('.') && !file.contains(['/', '\0']);
            if !is_file {
                return Err(invalid("unified", &file, "a file of a version 2 cgroup is needed"));
            }
            if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
                return Err(invalid("unified", &file, "that is no limit"));
            }
            if value.trim().is_empty() || value.contains('\0') {
                return Err(invalid(format!("unified.{file}"), &format!("{value:?}"), "a value is needed"));
            }
            self.set(file, &value);
        }
        Ok(())
    }
}

/// Version 1 limits memory and swap together, version 2 swap alone. `None` leaves it as it is.
fn swap(limit: i64, swap: i64) -> Result<Option<String>, LimitError> {
    match (limit, swap) {
        // "No limit" without a word about swap means both.
        (-1, 0) | (_, -1) => Ok(Some("max".to_owned())),
        (_, 0) => Ok(None),
        (_, ..-1) => Err(invalid("memory.swap", &swap, "at least -1, which is no limit")),
        (..1, _) => Err(invalid("memory.swap", &swap, "it includes memory.limit, which is not set")),
        _ => match swap.checked_sub(limit) {
            Some(swap @ 0..) => Ok(Some(swap.to_string())),
            _ => Err(invalid("memory.swap", &swap, "it includes memory.limit and cannot be below it")),
        },
    }
}

/// 2 to 262144, with 1024 in the middle, become 1 to 10000 with 100: runc's formula since 1.3.2, which meets all
/// three; the older, linear one made 39 of 1024.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the result is from 1 to 10000")]
#[allow(clippy::cast_precision_loss, reason = "the argument is at most 2^18")]
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
