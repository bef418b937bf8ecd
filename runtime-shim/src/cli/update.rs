//! `update`: changes the limits of a container that runs.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use agent_protocol::agent as proto;
use anyhow::{Context, anyhow};
use clap::Args;
use oci_spec::runtime::LinuxResources;
use protobuf::MessageField;
use serde_json::{Value, json};

use super::flags::Global;
use super::pause::refused;
use crate::bundle::limits;
use crate::container::id::ContainerId;
use crate::container::record::{CpuTime, Status};
use crate::control::agent::Agent;
use crate::failure::Failure;
use crate::host_cgroup;
use crate::host_cgroup::properties::Properties;
use crate::host_cgroup::systemd::{Change, StartedScope, Systemd};

/// Longest document of resources.
const LONGEST: u64 = 1 << 20;

/// Change the limits of a container
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File with `linux.resources` as JSON, - for stdin; instead of the flags below
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// CFS period in microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,
    /// CFS quota in microseconds a period
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Weight against other containers
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// Period for real-time tasks
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<u64>,
    /// Time for real-time tasks
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Kernel memory; obsolete, without effect as with runc
    #[arg(long, value_name = "BYTES")]
    kernel_memory: Option<String>,
    /// Kernel memory for TCP; obsolete, without effect as with runc
    #[arg(long, value_name = "BYTES")]
    kernel_memory_tcp: Option<String>,
    /// Memory
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<String>,
    /// Soft limit of memory
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_reservation: Option<String>,
    /// Memory and swap
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_swap: Option<String>,
    /// Processes
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Intel RDT; not supported
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Intel RDT; not supported
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn main(arguments: &Arguments, global: &Global) -> Result<u8, Failure> {
    let (folder, record) = global.find(&arguments.id)?;
    if record.status() == Status::Stopped {
        return Err(anyhow!("container not running").into());
    }
    if arguments.l3_cache_schema.is_some() || arguments.mem_bw_schema.is_some() {
        return Err(anyhow!("Intel RDT is not supported: a guest has no control of the host's cache").into());
    }
    let document = match &arguments.resources {
        Some(path) => read(path)?,
        None => arguments.document()?,
    };
    let mut resources: LinuxResources = serde_json::from_value(document).context("invalid resources")?;
    record.cpu_time.complete(&mut resources);
    let request = proto::UpdateContainerRequest {
        container_id: record.guest_id(),
        resources: MessageField::some(limits::of_update(&resources)?),
        ..Default::default()
    };
    refused(Agent::connect(&folder)?.call(&request)?.failure)?;
    let time = CpuTime::of(Some(&resources));
    if time != CpuTime::default() {
        folder.update(|record| record.cpu_time = time)?;
    }
    // The machine is in the cgroups of the container for which it was made.
    if record.member.is_some() {
        return Ok(0);
    }
    host_cgroup::limits::limit_running(&record.cgroups, &resources)?;
    if let Some(StartedScope { scope, .. }) = &record.scope {
        let properties = host_cgroup::limits::properties(Some(&resources), None);
        let time = host_cgroup::limits::time_property(Some(&resources));
        Systemd::connect()?.set(&Change {
            scope: scope.clone(),
            version_2: host_cgroup::is_version_2(&record.cgroups),
            properties: Properties { time, ..properties },
        })?;
    }
    Ok(0)
}

fn read(path: &Path) -> Result<Value, Failure> {
    let mut text = Vec::new();
    if path == Path::new("-") {
        io::stdin().take(LONGEST).read_to_end(&mut text).context("cannot read stdin")?;
    } else {
        let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(LONGEST)
            .read_to_end(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(serde_json::from_slice(&text).context("cannot parse the resources")?)
}

impl Arguments {
    /// The flags as the document that `--resources` would read.
    fn document(&self) -> Result<Value, Failure> {
        let size = |text: &Option<String>| text.as_deref().map(bytes).transpose();
        let mut document = json!({
            "memory": {
                "limit": size(&self.memory)?,
                "reservation": size(&self.memory_reservation)?,
                "swap": size(&self.memory_swap)?,
            },
            "cpu": {
                "period": self.cpu_period,
                "quota": self.cpu_quota,
                "shares": self.cpu_share,
                "realtimePeriod": self.cpu_rt_period,
                "realtimeRuntime": self.cpu_rt_runtime,
                "cpus": self.cpuset_cpus,
                "mems": self.cpuset_mems,
            },
            "blockIO": { "weight": self.blkio_weight },
        });
        if let Some(limit) = self.pids_limit {
            document["pids"] = json!({ "limit": limit });
        }
        Ok(document)
    }
}

/// A size as runc reads it: a number of bytes, or with one of the suffixes k, m, g and t.
fn bytes(text: &str) -> Result<i64, Failure> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match plain.char_indices().last() {
        Some((end, 'k')) => (plain.get(..end), 10),
        Some((end, 'm')) => (plain.get(..end), 20),
        Some((end, 'g')) => (plain.get(..end), 30),
        Some((end, 't')) => (plain.get(..end), 40),
        _ => (Some(plain), 0),
    };
    let number = digits.and_then(|digits| digits.parse::<i64>().ok());
    let number = number.and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| anyhow!("invalid size {text:?}: say bytes, or a number with k, m, g or t").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_runcs() {
        for (text, expected) in
            [("1024", 1024), ("-1", -1), ("5m", 5 << 20), ("1GiB", 1 << 30), ("2kb", 2048)]
        {
            assert_eq!(bytes(text).ok(), Some(expected), "{text}");
        }
        for bad in ["", "m", "5x", "9999999999999t"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
