//! How large the machine of a bundle is: a pure function of the bundle, the configuration and the host.
//!
//! In this order: what the command line says (`sandbox run --memory`); what an annotation of the bundle says, if the
//! administrator allows it; what the bundle's limits need; what the configuration says for bundles without limits.

use std::num::NonZeroU8;

use agent_protocol::agent as proto;
use oci_spec::runtime::Spec;
use vmm::config::MIN_MEMORY_MIB;

use super::annotations::Annotations;
use super::limits::{self, LimitError};
use crate::config::{Config, Cpus, MAX_MEMORY_MIB, RootfsUpper};

/// What a guest needs besides the memory of its container: kernel, agent, and what the kernel keeps free. Measured
/// as the difference between the machine's memory and what a container could get of it: 36 MiB of 128, 46 of 512,
/// 76 of 1024, 156 of 4096, 378 of 16384 (docs/runtime-spec.md).
const OVERHEAD_MIB: u64 = 64;
/// Of each page the kernel keeps a structure of 64 bytes, and more of it lies about in large machines.
const OVERHEAD_DIVISOR: u64 = 32;

/// Memory and vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineSize {
    /// In MiB.
    pub(crate) memory_mib: u32,
    /// vCPUs.
    pub(crate) cpus: NonZeroU8,
    /// How much of the container's writes a tmpfs holds, in MiB, if they go to one.
    pub(crate) rootfs_upper_mib: Option<u32>,
}

/// What the machine runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    /// All of its memory.
    pub(crate) memory_mib: u64,
    /// CPUs that this process may use.
    pub(crate) cpus: u32,
}

/// A size that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// The tmpfs for the root file system's writes.
    #[error(
        "a tmpfs of {mib} MiB for the root file system's writes does not fit in the container's memory of \
         {memory_mib} MiB"
    )]
    RootfsUpper {
        /// How much it should hold.
        mib: u32,
        /// What there is.
        memory_mib: u64,
    },
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// The size of the machine for `spec`.
pub(crate) fn machine_size(
    spec: &Spec,
    annotations: &Annotations,
    config: &Config,
    host: Host,
) -> Result<MachineSize, SizeError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.map_or(Ok(proto::Resources::default()), limits::of_update)?;
    let upper = annotations.rootfs_upper.unwrap_or(config.rootfs_upper);
    let memory = config.fixed.memory.or(annotations.memory).map(|memory| u64::from(memory.mib()));
    let memory = memory.or_else(|| memory_for(&limits, host)).unwrap_or(config.memory.mib().into());
    let cpus = config.fixed.cpus.or(annotations.cpus).or_else(|| cpus_for(&limits, host));
    Ok(MachineSize {
        memory_mib: u32::try_from(memory).unwrap_or(u32::MAX),
        cpus: cpus.unwrap_or(config.cpus).count(),
        rootfs_upper_mib: rootfs_upper_mib(upper, &limits, memory)?,
    })
}

/// What a tmpfs holds is charged to the container, so that its limit, or else the machine, has to have room for it.
fn rootfs_upper_mib(
    upper: RootfsUpper,
    limits: &proto::Resources,
    machine_mib: u64,
) -> Result<Option<u32>, SizeError> {
    let RootfsUpper::Tmpfs { mib } = upper else { return Ok(None) };
    let limit = memory_limit(limits).map(|bytes| bytes >> 20);
    let memory_mib = limit.map_or(machine_mib, |limit| limit.min(machine_mib));
    let mib = mib.unwrap_or(u32::try_from(memory_mib / 2).unwrap_or(u32::MAX).max(1));
    if u64::from(mib) > memory_mib {
        return Err(SizeError::RootfsUpper { mib, memory_mib });
    }
    Ok(Some(mib))
}

/// The last value of a file of the cgroup: that of `unified` comes last.
fn last<'a>(limits: &'a proto::Resources, file: &str) -> Option<&'a str> {
    limits.cgroup.iter().rfind(|setting| setting.file == file).map(|setting| setting.value.as_str())
}

/// `memory.max` in bytes, if it is a number.
fn memory_limit(limits: &proto::Resources) -> Option<u64> {
    last(limits, "memory.max")?.trim().parse().ok()
}

/// The limit and the overhead, but no more than the host has. Huge pages are counted apart from other memory.
fn memory_for(limits: &proto::Resources, host: Host) -> Option<u64> {
    let bytes = memory_limit(limits)?;
    let huge_pages = limits.cgroup.iter().filter(|setting| setting.file.starts_with("hugetlb."));
    let huge_bytes = huge_pages.filter_map(|setting| setting.value.parse::<u64>().ok());
    let wanted = huge_bytes.fold(bytes, u64::saturating_add).div_ceil(1 << 20);
    let wanted = wanted.saturating_add(OVERHEAD_MIB).saturating_add(wanted / OVERHEAD_DIVISOR);
    Some(wanted.min(host.memory_mib).min(MAX_MEMORY_MIB).max(MIN_MEMORY_MIB.into()))
}

