//! What of `linux.resources` holds on the host, for the machine as a whole: files of its cgroup.
//!
//! What only the host's kernel can do is done here: where the machine runs (`cpu.cpus`, `cpu.mems`), its share beside
//! others, how fast its device process may read and write the host's disks. Memory, CPU time and processes are limited in
//! the guest, to the byte; here they bound a machine that breaks out of its size, with room for what it needs itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources, LinuxThrottleDevice};

use super::properties::{Properties, Set, Time};
use crate::bundle::limits::weight_of_shares;

/// What the VMM, the device process and the monitor need besides the guest's memory: QEMU some 60 MiB, the embedded VMM
/// and the others less than 10 each, page tables 1/512 of it; and some page cache for what the guest reads.
const MEMORY_OVERHEAD_MIB: u64 = 256;

/// Threads of the host for one machine: those of a VMM number some dozens, each process of `exec` has less than ten.
const MOST_THREADS: u64 = 8192;

/// cgroup-v2.rst, "cpu.max", in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// CPU time that the machine may take on top of its container's, as a part of one CPU.
const CPU_OVERHEAD_DIVISOR: u64 = 10;

/// A limit cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostLimitError {
    /// No such file.
    #[error("linux.resources.{0} needs a cgroup of the host that has {1}, and there is none")]
    Missing(&'static str, &'static str),
    /// The kernel does not take the value.
    #[error("linux.resources.{field}: cannot write {value} to {}", path.display())]
    Write {
        /// Below `linux.resources`.
        field: &'static str,
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether a limit that the host does not know is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It holds nowhere else.
    Must,
    /// The guest has it, too, or it does without.
    May,
}

/// A limit, as it is written in either version. Version 1 has had different files for the same.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    field: &'static str,
    need: Need,
    v1: &'static [&'static str],
    v1_values: Vec<String>,
    v2: &'static str,
    v2_value: String,
}

impl Limit {
    /// Of the same value in both.
    fn same(
        field: &'static str,
        need: Need,
        v1: &'static [&'static str],
        v2: &'static str,
        value: &str,
    ) -> Self {
        Self { field, need, v1, v1_values: vec![value.to_owned()], v2, v2_value: value.to_owned() }
    }

    fn write(&self, folders: &[PathBuf]) -> Result<(), HostLimitError> {
        let find = |names: &[&str]| {
            let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
            files.into_iter().find(|file| file.exists())
        };
        let is_v2 = |file: &Path| file.with_file_name("cgroup.controllers").exists();
        if let Some(file) = find(&[self.v2]).filter(|file| is_v2(file)) {
            return self.write_to(&file, &self.v2_value);
        }
        if let Some(file) = find(self.v1).filter(|file| !is_v2(file)) {
            return self.v1_values.iter().try_for_each(|value| self.write_to(&file, value));
        }
        match self.need {
            Need::Must => Err(HostLimitError::Missing(self.field, self.v2)),
            Need::May => {
                tracing::warn!(field = self.field, "the host's cgroups do not have this limit");
                Ok(())
            }
        }
    }

    fn write_to(&self, path: &Path, value: &str) -> Result<(), HostLimitError> {
        fs::write(path, value).map_err(|source| HostLimitError::Write {
            field: self.field,
            value: value.to_owned(),
            path: path.to_owned(),
            source,
        })
    }
}

/// For a machine of that size, before it is started. The time of the CPU is for [`limit_time`].
pub(crate) fn limit_new(
    folders: &[PathBuf],
    resources: Option<&LinuxResources>,
    memory_mib: u32,
) -> Result<(), HostLimitError> {
    let mut limits = bounds(resources, memory_mib);
    limits.extend(resources.map(places_and_shares).unwrap_or_default());
    limits.iter().try_for_each(|limit| limit.write(folders))
}

/// Those that systemd has to know of, but for [`time_property`]. Without a size, of a machine that runs.
pub(crate) fn properties(resources: Option<&LinuxResources>, memory_mib: Option<u32>) -> Properties {
    let number = |field| {
        let bounds = memory_mib.map(|size| bounds(resources, size)).unwrap_or_default();
        bounds.into_iter().find(|limit| limit.field == field).and_then(|limit| limit.v2_value.parse().ok())
    };
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let shares = cpu.and_then(LinuxCpu::shares);
    let set = |list: &Option<String>| list.as_deref().and_then(Set::parse);
    Properties {
        memory: number("memory"),
        threads: number("pids"),
        shares: shares.filter(|shares| *shares != 0).map(|shares| (shares, weight_of_shares(shares))),
        cpus: cpu.and_then(|cpu| set(cpu.cpus())),
        nodes: cpu.and_then(|cpu| set(cpu.mems())),
        time: None,
    }
}

/// What [`limit_time`] writes, for systemd to know.
pub(crate) fn time_property(resources: Option<&LinuxResources>) -> Option<Time> {
    resources.and_then(|resources| machine_time(resources.cpu().as_ref()?))
}

/// The time of the CPU, once the machine has booted: that is not the container's time.
pub(crate) fn limit_time(
    folders: &[PathBuf],
    resources: Option<&LinuxResources>,
) -> Result<(), HostLimitError> {
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    cpu.map(time).unwrap_or_default().iter().try_for_each(|limit| limit.write(folders))
}