/// As many as the quota and the set can keep busy, but no more than the host has.
fn cpus_for(limits: &proto::Resources, host: Host) -> Option<Cpus> {
    let by_quota = last(limits, "cpu.max").and_then(|value| {
        let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
        let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        (period > 0).then(|| quota.div_ceil(period).max(1))
    });
    let by_set = (limits.cpus > 0).then_some(u64::from(limits.cpus));
    let wanted = [by_quota, by_set].into_iter().flatten().min()?;
    let wanted = wanted.min(host.cpus.max(1).into()).min(Cpus::MOST.into());
    Cpus::try_from(i64::try_from(wanted).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Fixed;

    const HOST: Host = Host { memory_mib: 8192, cpus: 4 };

    fn size_with(spec: &Value, config: &Config) -> Result<(u32, u8), String> {
        let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
        let annotations = Annotations::read(&spec, config).map_err(|error| error.to_string())?;
        let size = machine_size(&spec, &annotations, config, HOST).map_err(|error| error.to_string())?;
        Ok((size.memory_mib, size.cpus.get()))
    }

    fn size(resources: &Value) -> (u32, u8) {
        size_with(&json!({"linux": {"resources": resources}}), &Config::default()).unwrap()
    }

    #[test]
    fn memory_is_the_limit_with_the_overhead_on_top() {
        for (memory, mib) in [
            (json!({}), 256),
            (json!({"limit": 0}), 256),
            (json!({"limit": -1}), 256),
            (json!({"reservation": 1_u64 << 30}), 256),
            (json!({"limit": 6 << 20}), 70),
            (json!({"limit": (512 << 20) + 1}), 513 + 64 + 16),
            (json!({"limit": 1_u64 << 30}), 1024 + 64 + 32),
            // More than the host has is as good as no limit.
            (json!({"limit": 1_u64 << 40}), 8192),
            (json!({"limit": i64::MAX}), 8192),
        ] {
            assert_eq!(size(&json!({"memory": memory})).0, mib, "{memory}");
        }
        let unified = json!({"memory": {"limit": 1 << 30}, "unified": {"memory.max": "104857600"}});
        assert_eq!(size(&unified).0, 100 + 64 + 3);
        let huge = json!({"memory": {"limit": 100 << 20}, "hugepageLimits": [{"pageSize": "2MB", "limit": 220 << 20}]});
        assert_eq!(size(&huge).0, 320 + 64 + 10);
    }

    #[test]
    fn vcpus_are_what_the_quota_and_the_set_can_keep_busy() {
        for (cpu, cpus) in [
            (json!({}), 1),
            (json!({"shares": 4096}), 1),
            (json!({"quota": -1}), 1),
            (json!({"quota": 1000}), 1),
            (json!({"quota": 150_000, "period": 100_000}), 2),
            (json!({"quota": 200_000}), 2),
            (json!({"quota": 9_900_000}), 4),
            (json!({"cpus": "4-6"}), 3),
            (json!({"cpus": "0-6"}), 4),
            (json!({"cpus": "0-2", "quota": 150_000}), 2),
        ] {
            assert_eq!(size(&json!({"cpu": cpu})).1, cpus, "{cpu}");
        }
    }

    #[test]
    fn the_command_line_wins_over_annotations_and_those_over_limits() {
        let spec = json!({
            "linux": {"resources": {"memory": {"limit": 64 << 20}, "cpu": {"quota": 400_000}}},
            "annotations": {"io.runv.memory": "1G", "io.runv.cpus": "3", "io.example": "x"}
        });
        assert_eq!(size_with(&spec, &Config::default()), Ok((1024, 3)));
        let fixed = Fixed {
            memory: Some("128M".parse().unwrap()),
            cpus: Some("2".parse().unwrap()),
            ..Fixed::default()
        };
        assert_eq!(size_with(&spec, &Config { fixed, ..Config::default() }), Ok((128, 2)));
        let config =
            Config { memory: "2G".parse().unwrap(), cpus: "2".parse().unwrap(), ..Config::default() };
        assert_eq!(size_with(&json!({}), &config), Ok((2048, 2)));
    }

    #[test]
    fn writes_go_to_a_tmpfs_of_half_the_memory_or_of_the_size_asked_for() {
        let upper = |value: &str, resources: Value| {
            let spec: Spec = serde_json::from_value(json!({
                "linux": {"resources": resources}, "annotations": {"io.runv.rootfs_upper": value}
            }))
            .unwrap();
            let config = Config::default();
            let annotations = Annotations::read(&spec, &config).unwrap();
            let size = machine_size(&spec, &annotations, &config, HOST);
            size.map(|size| size.rootfs_upper_mib).map_err(|error| error.to_string())
        };
        let limit = json!({"memory": {"limit": 512 << 20}});
        assert_eq!(upper("none", limit.clone()), Ok(None));
        assert_eq!(upper("tmpfs", limit.clone()), Ok(Some(256)));
        assert_eq!(upper("tmpfs", json!({})), Ok(Some(128)));
        assert_eq!(upper("tmpfs:512M", limit.clone()), Ok(Some(512)));
        assert!(upper("tmpfs:513M", limit).unwrap_err().contains("memory of 512 MiB"));
        assert!(upper("tmpfs:1G", json!({})).unwrap_err().contains("memory of 256 MiB"));
        assert_eq!(upper("tmpfs", json!({"memory": {"limit": 1_u64 << 40}})), Ok(Some(4096)));
        let config = Config { rootfs_upper: "tmpfs:9M".parse().unwrap(), ..Config::default() };
        assert_eq!(
            machine_size(&Spec::default(), &Annotations::default(), &config, HOST).unwrap().rootfs_upper_mib,
            Some(9)
        );
    }
}