/// Of a container that runs. The machine keeps its size, and with it the bound of its memory.
pub(crate) fn limit_running(folders: &[PathBuf], resources: &LinuxResources) -> Result<(), HostLimitError> {
    let limits = places_and_shares(resources);
    limits.iter().try_for_each(|limit| limit.write(folders))?;
    limit_time(folders, Some(resources))
}

/// For who makes no cgroup on the host.
pub(crate) fn need_cgroup(io: &LinuxBlockIo) -> Result<(), HostLimitError> {
    let mut devices = block_io(io).into_iter().filter(|limit| limit.need == Need::Must);
    devices.next().map_or(Ok(()), |limit| Err(HostLimitError::Missing(limit.field, limit.v2)))
}

/// Without a limit of its own, a container may use the host's page cache as it likes.
fn bounds(resources: Option<&LinuxResources>, memory_mib: u32) -> Vec<Limit> {
    let threads = MOST_THREADS.to_string();
    let mut limits = vec![Limit::same("pids", Need::May, &["pids.max"], "pids.max", &threads)];
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    if memory.and_then(|memory| memory.limit()).is_some_and(|limit| limit > 0) {
        let bytes = ((u64::from(memory_mib) + MEMORY_OVERHEAD_MIB) << 20).to_string();
        limits.push(Limit::same("memory", Need::May, &["memory.limit_in_bytes"], "memory.max", &bytes));
    }
    limits
}

fn places_and_shares(resources: &LinuxResources) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Some(cpu) = resources.cpu() {
        let sets: [(_, &'static [&'static str], _, _); 2] = [
            ("cpu.cpus", &["cpuset.cpus"], "cpuset.cpus", cpu.cpus()),
            ("cpu.mems", &["cpuset.mems"], "cpuset.mems", cpu.mems()),
        ];
        for (field, v1, v2, set) in sets {
            if let Some(set) = set.as_deref().filter(|set| !set.is_empty()) {
                limits.push(Limit::same(field, Need::Must, v1, v2, set));
            }
        }
        let idle = cpu.idle().filter(|idle| *idle == 1);
        match cpu.shares().filter(|shares| *shares != 0) {
            Some(shares) if idle.is_none() => limits.push(Limit {
                v1_values: vec![shares.to_string()],
                ..Limit::same(
                    "cpu.shares",
                    Need::May,
                    &["cpu.shares"],
                    "cpu.weight",
                    &weight_of_shares(shares).to_string(),
                )
            }),
            _ => {}
        }
        if idle.is_some() {
            limits.push(Limit::same("cpu.idle", Need::May, &["cpu.idle"], "cpu.idle", "1"));
        }
    }
    limits.extend(resources.block_io().as_ref().map(block_io).unwrap_or_default());
    limits
}

/// With room for the machine itself.
fn machine_time(cpu: &LinuxCpu) -> Option<Time> {
    let period = cpu.period().filter(|period| *period != 0).unwrap_or(DEFAULT_PERIOD);
    let quota = cpu.quota().filter(|quota| *quota != 0)?;
    let quota = u64::try_from(quota).ok().map(|quota| quota.saturating_add(period / CPU_OVERHEAD_DIVISOR));
    Some(Time { quota, period })
}

fn time(cpu: &LinuxCpu) -> Vec<Limit> {
    let Some(Time { quota, period }) = machine_time(cpu) else { return Vec::new() };
    let v1_quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
    let v2_quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
    let need = Need::May;
    // Version 1 has them apart, and takes no period for which the old quota would be too much.
    let quota_file: &[&str] = &["cpu.cfs_quota_us"];
    let same = |v1, value: &str| Limit::same("cpu.quota", need, v1, "cpu.max", value);
    let v2_value = format!("{v2_quota} {period}");
    let with_v2 = |limit: Limit| Limit { v2_value: v2_value.clone(), ..limit };
    [same(quota_file, "-1"), same(&["cpu.cfs_period_us"], &period.to_string()), same(quota_file, &v1_quota)]
        .map(with_v2)
        .into()
}

fn block_io(block_io: &LinuxBlockIo) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        let files = &["blkio.weight", "blkio.bfq.weight"];
        let value = weight.to_string();
        limits.push(Limit::same("blockIO.weight", Need::May, files, "io.bfq.weight", &value));
    }
    for device in block_io.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        let files = &["blkio.weight_device", "blkio.bfq.weight_device"];
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        limits.push(Limit::same("blockIO.weightDevice", Need::Must, files, "io.bfq.weight", &value));
    }
    let throttles: [(_, &'static [&'static str], _, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (
            "blockIO.throttleReadBpsDevice",
            &["blkio.throttle.read_bps_device"],
            "rbps",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blockIO.throttleWriteBpsDevice",
            &["blkio.throttle.write_bps_device"],
            "wbps",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blockIO.throttleReadIOPSDevice",
            &["blkio.throttle.read_iops_device"],
            "riops",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blockIO.throttleWriteIOPSDevice",
            &["blkio.throttle.write_iops_device"],
            "wiops",
            block_io.throttle_write_iops_device(),
        ),
    ];
    for (field, v1, key, devices) in throttles {
        for device in devices.iter().flatten() {
            let (number, rate) = (format!("{}:{}", device.major(), device.minor()), device.rate());
            // To version 1, 0 is no limit; version 2 has a word for that.
            let v2_rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            limits.push(Limit {
                field,
                need: Need::Must,
                v1,
                v1_values: vec![format!("{number} {rate}")],
                v2: "io.max",
                v2_value: format!("{number} {key}={v2_rate}"),
            });
        }
    }
    limits
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
